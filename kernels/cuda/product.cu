/* product.cu - W x for a few to many rows x, weights read once, bits independent of how many.
 *
 * What bounds it: for up to some 64 rows the bytes of W.  W's tiles (launch.h) stream through shared
 * memory by asynchronous copies, each lane fetching just the 16 bytes it will need, and go to the tensor
 * cores' A operand; x is the B operand, eight rows to a tile.
 *
 *   few    up to 8 rows.  A block stays and takes one tile of rows of W after another; its warps' copies
 *          run ahead across tiles, and begin before the kernel that makes x has ended.
 *   many   a block takes 128 rows of W and up to 64 rows of x; slabs of 64 columns are shared by its
 *          warps.  Where that makes too few blocks, a cluster of eight takes a run each.
 *
 * Order of summation, the same in all: the columns are cut into eight runs of whole tiles; inside a run
 * tiles ascend; the eight sums are added in order; then bias, then what stood there.  So one row gives
 * the same bits alone and among 255 others, in any kernel.  Accumulation is f32.
 *
 * f32 weights go by plain FMAs in the same runs: they are for exactness, not for speed.
 */
#include "kernels/cuda/product.cuh"

/* f32: a warp per row of W and NT rows of x; each lane sums every 32nd column of a run. */
template <int NT>
__global__ void __launch_bounds__(THREADS) product_f32_kernel(const float *w, const float *x,
	size_t x_stride, int32_t m, int32_t rows, int32_t k_tiles, const struct m2_cuda_output out)
{
	const int32_t row = (int32_t)blockIdx.x * RUNS + ((int32_t)threadIdx.x >> 5);
	const int32_t lane = (int32_t)threadIdx.x & 31, t0 = (int32_t)blockIdx.y * NT;
	float total[NT] = {};
	wait_for_previous();
	if (row >= rows)
		return;
	const float *weights = w + (size_t)row * (size_t)k_tiles * 16;
	for (int32_t run = 0; run < RUNS; run++) {
		int32_t first, end;
		float sum[NT] = {};
		run_of(run, k_tiles, &first, &end);
		for (int32_t k = first * 16 + lane; k < end * 16; k += 32) {
			const float value = weights[k];
#pragma unroll
			for (int n = 0; n < NT; n++)
				if (t0 + n < m)
					sum[n] = fmaf(value,
						x[(size_t)(t0 + n) * x_stride + (size_t)k], sum[n]);
		}
#pragma unroll
		for (int n = 0; n < NT; n++) {
			for (int step = 16; step > 0; step >>= 1)
				sum[n] += __shfl_xor_sync(0xffffffffu, sum[n], step);
			total[n] = run == 0 ? sum[n] : total[n] + sum[n];
		}
	}
#pragma unroll
	for (int n = 0; n < NT; n++) {
		if (lane != 0 || t0 + n >= m)
			continue;
		float *to = &out.to[(size_t)(t0 + n) * (size_t)out.stride + (size_t)row];
		const float value = out.bias != NULL ? total[n] + out.bias[row] : total[n];
		*to = out.add ? *to + value : value;
	}
}

template <int NT>
static cudaError_t launch_f32(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const dim3 grid((unsigned)((w->rows + RUNS - 1) / RUNS), (unsigned)((m + NT - 1) / NT));
	return launch_early(product_f32_kernel<NT>, grid, THREADS, 0, stream,
		(const float *)w->data, (const float *)in->x, (size_t)in->stride, m, w->rows,
		m2_cuda_pad(w->cols) / 16, *out);
}

cudaError_t m2_cuda_product(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out)
{
	if (w->dtype == M2_DTYPE_F32) /* of models that are not tuned: no scale, no from */
		return m <= 1 ? launch_f32<1>(stream, w, input, m, out)
			      : launch_f32<8>(stream, w, input, m, out);
	return m2_cuda_few_fits(w, m) ? m2_cuda_product_few(stream, w, input, m, out)
				      : m2_cuda_product_many(stream, w, input, m, out);
}
