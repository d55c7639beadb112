/* added_tokens.c - leftmost-longest matching by narrowing a sorted list byte by byte.
 *
 * Added tokens are few and short (their length is bounded when the file is read), so a sorted array
 * does what an automaton would, in a page of code; most positions fail on their first byte.
 */
#include "model/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/unicode.h"

static int by_text(const void *a, const void *b)
{
	const struct m2_added_token *x = *(const struct m2_added_token *const *)a;
	const struct m2_added_token *y = *(const struct m2_added_token *const *)b;
	const int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
	if (order != 0)
		return order;
	return x->length < y->length ? -1 : x->length > y->length;
}

enum m2_err m2_added_set_init(struct m2_added_set *set, const struct m2_added_token *tokens,
	size_t count, bool normalized, bool specials, struct m2_why *why)
{
	*set = (struct m2_added_set){.count = 0};
	if (count == 0)
		return M2_OK;
	set->tokens = calloc(count, sizeof *set->tokens);
	if (set->tokens == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for the added tokens");
	for (size_t i = 0; i < count; i++) {
		if (tokens[i].normalized != normalized || (tokens[i].special && !specials) ||
			tokens[i].length == 0) /* nothing is left of it after normalisation */
			continue;
		set->tokens[set->count++] = &tokens[i];
		set->first_byte[(unsigned char)tokens[i].text[0]] = true;
	}
	qsort(set->tokens, set->count, sizeof *set->tokens, by_text);
	return M2_OK;
}

void m2_added_set_finish(struct m2_added_set *set)
{
	free(set->tokens);
	*set = (struct m2_added_set){.count = 0};
}

/* First of tokens[lo..hi) whose byte number depth is at least `byte`; the tokens share the bytes
 * before it, and one that ends there sorts first. */
static size_t lower_bound(
	const struct m2_added_set *set, size_t lo, size_t hi, size_t depth, int byte)
{
	while (lo < hi) {
		const size_t middle = lo + (hi - lo) / 2;
		const struct m2_added_token *t = set->tokens[middle];
		const int at = depth < t->length ? (unsigned char)t->text[depth] : -1;
		if (at < byte)
			lo = middle + 1;
		else
			hi = middle;
	}
	return lo;
}

const struct m2_added_token *m2_added_set_prefix(
	const struct m2_added_set *set, const char *text, size_t length)
{
	const struct m2_added_token *best = NULL;
	size_t lo = 0;
	size_t hi = set->count;
	if (length == 0 || !set->first_byte[(unsigned char)text[0]])
		return NULL;
	for (size_t depth = 0; depth < length && lo < hi; depth++) {
		const int byte = (unsigned char)text[depth];
		lo = lower_bound(set, lo, hi, depth, byte);
		hi = lower_bound(set, lo, hi, depth, byte + 1);
		if (lo < hi && set->tokens[lo]->length == depth + 1)
			best = set->tokens[lo];
	}
	return best;
}

static bool stands_alone(const char *text, size_t length, size_t start, size_t end)
{
	size_t size;
	uint32_t code = 0;
	if (start > 0 && m2_char_is_word(m2_utf8_last(text, start, &size)))
		return false;
	if (end == length)
		return true;
	(void)m2_utf8_decode((const unsigned char *)text + end, length - end, &code);
	return !m2_char_is_word(code);
}

static size_t strip_left(const char *text, size_t from, size_t start)
{
	while (start > from) {
		size_t size;
		if (m2_char_class_of(m2_utf8_last(text, start, &size)) != M2_CHAR_SPACE)
			break;
		start -= size;
	}
	return start;
}

static size_t strip_right(const char *text, size_t length, size_t end)
{
	while (end < length) {
		uint32_t code = 0;
		const int n =
			m2_utf8_decode((const unsigned char *)text + end, length - end, &code);
		if (m2_char_class_of(code) != M2_CHAR_SPACE)
			break;
		end += (size_t)n;
	}
	return end;
}

const struct m2_added_token *m2_added_set_find(const struct m2_added_set *set, const char *text,
	size_t length, size_t from, size_t *start, size_t *end)
{
	for (size_t at = from; at < length; at++) {
		const struct m2_added_token *t = m2_added_set_prefix(set, text + at, length - at);
		if (t == NULL)
			continue;
		if (t->single_word && !stands_alone(text, length, at, at + t->length)) {
			at += t->length - 1; /* the reference library, too, goes on behind it */
			continue;
		}
		*start = t->lstrip ? strip_left(text, from, at) : at;
		*end = at + t->length;
		if (t->rstrip)
			*end = strip_right(text, length, *end);
		return t;
	}
	return NULL;
}
