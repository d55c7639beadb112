/* matrix.c - packing weights at load, and reading single rows back (embedding). */
#include "kernels/cpu/matrix.h"

#include <string.h>

/* Columns converted at a time: a row's piece and its copy stay in the first cache. */
enum { PIECE = 256 };

static size_t place_in_column(enum m2_dtype dtype, size_t row)
{
	if (dtype != M2_DTYPE_BF16)
		return row;
	return row < M2_PANEL / 2 ? 2 * row : 2 * (row - M2_PANEL / 2) + 1;
}

static void scatter(unsigned char *panel, size_t place, size_t bytes, size_t first,
	const unsigned char *src, size_t count)
{
	unsigned char *dst = panel + (first * M2_PANEL + place) * bytes;
	const size_t stride = M2_PANEL * bytes;
	if (bytes == 2) { /* the sizes as constants: one move each */
		for (size_t i = 0; i < count; i++)
			memcpy(dst + i * stride, src + 2 * i, 2);
	} else {
		for (size_t i = 0; i < count; i++)
			memcpy(dst + i * stride, src + 4 * i, 4);
	}
}

void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored)
{
	const size_t rows = (size_t)m->rows, cols = (size_t)m->cols;
	const size_t bytes = m2_dtype_bytes(m->dtype), from_bytes = m2_dtype_bytes(stored);
	float wide[PIECE];
	unsigned char converted[PIECE * sizeof(float)];

	for (size_t first = 0; first < rows; first += M2_PANEL) {
		unsigned char *panel = (unsigned char *)m->data + first * cols * bytes;
		const size_t in_panel = rows - first < M2_PANEL ? rows - first : M2_PANEL;
		for (size_t col = 0; col < cols; col += PIECE) {
			const size_t n = cols - col < PIECE ? cols - col : PIECE;
			for (size_t r = 0; r < in_panel; r++) {
				const unsigned char *from = (const unsigned char *)src +
							    ((first + r) * cols + col) * from_bytes;
				if (stored != m->dtype) {
					m2_dtype_to_f32(wide, from, stored, n);
					m2_dtype_from_f32(converted, m->dtype, wide, n);
					from = converted;
				}
				scatter(panel, place_in_column(m->dtype, r), bytes, col, from, n);
			}
		}
	}
}

void m2_matrix_gather(const struct m2_matrix *m, int32_t row, float *out)
{
	const size_t cols = (size_t)m->cols, r = (size_t)row;
	const size_t bytes = m2_dtype_bytes(m->dtype);
	const unsigned char *at =
		(const unsigned char *)m->data +
		((r / M2_PANEL) * cols * M2_PANEL + place_in_column(m->dtype, r % M2_PANEL)) *
			bytes;
	for (size_t i = 0; i < cols; i++)
		m2_dtype_to_f32(&out[i], at + i * M2_PANEL * bytes, m->dtype, 1);
}
