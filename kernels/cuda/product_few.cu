/* product_few.cu - W x for up to eight rows x: one tile of rows of W after another, without a pause.
 *
 * A block stays; its eight warps do a run of columns each.  Every lane asks for just the 16 bytes that it
 * will feed to the tensor core, RING tiles ahead and across tiles of rows, so the memory never waits for
 * the sums.  The first tiles are asked for before the kernel that makes x has ended: with a deep ring, 17 MB
 * of W, which is what the memory gives in the time of the mixer.
 */
#include "kernels/cuda/product.cuh"

enum { DEEP = 16, SHALLOW = 8 /* tiles on their way, per warp */, X_PAD = 16 };

/* Shared memory: the ring, [RUNS][ring][32] of 16 bytes; two parts, [RUNS][8][16] floats each; per warp
 * its run of the m rows of x. */
static size_t few_shared(int32_t k_tiles, int32_t m, int32_t ring)
{
	return (size_t)RUNS * (size_t)ring * 512 + (size_t)2 * RUNS * 128 * sizeof(float) +
	       (size_t)m * ((size_t)k_tiles * 32 + RUNS * X_PAD);
}

/* This warp's run of x, rows one behind the other, each with a pad so that rows lie in other banks. */
template <typename T>
__device__ inline void copy_run(
	unsigned char *to, const struct m2_cuda_input &in, int32_t m, int32_t first, int32_t tiles)
{
	const int32_t row_bytes = tiles * 32 + X_PAD;
	for (int32_t i = (int32_t)threadIdx.x & 31; i < m * tiles * 2; i += 32) {
		const int32_t t = i / (tiles * 2), piece = i % (tiles * 2);
		const size_t row = in.from != NULL ? (size_t)in.from[t] : (size_t)t;
		copy_16(to + t * row_bytes + piece * 16, (const T *)in.x + row * (size_t)in.stride +
								 (size_t)(first * 16 + piece * 8));
	}
	commit_group();
}

/* Warp r does run r of row tiles blockIdx.x, + gridDim.x, ... */
template <typename T, int RING>
__global__ void __launch_bounds__(THREADS)
	product_few_kernel(const uint4 *w, const struct m2_cuda_input input, int32_t m,
		int32_t rows, int32_t k_tiles, const struct m2_cuda_output out)
{
	extern __shared__ uint4 shared[];
	__shared__ float scales[FEW][8];
	const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31;
	const int32_t row_tiles = (rows + 15) / 16;
	uint4 *ring = shared + warp * RING * 32 + lane;
	float *parts = (float *)(shared + RUNS * RING * 32);
	int32_t first, end;
	run_of(warp, k_tiles, &first, &end);
	const int32_t tiles = end - first, row_bytes = tiles * 32 + X_PAD;
	unsigned char *x =
		(unsigned char *)(parts + 2 * RUNS * 128) + m * (first * 32 + warp * X_PAD);

	/* the next tile to ask for: weights depend on nobody */
	const uint4 *ask_at =
		w + ((size_t)blockIdx.x * (size_t)k_tiles + (size_t)first) * 32 + lane;
	const size_t to_next_row = ((size_t)gridDim.x * (size_t)k_tiles - (size_t)tiles) * 32;
	int32_t ask_row = (int32_t)blockIdx.x, ask_left = tiles, ask_slot = 0;
	auto ask = [&]() {
		if (ask_row < row_tiles && tiles > 0) {
			copy_16(ring + ask_slot * 32, ask_at);
			ask_slot = (ask_slot + 1) % RING;
			ask_at += 32;
			if (--ask_left == 0) {
				ask_left = tiles;
				ask_row += (int32_t)gridDim.x;
				ask_at += to_next_row;
			}
		}
		commit_group();
	};
	for (int i = 0; i < RING; i++)
		ask();
	wait_for_previous();
	copy_run<T>(x, input, m, first, tiles);
	fill_scales<FEW>(scales, input, 0, m);
	wait_group<0>();
	__syncthreads();
	const bool mine = (lane >> 2) < m;
	const unsigned char *b_first = x + (lane >> 2) * row_bytes + (lane & 3) * 4;

	int32_t slot = 0, turn = 0;
	for (int32_t row_tile = (int32_t)blockIdx.x; row_tile < row_tiles;
		row_tile += (int32_t)gridDim.x) {
		float sum[4] = {};
		const unsigned char *b_at = b_first;
#pragma unroll 4
		for (int32_t k = 0; k < tiles; k++, b_at += 32) {
			wait_group<RING - 1>();
			__syncwarp(); /* the other lanes' too */
			const uint4 a = load_tile(ring + slot * 32);
			slot = (slot + 1) % RING;
			ask();
			const uint2 b = mine ? make_uint2(*(const uint32_t *)b_at,
						       *(const uint32_t *)(b_at + 16))
					     : make_uint2(0, 0);
			mma(sum, a, b, T());
		}
		/* lane l: rows l / 4 and + 8 of W, rows 2 (l % 4) and + 1 of x */
		float *part = parts + turn * RUNS * 128;
		turn ^= 1; /* the other is still being read */
#pragma unroll
		for (int i = 0; i < 4; i++)
			part[warp * 128 + ((lane & 3) * 2 + (i & 1)) * 16 + (lane >> 2) +
				(i >> 1) * 8] = sum[i];
		__syncthreads();
		if (warp < 4) {
			const int32_t i = (int32_t)threadIdx.x, t = i / 16;
			float total = __fmul_rn(part[i], scales[t][0]);
#pragma unroll
			for (int run = 1; run < RUNS; run++)
				total = add_run(total, part[run * 128 + i],
					scales[t][group_of(input, run)]);
			finish(out, total, row_tile * 16 + i % 16, rows, t, m);
		}
	}
}

template <typename T, int RING>
static cudaError_t launch_few(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const auto kernel = product_few_kernel<T, RING>;
	const int32_t row_tiles = (w->rows + 15) / 16, k_tiles = m2_cuda_pad(w->cols) / 16;
	const size_t shared = few_shared(k_tiles, m, RING);
	const int32_t most = 2 * device_limits().processors;
	const cudaError_t error = allow_shared(kernel, shared);
	if (error != cudaSuccess)
		return error;
	return launch_early(kernel, dim3((unsigned)(row_tiles < most ? row_tiles : most)), THREADS,
		shared, stream, (const uint4 *)w->data, *in, m, w->rows, k_tiles, *out);
}

/* Two blocks to a processor, or they do not keep the memory busy. */
static bool fits(const struct m2_cuda_matrix *w, int32_t m, int32_t ring)
{
	return few_shared(m2_cuda_pad(w->cols) / 16, m, ring) + 1536 <=
	       (size_t)device_limits().shared / 2;
}

bool m2_cuda_few_fits(const struct m2_cuda_matrix *w, int32_t m)
{
	return m <= FEW && fits(w, m, SHALLOW);
}

cudaError_t m2_cuda_product_few(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out)
{
	const bool f16 = w->dtype == M2_DTYPE_F16;
	if (fits(w, m, DEEP))
		return f16 ? launch_few<__half, DEEP>(stream, w, input, m, out)
			   : launch_few<__nv_bfloat16, DEEP>(stream, w, input, m, out);
	return f16 ? launch_few<__half, SHALLOW>(stream, w, input, m, out)
		   : launch_few<__nv_bfloat16, SHALLOW>(stream, w, input, m, out);
}
