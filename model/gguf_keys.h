/* gguf_keys.h - the keys of a GGUF file: read, checked, and asked for by name and type.
 *
 * Internal to the room.  Source: the format's description in the ggml repository, docs/gguf.md.
 * Immutable once read; any thread may ask.
 */
#ifndef M2_MODEL_GGUF_KEYS_H
#define M2_MODEL_GGUF_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/gguf.h"
#include "model/gguf_bytes.h"

/* The types of values, by the format's numbers. */
enum m2_gguf_type {
	M2_GGUF_U8,
	M2_GGUF_I8,
	M2_GGUF_U16,
	M2_GGUF_I16,
	M2_GGUF_U32,
	M2_GGUF_I32,
	M2_GGUF_F32,
	M2_GGUF_BOOL,
	M2_GGUF_STRING,
	M2_GGUF_ARRAY,
	M2_GGUF_U64,
	M2_GGUF_I64,
	M2_GGUF_F64,
	M2_GGUF_TYPES
};

struct m2_gguf_key {
	size_t name; /* offset in m2_gguf.data, not NUL-terminated */
	size_t name_length;
	enum m2_gguf_type type;
	enum m2_gguf_type element; /* of an array */
	uint64_t count;            /* elements of an array, bytes of a string */
	size_t value;              /* offset of the first byte of the (first) value */
};

struct m2_gguf {
	char *what;               /* the file's name, for sentences */
	unsigned char *data;      /* the header; owned */
	struct m2_gguf_key *keys; /* [n_keys], sorted by name, names unique */
	size_t n_keys;
	int64_t norm_rows; /* rows of the ssm_norm tensors; 0: there is none, -1: they differ */
};

/* Take n_keys keys from bytes into gguf->keys, whose offsets refer to bytes->data. */
enum m2_err m2_gguf_keys_read(
	struct m2_gguf *gguf, struct m2_gguf_bytes *bytes, uint64_t n_keys, struct m2_why *why);

/* NULL: no such key. */
const struct m2_gguf_key *m2_gguf_find(const struct m2_gguf *gguf, const char *name);

/* Each leaves *out alone and *found (which may be NULL) false where there is no such key.  Another type
 * of value, or a value outside the bounds: EINVAL naming the key. */
enum m2_err m2_gguf_get_int(const struct m2_gguf *gguf, const char *name, int64_t min, int64_t max,
	int64_t *out, bool *found, struct m2_why *why);
enum m2_err m2_gguf_get_number(
	const struct m2_gguf *gguf, const char *name, double *out, bool *found, struct m2_why *why);
enum m2_err m2_gguf_get_bool(
	const struct m2_gguf *gguf, const char *name, bool *out, bool *found, struct m2_why *why);
/* *text is not NUL-terminated; valid UTF-8. */
enum m2_err m2_gguf_get_string(const struct m2_gguf *gguf, const char *name, const char **text,
	size_t *length, bool *found, struct m2_why *why);

/* An array: *out NULL where there is no such key. */
enum m2_err m2_gguf_get_array(const struct m2_gguf *gguf, const char *name,
	const struct m2_gguf_key **out, struct m2_why *why);
bool m2_gguf_is_integer(enum m2_gguf_type type);
/* Element i < count of an array of integers; a u64 beyond int64_t gives INT64_MAX. */
int64_t m2_gguf_element_int(const struct m2_gguf *gguf, const struct m2_gguf_key *key, uint64_t i);
/* Of an array of f32. */
float m2_gguf_element_f32(const struct m2_gguf *gguf, const struct m2_gguf_key *key, uint64_t i);

/* Walking an array of strings: begin with *at = key->value, once per element. */
void m2_gguf_next_string(const struct m2_gguf *gguf, size_t *at, const char **text, size_t *length);

#endif
