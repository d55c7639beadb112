/* dtype.c - scalar conversions between element types, the definition of what the vector code does.
 *
 * Written with integer operations only, so that the result does not depend on the compiler's
 * flags or on what the processor can do.  Not fast: loading uses the backends' own loops.
 */
#include "common/dtype.h"

#include <float.h>
#include <string.h>

size_t m2_dtype_bytes(enum m2_dtype dtype)
{
	switch (dtype) {
	case M2_DTYPE_F32:
		return 4;
	case M2_DTYPE_F16:
	case M2_DTYPE_BF16:
		return 2;
	case M2_DTYPE_F64:
		return 8;
	case M2_DTYPE_INT8:
		return 1;
	case M2_DTYPE_NONE:
		break;
	}
	return 0;
}

const char *m2_dtype_name(enum m2_dtype dtype)
{
	static const char *const names[] = {"none", "f32", "f16", "bf16", "f64", "int8"};
	return (unsigned)dtype < sizeof names / sizeof names[0] ? names[dtype] : "unknown";
}

static float from_bits(uint32_t bits)
{
	float value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

static uint32_t to_bits(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	return bits;
}

float m2_f32_from_bf16(uint16_t bits)
{
	return from_bits((uint32_t)bits << 16);
}

float m2_f32_from_f16(uint16_t half)
{
	const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
	const uint32_t exponent = (half >> 10) & 0x1fu;
	uint32_t mantissa = half & 0x3ffu;

	if (exponent == 0x1f) /* infinity, NaN: keep the payload, make it quiet as F16C does */
		return from_bits(
			sign | 0x7f800000u | mantissa << 13 | (mantissa != 0 ? 0x00400000u : 0u));
	if (exponent != 0)
		return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
	if (mantissa == 0)
		return from_bits(sign);
	uint32_t shift = 0; /* subnormal: every one of them is a normal F32 */
	while ((mantissa & 0x400u) == 0) {
		mantissa <<= 1;
		shift++;
	}
	return from_bits(sign | (113 - shift) << 23 | (mantissa & 0x3ffu) << 13);
}

uint16_t m2_bf16_from_f32(float value)
{
	const uint32_t bits = to_bits(value);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40u);
	return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint16_t m2_f16_from_f32(float value)
{
	const uint32_t bits = to_bits(value);
	const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
	const uint32_t magnitude = bits & 0x7fffffffu;

	if (magnitude > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
	if (magnitude >= 0x47800000u) /* 65536 and above, infinity */
		return (uint16_t)(sign | 0x7c00u);
	if (magnitude >= 0x38800000u) { /* normal; rounding may carry up to infinity, as it must */
		const uint32_t rebased = magnitude - (112u << 23);
		return (uint16_t)(sign | ((rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13));
	}
	if (magnitude < 0x33000000u) /* below half of the smallest subnormal */
		return sign;
	const uint32_t exponent = magnitude >> 23;
	const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
	const uint32_t shift = 126 - exponent; /* 14..24 */
	const uint32_t kept = mantissa >> shift;
	const uint32_t rest = mantissa & ((1u << shift) - 1);
	const uint32_t half = 1u << (shift - 1);
	const uint32_t up = rest > half || (rest == half && (kept & 1u) != 0);
	return (uint16_t)(sign | (kept + up));
}

float m2_int8_scale(const float *row, size_t count)
{
	uint32_t largest = 0; /* magnitudes compare like their bits, NaN above all */
	for (size_t i = 0; i < count; i++) {
		const uint32_t magnitude = to_bits(row[i]) & 0x7fffffffu;
		largest = magnitude > largest ? magnitude : largest;
	}
	return from_bits(largest) / 127.0f;
}

float m2_int8_inverse(float scale)
{
	const float inverse = scale > 0.0f && scale <= FLT_MAX ? 1.0f / scale : 0.0f;
	return inverse <= FLT_MAX ? inverse : 0.0f;
}

void m2_int8_from_f32(int8_t *dst, const float *row, float scale, size_t count)
{
	const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is a whole number */
	const float inverse = m2_int8_inverse(scale);
	for (size_t i = 0; i < count; i++) {
		float whole = inverse > 0.0f ? row[i] * inverse : 0.0f;
		whole = whole > 127.0f ? 127.0f : whole < -127.0f ? -127.0f : whole;
		dst[i] = (int8_t)(int32_t)(to_bits(whole + magic) - to_bits(magic));
	}
}

void m2_dtype_to_f32(float *dst, const void *src, enum m2_dtype dtype, size_t count)
{
	const unsigned char *p = src;
	for (size_t i = 0; i < count; i++) {
		uint16_t half;
		double wide;
		switch (dtype) {
		case M2_DTYPE_F32:
			memcpy(&dst[i], p + 4 * i, 4);
			break;
		case M2_DTYPE_F16:
			memcpy(&half, p + 2 * i, 2);
			dst[i] = m2_f32_from_f16(half);
			break;
		case M2_DTYPE_BF16:
			memcpy(&half, p + 2 * i, 2);
			dst[i] = m2_f32_from_bf16(half);
			break;
		case M2_DTYPE_F64:
			memcpy(&wide, p + 8 * i, 8);
			dst[i] = (float)wide;
			break;
		case M2_DTYPE_INT8:
			dst[i] = (float)(int8_t)p[i];
			break;
		case M2_DTYPE_NONE:
			dst[i] = 0.0f;
			break;
		}
	}
}

void m2_dtype_from_f32(void *dst, enum m2_dtype dtype, const float *src, size_t count)
{
	unsigned char *p = dst;
	for (size_t i = 0; i < count; i++) {
		uint16_t half;
		double wide;
		switch (dtype) {
		case M2_DTYPE_F32:
			memcpy(p + 4 * i, &src[i], 4);
			break;
		case M2_DTYPE_F16:
			half = m2_f16_from_f32(src[i]);
			memcpy(p + 2 * i, &half, 2);
			break;
		case M2_DTYPE_BF16:
			half = m2_bf16_from_f32(src[i]);
			memcpy(p + 2 * i, &half, 2);
			break;
		case M2_DTYPE_F64:
			wide = (double)src[i];
			memcpy(p + 8 * i, &wide, 8);
			break;
		case M2_DTYPE_INT8: /* by m2_int8_from_f32 */
		case M2_DTYPE_NONE:
			break;
		}
	}
}
