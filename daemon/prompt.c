/* prompt.c - see prompt.h. */
#include "daemon/prompt.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/limits.h"
#include "model/template.h"

enum { DEPTH = 2, FIELD_BYTES = 40 };

/* Values that the JSON can hold at most, from its text alone: json-c takes a kilobyte for "{}", so that a
 * payload of nothing else would become a gigabyte before anyone counts its messages. */
static bool few_values(const char *json, size_t length, size_t most)
{
	size_t values = 0;
	bool in_string = false;
	for (size_t i = 0; i < length && values <= most; i++) {
		if (in_string && json[i] == '\\')
			i++;
		else if (json[i] == '"')
			in_string = !in_string;
		else if (!in_string)
			values += json[i] == '{' || json[i] == '[' || json[i] == ',';
	}
	return values <= most;
}

/* The string under key of an object; field is what a sentence calls it. */
static enum m2_err take_string(struct json_object *object, const char *key, const char *field,
	const char **text, size_t *length, struct m2_why *why)
{
	struct json_object *value = NULL;
	if (!json_object_object_get_ex(object, key, &value))
		return m2_fail_field(M2_EINVAL, why, field, "%s is missing", field);
	if (!json_object_is_type(value, json_type_string))
		return m2_fail_field(M2_EINVAL, why, field, "%s is not a string", field);
	*text = json_object_get_string(value);
	*length = (size_t)json_object_get_string_len(value);
	return M2_OK;
}

static enum m2_err take_role(const char *text, size_t length, const char *field,
	enum m2_turn_role *role, struct m2_why *why)
{
	static const char *const names[] = {[M2_TURN_SYSTEM] = "system",
		[M2_TURN_USER] = "user",
		[M2_TURN_ASSISTANT] = "assistant"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strlen(names[i]) == length && memcmp(text, names[i], length) == 0) {
			*role = (enum m2_turn_role)i;
			return M2_OK;
		}
	return m2_fail_field(
		M2_EINVAL, why, field, "%s is none of system, user and assistant", field);
}

static enum m2_err take_turn(
	struct json_object *message, size_t index, struct m2_turn *turn, struct m2_why *why)
{
	char at[FIELD_BYTES];
	char field[FIELD_BYTES + 16];
	const char *role = NULL;
	size_t role_length = 0;
	(void)snprintf(at, sizeof at, "messages[%zu]", index);
	if (!json_object_is_type(message, json_type_object))
		return m2_fail_field(M2_EINVAL, why, at, "%s is not an object", at);
	(void)snprintf(field, sizeof field, "%s.role", at);
	enum m2_err err = take_string(message, "role", field, &role, &role_length, why);
	if (err == M2_OK)
		err = take_role(role, role_length, field, &turn->role, why);
	if (err != M2_OK)
		return err;
	(void)snprintf(field, sizeof field, "%s.content", at);
	err = take_string(message, "content", field, &turn->text, &turn->length, why);
	if (err == M2_OK && json_object_object_length(message) != 2)
		return m2_fail_field(
			M2_EINVAL, why, at, "%s has members other than role and content", at);
	return err;
}

static enum m2_err encode_chat(struct json_object *messages, const struct m2_tokenizer *tokenizer,
	size_t max_ids, int32_t **ids, size_t *count, struct m2_why *why)
{
	if (!json_object_is_type(messages, json_type_array))
		return m2_fail_field(
			M2_EINVAL, why, "messages", "the payload is not an array of messages");
	const size_t n = json_object_array_length(messages);
	if (n > M2_LIMIT_PROMPT_TURNS)
		return m2_fail_field(M2_ELIMIT, why, "messages",
			"%zu messages, more than %d (limit PROMPT_TURNS)", n,
			M2_LIMIT_PROMPT_TURNS);
	struct m2_turn *turns = calloc(n + 1, sizeof *turns);
	if (turns == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %zu messages", n);
	enum m2_err err = M2_OK;
	for (size_t i = 0; i < n && err == M2_OK; i++)
		err = take_turn(json_object_array_get_idx(messages, i), i, &turns[i], why);
	if (err == M2_OK)
		err = m2_template_chat(tokenizer, turns, n, max_ids, ids, count, why);
	free(turns);
	return err;
}

static enum m2_err encode_fill(struct json_object *gap, const struct m2_tokenizer *tokenizer,
	size_t max_ids, int32_t **ids, size_t *count, struct m2_why *why)
{
	const char *prefix = NULL;
	const char *suffix = NULL;
	size_t prefix_length = 0;
	size_t suffix_length = 0;
	if (!json_object_is_type(gap, json_type_object))
		return m2_fail_field(M2_EINVAL, why, "payload",
			"the payload is not an object of prefix and suffix");
	enum m2_err err = take_string(gap, "prefix", "prefix", &prefix, &prefix_length, why);
	if (err == M2_OK)
		err = take_string(gap, "suffix", "suffix", &suffix, &suffix_length, why);
	if (err != M2_OK)
		return err;
	if (json_object_object_length(gap) != 2)
		return m2_fail_field(M2_EINVAL, why, "payload",
			"the payload has members other than prefix and suffix");
	return m2_template_fill(
		tokenizer, prefix, prefix_length, suffix, suffix_length, max_ids, ids, count, why);
}

static enum m2_err parse(
	const char *json, size_t length, bool chat, struct json_object **value, struct m2_why *why)
{
	/* a message adds a brace, a comma inside and one before it */
	if (chat && !few_values(json, length, 3 * (size_t)M2_LIMIT_PROMPT_TURNS))
		return m2_fail_field(M2_ELIMIT, why, "messages",
			"more than %d messages (limit PROMPT_TURNS), or other members in them",
			M2_LIMIT_PROMPT_TURNS);
	if (!chat && !few_values(json, length, 2))
		return m2_fail_field(M2_EINVAL, why, "payload",
			"the payload is not an object of prefix and suffix");
	const enum m2_err err = m2_json_parse(json, length, DEPTH, "the payload", value, why);
	return err == M2_EFORMAT ? M2_EINVAL : err; /* a client's, not a file's */
}

enum m2_err m2_prompt_encode(const char *json, size_t length, enum m2_prompt_form form,
	const struct m2_tokenizer *tokenizer, const char *name, size_t max_ids, int32_t **ids,
	size_t *count, struct m2_why *why)
{
	struct json_object *value = NULL;
	struct m2_why reason = {.text = ""};
	const bool chat = form == M2_PROMPT_CHAT;
	if (m2_template_name(tokenizer) == NULL)
		return m2_fail_field(M2_EUNSUPPORTED, why, "input",
			"%s has a tokenizer without a template (%s): it takes text and token ids, "
			"not \"%s\"",
			name, m2_tokenizer_kind(tokenizer), chat ? "chat" : "fill");
	enum m2_err err = parse(json, length, chat, &value, &reason);
	const char *whole = err == M2_OK && chat ? "messages" : "payload";
	if (err == M2_OK)
		err = chat ? encode_chat(value, tokenizer, max_ids, ids, count, &reason)
			   : encode_fill(value, tokenizer, max_ids, ids, count, &reason);
	json_object_put(value);
	if (err != M2_OK) /* the rooms below do not know what the parts are called here */
		(void)m2_fail_field(err, why, reason.field[0] != '\0' ? reason.field : whole, "%s",
			reason.text);
	return err;
}
