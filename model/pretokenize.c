/* pretokenize.c - the known patterns by hand.
 *
 * A regular-expression library backtracks, and its limits turn a megabyte of one character into an
 * error or a stack; these patterns need little looking ahead.  A pattern that is not here is refused
 * when the file is read.  tests/unit/test_model_unicode.c proves each scanner equal to its pattern.
 */
#include "model/pretokenize.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/utf8.h"
#include "model/unicode.h"

/* The character at text[at]; *next is behind it. */
static uint32_t char_at(const char *text, size_t length, size_t at, size_t *next)
{
	uint32_t code = 0;
	*next = at + (size_t)m2_utf8_decode((const unsigned char *)text + at, length - at, &code);
	return code;
}

static enum m2_char_class class_at(const char *text, size_t length, size_t at, size_t *next)
{
	return m2_char_class_of(char_at(text, length, at, next));
}

static bool is_line_end(char c)
{
	return c == '\r' || c == '\n';
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

/* The same in either case; U+017F is a small s to a pattern that ignores case. */
static size_t contraction_of_any_case(const char *p, size_t n)
{
	char lower[3];
	if (n >= 3 && memcmp(p, "'\xc5\xbf", 3) == 0)
		return 3;
	const size_t m = n < 3 ? n : 3;
	for (size_t i = 0; i < m; i++)
		lower[i] = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + ('a' - 'A')) : p[i];
	return contraction(lower, m);
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

/* " ?" and a run that is no white space; 0 if there is none.  The space is that character only. */
static size_t spaced_run(const char *text, size_t length, size_t at, enum m2_char_class *class)
{
	size_t next;
	size_t last;
	*class = class_at(text, length, at, &next);
	if (text[at] == ' ' && next < length) {
		size_t behind;
		*class = class_at(text, length, next, &behind);
		at = next;
	}
	return *class == M2_CHAR_SPACE ? 0 : run_end(text, length, at, *class, &last);
}

/* \s+(?!\S)|\s+ gives the last white space back to the word behind it, if it keeps any. */
static size_t spaces_end(const char *text, size_t length, size_t at)
{
	size_t last;
	const size_t end = run_end(text, length, at, M2_CHAR_SPACE, &last);
	return end < length && last > at ? last : end;
}

size_t m2_gpt2_next(const char *text, size_t length, size_t at)
{
	enum m2_char_class class;
	const size_t short_form = contraction(text + at, length - at);
	if (short_form > 0)
		return at + short_form;
	const size_t end = spaced_run(text, length, at, &class);
	return end > 0 ? end : spaces_end(text, length, at);
}

/* ---- what came after GPT-2 ---- */

/* [^\r\n\p{L}\p{N}]: what a word may take in front of it.  Returns where it ends, 0 if it is none. */
static size_t lead_end(const char *text, size_t length, size_t at)
{
	size_t next;
	const enum m2_char_class class = class_at(text, length, at, &next);
	return class == M2_CHAR_LETTER || class == M2_CHAR_NUMBER || is_line_end(text[at]) ? 0
											   : next;
}

/* [^\r\n\p{L}\p{N}]?\p{L}+ */
static size_t word_end(const char *text, size_t length, size_t at)
{
	size_t last;
	const size_t lead = lead_end(text, length, at);
	const size_t from = lead > 0 ? lead : at;
	const size_t end = run_end(text, length, from, M2_CHAR_LETTER, &last);
	return end > from ? end : 0;
}

/* What these patterns have in common behind their words: \p{N}{1,digits}, " ?[^\s\p{L}\p{N}]+" with
 * the characters of `tail` behind it, \s*[\r\n]+, \s+(?!\S), \s+. */
static size_t other_end(const char *text, size_t length, size_t at, int digits, const char *tail)
{
	size_t next;
	size_t end = at;
	enum m2_char_class class;
	for (; digits > 0 && end < length; digits--) {
		if (class_at(text, length, end, &next) != M2_CHAR_NUMBER)
			break;
		end = next;
	}
	if (end > at)
		return end;
	end = spaced_run(text, length, at, &class);
	if (end > 0 && class == M2_CHAR_OTHER) {
		while (end < length && text[end] != '\0' && strchr(tail, text[end]) != NULL)
			end++;
		return end;
	}
	size_t last;
	end = run_end(text, length, at, M2_CHAR_SPACE, &last);
	for (size_t i = end; i > at; i--)
		if (is_line_end(text[i - 1]))
			return i;
	return spaces_end(text, length, at);
}

static size_t llama_next(const char *text, size_t length, size_t at, int digits)
{
	const size_t short_form = contraction_of_any_case(text + at, length - at);
	if (short_form > 0)
		return at + short_form;
	const size_t end = word_end(text, length, at);
	return end > 0 ? end : other_end(text, length, at, digits, "\r\n");
}

static size_t llama3_next(const char *text, size_t length, size_t at)
{
	return llama_next(text, length, at, 3);
}

static size_t qwen2_next(const char *text, size_t length, size_t at)
{
	return llama_next(text, length, at, 1);
}

/* End of the run of characters that are `one` or count as both cases; *both is the end of the last
 * character among them that counts as both, 0 for none. */
static size_t case_run(
	const char *text, size_t length, size_t at, enum m2_char_case one, size_t *both)
{
	*both = 0;
	while (at < length) {
		size_t next;
		const enum m2_char_case is = m2_char_case_of(char_at(text, length, at, &next));
		if (is != one && is != M2_CASE_BOTH)
			break;
		if (is == M2_CASE_BOTH)
			*both = next;
		at = next;
	}
	return at;
}

/* [U]*[L]+, where a character that counts as both is in U and L: U gives back until L has one. */
static size_t lower_word(const char *text, size_t length, size_t at)
{
	size_t both;
	size_t unused_end;
	const size_t upper = case_run(text, length, at, M2_CASE_UPPER, &both);
	const size_t end = case_run(text, length, upper, M2_CASE_LOWER, &unused_end);
	return end > upper ? end : both;
}

/* [U]+[L]* */
static size_t upper_word(const char *text, size_t length, size_t at)
{
	size_t unused_end;
	const size_t upper = case_run(text, length, at, M2_CASE_UPPER, &unused_end);
	return upper > at ? case_run(text, length, upper, M2_CASE_LOWER, &unused_end) : 0;
}

static size_t tekken_next(const char *text, size_t length, size_t at)
{
	size_t (*const words[])(const char *, size_t, size_t) = {lower_word, upper_word};
	const size_t lead = lead_end(text, length, at);
	for (size_t i = 0; i < 2; i++) {
		size_t end = lead > 0 && lead < length ? words[i](text, length, lead) : 0;
		if (end == 0) /* a mark may lead a word, or be part of it */
			end = words[i](text, length, at);
		if (end > 0)
			return end;
	}
	return other_end(text, length, at, 1, "\r\n/");
}

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER        "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LEAD         "[^\\r\\n\\p{L}\\p{N}]?"
#define SPACES       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const struct m2_pattern m2_patterns[] = {
	{"GPT-2",
		"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| "
		"?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
		m2_gpt2_next},
	{"GPT-2", "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
		m2_gpt2_next},
	{"Llama 3",
		CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES,
		llama3_next},
	{"Qwen 2", CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES,
		qwen2_next},
	{"tekken",
		LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER
			   "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES,
		tekken_next},
	{NULL, NULL, NULL},
};

const struct m2_pattern *m2_pattern_find(const char *text, size_t length)
{
	for (const struct m2_pattern *p = m2_patterns; p->name != NULL; p++)
		if (strlen(p->text) == length && memcmp(p->text, text, length) == 0)
			return p;
	return NULL;
}
