/* safetensors_header.c - a reader for exactly the JSON that the format allows.
 *
 * One pass, no recursion: object of name -> {dtype, shape, data_offsets}, and __metadata__, an
 * object of string -> string.  Whatever else is legal JSON is not a legal header and is refused with
 * its byte.  It does not judge whether tensors overlap: safetensors.c does, once it has them all.
 */
#include "model/safetensors_header.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/num.h"
#include "common/utf8.h"

enum { MAX_TENSORS = 1000000, MAX_NAME = 512 };

struct reader {
	const char *text;
	size_t length;
	size_t at;
	const char *what;
	struct m2_why *why;

	struct m2_tensor *tensors;
	size_t n_tensors;
	size_t cap_tensors;
	char *names;    /* all names, each with its NUL, in the order of the tensors */
	size_t n_names; /* bytes used */
};

/* Every type of the format, with its width; ours is NONE for those no weight can have. */
static const struct type_row {
	const char *name;
	unsigned bits;
	enum m2_dtype dtype;
} types[] = {{"F32", 32, M2_DTYPE_F32}, {"F16", 16, M2_DTYPE_F16}, {"BF16", 16, M2_DTYPE_BF16},
	{"F64", 64, M2_DTYPE_F64}, {"BOOL", 8, M2_DTYPE_NONE}, {"U8", 8, M2_DTYPE_NONE},
	{"I8", 8, M2_DTYPE_NONE}, {"F8_E5M2", 8, M2_DTYPE_NONE}, {"F8_E4M3", 8, M2_DTYPE_NONE},
	{"F8_E8M0", 8, M2_DTYPE_NONE}, {"I16", 16, M2_DTYPE_NONE}, {"U16", 16, M2_DTYPE_NONE},
	{"I32", 32, M2_DTYPE_NONE}, {"U32", 32, M2_DTYPE_NONE}, {"I64", 64, M2_DTYPE_NONE},
	{"U64", 64, M2_DTYPE_NONE}, {"C64", 64, M2_DTYPE_NONE}, {"F4", 4, M2_DTYPE_NONE},
	{"F6_E2M3", 6, M2_DTYPE_NONE}, {"F6_E3M2", 6, M2_DTYPE_NONE}};

static enum m2_err bad(const struct reader *r, const char *wanted)
{
	return m2_fail(
		M2_EFORMAT, r->why, "%s: header byte %zu: %s expected", r->what, r->at, wanted);
}

static void skip_space(struct reader *r)
{
	while (r->at < r->length && (r->text[r->at] == ' ' || r->text[r->at] == '\t' ||
					    r->text[r->at] == '\r' || r->text[r->at] == '\n'))
		r->at++;
}

static bool accept(struct reader *r, char c)
{
	skip_space(r);
	if (r->at >= r->length || r->text[r->at] != c)
		return false;
	r->at++;
	return true;
}

/* Four hexadecimal digits behind a \u. */
static bool read_hex4(struct reader *r, uint32_t *out)
{
	uint32_t value = 0;
	if (r->length - r->at < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		const char c = r->text[r->at++];
		const uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
				       : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
				       : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
							      : 16;
		if (digit > 15)
			return false;
		value = value << 4 | digit;
	}
	*out = value;
	return true;
}

/* The character behind a backslash. */
static bool read_escape(struct reader *r, uint32_t *code)
{
	static const char from[] = "\"\\/bfnrt";
	static const char to[] = "\"\\/\b\f\n\r\t";
	if (r->at >= r->length)
		return false;
	const char c = r->text[r->at++];
	if (c != 'u') {
		const char *found = c == '\0' ? NULL : strchr(from, c);
		if (found == NULL)
			return false;
		*code = (unsigned char)to[found - from];
		return true;
	}
	if (!read_hex4(r, code))
		return false;
	if (*code < 0xd800 || *code > 0xdfff)
		return true;
	uint32_t low;
	if (*code > 0xdbff || r->length - r->at < 2 || r->text[r->at] != '\\' ||
		r->text[r->at + 1] != 'u')
		return false;
	r->at += 2;
	if (!read_hex4(r, &low) || low < 0xdc00 || low > 0xdfff)
		return false;
	*code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
	return true;
}

/* A string into out[0..size), NUL-terminated.  out NULL: only checked.  Control characters, NUL
 * among them, are refused where the string is kept: a name is printed in sentences and logs. */
static enum m2_err read_string(struct reader *r, char *out, size_t size, const char *wanted)
{
	size_t n = 0;
	if (!accept(r, '"'))
		return bad(r, wanted);
	while (r->at < r->length && r->text[r->at] != '"') {
		uint32_t code = (unsigned char)r->text[r->at++];
		unsigned char bytes[4] = {(unsigned char)code};
		int length = 1;
		if (code < 0x20)
			return bad(r, "a string without control characters");
		if (code == '\\') {
			if (!read_escape(r, &code))
				return bad(r, "an escape sequence of JSON");
			length = m2_utf8_encode(code, bytes);
		}
		if (out == NULL)
			continue;
		if (code < 0x20 || code == 0x7f)
			return bad(r, "a name without control characters");
		if (n + (size_t)length >= size)
			return m2_fail(M2_ELIMIT, r->why,
				"%s: header byte %zu: a name longer than %zu bytes", r->what, r->at,
				size - 1);
		memcpy(out + n, bytes, (size_t)length);
		n += (size_t)length;
	}
	if (!accept(r, '"'))
		return bad(r, "the end of a string");
	if (out != NULL)
		out[n] = '\0';
	return M2_OK;
}

/* A plain unsigned integer: no sign, fraction, exponent or leading zero. */
static enum m2_err read_unsigned(struct reader *r, uint64_t *out)
{
	skip_space(r);
	const size_t start = r->at;
	uint64_t value = 0;
	while (r->at < r->length && r->text[r->at] >= '0' && r->text[r->at] <= '9') {
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(r->text[r->at] - '0'), &value))
			return bad(r, "a number below 2^64");
		r->at++;
	}
	const size_t digits = r->at - start;
	if (digits == 0 || (digits > 1 && r->text[start] == '0'))
		return bad(r, "an unsigned integer");
	*out = value;
	return M2_OK;
}

/* [n, n, ...] of at most max numbers; *count says how many. */
static enum m2_err read_numbers(struct reader *r, uint64_t *out, int max, int *count)
{
	*count = 0;
	if (!accept(r, '['))
		return bad(r, "an array");
	if (accept(r, ']'))
		return M2_OK;
	do {
		if (*count == max)
			return m2_fail(M2_EFORMAT, r->why,
				"%s: header byte %zu: more than %d numbers in an array", r->what,
				r->at, max);
		const enum m2_err err = read_unsigned(r, &out[(*count)++]);
		if (err != M2_OK)
			return err;
	} while (accept(r, ','));
	return accept(r, ']') ? M2_OK : bad(r, "\",\" or \"]\"");
}

static enum m2_err read_shape(struct reader *r, struct m2_tensor *t)
{
	uint64_t dims[M2_TENSOR_DIMS];
	int count;
	const enum m2_err err = read_numbers(r, dims, M2_TENSOR_DIMS, &count);
	if (err != M2_OK)
		return err;
	for (int i = 0; i < count; i++) {
		if (dims[i] > INT64_MAX)
			return bad(r, "a dimension below 2^63");
		t->shape[i] = (int64_t)dims[i];
	}
	t->n_dims = count;
	return M2_OK;
}

/* The bytes that dtype and shape ask for against those that the offsets give. */
static enum m2_err check_size(
	const struct reader *r, const struct m2_tensor *t, unsigned bits, const char *name)
{
	uint64_t n = bits;
	for (int i = 0; i < t->n_dims; i++)
		if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n))
			return m2_fail(M2_EFORMAT, r->why, "%s: the size of %.200s overflows",
				r->what, name);
	if (n % 8 != 0 || n / 8 != t->bytes)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: %.200s has %llu bytes of data, its shape and type ask for %llu bits",
			r->what, name, (unsigned long long)t->bytes, (unsigned long long)n);
	return M2_OK;
}

enum { FIELD_DTYPE = 1, FIELD_SHAPE = 2, FIELD_OFFSETS = 4, FIELDS_ALL = 7 };

/* One field of an entry; *seen collects which were there. */
static enum m2_err read_field(
	struct reader *r, struct m2_tensor *t, unsigned *seen, const char *name)
{
	static const char *const fields[] = {"dtype", "shape", "data_offsets"};
	char key[16];
	enum m2_err err = read_string(r, key, sizeof key, "a field name");
	if (err != M2_OK)
		return err;
	unsigned field = 0;
	for (unsigned i = 0; i < 3; i++)
		if (strcmp(key, fields[i]) == 0)
			field = 1u << i;
	if (field == 0)
		return m2_fail(M2_EFORMAT, r->why, "%s: %.200s has an unknown field \"%s\"",
			r->what, name, key);
	if (*seen & field)
		return m2_fail(M2_EFORMAT, r->why, "%s: %.200s has the field %s twice", r->what,
			name, key);
	*seen |= field;
	if (!accept(r, ':'))
		return bad(r, "\":\"");
	if (field == FIELD_DTYPE)
		return read_string(r, t->dtype_name, sizeof t->dtype_name, "a dtype");
	if (field == FIELD_SHAPE)
		return read_shape(r, t);

	uint64_t offsets[2];
	int count;
	err = read_numbers(r, offsets, 2, &count);
	if (err != M2_OK)
		return err;
	if (count != 2)
		return bad(r, "two data offsets");
	if (offsets[1] < offsets[0])
		return m2_fail(M2_EFORMAT, r->why, "%s: the data of %.200s ends before it begins",
			r->what, name);
	t->begin = offsets[0];
	t->bytes = offsets[1] - offsets[0];
	return M2_OK;
}

static enum m2_err read_entry(struct reader *r, const char *name)
{
	struct m2_tensor t = {.name = NULL};
	unsigned seen = 0;
	if (!accept(r, '{'))
		return bad(r, "the object of a tensor");
	do {
		const enum m2_err err = read_field(r, &t, &seen, name);
		if (err != M2_OK)
			return err;
	} while (accept(r, ','));
	if (!accept(r, '}'))
		return bad(r, "\",\" or \"}\"");
	if (seen != FIELDS_ALL)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: %.200s lacks one of dtype, shape, data_offsets", r->what, name);

	const struct type_row *type = NULL;
	for (size_t i = 0; i < sizeof types / sizeof *types && type == NULL; i++)
		if (strcmp(types[i].name, t.dtype_name) == 0)
			type = &types[i];
	if (type == NULL)
		return m2_fail(M2_EFORMAT, r->why, "%s: %.200s has the unknown dtype \"%s\"",
			r->what, name, t.dtype_name);
	t.dtype = type->dtype;
	const enum m2_err err = check_size(r, &t, type->bits, name);
	if (err != M2_OK)
		return err;

	if (r->n_tensors == MAX_TENSORS)
		return m2_fail(M2_ELIMIT, r->why, "%s: more than %d tensors", r->what, MAX_TENSORS);
	if (r->n_tensors == r->cap_tensors) {
		const size_t cap = r->cap_tensors == 0 ? 64 : r->cap_tensors * 2;
		struct m2_tensor *grown = realloc(r->tensors, cap * sizeof *grown);
		if (grown == NULL)
			return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", r->what);
		r->tensors = grown;
		r->cap_tensors = cap;
	}
	/* names never takes more bytes than the header: an unescaped name is no longer than written */
	const size_t bytes = strlen(name) + 1;
	memcpy(r->names + r->n_names, name, bytes);
	r->n_names += bytes;
	r->tensors[r->n_tensors++] = t;
	return M2_OK;
}

/* __metadata__: strings to strings, of no interest but checked as the reference reader does. */
static enum m2_err read_metadata(struct reader *r)
{
	if (!accept(r, '{'))
		return bad(r, "the object of __metadata__");
	if (accept(r, '}'))
		return M2_OK;
	do {
		enum m2_err err = read_string(r, NULL, 0, "a key of __metadata__");
		if (err == M2_OK && !accept(r, ':'))
			err = bad(r, "\":\"");
		if (err == M2_OK)
			err = read_string(r, NULL, 0, "a string in __metadata__");
		if (err != M2_OK)
			return err;
	} while (accept(r, ','));
	return accept(r, '}') ? M2_OK : bad(r, "\",\" or \"}\"");
}

static enum m2_err read_header(struct reader *r)
{
	bool metadata = false;
	r->at = 1; /* the caller saw the brace */
	if (!accept(r, '}')) {
		do {
			char name[MAX_NAME + 1];
			enum m2_err err = read_string(r, name, sizeof name, "a tensor's name");
			if (err != M2_OK)
				return err;
			if (!accept(r, ':'))
				return bad(r, "\":\"");
			const bool is_metadata = strcmp(name, "__metadata__") == 0;
			if (is_metadata && metadata)
				return m2_fail(M2_EFORMAT, r->why, "%s: two __metadata__", r->what);
			metadata |= is_metadata;
			err = is_metadata ? read_metadata(r) : read_entry(r, name);
			if (err != M2_OK)
				return err;
		} while (accept(r, ','));
		if (!accept(r, '}'))
			return bad(r, "\",\" or \"}\"");
	}
	for (; r->at < r->length; r->at++)
		if (r->text[r->at] != ' ')
			return bad(r, "nothing but padding spaces");
	return M2_OK;
}

enum m2_err m2_safetensors_header_read(const char *json, size_t length, const char *what,
	struct m2_tensor **tensors, size_t *count, char **names, struct m2_why *why)
{
	if (length == 0 || json[0] != '{')
		return m2_fail(M2_EFORMAT, why, "%s: the header does not begin with {", what);
	if (!m2_utf8_valid(json, length))
		return m2_fail(M2_EFORMAT, why, "%s: the header is not valid UTF-8", what);
	struct reader r = {.text = json, .length = length, .what = what, .why = why};
	r.names = malloc(length + 1);
	if (r.names == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	const enum m2_err err = read_header(&r);
	if (err != M2_OK) {
		free(r.tensors);
		free(r.names);
		return err;
	}
	const char *name = r.names; /* only now do the names stay where they are */
	for (size_t i = 0; i < r.n_tensors; i++) {
		r.tensors[i].name = name;
		name += strlen(name) + 1;
	}
	*tensors = r.tensors;
	*count = r.n_tensors;
	*names = r.names;
	return M2_OK;
}
