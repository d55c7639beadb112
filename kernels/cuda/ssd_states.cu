/* ssd_states.cu - the state before each whole chunk, and behind the last.
 *
 * A block walks the chunks of one sequence, a step of two or four at a time, with 32 or 64 columns of one
 * head's state.  What bounds it is the time a step takes to pass, so all that needs no state is spread:
 *
 *   - four warps do nothing but fetch: x and B of the chunks come through a ring of shared memory;
 *   - the sums over a step's chunks want no state.  A set is four warps, where warp w has rows 16 w to
 *     16 w + 15, so 16 or 32 numbers to a thread, f32.  Where heads are few, each set sums another chunk of
 *     the step, the sums are exchanged through shared memory, and every set carries the same state: two to
 *     four fused sums a number and step are all that hangs on the step before.
 *   - each set then leaves the state before its own chunk.
 *
 * Where heads are many the processors are busy anyway, and instructions and the L2 count: one set has 64
 * columns and sums both chunks, so x is read and weighted half as often.  The bits are the same in all forms.  (One
 * set that fetched, summed and left a chunk at a time took 1.1 us a chunk on an H200.)
 */
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/ssd.cuh"

enum {
	FETCHERS = SSD_THREADS,
	X_PIECES = SSD_P / 8,
	TAKEN = STEPS_END - STEPS_DT_UNIT /* of the steps, floats */
};

/* Sets: how many chunks of a step are summed side by side.  Sizes in pieces of 16 bytes. */
template <int Columns, int Sets> struct form {
	enum {
		CHUNKS = Sets > 2 ? Sets : 2, /* of a step */
		RING = 3,                     /* steps */
		OWN = CHUNKS / Sets,          /* that a set sums */
		TILES = Columns / 8,          /* of a thread, in the columns */
		B_PIECES = TILES,
		X = 0,
		B = SSD_CHUNK * X_PIECES,
		STEPS = B + SSD_CHUNK * B_PIECES,
		SIZE = STEPS + TAKEN / 4, /* of a chunk */
		MULTIPLYING = SSD_THREADS * Sets,
		THREADS = MULTIPLYING + FETCHERS,
		SUMS = RING * CHUNKS * SIZE, /* exchanged: [chunk][TILES][SSD_THREADS] */
		SHARED = (SUMS + (Sets > 1 ? Sets * TILES * SSD_THREADS : 0)) * 16
	};
	static_assert(Sets == 1 || OWN == 1, "a set to a chunk, or all of them");
};

struct walk {
	int32_t h, group, n0;
	int32_t row, chunk; /* the first */
};

/* 0, 1, ... Count - 1, 0 and so on. */
template <int Count> struct turns {
	int32_t at = 0;

	__device__ void next()
	{
		at = at + 1 < Count ? at + 1 : 0;
	}
};

/* One of the FETCHERS: where its pieces of the next chunk come from, and where they go in a stage.  A row's
 * pieces are permuted by the row's lowest bits, so rows a round apart have them in the same order. */
template <typename T, class shape> struct fetcher {
	enum {
		X_ROWS = FETCHERS / X_PIECES, /* of a round */
		B_ROWS = FETCHERS / shape::B_PIECES
	};
	static_assert((int)X_ROWS % 8 == 0 && (int)B_ROWS % 8 == 0, "as the permutation wants it");
	const char *x, *b, *steps;
	int64_t row_bytes, steps_bytes; /* to the next row, the next chunk */
	int32_t tid, x_to, b_to, left;  /* chunks to come */
	turns<shape::RING * shape::CHUNKS> to;

	__device__ fetcher(const struct m2_cuda_mixer &m, const struct walk &at, int32_t chunks)
	    : left(chunks)
	{
		tid = (int32_t)threadIdx.x - shape::MULTIPLYING;
		const int32_t x_row = tid / X_PIECES, x_piece = tid % X_PIECES;
		const int32_t b_row = tid / shape::B_PIECES, b_piece = tid % shape::B_PIECES;
		x = (const char *)(chunk_row<T>(m, at.row + x_row) + at.h * SSD_P + x_piece * 8);
		b = (const char *)(chunk_row<T>(m, at.row + b_row) + m.d_ssm + at.group * SSD_N +
				   at.n0 + b_piece * 8);
		steps = (const char *)(steps_of(m, at.chunk, at.h) + STEPS_DT_UNIT + tid * 4);
		row_bytes = (int64_t)m.channels * (int64_t)sizeof(float);
		steps_bytes = (int64_t)m.heads * M2_CUDA_STEPS * (int64_t)sizeof(float);
		x_to = shape::X + piece_of<X_PIECES>(x_row, x_piece);
		b_to = shape::B + piece_of<shape::B_PIECES>(b_row, b_piece);
	}
	__device__ void fetch_chunk(uint4 *stage)
	{
		const char *from = x;
#pragma unroll
		for (int k = 0; k < SSD_CHUNK / X_ROWS; k++, from += X_ROWS * row_bytes)
			fetch_16(stage + x_to + k * X_ROWS * X_PIECES, from);
		from = b;
#pragma unroll
		for (int k = 0; k < SSD_CHUNK / B_ROWS; k++, from += B_ROWS * row_bytes)
			fetch_16(stage + b_to + k * B_ROWS * shape::B_PIECES, from);
		if (tid < TAKEN / 4)
			fetch_16(stage + shape::STEPS + tid, steps);
		x += SSD_CHUNK * row_bytes;
		b += SSD_CHUNK * row_bytes;
		steps += steps_bytes;
	}
	/* The next step, as far as there are chunks; in any case another group of fetches. */
	__device__ void fetch_step(uint4 *ring)
	{
		for (int32_t k = 0; k < shape::CHUNKS && left > 0; k++, left--, to.next())
			fetch_chunk(ring + to.at * shape::SIZE);
		end_fetches();
	}
};

/* A thread's numbers, as the tensor core's C: tile j of 8 columns, rows r and r + 8 of its warp's 16. */
template <int Tiles> struct state_piece {
	float s[Tiles][4];

	/* first: of row r and columns n0 + 2 q */
	__device__ void load(const float *first)
	{
#pragma unroll
		for (int j = 0; j < Tiles; j++) {
			const float2 low = *(const float2 *)(first + j * 8);
			const float2 high = *(const float2 *)(first + j * 8 + 8 * SSD_N);
			s[j][0] = low.x, s[j][1] = low.y;
			s[j][2] = high.x, s[j][3] = high.y;
		}
	}
	__device__ void store(float *first) const
	{
#pragma unroll
		for (int j = 0; j < Tiles; j++) {
			*(float2 *)(first + j * 8) = make_float2(s[j][0], s[j][1]);
			*(float2 *)(first + j * 8 + 8 * SSD_N) = make_float2(s[j][2], s[j][3]);
		}
	}
	/* Rounded, to the same places of a copy; of four tiles lane q ends with tile q. to: of row r and
	 * column n0. */
	template <typename T> __device__ void leave(T *to) const
	{
		const float scale = 1.0f / state_unit<T>();
		const int32_t q = (int32_t)threadIdx.x & 3;
#pragma unroll
		for (int i = 0; i < 2 * (Tiles / 4); i++) {
			const int half = i % 2, first = i / 2 * 4;
			uint32_t v[4];
#pragma unroll
			for (int j = 0; j < 4; j++)
				v[j] = pack_two<T>(s[first + j][2 * half] * scale,
					s[first + j][2 * half + 1] * scale);
			*(uint4 *)(to + half * 8 * SSD_N + (first + q) * 8) =
				turn_quad(v[0], v[1], v[2], v[3]);
		}
	}
	/* Over a chunk: s = decay s + sum. */
	__device__ void pass(const float (&sum)[Tiles][4], const float *steps)
	{
		const float decay = steps[STEPS_DECAY], unit = steps[STEPS_WEIGHT_UNIT];
#pragma unroll
		for (int j = 0; j < Tiles; j++)
#pragma unroll
			for (int i = 0; i < 4; i++)
				s[j][i] = fmaf(decay, s[j][i], unit * sum[j][i]);
	}
};

template <typename T> __device__ inline uint32_t weigh(uint32_t both, float2 w)
{
	const float2 v = unpack_two<T>(both);
	return pack_two<T>(v.x * w.x, v.y * w.y);
}

/* sum_j weight_j x_j B_j of a chunk's stage, at the thread's places. */
template <typename T, class shape>
__device__ inline void sum_chunk(
	float (&sum)[shape::TILES][4], const uint4 *stage, const float *steps, int32_t p0)
{
	const int32_t q = (int32_t)threadIdx.x & 3;
#pragma unroll
	for (int k = 0; k < SSD_CHUNK / 16; k++) {
		const float *w = steps + STEPS_WEIGHT + k * 16 + 2 * q;
		const float2 near = *(const float2 *)w, far = *(const float2 *)(w + 8);
		uint4 a = load_a_turned<X_PIECES>(stage + shape::X, p0, k);
		a.x = weigh<T>(a.x, near);
		a.y = weigh<T>(a.y, near);
		a.z = weigh<T>(a.z, far);
		a.w = weigh<T>(a.w, far);
#pragma unroll
		for (int j = 0; j < shape::TILES; j += 2) {
			const uint4 b = load_b_turned<shape::B_PIECES>(stage + shape::B, j * 8, k);
			multiply_add(sum[j], a, b.x, b.y, T());
			multiply_add(sum[j + 1], a, b.z, b.w, T());
		}
	}
}

/* Among the sets, but not those who fetch. */
template <class shape> __device__ inline void sets_meet()
{
	asm volatile("bar.sync 1, %0;" ::"n"((int)shape::MULTIPLYING) : "memory");
}

/* A thread's sums, to and from the other sets. */
template <int Tiles> __device__ inline void give_sums(uint4 *to, const float (&sum)[Tiles][4])
{
#pragma unroll
	for (int j = 0; j < Tiles; j++)
		((float4 *)to)[j * SSD_THREADS] =
			make_float4(sum[j][0], sum[j][1], sum[j][2], sum[j][3]);
}
template <int Tiles> __device__ inline void take_sums(float (&sum)[Tiles][4], const uint4 *from)
{
#pragma unroll
	for (int j = 0; j < Tiles; j++) {
		const float4 v = ((const float4 *)from)[j * SSD_THREADS];
		sum[j][0] = v.x, sum[j][1] = v.y, sum[j][2] = v.z, sum[j][3] = v.w;
	}
}

/* A thread of the warps that multiply. */
template <typename T, class shape> struct walker {
	static constexpr bool shared_out =
		shape::OWN < shape::CHUNKS; /* a step's chunks, by the sets */
	struct state_piece<shape::TILES> state;
	float *slot;
	T *before; /* where the state before the next chunk goes */
	int32_t p0, own;
	size_t state_size; /* of a chunk */
	turns<shape::RING> turn;

	__device__ walker(const struct m2_cuda_mixer &m, const struct walk &at, int32_t in_slot)
	{
		const int32_t lane = (int32_t)threadIdx.x & 31, warp = (int32_t)threadIdx.x >> 5;
		p0 = warp % 4 * 16;
		own = shared_out ? warp / 4 : 0;
		const int32_t p = p0 + (lane >> 2);
		state_size = (size_t)m.heads * (SSD_P * SSD_N);
		slot = m.ssm + (size_t)in_slot * m.slot_floats +
		       (size_t)(at.h * SSD_P + p) * SSD_N + (size_t)(at.n0 + 2 * (lane & 3));
		before = state_before<T>(m, at.chunk, at.h) + p * SSD_N + at.n0;
	}
	/* A step of `chunks` chunks that lies in the ring. */
	__device__ void step(uint4 *ring, int32_t chunks)
	{
		const uint4 *stage = ring + turn.at * shape::CHUNKS * shape::SIZE;
		const float *steps = (const float *)(stage + shape::STEPS) - STEPS_DT_UNIT;
		uint4 *sums = ring + shape::SUMS + (threadIdx.x & (SSD_THREADS - 1));
		float sum[shape::OWN][shape::TILES][4] = {};
#pragma unroll
		for (int k = 0; k < shape::OWN; k++)
			if (own + k < chunks)
				sum_chunk<T, shape>(sum[k], stage + (own + k) * shape::SIZE,
					steps + (own + k) * shape::SIZE * 4, p0);
		if (shared_out) {
			give_sums(sums + own * shape::TILES * SSD_THREADS, sum[0]);
			sets_meet<shape>();
		}
#pragma unroll
		for (int k = 0; k < shape::CHUNKS; k++) {
			if (k >= chunks)
				break;
			if (!shared_out || k == own)
				state.leave(before + (size_t)k * state_size);
			if (shared_out)
				take_sums(sum[0], sums + k * shape::TILES * SSD_THREADS);
			state.pass(sum[shared_out ? 0 : k], steps + k * shape::SIZE * 4);
		}
		before += shape::CHUNKS * state_size;
		turn.next();
	}
};

template <typename T, int Columns, int Sets>
__global__ void __launch_bounds__((form<Columns, Sets>::THREADS), Sets > 2 ? 1 : 2)
	states_kernel(const struct m2_cuda_mixer m)
{
	using shape = form<Columns, Sets>;
	extern __shared__ uint4 ring[];
	const struct m2_cuda_item item = m.items[m.chunked[blockIdx.y]];
	struct walk at;
	at.h = (int32_t)blockIdx.x / (SSD_N / Columns);
	at.n0 = (int32_t)blockIdx.x % (SSD_N / Columns) * Columns;
	at.group = at.h / (m.heads / m.groups);
	at.row = item.first + item.lead;
	at.chunk = item.first_chunk;
	wait_for_previous();
	const bool fetches = threadIdx.x >= shape::MULTIPLYING;
	struct fetcher<T, shape> fetcher(m, at, item.chunks);
	struct walker<T, shape> walker(m, at, item.slot);
	if (fetches)
		for (int i = 0; i < shape::RING - 1; i++)
			fetcher.fetch_step(ring);
	else
		walker.state.load(walker.slot);
	for (int32_t left = item.chunks; left > 0; left -= shape::CHUNKS) {
		if (fetches)
			await_fetches<shape::RING - 2>();
		__syncthreads(); /* the step has come, and all have left the one before */
		if (fetches)
			fetcher.fetch_step(ring);
		else
			walker.step(ring, left < shape::CHUNKS ? left : shape::CHUNKS);
	}
	if (!fetches && walker.own == 0)
		walker.state.store(walker.slot);
}

template <typename T, int Columns, int Sets>
static cudaError_t launch_states(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	using shape = form<Columns, Sets>;
	const auto kernel = states_kernel<T, Columns, Sets>;
	const cudaError_t error = cudaFuncSetAttribute(
		kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape::SHARED);
	if (error != cudaSuccess)
		return error;
	return launch_early(kernel,
		dim3((unsigned)(mixer->heads * (SSD_N / Columns)), (unsigned)spans->chunked),
		shape::THREADS, shape::SHARED, stream, *mixer);
}

/* Four sets where a processor has one block of 32 columns at most, two where it has two. */
template <typename T>
static cudaError_t choose_states(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	const int64_t blocks = (int64_t)mixer->heads * spans->chunked * (SSD_N / 32);
	const struct limits &device = device_limits();
	if (blocks > 2 * device.processors)
		return launch_states<T, 64, 1>(stream, mixer, spans);
	if (blocks > device.processors || device.shared < (int)form<32, 4>::SHARED)
		return launch_states<T, 32, 2>(stream, mixer, spans);
	return launch_states<T, 32, 4>(stream, mixer, spans);
}

cudaError_t m2_cuda_ssd_states(
	cudaStream_t stream, const struct m2_cuda_mixer *mixer, const struct m2_cuda_spans *spans)
{
	return mixer->next.type == M2_DTYPE_F16
		       ? choose_states<__half>(stream, mixer, spans)
		       : choose_states<__nv_bfloat16>(stream, mixer, spans);
}
