/* product_wide.cu - W x for many rows x on Hopper: prefill.
 *
 * A block takes 128 rows of W, 64 to each of its two groups, and up to 192 rows of x, all columns.  Both
 * pass through a ring of stages of 64 columns.  Two sets of sums are kept in registers: of the run at hand,
 * and of the runs before; that is what limits the tile (192: 96 + 96 registers of a thread).
 *
 * Arithmetic, of a stage (128 x 192 x 64): 3.1 MFLOP, 768 clocks of the tensor cores at their peak, 1240
 * at what mma.sync reaches; 40 KB from L2, or 53 bytes a clock at the peak.  L2 gives some 30 to 35 to
 * every processor at once, so 192 rows of x are worth 55 to 65% of the peak, 128 rows 45 to 55%.  Shared
 * memory: wgmma reads x once per group (48 KB) and W once (16 KB), 40 KB are written: 830 clocks; mma.sync
 * reads W four times: 1200.  The groups meet nowhere but at the ring, so one's end of a run (two roundings
 * for each of 96 sums) is covered by the other's products.
 *
 * Blocks that follow each other share rows of W and differ in rows of x, some 2000 of them, which stay in
 * L2 while all of W passes; then come the next.
 */
#include "kernels/cuda/product_hopper.cuh"

enum {
	WIDE_ROWS = GROUPS * GROUP_ROWS,
	MOST_STAGES = 8,
	SPARE = 1024,
	BAND = 2048, /* rows of x that all of W passes by */
	BATCH = 32,  /* results of a thread; divides every core's COUNT */
	ASKERS = 4,  /* warps; a whole group, for only groups can hand registers over */
	WIDE_THREADS = MULTIPLIERS + 32 * ASKERS
};

template <int NT> struct wide_shape {
	enum {
		TOKENS = NT * 8,
		X_BYTES = TOKENS * X_ROW,
		STAGE = X_BYTES + GROUPS * SLAB_BYTES,
		REST = TOKENS * 8 * 4 + TOKENS * 4 + 2 * MOST_STAGES * 8, /* behind the stages */
		FIT = (227 * 1024 - SPARE - REST) / STAGE,
		STAGES = FIT < MOST_STAGES ? FIT : MOST_STAGES,
		SHARED = SPARE + STAGES * STAGE + REST
	};
};

#if __CUDA_ARCH__ >= 900

/* Where a block's tile begins. */
struct wide_place {
	int32_t row0, t0;

	__device__ wide_place(int32_t rows, int32_t m, int32_t tokens)
	{
		const int32_t row_blocks = (rows + WIDE_ROWS - 1) / WIDE_ROWS;
		const int32_t tiles = (m + tokens - 1) / tokens, band = BAND / tokens;
		const int32_t first = (int32_t)blockIdx.x / (band * row_blocks) * band;
		const int32_t in_band = (int32_t)blockIdx.x % (band * row_blocks);
		const int32_t width = tiles - first < band ? tiles - first : band;
		row0 = in_band / width * WIDE_ROWS;
		t0 = (first + in_band % width) * tokens;
	}
};

/* Slab after slab of all runs. */
struct walk {
	int32_t run, k, end, k_tiles;

	__device__ explicit walk(int32_t of) : run(-1), k(0), end(0), k_tiles(of)
	{
		advance();
	}
	/* To the first slab of the next run that has any. */
	__device__ void advance()
	{
		while (k >= end && ++run < RUNS)
			run_of(run, k_tiles, &k, &end);
	}
	__device__ bool there() const
	{
		return run < RUNS;
	}
	__device__ int32_t tiles() const
	{
		return end - k < SLAB ? end - k : SLAB;
	}
	__device__ void next()
	{
		k += SLAB;
		advance();
	}
};

template <int NT> struct wide_memory {
	unsigned char *stages;
	float *scales;   /* [8][TOKENS] */
	uint32_t *x_row; /* [TOKENS] */
	uint64_t *full, *empty;

	__device__ explicit wide_memory(unsigned char *shared)
	{
		using shape = wide_shape<NT>;
		stages = shared + ((SPARE - (shared_at(shared) & (SPARE - 1))) & (SPARE - 1));
		full = (uint64_t *)(stages + shape::STAGES * shape::STAGE);
		empty = full + MOST_STAGES;
		scales = (float *)(empty + MOST_STAGES);
		x_row = (uint32_t *)(scales + 8 * shape::TOKENS);
	}
};

/* 168 registers a thread at launch, of 65536 for 384 threads: the askers keep 40, the others have 232. */
static __device__ inline void give_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
#endif
}
static __device__ inline void take_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
#endif
}

static __device__ inline void askers_meet()
{
	asm volatile("bar.sync 2, %0;" ::"n"(32 * (int)ASKERS) : "memory");
}

/* Rows of x of a slab, by the warps that ask: 8 lanes to a row, a piece of 16 bytes each. */
template <typename T, int NT>
__device__ inline void ask_x(unsigned char *to, const struct m2_cuda_input &in,
	const uint32_t *x_row, int32_t k, int32_t tiles)
{
	const int32_t asker = (int32_t)threadIdx.x - MULTIPLIERS, piece = asker & 7;
	if (piece >= tiles * 2)
		return;
	const T *from = (const T *)in.x + (size_t)(k * 16 + piece * 8);
#pragma unroll 4
	for (int i = 0; i < NT * 2 / ASKERS; i++) {
		const int32_t t = (asker >> 3) + i * 4 * ASKERS;
		copy_16(to + t * X_ROW + ((piece ^ (t & 7)) << 4),
			from + (size_t)x_row[t] * (size_t)in.stride);
	}
}

/* The warps that ask: the first for W, all for x. */
template <typename T, int NT>
__device__ inline void wide_ask(const wide_memory<NT> &s, const uint4 *w,
	const struct m2_cuda_input &in, const wide_place &place, int32_t m, int32_t rows,
	int32_t k_tiles)
{
	using shape = wide_shape<NT>;
	const int32_t asker = (int32_t)threadIdx.x - MULTIPLIERS, t0 = place.t0;
	const int32_t row_tile = place.row0 / 16;
	const int32_t left = (rows + 15) / 16 - row_tile;
	const int32_t present = left < WIDE_ROWS / 16 ? left : WIDE_ROWS / 16;
	walk w_walk(k_tiles), x_walk(k_tiles);
	int32_t w_stage = 0;
	auto ask_w = [&]() {
		if (asker < 32)
			ask_slab(s.stages + w_stage * shape::STAGE + shape::X_BYTES, w, k_tiles,
				row_tile, present, w_walk.k, w_walk.tiles(), &s.full[w_stage]);
		w_stage = w_stage + 1 == shape::STAGES ? 0 : w_stage + 1;
		w_walk.next();
	};
	for (int i = 0; i < shape::STAGES && w_walk.there(); i++)
		ask_w(); /* weights depend on nobody */
	wait_for_previous();
	for (int32_t t = asker; t < shape::TOKENS; t += 32 * ASKERS) {
		const int32_t known = t0 + t < m ? t0 + t : m - 1; /* not used */
		s.x_row[t] = (uint32_t)(in.from != NULL ? in.from[known] : known);
	}
	askers_meet(); /* x_row is there */
	int32_t stage = 0;
	uint32_t parity = 1; /* of the use before: none in the first round */
	for (int32_t it = 0; x_walk.there(); it++) {
		if (it >= shape::STAGES) {
			wait_for(&s.empty[stage], parity);
			ask_w();
		}
		ask_x<T, NT>(
			s.stages + stage * shape::STAGE, in, s.x_row, x_walk.k, x_walk.tiles());
		arrive_with_copies(&s.full[stage]);
		x_walk.next();
		if (++stage == shape::STAGES) {
			stage = 0;
			parity ^= 1;
		}
	}
	wait_group<0>(); /* nothing is under way when the warp ends */
}

/* Results from the registers.  Elements e and e + 2 are eight rows apart, of the same row of x; what they
 * need is asked for many at a time, into the registers that the sums leave. */
template <class Core>
__device__ inline void wide_finish(const struct m2_cuda_output &out,
	const float (&total)[Core::COUNT], int32_t row0, int32_t rows, int32_t t0, int32_t m)
{
#pragma unroll
	for (int first = 0; first < Core::COUNT; first += BATCH) {
		struct ahead a[BATCH];
#pragma unroll
		for (int i = 0; i < BATCH; i++)
			a[i] = look_ahead(out, row0 + Core::row(first + i), rows,
				t0 + Core::token(first + i), m);
#pragma unroll
		for (int i = 0; i < BATCH; i++)
			if ((i & 2) == 0)
				finish_two(out, {total[first + i], total[first + i + 2]},
					{a[i], a[i + 2]}, row0 + Core::row(first + i), rows,
					t0 + Core::token(first + i), m);
	}
}

/* A group: all runs of its rows. */
template <class Core, int NT>
__device__ inline void wide_multiply(const wide_memory<NT> &s, const struct m2_cuda_input &in,
	const wide_place &place, int32_t m, int32_t rows, int32_t k_tiles,
	const struct m2_cuda_output &out)
{
	using shape = wide_shape<NT>;
	const int32_t thread = (int32_t)threadIdx.x, lane = thread & 31, t0 = place.t0;
	const int32_t group = thread / GROUP_THREADS, row0 = place.row0 + group * GROUP_ROWS;
	wait_for_previous();
	for (int32_t i = thread; i < shape::TOKENS * in.groups; i += MULTIPLIERS)
		s.scales[i] = row_scale(in, t0 + i % shape::TOKENS, i / shape::TOKENS, m);
	multipliers_meet(); /* the scales are there */
	Core core;
	float total[Core::COUNT];
	int32_t stage = 0;
	uint32_t parity = 0;
#pragma unroll
	for (int e = 0; e < Core::COUNT; e++)
		total[e] = -0.0f; /* and the first run's sum is that sum, to the bit */
#pragma unroll 1
	for (int32_t run = 0; run < RUNS; run++) {
		int32_t k, end;
		run_of(run, k_tiles, &k, &end);
		core.clear();
#pragma unroll 1
		for (; k < end; k += SLAB) {
			const unsigned char *x = s.stages + stage * shape::STAGE;
			wait_for(&s.full[stage], parity);
			Core::see();
			core.multiply(x + shape::X_BYTES + group * SLAB_BYTES, x,
				end - k < SLAB ? end - k : SLAB);
			if (lane == 0)
				arrive(&s.empty[stage]);
			if (++stage == shape::STAGES) {
				stage = 0;
				parity ^= 1;
			}
		}
		const float *scales = s.scales + group_of(in, run) * shape::TOKENS;
#pragma unroll
		for (int e = 0; e < Core::COUNT; e++) {
			const float scale = scales[Core::token(e)];
			total[e] = add_run(total[e], core.at(e), scale);
		}
	}
	wide_finish<Core>(out, total, row0, rows, t0, m);
}
#endif

/* Barriers: full[i] the asking threads with their copies of x, and one arrival for W's bytes; empty[i] one
 * lane of each multiplying warp, after the warp has read the stage.  A stage is written again
 * only after empty, read only after full; scales are written before multipliers_meet and never again. */
template <typename T, template <typename, int> class Core, int NT>
__global__ void __launch_bounds__(WIDE_THREADS, 1) product_wide_kernel(const uint4 *w,
	const __grid_constant__ struct m2_cuda_input input, int32_t m, int32_t rows,
	int32_t k_tiles, const __grid_constant__ struct m2_cuda_output out)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ unsigned char bytes[];
	const wide_memory<NT> s(bytes);
	const wide_place place(rows, m, NT * 8);
	if (threadIdx.x == MULTIPLIERS) {
		for (int i = 0; i < wide_shape<NT>::STAGES; i++) {
			barrier_init(&s.full[i], 32 * ASKERS + 1);
			barrier_init(&s.empty[i], MULTIPLIERS / 32);
		}
		barriers_made();
	}
	__syncthreads(); /* the barriers are there */
	if (threadIdx.x >= MULTIPLIERS) {
		give_registers();
		wide_ask<T, NT>(s, w, input, place, m, rows, k_tiles);
	} else {
		take_registers();
		wide_multiply<Core<T, NT>, NT>(s, input, place, m, rows, k_tiles, out);
	}
#endif
}

template <typename T, template <typename, int> class Core, int NT>
static cudaError_t launch_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const auto kernel = product_wide_kernel<T, Core, NT>;
	const size_t shared = wide_shape<NT>::SHARED;
	const cudaError_t error = allow_shared(kernel, shared);
	if (error != cudaSuccess)
		return error;
	const dim3 grid((unsigned)((m + NT * 8 - 1) / (NT * 8)) *
			(unsigned)((w->rows + WIDE_ROWS - 1) / WIDE_ROWS));
	return launch_early(kernel, grid, WIDE_THREADS, shared, stream, (const uint4 *)w->data, *in,
		m, w->rows, m2_cuda_pad(w->cols) / 16, *out);
}

bool m2_cuda_wide_runs()
{
	static const bool runs = [] {
		cudaFuncAttributes a;
		return device_limits().clusters && device_limits().shared >= 227 * 1024 &&
		       cudaFuncGetAttributes(&a,
			       product_wide_kernel<__nv_bfloat16, sync_core, 8>) == cudaSuccess &&
		       a.ptxVersion >= 90; /* else it was made for another, and is empty */
	}();
	return runs;
}

template <typename T>
static cudaError_t choose(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	switch (plan.tokens) {
	case 64:
		return plan.wgmma ? launch_wide<T, wgmma_core, 8>(stream, w, in, m, out)
				  : launch_wide<T, sync_core, 8>(stream, w, in, m, out);
	case 128:
		return plan.wgmma ? launch_wide<T, wgmma_core, 16>(stream, w, in, m, out)
				  : launch_wide<T, sync_core, 16>(stream, w, in, m, out);
	case 192:
		if (plan.wgmma)
			return launch_wide<T, wgmma_core, 24>(stream, w, in, m, out);
		[[fallthrough]];
	default:
		return cudaErrorInvalidValue;
	}
}

cudaError_t m2_cuda_product_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	return w->dtype == M2_DTYPE_F16 ? choose<__half>(stream, w, input, m, out, plan)
					: choose<__nv_bfloat16>(stream, w, input, m, out, plan);
}
