/* matrix.c - packing weights at load, and reading single rows back (embedding). */
#include "kernels/cpu/matrix.h"

#include <math.h>
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
	for (size_t i = 0; i < count; i++) { /* the sizes as constants: one move each */
		if (bytes == 1)
			dst[i * stride] = src[i];
		else if (bytes == 2)
			memcpy(dst + i * stride, src + 2 * i, 2);
		else
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

float m2_scale_larger(float a, float b)
{
	return isnan(a) || a > b ? a : b;
}

float m2_row_scale(const void *row, enum m2_dtype stored, size_t cols)
{
	const size_t bytes = m2_dtype_bytes(stored);
	float wide[PIECE], scale = 0.0f;
	for (size_t i = 0; i < cols; i += PIECE) {
		const size_t n = cols - i < PIECE ? cols - i : PIECE;
		m2_dtype_to_f32(wide, (const unsigned char *)row + i * bytes, stored, n);
		scale = m2_scale_larger(scale, m2_int8_scale(wide, n));
	}
	return scale;
}

static void convert_piece(unsigned char *line, enum m2_dtype dtype, const void *from,
	enum m2_dtype stored, size_t n, const float *scale)
{
	float wide[PIECE];
	if (dtype != M2_DTYPE_INT8) {
		m2_elements_convert(line, dtype, from, stored, n);
		return;
	}
	m2_dtype_to_f32(wide, from, stored, n);
	m2_int8_from_f32((int8_t *)line, wide, *scale, n);
}

void m2_panel_pack(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
	size_t stride, int32_t rows, size_t cols, const float *scales)
{
	const size_t bytes = m2_dtype_bytes(dtype), from_bytes = m2_dtype_bytes(stored);
	unsigned char line[PIECE * sizeof(float)];

	for (size_t col = 0; col < cols; col += PIECE) {
		const size_t n = cols - col < PIECE ? cols - col : PIECE;
		for (size_t r = 0; r < M2_PANEL; r++) {
			const unsigned char *from =
				(const unsigned char *)src + (r * stride + col) * from_bytes;
			if (r < (size_t)rows)
				convert_piece(line, dtype, from, stored, n,
					scales != NULL ? &scales[r] : NULL);
			else
				memset(line, 0, n * bytes);
			scatter(dst, place_in_column(dtype, r), bytes, col, line, n);
		}
	}
}

void m2_matrix_pack(const struct m2_matrix *m, const void *src, enum m2_dtype stored)
{
	const size_t cols = (size_t)m->cols, row_bytes = cols * m2_dtype_bytes(stored);
	for (int32_t panel = 0; panel < (int32_t)m2_matrix_panels(m); panel++) {
		const int32_t left = m->rows - panel * M2_PANEL;
		const int32_t rows = left < M2_PANEL ? left : M2_PANEL;
		const unsigned char *from =
			(const unsigned char *)src + (size_t)panel * M2_PANEL * row_bytes;
		float *scales = m2_matrix_panel(m, panel);
		if (m->dtype == M2_DTYPE_INT8)
			for (int32_t r = 0; r < M2_PANEL; r++)
				scales[r] = r < rows ? m2_row_scale(from + (size_t)r * row_bytes,
							       stored, cols)
						     : 0.0f;
		m2_panel_pack(m2_matrix_columns(m, panel), m->dtype, from, stored, cols, rows, cols,
			m->dtype == M2_DTYPE_INT8 ? scales : NULL);
	}
}

void m2_matrix_gather(const struct m2_matrix *m, int32_t row, float *out)
{
	const size_t cols = (size_t)m->cols, r = (size_t)(row % M2_PANEL);
	const size_t bytes = m2_dtype_bytes(m->dtype);
	const float *scales = m2_matrix_panel(m, row / M2_PANEL);
	const unsigned char *at = (const unsigned char *)m2_matrix_columns(m, row / M2_PANEL) +
				  place_in_column(m->dtype, r) * bytes;
	for (size_t i = 0; i < cols; i++)
		m2_dtype_to_f32(&out[i], at + i * M2_PANEL * bytes, m->dtype, 1);
	for (size_t i = 0; m->dtype == M2_DTYPE_INT8 && i < cols; i++)
		out[i] *= scales[r];
}
