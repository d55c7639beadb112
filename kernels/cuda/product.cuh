/* product.cuh - what the kernels of W x share: the order of summation, and how a result is finished.
 *
 * Private to kernels/cuda; product.cu says how the kernels divide the work.  Whoever adds a kernel uses
 * run_of, add_run, group_of and finish as they stand: the bits of a row hang on them.
 */
#ifndef M2_KERNELS_CUDA_PRODUCT_CUH
#define M2_KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/tensor_asm.cuh"

enum { RUNS = 8, THREADS = 32 * RUNS };

/* Tiles [first, end) of a run. */
__device__ inline void run_of(int32_t run, int32_t k_tiles, int32_t *first, int32_t *end)
{
	*first = run * k_tiles / RUNS;
	*end = (run + 1) * k_tiles / RUNS;
}

__device__ inline void mma(float (&c)[4], uint4 a, uint2 b, __nv_bfloat16)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
		     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

__device__ inline void mma(float (&c)[4], uint4 a, uint2 b, __half)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
		     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

/* The A operand from a tile of W in shared memory (launch.h); every lane gives the tile's address plus its
 * number times 16 bytes.  Whole warps; what other lanes' copies brought must be there. */
__device__ inline uint4 load_tile(const uint4 *tile_and_lane)
{
	return load_matrices(tile_and_lane);
}

/* ---- the product ---------------------------------------------------------------------------- */

/* The scaled sum of one more run: the same two roundings everywhere. */
__device__ inline float add_run(float total, float sum, float scale)
{
	return __fadd_rn(total, __fmul_rn(sum, scale));
}

/* put_next with the weight at hand: the same roundings. */
__device__ inline void put_next_weighted(
	const struct m2_cuda_next &next, size_t row, int32_t i, float value, float weight)
{
	const size_t at = row * (size_t)next.stride + (size_t)i;
	const float scaled = value * weight * next.factor;
	if (next.type == M2_DTYPE_BF16)
		((__nv_bfloat16 *)next.to)[at] = __float2bfloat16_rn(scaled);
	else
		((__half *)next.to)[at] = __float2half_rn(scaled);
}

/* Groups of columns to runs of them. */
__device__ inline int32_t group_of(const struct m2_cuda_input &in, int32_t run)
{
	return run * in.groups / RUNS;
}

/* What a result needs from memory, asked for ahead: behind a store the compiler moves no load forward. */
struct ahead {
	float before; /* what stands there, if it is to be added */
	float weight; /* of the next product's input */
};
__device__ inline struct ahead look_ahead(
	const struct m2_cuda_output &out, int32_t row, int32_t rows, int32_t t, int32_t m)
{
	struct ahead a = {0.0f, 0.0f};
	if (out.add && row < rows && t < m)
		a.before = out.to[(size_t)t * (size_t)out.stride + (size_t)row];
	if (out.next.to != NULL && row < rows)
		a.weight = out.next.weight[row];
	return a;
}

/* One result: bias, what stood there; the next product's input.  Returns the rounded square, which is
 * added as it is, whatever the compiler would like to fuse; 0 where there is no result. */
__device__ inline float put(const struct m2_cuda_output &out, float total, const struct ahead &a,
	int32_t row, int32_t rows, int32_t t, int32_t m)
{
	if (row >= rows || t >= m)
		return 0.0f;
	if (out.bias != NULL)
		total += out.bias[row];
	if (out.add)
		total = a.before + total;
	out.to[(size_t)t * (size_t)out.stride + (size_t)row] = total;
	if (out.next.to != NULL)
		put_next_weighted(out.next, (size_t)t, row, total, a.weight);
	return __fmul_rn(total, total);
}
__device__ inline void put_squares(const struct m2_cuda_output &out, float squares, int32_t row,
	int32_t rows, int32_t t, int32_t m)
{
	if (row < rows && t < m && (row & 15) == 0)
		out.squares[(size_t)t * (size_t)(rows / 16) + (size_t)(row / 16)] = squares;
}

/* A result of each lane, of sixteen rows and two rows of x, or two times sixteen rows.  Whole warps. */
__device__ inline void finish_after(const struct m2_cuda_output &out, float total,
	const struct ahead &a, int32_t row, int32_t rows, int32_t t, int32_t m)
{
	const float square = put(out, total, a, row, rows, t, m);
	if (out.squares != NULL)
		put_squares(out, sum_of_sixteen(square), row, rows, t, m);
}
__device__ inline void finish(const struct m2_cuda_output &out, float total, int32_t row,
	int32_t rows, int32_t t, int32_t m)
{
	finish_after(out, total, look_ahead(out, row, rows, t, m), row, rows, t, m);
}

/* Two results eight rows apart, as lane l of a warp holds them after an mma: rows row (l / 4 of sixteen)
 * and row + 8 of one row of x.  The same tree of squares: by eights in the thread, then across. */
__device__ inline void finish_two(const struct m2_cuda_output &out, const float (&total)[2],
	const struct ahead (&a)[2], int32_t row, int32_t rows, int32_t t, int32_t m)
{
	const float low = put(out, total[0], a[0], row, rows, t, m);
	const float high = put(out, total[1], a[1], row + 8, rows, t, m);
	if (out.squares == NULL)
		return;
	float squares = __fadd_rn(low, high);
	for (int step = 16; step >= 4; step >>= 1)
		squares += __shfl_xor_sync(0xffffffffu, squares, step);
	put_squares(out, squares, row, rows, t, m);
}

/* 16 bytes from memory to shared memory, some time before the wait for their group. */
__device__ inline void copy_16(void *shared, const void *from)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
			     (uint32_t)__cvta_generic_to_shared(shared)),
		     "l"(from)
		     : "memory");
}
__device__ inline void commit_group()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the last `Pending` groups of this thread have arrived. */
template <int Pending> __device__ inline void wait_group()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/* The B operands of two tiles of columns, from row t of a slab; rows of 128 bytes, whose eight pieces of
 * 16 are permuted by the row so that the eight rows of a matrix lie in different banks. */
__device__ inline void load_matrix(uint4 &b, const unsigned char *slab, int32_t t0, int32_t piece0)
{
	const int32_t lane = (int32_t)threadIdx.x & 31, t = t0 + (lane & 7);
	const int32_t piece = piece0 + (lane >> 3);
	const uint32_t at =
		(uint32_t)__cvta_generic_to_shared(slab + t * 128 + ((piece ^ (t & 7)) << 4));
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(b.x), "=r"(b.y), "=r"(b.z), "=r"(b.w)
		     : "r"(at)
		     : "memory");
}

/* Of the current device; the same for all devices of one host would do, and is asked once. */
struct limits {
	int shared;
	int processors;
	bool clusters;
};
inline const struct limits &device_limits()
{
	static const struct limits known = [] {
		struct limits l = {48 * 1024, 1, false};
		int device = 0, major = 0;
		(void)cudaGetDevice(&device);
		(void)cudaDeviceGetAttribute(
			&l.shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
		(void)cudaDeviceGetAttribute(&l.processors, cudaDevAttrMultiProcessorCount, device);
		(void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
		l.clusters = major == 9; /* later ones run the code made for 8.0 */
		return l;
	}();
	return known;
}

template <typename Kernel> inline cudaError_t allow_shared(Kernel kernel, size_t bytes)
{
	return bytes <= 40 * 1024 /* what is declared in the kernel counts too, against 48 */
		       ? cudaSuccess
		       : cudaFuncSetAttribute(
				 kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* product_few.cu: up to FEW rows; whether two of its blocks fit a processor. */
enum { FEW = 8 };
bool m2_cuda_few_fits(const struct m2_cuda_matrix *w, int32_t m);
cudaError_t m2_cuda_product_few(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out);

/* product_many.cu: any number of rows, any device. */
cudaError_t m2_cuda_product_many(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out);

/* A way of doing a product on Hopper (product_hopper.cuh): rows of x that a block takes at a time, and
 * whether by clusters that stay, a run of columns to each of their blocks, or by blocks that do all runs.
 * tokens 0: there is none. */
struct hopper_plan {
	int32_t tokens;
	bool stay;
	bool wgmma;     /* always, unless they stay */
	int32_t groups; /* of 64 rows of W to a block, 2 or 3, unless they stay */
};
/* product.cu: the one that should end first; in_order: rows of x are not
 * picked. */
struct hopper_plan m2_cuda_product_plan(int32_t rows, int32_t k_tiles, int32_t m, bool in_order);

/* product_stay.cu: plan.tokens of 16, 32, 64 or 128.  clusters: how many are at work at once, 0 if the
 * shape does not fit. */
int32_t m2_cuda_stay_clusters(int32_t k_tiles, int32_t tokens);
cudaError_t m2_cuda_product_stay(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan);
/* product_wide.cu: plan.tokens of 64 or 128; rows of x in order. */
bool m2_cuda_wide_runs();
cudaError_t m2_cuda_product_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan);

#endif
