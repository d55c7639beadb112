/* vec_heads.h - the state space part, one head at a time: what both forms share, and the chunked form.
 *
 * Written in the vector of the file that includes this.  Vectors lie along the head's width P, so
 * the state is [N][Pp]: x is a vector, B and C are broadcast, y needs no horizontal sum.
 *
 * Chunked form (Dao & Gu 2024, section 6; s_k is the sum of dt A over tokens 0..k of the chunk):
 *   y_m = exp(s_m) C_m S + sum_{k<=m} (C_m . B_k) exp(s_m - s_k) dt_k x_k
 *   S'  = exp(s_last) S + sum_k exp(s_last - s_k) B_k dt_k x_k
 * s is kept in double: its differences are what matters, and they cancel.  Only differences that
 * are not positive go through exp, and what lies above the diagonal is never computed.
 */
#ifndef M2_KERNELS_CPU_VEC_HEADS_H
#define M2_KERNELS_CPU_VEC_HEADS_H

#include <string.h>

#ifdef __clang__
#define M2_UNROLL _Pragma("clang loop unroll(full)")
#else
#define M2_UNROLL _Pragma("GCC unroll 16")
#endif
#define M2_INLINE static inline __attribute__((always_inline))

enum {
	VF_STRIP = M2_HEAD_ALIGN / VF_LANES, /* vectors of a narrow block: 16 floats */
	VF_BLOCK = 4,                        /* rows of a block */
};

/* u = dt x, zero in the padding. */
static void heads_inputs(float *u, const struct m2_head_span *span, int32_t tokens)
{
	const int32_t P = span->head_dim, Pp = span->padded_dim;
	for (int32_t t = 0; t < tokens; t++) {
		const float *x = span->x + (size_t)t * span->stride;
		const vf dt = vf_set1(span->dt[(size_t)t * span->dt_stride]);
		for (int32_t i = 0; i < Pp; i += VF_LANES) {
			const vf v = i < P ? vf_load_n(x + i, P - i) : vf_set1(0.0f);
			vf_store(u + t * Pp + i, vf_mul(dt, v));
		}
	}
}

/* span->y = scratch->y + D x. */
static void heads_finish(
	const struct m2_head_span *span, const struct m2_head_scratch *scratch, int32_t tokens)
{
	const int32_t P = span->head_dim, Pp = span->padded_dim;
	for (int32_t t = 0; t < tokens; t++) {
		const float *x = span->x + (size_t)t * span->stride;
		float *y = span->y + (size_t)t * span->y_stride;
		for (int32_t i = 0; i < P; i += VF_LANES) {
			const vf d = span->d_per_channel ? vf_load_n(span->d + i, P - i)
							 : vf_set1(span->d[0]);
			const vf sum = vf_load(scratch->y + t * Pp + i);
			vf_store_n(y + i, vf_fma(d, vf_load_n(x + i, P - i), sum), P - i);
		}
	}
}

/* out[rows, width] = keep * out + a[rows, depth] . v[depth, width]; element (i, k) of a is at
 * a[i * a_row + k * a_col]; keep is one number per row, keep_row apart; keep NULL: 0. */
struct small_product {
	float *out;
	size_t out_row;
	const float *keep;
	size_t keep_row;
	const float *a;
	size_t a_row;
	size_t a_col;
	const float *v;
	size_t v_row;
};

M2_INLINE void small_block(const struct small_product *s, int32_t row, int32_t p, int32_t depth,
	const int rows, const int vectors)
{
	vf sum[VF_BLOCK][VF_WIDE];
	float *out = s->out + (size_t)row * s->out_row + p;
	const float *a = s->a + (size_t)row * s->a_row;
	const float *v = s->v + p;

	M2_UNROLL
	for (int i = 0; i < rows; i++)
		M2_UNROLL
	for (int j = 0; j < vectors; j++)
		sum[i][j] = s->keep == NULL
				    ? vf_set1(0.0f)
				    : vf_mul(vf_set1(s->keep[(size_t)(row + i) * s->keep_row]),
					      vf_load(out + (size_t)i * s->out_row + j * VF_LANES));
	for (int32_t k = 0; k < depth; k++) {
		vf in[VF_WIDE];
		M2_UNROLL
		for (int j = 0; j < vectors; j++)
			in[j] = vf_load(v + j * VF_LANES);
		M2_UNROLL
		for (int i = 0; i < rows; i++) {
			const vf factor = vf_set1(a[(size_t)i * s->a_row]);
			M2_UNROLL
			for (int j = 0; j < vectors; j++)
				sum[i][j] = vf_fma(factor, in[j], sum[i][j]);
		}
		a += s->a_col;
		v += s->v_row;
	}
	M2_UNROLL
	for (int i = 0; i < rows; i++)
		M2_UNROLL
	for (int j = 0; j < vectors; j++)
		vf_store(out + (size_t)i * s->out_row + j * VF_LANES, sum[i][j]);
}

/* width is a multiple of M2_HEAD_ALIGN.  depth < 0: lower triangle, row i needs columns 0..i and
 * a holds zeros from there to the end of its block of rows. */
static void small_run(const struct small_product *s, int32_t rows, int32_t width, int32_t depth)
{
	for (int32_t p = 0; p < width;) {
		const bool wide = width - p >= VF_WIDE * VF_LANES;
		int32_t row = 0;
		for (; row + VF_BLOCK <= rows; row += VF_BLOCK) {
			const int32_t k = depth < 0 ? row + VF_BLOCK : depth;
			if (wide)
				small_block(s, row, p, k, VF_BLOCK, VF_WIDE);
			else
				small_block(s, row, p, k, VF_BLOCK, VF_STRIP);
		}
		for (; row < rows; row++) {
			const int32_t k = depth < 0 ? row + 1 : depth;
			if (wide)
				small_block(s, row, p, k, 1, VF_WIDE);
			else
				small_block(s, row, p, k, 1, VF_STRIP);
		}
		p += (wide ? VF_WIDE : VF_STRIP) * VF_LANES;
	}
}

static void heads_chunk_cb(
	float *cb, const struct m2_head_span *span, const struct m2_head_scratch *scratch)
{
	for (int32_t k = 0; k < M2_CHUNK; k++)
		for (int32_t n = 0; n < span->state_size; n++)
			scratch->bt[n * M2_CHUNK + k] =
				span->b[(size_t)k * span->stride + (size_t)n];
	const struct small_product s = {
		.out = cb,
		.out_row = M2_CHUNK,
		.a = span->c,
		.a_row = span->stride,
		.a_col = 1,
		.v = scratch->bt,
		.v_row = M2_CHUNK,
	};
	small_run(&s, M2_CHUNK, M2_CHUNK, span->state_size);
}

/* mixed[m][k] = cb[m][k] exp(s_m - s_k) for k <= m, zeros to the end of m's block of rows. */
static void chunk_mixed(float *mixed, const float *cb, const double *s)
{
	for (int32_t m = 0; m < M2_CHUNK; m++) {
		const int32_t end = m / VF_BLOCK * VF_BLOCK + VF_BLOCK;
		float *row = mixed + m * M2_CHUNK;
		for (int32_t k = 0; k <= m; k++)
			row[k] = (float)(s[m] - s[k]);
		for (int32_t k = 0; k <= m; k += VF_LANES) {
			const vf decay = vf_exp(vf_load_n(row + k, m + 1 - k));
			const vf v = vf_mul(vf_load_n(cb + m * M2_CHUNK + k, m + 1 - k), decay);
			vf_store_n(row + k, v, m + 1 - k);
		}
		for (int32_t k = m + 1; k < end; k++)
			row[k] = 0.0f;
	}
}

/* out[k] = exp(from[k]) for a whole chunk. */
static void chunk_exp(float *out, const float *from)
{
	for (int32_t k = 0; k < M2_CHUNK; k += VF_LANES)
		vf_store(out + k, vf_exp(vf_load(from + k)));
}

static void heads_chunk(const struct m2_head_span *span, const struct m2_head_scratch *scratch)
{
	const int32_t N = span->state_size, Pp = span->padded_dim;
	double s[M2_CHUNK], sum = 0.0;
	float in[M2_CHUNK], out[M2_CHUNK]; /* decay from the chunk's start, and to its end */

	for (int32_t k = 0; k < M2_CHUNK; k++) {
		sum += (double)span->dt[(size_t)k * span->dt_stride] * (double)span->a;
		s[k] = sum;
	}
	for (int32_t k = 0; k < M2_CHUNK; k++) {
		in[k] = (float)s[k];
		out[k] = (float)(sum - s[k]);
	}
	chunk_exp(in, in);
	chunk_exp(out, out);
	chunk_mixed(scratch->mixed, span->cb, s);
	heads_inputs(scratch->x, span, M2_CHUNK);

	struct small_product y = {
		.out = scratch->y,
		.out_row = (size_t)Pp,
		.a = span->c,
		.a_row = span->stride,
		.a_col = 1,
		.v = span->state,
		.v_row = (size_t)Pp,
	};
	small_run(&y, M2_CHUNK, Pp, N);
	y.keep = in;
	y.keep_row = 1;
	y.a = scratch->mixed;
	y.a_row = M2_CHUNK;
	y.v = scratch->x;
	small_run(&y, M2_CHUNK, Pp, -1);

	for (int32_t k = 0; k < M2_CHUNK; k++) {
		float *x = scratch->x + k * Pp;
		for (int32_t i = 0; i < Pp; i += VF_LANES)
			vf_store(x + i, vf_mul(vf_set1(out[k]), vf_load(x + i)));
	}
	const struct small_product state = {
		.out = span->state,
		.out_row = (size_t)Pp,
		.keep = &in[M2_CHUNK - 1],
		.a = span->b,
		.a_row = 1,
		.a_col = span->stride,
		.v = scratch->x,
		.v_row = (size_t)Pp,
	};
	small_run(&state, N, Pp, M2_CHUNK);
	heads_finish(span, scratch, M2_CHUNK);
}

#endif
