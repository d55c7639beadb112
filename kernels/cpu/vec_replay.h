/* vec_replay.h - single tokens: the state is read by each, and written by every M2_RING-th.
 *
 * The recurrence S = exp(dt A) S + B dt x moves the state twice per token, and at a batch the states are
 * what memory has to move.  So the inputs of the newest tokens are kept beside a state of before them (a
 * ring by absolute position, ReplaySSM), and with s_j the sum of dt A over rows 0..j of the ring:
 *   y_r = exp(s_r) C_r S + sum_{j<=r} (C_r . B_j) exp(s_r - s_j) u_j + D x_r,   u_j = dt_j x_j
 *   S'  = exp(s_15) S + sum_j exp(s_15 - s_j) B_j u_j                           after row 15 alone
 * which is the chunked form of 16 tokens, one row at a time.  A state is then one multiply-add per
 * element and token, and what must move of 130m (24 layers of 24 heads of [128][64]) per sequence and
 * step is, in MB:
 *   recurrence: state read and written                                        18.9 + 18.9 = 37.7
 *   replay: state read 18.9, written by one token of 16 1.2; of the ring half of u read, a row of it
 *   written, B's 16 rows read and written, the sums: 1.2 + 0.1 + 0.4 + 0.1                = 21.9
 * With 258 MB of weights once a step: 296 and 280 at a batch of 1, 560 and 433 of 8, 1465 and 959 of 32.
 *
 * Rows are sums in one order, over n ascending and then over j ascending, however many are computed at
 * once: the same bits.
 */
#ifndef M2_KERNELS_CPU_VEC_REPLAY_H
#define M2_KERNELS_CPU_VEC_REPLAY_H

enum { CB_CHAINS = 4 }; /* sums that a product C . B runs in */

static void replay_cb(float *cb, float *bt, const float *ring, const struct m2_head_span *span,
	int32_t row, int32_t tokens)
{
	const int32_t N = span->state_size;
	if (row > 0)
		memcpy(bt, ring, (size_t)N * M2_RING * sizeof(float));
	for (int32_t t = 0; t < tokens; t++)
		for (int32_t n = 0; n < N; n++)
			bt[n * M2_RING + row + t] = span->b[(size_t)t * span->stride + (size_t)n];
	for (int32_t t = 0; t < tokens; t++) {
		const float *c = span->c + (size_t)t * span->stride;
		for (int32_t j = 0; j < M2_RING; j += VF_LANES) {
			vf sum[CB_CHAINS];
			for (int i = 0; i < CB_CHAINS; i++)
				sum[i] = vf_set1(0.0f);
			for (int32_t n = 0; n < N; n += CB_CHAINS)
				M2_UNROLL
			for (int i = 0; i < CB_CHAINS; i++)
				if (n + i < N)
					sum[i] = vf_fma(vf_set1(c[n + i]),
						vf_load(bt + (n + i) * M2_RING + j), sum[i]);
			vf_store(cb + t * M2_RING + j,
				vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
		}
	}
}

/* Where stream q of a state of N rows begins.  C S is summed over each stream's rows by itself, and then
 * stream after stream: memory gives more when it is read in several places at once. */
static inline int32_t stream_row(int32_t N, int32_t q)
{
	return N * q / VF_STREAMS;
}

/* C S of one token in the strip at p, all streams side by side; meanwhile the next head is asked for. */
M2_INLINE void read_one(float *y, const struct m2_head_span *span, int32_t p, const int vectors)
{
	const int32_t N = span->state_size, Pp = span->padded_dim;
	const int32_t longest = (N + VF_STREAMS - 1) / VF_STREAMS;
	vf sum[VF_STREAMS][VF_LONG];

	M2_UNROLL
	for (int q = 0; q < VF_STREAMS; q++)
		M2_UNROLL
	for (int v = 0; v < vectors; v++)
		sum[q][v] = vf_set1(0.0f);
	for (int32_t i = 0; i < longest; i++) {
		M2_UNROLL
		for (int q = 0; q < VF_STREAMS; q++) {
			const int32_t n = stream_row(N, q) + i;
			if (n >= stream_row(N, q + 1))
				continue;
			const float *state = span->state + n * Pp + p;
			const vf c = vf_set1(span->c[n]);
			M2_UNROLL
			for (int v = 0; v < vectors * VF_LANES; v += 16)
				__builtin_prefetch(span->ask + n * Pp + p + v, 0, 2);
			M2_UNROLL
			for (int v = 0; v < vectors; v++)
				sum[q][v] = vf_fma(c, vf_load(state + v * VF_LANES), sum[q][v]);
		}
	}
	M2_UNROLL
	for (int v = 0; v < vectors; v++) {
		vf total = sum[0][v];
		M2_UNROLL
		for (int q = 1; q < VF_STREAMS; q++)
			total = vf_add(total, sum[q][v]);
		vf_store(y + p + v * VF_LANES, total);
	}
}

static void replay_read_one(float *y, const struct m2_head_span *span, int32_t row)
{
	const int32_t Pp = span->padded_dim;
	for (int32_t p = 0; p < Pp;) {
		if (Pp - p >= VF_LONG * VF_LANES) {
			read_one(y, span, p, VF_LONG);
			p += VF_LONG * VF_LANES;
		} else {
			read_one(y, span, p, VF_STRIP);
			p += M2_HEAD_ALIGN;
		}
	}
	const float *u = m2_head_u(span->ask, span->state_size, Pp);
	const int32_t sums = M2_RING * (int32_t)(sizeof(double) / sizeof(float));
	for (int32_t i = 0; i < (row + 1) * Pp; i += 16)
		__builtin_prefetch(u + i, 0, 2);
	for (int32_t i = 0; i < sums; i += 16)
		__builtin_prefetch(u + M2_RING * Pp + i, 1, 2);
}

/* C S of `rows` tokens over rows [from, end) of the state, onto y unless this is its first stream. */
M2_INLINE void read_some(float *y, const struct m2_head_span *span, const float *c, int32_t p,
	int32_t from, int32_t end, bool first, const int rows, const int vectors)
{
	const int32_t Pp = span->padded_dim;
	vf sum[VF_BLOCK][VF_WIDE];

	M2_UNROLL
	for (int i = 0; i < rows; i++)
		M2_UNROLL
	for (int v = 0; v < vectors; v++)
		sum[i][v] = vf_set1(0.0f);
	for (int32_t n = from; n < end; n++) {
		M2_UNROLL
		for (int v = 0; v < vectors; v++) {
			const vf in = vf_load(span->state + n * Pp + p + v * VF_LANES);
			M2_UNROLL
			for (int i = 0; i < rows; i++)
				sum[i][v] = vf_fma(vf_set1(c[(size_t)i * span->stride + (size_t)n]),
					in, sum[i][v]);
		}
	}
	M2_UNROLL
	for (int i = 0; i < rows; i++)
		M2_UNROLL
	for (int v = 0; v < vectors; v++) {
		float *to = y + i * Pp + p + v * VF_LANES;
		vf_store(to, first ? sum[i][v] : vf_add(vf_load(to), sum[i][v]));
	}
}

/* All streams, one after the other, in the strip at p. */
M2_INLINE void read_strip(
	float *y, const struct m2_head_span *span, int32_t tokens, int32_t p, const int vectors)
{
	const int32_t N = span->state_size, Pp = span->padded_dim;
	for (int q = 0; q < VF_STREAMS; q++) {
		const int32_t from = stream_row(N, q), end = stream_row(N, q + 1);
		const float *c = span->c;
		int32_t t = 0;
		for (; t + VF_BLOCK <= tokens; t += VF_BLOCK, c += VF_BLOCK * span->stride)
			read_some(y + t * Pp, span, c, p, from, end, q == 0, VF_BLOCK, vectors);
		for (; t < tokens; t++, c += span->stride)
			read_some(y + t * Pp, span, c, p, from, end, q == 0, 1, vectors);
	}
}

static void replay_read(float *y, const struct m2_head_span *span, int32_t row, int32_t tokens)
{
	const int32_t Pp = span->padded_dim;
	if (tokens == 1) {
		replay_read_one(y, span, row);
		return;
	}
	for (int32_t p = 0; p < Pp;) {
		if (Pp - p >= VF_WIDE * VF_LANES) {
			read_strip(y, span, tokens, p, VF_WIDE);
			p += VF_WIDE * VF_LANES;
		} else {
			read_strip(y, span, tokens, p, VF_STRIP);
			p += M2_HEAD_ALIGN;
		}
	}
}

/* out[j] = exp(last - sums[j]) for j <= row: what is left of row j at the sum `last`. */
static void replay_left(float *out, const double *sums, double last, int32_t row)
{
	for (int32_t j = 0; j <= row; j++)
		out[j] = (float)(last - sums[j]);
	for (int32_t j = 0; j <= row; j += VF_LANES)
		vf_store_n(out + j, vf_exp(vf_load_n(out + j, row + 1 - j)), row + 1 - j);
}

static float replay_exp(double x)
{
	float lanes[VF_LANES];
	vf_store(lanes, vf_exp(vf_set1((float)x)));
	return lanes[0];
}

/* The token in row `row`: y = exp(s) y + sum of what the ring gives. */
static void replay_sum(
	float *y, const float *u, const double *sums, const float *cb, int32_t Pp, int32_t row)
{
	float mixed[M2_RING];
	replay_left(mixed, sums, sums[row], row);
	for (int32_t j = 0; j <= row; j++)
		mixed[j] *= cb[j];
	const vf keep = vf_set1(replay_exp(sums[row]));
	for (int32_t p = 0; p < Pp; p += M2_HEAD_ALIGN) {
		vf sum[VF_STRIP];
		M2_UNROLL
		for (int v = 0; v < VF_STRIP; v++)
			sum[v] = vf_mul(keep, vf_load(y + p + v * VF_LANES));
		for (int32_t j = 0; j <= row; j++)
			M2_UNROLL
		for (int v = 0; v < VF_STRIP; v++)
			sum[v] = vf_fma(
				vf_set1(mixed[j]), vf_load(u + j * Pp + p + v * VF_LANES), sum[v]);
		M2_UNROLL
		for (int v = 0; v < VF_STRIP; v++)
			vf_store(y + p + v * VF_LANES, sum[v]);
	}
}

/* The state of after the whole ring. */
static void replay_write(const struct m2_head_span *span, const struct m2_head_scratch *scratch,
	const float *u, const double *sums)
{
	const int32_t Pp = span->padded_dim;
	const double last = sums[M2_RING - 1];
	const float keep = replay_exp(last);
	float left[M2_RING];
	replay_left(left, sums, last, M2_RING - 1);
	for (int32_t j = 0; j < M2_RING; j++)
		for (int32_t i = j * Pp; i < (j + 1) * Pp; i += VF_LANES)
			vf_store(scratch->x + i, vf_mul(vf_set1(left[j]), vf_load(u + i)));
	const struct small_product state = {
		.out = span->state,
		.out_row = (size_t)Pp,
		.keep = &keep,
		.a = span->bt,
		.a_row = M2_RING,
		.a_col = 1,
		.v = scratch->x,
		.v_row = (size_t)Pp,
	};
	small_run(&state, span->state_size, Pp, M2_RING);
}

static void replay(const struct m2_head_span *span, const struct m2_head_scratch *scratch,
	int32_t row, int32_t tokens)
{
	const int32_t Pp = span->padded_dim;
	float *u = m2_head_u(span->state, span->state_size, Pp), *y = scratch->y;
	double *sums = m2_head_sums(span->state, span->state_size, Pp);

	heads_inputs(u + row * Pp, span, tokens);
	for (int32_t t = 0; t < tokens; t++)
		sums[row + t] = (row + t > 0 ? sums[row + t - 1] : 0.0) +
				(double)span->dt[(size_t)t * span->dt_stride] * (double)span->a;
	replay_read(y, span, row, tokens);
	for (int32_t t = 0; t < tokens; t++)
		replay_sum(y + t * Pp, u, sums, span->cb + t * M2_RING, Pp, row + t);
	heads_finish(span, scratch, tokens);
	if (row + tokens == M2_RING)
		replay_write(span, scratch, u, sums);
}

#endif
