/* bpe.h - byte pair merging of one word.
 *
 * Internal to the room.  struct m2_bpe is immutable once filled; each thread brings its own scratch.
 * Source: Sennrich et al. 2016 (arXiv 1508.07909), in the byte-level form of GPT-2.
 */
#ifndef M2_MODEL_BPE_H
#define M2_MODEL_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct m2_bpe_pair {
	uint64_t key; /* left id << 32 | right id */
	uint32_t rank;
	int32_t result; /* -1: the slot is empty */
};

struct m2_bpe {
	int32_t byte_ids[256];     /* -1: the vocabulary has no token for this byte */
	struct m2_bpe_pair *pairs; /* open addressing, a power of two of slots */
	size_t n_slots;
};

enum m2_err m2_bpe_init(struct m2_bpe *bpe, size_t n_merges, struct m2_why *why);
void m2_bpe_finish(struct m2_bpe *bpe); /* safe on zeroed memory */

/* A pair that is there already gets the new rank, as in the reference library.  At most n_merges. */
void m2_bpe_add(struct m2_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result);

/* Working memory, reused from word to word; zeroed to begin with. */
struct m2_bpe_scratch {
	int32_t *ids;  /* one per byte; -1: taken by the one before */
	int32_t *next; /* -1: the last */
	int32_t *prev;
	uint64_t *heap; /* rank << 32 | position */
	size_t cap;     /* bytes of a word that fit */
};
void m2_bpe_scratch_finish(struct m2_bpe_scratch *scratch);

/* Merge a word of 1 <= n < 2^31 bytes; the ids of the result lie at scratch->ids, chained by
 * scratch->next from 0.  O(n log n).  A byte without a token is M2_EINVAL, so is n too large ELIMIT. */
enum m2_err m2_bpe_merge(const struct m2_bpe *bpe, const unsigned char *word, size_t n,
	struct m2_bpe_scratch *scratch, struct m2_why *why);

#endif
