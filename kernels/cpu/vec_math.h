/* vec_math.h - exp, silu and softplus over the vector of the file that includes this.
 *
 * One code path for every lane and every tail, so equal inputs give equal bits wherever they stand.
 * Polynomials: exp as in Cephes expf (Moshier), log by the series of atanh.  NaN stays NaN.
 */
#ifndef M2_KERNELS_CPU_VEC_MATH_H
#define M2_KERNELS_CPU_VEC_MATH_H

#include <math.h>

/* e^x, 2 ulp; 0 below -104, infinity above 88.8. */
static inline vf vf_exp(vf x)
{
	/* x second: min and max hand on a NaN of their second operand. */
	x = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x));
	const vf n = vf_rint(vf_mul(x, vf_set1(1.44269504f)));
	vf r = vf_fma(n, vf_set1(-0.693359375f), x);
	r = vf_fma(n, vf_set1(2.12194440e-4f), r);
	vf p = vf_set1(1.9875691500e-4f);
	p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
	p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
	p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
	p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
	p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
	p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
	return vf_scale(p, n);
}

/* x / (1 + e^-x) */
static inline vf vf_silu(vf x)
{
	return vf_div(x, vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_set1(0.0f), x))));
}

/* log(1 + e), e >= 0 and finite. */
static inline vf vf_log1p(vf e)
{
	const vf one = vf_set1(1.0f);
	const vf u = vf_add(one, e);
	/* What the sum lost; log(u + lost) = log(u) + lost / u. */
	const vf lost = vf_sub(e, vf_sub(u, one));
	vf n;
	const vf f = vf_sub(vf_split(u, &n), one);
	const vf s = vf_div(f, vf_add(f, vf_set1(2.0f)));
	const vf s2 = vf_mul(s, s);
	vf p = vf_set1(1.0f / 9);
	p = vf_fma(p, s2, vf_set1(1.0f / 7));
	p = vf_fma(p, s2, vf_set1(1.0f / 5));
	p = vf_fma(p, s2, vf_set1(1.0f / 3));
	p = vf_mul(p, s2);
	/* log(1 + f) = 2 atanh(s) = 2 s + 2 s^3 / 3 + ... */
	const vf twice = vf_add(s, s);
	vf log_u = vf_fma(twice, p, twice);
	log_u = vf_fma(n, vf_set1(-2.12194440e-4f), log_u);
	log_u = vf_fma(n, vf_set1(0.693359375f), log_u);
	return vf_add(log_u, vf_div(lost, u));
}

/* log(1 + e^x); x itself above 20, where they are equal in f32 and e^x would overflow. */
static inline vf vf_softplus(vf x)
{
	const vf threshold = vf_set1(20.0f);
	return vf_if_gt(x, threshold, x, vf_log1p(vf_exp(x)));
}

/* The sum of all lanes, as a tree. */
static inline float vf_sum(vf x)
{
	float lane[VF_LANES];
	vf_store(lane, x);
	for (int width = VF_LANES / 2; width > 0; width /= 2)
		for (int i = 0; i < width; i++)
			lane[i] += lane[i + width];
	return lane[0];
}

#endif
