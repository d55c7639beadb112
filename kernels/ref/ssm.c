/* ssm.c - the selective state space recurrence: one token, all heads.
 *
 * Zero-order hold on A, Euler on B, so dt multiplies B x; the skip D multiplies x alone; y reads
 * the updated state.  dt is clamped after softplus for every token, prompt or not.
 */
#include "kernels/ref/ops.h"

m2_real M2_REF(softplus)(m2_real x)
{
	return x > 20 ? x : real_log1p(real_exp(x)); /* exp overflows for large x; equal there */
}

static m2_real clamp(m2_real x, m2_real low, m2_real high)
{
	return x < low ? low : x > high ? high : x;
}

void M2_REF(ssm_step)(m2_real *y, m2_real *state, const struct M2_REF(ssm_input) * in,
	const struct M2_REF(ssm_weights) * w, const struct m2_model_desc *m)
{
	const int32_t P = m->head_dim, N = m->state_size;

	for (int32_t h = 0; h < m->n_heads; h++) {
		const int32_t group = h / (m->n_heads / m->n_groups);
		const m2_real *b = in->b + group * N;
		const m2_real *c = in->c + group * N;
		const m2_real dt = clamp(M2_REF(softplus)(in->dt[h] + w->dt_bias[h]),
			(m2_real)m->dt_min, (m2_real)m->dt_max);
		const m2_real a = m->a_given ? w->a_log[h] : -real_exp(w->a_log[h]);
		const m2_real decay = real_exp(dt * a);

		for (int32_t p = 0; p < P; p++) {
			const m2_real x = in->x[h * P + p];
			const m2_real d = m->d_per_channel ? w->d[h * P + p] : w->d[h];
			m2_real *s = state + ((int64_t)h * P + p) * N;
			m2_real sum = 0;
			for (int32_t n = 0; n < N; n++) {
				s[n] = decay * s[n] + dt * x * b[n];
				sum += c[n] * s[n];
			}
			y[h * P + p] = sum + d * x;
		}
	}
}
