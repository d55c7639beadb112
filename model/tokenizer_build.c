/* tokenizer_build.c - tokens, merges and tables, whatever file they come from.
 *
 * Every id has one meaning, every merge joins tokens that exist into one that exists, and no merge can
 * produce a control token: what a text encodes to is then decided by the text alone.
 */
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer_load.h"

enum { MAX_NAMELESS = 1 << 22, MAX_BYTES = 1 << 30 };

enum m2_err m2_load_no_memory(const struct m2_tokenizer_load *l)
{
	return m2_fail(M2_ENOMEM, l->why, "%s: out of memory", l->what);
}

enum m2_err m2_load_reserve(struct m2_tokenizer_load *l, int64_t max_id, size_t count)
{
	struct m2_tokenizer *t = l->t;
	if (max_id < 0 || max_id > M2_MAX_TOKEN_ID || (uint64_t)max_id > 8 * (uint64_t)count + 4096)
		return m2_fail_field(M2_EFORMAT, l->why, "vocab",
			"%s: %zu tokens, and the largest id is %lld", l->what, count,
			(long long)max_id);
	t->size = t->n_tokens = t->cap_tokens = (int32_t)max_id + 1;
	t->tokens = calloc((size_t)t->size, sizeof *t->tokens);
	return t->tokens != NULL ? M2_OK : m2_load_no_memory(l);
}

enum m2_err m2_load_bytes(
	struct m2_tokenizer_load *l, const void *bytes, size_t length, struct m2_span *out)
{
	struct m2_tokenizer *t = l->t;
	if (length > MAX_BYTES - t->n_bytes)
		return m2_fail(M2_ELIMIT, l->why, "%s: its tokens have more than %d bytes", l->what,
			MAX_BYTES);
	if (length > t->cap_bytes - t->n_bytes) {
		const size_t cap = 2 * t->cap_bytes + length + 4096;
		unsigned char *grown = realloc(t->bytes, cap);
		if (grown == NULL)
			return m2_load_no_memory(l);
		t->bytes = grown;
		t->cap_bytes = cap;
	}
	if (length > 0)
		memcpy(t->bytes + t->n_bytes, bytes, length);
	*out = (struct m2_span){(uint32_t)t->n_bytes, (uint32_t)length};
	t->n_bytes += length;
	return M2_OK;
}

enum m2_err m2_load_put(
	struct m2_tokenizer_load *l, int64_t id, const char *text, size_t length, const char *field)
{
	struct m2_token *token = &l->t->tokens[id];
	if (length == 0 || length > M2_MAX_TOKEN_BYTES)
		return m2_fail_field(M2_EFORMAT, l->why, field,
			"%s: the token with id %lld has %zu bytes, outside 1..%d", l->what,
			(long long)id, length, M2_MAX_TOKEN_BYTES);
	if (token->exists)
		return m2_fail_field(M2_EFORMAT, l->why, field,
			"%s: \"%.*s\" has the id %lld of another token", l->what,
			length < 64 ? (int)length : 64, text, (long long)id);
	if (m2_word_find(l->t, (const unsigned char *)text, length) >= 0)
		return m2_fail_field(M2_EFORMAT, l->why, field,
			"%s: the token %lld is spelled \"%.*s\", as another is", l->what,
			(long long)id, length < 64 ? (int)length : 64, text);
	const enum m2_err err = m2_load_bytes(l, text, length, &token->spelled);
	if (err != M2_OK)
		return err;
	token->exists = token->matches = true;
	return m2_word_add(l->t, (int32_t)id, l->why);
}

enum m2_err m2_load_put_nameless(
	struct m2_tokenizer_load *l, const unsigned char *text, size_t length)
{
	struct m2_tokenizer *t = l->t;
	struct m2_span span;
	if (t->n_tokens - t->size == MAX_NAMELESS)
		return m2_fail_field(M2_ELIMIT, l->why, "pieces",
			"%s: its pieces have more than %d parts", l->what, MAX_NAMELESS);
	if (t->n_tokens == t->cap_tokens) {
		const int32_t cap = t->cap_tokens + t->cap_tokens / 2 + 256;
		struct m2_token *grown = realloc(t->tokens, (size_t)cap * sizeof *grown);
		if (grown == NULL)
			return m2_load_no_memory(l);
		t->tokens = grown;
		t->cap_tokens = cap;
	}
	const enum m2_err err = m2_load_bytes(l, text, length, &span);
	if (err != M2_OK)
		return err;
	t->tokens[t->n_tokens] = (struct m2_token){.spelled = span, .matches = true};
	return m2_word_add(t, t->n_tokens++, l->why);
}

static int by_id(const void *a, const void *b)
{
	const struct m2_added_token *x = a;
	const struct m2_added_token *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* An added token either names one of the vocabulary, or an id that is free. */
enum m2_err m2_load_put_added(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	if (t->n_added > 0)
		qsort(t->added, t->n_added, sizeof *t->added, by_id);
	for (size_t i = 0; i < t->n_added; i++) {
		const struct m2_added_token *a = &t->added[i];
		struct m2_token *token = &t->tokens[a->id];
		if (i > 0 && a->id == t->added[i - 1].id)
			return m2_fail_field(M2_EFORMAT, l->why, "added_tokens",
				"%s: the id %d is added twice", l->what, a->id);
		const int32_t known = m2_word_find(t, (const unsigned char *)a->text, a->length);
		if (known >= 0 ? known != a->id : token->exists)
			return m2_fail_field(M2_EFORMAT, l->why, "added_tokens",
				"%s: the added token \"%.64s\" has id %d, which %s", l->what,
				a->text, a->id,
				known >= 0 ? "differs from its id in the vocabulary"
					   : "belongs to another token");
		token->exists = token->added = true;
		token->special = a->special;
		const enum m2_err err =
			known >= 0 ? M2_OK : m2_load_bytes(l, a->text, a->length, &token->spelled);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

enum m2_err m2_load_merge(struct m2_tokenizer_load *l, const char *left, size_t n,
	const char *right, size_t m, size_t rank)
{
	struct m2_tokenizer *t = l->t;
	const uint64_t half = m2_word_hash(0, (const unsigned char *)left, n);
	const int32_t a = m2_word_find_hashed(t, half, (const unsigned char *)left, n);
	const int32_t b = m2_word_find(t, (const unsigned char *)right, m);
	int32_t c = -1;
	unsigned char *whole = malloc(n + m + 1);
	if (whole == NULL)
		return m2_load_no_memory(l);
	memcpy(whole, left, n);
	memcpy(whole + n, right, m);
	if (a >= 0 && b >= 0)
		c = m2_word_find(t, whole, n + m);
	enum m2_err err = M2_OK;
	if (c < 0) {
		const char *text = a < 0 ? left : b < 0 ? right : (const char *)whole;
		const size_t length = a < 0 ? n : b < 0 ? m : n + m;
		err = m2_fail_field(M2_EFORMAT, l->why, "merges",
			"%s: merge %zu: \"%.*s\" is not in the vocabulary", l->what, rank,
			length < 64 ? (int)length : 64, text);
	} else if (!t->tokens[c].special) {
		/* no text may grow into a control token: those are put there by name only */
		err = m2_bpe_add(&t->bpe, a, b, (uint32_t)rank, c, l->why);
	}
	free(whole);
	return err;
}

void m2_load_byte_ids(struct m2_tokenizer_load *l)
{
	static const char digits[] = "0123456789ABCDEF";
	for (unsigned byte = 0; byte < 256; byte++) {
		unsigned char text[6] = {'<', '0', 'x', (unsigned char)digits[byte >> 4],
			(unsigned char)digits[byte & 15], '>'};
		size_t n = sizeof text;
		if (l->t->symbols == M2_SYMBOLS_BYTES)
			n = (size_t)m2_utf8_encode(m2_stand_in_of_byte((unsigned char)byte), text);
		l->t->byte_ids[byte] = m2_word_find(l->t, text, n);
	}
}

enum m2_err m2_load_texts(struct m2_tokenizer_load *l, m2_text_of_fn *text_of, const void *context)
{
	enum m2_err err = M2_OK;
	for (int32_t id = 0; id < l->t->size && err == M2_OK; id++) {
		struct m2_token *token = &l->t->tokens[id];
		if (token->exists)
			err = text_of(l, token, context);
	}
	return err;
}

/* Spellings become what they are compared with; from here on only what a text may become is found. */
static enum m2_err spell(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	enum m2_err err = M2_OK;
	m2_words_clear(t);
	for (int32_t id = 0; id < t->n_tokens && err == M2_OK; id++) {
		struct m2_token *token = &t->tokens[id];
		token->matches &= !token->special;
		if (token->matches && t->symbols == M2_SYMBOLS_BYTES) {
			/* in place: bytes are never more than their stand-ins; one that has others
			 * is never compared again */
			unsigned char *at = t->bytes + token->spelled.at;
			const ptrdiff_t n =
				m2_bytes_of_stand_ins((const char *)at, token->spelled.length, at);
			token->matches = n >= 0;
			if (n >= 0)
				token->spelled.length = (uint32_t)n;
		}
		if (token->matches)
			err = m2_word_add(t, id, l->why);
	}
	return err;
}

/* Normalised tokens are looked for in normalised text, so their own text is normalised too - for the
 * search only: decoding gives it as it is written. */
static enum m2_err make_sets(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	for (size_t i = 0; i < t->n_added; i++) {
		struct m2_added_token *a = &t->added[i];
		char *normal;
		size_t length;
		if (!a->normalized)
			continue;
		const enum m2_err err = m2_normalize(
			t->norms, t->n_norms, a->text, a->length, &normal, &length, NULL, l->why);
		if (err != M2_OK)
			return err;
		if (normal == NULL)
			continue;
		if (length > 8 * M2_MAX_ADDED_BYTES) {
			free(normal);
			return m2_fail_field(M2_ELIMIT, l->why, "added_tokens",
				"%s: the added token %d has %zu bytes when it is normalised",
				l->what, a->id, length);
		}
		free(a->text);
		a->text = normal;
		a->length = length;
	}
	for (int normalized = 0; normalized < 2; normalized++)
		for (int specials = 0; specials < 2; specials++) {
			const enum m2_err err = m2_added_set_init(&t->sets[normalized][specials],
				t->added, t->n_added, normalized != 0, specials != 0, l->why);
			if (err != M2_OK)
				return err;
		}
	return M2_OK;
}

/* Most bytes a token can add to a stream: its own, with each invalid part as U+FFFD. */
static size_t measure(const struct m2_tokenizer *t, const struct m2_span *span)
{
	const unsigned char *p = m2_span_bytes(t, span);
	size_t text = 0;
	for (size_t left = span->length; left > 0;) {
		uint32_t code;
		const int n = m2_utf8_decode(p, left, &code);
		const size_t used = n > 0 ? (size_t)n : n < 0 ? (size_t)-n : left;
		text += n > 0 ? used : 3;
		p += used;
		left -= used;
	}
	return text;
}

/* Is every space mark in a spelling at its beginning, but for other marks? */
static bool marks_begin(const struct m2_tokenizer *t, const struct m2_span *spelled)
{
	const unsigned char *p = m2_span_bytes(t, spelled);
	size_t at = 0;
	while (spelled->length - at >= 3 && memcmp(p + at, M2_SPACE_MARK, 3) == 0)
		at += 3;
	return memmem(p + at, spelled->length - at, M2_SPACE_MARK, 3) == NULL;
}

enum m2_err m2_load_finish(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	t->marks_begin = !t->has_unused; /* what those come apart into is asked of the whole text */
	for (int32_t id = 0; id < t->size; id++) {
		t->marks_begin &= marks_begin(t, &t->tokens[id].spelled);
		const size_t text = t->tokens[id].byte ? 3 : measure(t, &t->tokens[id].text);
		const size_t first = measure(t, &t->tokens[id].first);
		t->max_text = text > t->max_text ? text : t->max_text;
		t->max_text = first > t->max_text ? first : t->max_text;
	}
	const enum m2_err err = spell(l);
	return err == M2_OK ? make_sets(l) : err;
}
