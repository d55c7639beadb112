/* kernels_avx512.c - the inner loops in AVX-512 (F, BW, VL, DQ).
 *
 * Products: a tile of 1 panel by up to 12 tokens, or 2 panels by up to 6, is 24 sums in registers.
 * Up to 6 tokens two panels run side by side, for enough independent chains to hide the latency of
 * a multiply-add.  Weights are widened exactly; a sum runs over the columns in ascending order.
 */
#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_rows.h"
#include "kernels/cpu/vec_heads.h"
#include "kernels/cpu/vec_pack.h"

enum {
	FEW = 6,      /* tokens up to which weights are asked for */
	AHEAD = 2048, /* bytes before they are needed */
};

/* The 32 weights of one column of a panel. */
M2_INLINE void load_column(enum m2_dtype dtype, const unsigned char *at, vf *low, vf *high)
{
	if (dtype == M2_DTYPE_F32) {
		*low = _mm512_load_ps(at);
		*high = _mm512_load_ps(at + 64);
	} else if (dtype == M2_DTYPE_F16) {
		*low = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)at));
		*high = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(at + 32)));
	} else {
		const __m512i pairs = _mm512_load_si512(at);
		const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
		*low = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
		*high = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
	}
}

/* With few tokens memory is the limit, and the processor's own guess of what comes next is late. */
M2_INLINE void ask_ahead(
	const unsigned char *w, const int panels, size_t panel_bytes, size_t column_bytes)
{
	M2_UNROLL
	for (int j = 0; j < panels; j++)
		M2_UNROLL
	for (size_t line = 0; line < column_bytes; line += 64)
		_mm_prefetch((const char *)w + (size_t)j * panel_bytes + AHEAD + line, _MM_HINT_T0);
}

M2_INLINE void tile(const enum m2_dtype dtype, const unsigned char *w, const int panels,
	size_t cols, const float *x, const int tokens, float *out)
{
	const size_t column_bytes = dtype == M2_DTYPE_F32 ? 128 : 64;
	const size_t panel_bytes = column_bytes * cols;
	vf sum[M2_TILE][2 * M2_TILE_PANELS];

	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int v = 0; v < 2 * panels; v++)
		sum[t][v] = _mm512_setzero_ps();
	for (size_t k = 0; k < cols; k++) {
		vf column[2 * M2_TILE_PANELS];
		if (tokens <= FEW)
			ask_ahead(w, panels, panel_bytes, column_bytes);
		M2_UNROLL
		for (int j = 0; j < panels; j++)
			load_column(dtype, w + (size_t)j * panel_bytes, &column[2 * j],
				&column[2 * j + 1]);
		M2_UNROLL
		for (int t = 0; t < tokens; t++) {
			const vf in = _mm512_set1_ps(x[t]);
			M2_UNROLL
			for (int v = 0; v < 2 * panels; v++)
				sum[t][v] = _mm512_fmadd_ps(in, column[v], sum[t][v]);
		}
		w += column_bytes;
		x += tokens;
	}
	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int v = 0; v < 2 * panels; v++)
		_mm512_storeu_ps(out + t * M2_TILE_ROWS + 16 * v, sum[t][v]);
}

M2_INLINE void product_of(const enum m2_dtype dtype, const unsigned char *w, int32_t n_panels,
	size_t cols, const float *x, int32_t tokens, float *out)
{
	const size_t panel_bytes = M2_PANEL * cols * (dtype == M2_DTYPE_F32 ? 4 : 2);
	if (n_panels == 2 && tokens <= M2_TILE / 2) {
		switch (tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, w, 2, cols, x, n, out);                                                \
		return;
			CASE(1)
			CASE(2)
			CASE(3)
			CASE(4)
			CASE(5)
			CASE(6)
#undef CASE
		}
	}
	for (int32_t j = 0; j < n_panels; j++, w += panel_bytes, out += M2_PANEL) {
		switch (tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, w, 1, cols, x, n, out);                                                \
		break;
			CASE(1)
			CASE(2)
			CASE(3)
			CASE(4)
			CASE(5)
			CASE(6)
			CASE(7)
			CASE(8)
			CASE(9)
			CASE(10)
			CASE(11)
			CASE(12)
#undef CASE
		}
	}
}

static void product(enum m2_dtype dtype, const void *panels, int32_t n_panels, size_t cols,
	const float *x, int32_t tokens, float *out)
{
	if (dtype == M2_DTYPE_F32)
		product_of(M2_DTYPE_F32, panels, n_panels, cols, x, tokens, out);
	else if (dtype == M2_DTYPE_F16)
		product_of(M2_DTYPE_F16, panels, n_panels, cols, x, tokens, out);
	else
		product_of(M2_DTYPE_BF16, panels, n_panels, cols, x, tokens, out);
}

const struct m2_cpu_kernels m2_cpu_kernels_avx512 = {
	.name = "avx512",
	.product = product,
	.rms_norm = rows_rms_norm,
	.gate = rows_gate,
	.conv = rows_conv,
	.dt = rows_dt,
	.recurrence = heads_recurrence,
	.chunk_cb = heads_chunk_cb,
	.chunk = heads_chunk,
	.pack = pack_panel,
	.convert = pack_convert,
};
#endif
