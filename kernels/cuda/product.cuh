/* product.cuh - what the kernels of W x share: the order of summation, and how a result is finished.
 *
 * Private to kernels/cuda; product.cu says how the kernels divide the work.  Whoever adds a kernel uses
 * run_of, add_run, group_of and finish as they stand: the bits of a row hang on them.
 */
#ifndef M2_KERNELS_CUDA_PRODUCT_CUH
#define M2_KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/norm.cuh"

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

/* ---- the product ---------------------------------------------------------------------------- */

/* The scaled sum of one more run: the same two roundings everywhere. */
__device__ inline float add_run(float total, float sum, float scale)
{
	return __fadd_rn(total, __fmul_rn(sum, scale));
}

/* Groups of columns to runs of them. */
__device__ inline int32_t group_of(const struct m2_cuda_input &in, int32_t run)
{
	return run * in.groups / RUNS;
}

/* One result: bias, what stood there; the squares of sixteen; the next product's input.  Whole warps. */
__device__ inline void finish(const struct m2_cuda_output &out, float total, int32_t row,
	int32_t rows, int32_t t, int32_t m)
{
	const bool inside = row < rows && t < m;
	float *to = out.to + (size_t)t * (size_t)out.stride + (size_t)row;
	if (inside && out.bias != NULL)
		total += out.bias[row];
	if (inside && out.add)
		total = *to + total;
	if (inside)
		*to = total;
	if (inside && out.next.to != NULL)
		put_next(out.next, (size_t)t, row, total);
	if (out.squares == NULL)
		return;
	const float squares = sum_of_sixteen(inside ? total * total : 0.0f);
	if (inside && (row & 15) == 0)
		out.squares[(size_t)t * (size_t)(rows / 16) + (size_t)(row / 16)] = squares;
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
		l.clusters = major >= 9;
		return l;
	}();
	return known;
}

template <typename Kernel> inline cudaError_t allow_shared(Kernel kernel, size_t bytes)
{
	return bytes <= 48 * 1024
		       ? cudaSuccess
		       : cudaFuncSetAttribute(
				 kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

/* product_few.cu: up to FEW rows; whether two of its blocks fit a processor. */
enum { FEW = 8 };
bool m2_cuda_few_fits(const struct m2_cuda_matrix *w, int32_t m);
cudaError_t m2_cuda_product_few(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out);

/* product_many.cu: any number of rows. */
cudaError_t m2_cuda_product_many(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out);

#endif
