/* sampler.h - from a row of logits to a token, and to log-probabilities.
 *
 * Pure functions over caller-owned memory: no clock, no random state, no allocation, no locks; fit
 * for the step loop.  Same logits, same settings, same seed, sequence and position: same token,
 * whatever runs beside and on whatever host (daemon/sampler_math.h).
 *
 * A row has `vocab` entries that may be chosen; rows of padding behind them are never looked at, so
 * they are neither chosen nor part of any normalisation.  Order of the operations, in f32:
 *
 *   1. logit bias: added
 *   2. repetition penalty r over tokens of the prompt and generated ones (Keskar et al. 2019, CTRL,
 *      section 4.1): x > 0 ? x / r : x * r
 *   3. presence and frequency penalties over generated tokens: x - presence - frequency * count
 *   4. temperature 0: the largest, the lowest id among equals; done.  Else weights
 *      w = exp((x - max) / temperature)
 *   5. top-k: the k largest; among equals the lower ids
 *   6. top-p: of those the fewest, largest first, whose weights reach p of their sum; at least one
 *   7. min-p: drop what weighs less than min_p times the largest
 *   8. draw: u * sum of weights, walked in order of ids; u = m2_philox_uniform(seed, sequence, position)
 */
#ifndef M2_DAEMON_SAMPLER_H
#define M2_DAEMON_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/request.h"

/* Working memory for rows of up to `vocab` entries; one per thread of use. */
struct m2_sampler {
	int32_t vocab;
	float *value;  /* [vocab] */
	float *weight; /* [vocab] */
	int32_t *ids;  /* [vocab] */
};

/* Bytes that m2_sampler_init allocates. */
size_t m2_sampler_bytes(int32_t vocab);
enum m2_err m2_sampler_init(struct m2_sampler *sampler, int32_t vocab, struct m2_why *why);
void m2_sampler_finish(struct m2_sampler *sampler);

/* How often each token was seen: a hash over at most `capacity` distinct ids, all memory taken at
 * init.  Zeroed is "nothing counted, nothing wanted" and costs nothing. */
struct m2_token_count {
	int32_t id;
	uint32_t generated; /* times among generated tokens; 0: in the prompt only */
};

struct m2_counts {
	uint32_t n;
	uint32_t capacity;
	uint32_t mask;                /* of index; a power of two less 1 */
	struct m2_token_count *entry; /* [capacity], in order of first sight */
	uint32_t *index;              /* [mask + 1]: place in entry + 1, 0: free */
};

/* Bytes that m2_counts_init allocates for that many distinct ids; overflow gives SIZE_MAX. */
size_t m2_counts_bytes(size_t capacity);
enum m2_err m2_counts_init(struct m2_counts *counts, size_t capacity, struct m2_why *why);
void m2_counts_finish(struct m2_counts *counts);
/* generated = 0 for a token of the prompt, 1 for one more generated.  No effect on a zeroed table. */
void m2_counts_add(struct m2_counts *counts, int32_t id, uint32_t generated);

/* What is the same for every token of one sequence. */
struct m2_sampler_rule {
	const struct m2_sampling *settings; /* temperature .. seed; in range */
	const struct m2_logit_bias *bias;   /* [n_bias], ids >= 0; those >= vocab have no effect */
	uint32_t n_bias;
	uint32_t sequence;
};

/* Choose the token at `position` (0 for the first generated one) of a sequence.  logits: [vocab], read
 * only.  M2_EDEVICE: a value is not finite (what the device computed is not usable). */
enum m2_err m2_sampler_choose(struct m2_sampler *sampler, const float *logits,
	const struct m2_sampler_rule *rule, const struct m2_counts *counts, uint64_t position,
	int32_t *token, struct m2_why *why);

/* log softmax of the logits themselves: logprob of `token` (-inf if token >= vocab), and the top_k
 * most probable with theirs, most probable first, lower ids first among equals (top_k > vocab: the
 * rest are -1 and -inf).  exp in f32, sums in f64.  Errors as m2_sampler_choose. */
enum m2_err m2_sampler_logprobs(struct m2_sampler *sampler, const float *logits, int32_t token,
	uint32_t top_k, float *logprob, int32_t *top_ids, float *top_logprobs, struct m2_why *why);

/* The cuts of steps 5 and 6, for the sampler and its tests: of value[n] keep, largest first, lower
 * index first among equals, the fewest whose weights (NULL: 1 each) reach `target`, at least one.  The
 * kept stay in order of index; ids and weight (unless NULL) move along.  Returns how many. */
int32_t m2_sampler_cut(float *value, float *weight, int32_t *ids, int32_t n, double target);

#endif
