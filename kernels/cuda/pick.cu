/* pick.cu - the greedy choice: of each row of logits the largest, its lowest id, and its log softmax.
 *
 * Two kernels.  A block of the first takes a slice of SLICE ids of one row, read once into registers: its
 * largest, and the sum of exp(x - largest) over all others.  A warp of the second puts a row's slices
 * together, slice by slice in a fixed pattern.  How a row is cut depends on the vocabulary alone, so the
 * bits of a pick do not depend on the rows beside it.
 *
 * The largest itself counts 1 and is left out of the sum: its log probability is -log1p(rest), which keeps
 * its precision when there is hardly any rest.  Every logit x also adds x - x, which is 0, or a NaN where
 * x is not finite: so the log probability says that a row is not usable.
 */
#include <climits>

#include "kernels/backend.h"
#include "kernels/cuda/mixer.cuh"

enum { THREADS = 256, EACH = 8, SLICE = THREADS * EACH };

struct part {
	float largest;
	int32_t id; /* INT_MAX: there is no number in it */
	float rest; /* sum of exp(x - largest) over all but that one */
};

__device__ inline bool beats(float a, int32_t a_id, float b, int32_t b_id)
{
	return a > b || (a == b && a_id < b_id);
}

/* Of two disjoint sets of ids. */
__device__ inline part join(const part &a, const part &b)
{
	const bool first = beats(a.largest, a.id, b.largest, b.id);
	part to = first ? a : b;
	const part other = first ? b : a;
	to.rest += other.id == INT_MAX ? other.rest
				       : (1.0f + other.rest) * expf(other.largest - to.largest);
	return to;
}

/* The largest of a block, the same in all threads. */
__device__ inline void block_largest(float &largest, int32_t &id)
{
	__shared__ float warp_largest[THREADS / 32];
	__shared__ int32_t warp_id[THREADS / 32];
	for (int step = 16; step > 0; step >>= 1) {
		const float other = __shfl_xor_sync(0xffffffffu, largest, step);
		const int32_t other_id = __shfl_xor_sync(0xffffffffu, id, step);
		if (beats(other, other_id, largest, id)) {
			largest = other;
			id = other_id;
		}
	}
	if ((threadIdx.x & 31) == 0) {
		warp_largest[threadIdx.x >> 5] = largest;
		warp_id[threadIdx.x >> 5] = id;
	}
	__syncthreads();
	for (int w = 0; w < THREADS / 32; w++) {
		if (beats(warp_largest[w], warp_id[w], largest, id)) {
			largest = warp_largest[w];
			id = warp_id[w];
		}
	}
}

__global__ void __launch_bounds__(THREADS)
	slice_kernel(const struct m2_cuda_picker p, int32_t slices)
{
	__shared__ float scratch[32];
	const int32_t row = (int32_t)blockIdx.y, tid = (int32_t)threadIdx.x;
	const int32_t first = (int32_t)blockIdx.x * SLICE + tid;
	wait_for_previous();
	const struct m2_cuda_pick_order order = p.orders[row];
	if (order.slot < 0)
		return;
	const float *logits = p.logits + (size_t)row * (size_t)p.vocab;
	float x[EACH], largest = -INFINITY;
	int32_t id = INT_MAX;
#pragma unroll
	for (int k = 0; k < EACH; k++)
		x[k] = first + k * THREADS < order.limit ? logits[first + k * THREADS] : -INFINITY;
#pragma unroll
	for (int k = 0; k < EACH; k++) {
		if (first + k * THREADS < order.limit &&
			beats(x[k], first + k * THREADS, largest, id)) {
			largest = x[k];
			id = first + k * THREADS;
		}
	}
	block_largest(largest, id);
	float rest = 0.0f;
#pragma unroll
	for (int k = 0; k < EACH; k++) {
		if (first + k * THREADS >= order.limit)
			continue;
		rest += x[k] - x[k];
		if (first + k * THREADS != id)
			rest += expf(x[k] - largest);
	}
	rest = block_sum(rest, scratch);
	if (tid == 0)
		((part *)p.parts)[(size_t)row * (size_t)slices + blockIdx.x] =
			part{largest, id, rest};
}

__global__ void __launch_bounds__(32) join_kernel(const struct m2_cuda_picker p, int32_t slices)
{
	const int32_t row = (int32_t)blockIdx.x, lane = (int32_t)threadIdx.x;
	wait_for_previous();
	const struct m2_cuda_pick_order order = p.orders[row];
	if (order.slot < 0)
		return;
	const part *parts = (const part *)p.parts + (size_t)row * (size_t)slices;
	part mine = {-INFINITY, INT_MAX, 0.0f};
	for (int32_t i = lane; i < slices; i += 32)
		mine = join(mine, parts[i]);
	for (int step = 16; step > 0; step >>= 1) {
		const part other = {__shfl_down_sync(0xffffffffu, mine.largest, step),
			__shfl_down_sync(0xffffffffu, mine.id, step),
			__shfl_down_sync(0xffffffffu, mine.rest, step)};
		mine = join(mine, other);
	}
	if (lane != 0)
		return;
	const bool none = mine.id == INT_MAX; /* all NaN */
	struct m2_pick *to = ((*p.step & 1) != 0 ? p.results[1] : p.results[0]) + order.item;
	p.last[order.slot] = none ? 0 : mine.id;
	to->token = none ? 0 : mine.id;
	to->logprob = 0.0f - log1pf(mine.rest); /* and not -0 */
	to->logit = none ? p.logits[(size_t)row * (size_t)p.vocab] : mine.largest;
}

static int32_t slices_of(int32_t vocab)
{
	return (vocab + SLICE - 1) / SLICE;
}

size_t m2_cuda_pick_bytes(int32_t vocab)
{
	return (size_t)slices_of(vocab) * sizeof(part);
}

cudaError_t m2_cuda_pick(cudaStream_t stream, const struct m2_cuda_picker *picker, int32_t rows)
{
	const int32_t slices = slices_of(picker->vocab);
	const cudaError_t error = launch_early(slice_kernel, dim3((unsigned)slices, (unsigned)rows),
		THREADS, 0, stream, *picker, slices);
	return error != cudaSuccess ? error
				    : launch_early(join_kernel, dim3((unsigned)rows), 32, 0, stream,
					      *picker, slices);
}
