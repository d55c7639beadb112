/* gguf_keys.c - keys and values: every length is checked against the bytes that are there before it is
 * believed, so that reading costs no more than the file has.
 *
 * Values of keys that nobody asks for are checked for their extent alone.
 */
#include "model/gguf_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

enum { MAX_KEYS = 65536, MAX_NAME = 65535 };

/* Bytes of one value; 0: it says so itself. */
static const unsigned char sizes[M2_GGUF_TYPES] = {
	[M2_GGUF_U8] = 1,
	[M2_GGUF_I8] = 1,
	[M2_GGUF_U16] = 2,
	[M2_GGUF_I16] = 2,
	[M2_GGUF_U32] = 4,
	[M2_GGUF_I32] = 4,
	[M2_GGUF_F32] = 4,
	[M2_GGUF_BOOL] = 1,
	[M2_GGUF_U64] = 8,
	[M2_GGUF_I64] = 8,
	[M2_GGUF_F64] = 8,
};

static const char *const type_names[M2_GGUF_TYPES] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32",
	"bool", "string", "array", "u64", "i64", "f64"};

/* ---- reading ---- */

static enum m2_err take_type(struct m2_gguf_bytes *b, const char *noun, enum m2_gguf_type *out)
{
	uint32_t type = 0;
	const enum m2_err err = m2_gguf_bytes_u32(b, &type);
	if (err == M2_OK && type >= M2_GGUF_TYPES)
		return m2_fail(M2_EFORMAT, b->why, "%s: byte %zu: %u is no type of %s", b->what,
			b->at - 4, type, noun);
	*out = (enum m2_gguf_type)type;
	return err;
}

static enum m2_err take_name(struct m2_gguf_bytes *b, struct m2_gguf_key *key)
{
	const enum m2_err err =
		m2_gguf_bytes_string(b, MAX_NAME, "a key's name", &key->name, &key->name_length);
	if (err != M2_OK)
		return err;
	const char *name = (const char *)b->data + key->name;
	bool good = key->name_length > 0 && m2_utf8_valid(name, key->name_length);
	for (size_t i = 0; i < key->name_length && good; i++)
		good = (unsigned char)name[i] >= ' ' && name[i] != 0x7f;
	if (!good)
		return m2_fail(M2_EFORMAT, b->why,
			"%s: the name of the key at byte %zu is empty, not UTF-8, or has a control "
			"character",
			b->what, key->name);
	return M2_OK;
}

/* The values of an array, passed over. */
static enum m2_err take_elements(struct m2_gguf_bytes *b, const struct m2_gguf_key *key)
{
	uint64_t bytes = 0;
	if (key->element == M2_GGUF_ARRAY)
		return m2_fail(
			M2_EFORMAT, b->why, "%s: byte %zu: an array of arrays", b->what, b->at);
	/* a string has its length of 8 bytes at least */
	const uint64_t least = sizes[key->element] != 0 ? sizes[key->element] : 8;
	if (__builtin_mul_overflow(key->count, least, &bytes))
		return m2_fail(M2_EFORMAT, b->why,
			"%s: byte %zu: the size of an array of %llu values overflows", b->what,
			b->at, (unsigned long long)key->count);
	enum m2_err err = m2_gguf_bytes_need(b, bytes);
	if (err != M2_OK)
		return err;
	if (key->element != M2_GGUF_STRING) {
		b->at += (size_t)bytes;
		return M2_OK;
	}
	for (uint64_t i = 0; i < key->count && err == M2_OK; i++) {
		size_t at;
		size_t length;
		err = m2_gguf_bytes_string(b, M2_GGUF_MAX_HEADER, "a string", &at, &length);
	}
	return err;
}

static enum m2_err take_value(struct m2_gguf_bytes *b, struct m2_gguf_key *key)
{
	enum m2_err err = take_type(b, "a value", &key->type);
	if (err != M2_OK)
		return err;
	key->value = b->at;
	if (key->type == M2_GGUF_STRING) {
		size_t length = 0;
		err = m2_gguf_bytes_string(b, M2_GGUF_MAX_HEADER, "a string", &key->value, &length);
		key->count = length;
	} else if (key->type == M2_GGUF_ARRAY) {
		err = take_type(b, "an array's values", &key->element);
		if (err == M2_OK)
			err = m2_gguf_bytes_u64(b, &key->count);
		key->value = b->at;
		if (err == M2_OK)
			err = take_elements(b, key);
	} else {
		err = m2_gguf_bytes_need(b, sizes[key->type]);
		if (err == M2_OK && key->type == M2_GGUF_BOOL && b->data[b->at] > 1)
			err = m2_fail(M2_EFORMAT, b->why, "%s: byte %zu: a bool of %u", b->what,
				b->at, b->data[b->at]);
		b->at += err == M2_OK ? sizes[key->type] : 0;
	}
	return err;
}

static int compare(
	const unsigned char *data, const struct m2_gguf_key *key, const char *name, size_t length)
{
	const size_t shorter = key->name_length < length ? key->name_length : length;
	const int order = memcmp(data + key->name, name, shorter);
	if (order != 0)
		return order;
	return key->name_length < length ? -1 : key->name_length > length;
}

static int by_name(const void *a, const void *b, void *data)
{
	const struct m2_gguf_key *y = b;
	return compare(data, a, (const char *)data + y->name, y->name_length);
}

static enum m2_err sort_keys(struct m2_gguf *g, unsigned char *data, struct m2_why *why)
{
	if (g->n_keys > 0)
		qsort_r(g->keys, g->n_keys, sizeof *g->keys, by_name, data);
	for (size_t i = 1; i < g->n_keys; i++)
		if (by_name(&g->keys[i - 1], &g->keys[i], data) == 0)
			return m2_fail(M2_EFORMAT, why, "%s: the key %.*s is there twice", g->what,
				g->keys[i].name_length < 200 ? (int)g->keys[i].name_length : 200,
				(const char *)data + g->keys[i].name);
	return M2_OK;
}

enum m2_err m2_gguf_keys_read(
	struct m2_gguf *g, struct m2_gguf_bytes *b, uint64_t n_keys, struct m2_why *why)
{
	size_t cap = 0;
	if (n_keys > MAX_KEYS)
		return m2_fail(M2_ELIMIT, why, "%s: %llu keys, more than %d", g->what,
			(unsigned long long)n_keys, MAX_KEYS);
	while (g->n_keys < n_keys) {
		struct m2_gguf_key key = {.name = 0};
		enum m2_err err = take_name(b, &key);
		if (err == M2_OK)
			err = take_value(b, &key);
		if (err != M2_OK)
			return err;
		/* the count is a claim: memory follows what was really read */
		if (g->n_keys == cap) {
			cap = cap == 0 ? 64 : cap * 2;
			struct m2_gguf_key *grown = realloc(g->keys, cap * sizeof *grown);
			if (grown == NULL)
				return m2_fail(M2_ENOMEM, why, "%s: out of memory", g->what);
			g->keys = grown;
		}
		g->keys[g->n_keys++] = key;
	}
	return sort_keys(g, b->data, why);
}

/* ---- asking ---- */

const struct m2_gguf_key *m2_gguf_find(const struct m2_gguf *g, const char *name)
{
	const size_t length = strlen(name);
	size_t lo = 0;
	size_t hi = g->n_keys;
	while (lo < hi) {
		const size_t middle = lo + (hi - lo) / 2;
		const int order = compare(g->data, &g->keys[middle], name, length);
		if (order == 0)
			return &g->keys[middle];
		if (order < 0)
			lo = middle + 1;
		else
			hi = middle;
	}
	return NULL;
}

static enum m2_err wrong_type(const struct m2_gguf *g, const char *name,
	const struct m2_gguf_key *key, const char *wanted, struct m2_why *why)
{
	return m2_fail_field(M2_EINVAL, why, name, "%s: %s is of type %s%s%s, not %s", g->what,
		name, type_names[key->type], key->type == M2_GGUF_ARRAY ? " of " : "",
		key->type == M2_GGUF_ARRAY ? type_names[key->element] : "", wanted);
}

bool m2_gguf_is_integer(enum m2_gguf_type type)
{
	return sizes[type] != 0 && type != M2_GGUF_F32 && type != M2_GGUF_F64 &&
	       type != M2_GGUF_BOOL;
}

static int64_t integer_at(const unsigned char *p, enum m2_gguf_type type)
{
	uint64_t u = 0;
	for (unsigned i = sizes[type]; i > 0; i--)
		u = u << 8 | p[i - 1];
	switch (type) {
	case M2_GGUF_I8:
		return (int8_t)u;
	case M2_GGUF_I16:
		return (int16_t)u;
	case M2_GGUF_I32:
		return (int32_t)u;
	case M2_GGUF_I64:
		return (int64_t)u;
	default:
		return u > INT64_MAX ? INT64_MAX : (int64_t)u;
	}
}

static double number_at(const unsigned char *p, enum m2_gguf_type type)
{
	if (type == M2_GGUF_F32) {
		const uint32_t bits = m2_gguf_u32(p);
		float x;
		memcpy(&x, &bits, sizeof x);
		return (double)x;
	}
	if (type == M2_GGUF_F64) {
		const uint64_t bits = m2_gguf_u64(p);
		double x;
		memcpy(&x, &bits, sizeof x);
		return x;
	}
	return (double)integer_at(p, type);
}

/* The key, or NULL with *found false. */
static const struct m2_gguf_key *ask(const struct m2_gguf *g, const char *name, bool *found)
{
	const struct m2_gguf_key *key = m2_gguf_find(g, name);
	if (found != NULL)
		*found = key != NULL;
	return key;
}

enum m2_err m2_gguf_get_int(const struct m2_gguf *g, const char *name, int64_t min, int64_t max,
	int64_t *out, bool *found, struct m2_why *why)
{
	const struct m2_gguf_key *key = ask(g, name, found);
	if (key == NULL)
		return M2_OK;
	if (!m2_gguf_is_integer(key->type))
		return wrong_type(g, name, key, "an integer", why);
	const int64_t n = integer_at(g->data + key->value, key->type);
	if (n < min || n > max)
		return m2_fail_field(M2_EINVAL, why, name, "%s: %s is %lld, outside %lld..%lld",
			g->what, name, (long long)n, (long long)min, (long long)max);
	*out = n;
	return M2_OK;
}

enum m2_err m2_gguf_get_number(
	const struct m2_gguf *g, const char *name, double *out, bool *found, struct m2_why *why)
{
	const struct m2_gguf_key *key = ask(g, name, found);
	if (key == NULL)
		return M2_OK;
	if (sizes[key->type] == 0 || key->type == M2_GGUF_BOOL)
		return wrong_type(g, name, key, "a number", why);
	const double x = number_at(g->data + key->value, key->type);
	if (!isfinite(x))
		return m2_fail_field(M2_EINVAL, why, name, "%s: %s is not finite", g->what, name);
	*out = x;
	return M2_OK;
}

enum m2_err m2_gguf_get_bool(
	const struct m2_gguf *g, const char *name, bool *out, bool *found, struct m2_why *why)
{
	const struct m2_gguf_key *key = ask(g, name, found);
	if (key == NULL)
		return M2_OK;
	if (key->type != M2_GGUF_BOOL)
		return wrong_type(g, name, key, "a bool", why);
	*out = g->data[key->value] != 0;
	return M2_OK;
}

enum m2_err m2_gguf_get_string(const struct m2_gguf *g, const char *name, const char **text,
	size_t *length, bool *found, struct m2_why *why)
{
	const struct m2_gguf_key *key = ask(g, name, found);
	if (key == NULL)
		return M2_OK;
	if (key->type != M2_GGUF_STRING)
		return wrong_type(g, name, key, "a string", why);
	if (!m2_utf8_valid((const char *)g->data + key->value, (size_t)key->count))
		return m2_fail_field(
			M2_EINVAL, why, name, "%s: %s is not valid UTF-8", g->what, name);
	*text = (const char *)g->data + key->value;
	*length = (size_t)key->count;
	return M2_OK;
}

enum m2_err m2_gguf_get_array(const struct m2_gguf *g, const char *name,
	const struct m2_gguf_key **out, struct m2_why *why)
{
	const struct m2_gguf_key *key = m2_gguf_find(g, name);
	*out = NULL;
	if (key != NULL && key->type != M2_GGUF_ARRAY)
		return wrong_type(g, name, key, "an array", why);
	*out = key;
	return M2_OK;
}

int64_t m2_gguf_element_int(const struct m2_gguf *g, const struct m2_gguf_key *key, uint64_t i)
{
	return integer_at(g->data + key->value + (size_t)i * sizes[key->element], key->element);
}

float m2_gguf_element_f32(const struct m2_gguf *g, const struct m2_gguf_key *key, uint64_t i)
{
	return (float)number_at(g->data + key->value + (size_t)i * 4, M2_GGUF_F32);
}

void m2_gguf_next_string(const struct m2_gguf *g, size_t *at, const char **text, size_t *length)
{
	*length = (size_t)m2_gguf_u64(g->data + *at);
	*text = (const char *)g->data + *at + 8;
	*at += 8 + *length;
}
