/* ssd.cuh - the chunked form of the state space part, for head_dim 64 and state_size 128.
 *
 * Private to kernels/cuda.  A whole chunk is 64 tokens of a sequence at a multiple of 64; with s_i the sum
 * of dt A over its tokens 0..i, and h the state before it (Dao & Gu 2024, arXiv 2405.21060, section 6):
 *
 *   y_i = exp(s_i) C_i h + sum_{j<=i} (C_i . B_j) exp(s_i - s_j) dt_j x_j + D x_i
 *   h'  = exp(s_63) h + sum_j exp(s_63 - s_j) dt_j x_j B_j
 *
 * in three kernels, each with blocks enough for one sequence:
 *
 *   prepare   convolution and SiLU of eight tokens by 256 channels to a block; s and its like by a warp
 *             per head and chunk.
 *   states    a block per head and 32 or 64 columns of the state walks a sequence's chunks in order with
 *             its piece of h in f32 registers, and leaves h before each chunk.
 *   outputs   a block per chunk and one to four heads; C B^T is made once per block.
 *
 * Bytes per token and layer, H heads, C channels: prepare 4 C in, 2 C out; states 768 H in (x four times, B
 * 32 columns at a time), 256 H of h out; outputs 640 H of h, x and z and 512 of B and C for each block in,
 * 128 H out.  Most of that stays in the L2: what must pass the memory is z, xBC and the result, 650 H.  For
 * 512 tokens of 130m (H 24) and 2.7b (H 80) that is 8 and 27 MB, 2 and 6.7 us at 4 TB/s; all traffic is
 * 34 and 100 MB, 7 and 20 us at some 5 TB/s.  Sums: 2.6 to 3.1 MFLOP per head and chunk, 0.6 and 1.8
 * GFLOP, 1.5 and 4.5 us at the 400 TFLOP/s of mma.sync.  By count of instructions a chunk takes the walk
 * some 0.3 us, whatever the model.
 *
 * Numbers.  x, B, C, the weighted squares (C_i . B_j) exp(s_i - s_j) dt_j, weighted x and a copy of h are
 * rounded to the 16-bit type of out_proj's weights before they meet the tensor core, as every product's
 * input is; sums are f32, and so is the state that is carried, in registers and in the slot alike: a span
 * that is cut between chunks gives the same bits.  dt and the weights are brought below 1 by powers of two
 * and h by 1/16 where f16 might not hold them.  Two layers against the definition in double precision lose
 * 4.4e-4 (f16) and 3.8e-3 (bf16) of the logits, where the recurrence alone loses 4.1e-4 and 3.3e-3.
 * exp sees no positive number; where dt A is below -128, -128 is as good.
 */
#ifndef M2_KERNELS_CUDA_SSD_CUH
#define M2_KERNELS_CUDA_SSD_CUH

#include "kernels/cuda/mixer.cuh"
#include "kernels/cuda/tensor.cuh"

enum { SSD_CHUNK = 64, SSD_P = 64, SSD_N = 128, SSD_THREADS = 128 };

/* Of a head in a chunk: M2_CUDA_STEPS floats. */
enum {
	STEPS_SUM = 0,                       /* [64] s_j */
	STEPS_DT = SSD_CHUNK,                /* [64] dt_j / dt_unit */
	STEPS_DT_UNIT = 2 * SSD_CHUNK,       /* a power of two */
	STEPS_DECAY = STEPS_DT_UNIT + 1,     /* exp(s_63) */
	STEPS_WEIGHT_UNIT = STEPS_DECAY + 1, /* a power of two */
	STEPS_WEIGHT = STEPS_DT_UNIT + 4,    /* [64] exp(s_63 - s_j) dt_j / weight_unit */
	STEPS_END = STEPS_WEIGHT + SSD_CHUNK
};
static_assert((int)STEPS_END == (int)M2_CUDA_STEPS, "launch.h knows the size");

__device__ inline float *steps_of(const struct m2_cuda_mixer &m, int32_t chunk, int32_t h)
{
	return m.chunk_steps + ((size_t)chunk * (size_t)m.heads + (size_t)h) * M2_CUDA_STEPS;
}

/* h before a chunk, [64][128] of type T, divided by state_unit. */
template <typename T>
__device__ inline T *state_before(const struct m2_cuda_mixer &m, int32_t chunk, int32_t h)
{
	return (T *)m.chunk_states +
	       ((size_t)chunk * (size_t)m.heads + (size_t)h) * (SSD_P * SSD_N);
}
template <typename T> __device__ inline float state_unit();
template <> __device__ inline float state_unit<__nv_bfloat16>()
{
	return 1.0f;
}
template <> __device__ inline float state_unit<__half>()
{
	return 16.0f;
}

/* The convolved row of a token of a whole chunk: x, then B, then C of each group. */
template <typename T>
__device__ inline const T *chunk_row(const struct m2_cuda_mixer &m, int32_t row)
{
	return (const T *)(m.xbc + (size_t)row * (size_t)m.channels);
}

/* f(i) for i in [0, Count), shared by the block. */
template <int Count, typename F> __device__ inline void each_of(F f)
{
	static_assert(Count % SSD_THREADS == 0, "whole rounds");
#pragma unroll
	for (int round = 0; round < Count / SSD_THREADS; round++)
		f((int32_t)threadIdx.x + round * SSD_THREADS);
}

/* exp and SiLU in whole chunks, where nothing is held against a single token's bits.  The former is for
 * numbers that are not positive but for a rounding. */
__device__ inline float quick_exp(float x)
{
	return __expf(fminf(x, 0.0f));
}
__device__ inline float quick_silu(float x)
{
	return __fdividef(x, 1.0f + __expf(-x));
}

/* ssd_states.cu, ssd_outputs.cu: after m2_cuda_ssd_prepare, one behind the other. */
cudaError_t m2_cuda_ssd_states(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans);
cudaError_t m2_cuda_ssd_outputs(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans);
/* ssd_prepare.cu: of all rows of the step, the convolution, and the ring; of whole chunks, the steps. */
cudaError_t m2_cuda_ssd_prepare(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans);

#endif
