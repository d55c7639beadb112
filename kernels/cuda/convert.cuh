/* convert.cuh - 16-bit types in device code, and where an element of a matrix lies.
 *
 * Private to kernels/cuda.  Conversions round to nearest even, as common/dtype.h's do.
 */
#ifndef M2_KERNELS_CUDA_CONVERT_CUH
#define M2_KERNELS_CUDA_CONVERT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/launch.h"

template <typename T> __device__ inline float to_float(T value);
template <> __device__ inline float to_float(float value)
{
	return value;
}
template <> __device__ inline float to_float(__half value)
{
	return __half2float(value);
}
template <> __device__ inline float to_float(__nv_bfloat16 value)
{
	return __bfloat162float(value);
}
template <> __device__ inline float to_float(double value)
{
	return (float)value;
}

template <typename T> __device__ inline T from_float(float value);
template <> __device__ inline float from_float(float value)
{
	return value;
}
template <> __device__ inline __half from_float(float value)
{
	return __float2half_rn(value);
}
template <> __device__ inline __nv_bfloat16 from_float(float value)
{
	return __float2bfloat16_rn(value);
}

/* Index of element (row, col) of a 16-bit matrix of `k_tiles` tiles of columns: see launch.h. */
__device__ inline size_t fragment_index(int32_t row, int32_t col, int32_t k_tiles)
{
	const int32_t r = row & 15, c = col & 15;
	const int32_t eight = (c >> 3) * 2 + (r >> 3);
	return ((size_t)(row >> 4) * (size_t)k_tiles + (size_t)(col >> 4)) * 256 +
	       (size_t)(eight * 64 + (r & 7) * 8 + (c & 7));
}

/* Sum over sixteen neighbouring lanes, by halves: the same tree wherever squares are summed. */
__device__ inline float sum_of_sixteen(float value)
{
	for (int step = 8; step > 0; step >>= 1)
		value += __shfl_xor_sync(0xffffffffu, value, step);
	return value;
}

/* Element (row, i) of the next product's input, from the number itself. */
__device__ inline void put_next(const struct m2_cuda_next &next, size_t row, int32_t i, float value)
{
	const size_t at = row * (size_t)next.stride + (size_t)i;
	const float scaled = value * next.weight[i] * next.factor;
	if (next.type == M2_DTYPE_BF16)
		((__nv_bfloat16 *)next.to)[at] = __float2bfloat16_rn(scaled);
	else
		((__half *)next.to)[at] = __float2half_rn(scaled);
}

__device__ inline float silu(float x)
{
	return x / (1.0f + expf(-x));
}

/* Programmatic dependent launch: a kernel may begin while the one before it still runs, and must wait
 * before it reads what that one wrote.  Whoever waits first and then lets the next begin knows that all
 * kernels before the previous one have ended. */
__device__ inline void wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
	cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* kernel<<<grid, threads, shared, stream>>>(args...), allowed to begin early, in clusters along x. */
template <typename... Formal, typename... Actual>
cudaError_t launch_early_clusters(void (*kernel)(Formal...), dim3 grid, unsigned cluster,
	unsigned threads, size_t shared, cudaStream_t stream, Actual... args)
{
	cudaLaunchAttribute attributes[2] = {};
	attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attributes[0].val.programmaticStreamSerializationAllowed = 1;
	attributes[1].id = cudaLaunchAttributeClusterDimension;
	attributes[1].val.clusterDim = {cluster, 1, 1};
	cudaLaunchConfig_t config = {};
	config.gridDim = grid;
	config.blockDim = dim3(threads);
	config.dynamicSmemBytes = shared;
	config.stream = stream;
	config.attrs = attributes;
	config.numAttrs = cluster > 1 ? 2 : 1;
	return cudaLaunchKernelEx(&config, kernel, (Formal)args...);
}

template <typename... Formal, typename... Actual>
cudaError_t launch_early(void (*kernel)(Formal...), dim3 grid, unsigned threads, size_t shared,
	cudaStream_t stream, Actual... args)
{
	return launch_early_clusters(kernel, grid, 1, threads, shared, stream, args...);
}

/* Calls f(T()) with the C++ type of a dtype; f returns a cudaError_t. */
template <typename F> cudaError_t with_type(enum m2_dtype dtype, F f)
{
	switch (dtype) {
	case M2_DTYPE_F32:
		return f(float());
	case M2_DTYPE_F16:
		return f(__half());
	case M2_DTYPE_BF16:
		return f(__nv_bfloat16());
	default:
		return cudaErrorInvalidValue;
	}
}

#endif
