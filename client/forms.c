/* forms.c - the JSON of a conversation and of a gap, from texts, for programs without a JSON library. */
#include <json-c/json.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "client/errors.h"
#include "client/mamba2.h"
#include "common/utf8.h"
#include "common/wire.h"

/* A checked string under a key of `object`. */
static enum m2_err add_text(struct json_object *object, const char *key, const char *text,
	size_t bytes, struct m2_why *why)
{
	if (text == NULL && bytes > 0)
		return m2_fail_field(M2_EINVAL, why, key, "%s is missing", key);
	if (bytes > M2_LIMIT_PAYLOAD_BYTES)
		return m2_fail_field(M2_ELIMIT, why, key, "%s has %zu bytes, the limit is %d", key,
			bytes, M2_LIMIT_PAYLOAD_BYTES);
	if (!m2_utf8_valid(text != NULL ? text : "", bytes))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not UTF-8", key);
	struct json_object *value =
		json_object_new_string_len(text != NULL ? text : "", (int)bytes);
	if (value != NULL && object != NULL && json_object_object_add(object, key, value) == 0)
		return M2_OK;
	json_object_put(value);
	return m2_fail(M2_ENOMEM, why, "out of memory");
}

/* The text of what was built, or the error it ended with.  Releases the object. */
static enum mamba2_error give(
	struct json_object *object, enum m2_err err, struct m2_why *why, char **json, size_t *bytes)
{
	size_t length = 0;
	const char *text =
		err == M2_OK
			? json_object_to_json_string_length(object,
				  JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length)
			: NULL;
	if (err == M2_OK && (text == NULL || (*json = malloc(length + 1)) == NULL))
		err = m2_fail(M2_ENOMEM, why, "out of memory");
	if (err == M2_OK) {
		memcpy(*json, text, length + 1);
		*bytes = length;
	}
	json_object_put(object);
	return m2_client_return(err, why);
}

enum mamba2_error mamba2_chat_json(
	const mamba2_chat_message *messages, size_t count, char **json, size_t *bytes)
{
	struct m2_why why = {"", ""};
	struct json_object *array = json_object_new_array();
	enum m2_err err = array != NULL ? M2_OK : m2_fail(M2_ENOMEM, &why, "out of memory");
	*json = NULL;
	*bytes = 0;
	for (size_t i = 0; i < count && err == M2_OK; i++) {
		const mamba2_chat_message *m = &messages[i];
		struct json_object *one = json_object_new_object();
		err = add_text(one, "role", m->role, m->role != NULL ? strlen(m->role) : 1, &why);
		if (err == M2_OK)
			err = add_text(one, "content", m->content, m->content_bytes, &why);
		if (err == M2_OK && json_object_array_add(array, one) != 0)
			err = m2_fail(M2_ENOMEM, &why, "out of memory");
		if (err != M2_OK)
			json_object_put(one);
	}
	return give(array, err, &why, json, bytes);
}

enum mamba2_error mamba2_fill_json(const char *prefix, size_t prefix_bytes, const char *suffix,
	size_t suffix_bytes, char **json, size_t *bytes)
{
	struct m2_why why = {"", ""};
	struct json_object *gap = json_object_new_object();
	*json = NULL;
	*bytes = 0;
	enum m2_err err = add_text(gap, "prefix", prefix, prefix_bytes, &why);
	if (err == M2_OK)
		err = add_text(gap, "suffix", suffix, suffix_bytes, &why);
	return give(gap, err, &why, json, bytes);
}
