/* orders.cu - a graph's first kernel: what this step is to do, from the host's pinned memory.
 *
 * One block; each thread asks for its words of both places at once and keeps those of the next step, so
 * the way over the bus is taken once.
 */
#include "kernels/cuda/convert.cuh"

enum { THREADS = 1024 };

/* Word i of all parts one behind the other. */
__device__ inline int32_t place_of(const struct m2_cuda_order_words &w, int32_t i)
{
	int32_t at = w.parts[0].first + i, before = 0;
#pragma unroll
	for (int part = 1; part < M2_CUDA_ORDER_PARTS; part++) {
		before += w.parts[part - 1].words;
		at = i >= before ? w.parts[part].first + i - before : at;
	}
	return at;
}

__global__ void __launch_bounds__(THREADS)
	orders_kernel(const struct m2_cuda_order_words w, int32_t total)
{
	wait_for_previous(); /* and let the embedding's blocks come and wait */
	const bool odd = ((w.to[w.step] + 1) & 1) != 0;
	__syncthreads(); /* before anybody writes that word */
	for (int32_t i = (int32_t)threadIdx.x; i < total; i += THREADS) {
		const int32_t at = place_of(w, i);
		/* cv: what the host has written since the last step, not what a cache holds */
		const int32_t even_word = __ldcv(w.from[0] + at), odd_word = __ldcv(w.from[1] + at);
		w.to[at] = odd ? odd_word : even_word;
	}
}

cudaError_t m2_cuda_take_orders(cudaStream_t stream, const struct m2_cuda_order_words *words)
{
	int32_t total = 0;
	for (int i = 0; i < M2_CUDA_ORDER_PARTS; i++)
		total += words->parts[i].words;
	orders_kernel<<<1, THREADS, 0, stream>>>(*words, total);
	return cudaGetLastError();
}
