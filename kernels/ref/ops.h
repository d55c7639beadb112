/* ops.h - the operators of a Mamba-2 layer, one token at a time.
 *
 * Letters as in kernels/backend.h.  Vectors are contiguous, matrices row-major.  Outputs may not
 * overlap inputs unless said.  Pure functions over the caller's memory: any thread, no allocation.
 * Maths: Dao & Gu 2024 (arXiv 2405.21060), sections 6 and 7.
 */
#ifndef M2_KERNELS_REF_OPS_H
#define M2_KERNELS_REF_OPS_H

#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/ref/real.h"

/* out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], the mean over each of `groups` equal parts of
 * the n elements.  out may be x. */
void M2_REF(rms_norm)(m2_real *out, const m2_real *x, const m2_real *weight, int32_t n,
	int32_t groups, m2_real eps);

/* out[rows] = weight[rows, cols] . x[cols] (+ bias[rows] unless NULL). */
void M2_REF(linear)(m2_real *out, const m2_real *weight, const m2_real *bias, const m2_real *x,
	int32_t rows, int32_t cols);

/* x * sigmoid(x), and log(1 + exp(x)). */
m2_real M2_REF(silu)(m2_real x);
m2_real M2_REF(softplus)(m2_real x);

/* Causal depthwise convolution and SiLU.  `window` [K-1, C] holds the raw columns before this one,
 * oldest first, and is moved on by one.  weight [C, K], weight[c][K-1] multiplies `column`;
 * bias [C] or NULL. */
void M2_REF(conv_step)(m2_real *out, m2_real *window, const m2_real *column, const m2_real *weight,
	const m2_real *bias, int32_t channels, int32_t taps);

/* What a token brings to the recurrence, after the convolution. */
struct M2_REF(ssm_input) {
	const m2_real *x;  /* [H, P] */
	const m2_real *b;  /* [G, N]; head h reads group h / (H / G) */
	const m2_real *c;  /* [G, N] */
	const m2_real *dt; /* [H], raw, as in_proj gives it */
};

struct M2_REF(ssm_weights) {
	const m2_real *dt_bias; /* [H] */
	const m2_real *a_log;   /* [H] */
	const m2_real *d;       /* [H], or [H, P] if d_per_channel */
};

/* state[H, P, N] = exp(dt A) state + dt x B^T;  y[H, P] = state C + D x. */
void M2_REF(ssm_step)(m2_real *y, m2_real *state, const struct M2_REF(ssm_input) * in,
	const struct M2_REF(ssm_weights) * w, const struct m2_model_desc *m);

/* out[Ds] from y[Ds] and the gate z[Ds], by gated_norm and norm_before_gate.  out may be y.
 * weight [Ds], NULL unless gated_norm. */
void M2_REF(gate)(m2_real *out, const m2_real *y, const m2_real *z, const m2_real *weight,
	const struct m2_model_desc *m);

#endif
