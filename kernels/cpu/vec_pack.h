/* vec_pack.h - from rows as they are stored to a panel, and from one type of number to another.
 *
 * Packing is a transpose.  Rows are taken 16 bytes at a time, so many of them to a vector as it has
 * parts; within the parts all rows' elements are then zipped, 2 by 2, 4 by 4, 8 by 8, and what comes
 * out are the columns.  The rows are loaded where the panel wants them: its order costs nothing.
 * All goes by way of a tile that stays in the first cache: there numbers of another type are
 * converted to, and rows a power of two apart do not push each other out of it.
 *
 * Written in the vector of the file that includes this; the same bits as m2_panel_pack and
 * m2_elements_convert.
 */
#ifndef M2_KERNELS_CPU_VEC_PACK_H
#define M2_KERNELS_CPU_VEC_PACK_H

#include <string.h>

enum {
	PACK_LINES = 4,    /* lines of a row in a tile */
	PACK_AHEAD = 4096, /* bytes of the panel that are asked for before they are written */
	LINE = 64,
};

/* ---- conversion ----------------------------------------------------------------------------- */

M2_INLINE void convert_between(unsigned char *dst, const enum m2_dtype to, const unsigned char *src,
	const enum m2_dtype from, size_t n)
{
	const size_t to_bytes = m2_dtype_bytes(to), from_bytes = m2_dtype_bytes(from);
	size_t i = 0;
	for (; i + VF_LANES <= n; i += VF_LANES)
		vf_store_as(to, dst + i * to_bytes, vf_load_as(from, src + i * from_bytes));
	if (i < n) {
		unsigned char in[VF_LANES * 8] = {0}, out[VF_LANES * 4];
		memcpy(in, src + i * from_bytes, (n - i) * from_bytes);
		vf_store_as(to, out, vf_load_as(from, in));
		memcpy(dst + i * to_bytes, out, (n - i) * to_bytes);
	}
}

M2_INLINE void convert_to(
	void *dst, const enum m2_dtype to, const void *src, enum m2_dtype from, size_t n)
{
	switch (from) {
	case M2_DTYPE_F32:
		convert_between(dst, to, src, M2_DTYPE_F32, n);
		break;
	case M2_DTYPE_F16:
		convert_between(dst, to, src, M2_DTYPE_F16, n);
		break;
	case M2_DTYPE_BF16:
		convert_between(dst, to, src, M2_DTYPE_BF16, n);
		break;
	case M2_DTYPE_F64:
		convert_between(dst, to, src, M2_DTYPE_F64, n);
		break;
	case M2_DTYPE_INT8: /* never stored */
	case M2_DTYPE_NONE:
		break;
	}
}

static void pack_convert(void *dst, enum m2_dtype to, const void *src, enum m2_dtype from, size_t n)
{
	if (from == to) /* bit by bit: a NaN keeps being the one it was */
		memcpy(dst, src, n * m2_dtype_bytes(to));
	else if (to == M2_DTYPE_F32)
		convert_to(dst, M2_DTYPE_F32, src, from, n);
	else if (to == M2_DTYPE_F16)
		convert_to(dst, M2_DTYPE_F16, src, from, n);
	else
		convert_to(dst, M2_DTYPE_BF16, src, from, n);
}

/* ---- packing -------------------------------------------------------------------------------- */

/* 8 columns of 2-byte elements; `count` of them are stored. */
M2_INLINE void block_of_2(unsigned char *dst, const unsigned char *src, size_t row_bytes,
	const bool pairs, const size_t count)
{
	enum { RUNS = 4 / VB_PARTS }; /* vectors to a column */
	M2_UNROLL
	for (size_t run = 0; run < RUNS; run++) {
		const size_t part = VB_PARTS * run; /* of the column's 16-byte parts, the first */
		const size_t step = pairs ? 4 : 8;  /* rows between two parts */
		vb row[8], two[8], four[8];
		M2_UNROLL
		for (size_t j = 0; j < 8; j++) {
			const size_t first = pairs ? j / 2 + (j & 1) * (M2_PANEL / 2) : j;
			row[j] = vb_load_parts(
				src + (part * step + first) * row_bytes, step * row_bytes);
		}
		M2_UNROLL
		for (int j = 0; j < 8; j += 2) {
			two[j] = vb_low2(row[j], row[j + 1]);
			two[j + 1] = vb_high2(row[j], row[j + 1]);
		}
		M2_UNROLL
		for (int j = 0; j < 8; j += 4) {
			four[j] = vb_low4(two[j], two[j + 2]);
			four[j + 1] = vb_high4(two[j], two[j + 2]);
			four[j + 2] = vb_low4(two[j + 1], two[j + 3]);
			four[j + 3] = vb_high4(two[j + 1], two[j + 3]);
		}
		M2_UNROLL
		for (size_t j = 0; j < 4; j++) {
			unsigned char *to = dst + 2 * j * LINE + 16 * part;
			if (2 * j < count)
				vb_store(to, vb_low8(four[j], four[4 + j]));
			if (2 * j + 1 < count)
				vb_store(to + LINE, vb_high8(four[j], four[4 + j]));
		}
	}
}

/* 4 columns of 4-byte elements. */
M2_INLINE void block_of_4(
	unsigned char *dst, const unsigned char *src, size_t row_bytes, const size_t count)
{
	enum { RUNS = 8 / VB_PARTS };
	M2_UNROLL
	for (size_t run = 0; run < RUNS; run++) {
		const size_t part = VB_PARTS * run;
		vb row[4], two[4];
		M2_UNROLL
		for (size_t j = 0; j < 4; j++)
			row[j] = vb_load_parts(src + (part * 4 + j) * row_bytes, 4 * row_bytes);
		M2_UNROLL
		for (int j = 0; j < 4; j += 2) {
			two[j] = vb_low4(row[j], row[j + 1]);
			two[j + 1] = vb_high4(row[j], row[j + 1]);
		}
		M2_UNROLL
		for (size_t j = 0; j < 2; j++) {
			unsigned char *to = dst + 2 * j * (2 * LINE) + 16 * part;
			if (2 * j < count)
				vb_store(to, vb_low8(two[j], two[2 + j]));
			if (2 * j + 1 < count)
				vb_store(to + 2 * LINE, vb_high8(two[j], two[2 + j]));
		}
	}
}

/* All rows, `cols` columns.  A block is 8 lines of the panel, whatever the type. */
M2_INLINE void pack_blocks(unsigned char *dst, const enum m2_dtype dtype, const unsigned char *src,
	size_t row_bytes, size_t cols)
{
	const size_t bytes = dtype == M2_DTYPE_F32 ? 4 : 2, block = 16 / bytes;
	const bool pairs = dtype == M2_DTYPE_BF16;
	for (; cols > 0; dst += 8 * LINE, src += 16) {
		const size_t count = cols < block ? cols : block;
		/* The panel's memory has just been cleared, and lies in a cache further out. */
		M2_UNROLL
		for (size_t line = 0; line < 8; line++)
			__builtin_prefetch(dst + PACK_AHEAD + line * LINE);
		if (count < block && bytes == 2)
			block_of_2(dst, src, row_bytes, pairs, count);
		else if (count < block)
			block_of_4(dst, src, row_bytes, count);
		else if (bytes == 2)
			block_of_2(dst, src, row_bytes, pairs, 8);
		else
			block_of_4(dst, src, row_bytes, 4);
		cols -= count;
	}
}

/* Tile after tile: rows are copied in, or converted, and packed from there. */
M2_INLINE void pack_as(unsigned char *dst, const enum m2_dtype dtype, const unsigned char *src,
	enum m2_dtype stored, size_t stride, size_t rows, size_t cols)
{
	enum { ROW_BYTES = PACK_LINES * LINE };
	_Alignas(64) unsigned char tile[M2_PANEL * ROW_BYTES];
	const size_t bytes = dtype == M2_DTYPE_F32 ? 4 : 2, from_bytes = m2_dtype_bytes(stored);
	const size_t wide = ROW_BYTES / bytes;

	memset(tile, 0, sizeof tile); /* the rows that are missing */
	for (size_t col = 0; col < cols; col += wide) {
		const size_t n = cols - col < wide ? cols - col : wide;
		for (size_t r = 0; r < rows; r++) {
			unsigned char *to = tile + r * ROW_BYTES;
			const unsigned char *from = src + (r * stride + col) * from_bytes;
			if (stored == dtype && n == wide)
				memcpy(to, from, ROW_BYTES); /* a constant: no call */
			else
				pack_convert(to, dtype, from, stored, n);
		}
		pack_blocks(dst + col * M2_PANEL * bytes, dtype, tile, ROW_BYTES, n);
	}
}

/* ---- 8 bits --------------------------------------------------------------------------------- */

static float pack_scale(const void *row, enum m2_dtype stored, size_t cols)
{
	const unsigned char *from = row;
	const size_t bytes = m2_dtype_bytes(stored);
	const vf sign = vf_set1(-0.0f);
	vf largest = vf_set1(0.0f), odd = vf_set1(0.0f);
	size_t i = 0;
	for (; i + VF_LANES <= cols; i += VF_LANES) {
		float wide[VF_LANES];
		pack_convert(wide, M2_DTYPE_F32, from + i * bytes, stored, VF_LANES);
		const vf x = vf_load(wide);
		largest = vf_max(vf_without(x, sign), largest);
		odd = vf_fma(x, vf_set1(0.0f), odd); /* NaN if x is no number */
	}
	if (!(vf_sum(odd) == 0.0f))
		return m2_row_scale(row, stored, cols);
	float lanes[VF_LANES], most = 0.0f;
	vf_store(lanes, largest);
	for (int lane = 0; lane < VF_LANES; lane++)
		most = lanes[lane] > most ? lanes[lane] : most;
	return m2_scale_larger(most / 127.0f, m2_row_scale(from + i * bytes, stored, cols - i));
}

/* 16 columns of 16 rows, from bytes in rows 64 apart to columns M2_PANEL apart. */
static void pack_bytes(unsigned char *dst, const int8_t *src)
{
	__m128i a[16], b[16];
	M2_UNROLL
	for (size_t r = 0; r < 16; r++)
		a[r] = _mm_load_si128((const __m128i *)(const void *)(src + 64 * r));
	M2_UNROLL
	for (int i = 0; i < 8; i++) {
		b[i] = _mm_unpacklo_epi8(a[2 * i], a[2 * i + 1]);
		b[8 + i] = _mm_unpackhi_epi8(a[2 * i], a[2 * i + 1]);
	}
	M2_UNROLL
	for (int i = 0; i < 8; i++) {
		a[i / 4 * 8 + i % 4] = _mm_unpacklo_epi16(b[2 * i], b[2 * i + 1]);
		a[i / 4 * 8 + 4 + i % 4] = _mm_unpackhi_epi16(b[2 * i], b[2 * i + 1]);
	}
	M2_UNROLL
	for (int i = 0; i < 8; i++) {
		b[i / 2 * 4 + i % 2] = _mm_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
		b[i / 2 * 4 + 2 + i % 2] = _mm_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
	}
	M2_UNROLL
	for (size_t i = 0; i < 8; i++) {
		__m128i *to = (__m128i *)(void *)(dst + 2 * i * M2_PANEL);
		__m128i *next = (__m128i *)(void *)(dst + (2 * i + 1) * M2_PANEL);
		_mm_store_si128(to, _mm_unpacklo_epi64(b[2 * i], b[2 * i + 1]));
		_mm_store_si128(next, _mm_unpackhi_epi64(b[2 * i], b[2 * i + 1]));
	}
}

static void pack_whole(unsigned char *dst, const unsigned char *src, enum m2_dtype stored,
	size_t stride, size_t rows, size_t cols, const float *scales)
{
	enum { WIDE = 64 };
	_Alignas(64) int8_t tile[M2_PANEL * WIDE];
	const size_t bytes = m2_dtype_bytes(stored);
	memset(tile, 0, sizeof tile); /* the rows that are missing */
	for (size_t col = 0; col < cols; col += WIDE) {
		const size_t n = cols - col < WIDE ? cols - col : WIDE;
		for (size_t r = 0; r < rows; r++) {
			float wide[WIDE] = {0};
			const vf inverse = vf_set1(m2_int8_inverse(scales[r]));
			pack_convert(
				wide, M2_DTYPE_F32, src + (r * stride + col) * bytes, stored, n);
			if (m2_int8_inverse(scales[r]) > 0.0f)
				for (size_t i = 0; i < WIDE; i += VF_LANES)
					vf_store_whole(tile + r * WIDE + i,
						vf_mul(vf_load(wide + i), inverse));
			else
				memset(tile + r * WIDE, 0, WIDE);
		}
		for (size_t i = 0; i + 16 <= n; i += 16)
			for (size_t r = 0; r < M2_PANEL; r += 16)
				pack_bytes(dst + (col + i) * M2_PANEL + r, tile + r * WIDE + i);
		for (size_t i = n / 16 * 16; i < n; i++)
			for (size_t r = 0; r < M2_PANEL; r++)
				dst[(col + i) * M2_PANEL + r] = (unsigned char)tile[r * WIDE + i];
	}
}

static void pack_panel(void *dst, enum m2_dtype dtype, const void *src, enum m2_dtype stored,
	size_t stride, int32_t rows, size_t cols, const float *scales)
{
	if (dtype == M2_DTYPE_INT8)
		pack_whole(dst, src, stored, stride, (size_t)rows, cols, scales);
	else if (dtype == M2_DTYPE_F32)
		pack_as(dst, M2_DTYPE_F32, src, stored, stride, (size_t)rows, cols);
	else if (dtype == M2_DTYPE_F16)
		pack_as(dst, M2_DTYPE_F16, src, stored, stride, (size_t)rows, cols);
	else
		pack_as(dst, M2_DTYPE_BF16, src, stored, stride, (size_t)rows, cols);
}

#endif
