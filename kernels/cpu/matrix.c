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

void m2_elements_convert(void *dst, enum m2_dtype to, const void *src, enum m2_dtype from, size_t n)
{
	const size_t to_bytes = m2_dtype_bytes(to), from_bytes = m2_dtype_bytes(from);
	float wide[PIECE];
	if (from == to) {
		memcpy(dst, src, n * to_bytes);
		return;
	}
	for (size_t i = 0; i < n; i += PIECE) {
		const size_t count = n - i < PIECE ? n - i : PIECE;
		m2_dtype_to_f32(wide, (const unsigned char *)src + i * from_bytes, from, count);
		m2_dtype_from_f32((unsigned char *)dst + i * to_bytes, to, wide, count);
	}
}

void m2_panel_pack(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
	size_t stride, int32_t rows, size_t cols)
{
	const size_t bytes = m2_dtype_bytes(dtype), from_bytes = m2_dtype_bytes(stored);
	unsigned char line[PIECE * sizeof(float)];

	for (size_t col = 0; col < cols; col += PIECE) {
		const size_t n = cols - col < PIECE ? cols - col : PIECE;
		for (size_t r = 0; r < M2_PANEL; r++) {
			const unsigned char *from =
				(const unsigned char *)src + (r * stride + col) * from_bytes;
			if (r < (size_t)rows)
				m2_elements_convert(line, dtype, from, stored, n);
			else
				memset(line, 0, n * bytes);
			scatter(dst, place_in_column(dtype, r), bytes, col, line, n);
		}
	}
}

void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored)
{
	const size_t cols = (size_t)m->cols, panel_elements = M2_PANEL * cols;
	for (size_t panel = 0; panel < m2_matrix_panels(m); panel++) {
		const size_t left = (size_t)m->rows - panel * M2_PANEL;
		m2_panel_pack((unsigned char *)m->data + panel * m2_matrix_panel_bytes(m), m->dtype,
			(const unsigned char *)src +
				panel * panel_elements * m2_dtype_bytes(stored),
			stored, cols, (int32_t)(left < M2_PANEL ? left : M2_PANEL), cols);
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
