/* dtype.h - the element types of weights and states, and scalar conversion.
 *
 * BF16 is the upper half of an F32; F16 is IEEE binary16.  Conversions round to nearest even and
 * keep NaN a NaN.  The vectorised conversions of the backends must give the same bits as these.
 * No state, any thread.
 */
#ifndef M2_COMMON_DTYPE_H
#define M2_COMMON_DTYPE_H

#include <stddef.h>
#include <stdint.h>

enum m2_dtype {
	M2_DTYPE_NONE = 0, /* "as stored", or "absent", as the user of it says */
	M2_DTYPE_F32 = 1,
	M2_DTYPE_F16 = 2,
	M2_DTYPE_BF16 = 3,
	M2_DTYPE_F64 = 4, /* read from files and in kernels/ref; never a resident weight */
};

/* Bytes of one element; 0 for NONE and unknown values. */
size_t m2_dtype_bytes(enum m2_dtype dtype);

/* "f32", "f16", "bf16", "f64", "none". */
const char *m2_dtype_name(enum m2_dtype dtype);

float m2_f32_from_bf16(uint16_t bits);
float m2_f32_from_f16(uint16_t bits);
uint16_t m2_bf16_from_f32(float value);
uint16_t m2_f16_from_f32(float value);

/* count elements of any type at src (any alignment) to floats at dst; F64 is rounded. */
void m2_dtype_to_f32(float *dst, const void *src, enum m2_dtype dtype, size_t count);

/* count floats to any type at dst (any alignment). */
void m2_dtype_from_f32(void *dst, enum m2_dtype dtype, const float *src, size_t count);

#endif
