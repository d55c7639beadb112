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

/* Fill m->data, which is zero, from src [rows, cols] of any stored type, rounding if they differ. */
void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored);

/* out[cols] = row `row`, widened. */
void m2_matrix_gather(const struct m2_matrix *m, int32_t row, float *out);

#endif
