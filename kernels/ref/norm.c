/* norm.c - RMS norm, and the gate that ends the mixer (gated norm).
 *
 * The gated norm runs over each of norm_groups equal parts: the definition of mamba_ssm, which the
 * public models were trained with.
 */
#include "kernels/ref/ops.h"

void M2_REF(rms_norm)(m2_real *out, const m2_real *x, const m2_real *weight, int32_t n,
	int32_t groups, m2_real eps)
{
	const int32_t width = n / groups;
	for (int32_t first = 0; first < n; first += width) {
		m2_real sum = 0;
		for (int32_t i = first; i < first + width; i++)
			sum += x[i] * x[i];
		const m2_real rms = real_sqrt(sum / (m2_real)width + eps);
		for (int32_t i = first; i < first + width; i++)
			out[i] = x[i] / rms * weight[i];
	}
}

void M2_REF(gate)(m2_real *out, const m2_real *y, const m2_real *z, const m2_real *weight,
	const struct m2_model_desc *m)
{
	const int32_t n = m2_desc_d_ssm(m);
	const m2_real eps = (m2_real)m->norm_eps;

	if (m->gated_norm && m->norm_before_gate) {
		M2_REF(rms_norm)(out, y, weight, n, m->norm_groups, eps);
		for (int32_t i = 0; i < n; i++)
			out[i] *= M2_REF(silu)(z[i]);
		return;
	}
	for (int32_t i = 0; i < n; i++)
		out[i] = y[i] * M2_REF(silu)(z[i]);
	if (m->gated_norm)
		M2_REF(rms_norm)(out, out, weight, n, m->norm_groups, eps);
}
