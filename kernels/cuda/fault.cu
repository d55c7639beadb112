/* fault.cu - a fault of the device on order, in a build for tests only.
 *
 * With M2_CUDA_FAULTS a step in which a token is `order` traps, as a defect of a kernel would: the
 * context is lost for the whole process.  Without it nothing is launched, and no byte of this is in the
 * way.  tests/gpu/serve.py shows what that costs: its requests an error, and nobody else anything.
 */
#include "kernels/cuda/launch.h"

#ifdef M2_CUDA_FAULTS
__global__ void fault_kernel(const int32_t *tokens, int32_t rows, int32_t order)
{
	for (int32_t i = 0; i < rows; i++)
		if (tokens[i] == order)
			__trap();
}

cudaError_t m2_cuda_fault(cudaStream_t stream, const int32_t *tokens, int32_t rows, int32_t order)
{
	fault_kernel<<<1, 1, 0, stream>>>(tokens, rows, order);
	return cudaGetLastError();
}
#else
cudaError_t m2_cuda_fault(cudaStream_t, const int32_t *, int32_t, int32_t)
{
	return cudaSuccess;
}
#endif
