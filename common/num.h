/* num.h - sizes that cannot wrap, and rounding.
 *
 * Every size computed from a number that came from outside (a file, a message, a config) goes
 * through these.  They return false on overflow and leave *out alone.  No state, any thread.
 */
#ifndef M2_COMMON_NUM_H
#define M2_COMMON_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool m2_mul_size(size_t a, size_t b, size_t *out)
{
	size_t r;
	if (__builtin_mul_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

static inline bool m2_add_size(size_t a, size_t b, size_t *out)
{
	size_t r;
	if (__builtin_add_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

/* Round up to a multiple of a power of two; false if that does not fit. */
static inline bool m2_round_up_size(size_t a, size_t power_of_two, size_t *out)
{
	size_t r;
	if (__builtin_add_overflow(a, power_of_two - 1, &r))
		return false;
	*out = r & ~(power_of_two - 1);
	return true;
}

/* *total += a * b, all checked. */
static inline bool m2_add_mul_size(size_t *total, size_t a, size_t b)
{
	size_t product;
	return m2_mul_size(a, b, &product) && m2_add_size(*total, product, total);
}

static inline int64_t m2_min_i64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static inline int64_t m2_max_i64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

#endif
