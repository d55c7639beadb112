/* test_dtype.c - conversions between element types against a definition in double.
 *
 * The oracle knows only what a binary floating-point format is: so many mantissa bits, a smallest
 * exponent, a largest number, round to nearest even.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/dtype.h"

static uint64_t seed;

static float float_of(uint32_t bits)
{
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

static uint32_t bits_of(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	return bits;
}

/* f16: 10 mantissa bits, exponents from -14; bf16: 7 and -126. */
struct format {
	int mantissa, least;
	double overflow; /* from here on rounds to infinity */
};

static const struct format f16 = {10, -14, 65520.0};
static const struct format bf16 = {7, -126, 0x1.ffp127};

static double value_of(const struct format *f, uint16_t bits)
{
	const int exponent_bits = 15 - f->mantissa, top = (1 << exponent_bits) - 1;
	const int exponent = bits >> f->mantissa & top;
	const int mantissa = bits & ((1 << f->mantissa) - 1);
	const double sign = bits >> 15 ? -1.0 : 1.0;
	if (exponent == top)
		return mantissa != 0 ? NAN : sign * INFINITY;
	if (exponent == 0)
		return sign * ldexp(mantissa, f->least - f->mantissa);
	return sign * ldexp(mantissa + (1 << f->mantissa), exponent - 1 + f->least - f->mantissa);
}

/* The nearest number of the format, ties to even; nearbyint rounds so by default. */
static double rounded(const struct format *f, double x)
{
	int exponent;
	if (fabs(x) >= f->overflow)
		return copysign(INFINITY, x);
	(void)frexp(x, &exponent);
	exponent = exponent - 1 < f->least ? f->least : exponent - 1;
	const double unit = ldexp(1.0, exponent - f->mantissa);
	return copysign(nearbyint(x / unit) * unit, x);
}

static void all_halves_widen_as_defined_and_come_back(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 65536; i++) {
		const uint16_t bits = (uint16_t)i;
		const float h = m2_f32_from_f16(bits), b = m2_f32_from_bf16(bits);
		const double want_h = value_of(&f16, bits), want_b = value_of(&bf16, bits);
		if (isnan(want_h)) {
			assert_true(isnan(h));
			assert_true((m2_f16_from_f32(h) & 0x7fffu) > 0x7c00u);
		} else {
			assert_true((double)h == want_h && !signbit(h) == !(bits >> 15));
			assert_int_equal(m2_f16_from_f32(h), bits);
		}
		if (isnan(want_b)) {
			assert_true(isnan(b));
			assert_true((m2_bf16_from_f32(b) & 0x7fffu) > 0x7f80u);
		} else {
			assert_true((double)b == want_b && !signbit(b) == !(bits >> 15));
			assert_int_equal(m2_bf16_from_f32(b), bits);
		}
	}
}

static void check_rounding(float x)
{
	const uint16_t h = m2_f16_from_f32(x), b = m2_bf16_from_f32(x);
	if (isnan(x)) {
		assert_true(isnan(value_of(&f16, h)) && isnan(value_of(&bf16, b)));
		return;
	}
	const double got_h = value_of(&f16, h), got_b = value_of(&bf16, b);
	if (got_h != rounded(&f16, (double)x) || got_b != rounded(&bf16, (double)x))
		fail_msg("%a becomes %a in f16 and %a in bf16", (double)x, got_h, got_b);
	assert_true(h >> 15 == (signbit(x) != 0) && b >> 15 == (signbit(x) != 0));
}

static void floats_round_to_nearest_even(void **state)
{
	(void)state;
	/* Around every half and every middle of two neighbours, both formats. */
	for (uint32_t i = 0; i < 65536; i++) {
		const uint32_t places[] = {bits_of(m2_f32_from_f16((uint16_t)i)), i << 16};
		static const int32_t steps[] = {
			0, 1, -1, 0x1000, 0x0fff, 0x1001, 0x8000, 0x7fff, 0x8001, 0x1800};
		for (int p = 0; p < 2; p++)
			for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
				check_rounding(float_of(places[p] + (uint32_t)steps[s]));
	}
	/* And anywhere. */
	uint64_t x = seed * 2 + 1;
	for (int i = 0; i < 2000000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		check_rounding(float_of((uint32_t)(x >> 16)));
	}
	check_rounding(0x1p-24f);
	check_rounding(0x1p-25f);
	check_rounding(0x1.000002p-25f);
	check_rounding(65519.996f);
	check_rounding(65520.0f);
	check_rounding(0x1.fffffep127f);
}

static void nan_stays_nan(void **state)
{
	(void)state;
	static const uint32_t nans[] = {
		0x7f800001u, 0x7fc00000u, 0xff800001u, 0x7fffffffu, 0xffffffffu, 0x7f801000u};
	for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++)
		check_rounding(float_of(nans[i]));
}

static void arrays_convert_at_any_alignment(void **state)
{
	(void)state;
	static const enum m2_dtype dtypes[] = {
		M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_F64};
	const float values[] = {1.0f, -2.5f, 0.0f, 0.125f, 1024.0f};
	enum { N = sizeof values / sizeof values[0] };
	for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
		for (size_t shift = 0; shift < 3; shift++) {
			unsigned char bytes[8 * N + 3];
			float back[N];
			memset(bytes, 0xaa, sizeof bytes);
			m2_dtype_from_f32(bytes + shift, dtypes[d], values, N);
			m2_dtype_to_f32(back, bytes + shift, dtypes[d], N);
			assert_memory_equal(back, values, sizeof values);
			assert_int_equal(bytes[shift + N * m2_dtype_bytes(dtypes[d])] == 0xaa,
				shift + N * m2_dtype_bytes(dtypes[d]) < sizeof bytes);
		}
	}
}

static void rows_in_eight_bits_keep_their_largest_and_round_to_even(void **state)
{
	(void)state;
	const float row[] = {127.0f, -127.0f, 0.5f, 1.5f, -2.5f, 63.49f, 0.0f, 126.51f};
	const int8_t want[] = {127, -127, 0, 2, -2, 63, 0, 127};
	enum { N = sizeof want };
	int8_t got[N];
	assert_true(m2_int8_scale(row, N) == 1.0f);
	m2_int8_from_f32(got, row, 1.0f, N);
	assert_memory_equal(got, want, N);
	float back[N];
	m2_dtype_to_f32(back, got, M2_DTYPE_INT8, N);
	for (int i = 0; i < N; i++)
		assert_true(back[i] == (float)want[i]);

	const float zeros[3] = {0.0f, -0.0f, 0.0f}, odd[3] = {1.0f, NAN, 2.0f};
	const float tiny[3] = {1e-44f, -1e-44f, 0.0f}, endless[3] = {INFINITY, 1.0f, -1.0f};
	const int8_t none[3] = {0};
	assert_true(m2_int8_scale(zeros, 3) == 0.0f && isnan(m2_int8_scale(odd, 3)));
	assert_true(isinf(m2_int8_scale(endless, 3)));
	const float *rows[] = {zeros, odd, tiny, endless};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		m2_int8_from_f32(got, rows[i], m2_int8_scale(rows[i], 3), 3);
		assert_memory_equal(got, none, 3);
	}
}

static void types_have_sizes_and_names(void **state)
{
	(void)state;
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_F32), 4);
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_F16), 2);
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_BF16), 2);
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_F64), 8);
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_INT8), 1);
	assert_int_equal(m2_dtype_bytes(M2_DTYPE_NONE), 0);
	assert_int_equal(m2_dtype_bytes((enum m2_dtype)99), 0);
	assert_string_equal(m2_dtype_name(M2_DTYPE_BF16), "bf16");
	assert_string_equal(m2_dtype_name((enum m2_dtype)99), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_halves_widen_as_defined_and_come_back),
		cmocka_unit_test(floats_round_to_nearest_even),
		cmocka_unit_test(nan_stays_nan),
		cmocka_unit_test(arrays_convert_at_any_alignment),
		cmocka_unit_test(rows_in_eight_bits_keep_their_largest_and_round_to_even),
		cmocka_unit_test(types_have_sizes_and_names),
	};
	const char *given = getenv("M2_SEED");
	seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
	(void)fprintf(stderr, "# M2_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
