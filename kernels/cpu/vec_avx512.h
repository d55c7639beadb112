/* vec_avx512.h - the vector of the shared loops: 16 floats of AVX-512.
 *
 * The three vec_*.h files define the same names; a kernels_*.c includes one of them and then the
 * loops written in these names.  Loads and stores need no alignment; the _n forms touch n elements
 * only and read zeros beyond.  What packing needs (vf_load_as and what follows it) has no portable
 * form: there packing is m2_panel_pack.
 */
#ifndef M2_KERNELS_CPU_VEC_AVX512_H
#define M2_KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"

typedef __m512 vf;

enum {
	VF_LANES = 16,
	VF_WIDE = 4, /* vectors of a wide block of a head's width: 64 floats */
	VF_LONG = 4, /* of a block of one row by VF_STREAMS streams */
	VF_STREAMS = 4,
};

static inline __mmask16 vf_mask(int32_t n)
{
	return (__mmask16)(n >= VF_LANES ? 0xffffu : (1u << n) - 1u);
}

static inline vf vf_set1(float x)
{
	return _mm512_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
	return _mm512_loadu_ps(p);
}

static inline void vf_store(float *p, vf x)
{
	_mm512_storeu_ps(p, x);
}

static inline vf vf_load_n(const float *p, int32_t n)
{
	return _mm512_maskz_loadu_ps(vf_mask(n), p);
}

static inline void vf_store_n(float *p, vf x, int32_t n)
{
	_mm512_mask_storeu_ps(p, vf_mask(n), x);
}

static inline vf vf_add(vf a, vf b)
{
	return _mm512_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
	return _mm512_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
	return _mm512_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
	return _mm512_div_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}

/* The second operand if either is NaN. */
static inline vf vf_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}

static inline vf vf_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}

/* a > b ? yes : no */
static inline vf vf_if_gt(vf a, vf b, vf yes, vf no)
{
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}

static inline vf vf_rint(vf x)
{
	return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n, n whole and within +-252. */
static inline vf vf_scale(vf x, vf n)
{
	return _mm512_scalef_ps(x, n);
}

/* x = m * 2^*n with m in [0.7071, 1.4142); x positive and normal. */
static inline vf vf_split(vf x, vf *n)
{
	const __m512i bits = _mm512_castps_si512(x);
	const __m512i k =
		_mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
	*n = _mm512_cvtepi32_ps(k);
	return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(k, 23)));
}

/* VF_LANES numbers of any stored type. */
static inline vf vf_load_as(enum m2_dtype dtype, const void *p)
{
	if (dtype == M2_DTYPE_F32)
		return _mm512_loadu_ps(p);
	if (dtype == M2_DTYPE_F64) {
		const __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(p));
		const __m256 high = _mm512_cvtpd_ps(_mm512_loadu_pd((const double *)p + 8));
		return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
	}
	const __m256i half = _mm256_loadu_si256(p);
	if (dtype == M2_DTYPE_F16)
		return _mm512_cvtph_ps(half);
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* F32, F16 or BF16; rounded to nearest even, NaN stays NaN. */
static inline void vf_store_as(enum m2_dtype dtype, void *p, vf x)
{
	if (dtype == M2_DTYPE_F32) {
		_mm512_storeu_ps(p, x);
		return;
	}
	if (dtype == M2_DTYPE_F16) {
		_mm256_storeu_si256(
			p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
		return;
	}
	const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
	const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
	const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
	const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
	const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
	const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
	_mm256_storeu_si256(p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}

/* a's bits that are not in b. */
static inline vf vf_without(vf a, vf b)
{
	return _mm512_andnot_ps(b, a);
}

/* VF_LANES whole numbers: rounded to nearest even, limited to +-127; not for NaN. */
static inline void vf_store_whole(int8_t *p, vf x)
{
	const vf most = _mm512_set1_ps(127.0f), least = _mm512_set1_ps(-127.0f);
	const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(x, most), least));
	_mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(whole));
}

/* ---- bytes, to move numbers about: every part of 16 bytes is worked on by itself ------------ */

typedef __m512i vb;

enum { VB_PARTS = 4 };

/* Part i: the 16 bytes at p + i * step. */
static inline vb vb_load_parts(const unsigned char *p, size_t step)
{
	const vb first = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
	const vb two = _mm512_inserti32x4(
		first, _mm_loadu_si128((const __m128i *)(const void *)(p + step)), 1);
	const vb three = _mm512_inserti32x4(
		two, _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * step)), 2);
	return _mm512_inserti32x4(
		three, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * step)), 3);
}

/* p is aligned to the vector. */
static inline void vb_store(unsigned char *p, vb x)
{
	_mm512_store_si512((void *)p, x);
}

/* Elements of 2, 4 or 8 bytes of the lower (upper) halves of a's and b's parts, in turn. */
static inline vb vb_low2(vb a, vb b)
{
	return _mm512_unpacklo_epi16(a, b);
}

static inline vb vb_high2(vb a, vb b)
{
	return _mm512_unpackhi_epi16(a, b);
}

static inline vb vb_low4(vb a, vb b)
{
	return _mm512_unpacklo_epi32(a, b);
}

static inline vb vb_high4(vb a, vb b)
{
	return _mm512_unpackhi_epi32(a, b);
}

static inline vb vb_low8(vb a, vb b)
{
	return _mm512_unpacklo_epi64(a, b);
}

static inline vb vb_high8(vb a, vb b)
{
	return _mm512_unpackhi_epi64(a, b);
}

#endif
