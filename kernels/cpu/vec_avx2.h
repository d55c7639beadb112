/* vec_avx2.h - the vector of the shared loops: 8 floats of AVX2.  See vec_avx512.h. */
#ifndef M2_KERNELS_CPU_VEC_AVX2_H
#define M2_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

typedef __m256 vf;

enum {
	VF_LANES = 8,
	VF_WIDE = 2, /* 16 floats: two loops' worth of the 16 registers */
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

#endif
