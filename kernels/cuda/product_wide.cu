/* product_wide.cu - W x for some to many rows x on Hopper: prompts, and large batches.
 *
 * A block stays and does one tile after another: 128 or 192 rows of W, 64 to each of its two or three
 * groups, by 64 or 128 rows of x, all columns.  W and x pass through a ring of stages of 64 columns by tensor
 * copies, which leave both as wgmma reads them: nobody but the copy engine touches them.  Two sets of sums are
 * kept in registers, of the run at hand and of the runs before; that is what limits the tile (128: 64 + 64
 * registers of a thread).
 *
 * The last group of warps does not multiply: one of its warps asks for what the others need, the rest make the
 * scales of the tile's rows of x.  The ring goes on across tiles, so a tile's first stages arrive while the
 * last one's results are written, and as the groups meet nowhere but at the ring, one's results and ends of
 * runs are covered by the others' products.
 *
 * Arithmetic, of a stage of 192 x 128 x 64: 3.1 MFLOP, 768 clocks of the tensor cores at their peak; 40 KB from
 * L2, 53 bytes a clock at the peak, where L2 gives 40 to 45 to every processor at once.  What a group does
 * between the products of two stages (a wait, a fence, descriptors) takes it some 250 clocks, and writing
 * anything to be seen by others, a memory barrier, would cost a thousand: hence three groups where rows allow,
 * and the arrivals at barriers that promise nothing.  A thread that asks pays some 120 clocks for each copy:
 * hence one for W and one for x.  Sharing x between the two blocks of a cluster was tried and gained nothing.
 *
 * Blocks that follow each other share rows of W and differ in rows of x, some 2000 of them, which stay in
 * L2 while all of W passes; then come the next.
 */
#include <cuda.h>

#include "kernels/cuda/product_hopper.cuh"

enum {
	MOST_STAGES = 8,
	SPARE = 1024,
	BAND = 2048, /* rows of x that all of W passes by */
	BATCH = 16, /* results of a thread that are finished at a time; divides every core's COUNT */
	BOX = 32,   /* rows of x that a tensor copy brings */
	BOX_BYTES = BOX * X_ROW,
	GROUP_SQUARES = GROUP_ROWS / 8,
	SCALERS = 3 /* warps beside the one that asks */
};

template <int NT, int Groups> struct wide_shape {
	enum {
		TOKENS = NT * 8,
		ROWS = Groups * GROUP_ROWS,
		MULTIPLYING = Groups * GROUP_THREADS,
		THREADS = MULTIPLYING + 32 * (1 + SCALERS),
		TO_NEXT = Groups * GROUP_SQUARES *
			  128, /* bytes of all squares of eight columns of W */
		X_BYTES = TOKENS * X_ROW,
		STAGE = X_BYTES + Groups * SLAB_BYTES,
		SCALES = 2 * 8 * TOKENS * 4,               /* two tiles, eight groups of columns */
		REST = SCALES + (2 * MOST_STAGES + 4) * 8, /* behind the stages */
		FIT = (227 * 1024 - SPARE - REST) / STAGE,
		STAGES = FIT < MOST_STAGES ? FIT : MOST_STAGES,
		SHARED = SPARE + STAGES * STAGE + REST
	};
};

/* What is to be done, the same for all blocks. */
struct wide_job {
	int32_t m, rows, k_tiles;
	int32_t row_units; /* of a block's rows of W */
	int32_t sets;      /* of TOKENS rows of x */
};

/* How the copy engine finds the operands: x as [m][columns], and W's squares of eight by eight, which lie as
 * [row tiles][tiles of columns][2 eights of columns][2 of rows], as [tiles of columns][2][row tiles][2]: then
 * squares of neighbouring rows lie 128 bytes apart in shared memory, as wgmma wants them. */
struct wide_maps {
	CUtensorMap w, x;
};

#if __CUDA_ARCH__ >= 900

/* Where tile number `i` begins. */
template <int NT, int Groups> struct wide_place {
	int32_t row0, t0;

	__device__ wide_place(const struct wide_job &job, int32_t i)
	{
		const int32_t band = BAND / (NT * 8), in_bands = band * job.row_units;
		const int32_t set0 = i / in_bands * band, in_band = i % in_bands;
		const int32_t width = job.sets - set0 < band ? job.sets - set0 : band;
		row0 = in_band / width * Groups * GROUP_ROWS;
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

template <int NT, int Groups> struct wide_memory {
	unsigned char *stages;
	float *scales; /* [2][8][TOKENS] */
	uint64_t *full, *empty, *scaled, *unscaled;

	__device__ explicit wide_memory(unsigned char *shared)
	{
		using shape = wide_shape<NT, Groups>;
		stages = shared + ((SPARE - (shared_at(shared) & (SPARE - 1))) & (SPARE - 1));
		full = (uint64_t *)(stages + shape::STAGES * shape::STAGE);
		empty = full + MOST_STAGES;
		scaled = empty + MOST_STAGES;
		unscaled = scaled + 2;
		scales = (float *)(unscaled + 2);
	}
};

/* Of 65536 registers, 168 a thread at launch of two groups that multiply: the others keep 56, who multiplies
 * has 224.  128 of three: 32 and 160. */
template <int Groups> static __device__ inline void give_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Groups == 2 ? 56 : 32));
#endif
}
template <int Groups> static __device__ inline void take_registers()
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Groups == 2 ? 224 : 160));
#endif
}

/* One slab of a tile, by one thread. */
template <int NT, int Groups> struct wide_asker {
	using shape = wide_shape<NT, Groups>;
	const wide_memory<NT, Groups> &s;
	const struct wide_maps &maps;

	__device__ void ask_w(const wide_place<NT, Groups> &place, int32_t k, int32_t stage) const
	{
		arrive_expecting(&s.full[stage], (uint32_t)shape::STAGE);
		asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::"
			     "complete_tx::bytes [%0], [%1, {%2, %2, %3, %2, %4}], [%5];" ::"r"(
				     shared_at(s.stages + stage * shape::STAGE + shape::X_BYTES)),
			     "l"(&maps.w), "r"(0), "r"(place.row0 / 16), "r"(k),
			     "r"(shared_at(&s.full[stage]))
			     : "memory");
	}
	__device__ void ask_x(const wide_place<NT, Groups> &place, int32_t k, int32_t stage) const
	{
		asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::"
			     "complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
				     shared_at(s.stages + stage * shape::STAGE)),
			     "l"(&maps.x), "r"(k * 16), "r"(place.t0),
			     "r"(shared_at(&s.full[stage]))
			     : "memory");
	}
};

/* The warp whose first thread asks.  W's first stages are asked for before x is there: weights depend on nobody. */
template <int NT, int Groups>
static __device__ inline void wide_ask(
	const wide_memory<NT, Groups> &s, const struct wide_maps &maps, const struct wide_job &job)
{
	using shape = wide_shape<NT, Groups>;
	using place_t = wide_place<NT, Groups>;
	const wide_asker<NT, Groups> asker = {s, maps};
	const int32_t tiles = job.row_units * job.sets;
	turn<shape::STAGES> at;
	const bool asks = threadIdx.x == wide_shape<NT, Groups>::MULTIPLYING;
	int32_t early = 0;
	if (asks) {
		const place_t place(job, (int32_t)blockIdx.x);
		for (walk slab(job.k_tiles); slab.there() && early < shape::STAGES; slab.next())
			asker.ask_w(place, slab.k, early++);
	}
	wait_for_previous(); /* the whole warp: the next kernel may begin when all have come here */
	for (int32_t i = (int32_t)blockIdx.x; asks && i < tiles; i += (int32_t)gridDim.x) {
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
template <int NT, int Groups>
static __device__ inline void wide_scale(const wide_memory<NT, Groups> &s,
	const struct m2_cuda_input &in, const struct wide_job &job)
{
	using place_t = wide_place<NT, Groups>;
	const int32_t tiles = job.row_units * job.sets, tokens = NT * 8;
	const int32_t scaler = (int32_t)threadIdx.x - wide_shape<NT, Groups>::MULTIPLYING - 32;
	turn<2> at;
	wait_for_previous();
	for (int32_t i = (int32_t)blockIdx.x; i < tiles; i += (int32_t)gridDim.x, at.next()) {
		const place_t place(job, i);
		wait_for(&s.unscaled[at.stage], at.parity ^ 1);
		float *scales = s.scales + at.stage * 8 * tokens;
#pragma unroll 1
		for (int32_t j = scaler; j < tokens * in.groups; j += 32 * SCALERS)
			scales[j] = row_scale < Groups == 2
					    ? 8
					    : 4 > (in, place.t0 + j % tokens, j / tokens, job.m);
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
	if (!whole)
		return WIDE_ANY;
	if (out.bias == NULL && !out.add && out.squares == NULL && out.next.to == NULL)
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
	const bool biased = out.bias != NULL;
	const float bias[2] = {biased ? out.bias[row] : 0.0f, biased ? out.bias[row + 8] : 0.0f};
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
			const float lower = total[first + i], higher = total[first + i + 2];
			const float low = before[i] + (biased ? lower + bias[0] : lower);
			const float high = before[i + 2] + (biased ? higher + bias[1] : higher);
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
template <typename T, int NT, int Groups>
static __device__ inline void wide_multiply(const wide_memory<NT, Groups> &s,
	const struct m2_cuda_input &in, const struct wide_job &job,
	const struct m2_cuda_output &out)
{
	using shape = wide_shape<NT, Groups>;
	using place_t = wide_place<NT, Groups>;
	using Core = wgmma_core<T, NT>;
	const int32_t group = (int32_t)threadIdx.x / GROUP_THREADS;
	const int32_t lane = (int32_t)threadIdx.x & 31, tiles = job.row_units * job.sets;
	turn<shape::STAGES> at;
	turn<2> scaled;
	wait_for_previous();
	for (int32_t i = (int32_t)blockIdx.x; i < tiles; i += (int32_t)gridDim.x, scaled.next()) {
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
			uint64_t *read =
				NULL; /* the barrier of the slab before: two are under way */
#pragma unroll 1
			for (; k < end; k += SLAB, at.next()) {
				const unsigned char *x = s.stages + at.stage * shape::STAGE;
				wait_for(&s.full[at.stage], at.parity);
				core.begin(x + shape::X_BYTES + group * GROUP_SQUARES * 128,
					shape::TO_NEXT, x, end - k < SLAB ? end - k : SLAB);
				if (read != NULL) {
					Core::template wait<1>();
					if (lane == 0)
						arrive(read);
				}
				read = &s.empty[at.stage];
			}
			Core::template wait<0>();
			core.settle();
			if (read != NULL && lane == 0)
				arrive(read);
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

/* Barriers.  full[i]: one arrival, of the thread that asks, and the bytes of W and x; empty[i]: a lane of each
 * multiplying warp, after the warp's products have read the stage.  A stage is written again only after empty,
 * read only after full.  scaled[i]: the threads that make scales; unscaled[i]: a lane of each multiplying
 * warp. */
template <typename T, int NT, int Groups>
__global__ void __launch_bounds__((wide_shape<NT, Groups>::THREADS), 1)
	product_wide_kernel(const __grid_constant__ struct wide_maps maps,
		const __grid_constant__ struct m2_cuda_input input,
		const __grid_constant__ struct wide_job job,
		const __grid_constant__ struct m2_cuda_output out)
{
#if __CUDA_ARCH__ >= 900
	using shape = wide_shape<NT, Groups>;
	extern __shared__ unsigned char bytes[];
	const wide_memory<NT, Groups> s(bytes);
	if (threadIdx.x == shape::MULTIPLYING) {
		for (int i = 0; i < shape::STAGES; i++) {
			barrier_init(&s.full[i], 1);
			barrier_init(&s.empty[i], shape::MULTIPLYING / 32);
		}
		for (int i = 0; i < 2; i++) {
			barrier_init(&s.scaled[i], 32 * SCALERS);
			barrier_init(&s.unscaled[i], shape::MULTIPLYING / 32);
		}
		barriers_made();
	}
	__syncthreads(); /* the barriers are there */
	if (threadIdx.x >= shape::MULTIPLYING) {
		give_registers<Groups>();
		if (threadIdx.x >= shape::MULTIPLYING + 32)
			wide_scale<NT, Groups>(s, input, job);
		else
			wide_ask<NT, Groups>(s, maps, job);
	} else {
		take_registers<Groups>();
		wide_multiply<T, NT, Groups>(s, input, job, out);
	}
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
	const struct m2_cuda_input *in, int32_t m, int32_t rows, int32_t tokens)
{
	const cuuint64_t k_tiles = (cuuint64_t)m2_cuda_pad(w->cols) / 16;
	const cuuint64_t w_sizes[5] = {64, 2, (cuuint64_t)m2_cuda_pad(w->rows) / 16, 2, k_tiles};
	const cuuint64_t w_steps[4] = {128, k_tiles * 512, 256, 512};
	const cuuint32_t w_box[5] = {64, 2, (cuuint32_t)rows / 16, 2, SLAB};
	const cuuint64_t x_sizes[2] = {(cuuint64_t)in->stride, (cuuint64_t)m};
	const cuuint64_t x_steps[1] = {(cuuint64_t)in->stride * 2};
	const cuuint32_t x_box[2] = {X_ROW / 2, (cuuint32_t)tokens}, ones[5] = {1, 1, 1, 1, 1};
	return map_maker()(&maps->w, CU_TENSOR_MAP_DATA_TYPE_UINT16, 5, w->data, w_sizes, w_steps,
		       w_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
		       CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
		       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS &&
	       map_maker()(&maps->x, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, (void *)in->x, x_sizes,
		       x_steps, x_box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
		       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
		       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T, int NT, int Groups>
static cudaError_t launch_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	using shape = wide_shape<NT, Groups>;
	const auto kernel = product_wide_kernel<T, NT, Groups>;
	const int32_t rows = shape::ROWS, tokens = shape::TOKENS;
	const struct wide_job job = {m, w->rows, m2_cuda_pad(w->cols) / 16,
		(w->rows + rows - 1) / rows, (m + tokens - 1) / tokens};
	const int32_t most = device_limits().processors, tiles = job.row_units * job.sets;
	struct wide_maps maps;
	if (!map_operands(&maps, w, in, m, rows, tokens))
		return cudaErrorNotSupported;
	const cudaError_t error = allow_shared(kernel, shape::SHARED);
	if (error != cudaSuccess)
		return error;
	return launch_early(kernel, dim3((unsigned)(tiles < most ? tiles : most)), shape::THREADS,
		shape::SHARED, stream, maps, *in, job, *out);
}

bool m2_cuda_wide_runs()
{
	static const bool runs = [] {
		cudaFuncAttributes a;
		return device_limits().clusters && device_limits().shared >= 227 * 1024 &&
		       map_maker() != NULL &&
		       cudaFuncGetAttributes(&a, product_wide_kernel<__nv_bfloat16, 8, 2>) ==
			       cudaSuccess &&
		       a.ptxVersion >= 90; /* else it was made for another, and is empty */
	}();
	return runs;
}

template <typename T>
static cudaError_t choose(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	if (plan.tokens == 64)
		return plan.groups == 3 ? launch_wide<T, 8, 3>(stream, w, in, m, out)
					: launch_wide<T, 8, 2>(stream, w, in, m, out);
	if (plan.tokens == 128)
		return plan.groups == 3 ? launch_wide<T, 16, 3>(stream, w, in, m, out)
					: launch_wide<T, 16, 2>(stream, w, in, m, out);
	return cudaErrorInvalidValue;
}

cudaError_t m2_cuda_product_wide(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	if (input->from != NULL)
		return cudaErrorInvalidValue;
	return w->dtype == M2_DTYPE_F16 ? choose<__half>(stream, w, input, m, out, plan)
					: choose<__nv_bfloat16>(stream, w, input, m, out, plan);
}
