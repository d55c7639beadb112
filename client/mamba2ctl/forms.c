/* forms.c - a prompt that is a conversation or a gap: from the options of generate to the JSON of the wire. */
#include <stdlib.h>
#include <string.h>

#include "client/mamba2ctl/ctl.h"
#include "common/limits.h"

/* Which options exclude one another; CTL_OK or CTL_USAGE after a sentence. */
static int check(const struct ctl_forms *f, bool tokens, const char *argument, const char *file)
{
	const bool chat = f->chat != 0 || f->system != NULL;
	if (tokens && (chat || f->messages != NULL || f->suffix != NULL))
		return ctl_say(CTL_USAGE, "--tokens are the whole prompt: no --chat, --messages or "
					  "--suffix with them");
	if (f->suffix != NULL && (chat || f->messages != NULL))
		return ctl_say(CTL_USAGE, "a conversation and --suffix: which of the two?");
	if (f->messages != NULL && (chat || argument != NULL || file != NULL))
		return ctl_say(CTL_USAGE,
			"--messages is the whole conversation: no text, --file, --chat or --system "
			"with it");
	return CTL_OK;
}

/* Replace the text by JSON made of it. */
static enum mamba2_error wrap(const struct ctl_forms *f, struct ctl_form_prompt *p)
{
	char *json = NULL;
	size_t bytes = 0;
	enum mamba2_error error;
	if (p->form == MAMBA2_FORM_FILL) {
		error = mamba2_fill_json(
			p->text, p->bytes, f->suffix, strlen(f->suffix), &json, &bytes);
	} else {
		const mamba2_chat_message messages[2] = {
			{"system", f->system, f->system != NULL ? strlen(f->system) : 0},
			{"user", p->text, p->bytes}};
		const size_t first = f->system != NULL ? 0 : 1;
		error = mamba2_chat_json(messages + first, 2 - first, &json, &bytes);
	}
	free(p->text);
	p->text = json;
	p->bytes = bytes;
	return error;
}

int ctl_form_prompt(const struct ctl_forms *f, bool tokens, const char *argument, const char *file,
	struct ctl_form_prompt *out)
{
	*out = (struct ctl_form_prompt){.form = MAMBA2_FORM_TEXT};
	const int status = check(f, tokens, argument, file);
	if (status != CTL_OK || tokens)
		return status;
	if (f->messages != NULL) {
		out->form = MAMBA2_FORM_CHAT;
		out->text = ctl_read_file(f->messages, M2_LIMIT_PAYLOAD_BYTES, &out->bytes);
		return out->text != NULL ? CTL_OK : CTL_FAILED;
	}
	out->text = ctl_prompt(argument, file, &out->bytes);
	if (out->text == NULL)
		return argument != NULL && file != NULL ? CTL_USAGE : CTL_FAILED;
	if (f->suffix != NULL)
		out->form = MAMBA2_FORM_FILL;
	else if (f->chat != 0 || f->system != NULL)
		out->form = MAMBA2_FORM_CHAT;
	if (out->form == MAMBA2_FORM_TEXT)
		return CTL_OK;
	const enum mamba2_error error = wrap(f, out);
	return error == MAMBA2_OK ? CTL_OK
				  : ctl_say(CTL_FAILED, "%s (%s)", mamba2_message(NULL),
					    mamba2_error_code(error));
}
