/* tokens.c - tokenize and detokenize. */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "client/mamba2ctl/ctl.h"

static struct {
	const char *file;
	int special;
} text_options;
const struct ctl_option ctl_tokenize_options[] = {
	{"file", 'f', CTL_TEXT, "FILE", &text_options.file,
		"read the text from a file (- for stdin)"},
	{"special", 0, CTL_FLAG, NULL, &text_options.special,
		"special tokens written in the text become their ids"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

static void print_ids(const struct ctl *ctl, const int32_t *ids, size_t count)
{
	if (ctl->json != 0)
		(void)fputs("{\"tokens\":[", stdout);
	for (size_t i = 0; i < count; i++)
		(void)printf("%s%d", i > 0 ? "," : "", ids[i]);
	(void)puts(ctl->json != 0 ? "]}" : "");
}

int ctl_run_tokenize(struct ctl *ctl, int argc, char **argv)
{
	size_t bytes = 0;
	size_t count = 0;
	int32_t *ids = NULL;
	int status = ctl_connect(ctl, false, -1);
	char *text = status != CTL_OK
			     ? NULL
			     : ctl_prompt(argc > 1 ? argv[1] : NULL, text_options.file, &bytes);
	if (text == NULL)
		return status != CTL_OK ? status : CTL_FAILED;
	const enum mamba2_error error =
		mamba2_tokenize(ctl->m, argv[0], text, bytes, text_options.special, &ids, &count);
	if (error != MAMBA2_OK)
		status = ctl_fail(ctl, error);
	else
		print_ids(ctl, ids, count);
	mamba2_free(ids);
	free(text);
	return status;
}

static struct ctl_ids given;
const struct ctl_option ctl_detokenize_options[] = {
	{"tokens", 't', CTL_IDS, "1,2,3", &given, "the ids"},
	{NULL, 0, CTL_FLAG, NULL, NULL, NULL}};

int ctl_run_detokenize(struct ctl *ctl, int argc, char **argv)
{
	char *text = NULL;
	size_t bytes = 0;
	(void)argc;
	if (given.id == NULL)
		return ctl_say(CTL_USAGE, "detokenize wants --tokens 1,2,3");
	int status = ctl_connect(ctl, false, -1);
	if (status != CTL_OK)
		return status;
	const enum mamba2_error error =
		mamba2_detokenize(ctl->m, argv[0], given.id, given.count, &text, &bytes);
	if (error != MAMBA2_OK) {
		status = ctl_fail(ctl, error);
	} else if (ctl->json != 0) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "text", json_object_new_string_len(text, (int)bytes));
		ctl_print_json(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
		json_object_put(o);
	} else {
		ctl_put(text, bytes);
		(void)putchar('\n');
	}
	mamba2_free(text);
	return status;
}
