/* product.cu - W x for a few to many rows x, bits independent of how many; and which kernel does it.
 *
 * What bounds it: for up to some 100 rows of x the bytes of W, then the tensor cores.  W's tiles (launch.h)
 * go to the A operand, x to the B operand, eight rows to a tile.
 *
 *   few    up to 8 rows.  A block stays and takes one tile of rows of W after another; its warps' copies
 *          run ahead across tiles, and begin before the kernel that makes x has ended.
 *   stay   Hopper, up to some hundred rows: the same by clusters of eight that hold x.
 *   wide   Hopper, many rows: blocks of 128 or 192 rows of W and up to 128 of x, W and x through a ring.
 *   many   any device: a block takes 128 rows of W and up to 64 rows of x.
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

/* ---- choosing ------------------------------------------------------------------------------- */

/* wgmma adds just as mma.sync does on Hopper (product_hopper.cuh) and is the faster of the two: the same
 * bits were seen by tests/gpu/bench_product on an H200. */
enum { USE_WGMMA = 1 };

/* The times below are clocks of an H200's multiprocessor, fitted to what bench_product measured there on the
 * products of the 130m and 2.7b shapes for 16 to 2048 rows of x; within some 15%. */

/* Units of 64 rows of W, one after the other, by as many clusters as there is room for. */
static int64_t time_of_stay(int32_t rows, int32_t k_tiles, int32_t m, int32_t tokens)
{
	const int32_t at_once = m2_cuda_stay_clusters(k_tiles, tokens);
	const int32_t sets = (m + tokens - 1) / tokens, units = (rows + 63) / 64;
	const int64_t slabs = ((k_tiles + RUNS - 1) / RUNS + 3) / 4;
	if (at_once < sets)
		return INT64_MAX;
	const int32_t clusters = at_once / sets;
	return 3500 +
	       (int64_t)((units + clusters - 1) / clusters) * (1500 + 350 * slabs + 27 * tokens);
}

/* Tiles one after another, each its slabs of 64 columns and an end. */
static int64_t time_of_wide(
	int32_t rows, int32_t k_tiles, int32_t m, int32_t tokens, int32_t groups)
{
	const int64_t tiles =
		(int64_t)((rows + 64 * groups - 1) / (64 * groups)) * ((m + tokens - 1) / tokens);
	const int64_t turns = (tiles + device_limits().processors - 1) / device_limits().processors;
	const int64_t slabs = RUNS * (int64_t)(((k_tiles + RUNS - 1) / RUNS + 3) / 4);
	return turns * (slabs * (300 + 2 * tokens * groups) + 40 * tokens) + 6000;
}

/* The bytes of W, at a rate that falls with the rows of x; it is the first choice for few of them only. */
static int64_t time_of_many(int32_t rows, int32_t k_tiles, int32_t m)
{
	const int64_t bytes = (int64_t)rows * k_tiles * 32;
	return m <= 16 ? 7900 + bytes / 1650 : m <= 32 ? 7900 + bytes / 1140 : INT64_MAX;
}

struct hopper_plan m2_cuda_product_plan(int32_t rows, int32_t k_tiles, int32_t m, bool in_order)
{
	static const int32_t stay[] = {16, 32, 64, 128}, wide[] = {64, 128};
	struct hopper_plan best = {0, false, USE_WGMMA != 0, 1};
	int64_t shortest = time_of_many(rows, k_tiles, m);
	if (!m2_cuda_wide_runs())
		return best;
	for (const int32_t tokens : stay) {
		const int64_t time = time_of_stay(rows, k_tiles, m, tokens);
		if (time < shortest) {
			shortest = time;
			best = {tokens, true, USE_WGMMA != 0, 1};
		}
	}
	for (const int32_t tokens : wide)
		for (int32_t groups = 2; groups <= 3 && in_order && USE_WGMMA; groups++) {
			const int64_t time = time_of_wide(rows, k_tiles, m, tokens, groups);
			if (time < shortest) {
				shortest = time;
				best = {tokens, false, true, groups};
			}
		}
	return best;
}

cudaError_t m2_cuda_product(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out)
{
	if (w->dtype == M2_DTYPE_F32) /* of models that are not tuned: no scale, no from */
		return m <= 1 ? launch_f32<1>(stream, w, input, m, out)
			      : launch_f32<8>(stream, w, input, m, out);
	if (m2_cuda_few_fits(w, m))
		return m2_cuda_product_few(stream, w, input, m, out);
	const struct hopper_plan plan =
		m2_cuda_product_plan(w->rows, m2_cuda_pad(w->cols) / 16, m, input->from == NULL);
	if (plan.tokens == 0)
		return m2_cuda_product_many(stream, w, input, m, out);
	return plan.stay ? m2_cuda_product_stay(stream, w, input, m, out, plan)
			 : m2_cuda_product_wide(stream, w, input, m, out, plan);
}
