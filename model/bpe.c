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
	size_t n_slots = 16;
	while (n_slots < 2 * n_merges)
		n_slots *= 2;
	bpe->count = 0;
	bpe->pairs = calloc(n_slots, sizeof *bpe->pairs);
	if (bpe->pairs == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for %zu merges", n_merges);
	bpe->n_slots = n_slots;
	for (size_t i = 0; i < bpe->n_slots; i++)
		bpe->pairs[i].result = -1;
	return M2_OK;
}

void m2_bpe_finish(struct m2_bpe *bpe)
{
	free(bpe->pairs);
	*bpe = (struct m2_bpe){.n_slots = 0};
}

static enum m2_err grow(struct m2_bpe *bpe, struct m2_why *why)
{
	struct m2_bpe larger;
	const enum m2_err err = m2_bpe_init(&larger, bpe->n_slots, why);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < bpe->n_slots; i++)
		if (bpe->pairs[i].result >= 0)
			*slot_of(&larger, bpe->pairs[i].key) = bpe->pairs[i];
	larger.count = bpe->count;
	free(bpe->pairs);
	*bpe = larger;
	return M2_OK;
}

enum m2_err m2_bpe_add(struct m2_bpe *bpe, int32_t left, int32_t right, uint32_t rank,
	int32_t result, struct m2_why *why)
{
	assert(result >= 0);
	if (2 * (bpe->count + 1) > bpe->n_slots) {
		const enum m2_err err = grow(bpe, why);
		if (err != M2_OK)
			return err;
	}
	const uint64_t key = pair_key(left, right);
	struct m2_bpe_pair *slot = slot_of(bpe, key);
	bpe->count += slot->result < 0;
	*slot = (struct m2_bpe_pair){.key = key, .rank = rank, .result = result};
	return M2_OK;
}

void m2_bpe_scratch_finish(struct m2_bpe_scratch *s)
{
	free(s->symbols);
	free(s->heap);
	s->symbols = NULL;
	s->heap = NULL;
	s->cap = 0;
}

enum m2_err m2_bpe_reserve(struct m2_bpe_scratch *s, size_t n, struct m2_why *why)
{
	if (n <= s->cap)
		return M2_OK;
	if (n > MAX_WORD)
		return m2_fail(M2_ELIMIT, why, "a word of %zu symbols, more than %d", n, MAX_WORD);
	const size_t cap = n < 64 ? 64 : n + n / 4;
	m2_bpe_scratch_finish(s);
	s->symbols = malloc(cap * sizeof *s->symbols);
	/* one entry per neighbouring pair at first; each merge takes one and puts at most two */
	s->heap = malloc(2 * cap * sizeof *s->heap);
	if (s->symbols == NULL || s->heap == NULL) {
		m2_bpe_scratch_finish(s);
		return m2_fail(M2_ENOMEM, why, "out of memory for a word of %zu symbols", n);
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
	if (at < 0 || s->symbols[at].next < 0)
		return;
	const int32_t left = s->symbols[at].id;
	const int32_t right = s->symbols[s->symbols[at].next].id;
	const struct m2_bpe_pair *pair = slot_of(bpe, pair_key(left, right));
	if (pair->result < 0)
		return;
	heap_push(s->heap, n_heap, (uint64_t)pair->rank << 32 | (uint32_t)at);
	if (s->made_of != NULL) {
		s->made_of[pair->result][0] = left;
		s->made_of[pair->result][1] = right;
	}
}

void m2_bpe_merge(const struct m2_bpe *bpe, struct m2_bpe_scratch *s, size_t n)
{
	struct m2_bpe_symbol *symbols = s->symbols;
	size_t n_heap = 0;
	for (size_t i = 0; i < n; i++) {
		symbols[i].prev = (int32_t)i - 1;
		symbols[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
	}
	for (size_t i = 0; i < n; i++)
		offer(bpe, s, &n_heap, (int32_t)i);
	while (n_heap > 0) {
		const uint64_t entry = heap_pop(s->heap, &n_heap);
		const int32_t at = (int32_t)(uint32_t)entry;
		const int32_t right = symbols[at].id < 0 ? -1 : symbols[at].next;
		if (right < 0)
			continue;
		const struct m2_bpe_pair *pair =
			slot_of(bpe, pair_key(symbols[at].id, symbols[right].id));
		if (pair->result < 0 || pair->rank != entry >> 32)
			continue;
		symbols[at].id = pair->result;
		symbols[right].id = -1;
		symbols[at].next = symbols[right].next;
		if (symbols[at].next >= 0)
			symbols[symbols[at].next].prev = at;
		offer(bpe, s, &n_heap, symbols[at].prev);
		offer(bpe, s, &n_heap, at);
	}
}
