/* sampler_math.c - Philox, exp and log in plain arithmetic; see sampler_math.h for why not libm.
 *
 * exp: Cody-Waite reduction by ln 2 in two parts and the degree-6 minimax polynomial of Cephes expf.
 * log: x = m * 2^e with m in [sqrt(1/2), sqrt(2)), then 2 atanh((m - 1) / (m + 1)) as a series.
 */
#include "daemon/sampler_math.h"

#include <string.h>

static void multiply(uint32_t a, uint32_t b, uint32_t *high, uint32_t *low)
{
	const uint64_t product = (uint64_t)a * b;
	*high = (uint32_t)(product >> 32);
	*low = (uint32_t)product;
}

void m2_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
	uint32_t k[2] = {key[0], key[1]};
	for (int round = 0; round < 10; round++) {
		uint32_t high0, low0, high1, low1;
		multiply(0xD2511F53U, c[0], &high0, &low0);
		multiply(0xCD9E8D57U, c[2], &high1, &low1);
		c[0] = high1 ^ c[1] ^ k[0];
		c[1] = low1;
		c[2] = high0 ^ c[3] ^ k[1];
		c[3] = low0;
		k[0] += 0x9E3779B9U; /* Weyl sequences of the golden ratio and of sqrt(3) - 1 */
		k[1] += 0xBB67AE85U;
	}
	memcpy(out, c, sizeof c);
}

double m2_philox_uniform(uint64_t seed, uint32_t sequence, uint64_t position)
{
	const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), sequence, 0};
	const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
	uint32_t out[4];
	m2_philox4x32_10(counter, key, out);
	const uint64_t bits = ((uint64_t)out[1] << 32 | out[0]) >> 11;
	return (double)bits * (1.0 / 9007199254740992.0);
}

/* Branch-free, so that the compiler may take several at once; each lane is the same arithmetic. */
static inline float exp_below(float x)
{
	const float magic =
		12582912.0F; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
	const float clamped = x < -87.0F ? -87.0F : x;
	const float shifted = clamped * 1.44269504088896341F + magic;
	const float n = shifted - magic;
	const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
	float p = 1.9875691500e-4F;
	p = p * r + 1.3981999507e-3F;
	p = p * r + 8.3334519073e-3F;
	p = p * r + 4.1665795894e-2F;
	p = p * r + 1.6666665459e-1F;
	p = p * r + 5.0000001201e-1F;
	const float y = p * (r * r) + r + 1.0F;
	uint32_t bits;
	memcpy(&bits, &shifted, sizeof bits);
	bits = (bits - 0x4B400000U + 127U) << 23; /* 0x4B400000 is magic */
	float power;
	memcpy(&power, &bits, sizeof power);
	return x < -87.0F ? 0.0F : y * power;
}

double m2_exp_row(float *out, const float *x, float scale, int32_t count)
{
	double sum = 0.0;
	int32_t i = 0;
	for (; i + 8 <= count; i += 8) {
		float lane[8];
		for (int j = 0; j < 8; j++)
			lane[j] = exp_below(x[i + j] * scale);
		for (int j = 0; j < 8; j++)
			out[i + j] = lane[j];
		for (int j = 0; j < 8; j++)
			sum += (double)lane[j];
	}
	for (; i < count; i++) {
		out[i] = exp_below(x[i] * scale);
		sum += (double)out[i];
	}
	return sum;
}

double m2_log_positive(double x)
{
	uint64_t bits;
	int exponent = 0;
	if (x < 2.2250738585072014e-308) { /* subnormal: bring it into the normal range first */
		x *= 18014398509481984.0;  /* 2^54 */
		exponent = -54;
	}
	memcpy(&bits, &x, sizeof bits);
	exponent += (int)(bits >> 52) - 1023;
	bits = (bits & 0x000FFFFFFFFFFFFFU) | 0x3FF0000000000000U;
	double m;
	memcpy(&m, &bits, sizeof m);
	if (m > 1.4142135623730951) {
		m *= 0.5;
		exponent++;
	}
	const double s = (m - 1.0) / (m + 1.0);
	const double z = s * s;
	double series = 0.0;
	for (int k = 21; k >= 3; k -= 2)
		series = (series + 1.0 / k) * z;
	return exponent * 0.69314718055994530942 + 2.0 * (s + s * series);
}
