/* ssd_outputs.cu - what the tokens of whole chunks give out_proj, from the state before each chunk.
 *
 * A block has one chunk and `heads` heads of one group; warp w has tokens 16 w to 16 w + 15.  C B^T is made
 * once, as far as it lies on or below the diagonal, and stays in registers; so the accumulators of one
 * product become the operand of the next.  All that needs no state is done before the wait for the kernel
 * that makes the states.  B's room in shared memory is then the first head's state; where there are more
 * heads, the next one's x and state arrive while this one's are used.
 */
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/ssd.cuh"

enum {
	ROW_PIECES = SSD_N / 8, /* of C, B and the state */
	X_PIECES = SSD_P / 8,
	TAKEN = STEPS_WEIGHT - STEPS_SUM, /* of the steps, floats */
	SIDE_WEIGHT = TAKEN,              /* [64] of the gated norm */
	SIDE_D = SIDE_WEIGHT + SSD_P,     /* [64], if it is per channel */
	SIDE_END = SIDE_D + SSD_P,
	/* shared memory, in pieces of 16 bytes */
	AT_C = 0,
	AT_FIRST = AT_C + SSD_CHUNK * ROW_PIECES, /* B, then a state */
	AT_X = AT_FIRST + SSD_CHUNK * ROW_PIECES,
	AT_SIDE = AT_X + SSD_CHUNK * X_PIECES,
	ALONE = AT_SIDE + SIDE_END / 4, /* enough for one head */
	AT_NEXT = ALONE,                /* the same again for every other head: state, x, side */
	AT_NEXT_X = AT_NEXT + SSD_P * ROW_PIECES,
	AT_NEXT_SIDE = AT_NEXT_X + SSD_CHUNK * X_PIECES,
	TOGETHER = AT_NEXT_SIDE + SIDE_END / 4
};

/* What a block has of one head; the two take turns. */
struct head_room {
	uint4 *state, *x, *side;
};
__device__ inline struct head_room room_of(uint4 *shared, int32_t turn)
{
	return (turn & 1) == 0
		       ? head_room{shared + AT_FIRST, shared + AT_X, shared + AT_SIDE}
		       : head_room{shared + AT_NEXT, shared + AT_NEXT_X, shared + AT_NEXT_SIDE};
}

/* Rows of C or B: 64 of 256 bytes. */
template <typename T>
__device__ inline void fetch_rows(
	const struct m2_cuda_mixer &m, uint4 *to, int32_t row, int32_t channel)
{
	each_of<SSD_CHUNK * ROW_PIECES>([&](int32_t k) {
		const int32_t t = k / ROW_PIECES, piece = k % ROW_PIECES;
		fetch_16(to + piece_of<ROW_PIECES>(t, piece),
			chunk_row<T>(m, row + t) + channel + piece * 8);
	});
}
template <typename T>
__device__ inline void fetch_x(
	const struct m2_cuda_mixer &m, struct head_room to, int32_t row, int32_t chunk, int32_t h)
{
	const int32_t tid = (int32_t)threadIdx.x;
	each_of<SSD_CHUNK * X_PIECES>([&](int32_t k) {
		const int32_t t = k / X_PIECES, piece = k % X_PIECES;
		fetch_16(to.x + piece_of<X_PIECES>(t, piece),
			chunk_row<T>(m, row + t) + h * SSD_P + piece * 8);
	});
	if (tid < TAKEN / 4)
		fetch_16(to.side + tid, steps_of(m, chunk, h) + tid * 4);
	if (tid < SSD_P / 4)
		fetch_16(to.side + SIDE_WEIGHT / 4 + tid, m.next.weight + h * SSD_P + tid * 4);
	else if (tid < SSD_P / 2 && m.d_per_channel)
		fetch_16(to.side + SIDE_D / 4 + tid - SSD_P / 4,
			m.d + h * SSD_P + (tid - SSD_P / 4) * 4);
}
template <typename T>
__device__ inline void fetch_state(
	const struct m2_cuda_mixer &m, struct head_room to, int32_t chunk, int32_t h)
{
	const T *from = state_before<T>(m, chunk, h);
	each_of<SSD_P * ROW_PIECES>([&](int32_t k) {
		fetch_16(to.state + piece_of<ROW_PIECES>(k / ROW_PIECES, k % ROW_PIECES),
			from + k * 8);
	});
}

/* C B^T of the warp's 16 tokens with tokens 0 to 16 w + 15: squares[j] is tile j of 8 columns. */
template <typename T>
__device__ inline void make_squares(float (&squares)[8][4], const uint4 *shared)
{
	const int32_t warp = (int32_t)threadIdx.x >> 5;
#pragma unroll
	for (int k = 0; k < SSD_N / 16; k++) {
		const uint4 a = load_a<ROW_PIECES>(shared + AT_C, warp * 16, k);
#pragma unroll
		for (int j = 0; j < 8; j += 2) {
			if (j > 2 * warp)
				continue;
			const uint4 b = load_b<ROW_PIECES>(shared + AT_FIRST, j * 8, k);
			multiply_add(squares[j], a, b.x, b.y, T());
			multiply_add(squares[j + 1], a, b.z, b.w, T());
		}
	}
}

/* Two neighbours of a row, weighted; from: s of the row, s and dt of the columns j and j + 1. */
__device__ inline float2 weigh_two(
	float a, float b, float sum, float2 sums, float2 dt, int32_t i, int32_t j)
{
	return make_float2(j <= i ? a * quick_exp(sum - sums.x) * dt.x : 0.0f,
		j + 1 <= i ? b * quick_exp(sum - sums.y) * dt.y : 0.0f);
}

/* y / dt_unit of the warp's tokens but for D x, as tiles of 8 columns. */
template <typename T>
__device__ inline void make_y(float (&y)[8][4], const float (&squares)[8][4], const uint4 *c,
	const struct head_room &room)
{
	const float *side = (const float *)room.side;
	const int32_t warp = (int32_t)threadIdx.x >> 5, q = (int32_t)threadIdx.x & 3;
	const int32_t i = warp * 16 + (((int32_t)threadIdx.x & 31) >> 2); /* and i + 8 */
	const float sum0 = side[STEPS_SUM + i], sum1 = side[STEPS_SUM + i + 8];
#pragma unroll
	for (int k = 0; k < SSD_N / 16; k++) {
		const uint4 a = load_a<ROW_PIECES>(c, warp * 16, k);
#pragma unroll
		for (int j = 0; j < 8; j += 2) {
			const uint4 b = load_b<ROW_PIECES>(room.state, j * 8, k);
			multiply_add(y[j], a, b.x, b.y, T());
			multiply_add(y[j + 1], a, b.z, b.w, T());
		}
	}
	const float back = state_unit<T>() / side[STEPS_DT_UNIT];
	const float scale0 = quick_exp(sum0) * back, scale1 = quick_exp(sum1) * back;
#pragma unroll
	for (int j = 0; j < 8; j++) {
		y[j][0] *= scale0, y[j][1] *= scale0;
		y[j][2] *= scale1, y[j][3] *= scale1;
	}
#pragma unroll
	for (int k = 0; k < SSD_CHUNK / 16; k++) {
		if (k > warp)
			continue;
		float2 v[4]; /* as A wants them */
#pragma unroll
		for (int part = 0; part < 4; part++) {
			const int tile = 2 * k + part / 2, at = part % 2 * 2;
			const int32_t j = tile * 8 + 2 * q;
			v[part] = weigh_two(squares[tile][at], squares[tile][at + 1],
				part % 2 == 0 ? sum0 : sum1,
				*(const float2 *)(side + STEPS_SUM + j),
				*(const float2 *)(side + STEPS_DT + j), i + part % 2 * 8, j);
		}
		const uint4 a = make_uint4(pack_two<T>(v[0].x, v[0].y), pack_two<T>(v[1].x, v[1].y),
			pack_two<T>(v[2].x, v[2].y), pack_two<T>(v[3].x, v[3].y));
#pragma unroll
		for (int j = 0; j < 8; j += 2) {
			const uint4 b = load_b_turned<X_PIECES>(room.x, j * 8, k);
			multiply_add(y[j], a, b.x, b.y, T());
			multiply_add(y[j + 1], a, b.z, b.w, T());
		}
	}
}

/* z of a thread's places, asked for before it is needed. */
struct gate_piece {
	float2 z[8][2];

	__device__ void load(const struct m2_cuda_mixer &m, int32_t row, int32_t channel)
	{
		const float *from = m.in_out + (size_t)row * (size_t)m.in_stride + (size_t)channel;
#pragma unroll
		for (int j = 0; j < 8; j++)
#pragma unroll
			for (int half = 0; half < 2; half++)
				z[j][half] =
					*(const float2 *)(from + j * 8 +
							  (size_t)(half * 8) * (size_t)m.in_stride);
	}
};

/* One of a thread's two rows: D x, gate, squares, the next product's input. */
template <typename T>
__device__ inline void leave_row(const struct m2_cuda_mixer &m, const float (&y)[8][4],
	const struct gate_piece &gate, const struct head_room &room, int32_t half, int32_t i,
	int32_t row, int32_t h)
{
	const float *side = (const float *)room.side;
	const float unit = side[STEPS_DT_UNIT], d_head = m.d_per_channel ? 0.0f : m.d[h];
	const int32_t q = (int32_t)threadIdx.x & 3;
	float squares = 0.0f;
	uint32_t out[8];
#pragma unroll
	for (int j = 0; j < 8; j++) {
		const int32_t p = j * 8 + 2 * q;
		const float2 x =
			unpack_two<T>(((const uint32_t *)(room.x + piece_of<X_PIECES>(i, j)))[q]);
		const float2 d = m.d_per_channel ? *(const float2 *)(side + SIDE_D + p)
						 : make_float2(d_head, d_head);
		const float2 w = *(const float2 *)(side + SIDE_WEIGHT + p);
		const float a =
			fmaf(unit, y[j][2 * half], d.x * x.x) * quick_silu(gate.z[j][half].x);
		const float b =
			fmaf(unit, y[j][2 * half + 1], d.y * x.y) * quick_silu(gate.z[j][half].y);
		squares = fmaf(a, a, squares);
		squares = fmaf(b, b, squares);
		out[j] = pack_two<T>(a * w.x * m.next.factor, b * w.y * m.next.factor);
	}
	squares += __shfl_xor_sync(0xffffffffu, squares, 1);
	squares += __shfl_xor_sync(0xffffffffu, squares, 2);
	if (q == 0)
		m.squares[(size_t)row * (size_t)m.heads + (size_t)h] = squares;
	T *to = (T *)m.next.to + (size_t)row * (size_t)m.next.stride + (size_t)(h * SSD_P + q * 8);
	*(uint4 *)to = turn_quad(out[0], out[1], out[2], out[3]);
	*(uint4 *)(to + 32) = turn_quad(out[4], out[5], out[6], out[7]);
}

template <typename T>
__global__ void __launch_bounds__(SSD_THREADS, 3)
	outputs_kernel(const struct m2_cuda_mixer m, int32_t heads)
{
	extern __shared__ uint4 shared[];
	const int32_t chunk = (int32_t)blockIdx.y, h0 = (int32_t)blockIdx.x * heads;
	const int32_t row = m.chunk_rows[chunk], group = h0 / (m.heads / m.groups);
	const int32_t lane = (int32_t)threadIdx.x & 31;
	const int32_t i = ((int32_t)threadIdx.x >> 5) * 16 + (lane >> 2);
	float squares[8][4] = {};

	/* the kernel before the previous one has ended, and it or an earlier one made all of this */
	fetch_rows<T>(m, shared + AT_C, row, m.d_ssm + (m.groups + group) * SSD_N);
	fetch_rows<T>(m, shared + AT_FIRST, row, m.d_ssm + group * SSD_N);
	end_fetches();
	fetch_x<T>(m, room_of(shared, 0), row, chunk, h0);
	end_fetches();
	await_fetches<1>();
	__syncthreads();
	make_squares<T>(squares, shared);
	__syncthreads(); /* B is no longer wanted */
	wait_for_previous();
	fetch_state<T>(m, room_of(shared, 0), chunk, h0);
	end_fetches();
	for (int32_t k = 0; k < heads; k++) {
		const int32_t h = h0 + k;
		const struct head_room room = room_of(shared, k);
		if (k + 1 < heads) {
			fetch_x<T>(m, room_of(shared, k + 1), row, chunk, h + 1);
			fetch_state<T>(m, room_of(shared, k + 1), chunk, h + 1);
		}
		end_fetches();
		struct gate_piece gate;
		gate.load(m, row + i, h * SSD_P + 2 * (lane & 3));
		await_fetches<1>();
		__syncthreads();
		float y[8][4] = {};
		make_y<T>(y, squares, shared + AT_C, room);
		leave_row<T>(m, y, gate, room, 0, i, row + i, h);
		leave_row<T>(m, y, gate, room, 1, i + 8, row + i + 8, h);
		__syncthreads(); /* this head's room is the one's after the next */
	}
}

/* As many heads to a block as leave every processor two blocks; the bits do not depend on it. */
static int32_t heads_of_block(const struct m2_cuda_mixer *mixer, int32_t chunks)
{
	const int32_t processors = device_limits().processors;
	for (int32_t heads = 4; heads > 1; heads--)
		if (mixer->heads / mixer->groups % heads == 0 &&
			(int64_t)chunks * (mixer->heads / heads) >= 2 * processors)
			return heads;
	return 1;
}

cudaError_t m2_cuda_ssd_outputs(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	const auto kernel = mixer->next.type == M2_DTYPE_F16 ? outputs_kernel<__half>
							     : outputs_kernel<__nv_bfloat16>;
	const int32_t heads = heads_of_block(mixer, spans->chunks);
	const size_t shared = (size_t)(heads == 1 ? ALONE : TOGETHER) * sizeof(uint4);
	const cudaError_t error =
		heads == 1 ? cudaSuccess
			   : cudaFuncSetAttribute(kernel,
				     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
	if (error != cudaSuccess)
		return error;
	return launch_early(kernel, dim3((unsigned)(mixer->heads / heads), (unsigned)spans->chunks),
		SSD_THREADS, shared, stream, *mixer, heads);
}
