/* kernels_portable.c - the inner loops without any instruction set that has to be asked for.
 *
 * For processors without AVX2, and to hold the others against.  Products: one panel by up to 2
 * tokens, a sum per row in ascending order of the columns.  f16 is widened by arithmetic: a half's
 * bits, moved to where a float has them, are the half times 2^-112, subnormals included.
 */
#include "kernels/cpu/kernels.h"

#include "kernels/cpu/vec_portable.h"
#include "kernels/cpu/vec_math.h"
#include "kernels/cpu/vec_rows.h"
#include "kernels/cpu/vec_heads.h"
#include "kernels/cpu/vec_replay.h"
#include "kernels/cpu/vec_product.h"

static inline float from_bits(uint32_t bits)
{
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

static inline float widen_half(uint16_t half)
{
	const uint32_t magnitude = half & 0x7fffu;
	uint32_t bits;
	const float value = from_bits(magnitude << 13) * 0x1p112f;
	memcpy(&bits, &value, sizeof bits);
	if (magnitude > 0x7c00u)
		bits = 0x7fc00000u | magnitude << 13; /* quiet, with its payload */
	else if (magnitude == 0x7c00u)
		bits = 0x7f800000u;
	return from_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

/* The M2_PANEL weights of a column, in row order. */
M2_INLINE void load_column(const enum m2_dtype dtype, const unsigned char *at, float *column)
{
	if (dtype == M2_DTYPE_F32) {
		memcpy(column, at, M2_PANEL * sizeof(float));
	} else if (dtype == M2_DTYPE_F16) {
		uint16_t half[M2_PANEL];
		memcpy(half, at, sizeof half);
		for (int i = 0; i < M2_PANEL; i++)
			column[i] = widen_half(half[i]);
	} else if (dtype == M2_DTYPE_INT8) {
		signed char whole[M2_PANEL];
		memcpy(whole, at, sizeof whole);
		for (int i = 0; i < M2_PANEL; i++)
			column[i] = (float)whole[i];
	} else {
		uint16_t half[M2_PANEL];
		memcpy(half, at, sizeof half);
		for (int i = 0; i < M2_PANEL / 2; i++) {
			column[i] = from_bits((uint32_t)half[2 * i] << 16);
			column[i + M2_PANEL / 2] = from_bits((uint32_t)half[2 * i + 1] << 16);
		}
	}
}

M2_INLINE void product_of(const enum m2_dtype dtype, const struct m2_product *p)
{
	const size_t tokens = (size_t)p->tokens;
	struct m2_product one = *p;
	for (int32_t j = 0; j < p->n_panels; j++, next_panel(&one)) {
		const unsigned char *w = one.panels;
		for (size_t t = 0; t < tokens; t++)
			memset(one.out + t * M2_TILE_ROWS, 0, M2_PANEL * sizeof(float));
		for (size_t k = 0; k < p->cols; k++, w += M2_PANEL * bytes_of(dtype)) {
			float column[M2_PANEL];
			load_column(dtype, w, column);
			for (size_t t = 0; t < tokens; t++) {
				float *sum = one.out + t * M2_TILE_ROWS;
				const vf in = vf_set1(p->x[k * tokens + t]);
				for (int i = 0; i < M2_PANEL; i += VF_LANES)
					vf_store(sum + i,
						vf_fma(in, vf_load(column + i), vf_load(sum + i)));
			}
		}
	}
}

M2_INLINE void widen_of(const enum m2_dtype dtype, float *dst, const unsigned char *w, size_t cols)
{
	for (size_t k = 0; k < cols; k++, dst += M2_PANEL, w += M2_PANEL * bytes_of(dtype))
		load_column(dtype, w, dst);
}

const struct m2_cpu_kernels m2_cpu_kernels_portable = {
	.name = "portable",
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
	.pack = m2_panel_pack,
	.scale = m2_row_scale,
	.convert = m2_elements_convert,
};
