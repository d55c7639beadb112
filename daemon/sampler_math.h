/* sampler_math.h - the few functions of sampling whose bits must not depend on the host.
 *
 * libm chooses its exp and log by processor (with and without fused multiply-add), so that the same
 * request could draw different tokens on two hosts.  These are plain arithmetic, compiled without
 * contraction: the same bits everywhere.  No state, any thread.
 */
#ifndef M2_DAEMON_SAMPLER_MATH_H
#define M2_DAEMON_SAMPLER_MATH_H

#include <stdint.h>

/* Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3): a
 * bijection of the counter under the key.  out may be counter. */
void m2_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Uniform in [0, 1) with 53 bits: the draw of `position` in stream `sequence` of `seed`. */
double m2_philox_uniform(uint64_t seed, uint32_t sequence, uint64_t position);

/* out[i] = exp(x[i] * scale) for x[i] <= 0, scale > 0, to 2 units in the last place; 0 where the product
 * is below -87 or -inf.  Returns the sum of out, added in f64 in index order.  out may be x. */
double m2_exp_row(float *out, const float *x, float scale, int32_t count);

/* Natural logarithm of a finite x > 0, to about 1e-16 relative. */
double m2_log_positive(double x);

#endif
