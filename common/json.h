/* json.h - strict reading of JSON that came from outside, on top of json-c.
 *
 * json-c reads what checkpoints contain (a bare Infinity among it) but keeps the last of two equal
 * keys silently and trusts depth to its own limit; this room adds what a hostile file needs:
 * a size and depth limit, refusal of duplicate keys, of invalid UTF-8, of NUL and of anything after
 * the value, and typed getters that refuse wrong types, fractions where an integer is asked for and
 * numbers out of range, naming the key.  Values are json_object *, owned by the caller: put() them.
 *
 * Threads: no shared state.  Nothing blocks.
 */
#ifndef M2_COMMON_JSON_H
#define M2_COMMON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "common/err.h"

/* Parse exactly one value from text[0..length).  max_depth counts nested arrays and objects.
 * what: what is being read ("config.json"), for the sentence.  Errors: EFORMAT, ENOMEM. */
enum m2_err m2_json_parse(const char *text, size_t length, int max_depth, const char *what,
	struct json_object **out, struct m2_why *why);

/* Getters.  `key` absent or null: *found = false, *out untouched, M2_OK.  A wrong type or a value
 * outside [min, max]: M2_EINVAL and a sentence with the key.  `found` may be NULL. */
enum m2_err m2_json_get_int(struct json_object *object, const char *key, int64_t min, int64_t max,
	int64_t *out, bool *found, struct m2_why *why);
enum m2_err m2_json_get_double(struct json_object *object, const char *key, double min, double max,
	double *out, bool *found, struct m2_why *why);
enum m2_err m2_json_get_bool(
	struct json_object *object, const char *key, bool *out, bool *found, struct m2_why *why);
/* *out points into the object and lives as long as it; *length excludes the NUL; no NUL inside. */
enum m2_err m2_json_get_string(struct json_object *object, const char *key, size_t max_bytes,
	const char **out, size_t *length, bool *found, struct m2_why *why);
/* The array or object under key, borrowed; NULL with *found = false when absent. */
enum m2_err m2_json_get_array(struct json_object *object, const char *key, size_t max_items,
	struct json_object **out, bool *found, struct m2_why *why);
enum m2_err m2_json_get_object(struct json_object *object, const char *key,
	struct json_object **out, bool *found, struct m2_why *why);

/* The value itself as integer or number (integers given as 2.0 are accepted; Infinity and the
 * transformers spelling {"__float__": "Infinity"} are accepted as doubles). */
bool m2_json_as_int(struct json_object *value, int64_t *out);
bool m2_json_as_double(struct json_object *value, double *out);

/* M2_EINVAL naming the first key of `object` that is not in the NULL-terminated list. */
enum m2_err m2_json_refuse_unknown(
	struct json_object *object, const char *const *known, struct m2_why *why);

#endif
