/* unicode.c - character classes and normalisation on top of utf8proc's tables.
 *
 * utf8proc_map would do the normalising, but its canonical ordering swaps neighbours: quadratic in a run of
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

enum m2_char_case m2_char_case_of(uint32_t code)
{
	switch (utf8proc_category((utf8proc_int32_t)code)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LT:
		return M2_CASE_UPPER;
	case UTF8PROC_CATEGORY_LL:
		return M2_CASE_LOWER;
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
		return M2_CASE_BOTH;
	default:
		return M2_CASE_NONE;
	}
}

bool m2_char_is_punctuation(uint32_t code)
{
	if (code < 0x80)
		return code > 0x20 && code < 0x7f && m2_char_class_of(code) == M2_CHAR_OTHER;
	switch (utf8proc_category((utf8proc_int32_t)code)) {
	case UTF8PROC_CATEGORY_PC:
	case UTF8PROC_CATEGORY_PD:
	case UTF8PROC_CATEGORY_PS:
	case UTF8PROC_CATEGORY_PE:
	case UTF8PROC_CATEGORY_PI:
	case UTF8PROC_CATEGORY_PF:
	case UTF8PROC_CATEGORY_PO:
		return true;
	default:
		return false;
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

/* ---- normalisation ---- */

struct codes {
	utf8proc_int32_t *at;
	size_t n;
	size_t cap;
};

/* Below U+0300 all are starters that nothing below U+0300 composes with, so the text is NFC; the other
 * forms take some of them apart. */
static bool is_plainly_in(enum m2_unicode_form form, const char *text, size_t length)
{
	const unsigned char limit = form == M2_NFC ? 0xcc /* the lead byte of U+0300 */ : 0x80;
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] >= limit)
			return false;
	return true;
}

static bool reserve_codes(struct codes *c)
{
	if (c->cap - c->n >= 32) /* more than any character's decomposition has */
		return true;
	const size_t cap = c->cap * 2 + 256;
	utf8proc_int32_t *grown = realloc(c->at, cap * sizeof *grown);
	if (grown == NULL)
		return false;
	c->at = grown;
	c->cap = cap;
	return true;
}

/* What Unicode 10.0 to 15.0 added with a combining class, or as part of a composition.  The reference
 * tokenizers normalise by the tables of 9.0, and so did whoever trained on their ids: there these are
 * unassigned, which is a starter that neither comes apart nor composes. */
static bool is_newer(uint32_t code)
{
	static const struct range {
		uint32_t first, last;
	} ranges[] = {{0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe},
		{0xc3c, 0xc3c}, {0xd3b, 0xd3c}, {0xeba, 0xeba}, {0x1715, 0x1715}, {0x1abf, 0x1ace},
		{0x1df6, 0x1dfa}, {0xa82c, 0xa82c}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac},
		{0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
		{0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
		{0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
		{0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
		{0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
		{0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
		{0x1e4ec, 0x1e4ef}};
	size_t low = 0, high = sizeof ranges / sizeof ranges[0];
	while (low < high) {
		const size_t middle = (low + high) / 2;
		if (code > ranges[middle].last)
			low = middle + 1;
		else
			high = middle;
	}
	return low < sizeof ranges / sizeof ranges[0] && code >= ranges[low].first;
}

static bool decompose(utf8proc_option_t how, const char *text, size_t length, struct codes *out)
{
	for (size_t i = 0; i < length;) {
		uint32_t code = 0;
		int unused_bound = 0;
		i += (size_t)m2_utf8_decode((const unsigned char *)text + i, length - i, &code);
		if (!reserve_codes(out))
			return false;
		if (is_newer(code)) {
			out->at[out->n++] = (utf8proc_int32_t)code;
			continue;
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
	if (is_newer((uint32_t)code))
		return 0;
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

static bool composes_with_nothing(utf8proc_int32_t code)
{
	return code == 0x11a7 || is_newer((uint32_t)code);
}

/* Canonical composition in place.  utf8proc takes U+11A7, the place before the first final consonant of
 * Hangul, for a consonant and drops it behind an open syllable; it is a starter that composes with nothing,
 * so what lies on its two sides composes by itself. */
static bool compose_codes(struct codes *c, utf8proc_option_t how)
{
	size_t n = 0;
	for (size_t from = 0; from < c->n;) {
		size_t to = from;
		while (to < c->n && !composes_with_nothing(c->at[to]))
			to++;
		const utf8proc_int32_t alone = to < c->n ? c->at[to] : 0;
		const utf8proc_ssize_t composed =
			utf8proc_normalize_utf32(c->at + from, (utf8proc_ssize_t)(to - from), how);
		if (composed < 0)
			return false;
		memmove(c->at + n, c->at + from, (size_t)composed * sizeof *c->at);
		n += (size_t)composed;
		if (to < c->n)
			c->at[n++] = alone;
		from = to + 1;
	}
	c->n = n;
	return true;
}

enum m2_err m2_unicode_normalize(enum m2_unicode_form form, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why)
{
	const bool compose = form == M2_NFC || form == M2_NFKC;
	const bool compat = form == M2_NFKC || form == M2_NFKD;
	/* bits of one option word: an enumeration in name only */
	const utf8proc_option_t how =
		(utf8proc_option_t)(UTF8PROC_STABLE |
				    (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
				    (compat ? UTF8PROC_COMPAT : 0));
	*out = NULL;
	if (is_plainly_in(form, text, length))
		return M2_OK;
	struct codes codes = {.at = NULL};
	bool done = decompose(how, text, length, &codes) && order_marks(&codes);
	if (done && compose)
		done = compose_codes(&codes, how);
	if (done)
		*out = encode_codes(&codes, out_length);
	free(codes.at);
	return *out != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "out of memory for normalising text");
}

enum m2_err m2_unicode_lower(
	const char *text, size_t length, char **out, size_t *out_length, struct m2_why *why)
{
	struct codes codes = {.at = NULL};
	bool done = true;
	for (size_t i = 0; i < length && done;) {
		uint32_t code = 0;
		i += (size_t)m2_utf8_decode((const unsigned char *)text + i, length - i, &code);
		done = reserve_codes(&codes);
		if (!done)
			break;
		/* U+0130 is the one character whose lower case is two */
		codes.at[codes.n++] =
			code == 0x130 ? 'i' : utf8proc_tolower((utf8proc_int32_t)code);
		if (code == 0x130)
			codes.at[codes.n++] = 0x307;
	}
	*out = done ? encode_codes(&codes, out_length) : NULL;
	free(codes.at);
	return *out != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "out of memory for lower case");
}
