/* vec_avx2.h - the vector of the shared loops: 8 floats of AVX2.  See vec_avx512.h. */
#ifndef M2_KERNELS_CPU_VEC_AVX2_H
#define M2_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"

typedef __m256 vf;

enum {
	VF_LANES = 8,
	VF_WIDE = 2, /* 16 floats: two loops' worth of the 16 registers */
	VF_LONG = 4, /* 32 floats */
	VF_STREAMS = 2,
};

static inline __m256i vf_mask(int32_t n)
{
	static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
	return _mm256_loadu_si256((const __m256i *)(ones + 8 - (n < VF_LANES ? n : VF_LANES)));
}

static inline vf vf_set1(float x)
{
	return _mm256_set1_ps(x);
}

static inline vf vf_load(const float *p)
{
	return _mm256_loadu_ps(p);
}

static inline void vf_store(float *p, vf x)
{
	_mm256_storeu_ps(p, x);
}

static inline vf vf_load_n(const float *p, int32_t n)
{
	return _mm256_maskload_ps(p, vf_mask(n));
}

static inline void vf_store_n(float *p, vf x, int32_t n)
{
	_mm256_maskstore_ps(p, vf_mask(n), x);
}

static inline vf vf_add(vf a, vf b)
{
	return _mm256_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
	return _mm256_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
	return _mm256_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
	return _mm256_div_ps(a, b);
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return _mm256_fmadd_ps(a, b, c);
}

static inline vf vf_min(vf a, vf b)
{
	return _mm256_min_ps(a, b);
}

static inline vf vf_max(vf a, vf b)
{
	return _mm256_max_ps(a, b);
}

static inline vf vf_if_gt(vf a, vf b, vf yes, vf no)
{
	return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

static inline vf vf_rint(vf x)
{
	return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf vf_scale(vf x, vf n)
{
	/* In two steps, so that results below the normal range come out right. */
	const __m256i whole = _mm256_cvtps_epi32(n);
	const __m256i half = _mm256_srai_epi32(whole, 1);
	const __m256i bias = _mm256_set1_epi32(127);
	const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
	const __m256i second =
		_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
	return _mm256_mul_ps(
		_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

static inline vf vf_split(vf x, vf *n)
{
	const __m256i bits = _mm256_castps_si256(x);
	const __m256i k =
		_mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
	*n = _mm256_cvtepi32_ps(k);
	return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(k, 23)));
}

static inline vf vf_load_as(enum m2_dtype dtype, const void *p)
{
	if (dtype == M2_DTYPE_F32)
		return _mm256_loadu_ps(p);
	if (dtype == M2_DTYPE_F64)
		return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd((const double *)p + 4)),
			_mm256_cvtpd_ps(_mm256_loadu_pd(p)));
	const __m128i half = _mm_loadu_si128(p);
	if (dtype == M2_DTYPE_F16)
		return _mm256_cvtph_ps(half);
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

static inline void vf_store_as(enum m2_dtype dtype, void *p, vf x)
{
	if (dtype == M2_DTYPE_F32) {
		_mm256_storeu_ps(p, x);
		return;
	}
	if (dtype == M2_DTYPE_F16) {
		_mm_storeu_si128(
			p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
		return;
	}
	const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
	const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
	const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
	const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
	const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
	const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
	const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
	_mm_storeu_si128(p, _mm_packus_epi32(_mm256_castsi256_si128(chosen),
				    _mm256_extracti128_si256(chosen, 1)));
}

static inline vf vf_without(vf a, vf b)
{
	return _mm256_andnot_ps(b, a);
}

static inline void vf_store_whole(int8_t *p, vf x)
{
	const vf most = _mm256_set1_ps(127.0f), least = _mm256_set1_ps(-127.0f);
	const __m256i whole = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(x, most), least));
	const __m128i half =
		_mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
	_mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(half, half));
}

/* ---- bytes ---------------------------------------------------------------------------------- */

typedef __m256i vb;

enum { VB_PARTS = 2 };

static inline vb vb_load_parts(const unsigned char *p, size_t step)
{
	const __m128i first = _mm_loadu_si128((const __m128i *)(const void *)p);
	const __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(p + step));
	return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}

static inline void vb_store(unsigned char *p, vb x)
{
	_mm256_store_si256((__m256i *)(void *)p, x);
}

static inline vb vb_low2(vb a, vb b)
{
	return _mm256_unpacklo_epi16(a, b);
}

static inline vb vb_high2(vb a, vb b)
{
	return _mm256_unpackhi_epi16(a, b);
}

static inline vb vb_low4(vb a, vb b)
{
	return _mm256_unpacklo_epi32(a, b);
}

static inline vb vb_high4(vb a, vb b)
{
	return _mm256_unpackhi_epi32(a, b);
}

static inline vb vb_low8(vb a, vb b)
{
	return _mm256_unpacklo_epi64(a, b);
}

static inline vb vb_high8(vb a, vb b)
{
	return _mm256_unpackhi_epi64(a, b);
}

#endif
