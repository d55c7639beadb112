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
	M2_DTYPE_F64 = 4,  /* read from files and in kernels/ref; never a resident weight */
	M2_DTYPE_INT8 = 5, /* resident weights only, with a scale per row; never in a file */
};

/* Bytes of one element; 0 for NONE and unknown values. */
size_t m2_dtype_bytes(enum m2_dtype dtype);

/* "f32", "f16", "bf16", "f64", "int8", "none". */
const char *m2_dtype_name(enum m2_dtype dtype);

float m2_f32_from_bf16(uint16_t bits);
float m2_f32_from_f16(uint16_t bits);
uint16_t m2_bf16_from_f32(float value);
uint16_t m2_f16_from_f32(float value);

/* A row of weights in 8 bits, symmetric: w = scale * q with q in -127..127.  The scale is the row's
 * largest magnitude over 127 (0 for a row of zeros, NaN if one of it is); q is w * (1 / scale), rounded
 * to nearest even.  Where m2_int8_inverse(scale), that is 1 / scale, would not be a positive number
 * it is 0, and so is q. */
float m2_int8_scale(const float *row, size_t count);
float m2_int8_inverse(float scale);
void m2_int8_from_f32(int8_t *dst, const float *row, float scale, size_t count);

/* count elements of any type at src (any alignment) to floats at dst; F64 is rounded, and INT8 are
 * taken without their scale. */
void m2_dtype_to_f32(float *dst, const void *src, enum m2_dtype dtype, size_t count);

/* count floats to any type but INT8 at dst (any alignment). */
void m2_dtype_from_f32(void *dst, enum m2_dtype dtype, const float *src, size_t count);

#endif
