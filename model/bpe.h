/* bpe.h - byte pair merging of one word, whatever its symbols are.
 *
 * Internal to the room.  struct m2_bpe is immutable once filled; each thread brings its own scratch.
 * Source: Sennrich et al. 2016 (arXiv 1508.07909); the symbols to begin with are bytes in GPT-2's
 * form and characters in SentencePiece's.
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
	struct m2_bpe_pair *pairs; /* open addressing, a power of two of slots */
	size_t n_slots;
	size_t count;
};

/* Room for so many pairs at once; more may be added.  Errors: ENOMEM. */
enum m2_err m2_bpe_init(struct m2_bpe *bpe, size_t n_merges, struct m2_why *why);
void m2_bpe_finish(struct m2_bpe *bpe); /* safe on zeroed memory */

/* A pair that is there already gets the new rank, as in the reference library.  Errors: ENOMEM. */
enum m2_err m2_bpe_add(struct m2_bpe *bpe, int32_t left, int32_t right, uint32_t rank,
	int32_t result, struct m2_why *why);

struct m2_bpe_symbol {
	int32_t id;   /* -1: taken by the one before.  Ids that no pair has merge with nothing */
	int32_t next; /* -1: the last */
	int32_t prev;
};

/* Working memory, reused from word to word; zeroed to begin with. */
struct m2_bpe_scratch {
	struct m2_bpe_symbol *symbols;
	uint64_t *heap; /* rank << 32 | position */
	size_t cap;     /* symbols that fit */
	/* By result: the pair that was last found to make it, where somebody asks (else NULL).
	 * Owned by whoever set it. */
	int32_t (*made_of)[2];
};
void m2_bpe_scratch_finish(struct m2_bpe_scratch *scratch);

/* Room for a word of n < 2^30 symbols.  Errors: ELIMIT, ENOMEM. */
enum m2_err m2_bpe_reserve(struct m2_bpe_scratch *scratch, size_t n, struct m2_why *why);

/* Merge the n >= 1 symbols whose ids lie in scratch->symbols: lowest rank first, leftmost of equal
 * ranks.  What remains is chained by `next` from symbol 0.  O(n log n). */
void m2_bpe_merge(const struct m2_bpe *bpe, struct m2_bpe_scratch *scratch, size_t n);

#endif
