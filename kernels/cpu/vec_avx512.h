/* vec_avx512.h - the vector of the shared loops: 16 floats of AVX-512.
 *
 * The three vec_*.h files define the same names; a kernels_*.c includes one of them and then the
 * loops written in these names.  Loads and stores need no alignment; the _n forms touch n elements
 * only and read zeros beyond.
 */
#ifndef M2_KERNELS_CPU_VEC_AVX512_H
#define M2_KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vf;

enum {
	VF_LANES = 16,
	VF_WIDE = 4, /* vectors of a wide block of a head's width: 64 floats */
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

#endif
