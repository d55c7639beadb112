/* ssd_states.cu - the state before each whole chunk, and behind the last.
 *
 * A block walks the chunks of one sequence with 32 columns of one head's state; warp w has rows 16 w to
 * 16 w + 15, so 16 numbers to a thread, f32.  x and its piece of B come through a ring of shared memory,
 * two chunks ahead.  What bounds it is the time a chunk takes to pass (ssd.cuh).
 */
#include "kernels/cuda/ssd.cuh"

enum {
	COLUMNS = 32,
	STAGES = 3,
	X_PIECES = SSD_P / 8,
	B_PIECES = COLUMNS / 8,
	TAKEN = STEPS_END - STEPS_DT_UNIT, /* of the steps, floats */
	STAGE_X = 0,
	STAGE_B = SSD_CHUNK * X_PIECES,
	STAGE_STEPS = STAGE_B + SSD_CHUNK * B_PIECES,
	STAGE = STAGE_STEPS + TAKEN / 4 /* pieces of 16 bytes */
};

struct walk {
	int32_t h, group, n0;
	int32_t row, chunk; /* the first */
};

template <typename T>
__device__ inline void fetch_chunk(
	const struct m2_cuda_mixer &m, const struct walk &at, int32_t i, uint4 *stage)
{
	const int32_t tid = (int32_t)threadIdx.x;
	each_of<SSD_CHUNK * X_PIECES>([&](int32_t k) {
		const int32_t t = k / X_PIECES, piece = k % X_PIECES;
		fetch_16(stage + STAGE_X + piece_of<X_PIECES>(t, piece),
			chunk_row<T>(m, at.row + i * SSD_CHUNK + t) + at.h * SSD_P + piece * 8);
	});
	each_of<SSD_CHUNK * B_PIECES>([&](int32_t k) {
		const int32_t t = k / B_PIECES, piece = k % B_PIECES;
		fetch_16(stage + STAGE_B + piece_of<B_PIECES>(t, piece),
			chunk_row<T>(m, at.row + i * SSD_CHUNK + t) + m.d_ssm + at.group * SSD_N +
				at.n0 + piece * 8);
	});
	if (tid < TAKEN / 4)
		fetch_16(stage + STAGE_STEPS + tid,
			steps_of(m, at.chunk + i, at.h) + STEPS_DT_UNIT + tid * 4);
}

/* A thread's numbers, as the tensor core's C: tile j of 8 columns, rows r and r + 8 of its warp's 16. */
struct state_piece {
	float s[4][4];

	/* first: of row r and columns n0 + 2 q */
	__device__ void load(const float *first)
	{
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const float2 low = *(const float2 *)(first + j * 8);
			const float2 high = *(const float2 *)(first + j * 8 + 8 * SSD_N);
			s[j][0] = low.x, s[j][1] = low.y;
			s[j][2] = high.x, s[j][3] = high.y;
		}
	}
	__device__ void store(float *first) const
	{
#pragma unroll
		for (int j = 0; j < 4; j++) {
			*(float2 *)(first + j * 8) = make_float2(s[j][0], s[j][1]);
			*(float2 *)(first + j * 8 + 8 * SSD_N) = make_float2(s[j][2], s[j][3]);
		}
	}
	/* Rounded, to the same places of a copy; lane q ends with tile q. to: of row r and column n0. */
	template <typename T> __device__ void leave(T *to) const
	{
		const float scale = 1.0f / state_unit<T>();
		const int32_t q = (int32_t)threadIdx.x & 3;
#pragma unroll
		for (int i = 0; i < 2; i++) {
			uint32_t v[4];
#pragma unroll
			for (int j = 0; j < 4; j++)
				v[j] = pack_two<T>(s[j][2 * i] * scale, s[j][2 * i + 1] * scale);
			*(uint4 *)(to + i * 8 * SSD_N + q * 8) = turn_quad(v[0], v[1], v[2], v[3]);
		}
	}
	/* Over a chunk that lies in a stage: s = decay s + sum_j weight_j x_j B_j. */
	template <typename T> __device__ void pass(const uint4 *stage)
	{
		const float *steps = (const float *)(stage + STAGE_STEPS) - STEPS_DT_UNIT;
		const int32_t p0 = ((int32_t)threadIdx.x >> 5) * 16;
		const int32_t q = (int32_t)threadIdx.x & 3;
		float sum[4][4] = {};
#pragma unroll
		for (int k = 0; k < SSD_CHUNK / 16; k++) {
			const float *w = steps + STEPS_WEIGHT + k * 16 + 2 * q;
			const float2 near = *(const float2 *)w, far = *(const float2 *)(w + 8);
			uint4 a = load_a_turned<X_PIECES>(stage + STAGE_X, p0, k);
			a.x = weigh<T>(a.x, near);
			a.y = weigh<T>(a.y, near);
			a.z = weigh<T>(a.z, far);
			a.w = weigh<T>(a.w, far);
#pragma unroll
			for (int j = 0; j < 4; j += 2) {
				const uint4 b = load_b_turned<B_PIECES>(stage + STAGE_B, j * 8, k);
				multiply_add(sum[j], a, b.x, b.y, T());
				multiply_add(sum[j + 1], a, b.z, b.w, T());
			}
		}
		const float decay = steps[STEPS_DECAY], unit = steps[STEPS_WEIGHT_UNIT];
#pragma unroll
		for (int j = 0; j < 4; j++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				s[j][i] = fmaf(decay, s[j][i], unit * sum[j][i]);
	}
	template <typename T> __device__ static uint32_t weigh(uint32_t both, float2 w)
	{
		const float2 v = unpack_two<T>(both);
		return pack_two<T>(v.x * w.x, v.y * w.y);
	}
};

template <typename T>
__global__ void __launch_bounds__(SSD_THREADS) states_kernel(const struct m2_cuda_mixer m)
{
	__shared__ uint4 ring[STAGES][STAGE];
	const int32_t tid = (int32_t)threadIdx.x;
	const struct m2_cuda_item item = m.items[m.chunked[blockIdx.y]];
	struct walk at;
	at.h = (int32_t)blockIdx.x / (SSD_N / COLUMNS);
	at.n0 = (int32_t)blockIdx.x % (SSD_N / COLUMNS) * COLUMNS;
	at.group = at.h / (m.heads / m.groups);
	at.row = item.first + item.lead;
	at.chunk = item.first_chunk;
	const int32_t p = (tid >> 5) * 16 + ((tid & 31) >> 2);
	float *slot = m.ssm + (size_t)item.slot * m.slot_floats +
		      (size_t)(at.h * SSD_P + p) * SSD_N + (size_t)(at.n0 + 2 * (tid & 3));
	struct state_piece state;

	wait_for_previous();
	for (int32_t i = 0; i < STAGES - 1; i++) {
		if (i < item.chunks)
			fetch_chunk<T>(m, at, i, ring[i]);
		end_fetches();
	}
	state.load(slot);
	for (int32_t i = 0; i < item.chunks; i++) {
		await_fetches<STAGES - 2>();
		__syncthreads(); /* and all have left the stage before */
		if (i + STAGES - 1 < item.chunks)
			fetch_chunk<T>(m, at, i + STAGES - 1, ring[(i + STAGES - 1) % STAGES]);
		end_fetches();
		state.leave(state_before<T>(m, at.chunk + i, at.h) + p * SSD_N + at.n0);
		state.template pass<T>(ring[i % STAGES]);
	}
	state.store(slot);
}

cudaError_t m2_cuda_ssd_states(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	return launch_early(mixer->next.type == M2_DTYPE_F16 ? states_kernel<__half>
							     : states_kernel<__nv_bfloat16>,
		dim3((unsigned)(mixer->heads * (SSD_N / COLUMNS)), (unsigned)spans->chunked),
		SSD_THREADS, 0, stream, *mixer);
}
