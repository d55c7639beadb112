/* replay.cuh - the recurrence that reads the state at every token and writes it at every sixteenth, for
 * head_dim 64 and state_size 128.
 *
 * Private to kernels/cuda; mix.cu has the kernels.  A window is 16 tokens of a sequence from a multiple of
 * 16 on.  A slot holds the state h as it stood before the window, and of the window's tokens that have
 * passed what they would have added to it: x and B after convolution and SiLU, dt, and the token's decay
 * a = exp(dt A).  With that, token r of the window gives
 *
 *   y_r = w C_r h + sum_{j<=r} (C_r . B_j) w_j x_j + D x_r,  w_j = dt_j a_{j+1} .. a_r,  w = a_0 .. a_r
 *
 * which is the recurrence (Dao & Gu 2024, arXiv 2405.21060, section 7) with its sums in another order, and
 * after token 15 the state is folded: h' = w h + sum_j w_j x_j B_j^T.  Idea: ReplaySSM (Dao AI Lab and
 * NVIDIA 2026).  The weights are products of decays, from the oldest on, not exp of a difference of sums:
 * each factor is in [0, 1], so nothing cancels, overflows or becomes NaN, and one exp a token is enough.
 *
 * Where a token stands in its window is where it stands in its sequence: every sum has an order that only
 * that decides.  What of the held tokens counts follows from the slot's position, so nothing is ever
 * cleared: an entry is written before it counts.  Token 15 is folded at once and not held.
 */
#ifndef M2_KERNELS_CUDA_REPLAY_CUH
#define M2_KERNELS_CUDA_REPLAY_CUH

#include "kernels/cuda/mixer.cuh"
#include "kernels/cuda/tensor_asm.cuh"

enum {
	THREADS = 256,
	P = 64,
	N = 128,
	WINDOW = M2_CUDA_WINDOW,
	HELD = WINDOW - 1,    /* tokens that a slot holds at most */
	WEIGHTS = WINDOW + 1, /* w_j, then w */
	X_PIECES = P / 4 + 2  /* a row of x in shared memory: four neighbours in different banks */
};

/* What a slot holds of a head: x [HELD][P]. */
__device__ inline float *held_x(const struct m2_cuda_mixer &m, int32_t slot, int32_t h)
{
	return m.held + (size_t)slot * m.slot_floats + (size_t)h * (HELD * P);
}
/* Of a group: B [HELD][N]. */
__device__ inline float *held_b(const struct m2_cuda_mixer &m, int32_t slot, int32_t group)
{
	return m.held + (size_t)slot * m.slot_floats + (size_t)m.d_ssm * HELD +
	       (size_t)group * (HELD * N);
}
/* Of a head: dt and decay, [WINDOW]. */
__device__ inline float2 *held_steps(const struct m2_cuda_mixer &m, int32_t slot, int32_t h)
{
	return (float2 *)(m.held + (size_t)slot * m.slot_floats +
			  (size_t)(m.d_ssm + m.groups * N) * HELD) +
	       (size_t)h * WINDOW;
}

__device__ inline float dot_of_four(float4 a, float4 b)
{
	return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, a.x * b.x)));
}

/* B and x of a window's tokens in shared memory, as far as there are some. */
struct shared_window {
	float4 b[WINDOW][N / 4];
	float4 x[WINDOW][X_PIECES];

	__device__ float *x_of(int32_t j)
	{
		return (float *)x[j];
	}
	__device__ const float *x_of(int32_t j) const
	{
		return (const float *)x[j];
	}
	/* Those r that the slot holds are on their way; they have arrived after a wait for them. */
	__device__ void fetch(
		const struct m2_cuda_mixer &m, int32_t slot, int32_t h, int32_t group, int32_t r)
	{
		const int32_t tid = (int32_t)threadIdx.x;
		const float4 *from_b = (const float4 *)held_b(m, slot, group);
		const float4 *from_x = (const float4 *)held_x(m, slot, h);
#pragma unroll
		for (int k = 0; k < 2; k++) {
			const int32_t i = tid + k * THREADS;
			if (i < r * (N / 4))
				fetch_16((uint4 *)&b[0][i], from_b + i);
		}
		if (tid < r * (P / 4))
			fetch_16((uint4 *)&x[tid / (P / 4)][tid % (P / 4)], from_x + tid);
		end_fetches();
	}
	/* Of the window's part in row threadIdx.x / 4 of token r's y, what this thread adds up. */
	__device__ float replay(const float *scores, int32_t r) const
	{
		const int32_t p = (int32_t)threadIdx.x >> 2, q = (int32_t)threadIdx.x & 3;
		float sum = 0.0f;
#pragma unroll
		for (int k = 0; k < WINDOW / 4; k++)
			if (q + k * 4 <= r)
				sum = fmaf(scores[q + k * 4], x_of(q + k * 4)[p], sum);
		return sum;
	}
};
static_assert(2 * (int)THREADS == (int)WINDOW * (int)N / 4, "all of B in two rounds");
static_assert((int)THREADS == (int)WINDOW * (int)P / 4, "all of x in one");

/* h of a head, shared by a block: sixteen threads have four rows, each of them 4 of the columns from 0 and 4
 * of those from 64 on.  So what all rows need of C and B is read from shared memory a quarter as often as
 * if each row had threads of its own. */
struct state_rows {
	float4 s[4][2];
	float4 *at;

	__device__ void load(const struct m2_cuda_mixer &m, int32_t slot, int32_t h)
	{
		const int32_t tid = (int32_t)threadIdx.x;
		at = (float4 *)(m.ssm + (size_t)slot * m.slot_floats +
				((size_t)h * P + (size_t)(tid >> 4) * 4) * N) +
		     (tid & 15);
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int k = 0; k < 2; k++) /* nobody reads it again in this step */
				s[i][k] = __ldcs(&at[i * (N / 4) + k * 16]);
	}
	__device__ void store() const
	{
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int k = 0; k < 2; k++)
				__stcs(&at[i * (N / 4) + k * 16], s[i][k]);
	}
	/* A part of C h in row threadIdx.x / 4: the sum over that row's four threads is all of it.  From
	 * step to step a thread keeps half of its rows, until one is left. */
	__device__ float times(const float4 *c) const
	{
		const int32_t lane = (int32_t)threadIdx.x & 31;
		const float4 c0 = c[lane & 15], c1 = c[(lane & 15) + 16];
		const bool high = (lane & 8) != 0, odd = (lane & 4) != 0;
		float v[4];
#pragma unroll
		for (int i = 0; i < 4; i++)
			v[i] = dot_of_four(c0, s[i][0]) + dot_of_four(c1, s[i][1]);
		const float even_row =
			(high ? v[2] : v[0]) + __shfl_xor_sync(0xffffffffu, high ? v[0] : v[2], 8);
		const float odd_row =
			(high ? v[3] : v[1]) + __shfl_xor_sync(0xffffffffu, high ? v[1] : v[3], 8);
		return (odd ? odd_row : even_row) +
		       __shfl_xor_sync(0xffffffffu, odd ? even_row : odd_row, 4);
	}
	/* After token 15 of a window; weights as of that token. */
	__device__ void fold(const struct shared_window &window, const float *weights)
	{
		const int32_t tid = (int32_t)threadIdx.x, q = tid & 15;
		const float all = weights[WINDOW];
#pragma unroll
		for (int i = 0; i < 4; i++)
#pragma unroll
			for (int k = 0; k < 2; k++)
				s[i][k] = make_float4(all * s[i][k].x, all * s[i][k].y,
					all * s[i][k].z, all * s[i][k].w);
#pragma unroll 2
		for (int j = 0; j < WINDOW; j++) {
			const float4 x4 = window.x[j][tid >> 4];
			const float w = weights[j];
			const float wx[4] = {w * x4.x, w * x4.y, w * x4.z, w * x4.w};
#pragma unroll
			for (int k = 0; k < 2; k++) {
				const float4 b4 = window.b[j][q + k * 16];
#pragma unroll
				for (int i = 0; i < 4; i++) {
					s[i][k].x = fmaf(wx[i], b4.x, s[i][k].x);
					s[i][k].y = fmaf(wx[i], b4.y, s[i][k].y);
					s[i][k].z = fmaf(wx[i], b4.z, s[i][k].z);
					s[i][k].w = fmaf(wx[i], b4.w, s[i][k].w);
				}
			}
		}
	}
};

/* By a warp, lane j having dt and decay of token j: w_j as of token r - 1, and w in lanes from WINDOW on. */
__device__ inline float weight_before(float2 step, int32_t r)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	float w = lane < WINDOW ? step.x : 1.0f;
	for (int32_t i = 0; i < r; i++) {
		const float decay = __shfl_sync(0xffffffffu, step.y, i);
		if (lane >= WINDOW || i > lane)
			w *= decay;
	}
	return w;
}
/* The same as of token r, whose step is given. */
__device__ inline float weight_after(float before, float2 step, int32_t r)
{
	return ((int32_t)threadIdx.x & 31) == r ? step.x : before * step.y;
}

/* y of row threadIdx.x / 4 but for D x, in all its four threads: C h of them, and of the window's tokens
 * the products that this thread added up. */
__device__ inline float all_of_row(float times, float weight, float replayed)
{
	float y = fmaf(weight, times, replayed);
	y += __shfl_xor_sync(0xffffffffu, y, 2);
	y += __shfl_xor_sync(0xffffffffu, y, 1);
	return y;
}

#endif
