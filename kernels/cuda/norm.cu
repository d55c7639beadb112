/* norm.cu - RMS norm of any width as a pass of its own, for models that are not tuned.
 *
 * In tuned ones the norm is folded into the products before and after it (struct m2_cuda_input).
 */
#include "kernels/cuda/mixer.cuh"

enum { THREADS = 256 };

template <typename T>
__global__ void norm_kernel(const float *x, const float *weight, const int32_t *from, int32_t d,
	int32_t padded, float eps, T *out)
{
	__shared__ float scratch[32];
	const size_t row = from != NULL ? (size_t)from[blockIdx.x] : blockIdx.x;
	const float *in = x + row * (size_t)d;
	float sum = 0.0f;
	for (int32_t i = (int32_t)threadIdx.x; i < d; i += THREADS)
		sum = fmaf(in[i], in[i], sum);
	const float scale = rsqrtf(block_sum(sum, scratch) / (float)d + eps);
	T *to = out + (size_t)blockIdx.x * (size_t)padded;
	for (int32_t i = (int32_t)threadIdx.x; i < padded; i += THREADS)
		to[i] = from_float<T>(i < d ? in[i] * scale * weight[i] : 0.0f);
}

cudaError_t m2_cuda_norm_rows(cudaStream_t stream, const float *x, const float *weight,
	const int32_t *from, int32_t rows, int32_t d, float eps, enum m2_dtype type, void *out)
{
	return with_type(type, [&](auto t) {
		norm_kernel<<<(unsigned)rows, THREADS, 0, stream>>>(
			x, weight, from, d, m2_cuda_pad(d), eps, (decltype(t) *)out);
		return cudaGetLastError();
	});
}
