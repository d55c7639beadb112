/* launch.h - the kernels as C functions: what kernels/cuda's host code (C) asks of its .cu files (C++).
 *
 * Every function enqueues on a stream and returns the launch's error; nothing waits, nothing allocates.
 * Pointers are device memory unless said otherwise.  Shapes and letters: kernels/backend.h.
 *
 * Matrices of 16-bit weights are stored in the order in which mma.m16n8k16 wants its A operand: tiles of
 * 16 x 16, [rows / 16][cols / 16][32 lanes][8 values], so that a warp's tile is one coalesced run of 512
 * bytes that goes straight to registers.  f32 matrices are row-major.  Rows and columns are padded to
 * multiples of 16 with zeros.
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

/* One item of a step.  Its tokens stand in rows [first, first + tokens) of all buffers. */
struct m2_cuda_item {
	int32_t slot;
	int32_t first;
	int32_t tokens;
	int32_t lead;      /* tokens before the first whole chunk: by the recurrence */
	int32_t chunks;    /* whole chunks; the rest is recurrence again */
	int32_t into_ring; /* position % K of the first token: its column of the convolution's ring */
};

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
	float *ssm;  /* of slot 0 in this layer: [H][P][N] */
	size_t slot_floats; /* from one slot to the next */
	const struct m2_cuda_item *items;
	const int32_t *row_item; /* [rows] */
	const float *in_out;     /* [rows][in_stride]: z0 x0 z xBC dt */
	float *xbc;              /* [rows][C] after the convolution */
	float *y;                /* [rows][Ds] */
	float *squares;          /* [rows][H], see mix_one */
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

/* out->to[r][0..d) = row tokens[r] of the embedding; squares and next as a product leaves them. */
cudaError_t m2_cuda_embed(cudaStream_t stream, const struct m2_cuda_matrix *embedding,
	const int32_t *tokens, int32_t rows, const struct m2_cuda_output *out);

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
 * row i, convolution included; *count of them are there.  mix_span: spans, after m2_cuda_convolve. */
cudaError_t m2_cuda_mix_one(cudaStream_t stream, const struct m2_cuda_mixer *mixer,
	const int32_t *count, int32_t n_items);
cudaError_t m2_cuda_mix_span(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items, int32_t rows);

#ifdef __cplusplus
}
#endif

#endif
