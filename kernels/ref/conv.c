/* conv.c - the short causal convolution over x, B and C, and SiLU.
 *
 * The state holds raw columns, before the convolution: a span may end anywhere.
 */
#include "kernels/ref/ops.h"

m2_real M2_REF(silu)(m2_real x)
{
	return x / (1 + real_exp(-x));
}

void M2_REF(conv_step)(m2_real *out, m2_real *window, const m2_real *column, const m2_real *weight,
	const m2_real *bias, int32_t channels, int32_t taps)
{
	for (int32_t c = 0; c < channels; c++) {
		const m2_real *w = weight + (int64_t)c * taps;
		m2_real sum = bias != NULL ? bias[c] : 0;
		for (int32_t j = 0; j < taps - 1; j++)
			sum += w[j] * window[(int64_t)j * channels + c];
		sum += w[taps - 1] * column[c];
		out[c] = M2_REF(silu)(sum);
	}
	for (int32_t j = 0; j < taps - 1; j++) {
		const m2_real *next =
			j + 1 < taps - 1 ? window + (int64_t)(j + 1) * channels : column;
		for (int32_t c = 0; c < channels; c++)
			window[(int64_t)j * channels + c] = next[c];
	}
}
