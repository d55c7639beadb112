/* launch.h - the kernels as C functions: what kernels/cuda's host code (C) asks of its .cu files (C++).
 *
 * Every function enqueues on a stream and returns the launch's error; nothing waits, nothing allocates.
 * Pointers are device memory unless said otherwise.  Shapes and letters: kernels/backend.h.
 *
 * Matrices of 16-bit weights are stored in tiles of 16 x 16, [rows / 16][cols / 16][256], each of four
 * squares of eight rows by eight columns (rows 0-7 and columns 0-7, rows 8-15, then columns 8-15), rows of 16
 * bytes one behind the other: a tile is one run of 512 bytes, which ldmatrix takes to the registers that
 * mma.m16n8k16 wants, and wgmma reads where it lies.  f32 matrices are row-major.  Rows and columns are padded
 * to multiples of 16 with zeros.
 */
#ifndef M2_KERNELS_CUDA_LAUNCH_H
#define M2_KERNELS_CUDA_LAUNCH_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

struct m2_cuda_matrix {
	void *data;
	enum m2_dtype dtype; /* F32, F16 or BF16 */
	int32_t rows;
	int32_t cols;
};

static inline int32_t m2_cuda_pad(int32_t n)
{
	return (n + 15) / 16 * 16;
}
static inline size_t m2_cuda_matrix_bytes(const struct m2_cuda_matrix *m)
{
	return (size_t)m2_cuda_pad(m->rows) * (size_t)m2_cuda_pad(m->cols) *
	       (m->dtype == M2_DTYPE_F32 ? 4u : 2u);
}

/* Tokens after which a tuned model's slot folds what it holds into its state: replay.cuh.  It holds one
 * token less, and of each head room for the steps of all. */
enum { M2_CUDA_WINDOW = 16 };
static inline size_t m2_cuda_held_floats(int32_t heads, int32_t d_ssm, int32_t groups, int32_t n)
{
	return (size_t)(M2_CUDA_WINDOW - 1) * ((size_t)d_ssm + (size_t)groups * (size_t)n) +
	       (size_t)heads * M2_CUDA_WINDOW * 2;
}

/* One item of a step.  Its tokens stand in rows [first, first + tokens) of all buffers. */
struct m2_cuda_item {
	int32_t slot;
	int32_t first;
	int32_t tokens;
	int32_t lead;      /* tokens before the first whole chunk: by the recurrence */
	int32_t chunks;    /* whole chunks; the rest is recurrence again */
	int32_t into_ring; /* position % K of the first token: its column of the convolution's ring */
	int32_t into_window; /* position % M2_CUDA_WINDOW of the first token */
	int32_t first_chunk; /* number of its first whole chunk in the step */
};

/* Up to M2_CUDA_TILE tokens of an item, for the convolution of spans. */
enum { M2_CUDA_TILE = 8 };
struct m2_cuda_tile {
	int32_t item;
	int32_t first; /* of the item's tokens, a multiple of M2_CUDA_TILE */
};

/* What a step of spans has; tables of that many entries lie in struct m2_cuda_orders. */
struct m2_cuda_spans {
	int32_t items;
	int32_t rows;
	int32_t leads;   /* items that begin with the recurrence */
	int32_t tails;   /* items that have whole chunks and end with the recurrence */
	int32_t chunked; /* items with whole chunks */
	int32_t chunks;
	int32_t tiles;
	bool crossed; /* an item's lead begins within a window and replaces what is held of it */
};

/* Floats of a head in a whole chunk: ssd.cuh says which. */
enum { M2_CUDA_STEPS = 3 * 64 + 4 };

/* x * weight * factor as 16 bits: the input of the product that comes next; to NULL: not wanted.  f16 has
 * little room above: its factor is below 1, and the product's the inverse. */
struct m2_cuda_next {
	void *to; /* [rows][stride] */
	enum m2_dtype type;
	int32_t stride;
	const float *weight;
	float factor;
};
static inline float m2_cuda_next_factor(enum m2_dtype type)
{
	return type == M2_DTYPE_F16 ? 0x1p-6f : 1.0f;
}

/* What the mixer of one layer reads and writes. */
struct m2_cuda_mixer {
	int32_t heads, head_dim, state_size, groups, taps, d_mlp, norm_groups;
	int32_t channels, d_ssm, in_stride, out_cols;
	float dt_min, dt_max, eps;
	bool d_per_channel, gated_norm, norm_before_gate;
	const float *conv;      /* [C][K] */
	const float *conv_bias; /* NULL: none */
	const float *dt_bias, *a, *d, *gated_norm_weight;
	float *ring; /* of slot 0 in this layer: [K][C], raw columns, position p in column p % K */
	float *ssm;  /* of slot 0 in this layer: [H][P][N]; tuned: as before the window */
	float *held; /* of slot 0 in this layer, tuned models: x, B and steps of tokens (replay.cuh) */
	size_t slot_floats; /* from one slot to the next */
	const struct m2_cuda_item *items;
	const int32_t *row_item; /* [rows] */
	const float *in_out;     /* [rows][in_stride]: z0 x0 z xBC dt */
	float *xbc; /* [rows][C] after the convolution; rows of whole chunks: 16-bit, in the first half */
	float *y;       /* [rows][Ds] */
	float *squares; /* [rows][H], see mix_one */
	/* Of spans in tuned models: tables, and what passes between their kernels. */
	const int32_t *leads, *tails, *chunked; /* numbers of items */
	const int32_t *chunk_rows;              /* first row of each whole chunk */
	const struct m2_cuda_tile *tiles;
	float *chunk_steps; /* [chunks][H][M2_CUDA_STEPS] */
	void *chunk_states; /* [chunks][H][P][N] of 16 bits: the state before each chunk */
	struct m2_cuda_next next;
};

/* `count` stored elements of type `stored`, the first being element `first` of the matrix in row-major
 * order, to their places, converted (round to nearest even). */
cudaError_t m2_cuda_pack(cudaStream_t stream, const struct m2_cuda_matrix *matrix, const void *src,
	enum m2_dtype stored, size_t first, size_t count);
/* The same for a vector of floats. */
cudaError_t m2_cuda_widen(
	cudaStream_t stream, float *dst, const void *src, enum m2_dtype stored, size_t count);
/* a = -exp(a), finite; given: only made finite. */
cudaError_t m2_cuda_fill_a(cudaStream_t stream, float *a, int32_t n, bool given);

/* The input of a product: rows of the matrix's own type, and what each is still to be multiplied with.
 * A norm costs no pass of its own: whoever makes x writes x * weight of the norm and partial sums of the
 * squares of x; the product multiplies its sums with factor / sqrt(mean of squares + eps), group of
 * columns by group.  squares NULL: with nothing. */
struct m2_cuda_input {
	const void *x;        /* [rows][stride] */
	int32_t stride;       /* pad(cols) */
	const int32_t *from;  /* row t is row from[t] of x and squares; NULL: t */
	const float *squares; /* [rows][groups * parts], to be added group by group */
	int32_t groups; /* 1, 2, 4 or 8, and then each is a whole number of the product's runs */
	int32_t parts;
	int32_t width; /* numbers that a group's squares are of */
	float eps;
	float factor;
};

/* Where the sums of a product go. */
struct m2_cuda_output {
	float *to; /* row stride `stride` */
	int32_t stride;
	const float *bias; /* NULL: none */
	bool add;          /* to what stands there */
	float *squares;    /* [m][rows / 16] sums of squares of each 16 results; NULL: not wanted */
	struct m2_cuda_next next;
};

/* out->to[r][0..d) = row tokens[r] of the embedding; squares and next as a product leaves them.  A token
 * below 0 is the last pick of slot -1 - token: picks[slot]. */
cudaError_t m2_cuda_embed(cudaStream_t stream, const struct m2_cuda_matrix *embedding,
	const int32_t *tokens, const int32_t *picks, int32_t rows,
	const struct m2_cuda_output *out);

/* out[r][0..pad(d)) of type `type` = RMS norm of x[from[r]] (from NULL: r), zero behind d: any width. */
cudaError_t m2_cuda_norm_rows(cudaStream_t stream, const float *x, const float *weight,
	const int32_t *from, int32_t rows, int32_t d, float eps, enum m2_dtype type, void *out);

/* w . x[t] for m rows.  The bits of a row depend on neither m nor on the other rows: the columns are cut
 * into eight runs, each is summed by ascending column and scaled, and the runs are added in order. */
cudaError_t m2_cuda_product(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out);

/* xbc = SiLU(convolution) of all rows, then each item's last columns into its ring. */
cudaError_t m2_cuda_convolve(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items, int32_t rows);
/* Any shape: y and the slots' states, by the recurrence; then out[r][0..pad(out_cols)) of type `type`,
 * the input of out_proj: gated MLP, gate and norm. */
cudaError_t m2_cuda_recur(cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items);
cudaError_t m2_cuda_gate(cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t rows,
	enum m2_dtype type, void *out);

/* head_dim 64, state_size 128 (is_tuned in load.c says when): the gated y * SiLU(z) as the next
 * product's input, and the squares of each head, [rows][H].  mix_one: items of one token each, item i in
 * row i, convolution included; *count of them are there.  mix_span: spans, convolution included; whole
 * chunks by the chunked form (ssd.cuh), other tokens with the bits of mix_one. */
cudaError_t m2_cuda_mix_one(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *count, int32_t n_items);
cudaError_t m2_cuda_mix_span(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans);

/* What is to be picked from one row of logits, and for whom; slot < 0: nothing. */
struct m2_cuda_pick_order {
	int32_t slot;
	int32_t limit;
	int32_t item; /* of the step: where the pick goes on the host */
};

struct m2_pick; /* kernels/backend.h */

/* Picks of rows of logits. */
struct m2_cuda_picker {
	const float *logits; /* [rows][vocab] */
	int32_t vocab;
	const struct m2_cuda_pick_order *orders; /* [rows] */
	void *parts;                             /* [rows][m2_cuda_pick_bytes(vocab)] */
	int32_t *last;                           /* [slots] the tokens of the last picks */
	const int32_t *step;        /* number of the step: which of the two is written */
	struct m2_pick *results[2]; /* [items], pinned host memory */
};

size_t m2_cuda_pick_bytes(int32_t vocab);
cudaError_t m2_cuda_pick(cudaStream_t stream, const struct m2_cuda_picker *picker, int32_t rows);

/* The orders of the next step, from pinned host memory: those of step n lie in from[n % 2], as words, and
 * word `step` of them is n.  to[step] is the number of the last one, so a graph finds the right ones. */
enum { M2_CUDA_ORDER_PARTS = 4 };
struct m2_cuda_order_words {
	const int32_t *from[2];
	int32_t *to;
	int32_t step;
	struct {
		int32_t first, words;
	} parts[M2_CUDA_ORDER_PARTS]; /* what a step of this size needs of them */
};
cudaError_t m2_cuda_take_orders(cudaStream_t stream, const struct m2_cuda_order_words *words);

/* What the device reads per second, from `bytes` of memory, a multiple of 16; and what its tensor cores do
 * per second in 16-bit products, scratch of 4 MiB.  They wait, and write into the memory.  measure.cu. */
cudaError_t m2_cuda_measure_reading(
	cudaStream_t stream, void *memory, size_t bytes, double *per_second);
cudaError_t m2_cuda_measure_products(cudaStream_t stream, void *scratch, double *per_second);

/* Only in a build for tests (M2_CUDA_FAULTS): the device faults when one of the tokens is `order`. */
cudaError_t m2_cuda_fault(cudaStream_t stream, const int32_t *tokens, int32_t rows, int32_t order);

#ifdef __cplusplus
}
#endif

#endif
