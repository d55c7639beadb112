/* pick.c - the greedy choice, in two passes over the row: the largest, then the sum of exp(x - largest).
 *
 * Sixteen strands side by side, in the vectors that every processor has (the same bits on all), put
 * together in one order.  The largest counts 1 in the sum and is kept out of the strands, so that a nearly
 * certain token keeps the small doubt there is: its log probability is -log(1 + the others).
 *
 * log: x = m * 2^e with m in [sqrt(1/2), sqrt(2)), then 2 atanh((m - 1) / (m + 1)) as a series.
 */
#include "kernels/pick.h"

#include <math.h>
#include <string.h>

#include "kernels/cpu/vec_portable.h"
#include "kernels/cpu/vec_math.h"

enum { BLOCK = 1024, STRANDS = 4 /* vectors */ };

/* row[first..] in a block of its own, filled up with what is never the largest and counts nothing. */
static void take_block(float *block, const float *row, int32_t first, int32_t limit)
{
	const int32_t n = limit - first < BLOCK ? limit - first : BLOCK;
	memcpy(block, row + first, (size_t)n * sizeof *block);
	for (int32_t i = n; i < BLOCK; i++)
		block[i] = -INFINITY;
}

static float largest_of(const float *row, int32_t limit)
{
	float block[BLOCK], lane[STRANDS * VF_LANES];
	vf largest[STRANDS];
	for (int j = 0; j < STRANDS; j++)
		largest[j] = vf_set1(-INFINITY);
	for (int32_t first = 0; first < limit; first += BLOCK) {
		take_block(block, row, first, limit);
		for (int32_t i = 0; i < BLOCK; i += STRANDS * VF_LANES)
			for (int j = 0; j < STRANDS; j++) /* this way round a NaN is passed over */
				largest[j] = vf_max(vf_load(block + i + j * VF_LANES), largest[j]);
	}
	for (int j = 0; j < STRANDS; j++)
		vf_store(lane + j * VF_LANES, largest[j]);
	for (int j = 1; j < STRANDS * VF_LANES; j++)
		lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
	return lane[0];
}

/* Sum of exp(x - largest) over all ids but this one; f32 in a strand of a block, f64 beyond. */
static double others_of(const float *row, int32_t limit, float largest, int32_t id)
{
	float block[BLOCK], lane[VF_LANES];
	double sum = 0.0;
	for (int32_t first = 0; first < limit; first += BLOCK) {
		vf strand[STRANDS] = {{0}, {0}, {0}, {0}};
		take_block(block, row, first, limit);
		if (id >= first && id - first < BLOCK)
			block[id - first] = -INFINITY;
		for (int32_t i = 0; i < BLOCK; i += STRANDS * VF_LANES)
			for (int j = 0; j < STRANDS; j++)
				strand[j] = vf_add(
					strand[j], vf_exp(vf_sub(vf_load(block + i + j * VF_LANES),
							   vf_set1(largest))));
		for (int j = 0; j < STRANDS; j++) {
			vf_store(lane, strand[j]);
			for (int l = 0; l < VF_LANES; l++)
				sum += (double)lane[l];
		}
	}
	return sum;
}

static bool all_finite(const float *row, int32_t limit)
{
	int32_t odd = 0;
	for (int32_t i = 0; i < limit; i++) {
		uint32_t bits;
		memcpy(&bits, &row[i], sizeof bits);
		odd |= (bits & 0x7f800000u) == 0x7f800000u;
	}
	return odd == 0;
}

/* Of x >= 1, finite. */
static double log_of(double x)
{
	uint64_t bits;
	memcpy(&bits, &x, sizeof bits);
	int exponent = (int)(bits >> 52) - 1023;
	bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
	double m;
	memcpy(&m, &bits, sizeof m);
	if (m > 1.4142135623730951) {
		m *= 0.5;
		exponent++;
	}
	const double s = (m - 1.0) / (m + 1.0);
	const double z = s * s;
	double series = 0.0;
	for (int k = 21; k >= 3; k -= 2)
		series = (series + 1.0 / k) * z;
	return exponent * 0.69314718055994530942 + 2.0 * (s + s * series);
}

void m2_pick_row(const float *row, int32_t limit, struct m2_pick *out)
{
	const float largest = largest_of(row, limit);
	int32_t id = 0;
	while (id < limit && !(row[id] == largest))
		id++;
	out->token = id < limit ? id : 0; /* all NaN */
	out->logit = row[out->token];
	out->logprob = NAN;
	if (all_finite(row, limit))
		out->logprob = (float)(0.0 - log_of(1.0 + others_of(row, limit, largest, id)));
}
