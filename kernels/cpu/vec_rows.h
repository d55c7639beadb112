/* vec_rows.h - element-wise work on rows: norm, gate, convolution, dt.
 *
 * Written in the vector of the file that includes this.
 */
#ifndef M2_KERNELS_CPU_VEC_ROWS_H
#define M2_KERNELS_CPU_VEC_ROWS_H

static void rows_rms_norm(
	float *out, const float *x, const float *w, int32_t n, int32_t groups, float eps)
{
	const int32_t width = n / groups;
	for (int32_t first = 0; first < n; first += width) {
		const float *from = x + first;
		vf sum = vf_set1(0.0f);
		for (int32_t i = 0; i < width; i += VF_LANES) {
			const vf v = vf_load_n(from + i, width - i);
			sum = vf_fma(v, v, sum);
		}
		const float mean = vf_sum(sum) / (float)width;
		const vf scale = vf_set1(1.0f / sqrtf(mean + eps));
		for (int32_t i = 0; i < width; i += VF_LANES) {
			const vf v = vf_mul(vf_load_n(from + i, width - i), scale);
			const vf weight = vf_load_n(w + first + i, width - i);
			vf_store_n(out + first + i, vf_mul(v, weight), width - i);
		}
	}
}

static void rows_add(float *out, const float *x, const float *bias, int32_t n)
{
	for (int32_t i = 0; i < n; i += VF_LANES) {
		vf more = vf_load_n(x + i, n - i);
		if (bias != NULL)
			more = vf_add(more, vf_load_n(bias + i, n - i));
		vf_store_n(out + i, vf_add(vf_load_n(out + i, n - i), more), n - i);
	}
}

static void rows_gate(float *out, const float *x, const float *gate, int32_t n)
{
	for (int32_t i = 0; i < n; i += VF_LANES) {
		const vf open = vf_silu(vf_load_n(gate + i, n - i));
		vf_store_n(out + i, vf_mul(vf_load_n(x + i, n - i), open), n - i);
	}
}

static void rows_conv(float *out, const float *const *tap, const float *w, size_t stride,
	const float *bias, int32_t taps, int32_t n)
{
	for (int32_t i = 0; i < n; i += VF_LANES) {
		vf sum = bias != NULL ? vf_load_n(bias + i, n - i) : vf_set1(0.0f);
		for (int32_t j = 0; j < taps; j++)
			sum = vf_fma(vf_load_n(w + (size_t)j * stride + i, n - i),
				vf_load_n(tap[j] + i, n - i), sum);
		vf_store_n(out + i, vf_silu(sum), n - i);
	}
}

static void rows_dt(
	float *dt, const float *raw, const float *bias, float low, float high, int32_t n)
{
	for (int32_t i = 0; i < n; i += VF_LANES) {
		vf v = vf_add(vf_load_n(raw + i, n - i), vf_load_n(bias + i, n - i));
		v = vf_softplus(v);
		vf_store_n(dt + i, vf_max(vf_set1(low), vf_min(vf_set1(high), v)), n - i);
	}
}

#endif
