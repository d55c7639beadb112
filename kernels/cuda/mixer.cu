/* mixer.cu - between the two projections: convolution, recurrence, gate and norms, for any shape.
 *
 * These are the definition's loops (kernels/ref) on the device.  A block owns its outputs and sums in a
 * fixed order, so nothing depends on what else is in the step.  The convolution's last columns live in a
 * ring of K, position p in column p % K: a token writes a column that nobody of the same token reads.
 *
 * Source: Dao & Gu 2024 (arXiv 2405.21060) section 7.  The shapes of the public models have kernels of
 * their own (mix.cu), which share the convolution.
 */
#include "kernels/cuda/mixer.cuh"

enum { THREADS = 256 };

/* ---- convolution --------------------------------------------------------------------------- */

__global__ void convolve_kernel(const struct m2_cuda_mixer m)
{
	const int32_t c = (int32_t)(blockIdx.y * THREADS + threadIdx.x);
	const int32_t row = (int32_t)blockIdx.x;
	if (c >= m.channels)
		return;
	const struct m2_cuda_item item = m.items[m.row_item[row]];
	const int32_t t = row - item.first;
	float sum = m.conv_bias != NULL ? m.conv_bias[c] : 0.0f;
	for (int32_t j = 0; j < m.taps; j++)
		sum = fmaf(m.conv[(size_t)c * (size_t)m.taps + (size_t)j],
			raw_column(m, item, t - (m.taps - 1) + j, c), sum);
	float *to = m.xbc + (size_t)row * (size_t)m.channels;
	if (!is_chunked(item, t))
		to[c] = silu(sum);
	else if (m.next.type == M2_DTYPE_F16) /* for the chunked form (ssd.cuh) */
		((__half *)to)[c] = from_float<__half>(silu(sum));
	else
		((__nv_bfloat16 *)to)[c] = from_float<__nv_bfloat16>(silu(sum));
}

/* The item's last columns into the ring, after everybody has read it. */
__global__ void remember_kernel(const struct m2_cuda_mixer m)
{
	const int32_t c = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
	if (c >= m.channels)
		return;
	const struct m2_cuda_item item = m.items[blockIdx.y];
	const int32_t kept = item.tokens < m.taps ? item.tokens : m.taps;
	for (int32_t t = item.tokens - kept; t < item.tokens; t++) {
		const int32_t column = (item.into_ring + t) % m.taps;
		m.ring[(size_t)item.slot * m.slot_floats + (size_t)column * (size_t)m.channels +
			(size_t)c] = raw_column(m, item, t, c);
	}
}

cudaError_t m2_cuda_convolve(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items, int32_t rows)
{
	const unsigned blocks = (unsigned)((mixer->channels + THREADS - 1) / THREADS);
	convolve_kernel<<<dim3((unsigned)rows, blocks), THREADS, 0, stream>>>(*mixer);
	remember_kernel<<<dim3(blocks, (unsigned)n_items), THREADS, 0, stream>>>(*mixer);
	return cudaGetLastError();
}

/* ---- recurrence ---------------------------------------------------------------------------- */

/* Four threads to a row p of the state, which stays in memory. */
__global__ void __launch_bounds__(THREADS) recur_kernel(const struct m2_cuda_mixer m)
{
	const int32_t h = (int32_t)blockIdx.x, q = (int32_t)threadIdx.x & 3;
	const int32_t P = m.head_dim, N = m.state_size;
	const struct m2_cuda_item item = m.items[blockIdx.y];
	const int32_t group = h / (m.heads / m.groups);
	/* whole warps stay in the loop, for the shuffles */
	for (int32_t p0 = 0; p0 < P; p0 += THREADS / 4) {
		const int32_t p = p0 + ((int32_t)threadIdx.x >> 2);
		const bool inside = p < P;
		float *s = m.ssm + (size_t)item.slot * m.slot_floats +
			   ((size_t)h * (size_t)P + (size_t)(inside ? p : 0)) * (size_t)N;
		const float d = inside ? m.d[m.d_per_channel ? h * P + p : h] : 0.0f;
		for (int32_t t = 0; t < item.tokens; t++) {
			const float *row = m.xbc + (size_t)(item.first + t) * (size_t)m.channels;
			const float *b = row + m.d_ssm + group * N;
			const float *c = row + m.d_ssm + (m.groups + group) * N;
			const float2 step = step_of(m, item.first + t, h);
			const float x = inside ? row[h * P + p] : 0.0f, dx = step.x * x;
			float sum = 0.0f;
			for (int32_t n = q; inside && n < N; n += 4) {
				const float value = fmaf(step.y, s[n], dx * b[n]);
				s[n] = value;
				sum = fmaf(c[n], value, sum);
			}
			sum += __shfl_xor_sync(0xffffffffu, sum, 1);
			sum += __shfl_xor_sync(0xffffffffu, sum, 2);
			if (inside && q == 0)
				m.y[(size_t)(item.first + t) * (size_t)m.d_ssm +
					(size_t)(h * P + p)] = fmaf(d, x, sum);
		}
	}
}

cudaError_t m2_cuda_recur(cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t n_items)
{
	const dim3 grid((unsigned)mixer->heads, (unsigned)n_items);
	recur_kernel<<<grid, THREADS, 0, stream>>>(*mixer);
	return cudaGetLastError();
}

/* ---- gate ---------------------------------------------------------------------------------- */

/* One row: the gated MLP, then gate and norm of y, group by group. */
template <typename T>
__global__ void gate_kernel(const struct m2_cuda_mixer m, int32_t padded, T *out)
{
	__shared__ float scratch[32];
	const int32_t tid = (int32_t)threadIdx.x, width = m.d_ssm / m.norm_groups;
	const float *in = m.in_out + (size_t)blockIdx.x * (size_t)m.in_stride;
	const float *z = in + 2 * m.d_mlp;
	const float *y = m.y + (size_t)blockIdx.x * (size_t)m.d_ssm;
	T *to = out + (size_t)blockIdx.x * (size_t)padded;
	const bool gate_first = !(m.gated_norm && m.norm_before_gate);

	for (int32_t i = tid; i < m.d_mlp; i += THREADS)
		to[i] = from_float<T>(silu(in[i]) * in[m.d_mlp + i]);
	for (int32_t first = 0; first < m.d_ssm; first += width) {
		float scale = 1.0f, sum = 0.0f;
		for (int32_t i = first + tid; m.gated_norm && i < first + width; i += THREADS) {
			const float v = gate_first ? y[i] * silu(z[i]) : y[i];
			sum = fmaf(v, v, sum);
		}
		if (m.gated_norm)
			scale = rsqrtf(block_sum(sum, scratch) / (float)width + m.eps);
		for (int32_t i = first + tid; i < first + width; i += THREADS) {
			const float w = m.gated_norm ? m.gated_norm_weight[i] : 1.0f;
			to[m.d_mlp + i] = from_float<T>(y[i] * silu(z[i]) * scale * w);
		}
	}
	for (int32_t i = m.out_cols + tid; i < padded; i += THREADS)
		to[i] = from_float<T>(0.0f);
}

cudaError_t m2_cuda_gate(cudaStream_t stream, const struct m2_cuda_mixer *mixer, int32_t rows,
	enum m2_dtype type, void *out)
{
	return with_type(type, [&](auto t) {
		gate_kernel<<<(unsigned)rows, THREADS, 0, stream>>>(
			*mixer, m2_cuda_pad(mixer->out_cols), (decltype(t) *)out);
		return cudaGetLastError();
	});
}
