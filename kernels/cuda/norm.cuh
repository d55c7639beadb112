/* norm.cuh - what a product's sums are multiplied with, the same bits wherever it is computed.
 *
 * Private to kernels/cuda.
 */
#ifndef M2_KERNELS_CUDA_NORM_CUH
#define M2_KERNELS_CUDA_NORM_CUH

#include "kernels/cuda/convert.cuh"

/* Of row t, group g of an input.  Whole warps call it; the four lanes of a quad must ask for the same,
 * and all get the result.  The partial sums are added in four strands. */
__device__ inline float input_scale(const struct m2_cuda_input &in, int32_t t, int32_t g)
{
	const size_t row = in.from != NULL ? (size_t)in.from[t] : (size_t)t;
	const float *squares =
		in.squares + (row * (size_t)in.groups + (size_t)g) * (size_t)in.parts;
	float sum = 0.0f;
#pragma unroll 16
	for (int32_t i = (int32_t)threadIdx.x & 3; i < in.parts; i += 4)
		sum += squares[i];
	sum += __shfl_xor_sync(0xffffffffu, sum, 1);
	sum += __shfl_xor_sync(0xffffffffu, sum, 2);
	return in.factor * rsqrtf(sum / (float)in.width + in.eps);
}

/* scales[row][group] of rows [t0, t0 + Rows) by the whole block, for the input's groups; 1 where there is
 * nothing to multiply with or no such row.  A barrier must follow. */
template <int Rows>
__device__ inline void fill_scales(
	float (&scales)[Rows][8], const struct m2_cuda_input &in, int32_t t0, int32_t m)
{
	/* Rows is a multiple of 8: whole warps go round together, for the shuffles */
	for (int32_t i = (int32_t)threadIdx.x / 4; i < Rows * in.groups;
		i += (int32_t)blockDim.x / 4) {
		const int32_t t = t0 + i % Rows, g = i / Rows;
		const bool there = in.squares != NULL && t < m;
		const float scale = in.squares != NULL ? input_scale(in, there ? t : 0, g) : 1.0f;
		if ((threadIdx.x & 3) == 0)
			scales[i % Rows][g] = there ? scale : 1.0f;
	}
}

#endif
