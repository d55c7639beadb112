/* linear.c - projections: in_proj, out_proj and the head. */
#include "kernels/ref/ops.h"

void M2_REF(linear)(m2_real *out, const m2_real *weight, const m2_real *bias, const m2_real *x,
	int32_t rows, int32_t cols)
{
	for (int32_t row = 0; row < rows; row++) {
		m2_real sum = 0;
		for (int32_t col = 0; col < cols; col++)
			sum += weight[(int64_t)row * cols + col] * x[col];
		out[row] = bias != NULL ? sum + bias[row] : sum;
	}
}
