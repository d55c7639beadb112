/* vec_portable.h - the vector of the shared loops: 4 floats, in the C extension that gcc and clang
 * have on every target (SSE2 on any x86-64, NEON on any arm64).  See vec_avx512.h.
 *
 * There is no fused multiply-add to count on: vf_fma rounds twice here.
 */
#ifndef M2_KERNELS_CPU_VEC_PORTABLE_H
#define M2_KERNELS_CPU_VEC_PORTABLE_H

#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

enum {
	VF_LANES = 4,
	VF_WIDE = 4, /* 16 floats */
	VF_LONG = 4,
	VF_STREAMS = 1,
};

static inline vf vf_set1(float x)
{
	return (vf){x, x, x, x};
}

static inline vf vf_load(const float *p)
{
	vf x;
	memcpy(&x, p, sizeof x);
	return x;
}

static inline void vf_store(float *p, vf x)
{
	memcpy(p, &x, sizeof x);
}

static inline vf vf_load_n(const float *p, int32_t n)
{
	vf x = {0, 0, 0, 0};
	memcpy(&x, p, sizeof(float) * (size_t)(n < VF_LANES ? n : VF_LANES));
	return x;
}

static inline void vf_store_n(float *p, vf x, int32_t n)
{
	memcpy(p, &x, sizeof(float) * (size_t)(n < VF_LANES ? n : VF_LANES));
}

static inline vf vf_add(vf a, vf b)
{
	return a + b;
}

static inline vf vf_sub(vf a, vf b)
{
	return a - b;
}

static inline vf vf_mul(vf a, vf b)
{
	return a * b;
}

static inline vf vf_div(vf a, vf b)
{
	return a / b;
}

static inline vf vf_fma(vf a, vf b, vf c)
{
	return a * b + c;
}

static inline vf vf_choose(vi mask, vf yes, vf no)
{
	return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

static inline vf vf_min(vf a, vf b)
{
	return vf_choose(a < b, a, b);
}

static inline vf vf_max(vf a, vf b)
{
	return vf_choose(a > b, a, b);
}

static inline vf vf_if_gt(vf a, vf b, vf yes, vf no)
{
	return vf_choose(a > b, yes, no);
}

/* 1.5 * 2^23: a sum with it has units in its last place, so it is rounded to whole numbers. */
static const float vf_magic = 12582912.0f;

static inline vf vf_rint(vf x)
{
	return (x + vf_set1(vf_magic)) - vf_set1(vf_magic);
}

static inline vf vf_scale(vf x, vf n)
{
	const vi whole = (vi)(n + vf_set1(vf_magic)) - (vi)vf_set1(vf_magic);
	const vi half = whole >> 1;
	const vf first = (vf)((vu)(half + 127) << 23);
	const vf second = (vf)((vu)(whole - half + 127) << 23);
	return x * first * second;
}

static inline vf vf_split(vf x, vf *n)
{
	const vi bits = (vi)x;
	const vi k = (bits - 0x3f3504f3) >> 23;
	*n = __builtin_convertvector(k, vf);
	return (vf)((vu)bits - ((vu)k << 23));
}

#endif
