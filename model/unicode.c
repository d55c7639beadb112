/* unicode.c - character classes and NFC on top of utf8proc's tables.
 *
 * utf8proc_map would do the NFC, but its canonical ordering swaps neighbours: quadratic in a run of
 * combining marks, and a user chooses the run.  Here marks are put in order by counting.
 */
#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "common/utf8.h"

static bool is_white_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
	       c == 0x205f || c == 0x3000;
}

enum m2_char_class m2_char_class_of(uint32_t code)
{
	if (code < 0x80) {
		const uint32_t lower = code | 0x20;
		return lower >= 'a' && lower <= 'z' ? M2_CHAR_LETTER
		       : code >= '0' && code <= '9' ? M2_CHAR_NUMBER
		       : is_white_space(code)       ? M2_CHAR_SPACE
						    : M2_CHAR_OTHER;
	}
	if (is_white_space(code))
		return M2_CHAR_SPACE;
	switch (utf8proc_category((utf8proc_int32_t)code)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
		return M2_CHAR_LETTER;
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_NO:
		return M2_CHAR_NUMBER;
	default:
		return M2_CHAR_OTHER;
	}
}

bool m2_char_is_word(uint32_t code)
{
	if (code == 0x200c || code == 0x200d) /* the joiners */
		return true;
	switch (utf8proc_category((utf8proc_int32_t)code)) {
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_PC:
		return true;
	default:
		return m2_char_class_of(code) == M2_CHAR_LETTER;
	}
}

uint32_t m2_utf8_last(const char *text, size_t length, size_t *size)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t n = 1;
	uint32_t code = 0;
	while (n < length && n < 4 && (p[length - n] & 0xc0) == 0x80)
		n++;
	(void)m2_utf8_decode(p + length - n, n, &code);
	*size = n;
	return code;
}

/* ---- NFC ---- */

struct codes {
	utf8proc_int32_t *at;
	size_t n;
	size_t cap;
};

/* All below U+0300 are starters that nothing below U+0300 composes with. */
static bool is_plainly_nfc(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] >= 0xcc) /* the lead byte of U+0300 */
			return false;
	return true;
}

static bool decompose(const char *text, size_t length, struct codes *out)
{
	const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
	for (size_t i = 0; i < length;) {
		uint32_t code = 0;
		int unused_bound = 0;
		i += (size_t)m2_utf8_decode((const unsigned char *)text + i, length - i, &code);
		if (out->cap - out->n < 32) {
			const size_t cap = out->cap * 2 + 256;
			utf8proc_int32_t *grown = realloc(out->at, cap * sizeof *grown);
			if (grown == NULL)
				return false;
			out->at = grown;
			out->cap = cap;
		}
		const utf8proc_ssize_t n =
			utf8proc_decompose_char((utf8proc_int32_t)code, out->at + out->n,
				(utf8proc_ssize_t)(out->cap - out->n), how, &unused_bound);
		if (n < 0)
			return false;
		out->n += (size_t)n;
	}
	return true;
}

static unsigned combining_class(utf8proc_int32_t code)
{
	return (unsigned)utf8proc_get_property(code)->combining_class & 0xffu;
}

/* Stable order of one run of marks by their class; spare has room for n. */
static void order_run(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *spare)
{
	size_t begin[257] = {0};
	for (size_t i = 0; i < n; i++)
		begin[combining_class(run[i]) + 1]++;
	for (size_t k = 1; k < 257; k++)
		begin[k] += begin[k - 1];
	for (size_t i = 0; i < n; i++)
		spare[begin[combining_class(run[i])]++] = run[i];
	memcpy(run, spare, n * sizeof *run);
}

static bool order_marks(struct codes *c)
{
	utf8proc_int32_t *spare = NULL;
	size_t spare_size = 0;
	for (size_t i = 0; i < c->n; i++) {
		size_t end = i;
		bool sorted = true;
		for (unsigned last = 0; end < c->n; end++) {
			const unsigned k = combining_class(c->at[end]);
			if (k == 0)
				break;
			sorted &= k >= last;
			last = k;
		}
		if (!sorted && end - i > spare_size) {
			utf8proc_int32_t *grown = realloc(spare, (end - i) * sizeof *grown);
			if (grown == NULL) {
				free(spare);
				return false;
			}
			spare = grown;
			spare_size = end - i;
		}
		if (!sorted)
			order_run(c->at + i, end - i, spare);
		i = end; /* a starter, or the end */
	}
	free(spare);
	return true;
}

static char *encode_codes(const struct codes *c, size_t *length)
{
	unsigned char *out = malloc(c->n * 4 + 1);
	size_t n = 0;
	if (out == NULL)
		return NULL;
	for (size_t i = 0; i < c->n; i++)
		n += (size_t)m2_utf8_encode((uint32_t)c->at[i], out + n);
	*length = n;
	return (char *)out;
}

enum m2_err m2_nfc(
	const char *text, size_t length, char **out, size_t *out_length, struct m2_why *why)
{
	*out = NULL;
	if (is_plainly_nfc(text, length))
		return M2_OK;
	struct codes codes = {.at = NULL};
	bool done = decompose(text, length, &codes) && order_marks(&codes);
	if (done) {
		const utf8proc_ssize_t n = utf8proc_normalize_utf32(
			codes.at, (utf8proc_ssize_t)codes.n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
		done = n >= 0;
		codes.n = done ? (size_t)n : 0;
	}
	if (done)
		*out = encode_codes(&codes, out_length);
	free(codes.at);
	return *out != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "out of memory for normalising text");
}
