/* tensor_asm.cuh - the few instructions that C++ has no words for; tensor.cuh says what they mean.
 *
 * Private to kernels/cuda.  A file of its own, so that what is built on it can be run elsewhere with
 * these functions written out.
 */
#ifndef M2_KERNELS_CUDA_TENSOR_ASM_CUH
#define M2_KERNELS_CUDA_TENSOR_ASM_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* c += a b */
__device__ inline void multiply_add(float (&c)[4], uint4 a, uint32_t b0, uint32_t b1, __nv_bfloat16)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
		     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
__device__ inline void multiply_add(float (&c)[4], uint4 a, uint32_t b0, uint32_t b1, __half)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
		     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices; each lane gives the row in shared memory that it is to point at. */
__device__ inline uint4 load_matrices(const uint4 *row)
{
	uint4 v;
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "r"((uint32_t)__cvta_generic_to_shared(row))
		     : "memory");
	return v;
}
__device__ inline uint4 load_matrices_turned(const uint4 *row)
{
	uint4 v;
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "r"((uint32_t)__cvta_generic_to_shared(row))
		     : "memory");
	return v;
}

/* 16 bytes to shared memory, some time before the wait for their group. */
__device__ inline void fetch_16(uint4 *shared, const void *from)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
			     (uint32_t)__cvta_generic_to_shared(shared)),
		     "l"(from)
		     : "memory");
}
__device__ inline void end_fetches()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the last `Pending` groups of this thread have arrived. */
template <int Pending> __device__ inline void await_fetches()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#endif
