/* template.c - Mistral's v3 template: instruct turns and fill-in-the-middle, put together as ids.
 *
 * The rules are those of mistral-common (InstructTokenizerV3 and its encode_fim; semantics report, 6.3):
 *
 *	<s>  then per turn  [INST] user [/INST]  or  assistant </s>
 *	<s> [SUFFIX] suffix [PREFIX] prefix
 *
 * A system text has no token of its own: it goes in front of the last user text.  Every text is encoded by
 * itself, as plain text and without the file's own BOS, so that nothing in it becomes a control token and
 * nothing merges across a boundary.
 *
 * What this file does not do: tools and images, which no Mamba-2 checkpoint was trained on.
 */
#include "model/template.h"

#include <stdlib.h>
#include <string.h>

#include "common/num.h"

struct controls {
	int32_t bos, eos, inst, end_inst, prefix, suffix;
};

static int32_t special(const struct m2_tokenizer *tokenizer, const char *text)
{
	return m2_tokenizer_special(tokenizer, text, strlen(text));
}

static bool find_controls(const struct m2_tokenizer *tokenizer, struct controls *out)
{
	/* v7 brought a token for the system text, and other rules with it */
	if (special(tokenizer, "[SYSTEM_PROMPT]") >= 0)
		return false;
	*out = (struct controls){.bos = special(tokenizer, "<s>"),
		.eos = special(tokenizer, "</s>"),
		.inst = special(tokenizer, "[INST]"),
		.end_inst = special(tokenizer, "[/INST]"),
		.prefix = special(tokenizer, "[PREFIX]"),
		.suffix = special(tokenizer, "[SUFFIX]")};
	return out->bos >= 0 && out->eos >= 0 && out->inst >= 0 && out->end_inst >= 0 &&
	       out->prefix >= 0 && out->suffix >= 0;
}

const char *m2_template_name(const struct m2_tokenizer *tokenizer)
{
	struct controls controls;
	return find_controls(tokenizer, &controls) ? "mistral-v3 instruct and fill-in-the-middle"
						   : NULL;
}

static enum m2_err no_template(struct m2_why *why)
{
	return m2_fail(M2_EUNSUPPORTED, why,
		"the tokenizer has no template: it lacks the control tokens of one");
}

/* ---- a growing list of ids --------------------------------------------------------------------- */

struct list {
	const struct m2_tokenizer *tokenizer;
	struct m2_why *why;
	int32_t *ids;
	size_t count;
	size_t room;
	size_t max;
};

static enum m2_err append(struct list *list, const int32_t *ids, size_t count)
{
	size_t needed;
	if (!m2_add_size(list->count, count, &needed) || needed > list->max)
		return m2_fail(
			M2_ELIMIT, list->why, "the prompt has more than %zu tokens", list->max);
	if (needed > list->room || list->ids == NULL) {
		size_t bytes;
		const size_t room = needed + needed / 2 + 16;
		int32_t *more =
			m2_mul_size(room, sizeof *more, &bytes) ? realloc(list->ids, bytes) : NULL;
		if (more == NULL)
			return m2_fail(M2_ENOMEM, list->why, "no memory for %zu tokens", needed);
		list->ids = more;
		list->room = room;
	}
	if (count > 0)
		memcpy(list->ids + list->count, ids, count * sizeof *ids);
	list->count = needed;
	return M2_OK;
}

static enum m2_err append_text(struct list *list, const char *text, size_t length)
{
	int32_t *ids = NULL;
	size_t count = 0;
	enum m2_err err = m2_tokenizer_encode(
		list->tokenizer, text, length, 0, list->max, &ids, &count, list->why);
	if (err == M2_OK)
		err = append(list, ids, count);
	free(ids);
	return err;
}

/* What was built becomes the caller's, or is freed. */
static enum m2_err hand_over(struct list *list, enum m2_err err, int32_t **ids, size_t *count)
{
	if (err != M2_OK) {
		free(list->ids);
		return err;
	}
	*ids = list->ids;
	*count = list->count;
	return M2_OK;
}

/* ---- instruct ---------------------------------------------------------------------------------- */

static enum m2_err check_order(const struct m2_turn *turns, size_t n_turns, struct m2_why *why)
{
	static const char *const names[] = {"system", "user", "assistant"};
	const size_t first = n_turns > 0 && turns[0].role == M2_TURN_SYSTEM ? 1 : 0;
	if (n_turns == first)
		return m2_fail(M2_EINVAL, why, "a conversation has a user's turn");
	for (size_t i = first; i < n_turns; i++) {
		const enum m2_turn_role wanted =
			(i - first) % 2 == 0 ? M2_TURN_USER : M2_TURN_ASSISTANT;
		if (turns[i].role != wanted)
			return m2_fail(M2_EINVAL, why,
				"turn %zu is the %s's where the %s's is due: after an optional "
				"system turn, user and assistant alternate",
				i, names[turns[i].role], names[wanted]);
	}
	if (turns[n_turns - 1].role != M2_TURN_USER)
		return m2_fail(M2_EINVAL, why,
			"turn %zu is the assistant's: the last is the user's", n_turns - 1);
	return M2_OK;
}

/* The system text and the last user text are one text, because the reference encodes them as one. */
static enum m2_err append_joined(
	struct list *list, const struct m2_turn *system, const struct m2_turn *user)
{
	static const char between[] = "\n\n";
	size_t length;
	if (!m2_add_size(system->length, user->length, &length) ||
		!m2_add_size(length, sizeof between - 1, &length))
		return m2_fail(M2_ELIMIT, list->why, "the system text is too long");
	char *text = malloc(length);
	if (text == NULL)
		return m2_fail(M2_ENOMEM, list->why, "no memory for %zu bytes of text", length);
	memcpy(text, system->text, system->length);
	memcpy(text + system->length, between, sizeof between - 1);
	if (user->length > 0)
		memcpy(text + system->length + sizeof between - 1, user->text, user->length);
	const enum m2_err err = append_text(list, text, length);
	free(text);
	return err;
}

static enum m2_err append_user(struct list *list, const struct controls *c,
	const struct m2_turn *system, const struct m2_turn *user)
{
	enum m2_err err = append(list, &c->inst, 1);
	if (err == M2_OK)
		err = system != NULL ? append_joined(list, system, user)
				     : append_text(list, user->text, user->length);
	return err == M2_OK ? append(list, &c->end_inst, 1) : err;
}

static enum m2_err append_assistant(
	struct list *list, const struct controls *c, const struct m2_turn *turn)
{
	size_t length = turn->length;
	while (length > 0 && turn->text[length - 1] == ' ') /* as the reference does */
		length--;
	const enum m2_err err = append_text(list, turn->text, length);
	return err == M2_OK ? append(list, &c->eos, 1) : err;
}

enum m2_err m2_template_chat(const struct m2_tokenizer *tokenizer, const struct m2_turn *turns,
	size_t n_turns, size_t max_ids, int32_t **ids, size_t *count, struct m2_why *why)
{
	struct list list = {.tokenizer = tokenizer, .why = why, .max = max_ids};
	struct controls c;
	if (!find_controls(tokenizer, &c))
		return no_template(why);
	enum m2_err err = check_order(turns, n_turns, why);
	if (err != M2_OK)
		return err;
	/* an empty system text is none: no blank lines for it */
	const bool has_system = turns[0].role == M2_TURN_SYSTEM && turns[0].length > 0;
	err = append(&list, &c.bos, 1);
	for (size_t i = 0; i < n_turns && err == M2_OK; i++) {
		if (turns[i].role == M2_TURN_USER)
			err = append_user(&list, &c,
				has_system && i == n_turns - 1 ? &turns[0] : NULL, &turns[i]);
		else if (turns[i].role == M2_TURN_ASSISTANT)
			err = append_assistant(&list, &c, &turns[i]);
	}
	return hand_over(&list, err, ids, count);
}

/* ---- fill-in-the-middle ------------------------------------------------------------------------ */

/* Encoding puts a space in front of a text.  The suffix follows the gap, where none may be; the reference
 * therefore encodes it behind a character that merges with nothing, and drops what that one gives. */
static enum m2_err append_suffix(struct list *list, const char *suffix, size_t length)
{
	static const char marker[] = "\xe2\x98\xba"; /* U+263A */
	int32_t *lead = NULL;
	int32_t *ids = NULL;
	size_t n_lead = 0;
	size_t count = 0;
	size_t bytes;
	size_t most;
	if (!m2_add_size(length, sizeof marker - 1, &bytes))
		return m2_fail(M2_ELIMIT, list->why, "the suffix is too long");
	char *text = malloc(bytes);
	if (text == NULL)
		return m2_fail(M2_ENOMEM, list->why, "no memory for %zu bytes of text", bytes);
	memcpy(text, marker, sizeof marker - 1);
	if (length > 0)
		memcpy(text + sizeof marker - 1, suffix, length);
	enum m2_err err = m2_tokenizer_encode(list->tokenizer, marker, sizeof marker - 1, 0,
		sizeof marker, &lead, &n_lead, list->why);
	if (err == M2_OK) {
		if (!m2_add_size(list->max, n_lead, &most))
			most = list->max;
		err = m2_tokenizer_encode(
			list->tokenizer, text, bytes, 0, most, &ids, &count, list->why);
	}
	/* two ids in Mistral's vocabulary; another one might break its suffixes apart elsewhere */
	if (err == M2_OK && (count < n_lead || memcmp(ids, lead, n_lead * sizeof *ids) != 0))
		err = m2_fail(M2_EUNSUPPORTED, list->why,
			"the tokenizer merges U+263A with what follows: a suffix cannot be set "
			"off");
	if (err == M2_OK)
		err = append(list, ids + n_lead, count - n_lead);
	free(text);
	free(lead);
	free(ids);
	return err;
}

enum m2_err m2_template_fill(const struct m2_tokenizer *tokenizer, const char *prefix,
	size_t prefix_length, const char *suffix, size_t suffix_length, size_t max_ids,
	int32_t **ids, size_t *count, struct m2_why *why)
{
	struct list list = {.tokenizer = tokenizer, .why = why, .max = max_ids};
	struct controls c;
	if (!find_controls(tokenizer, &c))
		return no_template(why);
	enum m2_err err = append(&list, &c.bos, 1);
	if (err == M2_OK)
		err = append(&list, &c.suffix, 1);
	if (err == M2_OK)
		err = append_suffix(&list, suffix, suffix_length);
	if (err == M2_OK)
		err = append(&list, &c.prefix, 1);
	if (err == M2_OK)
		err = append_text(&list, prefix, prefix_length);
	return hand_over(&list, err, ids, count);
}
