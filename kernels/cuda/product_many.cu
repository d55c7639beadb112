/* product_many.cu - W x for any number of rows x.
 *
 * A block takes 128 rows of W and up to 64 rows of x; slabs of 64 columns pass through shared memory in
 * STAGES steps, W's tiles for the warp that wants them, x's for all.  Where that makes too few blocks to
 * busy the device, a cluster of eight takes a run of columns each and adds the sums in order.
 */
#include <cooperative_groups.h>

#include "kernels/cuda/product.cuh"

enum {
	MANY_WARPS = 4,
	MANY_THREADS = 32 * MANY_WARPS,
	WARP_TILES = 2, /* of rows of W */
	MANY_ROWS = MANY_WARPS * WARP_TILES * 16,
	SLAB = 4, /* tiles of columns */
	STAGES = 4
};

template <int NT> static size_t many_shared()
{
	const size_t stage = (size_t)NT * 8 * SLAB * 32 + (size_t)MANY_ROWS / 16 * SLAB * 512;
	const size_t results = (size_t)NT * 8 * MANY_ROWS * sizeof(float);
	return STAGES * stage > results ? STAGES * stage : results;
}

/* What a block of the many kernel works on. */
struct many_block {
	const uint4 *w;
	int32_t m, rows, k_tiles;
	int32_t row_tile, t0; /* its first */
	int32_t first, end;   /* tiles of columns */
};

/* Warp i has row tiles 2 i and 2 i + 1 of the block's eight; all have its NT * 8 rows of x. */
template <typename T, int NT> struct many_pipe {
	enum { X_BYTES = NT * 8 * 128, STAGE_BYTES = X_BYTES + MANY_ROWS / 16 * SLAB * 512 };
	unsigned char *bytes;
	const struct m2_cuda_input *in;
	struct many_block b;

	__device__ void ask_w(int32_t slab) const
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31;
#pragma unroll
		for (int r = 0; r < WARP_TILES; r++) {
			const int32_t tile = warp * WARP_TILES + r;
			unsigned char *to = bytes + slab % STAGES * STAGE_BYTES + X_BYTES +
					    tile * SLAB * 512 + lane * 16;
			const int32_t k = b.first + slab * SLAB;
			const uint4 *from =
				b.w +
				((size_t)(b.row_tile + tile) * (size_t)b.k_tiles + (size_t)k) * 32 +
				lane;
#pragma unroll
			for (int u = 0; u < SLAB; u++)
				if ((b.row_tile + tile) * 16 < b.rows && k + u < b.end)
					copy_16(to + u * 512, from + u * 32);
		}
	}
	__device__ void ask_x(int32_t slab) const
	{
		unsigned char *to = bytes + slab % STAGES * STAGE_BYTES;
		const int32_t k = b.first + slab * SLAB;
#pragma unroll
		for (int i = (int)threadIdx.x; i < NT * 8 * 8; i += MANY_THREADS) {
			const int32_t t = i >> 3, piece = i & 7;
			const int32_t known = b.t0 + t < b.m ? b.t0 + t : b.m - 1; /* not used */
			const size_t row =
				in->from != NULL ? (size_t)in->from[known] : (size_t)known;
			if (k * 2 + piece < b.end * 2)
				copy_16(to + t * 128 + ((piece ^ (t & 7)) << 4),
					(const T *)in->x + row * (size_t)in->stride +
						(size_t)(k * 16 + piece * 8));
		}
	}
	/* Calls at_end(sum, k) after each tile k of columns; fills scales on the way. */
	template <typename F> __device__ void run(float (&scales)[NT * 8][8], F at_end) const
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31;
		const int32_t slabs = (b.end - b.first + SLAB - 1) / SLAB;
		float sum[WARP_TILES][NT][4] = {};
		for (int s = 0; s < STAGES - 1; s++) /* weights depend on nobody */
			if (s < slabs)
				ask_w(s);
		wait_for_previous();
		for (int s = 0; s < STAGES - 1; s++) {
			if (s < slabs)
				ask_x(s);
			commit_group(); /* the first takes all the weights along */
		}
		fill_scales<NT * 8>(scales, *in, b.t0, b.m); /* the first slab's barrier follows */
		for (int32_t slab = 0; slab < slabs; slab++) {
			wait_group<STAGES - 2>();
			__syncthreads();
			const unsigned char *stage = bytes + slab % STAGES * STAGE_BYTES;
			const uint4 *a_at =
				(const uint4 *)(stage + X_BYTES + warp * WARP_TILES * SLAB * 512) +
				lane;
			if (slab + STAGES - 1 < slabs) { /* into the stage that all have left */
				ask_w(slab + STAGES - 1);
				ask_x(slab + STAGES - 1);
			}
			commit_group();
#pragma unroll
			for (int u = 0; u < SLAB; u += 2) {
				uint4 bs[NT];
				const int32_t k = b.first + slab * SLAB + u;
#pragma unroll
				for (int n = 0; n < NT; n++)
					load_matrix(bs[n], stage, n * 8, u * 2);
#pragma unroll
				for (int v = 0; v < 2; v++) {
					if (k + v >= b.end)
						break;
#pragma unroll
					for (int r = 0; r < WARP_TILES; r++) {
						const uint4 a =
							load_tile(a_at + (r * SLAB + u + v) * 32);
#pragma unroll
						for (int n = 0; n < NT; n++)
							mma(sum[r][n], a,
								v == 0 ? make_uint2(
										 bs[n].x, bs[n].y)
								       : make_uint2(
										 bs[n].z, bs[n].w),
								T());
					}
					at_end(sum, k + v);
				}
			}
		}
		wait_group<0>();
		__syncthreads(); /* the stages are free */
	}
};

/* Sums of the block's warps to shared memory, [NT * 8][MANY_ROWS]. */
template <int NT>
__device__ inline void lay_down(float *results, const float (&sum)[WARP_TILES][NT][4])
{
	const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31;
#pragma unroll
	for (int r = 0; r < WARP_TILES; r++)
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				results[(n * 8 + (lane & 3) * 2 + (i & 1)) * MANY_ROWS +
					(warp * WARP_TILES + r) * 16 + (lane >> 2) + (i >> 1) * 8] =
					sum[r][n][i];
}

/* A block does all eight runs. */
template <typename T, int NT>
__global__ void __launch_bounds__(MANY_THREADS)
	product_many_kernel(const uint4 *w, const __grid_constant__ struct m2_cuda_input input,
		int32_t m, int32_t rows, int32_t k_tiles, const struct m2_cuda_output out)
{
	extern __shared__ unsigned char bytes[];
	__shared__ float scales[NT * 8][8];
	const int32_t row0 = (int32_t)blockIdx.y * MANY_ROWS, t0 = (int32_t)blockIdx.x * NT * 8;
	const int32_t lane = (int32_t)threadIdx.x & 31;
	const many_pipe<T, NT> pipe = {
		bytes, &input, {w, m, rows, k_tiles, row0 / 16, t0, 0, k_tiles}};
	float total[WARP_TILES][NT][4] = {};
	int32_t run = 0, run_end = k_tiles / RUNS;
	for (; run_end == 0; run_end = (run + 1) * k_tiles / RUNS)
		run++; /* without tiles: zero */
	pipe.run(scales, [&](float(&sum)[WARP_TILES][NT][4], int32_t k) {
		if (k + 1 != run_end)
			return;
		const int32_t g = group_of(input, run);
#pragma unroll
		for (int n = 0; n < NT; n++)
#pragma unroll
			for (int i = 0; i < 4; i++) {
				const float scale = scales[n * 8 + (lane & 3) * 2 + (i & 1)][g];
#pragma unroll
				for (int r = 0; r < WARP_TILES; r++) {
					total[r][n][i] = run == 0 ? __fmul_rn(sum[r][n][i], scale)
								  : add_run(total[r][n][i],
									    sum[r][n][i], scale);
					sum[r][n][i] = 0.0f;
				}
			}
		for (run++; run < RUNS && (run + 1) * k_tiles / RUNS == run_end; run++)
#pragma unroll
			for (int n = 0; n < NT; n++)
#pragma unroll
				for (int i = 0; i < 4; i++)
#pragma unroll
					for (int r = 0; r < WARP_TILES; r++)
						total[r][n][i] = __fadd_rn(total[r][n][i], 0.0f);
		run_end = (run + 1) * k_tiles / RUNS;
	});
	lay_down<NT>((float *)bytes, total);
	__syncthreads();
	for (int32_t i = (int32_t)threadIdx.x; i < NT * 8 * MANY_ROWS; i += MANY_THREADS)
		finish(out, ((float *)bytes)[i], row0 + i % MANY_ROWS, rows, t0 + i / MANY_ROWS, m);
}

/* Eight blocks of a cluster do a run each and add what the others have, in order: for matrices of too
 * few rows to busy the device otherwise.  Hopper only. */
template <typename T, int NT>
__global__ void __launch_bounds__(MANY_THREADS)
	product_cluster_kernel(const uint4 *w, const __grid_constant__ struct m2_cuda_input input,
		int32_t m, int32_t rows, int32_t k_tiles, const struct m2_cuda_output out)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ unsigned char bytes[];
	__shared__ float scales[NT * 8][8];
	cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
	const int32_t run = (int32_t)cluster.block_rank();
	const int32_t row0 = (int32_t)blockIdx.y * MANY_ROWS;
	const int32_t t0 = (int32_t)(blockIdx.x / RUNS) * NT * 8;
	many_pipe<T, NT> pipe = {bytes, &input, {w, m, rows, k_tiles, row0 / 16, t0, 0, 0}};
	float total[WARP_TILES][NT][4] = {};
	run_of(run, k_tiles, &pipe.b.first, &pipe.b.end);
	pipe.run(scales, [&](float(&sum)[WARP_TILES][NT][4], int32_t k) {
		if (k + 1 != pipe.b.end)
			return;
#pragma unroll
		for (int r = 0; r < WARP_TILES; r++)
#pragma unroll
			for (int n = 0; n < NT; n++)
#pragma unroll
				for (int i = 0; i < 4; i++)
					total[r][n][i] = sum[r][n][i];
	});
	lay_down<NT>((float *)bytes, total);
	cluster.sync();
	/* a share of the rows of x each */
	const int32_t share = NT * 8 / RUNS;
	for (int32_t i = (int32_t)threadIdx.x; i < share * MANY_ROWS; i += MANY_THREADS) {
		const int32_t at = run * share * MANY_ROWS + i, t = at / MANY_ROWS;
		float value =
			__fmul_rn(cluster.map_shared_rank((float *)bytes, 0)[at], scales[t][0]);
#pragma unroll
		for (int other = 1; other < RUNS; other++)
			value = add_run(value, cluster.map_shared_rank((float *)bytes, other)[at],
				scales[t][group_of(input, other)]);
		finish(out, value, row0 + i % MANY_ROWS, rows, t0 + t, m);
	}
	cluster.sync(); /* nobody leaves while its sums are read */
#endif
}

template <typename T, int NT>
static cudaError_t launch_many(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const unsigned tokens = (unsigned)((m + NT * 8 - 1) / (NT * 8));
	const unsigned blocks = (unsigned)((w->rows + MANY_ROWS - 1) / MANY_ROWS);
	const bool split =
		m2_cuda_wide_runs() && tokens * blocks < (unsigned)device_limits().processors;
	const auto kernel = split ? product_cluster_kernel<T, NT> : product_many_kernel<T, NT>;
	const cudaError_t error = allow_shared(kernel, many_shared<NT>());
	if (error != cudaSuccess)
		return error;
	return launch_early_clusters(kernel, dim3(split ? tokens * RUNS : tokens, blocks),
		split ? RUNS : 1, MANY_THREADS, many_shared<NT>(), stream, (const uint4 *)w->data,
		*in, m, w->rows, m2_cuda_pad(w->cols) / 16, *out);
}

template <typename T>
static cudaError_t choose(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	if (m <= 8)
		return launch_many<T, 1>(stream, w, in, m, out);
	if (m <= 16)
		return launch_many<T, 2>(stream, w, in, m, out);
	if (m <= 32)
		return launch_many<T, 4>(stream, w, in, m, out);
	return launch_many<T, 8>(stream, w, in, m, out);
}

cudaError_t m2_cuda_product_many(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out)
{
	return w->dtype == M2_DTYPE_F16 ? choose<__half>(stream, w, input, m, out)
					: choose<__nv_bfloat16>(stream, w, input, m, out);
}
