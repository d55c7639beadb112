/* pretokenize.c - GPT-2's pattern by hand.
 *
 * A regular-expression library backtracks, and its limits turn a megabyte of one character into an
 * error or a stack; this pattern needs one look ahead and no more.  tests/unit/test_model_unicode.c
 * proves the scanner equal to the pattern.
 */
#include "model/pretokenize.h"

#include <stdint.h>
#include <string.h>

#include "common/utf8.h"
#include "model/unicode.h"

/* Class of the character at text[at]; *next is behind it. */
static enum m2_char_class class_at(const char *text, size_t length, size_t at, size_t *next)
{
	uint32_t code = 0;
	*next = at + (size_t)m2_utf8_decode((const unsigned char *)text + at, length - at, &code);
	return m2_char_class_of(code);
}

/* Bytes of a contraction at p[0..n), 0 for none: 's 't 'm 'd 're 've 'll, lower case only. */
static size_t contraction(const char *p, size_t n)
{
	if (n < 2 || p[0] != '\'')
		return 0;
	if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd')
		return 2;
	if (n >= 3 && (memcmp(p + 1, "re", 2) == 0 || memcmp(p + 1, "ve", 2) == 0 ||
			      memcmp(p + 1, "ll", 2) == 0))
		return 3;
	return 0;
}

/* End of the run of `class` that begins at `at`; *last is where its last character begins. */
static size_t run_end(
	const char *text, size_t length, size_t at, enum m2_char_class class, size_t *last)
{
	*last = at;
	while (at < length) {
		size_t next;
		if (class_at(text, length, at, &next) != class)
			break;
		*last = at;
		at = next;
	}
	return at;
}

size_t m2_gpt2_next(const char *text, size_t length, size_t at)
{
	size_t last;
	size_t next;
	const size_t short_form = contraction(text + at, length - at);
	if (short_form > 0)
		return at + short_form;

	/* " ?" takes one space, and only that character, in front of a run that is no white space */
	enum m2_char_class class = class_at(text, length, at, &next);
	if (text[at] == ' ' && next < length) {
		size_t behind;
		const enum m2_char_class after = class_at(text, length, next, &behind);
		if (after != M2_CHAR_SPACE)
			return run_end(text, length, next, after, &last);
	}
	const size_t end = run_end(text, length, at, class, &last);
	/* \s+(?!\S) gives the last white space back to the word behind it, if it keeps any */
	if (class == M2_CHAR_SPACE && end < length && last > at)
		return last;
	return end;
}
