/* sampler_cut.c - top-k and top-p without sorting: one selection by radix over the floats' bits.
 *
 * A histogram of weights over the leading bits of an order-preserving key, walked from the top, finds
 * the bucket in which the target is reached; two more rounds inside that bucket fix the exact key.
 * Time is linear whatever the logits are, which neither a quickselect nor a heap promises, and no
 * element moves until the one compaction at the end, so equal values stay in order of their ids.
 */
#include "daemon/sampler.h"

#include <float.h>
#include <string.h>

enum { N_LEVELS = 3, MAX_BUCKETS = 2048 };
static const struct {
	unsigned shift;
	unsigned bits;
} levels[N_LEVELS] = {{21, 11}, {10, 11}, {0, 10}};

/* Larger float, larger key; -0 and 0 are equal. */
static uint32_t key_of(float x)
{
	uint32_t bits;
	const float positive_zero = x + 0.0F;
	memcpy(&bits, &positive_zero, sizeof bits);
	return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFU : 0x80000000U);
}

struct search {
	uint32_t prefix; /* leading bits found so far, in place */
	uint32_t mask;   /* which bits those are */
	double before;   /* weight of everything with a larger prefix */
};

static void search_level(struct search *s, int level, const float *value, const float *weight,
	int32_t n, double target)
{
	double bucket[MAX_BUCKETS];
	const uint32_t count = 1U << levels[level].bits;
	memset(bucket, 0, count * sizeof *bucket);
	uint32_t lowest =
		count - 1; /* the lowest bucket with an element: where rounding may leave us */
	for (int32_t i = 0; i < n; i++) {
		const uint32_t key = key_of(value[i]);
		if ((key & s->mask) != s->prefix)
			continue;
		const uint32_t b = (key >> levels[level].shift) & (count - 1);
		bucket[b] += weight != NULL ? (double)weight[i] : 1.0;
		lowest = b < lowest ? b : lowest;
	}
	uint32_t b = count - 1;
	while (b > lowest && s->before + bucket[b] < target)
		s->before += bucket[b--];
	s->prefix |= b << levels[level].shift;
	s->mask |= (count - 1) << levels[level].shift;
}

int32_t m2_sampler_cut(float *value, float *weight, int32_t *ids, int32_t n, double target)
{
	struct search s = {0, 0, 0.0};
	if (target < DBL_MIN)
		target =
			DBL_MIN; /* "at least one": a target of 0 would be reached by an empty bucket */
	for (int level = 0; level < N_LEVELS; level++)
		search_level(&s, level, value, weight, n, target);
	double reached = s.before;
	int32_t kept = 0;
	for (int32_t i = 0; i < n; i++) {
		const uint32_t key = key_of(value[i]);
		if (key < s.prefix)
			continue;
		if (key == s.prefix) {
			/* the first of the equals is needed to reach the target; later ones only while it is
			 * not reached */
			if (reached >= target && reached > s.before)
				continue;
			reached += weight != NULL ? (double)weight[i] : 1.0;
		}
		value[kept] = value[i];
		ids[kept] = ids[i];
		if (weight != NULL)
			weight[kept] = weight[i];
		kept++;
	}
	return kept;
}
