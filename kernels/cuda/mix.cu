/* mix.cu - the mixer between its projections for head_dim 64 and state_size 128, the public shapes.
 *
 * A block is one head of one sequence; its 32 KiB of state are read once and written once, whatever the
 * length of the span.  Four threads hold a row p of the state, 32 numbers each: thread q of a row has
 * columns 16 j + 4 q + 0..3.  The gated MLP is none of its business (d_mlp 0).  What leaves the block is y * SiLU(z) and the sum of its squares, from which
 * the product that follows makes the gated norm: no pass of its own.
 *
 * A single token (mix_one) does its own convolution: every head computes the B and C it needs again,
 * which costs less than another kernel.  Its first part, up to the wait, only touches the state.
 */
#include "kernels/cuda/mixer.cuh"

enum { THREADS = 256, STAGE = 8 /* tokens staged at a time */, P = 64, N = 128 };

struct state_rows {
	float4 s[8];
	float4 *at;

	__device__ void load(const struct m2_cuda_mixer &m, int32_t slot, int32_t h)
	{
		const int32_t p = (int32_t)threadIdx.x >> 2, q = (int32_t)threadIdx.x & 3;
		at = (float4 *)(m.ssm + (size_t)slot * m.slot_floats +
				((size_t)h * P + (size_t)p) * N) +
		     q;
#pragma unroll
		for (int j = 0; j < 8; j++)
			s[j] = at[j * 4];
	}
	__device__ void store()
	{
#pragma unroll
		for (int j = 0; j < 8; j++)
			at[j * 4] = s[j];
	}
	/* One token: the row's sum C h, in all four threads. */
	__device__ float step(float decay, float dx, const float4 *b, const float4 *c)
	{
		const int32_t q = (int32_t)threadIdx.x & 3;
		float sum = 0.0f;
#pragma unroll
		for (int j = 0; j < 8; j++) {
			const float4 bj = b[j * 4 + q], cj = c[j * 4 + q];
			s[j].x = fmaf(decay, s[j].x, dx * bj.x);
			s[j].y = fmaf(decay, s[j].y, dx * bj.y);
			s[j].z = fmaf(decay, s[j].z, dx * bj.z);
			s[j].w = fmaf(decay, s[j].w, dx * bj.w);
			sum = fmaf(cj.x, s[j].x, sum);
			sum = fmaf(cj.y, s[j].y, sum);
			sum = fmaf(cj.z, s[j].z, sum);
			sum = fmaf(cj.w, s[j].w, sum);
		}
		sum += __shfl_xor_sync(0xffffffffu, sum, 1);
		sum += __shfl_xor_sync(0xffffffffu, sum, 2);
		return sum;
	}
};

/* Sum of the squares of a head's 64 values, by one whole warp. */
__device__ inline float head_squares(const float *v)
{
	const float a = v[threadIdx.x & 31], b = v[(threadIdx.x & 31) + 32];
	float sum = fmaf(b, b, a * a);
	for (int step = 16; step > 0; step >>= 1)
		sum += __shfl_xor_sync(0xffffffffu, sum, step);
	return sum;
}

/* y * SiLU(z) of one value. */
__device__ inline float gated(const struct m2_cuda_mixer &m, int32_t row, int32_t channel, float y)
{
	return y * silu(m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)channel]);
}

/* One channel of a single token.  The older columns are in the ring since the last step, so their part
 * of the sum is made before the wait; Taps 0: as many as the model has. */
template <int Taps> struct channel {
	float sum, last;
	size_t into_ring;
	int32_t c;

	__device__ void begin(
		const struct m2_cuda_mixer &m, const struct m2_cuda_item &item, int32_t at)
	{
		const int32_t taps = Taps > 0 ? Taps : m.taps;
		const float *w = m.conv + (size_t)at * (size_t)taps;
		const float *ring = m.ring + (size_t)item.slot * m.slot_floats + (size_t)at;
		c = at;
		sum = m.conv_bias != NULL ? m.conv_bias[c] : 0.0f;
#pragma unroll
		for (int32_t j = 0; j < taps - 1; j++) {
			const int32_t column = (item.into_ring + 1 + j) % taps;
			sum = fmaf(w[j], ring[(size_t)column * (size_t)m.channels], sum);
		}
		last = w[taps - 1];
		into_ring = (size_t)item.slot * m.slot_floats +
			    (size_t)item.into_ring * (size_t)m.channels + (size_t)c;
	}
	/* After convolution and SiLU; `mine`: put the raw column into the ring. */
	__device__ float end(const struct m2_cuda_mixer &m, int32_t row, bool mine) const
	{
		const float raw =
			m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)(xbc_at(m) + c)];
		if (mine)
			m.ring[into_ring] = raw;
		return silu(fmaf(last, raw, sum));
	}
};

template <int Taps>
__global__ void __launch_bounds__(THREADS)
	mix_one_kernel(const struct m2_cuda_mixer m, const int32_t *count)
{
	__shared__ float4 bc[2][N / 4];
	__shared__ float x[P], v[P];
	__shared__ float2 step;
	const int32_t h = (int32_t)blockIdx.x, row = (int32_t)blockIdx.y;
	const int32_t tid = (int32_t)threadIdx.x, p = tid >> 2;
	const int32_t per_group = m.heads / m.groups, group = h / per_group;
	if (row >= *count) {
		wait_for_previous();
		return;
	}
	const struct m2_cuda_item item = m.items[row];
	struct state_rows state;
	struct channel<Taps> of_bc, of_x;
	const int32_t which = tid / N, n = tid % N; /* B, then C */
	state.load(m, item.slot, h);
	of_bc.begin(m, item, m.d_ssm + (which * m.groups + group) * N + n);
	of_x.begin(m, item, h * P + tid % P);
	const float d = m.d[m.d_per_channel ? h * P + p : h];
	wait_for_previous();
	const float z = m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)(h * P + p)];
	((float *)bc[which])[n] = of_bc.end(m, row, h % per_group == 0);
	if (tid < P)
		x[tid] = of_x.end(m, row, true);
	if (tid == THREADS - 1)
		step = step_of(m, row, h);
	__syncthreads();
	const float y = state.step(step.y, step.x * x[p], bc[0], bc[1]);
	state.store();
	if ((tid & 3) == 0) {
		v[p] = fmaf(d, x[p], y) * silu(z);
		put_next(m.next, (size_t)row, h * P + p, v[p]);
	}
	__syncthreads();
	if (tid < 32) {
		const float squares = head_squares(v);
		if (tid == 0)
			m.squares[(size_t)row * (size_t)m.heads + (size_t)h] = squares;
	}
}

__global__ void __launch_bounds__(THREADS) mix_span_kernel(const struct m2_cuda_mixer m)
{
	__shared__ float4 b[STAGE][N / 4], c[STAGE][N / 4];
	__shared__ float x[STAGE][P];
	__shared__ float2 step[STAGE];
	const int32_t h = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x, p = tid >> 2;
	const int32_t group = h / (m.heads / m.groups);
	const struct m2_cuda_item item = m.items[blockIdx.y];
	struct state_rows state;
	state.load(m, item.slot, h);
	const float d = m.d[m.d_per_channel ? h * P + p : h];
	wait_for_previous();
	for (int32_t t0 = 0; t0 < item.tokens; t0 += STAGE) {
		const int32_t n = item.tokens - t0 < STAGE ? item.tokens - t0 : STAGE;
		__syncthreads();
		for (int32_t i = tid; i < n * P; i += THREADS) {
			const float *row =
				m.xbc + (size_t)(item.first + t0 + i / P) * (size_t)m.channels;
			const int32_t at = i % P;
			x[i / P][at] = row[h * P + at];
			((float2 *)b[i / P])[at] =
				((const float2 *)(row + m.d_ssm + group * N))[at];
			((float2 *)c[i / P])[at] =
				((const float2 *)(row + m.d_ssm + (m.groups + group) * N))[at];
		}
		if (tid < n)
			step[tid] = step_of(m, item.first + t0 + tid, h);
		__syncthreads();
		for (int32_t t = 0; t < n; t++) {
			const float y = state.step(step[t].y, step[t].x * x[t][p], b[t], c[t]);
			const int32_t row = item.first + t0 + t;
			if ((tid & 3) == 0)
				m.y[(size_t)row * (size_t)m.d_ssm + (size_t)(h * P + p)] =
					gated(m, row, h * P + p, fmaf(d, x[t][p], y));
		}
	}
	state.store();
}

/* What mix_one leaves, from the y of spans: a warp per head. */
__global__ void leave_kernel(const struct m2_cuda_mixer m)
{
	const int32_t h = (int32_t)(blockIdx.y * (THREADS / 32) + threadIdx.x / 32);
	const int32_t lane = (int32_t)threadIdx.x & 31;
	const size_t row = blockIdx.x;
	wait_for_previous();
	if (h >= m.heads)
		return;
	const float *v = m.y + row * (size_t)m.d_ssm + (size_t)(h * P);
	const float squares = head_squares(v);
	if (lane == 0)
		m.squares[row * (size_t)m.heads + (size_t)h] = squares;
	put_next(m.next, row, h * P + lane, v[lane]);
	put_next(m.next, row, h * P + lane + 32, v[lane + 32]);
}

cudaError_t m2_cuda_mix_one(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *count, int32_t n_items)
{
	return launch_early(mixer->taps == 4 ? mix_one_kernel<4> : mix_one_kernel<0>,
		dim3((unsigned)mixer->heads, (unsigned)n_items), THREADS, 0, stream, *mixer, count);
}

cudaError_t m2_cuda_mix_span(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items, int32_t rows)
{
	const unsigned blocks = (unsigned)((mixer->heads + THREADS / 32 - 1) / (THREADS / 32));
	const cudaError_t error = launch_early(mix_span_kernel,
		dim3((unsigned)mixer->heads, (unsigned)n_items), THREADS, 0, stream, *mixer);
	return error != cudaSuccess ? error
				    : launch_early(leave_kernel, dim3((unsigned)rows, blocks),
					      THREADS, 0, stream, *mixer);
}
