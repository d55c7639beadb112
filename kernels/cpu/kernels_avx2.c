/* kernels_avx2.c - the inner loops in AVX2 with FMA and F16C.
 *
 * Products: one token takes whole panels (4 vectors of 8 rows), two panels side by side; more
 * tokens take half a panel by up to 6, which is 12 sums in 16 registers.  Weights are widened
 * exactly; a sum runs over the columns in ascending order.
 */
#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_rows.h"
#include "kernels/cpu/vec_heads.h"
#include "kernels/cpu/vec_pack.h"

enum {
	HALVES = 2,
	MOST = 6,     /* tokens of a tile */
	AHEAD = 2048, /* bytes that weights are asked for before they are needed */
};

/* 16 weights of a column: half 0 or 1 of the panel.  For bf16 the two vectors are rows 8 * half and
 * 16 + 8 * half on, for the others rows 16 * half and 8 further. */
M2_INLINE void load_half(enum m2_dtype dtype, const unsigned char *at, vf *first, vf *second)
{
	if (dtype == M2_DTYPE_F32) {
		*first = _mm256_load_ps((const float *)(const void *)at);
		*second = _mm256_load_ps((const float *)(const void *)(at + 32));
	} else if (dtype == M2_DTYPE_F16) {
		*first = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at));
		*second = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(at + 16)));
	} else {
		const __m256i pairs = _mm256_load_si256((const __m256i *)(const void *)at);
		const __m256i upper = _mm256_set1_epi32((int)0xffff0000u);
		*first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
		*second = _mm256_castsi256_ps(_mm256_and_si256(pairs, upper));
	}
}

/* Where in a panel the rows of vector v (0, 1) of a half begin. */
M2_INLINE int first_row(enum m2_dtype dtype, int half, int v)
{
	return dtype == M2_DTYPE_BF16 ? 8 * half + 16 * v : 16 * half + 8 * v;
}

/* `halves` half panels side by side, from half `half` of the first on. */
M2_INLINE void tile(const enum m2_dtype dtype, const unsigned char *w, const int half,
	const int halves, size_t cols, const float *x, size_t x_step, const int tokens, float *out)
{
	const size_t column_bytes = dtype == M2_DTYPE_F32 ? 128 : 64;
	const size_t panel_bytes = column_bytes * cols;
	vf sum[MOST][2 * 4];

	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int v = 0; v < 2 * halves; v++)
		sum[t][v] = _mm256_setzero_ps();
	for (size_t k = 0; k < cols; k++) {
		M2_UNROLL
		for (int j = 0; j < halves; j++) {
			const size_t panel = (size_t)((half + j) / HALVES);
			const size_t part = (size_t)((half + j) % HALVES);
			vf first, second;
			/* One token: memory is the limit, and the processor's own guess late. */
			if (tokens == 1)
				_mm_prefetch((const char *)w + panel * panel_bytes +
						     part * (column_bytes / 2) + AHEAD,
					_MM_HINT_T0);
			load_half(dtype, w + panel * panel_bytes + part * (column_bytes / 2),
				&first, &second);
			M2_UNROLL
			for (int t = 0; t < tokens; t++) {
				const vf in = _mm256_set1_ps(x[t]);
				sum[t][2 * j] = _mm256_fmadd_ps(in, first, sum[t][2 * j]);
				sum[t][2 * j + 1] = _mm256_fmadd_ps(in, second, sum[t][2 * j + 1]);
			}
		}
		w += column_bytes;
		x += x_step;
	}
	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int j = 0; j < halves; j++) {
		const int panel = (half + j) / HALVES, part = (half + j) % HALVES;
		float *to = out + t * M2_TILE_ROWS + panel * M2_PANEL;
		_mm256_storeu_ps(to + first_row(dtype, part, 0), sum[t][2 * j]);
		_mm256_storeu_ps(to + first_row(dtype, part, 1), sum[t][2 * j + 1]);
	}
}

/* Up to MOST tokens by one panel, half after half. */
M2_INLINE void panel_tokens(const enum m2_dtype dtype, const unsigned char *w, size_t cols,
	const float *x, size_t x_step, int32_t tokens, float *out)
{
	switch (tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, w, 0, 1, cols, x, x_step, n, out);                                     \
		tile(dtype, w, 1, 1, cols, x, x_step, n, out);                                     \
		break;
		CASE(2)
		CASE(3)
		CASE(4)
		CASE(5)
		CASE(6)
#undef CASE
	default:
		tile(dtype, w, 0, HALVES, cols, x, x_step, 1, out);
	}
}

M2_INLINE void product_of(const enum m2_dtype dtype, const unsigned char *w, int32_t n_panels,
	size_t cols, const float *x, int32_t tokens, float *out)
{
	const size_t panel_bytes = M2_PANEL * cols * (dtype == M2_DTYPE_F32 ? 4 : 2);
	if (n_panels == 2 && tokens == 1) {
		tile(dtype, w, 0, 2 * HALVES, cols, x, 1, 1, out);
		return;
	}
	for (int32_t j = 0; j < n_panels; j++, w += panel_bytes, out += M2_PANEL)
		for (int32_t t = 0; t < tokens; t += MOST)
			panel_tokens(dtype, w, cols, x + t, (size_t)tokens,
				tokens - t < MOST ? tokens - t : MOST, out + t * M2_TILE_ROWS);
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

const struct m2_cpu_kernels m2_cpu_kernels_avx2 = {
	.name = "avx2",
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
