/* mix.cu - the mixer between its projections for head_dim 64 and state_size 128, the public shapes.
 *
 * A single token (mix_one) is one kernel.  A block is one head of one sequence; its 32 KiB of state are
 * read once and written once.  Four threads hold a row p of the state, 32 numbers each: thread q of a row
 * has columns 16 j + 4 q + 0..3.  The gated MLP is none of its business (d_mlp 0).  What leaves the block
 * is y * SiLU(z) and the sum of its squares, from which the product that follows makes the gated norm: no
 * pass of its own.  It does its own convolution: every head computes the B and C it needs again, which
 * costs less than another kernel.  Its first part, up to the wait, only touches the state.
 *
 * A step of spans is up to five: the convolution of all rows; the recurrence of what stands before each
 * item's first whole chunk, single tokens among it; the two kernels of whole chunks (ssd.cuh); the
 * recurrence of what stands behind the last.  The recurrence is mix_one's, token by token with the same
 * bits and the state in registers throughout.
 */
#include "kernels/cuda/ssd.cuh"

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
			s[j] = __ldcs(&at[j * 4]); /* nobody reads it again in this step */
	}
	__device__ void store()
	{
#pragma unroll
		for (int j = 0; j < 8; j++)
			__stcs(&at[j * 4], s[j]);
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

/* What mix_one leaves of a token, by a warp: v is y, z its gate, lane and lane + 32. */
__device__ inline void leave_token(
	const struct m2_cuda_mixer &m, int32_t row, int32_t h, float *v, const float (&z)[2])
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
#pragma unroll
	for (int k = 0; k < 2; k++) {
		const int32_t p = lane + k * 32;
		v[p] = v[p] * silu(z[k]);
		put_next(m.next, (size_t)row, h * P + p, v[p]);
	}
	__syncwarp();
	const float squares = head_squares(v);
	if (lane == 0)
		m.squares[(size_t)row * (size_t)m.heads + (size_t)h] = squares;
}

/* Some tokens of a span, on their way to shared memory: what one thread brings. */
struct staged {
	float x[2], dt;
	float2 b[2], c[2];

	/* n tokens from `row` on */
	__device__ void fetch(
		const struct m2_cuda_mixer &m, int32_t row, int32_t n, int32_t h, int32_t group)
	{
#pragma unroll
		for (int k = 0; k < 2; k++) {
			const int32_t i = (int32_t)threadIdx.x + k * THREADS, at = i % P;
			if (i / P >= n)
				continue;
			const float *from = m.xbc + (size_t)(row + i / P) * (size_t)m.channels;
			x[k] = from[h * P + at];
			b[k] = ((const float2 *)(from + m.d_ssm + group * N))[at];
			c[k] = ((const float2 *)(from + m.d_ssm + (m.groups + group) * N))[at];
		}
		if ((int32_t)threadIdx.x < n)
			dt = raw_dt(m, row + (int32_t)threadIdx.x, h);
	}
};
static_assert((int)STAGE * (int)P == 2 * (int)THREADS, "two numbers of x to a thread");
static_assert((int)STAGE * 32 == (int)THREADS, "a warp gates a token");

/* Of an item of `which`, the tokens before or behind its whole chunks; each with the bits that mix_one
 * gives it.  The next tokens are on their way while these are used. */
__global__ void __launch_bounds__(THREADS)
	mix_span_kernel(const struct m2_cuda_mixer m, const int32_t *which, bool behind)
{
	__shared__ float4 b[STAGE][N / 4], c[STAGE][N / 4];
	__shared__ float x[STAGE][P], v[STAGE][P];
	__shared__ float2 step[STAGE];
	const int32_t h = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x, p = tid >> 2;
	const int32_t group = h / (m.heads / m.groups), warp = tid >> 5, lane = tid & 31;
	const struct m2_cuda_item item = m.items[which[blockIdx.y]];
	const int32_t from = behind ? item.lead + item.chunks * SSD_CHUNK : 0;
	const int32_t end = item.first + (behind ? item.tokens : item.lead);
	const float d = m.d[m.d_per_channel ? h * P + p : h];
	struct state_rows state;
	struct staged next = {};
	/* whoever wrote it last is not the previous kernel: of tails, that is the outputs of chunks */
	state.load(m, item.slot, h);
	wait_for_previous();
	next.fetch(m, item.first + from, end - item.first - from, h, group);
	for (int32_t row = item.first + from; row < end; row += STAGE) {
		const int32_t n = end - row < STAGE ? end - row : STAGE;
		float z[2] = {};
#pragma unroll
		for (int k = 0; k < 2; k++) {
			const int32_t i = tid + k * THREADS, at = i % P;
			x[i / P][at] = next.x[k];
			((float2 *)b[i / P])[at] = next.b[k];
			((float2 *)c[i / P])[at] = next.c[k];
			if (warp < n)
				z[k] = m.in_out[(size_t)(row + warp) * (size_t)m.in_stride +
						(size_t)(h * P + lane + k * 32)];
		}
		if (tid < n)
			step[tid] = step_from(m, next.dt, h);
		__syncthreads();
		next.fetch(m, row + STAGE, end - row - STAGE, h, group);
		for (int32_t t = 0; t < n; t++) {
			const float y = state.step(step[t].y, step[t].x * x[t][p], b[t], c[t]);
			if ((tid & 3) == 0)
				v[t][p] = fmaf(d, x[t][p], y);
		}
		__syncthreads(); /* and nobody reads what the next tokens replace */
		if (warp < n)
			leave_token(m, row + warp, h, v[warp], z);
	}
	state.store();
}

static cudaError_t launch_span(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *which, int32_t items, bool behind)
{
	if (items == 0)
		return cudaSuccess;
	return launch_early(mix_span_kernel, dim3((unsigned)mixer->heads, (unsigned)items), THREADS,
		0, stream, *mixer, which, behind);
}

cudaError_t m2_cuda_mix_one(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *count, int32_t n_items)
{
	return launch_early(mixer->taps == 4 ? mix_one_kernel<4> : mix_one_kernel<0>,
		dim3((unsigned)mixer->heads, (unsigned)n_items), THREADS, 0, stream, *mixer, count);
}

cudaError_t m2_cuda_mix_span(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	cudaError_t error = m2_cuda_ssd_prepare(stream, mixer, spans);
	if (error == cudaSuccess)
		error = launch_span(stream, mixer, mixer->leads, spans->leads, false);
	if (error == cudaSuccess && spans->chunks > 0)
		error = m2_cuda_ssd_states(stream, mixer, spans);
	if (error == cudaSuccess && spans->chunks > 0)
		error = m2_cuda_ssd_outputs(stream, mixer, spans);
	if (error == cudaSuccess)
		error = launch_span(stream, mixer, mixer->tails, spans->tails, true);
	return error;
}
