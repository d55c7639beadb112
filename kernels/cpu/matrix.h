/* matrix.h - a large weight matrix as the processor likes to stream it.
 *
 * [rows, cols] is stored in panels of M2_PANEL rows; a panel is one run of memory, column after
 * column, each column the M2_PANEL weights of its rows side by side.  So a product walks straight
 * through memory, broadcasts an input and needs no horizontal sums, for one token as for many.
 * Rows that only fill up the last panel are zero.
 *
 * Within a column f32 and f16 stand in row order.  bf16 stand as 16 pairs (row i, row i + 16): read
 * as 32-bit lanes, a shift gives rows 0..15 and a mask gives rows 16..31.
 *
 * 8-bit weights stand in row order too, and before a panel's columns stand the scales of its rows as
 * f32 (common/dtype.h: m2_int8_scale).
 */
#ifndef M2_KERNELS_CPU_MATRIX_H
#define M2_KERNELS_CPU_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"

enum { M2_PANEL = 32 };

struct m2_matrix {
	void *data;          /* m2_matrix_elements * bytes of dtype, cache-line aligned; borrowed */
	enum m2_dtype dtype; /* F32, F16, BF16 or INT8 */
	int32_t rows;
	int32_t cols;
};

static inline size_t m2_matrix_panels(const struct m2_matrix *m)
{
	return ((size_t)m->rows + M2_PANEL - 1) / M2_PANEL;
}

/* Bytes before the first column: the scales. */
static inline size_t m2_matrix_head_bytes(const struct m2_matrix *m)
{
	return m->dtype == M2_DTYPE_INT8 ? M2_PANEL * sizeof(float) : 0;
}

/* A multiple of 64. */
static inline size_t m2_matrix_panel_bytes(const struct m2_matrix *m)
{
	const size_t columns = M2_PANEL * (size_t)m->cols * m2_dtype_bytes(m->dtype);
	return (m2_matrix_head_bytes(m) + columns + 63) & ~(size_t)63;
}

static inline void *m2_matrix_panel(const struct m2_matrix *m, int32_t panel)
{
	return (unsigned char *)m->data + (size_t)panel * m2_matrix_panel_bytes(m);
}

static inline void *m2_matrix_columns(const struct m2_matrix *m, int32_t panel)
{
	return (unsigned char *)m2_matrix_panel(m, panel) + m2_matrix_head_bytes(m);
}

static inline size_t m2_matrix_bytes(const struct m2_matrix *m)
{
	return m2_matrix_panels(m) * m2_matrix_panel_bytes(m);
}

/* Columns of one panel, from dst on, which is cache-line aligned (half a line for INT8): element
 * (r, c) is src[r * stride + c], of any stored type, rounded if the types differ.  `rows` rows are
 * there, the others become zero.  scales: of all rows, for INT8; not read otherwise.  Scalar: the
 * definition that all kernels' `pack` must give the bits of. */
void m2_panel_pack(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
	size_t stride, int32_t rows, size_t cols, const float *scales);

/* m2_int8_scale of a row of any stored type.  The definition of all kernels' `scale`. */
float m2_row_scale(const void *row, enum m2_dtype stored, size_t cols);

/* The larger of two scales, NaN if one is: that of a row from those of its parts. */
float m2_scale_larger(float a, float b);

/* n numbers of any type but INT8 to F32, F16 or BF16, by way of f32 with the bits of common/dtype.h; equal
 * types are copied.  The definition of all kernels' `convert`. */
void m2_elements_convert(
	void *dst, enum m2_dtype to, const void *src, enum m2_dtype from, size_t n);

/* All panels of m->data from src [rows, cols], with their scales. */
void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored);

/* out[cols] = row `row`, widened. */
void m2_matrix_gather(const struct m2_matrix *m, int32_t row, float *out);

#endif
