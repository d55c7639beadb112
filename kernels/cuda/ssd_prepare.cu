/* ssd_prepare.cu - before the scan of spans: convolution of all their rows, decays of whole chunks.
 *
 * A thread has two channels (with four, the registers left room for a quarter of the warps, and loads
 * were what they waited for) of up to eight tokens of one item and moves a window of raw columns over
 * them: each column is read about once.  The tile with an item's first token is the only one that looks
 * into the ring, and so the one that may then write the item's last columns there.  Rows of whole chunks
 * leave as the 16-bit operands that the scan wants, other rows as floats, with the bits that a single
 * token gets (mix.cu).
 */
#include "kernels/cuda/ssd.cuh"

enum {
	TAPS = 4,
	PER_BLOCK = SSD_THREADS / 32, /* heads */
	CHANNELS = 2 * SSD_THREADS    /* of a block */
};

/* ---- decays --------------------------------------------------------------------------------- */

/* The least power of two that is not below a sum of dt; within what f32 and its inverse hold. */
__device__ inline float unit_above(float x)
{
	const uint32_t bits = __float_as_uint(fminf(fmaxf(x, 0x1p-20f), 0x1p100f));
	return __uint_as_float((bits + 0x007fffffu) & 0x7f800000u);
}

__device__ inline float largest_of_warp(float x)
{
	for (int step = 16; step > 0; step >>= 1)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
	return x;
}

/* By a warp; lane l has tokens 2 l and 2 l + 1. */
__device__ inline void make_steps(const struct m2_cuda_mixer &m, int32_t chunk, int32_t h)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	const int32_t row = m.chunk_rows[chunk] + 2 * lane;
	const float a = m.a[h];
	const float dt0 = dt_of(m, row, h), dt1 = dt_of(m, row + 1, h);
	const float da0 = fmaxf(dt0 * a, -128.0f), da1 = fmaxf(dt1 * a, -128.0f);
	float through = da0 + da1; /* sums of this lane's and all lanes' before */
	for (int step = 1; step < 32; step <<= 1) {
		const float before = __shfl_up_sync(0xffffffffu, through, step);
		through = lane >= step ? through + before : through;
	}
	const float before = __shfl_up_sync(0xffffffffu, through, 1);
	const float s0 = (lane > 0 ? before : 0.0f) + da0, s1 = s0 + da1;
	const float last = __shfl_sync(0xffffffffu, s1, 31);
	const float w0 = quick_exp(last - s0) * dt0, w1 = quick_exp(last - s1) * dt1;
	const float dt_unit = unit_above(largest_of_warp(fmaxf(dt0, dt1)));
	const float weight_unit = unit_above(largest_of_warp(fmaxf(w0, w1)));
	float *to = steps_of(m, chunk, h);
	((float2 *)(to + STEPS_SUM))[lane] = make_float2(s0, s1);
	((float2 *)(to + STEPS_DT))[lane] = make_float2(dt0 / dt_unit, dt1 / dt_unit);
	((float2 *)(to + STEPS_WEIGHT))[lane] = make_float2(w0 / weight_unit, w1 / weight_unit);
	if (lane == 0)
		*(float4 *)(to + STEPS_DT_UNIT) =
			make_float4(dt_unit, quick_exp(last), weight_unit, 0.0f);
}

/* ---- convolution ---------------------------------------------------------------------------- */

struct two_channels {
	float2 weight[TAPS]; /* of tap j in both */
	float2 bias;
	int32_t c;

	__device__ void load(const struct m2_cuda_mixer &m, int32_t at)
	{
		c = at;
		const float4 *of = (const float4 *)(m.conv + (size_t)c * TAPS);
		const float4 first = of[0], second = of[1];
		weight[0] = make_float2(first.x, second.x);
		weight[1] = make_float2(first.y, second.y);
		weight[2] = make_float2(first.z, second.z);
		weight[3] = make_float2(first.w, second.w);
		bias = m.conv_bias != NULL ? *(const float2 *)(m.conv_bias + c)
					   : make_float2(0.0f, 0.0f);
	}
	/* oldest first: the order in which a single token adds */
	__device__ float2 sum(const float2 *window) const
	{
		float2 v = bias;
#pragma unroll
		for (int j = 0; j < TAPS; j++) {
			v.x = fmaf(weight[j].x, window[j].x, v.x);
			v.y = fmaf(weight[j].y, window[j].y, v.y);
		}
		return v;
	}
};

/* The raw columns of two channels, as raw_column. */
__device__ inline float2 raw_columns(
	const struct m2_cuda_mixer &m, const struct m2_cuda_item &item, int32_t from, int32_t c)
{
	if (from >= 0)
		return *(const float2 *)(m.in_out +
					 (size_t)(item.first + from) * (size_t)m.in_stride +
					 (size_t)(xbc_at(m) + c));
	const int32_t column = (item.into_ring + from + TAPS) % TAPS;
	return *(const float2 *)(m.ring + (size_t)item.slot * m.slot_floats +
				 (size_t)column * (size_t)m.channels + (size_t)c);
}

template <typename T>
__device__ inline void put_two(
	const struct m2_cuda_mixer &m, int32_t row, int32_t c, float2 v, bool chunked)
{
	float *to = m.xbc + (size_t)row * (size_t)m.channels;
	if (chunked)
		*(uint32_t *)((T *)to + c) = pack_two<T>(quick_silu(v.x), quick_silu(v.y));
	else
		*(float2 *)(to + c) = make_float2(silu(v.x), silu(v.y));
}

template <typename T>
__device__ inline void convolve_tile(
	const struct m2_cuda_mixer &m, struct m2_cuda_tile tile, const struct two_channels &two)
{
	const struct m2_cuda_item item = m.items[tile.item];
	const int32_t left = item.tokens - tile.first;
	const int32_t n = left < M2_CUDA_TILE ? left : M2_CUDA_TILE;
	float2 raw[TAPS - 1 + M2_CUDA_TILE];
#pragma unroll
	for (int i = 0; i < TAPS - 1 + M2_CUDA_TILE; i++) /* none waits for another */
		if (i < TAPS - 1 + n)
			raw[i] = raw_columns(m, item, tile.first + i - (TAPS - 1), two.c);
#pragma unroll
	for (int i = 0; i < M2_CUDA_TILE; i++)
		if (i < n)
			put_two<T>(m, item.first + tile.first + i, two.c, two.sum(raw + i),
				is_chunked(item, tile.first + i));
	if (tile.first != 0)
		return;
	float *ring = m.ring + (size_t)item.slot * m.slot_floats + (size_t)two.c;
	const int32_t kept = item.tokens < TAPS ? item.tokens : TAPS;
	for (int32_t t = item.tokens - kept; t < item.tokens; t++) {
		const int32_t column = (item.into_ring + t) % TAPS;
		*(float2 *)(ring + (size_t)column * (size_t)m.channels) =
			raw_columns(m, item, t, two.c);
	}
}

/* The first `step_blocks` blocks make the steps, the others the tiles. */
template <typename T>
__global__ void __launch_bounds__(SSD_THREADS)
	prepare_kernel(const struct m2_cuda_mixer m, int32_t step_blocks)
{
	const int32_t block = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x;
	if (block < step_blocks) {
		const int32_t per_chunk = (m.heads + PER_BLOCK - 1) / PER_BLOCK;
		const int32_t h = block % per_chunk * PER_BLOCK + (tid >> 5);
		wait_for_previous();
		if (h < m.heads)
			make_steps(m, block / per_chunk, h);
		return;
	}
	const int32_t per_tile = (m.channels + CHANNELS - 1) / CHANNELS;
	const int32_t at = (block - step_blocks) % per_tile * CHANNELS + 2 * tid;
	const struct m2_cuda_tile tile = m.tiles[(block - step_blocks) / per_tile];
	struct two_channels two;
	if (at < m.channels)
		two.load(m, at);
	wait_for_previous();
	if (at < m.channels)
		convolve_tile<T>(m, tile, two);
}

cudaError_t m2_cuda_ssd_prepare(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	const int32_t step_blocks = spans->chunks * ((mixer->heads + PER_BLOCK - 1) / PER_BLOCK);
	int32_t blocks = step_blocks;
	if (mixer->taps == TAPS) {
		blocks += spans->tiles * ((mixer->channels + CHANNELS - 1) / CHANNELS);
	} else {
		const cudaError_t error =
			m2_cuda_convolve(stream, mixer, spans->items, spans->rows);
		if (error != cudaSuccess || blocks == 0)
			return error;
	}
	return launch_early(mixer->next.type == M2_DTYPE_F16 ? prepare_kernel<__half>
							     : prepare_kernel<__nv_bfloat16>,
		dim3((unsigned)blocks), SSD_THREADS, 0, stream, *mixer, step_blocks);
}
