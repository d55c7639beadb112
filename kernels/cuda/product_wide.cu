/* product_wide.cu - W x for some to many rows x on Hopper: prompts, and large batches.
 *
 * A block stays and does one tile after another: 128 rows of W, 64 to each of its two groups, by up to 192
 * rows of x, all columns.  W and x pass through a ring of stages of 64 columns, W by bulk copies (its tiles
 * are runs of memory, launch.h), x by tensor copies, which leave it in the 128-byte swizzle that wgmma
 * reads: nobody but the copy engine touches it.  Two blocks of a cluster take different rows of W and the
 * same of x, and each brings half of x for both.  Two sets of sums are kept in registers: of the run at
 * hand, and of the runs before; that is what limits the tile (192: 96 + 96 registers of a thread).
 *
 * Of a block's three groups of warps two multiply; of the third, one warp asks for what they need, and the
 * others make the scales of the tile's rows of x.  The ring goes on across tiles, so a tile's first stages
 * arrive while the last one's results are written, and as the groups meet nowhere but at the ring, one's
 * results and ends of runs are covered by the other's products.
 *
 * Arithmetic, of a stage (128 x 192 x 64): 3.1 MFLOP, 768 clocks of the tensor cores at their peak; 40 KB
 * from L2, or 28 KB with x shared: 53 or 37 bytes a clock at the peak, where L2 gives some 30 to 35 to
 * every processor at once.  Shared memory: wgmma reads x once per group (48 KB), W is read once (16 KB),
 * 40 KB are written: 830 clocks.
 *
 * Blocks that follow each other share rows of W and differ in rows of x, some 2000 of them, which stay in
 * L2 while all of W passes; then come the next.
 */
#include <cuda.h>

#include "kernels/cuda/product_hopper.cuh"

enum {
	WIDE_ROWS = GROUPS * GROUP_ROWS,
	MOST_STAGES = 8,
	SPARE = 1024,
	BAND = 2048, /* rows of x that all of W passes by */
	BATCH = 16, /* results of a thread that are finished at a time; divides every core's COUNT */
	BOX = 32,   /* rows of x that a tensor copy brings */
	BOX_BYTES = BOX * X_ROW,
	SCALERS = 3, /* warps beside the one that asks */
	WIDE_THREADS = MULTIPLIERS + 32 * (1 + SCALERS)
};

template <int NT> struct wide_shape {
	enum {
		TOKENS = NT * 8,
		X_BYTES = TOKENS * X_ROW,
		STAGE = X_BYTES + GROUPS * SLAB_BYTES,
		SCALES = 2 * 8 * TOKENS * 4,               /* two tiles, eight groups */
		REST = SCALES + (2 * MOST_STAGES + 4) * 8, /* behind the stages */
		FIT = (227 * 1024 - SPARE - REST) / STAGE,
		STAGES = FIT < MOST_STAGES ? FIT : MOST_STAGES,
		SHARED = SPARE + STAGES * STAGE + REST
	};
};

/* What is to be done, the same for all blocks. */
struct wide_job {
	int32_t m, rows, k_tiles;
	int32_t row_units; /* of Cluster * WIDE_ROWS rows of W */
	int32_t sets;      /* of TOKENS rows of x */
};

/* How the copy engine finds the operands: W as [row tiles][tiles of columns][256], x as [m][columns]. */
struct wide_maps {
	CUtensorMap w, x;
};

#if __CUDA_ARCH__ >= 900

/* Where tile number `i` begins, and whether there is one. */
template <int NT, int Cluster> struct wide_place {
	int32_t row0, t0;

	__device__ static int32_t first()
	{
		return (int32_t)blockIdx.x / Cluster;
	}
	__device__ static int32_t step()
	{
		return (int32_t)gridDim.x / Cluster;
	}
	__device__ wide_place(const struct wide_job &job, int32_t i)
	{
		const int32_t band = BAND / (NT * 8), in_bands = band * job.row_units;
		const int32_t set0 = i / in_bands * band, in_band = i % in_bands;
		const int32_t width = job.sets - set0 < band ? job.sets - set0 : band;
		const int32_t unit = in_band / width;
		row0 = (unit * Cluster + (int32_t)blockIdx.x % Cluster) * WIDE_ROWS;
		t0 = (set0 + in_band % width) * NT * 8;
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

/* A stage of the ring and the parity of its use. */
template <int Stages> struct turn {
	int32_t stage = 0;
	uint32_t parity = 0;

	__device__ void next()
	{
		if (++stage == Stages) {
			stage = 0;
			parity ^= 1;
		}
	}
};

template <int NT> struct wide_memory {
	unsigned char *stages;
	float *scales; /* [2][8][TOKENS] */
	uint64_t *full, *empty, *scaled, *unscaled;

	__device__ explicit wide_memory(unsigned char *shared)
	{
		using shape = wide_shape<NT>;
		stages = shared + ((SPARE - (shared_at(shared) & (SPARE - 1))) & (SPARE - 1));
		full = (uint64_t *)(stages + shape::STAGES * shape::STAGE);
		empty = full + MOST_STAGES;
		scaled = empty + MOST_STAGES;
		unscaled = scaled + 2;
		scales = (float *)(unscaled + 2);
	}
};

/* 168 registers a thread at launch, of 65536 for 384 threads: the others keep 56, who multiplies has 224. */
static __device__ inline void give_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
#endif
}
static __device__ inline void take_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
#endif
}

/* One slab of a tile, by one thread: an instruction for W and one for x, for each costs that thread some
 * 120 clocks.  Of x, each block of a cluster brings a part for all. */
template <int NT, int Cluster> struct wide_asker {
	using shape = wide_shape<NT>;
	enum { PART = NT * 8 / Cluster };
	const wide_memory<NT> &s;
	const struct wide_maps &maps;

	__device__ void ask_w(const wide_place<NT, Cluster> &place, int32_t k, int32_t stage) const
	{
		arrive_expecting(&s.full[stage], (uint32_t)shape::STAGE);
		asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::"
			     "complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
				     shared_at(s.stages + stage * shape::STAGE + shape::X_BYTES)),
			     "l"(&maps.w), "r"(0), "r"(k), "r"(place.row0 / 16),
			     "r"(shared_at(&s.full[stage]))
			     : "memory");
	}
	__device__ void ask_x(const wide_place<NT, Cluster> &place, int32_t k, int32_t stage) const
	{
		const int32_t part = (int32_t)blockIdx.x % Cluster * PART;
		const uint32_t to = shared_at(s.stages + stage * shape::STAGE + part * X_ROW);
		if (Cluster == 1)
			asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile."
				     "mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
				     "[%4];" ::"r"(to),
				     "l"(&maps.x), "r"(k * 16), "r"(place.t0 + part),
				     "r"(shared_at(&s.full[stage]))
				     : "memory");
		else
			asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile."
				     "mbarrier::complete_tx::bytes.multicast::cluster [%0], "
				     "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
				     "l"(&maps.x), "r"(k * 16), "r"(place.t0 + part),
				     "r"(shared_at(&s.full[stage])),
				     "h"((uint16_t)((1 << Cluster) - 1))
				     : "memory");
	}
};

/* The warp whose first thread asks.  W's first stages are asked for before x is there: weights depend on nobody. */
template <int NT, int Cluster>
static __device__ inline void wide_ask(
	const wide_memory<NT> &s, const struct wide_maps &maps, const struct wide_job &job)
{
	using shape = wide_shape<NT>;
	using place_t = wide_place<NT, Cluster>;
	const wide_asker<NT, Cluster> asker = {s, maps};
	const int32_t tiles = job.row_units * job.sets;
	turn<shape::STAGES> at;
	const bool asks = threadIdx.x == MULTIPLIERS;
	int32_t early = 0;
	if (asks) {
		const place_t place(job, place_t::first());
		for (walk slab(job.k_tiles); slab.there() && early < shape::STAGES; slab.next())
			asker.ask_w(place, slab.k, early++);
	}
	wait_for_previous(); /* the whole warp: the next kernel may begin when all have come here */
	for (int32_t i = place_t::first(); asks && i < tiles; i += place_t::step()) {
		const place_t place(job, i);
		for (walk slab(job.k_tiles); slab.there(); slab.next(), at.next()) {
			if (early > 0) {
				early--;
			} else {
				wait_for(&s.empty[at.stage], at.parity ^ 1);
				asker.ask_w(place, slab.k, at.stage);
			}
			asker.ask_x(place, slab.k, at.stage);
		}
	}
}

/* The warps that make scales, two tiles ahead at most. */
template <int NT, int Cluster>
static __device__ inline void wide_scale(
	const wide_memory<NT> &s, const struct m2_cuda_input &in, const struct wide_job &job)
{
	using place_t = wide_place<NT, Cluster>;
	const int32_t tiles = job.row_units * job.sets, tokens = NT * 8;
	const int32_t scaler = (int32_t)threadIdx.x - MULTIPLIERS - 32;
	turn<2> at;
	wait_for_previous();
	for (int32_t i = place_t::first(); i < tiles; i += place_t::step(), at.next()) {
		const place_t place(job, i);
		wait_for(&s.unscaled[at.stage], at.parity ^ 1);
		float *scales = s.scales + at.stage * 8 * tokens;
#pragma unroll 1
		for (int32_t j = scaler; j < tokens * in.groups; j += 32 * SCALERS)
			scales[j] = row_scale<4>(in, place.t0 + j % tokens, j / tokens, job.m);
		arrive(&s.scaled[at.stage]);
	}
}

/* Results from the registers.  Elements e and e + 2 are eight rows apart, of the same row of x; what they
 * need is asked for many at a time. */
template <class Core>
static __device__ inline void wide_finish(const struct m2_cuda_output &out,
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

/* The two outputs of a layer, of a tile that is whole, without a question for each number: */
enum wide_ends {
	WIDE_ANY,      /* wide_finish */
	WIDE_PLAIN,    /* results as they are: in_proj, head */
	WIDE_RESIDUAL, /* added to what stands there, the next product's input and squares: out_proj */
};
static __device__ inline enum wide_ends wide_ends_of(
	const struct m2_cuda_output &out, enum m2_dtype type, bool whole)
{
	if (!whole || out.bias != NULL)
		return WIDE_ANY;
	if (!out.add && out.squares == NULL && out.next.to == NULL)
		return WIDE_PLAIN;
	return out.add && out.squares != NULL && out.next.to != NULL && out.next.type == type
		       ? WIDE_RESIDUAL
		       : WIDE_ANY;
}

/* `to` is of element 0, whose neighbours in the order of Core are at +stride, +8 and +8 stride. */
template <class Core>
static __device__ inline void wide_finish_plain(
	const struct m2_cuda_output &out, const float (&total)[Core::COUNT], int32_t row, int32_t t)
{
	const size_t stride = (size_t)out.stride;
	float *to = out.to + (size_t)t * stride + (size_t)row;
#pragma unroll
	for (int e = 0; e < Core::COUNT; e += 4, to += 8 * stride) {
		to[0] = total[e];
		to[stride] = total[e + 1];
		to[8] = total[e + 2];
		to[stride + 8] = total[e + 3];
	}
}

template <typename T, class Core>
static __device__ inline void wide_finish_residual(const struct m2_cuda_output &out,
	const float (&total)[Core::COUNT], int32_t row, int32_t rows, int32_t t)
{
	const size_t stride = (size_t)out.stride, next_stride = (size_t)out.next.stride;
	float *to = out.to + (size_t)t * stride + (size_t)row;
	T *next = (T *)out.next.to + (size_t)t * next_stride + (size_t)row;
	float *squares = out.squares + (size_t)t * (size_t)(rows / 16) + (size_t)(row / 16);
	const float weight[2] = {out.next.weight[row], out.next.weight[row + 8]};
#pragma unroll
	for (int first = 0; first < Core::COUNT; first += BATCH) {
		float before[BATCH];
#pragma unroll
		for (int i = 0; i < BATCH;
			i++) /* i / 4 eights of rows of x, i & 1 one, i & 2 of W */
			before[i] =
				to[(size_t)(i / 4 * 8 + (i & 1)) * stride + (size_t)((i & 2) * 4)];
#pragma unroll
		for (int i = 0; i < BATCH; i++) {
			if ((i & 2) != 0)
				continue;
			const size_t t_of = (size_t)(i / 4 * 8 + (i & 1));
			const float low = before[i] + total[first + i];
			const float high = before[i + 2] + total[first + i + 2];
			to[t_of * stride] = low;
			to[t_of * stride + 8] = high;
			next[t_of * next_stride] = from_float<T>(low * weight[0] * out.next.factor);
			next[t_of * next_stride + 8] =
				from_float<T>(high * weight[1] * out.next.factor);
			float square = __fadd_rn(__fmul_rn(low, low), __fmul_rn(high, high));
			for (int step = 16; step >= 4; step >>= 1)
				square += __shfl_xor_sync(0xffffffffu, square, step);
			if ((row & 15) == 0)
				squares[t_of * (size_t)(rows / 16)] = square;
		}
		to += BATCH * 2 * stride;
		next += BATCH * 2 * next_stride;
		squares += (size_t)(BATCH * 2) * (size_t)(rows / 16);
	}
}

template <typename T> static __device__ inline enum m2_dtype wide_type();
template <> __device__ inline enum m2_dtype wide_type<__half>() { return M2_DTYPE_F16; }
template <> __device__ inline enum m2_dtype wide_type<__nv_bfloat16>() { return M2_DTYPE_BF16; }

/* A group: its rows of every tile of the block. */
template <typename T, int NT, int Cluster>
static __device__ inline void wide_multiply(const wide_memory<NT> &s,
	const struct m2_cuda_input &in, const struct wide_job &job,
	const struct m2_cuda_output &out)
{
	using shape = wide_shape<NT>;
	using place_t = wide_place<NT, Cluster>;
	using Core = wgmma_core<T, NT>;
	using operands = typename Core::operands;
	const int32_t group = (int32_t)threadIdx.x / GROUP_THREADS;
	const int32_t lane = (int32_t)threadIdx.x & 31, tiles = job.row_units * job.sets;
	turn<shape::STAGES> at;
	turn<2> scaled;
	wait_for_previous();
	for (int32_t i = place_t::first(); i < tiles; i += place_t::step(), scaled.next()) {
		const place_t place(job, i);
		Core core;
		float total[Core::COUNT];
#pragma unroll
		for (int e = 0; e < Core::COUNT; e++)
			total[e] = -0.0f; /* and the first run's sum is that sum, to the bit */
#pragma unroll 1
		for (int32_t run = 0; run < RUNS; run++) {
			int32_t k, end;
			run_of(run, job.k_tiles, &k, &end);
			core.clear();
			core.settle();
			/* two slabs under way: a group's products do not wait for its operands */
			operands of[2];
			uint64_t *read = NULL; /* the barrier of the slab before */
			auto slab = [&](operands &mine) {
				const unsigned char *x = s.stages + at.stage * shape::STAGE;
				const int32_t there = end - k < SLAB ? end - k : SLAB;
				wait_for(&s.full[at.stage], at.parity);
				mine.load(x + shape::X_BYTES + group * SLAB_BYTES, there);
				core.begin(mine, x, there);
				if (read != NULL) {
					core.template wait<1>();
					if (lane < Cluster)
						release_at(read, (uint32_t)lane);
				}
				read = &s.empty[at.stage];
				k += SLAB;
				at.next();
			};
#pragma unroll 1
			while (k < end) {
				slab(of[0]);
				if (k < end)
					slab(of[1]);
			}
			core.template wait<0>();
			core.settle();
			if (read != NULL && lane < Cluster)
				release_at(read, (uint32_t)lane);
			if (run == 0)
				wait_for(&s.scaled[scaled.stage], scaled.parity);
			const float *scales =
				s.scales + (scaled.stage * 8 + group_of(in, run)) * shape::TOKENS;
#pragma unroll
			for (int e = 0; e < Core::COUNT; e++)
				total[e] = add_run(total[e], core.at(e), scales[Core::token(e)]);
		}
		__syncwarp();
		if (lane == 0)
			arrive(&s.unscaled[scaled.stage]);
		const int32_t row0 = place.row0 + group * GROUP_ROWS;
		const bool whole = row0 + GROUP_ROWS <= job.rows && place.t0 + NT * 8 <= job.m;
		switch (wide_ends_of(out, wide_type<T>(), whole)) {
		case WIDE_PLAIN:
			wide_finish_plain<Core>(
				out, total, row0 + Core::row(0), place.t0 + Core::token(0));
			break;
		case WIDE_RESIDUAL:
			wide_finish_residual<T, Core>(out, total, row0 + Core::row(0), job.rows,
				place.t0 + Core::token(0));
			break;
		default:
			wide_finish<Core>(out, total, row0, job.rows, place.t0, job.m);
		}
	}
}
#endif

/* Barriers.  full[i]: one arrival, of the thread that asks, and the bytes of W and x, half of them sent by
 * the other block; empty[i]: a lane of each multiplying warp of both blocks, after the warp has read the
 * stage.  A stage is written again only after empty, read only after full.  scaled[i]: the threads that
 * make scales; unscaled[i]: a lane of each multiplying warp.  No block ends before the other of its cluster,
 * which may still say at its barriers that a stage is empty. */
template <typename T, int NT, int Cluster>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
	product_wide_kernel(const __grid_constant__ struct wide_maps maps,
		const __grid_constant__ struct m2_cuda_input input,
		const __grid_constant__ struct wide_job job,
		const __grid_constant__ struct m2_cuda_output out)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ unsigned char bytes[];
	const wide_memory<NT> s(bytes);
	if (threadIdx.x == MULTIPLIERS) {
		for (int i = 0; i < wide_shape<NT>::STAGES; i++) {
			barrier_init(&s.full[i], 1);
			barrier_init(&s.empty[i], Cluster * MULTIPLIERS / 32);
		}
		for (int i = 0; i < 2; i++) {
			barrier_init(&s.scaled[i], 32 * SCALERS);
			barrier_init(&s.unscaled[i], MULTIPLIERS / 32);
		}
		barriers_made();
	}
	__syncthreads(); /* the barriers are there, */
	if (Cluster > 1) /* and the other block's */
		clusters_meet();
	if (threadIdx.x >= MULTIPLIERS) {
		give_registers();
		if (threadIdx.x >= MULTIPLIERS + 32)
			wide_scale<NT, Cluster>(s, input, job);
		else
			wide_ask<NT, Cluster>(s, maps, job);
		__syncwarp();
	} else {
		take_registers();
		wide_multiply<T, NT, Cluster>(s, input, job, out);
	}
	if (Cluster > 1)
		clusters_meet();
#endif
}

/* The driver's, which needs no context; NULL: it has none. */
static decltype(&cuTensorMapEncodeTiled) map_maker()
{
	static const auto known = [] {
		void *found = NULL;
		cudaDriverEntryPointQueryResult result;
		return cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
			       cudaEnableDefault, &result) == cudaSuccess
			       ? (decltype(&cuTensorMapEncodeTiled))found
			       : NULL;
	}();
	return known;
}

/* What lies outside counts as zeros, and as bytes that have come. */
static bool map_operands(struct wide_maps *maps, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, int32_t part)
{
	const cuuint64_t k_tiles = (cuuint64_t)m2_cuda_pad(w->cols) / 16;
	const cuuint64_t w_sizes[3] = {256, k_tiles, (cuuint64_t)m2_cuda_pad(w->rows) / 16};
	const cuuint64_t w_steps[2] = {512, k_tiles * 512};
	const cuuint32_t w_box[3] = {256, SLAB, WIDE_ROWS / 16};
	const cuuint64_t x_sizes[2] = {(cuuint64_t)in->stride, (cuuint64_t)m};
	const cuuint64_t x_steps[1] = {(cuuint64_t)in->stride * 2};
	const cuuint32_t x_box[2] = {X_ROW / 2, (cuuint32_t)part}, ones[3] = {1, 1, 1};
	return map_maker()(&maps->w, CU_TENSOR_MAP_DATA_TYPE_UINT16, 3, w->data, w_sizes, w_steps,
		       w_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
		       CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
		       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS &&
	       map_maker()(&maps->x, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, (void *)in->x, x_sizes,
		       x_steps, x_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
		       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
		       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int NT, int Cluster>
static cudaError_t launch_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const auto kernel = product_wide_kernel<T, NT, Cluster>;
	const size_t shared = wide_shape<NT>::SHARED;
	const int32_t rows = Cluster * WIDE_ROWS;
	const struct wide_job job = {m, w->rows, m2_cuda_pad(w->cols) / 16,
		(w->rows + rows - 1) / rows, (m + NT * 8 - 1) / (NT * 8)};
	const int32_t most = device_limits().processors / Cluster;
	const int32_t tiles = job.row_units * job.sets;
	struct wide_maps maps;
	if (!map_operands(&maps, w, in, m, NT * 8 / Cluster))
		return cudaErrorNotSupported;
	const cudaError_t error = allow_shared(kernel, shared);
	if (error != cudaSuccess)
		return error;
	return launch_early_clusters(kernel,
		dim3((unsigned)((tiles < most ? tiles : most) * Cluster)), Cluster, WIDE_THREADS,
		shared, stream, maps, *in, job, *out);
}

bool m2_cuda_wide_runs()
{
	static const bool runs = [] {
		cudaFuncAttributes a;
		return device_limits().clusters && device_limits().shared >= 227 * 1024 &&
		       map_maker() != NULL &&
		       cudaFuncGetAttributes(&a, product_wide_kernel<__nv_bfloat16, 8, 1>) ==
			       cudaSuccess &&
		       a.ptxVersion >= 90; /* else it was made for another, and is empty */
	}();
	return runs;
}

template <typename T, int Cluster>
static cudaError_t choose(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out, int32_t tokens)
{
	switch (tokens) {
	case 64:
		return launch_wide<T, 8, Cluster>(stream, w, in, m, out);
	case 128:
		return launch_wide<T, 16, Cluster>(stream, w, in, m, out);
	default:
		return cudaErrorInvalidValue;
	}
}

cudaError_t m2_cuda_product_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	if (input->from != NULL)
		return cudaErrorInvalidValue;
	if (w->dtype == M2_DTYPE_F16)
		return plan.cluster == 2 ? choose<__half, 2>(stream, w, input, m, out, plan.tokens)
					 : choose<__half, 1>(stream, w, input, m, out, plan.tokens);
	return plan.cluster == 2 ? choose<__nv_bfloat16, 2>(stream, w, input, m, out, plan.tokens)
				 : choose<__nv_bfloat16, 1>(stream, w, input, m, out, plan.tokens);
}
