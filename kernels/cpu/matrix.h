/* matrix.h - a large weight matrix as the processor likes to stream it.
 *
 * [rows, cols] is stored in panels of M2_PANEL rows; a panel is one run of memory, column after
 * column, each column the M2_PANEL weights of its rows side by side.  So a product walks straight
 * through memory, broadcasts an input and needs no horizontal sums, for one token as for many.
 * Rows that only fill up the last panel are zero.
 *
 * Within a column f32 and f16 stand in row order.  bf16 stand as 16 pairs (row i, row i + 16): read
 * as 32-bit lanes, a shift gives rows 0..15 and a mask gives rows 16..31.
 */
#ifndef M2_KERNELS_CPU_MATRIX_H
#define M2_KERNELS_CPU_MATRIX_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"

enum { M2_PANEL = 32 };

struct m2_matrix {
	void *data;          /* m2_matrix_elements * bytes of dtype, cache-line aligned; borrowed */
	enum m2_dtype dtype; /* F32, F16 or BF16 */
	int32_t rows;
	int32_t cols;
};

static inline size_t m2_matrix_panels(const struct m2_matrix *m)
{
	return ((size_t)m->rows + M2_PANEL - 1) / M2_PANEL;
}

static inline size_t m2_matrix_panel_bytes(const struct m2_matrix *m)
{
	return M2_PANEL * (size_t)m->cols * m2_dtype_bytes(m->dtype);
}

static inline size_t m2_matrix_bytes(const struct m2_matrix *m)
{
	return m2_matrix_panels(m) * m2_matrix_panel_bytes(m);
}

/* Columns of one panel, from dst on, which is cache-line aligned: element (r, c) is
 * src[r * stride + c], of any stored type, rounded if the types differ.  `rows` rows are there, the
 * others become zero.  Scalar: the definition that all kernels' `pack` must give the bits of. */
void m2_panel_pack(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
	size_t stride, int32_t rows, size_t cols);

/* n numbers of any type to F32, F16 or BF16, by way of f32 with the bits of common/dtype.h; equal
 * types are copied.  The definition of all kernels' `convert`. */
void m2_elements_convert(
	void *dst, enum m2_dtype to, const void *src, enum m2_dtype from, size_t n);

/* All panels of m->data from src [rows, cols]. */
void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored);

/* out[cols] = row `row`, widened. */
void m2_matrix_gather(const struct m2_matrix *m, int32_t row, float *out);

#endif
