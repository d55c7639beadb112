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
#include "kernels/cpu/vec_replay.h"
#include "kernels/cpu/vec_pack.h"
#include "kernels/cpu/vec_product.h"

enum {
	HALVES = 2,
	MOST = 6, /* tokens of a tile */
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
	} else if (dtype == M2_DTYPE_INT8) {
		const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)at);
		const __m128i high = _mm_loadl_epi64((const __m128i *)(const void *)(at + 8));
		*first = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
		*second = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
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

/* `halves` half panels side by side, from half `half` of the first on, by tokens from `token` on. */
M2_INLINE void tile(const enum m2_dtype dtype, const struct m2_product *p, const int half,
	const int halves, const int32_t token, const int tokens)
{
	const size_t column_bytes = M2_PANEL * bytes_of(dtype);
	const size_t panel_bytes = p->panel_bytes, cols = p->cols, ask_step = p->ask_step;
	const size_t x_step = (size_t)p->tokens;
	const unsigned char *w = p->panels;
	const char *ask = p->ask;
	const float *x = p->x + token;
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
			if (part == 0)
				ask_for(dtype, ask + panel * panel_bytes, tokens == 1);
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
		ask += ask_step;
		x += x_step;
	}
	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int j = 0; j < halves; j++) {
		const int panel = (half + j) / HALVES, part = (half + j) % HALVES;
		float *to = p->out + (token + t) * M2_TILE_ROWS + panel * M2_PANEL;
		_mm256_storeu_ps(to + first_row(dtype, part, 0), sum[t][2 * j]);
		_mm256_storeu_ps(to + first_row(dtype, part, 1), sum[t][2 * j + 1]);
	}
}

/* Up to MOST tokens by one panel, half after half. */
M2_INLINE void panel_tokens(
	const enum m2_dtype dtype, const struct m2_product *p, int32_t token, int32_t tokens)
{
	switch (tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, p, 0, 1, token, n);                                                    \
		tile(dtype, p, 1, 1, token, n);                                                    \
		break;
		CASE(2)
		CASE(3)
		CASE(4)
		CASE(5)
		CASE(6)
#undef CASE
	default:
		tile(dtype, p, 0, HALVES, token, 1);
	}
}

M2_INLINE void product_of(const enum m2_dtype dtype, const struct m2_product *p)
{
	if (p->n_panels == 2 && p->tokens == 1) {
		tile(dtype, p, 0, 2 * HALVES, 0, 1);
		return;
	}
	/* Evenly: 8 tokens are 4 and 4. */
	const int32_t parts = (p->tokens + MOST - 1) / MOST;
	const int32_t size = (p->tokens + parts - 1) / parts;
	struct m2_product one = *p;
	for (int32_t j = 0; j < p->n_panels; j++) {
		for (int32_t t = 0; t < p->tokens; t += size)
			panel_tokens(dtype, &one, t, p->tokens - t < size ? p->tokens - t : size);
		next_panel(&one);
	}
}

M2_INLINE void widen_of(const enum m2_dtype dtype, float *dst, const unsigned char *w, size_t cols)
{
	const size_t half_bytes = M2_PANEL / HALVES * bytes_of(dtype);
	for (size_t k = 0; k < cols; k++, dst += M2_PANEL) {
		for (int half = 0; half < HALVES; half++, w += half_bytes) {
			vf first, second;
			load_half(dtype, w, &first, &second);
			vf_store(dst + first_row(dtype, half, 0), first);
			vf_store(dst + first_row(dtype, half, 1), second);
		}
	}
}

const struct m2_cpu_kernels m2_cpu_kernels_avx2 = {
	.name = "avx2",
	.product = product,
	.widen = widen,
	.rms_norm = rows_rms_norm,
	.add = rows_add,
	.gate = rows_gate,
	.conv = rows_conv,
	.dt = rows_dt,
	.replay_cb = replay_cb,
	.replay = replay,
	.chunk_cb = heads_chunk_cb,
	.chunk = heads_chunk,
	.pack = pack_panel,
	.scale = pack_scale,
	.convert = pack_convert,
};
#endif
