/* tokenizer_words.c - tokens by their spelling.
 *
 * Open addressing over ids: the spellings lie in the tokenizer's bytes already.  The hash is a
 * polynomial, so that the hash of any part follows from those of two beginnings (tokenizer_pieces.c
 * tries every cut of every piece).
 */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_parts.h"

static size_t slot_of(
	const struct m2_tokenizer *t, uint64_t hash, const unsigned char *word, size_t length)
{
	hash *= 0x9e3779b97f4a7c15u; /* the low bits of a polynomial hash see the last bytes only */
	size_t slot = (hash ^ hash >> 32) & (t->n_word_slots - 1);
	while (t->words[slot] != 0) {
		const struct m2_span *s = &t->tokens[t->words[slot] - 1].spelled;
		if (s->length == length && memcmp(t->bytes + s->at, word, length) == 0)
			break;
		slot = (slot + 1) & (t->n_word_slots - 1);
	}
	return slot;
}

int32_t m2_word_find_hashed(
	const struct m2_tokenizer *t, uint64_t hash, const unsigned char *word, size_t length)
{
	return t->n_word_slots == 0 ? -1 : t->words[slot_of(t, hash, word, length)] - 1;
}

int32_t m2_word_find(const struct m2_tokenizer *t, const unsigned char *word, size_t length)
{
	return m2_word_find_hashed(t, m2_word_hash(0, word, length), word, length);
}

static void put(struct m2_tokenizer *t, int32_t id)
{
	const struct m2_span *s = &t->tokens[id].spelled;
	const unsigned char *word = m2_span_bytes(t, s);
	t->words[slot_of(t, m2_word_hash(0, word, s->length), word, s->length)] = id + 1;
}

static enum m2_err grow(struct m2_tokenizer *t, struct m2_why *why)
{
	int32_t *old = t->words;
	const size_t n_old = t->n_word_slots;
	const size_t n = n_old == 0 ? 1024 : 2 * n_old;
	int32_t *slots = calloc(n, sizeof *slots);
	if (slots == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for %zu words", n);
	t->words = slots;
	t->n_word_slots = n;
	for (size_t i = 0; i < n_old; i++)
		if (old[i] != 0)
			put(t, old[i] - 1);
	free(old);
	return M2_OK;
}

enum m2_err m2_word_add(struct m2_tokenizer *t, int32_t id, struct m2_why *why)
{
	if (2 * (t->n_words + 1) > t->n_word_slots) {
		const enum m2_err err = grow(t, why);
		if (err != M2_OK)
			return err;
	}
	put(t, id);
	t->n_words++;
	return M2_OK;
}

void m2_words_clear(struct m2_tokenizer *t)
{
	if (t->words != NULL)
		memset(t->words, 0, t->n_word_slots * sizeof *t->words);
	t->n_words = 0;
}
