/* mix.cu - the mixer between its projections for head_dim 64 and state_size 128, the public shapes.
 *
 * A single token (mix_one) is one kernel.  A block is one head of one sequence; its 32 KiB of state are
 * read, and written by the last token of each window of 16: what the others would have added is held beside
 * it and replayed (replay.cuh).  The gated MLP is none of its business (d_mlp 0).  What leaves the block is
 * y * SiLU(z) and the sum of its squares, from which the product that follows makes the gated norm: no
 * pass of its own.  It does its own convolution: every head computes the B and C it needs again, which
 * costs less than another kernel.  Its first part, up to the wait, only touches what the slot holds.
 *
 * Bytes of a head and token, on the average of a window: 32 KiB of state in and 1/16 of that out, 1.9 KiB of
 * held x in and 0.25 out, 1 KiB of the convolution's columns, 0.5 of in_out: 37.7 KiB, where state in and out
 * alone would be 64.  A group's heads share 3.8 KiB of held B and 4 of columns, which all but the first find
 * in the L2.  At 256 sequences and 4 TB/s a layer takes 59 us for 130m (24 heads) and 197 us for 2.7b (80) at
 * least, all layers 1.4 and 12.6 ms, where state in and out would take 2.5 and 22.
 *
 * A step of spans is up to five: the convolution of all rows; the recurrence of what stands before each
 * item's first whole chunk, single tokens among it; the two kernels of whole chunks (ssd.cuh); the
 * recurrence of what stands behind the last.  The recurrence is mix_one's with the same bits, the state in
 * registers and the window in shared memory throughout.  A whole chunk is four whole windows: it begins
 * and ends with nothing held.  Cuts off that grid may need a sixth (hold_b).
 */
#include "kernels/cuda/replay.cuh"
#include "kernels/cuda/ssd.cuh"

enum {
	STAGE = 8,               /* tokens staged at a time, a part of a window */
	LAST_WARP = THREADS - 32 /* in mix_one it has the steps: the first ones have x */
};

/* Most models have one group, and a division takes longer than much else here. */
__device__ inline int32_t group_of_head(const struct m2_cuda_mixer &m, int32_t h)
{
	return m.groups == 1 ? 0 : h / (m.heads / m.groups);
}
/* Whether a head keeps what all of its group share. */
__device__ inline bool leads_group(const struct m2_cuda_mixer &m, int32_t h, int32_t group)
{
	return m.groups == 1 ? h == 0 : h == group * (m.heads / m.groups);
}

/* To where it will be at hand when put_next asks for it. */
__device__ inline void bring_near(const float *at)
{
	asm volatile("prefetch.global.L1 [%0];" ::"l"(at));
}

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
		alignas(16) float four[4];
		if (Taps == 4) /* at once */
			*(float4 *)four = *(const float4 *)w;
		c = at;
		sum = m.conv_bias != NULL ? m.conv_bias[c] : 0.0f;
#pragma unroll
		for (int32_t j = 0; j < taps - 1; j++) {
			const int32_t column = (item.into_ring + 1 + j) % taps;
			sum = fmaf(Taps == 4 ? four[j & 3] : w[j],
				ring[(size_t)column * (size_t)m.channels], sum);
		}
		last = Taps == 4 ? four[3] : w[taps - 1];
		into_ring = (size_t)item.slot * m.slot_floats +
			    (size_t)item.into_ring * (size_t)m.channels + (size_t)c;
	}
	/* This token's raw column: all of a block's are asked for before anything is stored. */
	__device__ float raw(const struct m2_cuda_mixer &m, int32_t row) const
	{
		return m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)(xbc_at(m) + c)];
	}
	/* After convolution and SiLU; `mine`: put the raw column into the ring. */
	__device__ float end(const struct m2_cuda_mixer &m, float raw, bool mine) const
	{
		if (mine)
			m.ring[into_ring] = raw;
		return silu(fmaf(last, raw, sum));
	}
};

/* What mix_one's threads share. */
struct shared_token {
	struct shared_window window;
	float4 c[N / 4];
	float v[P];
	float scores[WINDOW]; /* (C . B_j) w_j */
	float weights[WEIGHTS];
};

/* Of token r with all of the window before it: warp w has tokens w and w + 8. */
__device__ inline void make_scores(struct shared_token &to, int32_t r)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
#pragma unroll
	for (int k = 0; k < WINDOW / 8; k++) {
		const int32_t j = ((int32_t)threadIdx.x >> 5) + k * 8;
		if (j > r)
			continue;
		float sum = dot_of_four(to.c[lane], to.window.b[j][lane]);
#pragma unroll
		for (int step = 16; step > 0; step >>= 1)
			sum += __shfl_xor_sync(0xffffffffu, sum, step);
		if (lane == 0)
			to.scores[j] = sum * to.weights[j];
	}
}

/* The newest token joins what is held; nobody reads its place in this step. */
__device__ inline void hold(const struct m2_cuda_mixer &m, const struct m2_cuda_item &item,
	int32_t h, int32_t group, bool first, float bc, float x)
{
	const int32_t tid = (int32_t)threadIdx.x, r = item.into_window;
	if (r == HELD)
		return;
	if (tid < N && first)
		held_b(m, item.slot, group)[r * N + tid] = bc;
	if (tid < P)
		held_x(m, item.slot, h)[r * P + tid] = x;
}

template <int Taps>
__global__ void __launch_bounds__(THREADS, Taps == 4 ? 4 : 3)
	mix_one_kernel(const struct m2_cuda_mixer m, const int32_t *count)
{
	__shared__ struct shared_token shared;
	const int32_t h = (int32_t)blockIdx.x, row = (int32_t)blockIdx.y;
	const int32_t tid = (int32_t)threadIdx.x, p = tid >> 2;
	const int32_t group = group_of_head(m, h);
	const bool first = leads_group(m, h, group);
	if (row >= *count) {
		wait_for_previous();
		return;
	}
	const struct m2_cuda_item item = m.items[row];
	const int32_t r = item.into_window;
	struct state_rows state;
	struct channel<Taps> of_bc = {
	};
	struct channel<Taps> of_x = {
	};
	const int32_t which = tid / N, n = tid % N; /* B, then C */
	state.load(m, item.slot, h);
	shared.window.fetch(m, item.slot, h, group, r);
	bring_near(m.next.weight + h * P + p);
	const float d = m.d[m.d_per_channel ? h * P + p : h];
	const float dt_bias = m.dt_bias[h], a = m.a[h];
	float weight = 0.0f, x = 0.0f;
	float2 step = make_float2(0.0f, 0.0f); /* of token j in lane j of the last warp */
	if (tid >= LAST_WARP && tid - LAST_WARP < r)
		step = held_steps(m, item.slot, h)[tid - LAST_WARP];
	of_bc.begin(m, item, m.d_ssm + (which * m.groups + group) * N + n);
	if (tid < P)
		of_x.begin(m, item, h * P + tid);
	if (tid >= LAST_WARP)
		weight = weight_before(step, r);
	wait_for_previous();
	const float z = m.in_out[(size_t)row * (size_t)m.in_stride + (size_t)(h * P + p)];
	const float raw_bc = of_bc.raw(m, row), raw_x = tid < P ? of_x.raw(m, row) : 0.0f;
	const float raw_step = raw_dt(m, row, h);
	const float bc = of_bc.end(m, raw_bc, first);
	((float *)(which == 0 ? shared.window.b[r] : shared.c))[n] = bc;
	if (tid < P)
		shared.window.x_of(r)[tid] = x = of_x.end(m, raw_x, true);
	if (tid >= LAST_WARP) {
		step = step_with(m, raw_step + dt_bias, a);
		weight = weight_after(weight, step, r);
		if (tid - LAST_WARP <= WINDOW)
			shared.weights[tid - LAST_WARP] = weight;
		if (tid == LAST_WARP && r < HELD)
			held_steps(m, item.slot, h)[r] = step;
	}
	hold(m, item, h, group, first, bc, x);
	await_fetches<0>();
	__syncthreads();
	const float times = state.times(shared.c);
	make_scores(shared, r);
	__syncthreads();
	const float y =
		all_of_row(times, shared.weights[WINDOW], shared.window.replay(shared.scores, r));
	if ((tid & 3) == 0) {
		shared.v[p] = fmaf(d, shared.window.x_of(r)[p], y) * silu(z);
		put_next(m.next, (size_t)row, h * P + p, shared.v[p]);
	}
	if (r == HELD) {
		state.fold(shared.window, shared.weights);
		state.store();
	}
	__syncthreads();
	if (tid < 32) {
		const float squares = head_squares(shared.v);
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

/* A window, and the tokens of it that are staged. */
struct shared_stage {
	struct shared_window window;
	float2 step[WINDOW];
	float4 c[STAGE][N / 4];
	float v[STAGE][P];
	float scores[STAGE][WINDOW];
	float weights[STAGE][WEIGHTS];

	/* By a warp: scores and weights of staged token t, the window's token r.  The sums have the order
	 * of make_scores: from step to step a lane keeps half of them, until it has that of lane / 2. */
	__device__ void score(int32_t t, int32_t r)
	{
		const int32_t lane = (int32_t)threadIdx.x & 31;
		const float4 own = c[t][lane];
		float sum[WINDOW];
#pragma unroll
		for (int j = 0; j < WINDOW; j++)
			sum[j] = j <= r ? dot_of_four(own, window.b[j][lane]) : 0.0f;
#pragma unroll
		for (int level = 1; level <= 4; level++) {
			const int half = WINDOW >> level;
			const bool high = (lane & 2 * half) != 0;
#pragma unroll
			for (int j = 0; j < WINDOW / 2; j++) {
				if (j >= half)
					continue;
				const float sent = high ? sum[j] : sum[j + half];
				const float kept = high ? sum[j + half] : sum[j];
				sum[j] = kept + __shfl_xor_sync(0xffffffffu, sent, 2 * half);
			}
		}
		sum[0] += __shfl_xor_sync(0xffffffffu, sum[0], 1);
		const float2 held = lane < r ? step[lane] : make_float2(0.0f, 0.0f);
		const float weight = weight_after(weight_before(held, r), step[r], r);
		const float of_sum = __shfl_sync(0xffffffffu, weight, lane >> 1);
		if (lane <= WINDOW)
			weights[t][lane] = weight;
		if ((lane & 1) == 0)
			scores[t][lane >> 1] = sum[0] * of_sum;
	}
};

/* Tokens of the next stage, the first of them token r of its window; none if none is left. */
__device__ inline int32_t stage_of(int32_t r, int32_t left)
{
	return min(left, STAGE - r % STAGE);
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
	/* Those n become tokens r.. of the window; and of the item's last, the slot holds them too. */
	__device__ void put(const struct m2_cuda_mixer &m, struct shared_stage &w, int32_t slot,
		int32_t h, int32_t group, int32_t r, int32_t n, int32_t left, bool holds_b) const
	{
#pragma unroll
		for (int k = 0; k < 2; k++) {
			const int32_t i = (int32_t)threadIdx.x + k * THREADS, at = i % P, t = i / P;
			if (t >= n)
				continue;
			w.window.x_of(r + t)[at] = x[k];
			((float2 *)w.window.b[r + t])[at] = b[k];
			((float2 *)w.c[t])[at] = c[k];
			if (r + t == HELD || left - t > WINDOW)
				continue;
			held_x(m, slot, h)[(r + t) * P + at] = x[k];
			if (holds_b)
				((float2 *)held_b(m, slot, group))[(r + t) * (N / 2) + at] = b[k];
		}
		const int32_t t = (int32_t)threadIdx.x;
		if (t < n) {
			const float2 step = step_from(m, dt, h);
			w.step[r + t] = step;
			if (r + t < HELD && left - t <= WINDOW)
				held_steps(m, slot, h)[r + t] = step;
		}
	}
};
static_assert((int)STAGE * (int)P == 2 * (int)THREADS, "two numbers of x to a thread");
static_assert((int)STAGE * 32 == (int)THREADS, "a warp gates a token");
static_assert((int)WINDOW % (int)STAGE == 0, "a stage is in one window");

/* Of an item of `which`, the tokens before or behind its whole chunks; each with the bits that mix_one
 * gives it.  The next tokens are on their way while these are used.  b_later: another kernel holds B. */
__global__ void __launch_bounds__(THREADS, 2) mix_span_kernel(
	const struct m2_cuda_mixer m, const int32_t *which, bool behind, bool b_later)
{
	__shared__ struct shared_stage w;
	const int32_t h = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x, p = tid >> 2;
	const int32_t group = group_of_head(m, h);
	const int32_t warp = tid >> 5, lane = tid & 31;
	const bool holds_b = !b_later && leads_group(m, h, group);
	const struct m2_cuda_item item = m.items[which[blockIdx.y]];
	const int32_t from = behind ? item.lead + item.chunks * SSD_CHUNK : 0;
	const int32_t end = item.first + (behind ? item.tokens : item.lead);
	const float d = m.d[m.d_per_channel ? h * P + p : h];
	struct state_rows state;
	struct staged next = {};
	bool folded = false;
	int32_t r = (item.into_window + from) % WINDOW, row = item.first + from;
	int32_t n = stage_of(r, end - row);
	/* whoever wrote it last is not the previous kernel: of tails, that is the outputs of chunks */
	state.load(m, item.slot, h);
	w.window.fetch(m, item.slot, h, group, r);
	if (tid < r)
		w.step[tid] = held_steps(m, item.slot, h)[tid];
	wait_for_previous();
	next.fetch(m, row, n, h, group);
	await_fetches<0>();
	while (n > 0) {
		float z[2] = {};
		next.put(m, w, item.slot, h, group, r, n, end - row, holds_b);
		if (warp < n)
#pragma unroll
			for (int k = 0; k < 2; k++)
				z[k] = m.in_out[(size_t)(row + warp) * (size_t)m.in_stride +
						(size_t)(h * P + lane + k * 32)];
		__syncthreads();
		const int32_t after = stage_of((r + n) % WINDOW, end - row - n);
		next.fetch(m, row + n, after, h, group);
		if (warp < n)
			w.score(warp, r + warp);
		__syncthreads();
		for (int32_t t = 0; t < n; t++) {
			const float y = all_of_row(state.times(w.c[t]), w.weights[t][WINDOW],
				w.window.replay(w.scores[t], r + t));
			if ((tid & 3) == 0)
				w.v[t][p] = fmaf(d, w.window.x_of(r + t)[p], y);
		}
		if (r + n == WINDOW) {
			state.fold(w.window, w.weights[n - 1]);
			folded = true;
		}
		__syncthreads(); /* and nobody reads what the next tokens replace */
		if (warp < n)
			leave_token(m, row + warp, h, w.v[warp], z);
		row += n;
		r = (r + n) % WINDOW;
		n = after;
	}
	if (folded)
		state.store();
}

/* B of the last tokens before whole chunks, where a block of mix_span might still want what they replace. */
__global__ void __launch_bounds__(N)
	hold_b_kernel(const struct m2_cuda_mixer m, const int32_t *which)
{
	const int32_t group = (int32_t)blockIdx.x, n = (int32_t)threadIdx.x;
	const struct m2_cuda_item item = m.items[which[blockIdx.y]];
	float *to = held_b(m, item.slot, group);
	wait_for_previous();
	for (int32_t t = item.lead > WINDOW ? item.lead - WINDOW : 0; t < item.lead; t++) {
		const int32_t r = (item.into_window + t) % WINDOW;
		if (r < HELD)
			to[r * N + n] = m.xbc[(size_t)(item.first + t) * (size_t)m.channels +
					      (size_t)(m.d_ssm + group * N + n)];
	}
}

static cudaError_t launch_span(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *which, int32_t items, bool behind, bool b_later)
{
	if (items == 0)
		return cudaSuccess;
	const cudaError_t error =
		launch_early(mix_span_kernel, dim3((unsigned)mixer->heads, (unsigned)items),
			THREADS, 0, stream, *mixer, which, behind, b_later);
	if (error != cudaSuccess || !b_later)
		return error;
	return launch_early(hold_b_kernel, dim3((unsigned)mixer->groups, (unsigned)items), N, 0,
		stream, *mixer, which);
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
		error = launch_span(
			stream, mixer, mixer->leads, spans->leads, false, spans->crossed);
	if (error == cudaSuccess && spans->chunks > 0)
		error = m2_cuda_ssd_states(stream, mixer, spans);
	if (error == cudaSuccess && spans->chunks > 0)
		error = m2_cuda_ssd_outputs(stream, mixer, spans);
	if (error == cudaSuccess)
		error = launch_span(stream, mixer, mixer->tails, spans->tails, true, false);
	return error;
}
