/* bpe.c - merges in order of rank, leftmost first, with a heap over a linked list.
 *
 * The textbook loop (find the best pair, merge it everywhere) is quadratic in a word, and a megabyte
 * without a space is one word.  Entries of the heap are not removed when their pair changes: they are
 * recognised as stale when they come up, because the pair at that place then has another rank.
 */
#include "model/bpe.h"

#include <assert.h>
#include <stdlib.h>

enum { MAX_WORD = 1 << 30 };

static uint64_t pair_key(int32_t left, int32_t right)
{
	return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot of the key, or the empty one where it would go. */
static struct m2_bpe_pair *slot_of(const struct m2_bpe *bpe, uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15u;
	hash ^= hash >> 32;
	size_t at = hash & (bpe->n_slots - 1);
	while (bpe->pairs[at].result >= 0 && bpe->pairs[at].key != key)
		at = (at + 1) & (bpe->n_slots - 1);
	return &bpe->pairs[at];
}

enum m2_err m2_bpe_init(struct m2_bpe *bpe, size_t n_merges, struct m2_why *why)
{
	bpe->n_slots = 16;
	while (bpe->n_slots < 2 * n_merges)
		bpe->n_slots *= 2;
	bpe->pairs = calloc(bpe->n_slots, sizeof *bpe->pairs);
	if (bpe->pairs == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for %zu merges", n_merges);
	for (size_t i = 0; i < bpe->n_slots; i++)
		bpe->pairs[i].result = -1;
	for (size_t i = 0; i < 256; i++)
		bpe->byte_ids[i] = -1;
	return M2_OK;
}

void m2_bpe_finish(struct m2_bpe *bpe)
{
	free(bpe->pairs);
	bpe->pairs = NULL;
	bpe->n_slots = 0;
}

void m2_bpe_add(struct m2_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result)
{
	assert(result >= 0);
	const uint64_t key = pair_key(left, right);
	*slot_of(bpe, key) = (struct m2_bpe_pair){.key = key, .rank = rank, .result = result};
}

void m2_bpe_scratch_finish(struct m2_bpe_scratch *s)
{
	free(s->ids);
	free(s->next);
	free(s->prev);
	free(s->heap);
	*s = (struct m2_bpe_scratch){.cap = 0};
}

static enum m2_err reserve(struct m2_bpe_scratch *s, size_t n, struct m2_why *why)
{
	if (n <= s->cap)
		return M2_OK;
	if (n > MAX_WORD)
		return m2_fail(M2_ELIMIT, why, "a word of %zu bytes, more than %d", n, MAX_WORD);
	const size_t cap = n < 64 ? 64 : n + n / 4;
	m2_bpe_scratch_finish(s);
	s->ids = malloc(cap * sizeof *s->ids);
	s->next = malloc(cap * sizeof *s->next);
	s->prev = malloc(cap * sizeof *s->prev);
	/* one entry per neighbouring pair at first; each merge takes one and puts at most two */
	s->heap = malloc(2 * cap * sizeof *s->heap);
	if (s->ids == NULL || s->next == NULL || s->prev == NULL || s->heap == NULL) {
		m2_bpe_scratch_finish(s);
		return m2_fail(M2_ENOMEM, why, "out of memory for a word of %zu bytes", n);
	}
	s->cap = cap;
	return M2_OK;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t entry)
{
	size_t at = (*n)++;
	while (at > 0 && heap[(at - 1) / 2] > entry) {
		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
	const uint64_t top = heap[0];
	const uint64_t moved = heap[--*n];
	size_t at = 0;
	for (;;) {
		size_t child = 2 * at + 1;
		if (child >= *n)
			break;
		if (child + 1 < *n && heap[child + 1] < heap[child])
			child++;
		if (heap[child] >= moved)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moved;
	return top;
}

/* Put the pair that begins at `at` on the heap, if it can merge. */
static void offer(const struct m2_bpe *bpe, struct m2_bpe_scratch *s, size_t *n_heap, int32_t at)
{
	if (at < 0 || s->next[at] < 0)
		return;
	const struct m2_bpe_pair *pair = slot_of(bpe, pair_key(s->ids[at], s->ids[s->next[at]]));
	if (pair->result >= 0)
		heap_push(s->heap, n_heap, (uint64_t)pair->rank << 32 | (uint32_t)at);
}

enum m2_err m2_bpe_merge(const struct m2_bpe *bpe, const unsigned char *word, size_t n,
	struct m2_bpe_scratch *s, struct m2_why *why)
{
	const enum m2_err err = reserve(s, n, why);
	if (err != M2_OK)
		return err;
	size_t n_heap = 0;
	for (size_t i = 0; i < n; i++) {
		s->ids[i] = bpe->byte_ids[word[i]];
		s->prev[i] = (int32_t)i - 1;
		s->next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
		if (s->ids[i] < 0)
			return m2_fail(M2_EINVAL, why,
				"the tokenizer has no token for the byte 0x%02x of the text",
				word[i]);
	}
	for (size_t i = 0; i < n; i++)
		offer(bpe, s, &n_heap, (int32_t)i);
	while (n_heap > 0) {
		const uint64_t entry = heap_pop(s->heap, &n_heap);
		const int32_t at = (int32_t)(uint32_t)entry;
		const int32_t right = s->ids[at] < 0 ? -1 : s->next[at];
		if (right < 0)
			continue;
		const struct m2_bpe_pair *pair = slot_of(bpe, pair_key(s->ids[at], s->ids[right]));
		if (pair->result < 0 || pair->rank != entry >> 32)
			continue;
		s->ids[at] = pair->result;
		s->ids[right] = -1;
		s->next[at] = s->next[right];
		if (s->next[at] >= 0)
			s->prev[s->next[at]] = at;
		offer(bpe, s, &n_heap, s->prev[at]);
		offer(bpe, s, &n_heap, at);
	}
	return M2_OK;
}
