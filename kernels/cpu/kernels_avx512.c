/* kernels_avx512.c - the inner loops in AVX-512 (F, BW, VL, DQ).
 *
 * Products: a tile of 1 panel by up to 12 tokens, or 2 panels by up to 6, is 24 sums in registers.
 * Up to 6 tokens two panels run side by side, for enough independent chains to hide the latency of
 * a multiply-add.  vdpbf16ps is not used: it has half the rate of vfmadd on Emerald Rapids.  Weights are widened exactly; a sum runs over the columns in ascending order.
 */
#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_rows.h"
#include "kernels/cpu/vec_heads.h"
#include "kernels/cpu/vec_replay.h"
#include "kernels/cpu/vec_pack.h"
#include "kernels/cpu/vec_product.h"

enum {
	FEW = 6, /* tokens up to which what is asked for is wanted at once, in the first cache */
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
	} else if (dtype == M2_DTYPE_INT8) {
		const __m128i *bytes = (const __m128i *)at;
		*low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(bytes)));
		*high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(bytes + 1)));
	} else {
		const __m512i pairs = _mm512_load_si512(at);
		const __m512i upper = _mm512_set1_epi32((int)0xffff0000u);
		*low = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
		*high = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
	}
}

M2_INLINE void tile(
	const enum m2_dtype dtype, const struct m2_product *p, const int panels, const int tokens)
{
	const size_t column_bytes = M2_PANEL * bytes_of(dtype);
	const size_t panel_bytes = p->panel_bytes, cols = p->cols, ask_step = p->ask_step;
	const unsigned char *w = p->panels;
	const char *ask = p->ask;
	const float *x = p->x;
	vf sum[M2_TILE][2 * M2_TILE_PANELS];

	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int v = 0; v < 2 * panels; v++)
		sum[t][v] = _mm512_setzero_ps();
	for (size_t k = 0; k < cols; k++) {
		vf column[2 * M2_TILE_PANELS];
		M2_UNROLL
		for (int j = 0; j < panels; j++) {
			ask_for(dtype, ask + (size_t)j * panel_bytes, tokens <= FEW);
			load_column(dtype, w + (size_t)j * panel_bytes, &column[2 * j],
				&column[2 * j + 1]);
		}
		M2_UNROLL
		for (int t = 0; t < tokens; t++) {
			const vf in = _mm512_set1_ps(x[t]);
			M2_UNROLL
			for (int v = 0; v < 2 * panels; v++)
				sum[t][v] = _mm512_fmadd_ps(in, column[v], sum[t][v]);
		}
		w += column_bytes;
		ask += ask_step;
		x += tokens;
	}
	M2_UNROLL
	for (int t = 0; t < tokens; t++)
		M2_UNROLL
	for (int v = 0; v < 2 * panels; v++)
		_mm512_storeu_ps(p->out + t * M2_TILE_ROWS + 16 * v, sum[t][v]);
}

M2_INLINE void product_of(const enum m2_dtype dtype, const struct m2_product *p)
{
	if (p->n_panels == 2 && p->tokens <= M2_TILE / 2) {
		switch (p->tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, p, 2, n);                                                              \
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
	struct m2_product one = *p;
	for (int32_t j = 0; j < p->n_panels; j++) {
		switch (p->tokens) {
#define CASE(n)                                                                                    \
	case n:                                                                                    \
		tile(dtype, &one, 1, n);                                                           \
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
		next_panel(&one);
	}
}

M2_INLINE void widen_of(const enum m2_dtype dtype, float *dst, const unsigned char *w, size_t cols)
{
	for (size_t k = 0; k < cols; k++, dst += M2_PANEL, w += M2_PANEL * bytes_of(dtype)) {
		vf low, high;
		load_column(dtype, w, &low, &high);
		vf_store(dst, low);
		vf_store(dst + 16, high);
	}
}

const struct m2_cpu_kernels m2_cpu_kernels_avx512 = {
	.name = "avx512",
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
