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

/* The same bits by one thread, for input_scale's callers that have more rows than quads: its four strands
 * in four registers, read 16 bytes at a time where they lie so.  1 where there is nothing to multiply
 * with or no row t among m. */
template <int Unroll = 16>
__device__ inline float row_scale(const struct m2_cuda_input &in, int32_t t, int32_t g, int32_t m)
{
	if (in.squares == NULL || t >= m)
		return 1.0f;
	const size_t row = in.from != NULL ? (size_t)in.from[t] : (size_t)t;
	const float *squares =
		in.squares + (row * (size_t)in.groups + (size_t)g) * (size_t)in.parts;
	float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
	if ((in.parts & 3) == 0) {
#pragma unroll Unroll
		for (int32_t i = 0; i < in.parts; i += 4) {
			const float4 four = *(const float4 *)(squares + i);
			a += four.x;
			b += four.y;
			c += four.z;
			d += four.w;
		}
	} else {
		for (int32_t i = 0; i < in.parts; i += 4) {
			a += squares[i];
			b += i + 1 < in.parts ? squares[i + 1] : 0.0f;
			c += i + 2 < in.parts ? squares[i + 2] : 0.0f;
			d += i + 3 < in.parts ? squares[i + 3] : 0.0f;
		}
	}
	return in.factor * rsqrtf(((a + b) + (c + d)) / (float)in.width + in.eps);
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
