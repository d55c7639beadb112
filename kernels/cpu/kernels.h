/* kernels.h - the inner loops, one table of them per instruction set.
 *
 * What all of them keep, and the whole backend stands on: a result depends on its own inputs alone.
 * Sums run in one fixed order, whatever the number of rows, tokens or threads; an element-wise
 * function gives the same bits in every lane.  Bits may differ between two instruction sets.
 *
 * Accuracy of the element-wise functions against double: exp and log1p 2 ulp, silu and dt 4 ulp.
 * Pure functions, no allocation, any thread.  Pointers need no alignment unless said.
 */
#ifndef M2_KERNELS_CPU_KERNELS_H
#define M2_KERNELS_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "kernels/backend.h"
#include "kernels/cpu/matrix.h"

enum {
	M2_TILE = 12,       /* most tokens of one product call */
	M2_TILE_PANELS = 2, /* most panels of one */
	M2_TILE_ROWS = M2_TILE_PANELS * M2_PANEL,
	M2_HEAD_ALIGN = 16, /* head_dim is padded to this in states and scratch */
	M2_RING = 16,       /* positions between two writings of a state; M2_CHUNK is a multiple */
};

/* A head of a slot is one run of memory: its state [N][Pp] as it stood at the last multiple of M2_RING,
 * then what came since: u = dt x of each position, [M2_RING][Pp], and the sum of dt A up to it, as
 * double [M2_RING].  All have zeros in the padding.  Position p stands in row p % M2_RING. */
static inline size_t m2_head_floats(int32_t state_size, int32_t padded_dim)
{
	return ((size_t)state_size + M2_RING) * (size_t)padded_dim +
	       M2_RING * sizeof(double) / sizeof(float);
}
static inline float *m2_head_u(const float *head, int32_t state_size, int32_t padded_dim)
{
	return (float *)(uintptr_t)head + (size_t)state_size * (size_t)padded_dim;
}
static inline double *m2_head_sums(const float *head, int32_t state_size, int32_t padded_dim)
{
	return (double *)(void *)(m2_head_u(head, state_size, padded_dim) + M2_RING * padded_dim);
}

/* One head over some tokens, for replay and chunk. */
struct m2_head_span {
	float *state;   /* of the slot, cache-line aligned, with what stands behind it */
	const float *x; /* token 0's x of this head [P]; the next token's is `stride` further */
	const float *b; /* the same of its group's B [N] and C [N] */
	const float *c;
	size_t stride;
	const float *dt; /* of this head; the next token's is dt_stride further */
	size_t dt_stride;
	float a;            /* A */
	const float *d;     /* D: one value, */
	bool d_per_channel; /* or P */
	const float *cb;  /* chunk: [M2_CHUNK][M2_CHUNK], row m: C_m . B_k; replay: see replay_cb */
	const float *bt;  /* replay only */
	const float *ask; /* replay: a head that is wanted next, which need not be there */
	float *y;         /* token 0's output of this head [P] */
	size_t y_stride;
	int32_t head_dim;
	int32_t padded_dim; /* Pp */
	int32_t state_size;
};

/* A thread's own scratch of the head loops. */
struct m2_head_scratch {
	float *x;     /* [M2_CHUNK][Pp] */
	float *y;     /* [M2_CHUNK][Pp] */
	float *mixed; /* [M2_CHUNK][M2_CHUNK] */
	float *bt;    /* [N][M2_CHUNK] */
};

/* Panels times the inputs of some tokens, and what is asked of memory meanwhile: at column k the
 * cache line at ask + k * ask_step, and for each further panel the one panel_bytes beyond.  It need
 * not be memory of anybody's. */
struct m2_product {
	enum m2_dtype dtype;
	const void *panels; /* cache-line aligned; see matrix.h */
	int32_t n_panels;
	size_t panel_bytes; /* from one to the next */
	size_t cols;
	const float *x; /* x[k * tokens + t] */
	int32_t tokens; /* 1..M2_TILE */
	float *out;
	const void *ask;
	size_t ask_step;
};

struct m2_cpu_kernels {
	const char *name;

	/* out[t * M2_TILE_ROWS + r] = row r of 1 or 2 adjacent panels . x of token t; for INT8 as if
	 * all scales were 1. */
	void (*product)(const struct m2_product *p);

	/* A panel's columns as those of an F32 panel; product then gives the same bits. */
	void (*widen)(float *dst, enum m2_dtype dtype, const void *panel, size_t cols);

	/* out = x / rms(x) * w over each of `groups` equal parts of n; out may be x. */
	void (*rms_norm)(
		float *out, const float *x, const float *w, int32_t n, int32_t groups, float eps);

	/* out[i] += x[i] + bias[i]; bias NULL: zeros. */
	void (*add)(float *out, const float *x, const float *bias, int32_t n);

	/* out[i] = x[i] * silu(gate[i]); out may be x. */
	void (*gate)(float *out, const float *x, const float *gate, int32_t n);

	/* out[i] = silu(bias[i] + sum_j w[j * stride + i] * tap[j][i]), j ascending; bias or NULL. */
	void (*conv)(float *out, const float *const *tap, const float *w, size_t stride,
		const float *bias, int32_t taps, int32_t n);

	/* dt[i] = clamp(softplus(raw[i] + bias[i]), low, high). */
	void (*dt)(
		float *dt, const float *raw, const float *bias, float low, float high, int32_t n);

	/* What all heads of a group need of `tokens` tokens whose positions are `row` on modulo M2_RING,
	 * row + tokens <= M2_RING: bt[n][j], the B of position j, from ring [N][M2_RING] for those before
	 * `row` and from the span after; and cb[t][j] = C_t . B_j for j <= row + t.  What else is in bt
	 * and cb means nothing.  Reads b, c, stride, state_size. */
	void (*replay_cb)(float *cb, float *bt, const float *ring, const struct m2_head_span *span,
		int32_t row, int32_t tokens);

	/* The same tokens of one head; after row M2_RING - 1 the state is written.  Any cut into calls
	 * gives the same bits. */
	void (*replay)(const struct m2_head_span *span, const struct m2_head_scratch *scratch,
		int32_t row, int32_t tokens);

	/* cb[m][k] = C_m . B_k of one group over a whole chunk; reads b, c, stride, state_size. */
	void (*chunk_cb)(
		float *cb, const struct m2_head_span *span, const struct m2_head_scratch *scratch);

	/* M2_CHUNK tokens in the chunked form, from a state that was just written; so is what it leaves. */
	void (*chunk)(const struct m2_head_span *span, const struct m2_head_scratch *scratch);

	/* m2_panel_pack, m2_row_scale and m2_elements_convert (matrix.h), with the same bits. */
	void (*pack)(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
		size_t stride, int32_t rows, size_t cols, const float *scales);
	float (*scale)(const void *row, enum m2_dtype stored, size_t cols);
	void (*convert)(void *dst, enum m2_dtype to, const void *src, enum m2_dtype from, size_t n);
};

extern const struct m2_cpu_kernels m2_cpu_kernels_portable;
extern const struct m2_cpu_kernels m2_cpu_kernels_avx2;
extern const struct m2_cpu_kernels m2_cpu_kernels_avx512;

#endif
