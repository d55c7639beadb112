/* mixer.cuh - what the mixer's kernels share: where things lie, the step dt, sums over a block.
 *
 * Private to kernels/cuda.
 */
#ifndef M2_KERNELS_CUDA_MIXER_CUH
#define M2_KERNELS_CUDA_MIXER_CUH

#include "kernels/cuda/convert.cuh"

/* Sum over the block, the same in all threads; `scratch` has 32 floats. */
__device__ inline float block_sum(float value, float *scratch)
{
	for (int step = 16; step > 0; step >>= 1)
		value += __shfl_xor_sync(0xffffffffu, value, step);
	__syncthreads(); /* scratch may still be read from the last time */
	if ((threadIdx.x & 31) == 0)
		scratch[threadIdx.x >> 5] = value;
	__syncthreads();
	float total = scratch[0];
	for (unsigned w = 1; w < blockDim.x >> 5; w++)
		total += scratch[w];
	return total;
}

/* Where xBC and dt begin in a row of in_out. */
__device__ inline int32_t xbc_at(const struct m2_cuda_mixer &m)
{
	return 2 * m.d_mlp + m.d_ssm;
}

/* The raw column of channel c at `from` tokens from the item's first, negative: before it. */
__device__ inline float raw_column(
	const struct m2_cuda_mixer &m, const struct m2_cuda_item &item, int32_t from, int32_t c)
{
	if (from >= 0)
		return m.in_out[(size_t)(item.first + from) * (size_t)m.in_stride +
				(size_t)(xbc_at(m) + c)];
	const int32_t column = (item.into_ring + from + m.taps) % m.taps;
	return m.ring[(size_t)item.slot * m.slot_floats + (size_t)column * (size_t)m.channels +
		      (size_t)c];
}

/* Whether token t of an item lies in a whole chunk. */
__device__ inline bool is_chunked(const struct m2_cuda_item &item, int32_t t)
{
	return t >= item.lead && t < item.lead + item.chunks * 64;
}

/* What in_proj says about the step of head h at a row. */
__device__ inline float raw_dt(const struct m2_cuda_mixer &m, int32_t row, int32_t h)
{
	return m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)(xbc_at(m) + m.channels + h)];
}

/* The step dt, from that and its bias. */
__device__ inline float dt_with(const struct m2_cuda_mixer &m, float biased)
{
	const float soft = biased > 20.0f ? biased : log1pf(expf(biased));
	return fminf(fmaxf(soft, m.dt_min), m.dt_max);
}
__device__ inline float dt_of(const struct m2_cuda_mixer &m, int32_t row, int32_t h)
{
	return dt_with(m, raw_dt(m, row, h) + m.dt_bias[h]);
}

/* dt and its decay. */
__device__ inline float2 step_with(const struct m2_cuda_mixer &m, float biased, float a)
{
	const float dt = dt_with(m, biased);
	return make_float2(dt, expf(dt * a));
}
__device__ inline float2 step_from(const struct m2_cuda_mixer &m, float raw, int32_t h)
{
	return step_with(m, raw + m.dt_bias[h], m.a[h]);
}
__device__ inline float2 step_of(const struct m2_cuda_mixer &m, int32_t row, int32_t h)
{
	return step_from(m, raw_dt(m, row, h), h);
}

#endif
