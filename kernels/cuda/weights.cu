/* weights.cu - weights on their way in: packing matrices, widening vectors, reading embedding rows.
 *
 * Loading is bound by the bus (55 GB/s), so these kernels only need to be far faster than that.
 */
#include <cfloat>

#include "kernels/cuda/convert.cuh"

enum { THREADS = 256 };

static unsigned blocks_for(size_t n)
{
	const size_t blocks = (n + THREADS - 1) / THREADS;
	return (unsigned)(blocks < 65535 * 16 ? blocks : 65535 * 16);
}

template <typename From, typename To>
__global__ void pack_kernel(
	To *dst, const From *src, size_t first, size_t count, int32_t cols, int32_t k_tiles)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
		i += (size_t)gridDim.x * blockDim.x) {
		const size_t at = first + i;
		const int32_t row = (int32_t)(at / (size_t)cols),
			      col = (int32_t)(at % (size_t)cols);
		const size_t to = sizeof(To) == 2
					  ? fragment_index(row, col, k_tiles)
					  : (size_t)row * (size_t)k_tiles * 16 + (size_t)col;
		dst[to] = from_float<To>(to_float(src[i]));
	}
}

template <typename From> __global__ void widen_kernel(float *dst, const From *src, size_t count)
{
	for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
		i += (size_t)gridDim.x * blockDim.x)
		dst[i] = to_float(src[i]);
}

__global__ void fill_a_kernel(float *a, int32_t n, bool given)
{
	const int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
	if (i >= n)
		return;
	const float value = given ? a[i] : -expf(a[i]);
	a[i] = value < -FLT_MAX ? -FLT_MAX : value; /* finite: differences of sums stay numbers */
}

/* A thread per element; sixteen neighbours leave the sum of their squares. */
template <typename T>
__global__ void embed_kernel(const T *embedding, const int32_t *tokens, const int32_t *picks,
	int32_t d, int32_t k_tiles, const struct m2_cuda_output out)
{
	wait_for_previous();
	const int32_t row = (int32_t)blockIdx.x, given = tokens[row];
	const int32_t token = given >= 0 ? given : picks[-1 - given];
	for (int32_t i0 = 0; i0 < d; i0 += THREADS) {
		const int32_t i = i0 + (int32_t)threadIdx.x;
		float value = 0.0f;
		if (i < d) {
			const size_t at =
				sizeof(T) == 2 ? fragment_index(token, i, k_tiles)
					       : (size_t)token * (size_t)k_tiles * 16 + (size_t)i;
			value = to_float(embedding[at]);
			out.to[(size_t)row * (size_t)out.stride + (size_t)i] = value;
			if (out.next.to != NULL)
				put_next(out.next, (size_t)row, i, value);
		}
		const float sum = sum_of_sixteen(value * value);
		if (out.squares != NULL && i < d && (i & 15) == 0)
			out.squares[(size_t)row * (size_t)(d / 16) + (size_t)(i / 16)] = sum;
	}
}

cudaError_t m2_cuda_pack(cudaStream_t stream, const struct m2_cuda_matrix *matrix, const void *src,
	enum m2_dtype stored, size_t first, size_t count)
{
	return with_type(matrix->dtype, [&](auto to) {
		return with_type(stored, [&](auto from) {
			pack_kernel<<<blocks_for(count), THREADS, 0, stream>>>(
				(decltype(to) *)matrix->data, (const decltype(from) *)src, first,
				count, matrix->cols, m2_cuda_pad(matrix->cols) / 16);
			return cudaGetLastError();
		});
	});
}

cudaError_t m2_cuda_widen(
	cudaStream_t stream, float *dst, const void *src, enum m2_dtype stored, size_t count)
{
	return with_type(stored, [&](auto from) {
		widen_kernel<<<blocks_for(count), THREADS, 0, stream>>>(
			dst, (const decltype(from) *)src, count);
		return cudaGetLastError();
	});
}

cudaError_t m2_cuda_fill_a(cudaStream_t stream, float *a, int32_t n, bool given)
{
	fill_a_kernel<<<blocks_for((size_t)n), THREADS, 0, stream>>>(a, n, given);
	return cudaGetLastError();
}

cudaError_t m2_cuda_embed(cudaStream_t stream, const struct m2_cuda_matrix *embedding,
	const int32_t *tokens, const int32_t *picks, int32_t rows, const struct m2_cuda_output *out)
{
	return with_type(embedding->dtype, [&](auto type) {
		return launch_early(embed_kernel<decltype(type)>, dim3((unsigned)rows), THREADS, 0,
			stream, (const decltype(type) *)embedding->data, tokens, picks,
			embedding->cols, m2_cuda_pad(embedding->cols) / 16, *out);
	});
}
