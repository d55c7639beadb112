/* product_stay.cu - W x for 9 to some hundred rows x on Hopper: decode.
 *
 * A cluster of eight blocks stays, a run of the columns to each.  A block holds its run of up to 128 rows
 * of x in shared memory from beginning to end, so only W moves: its rows, 64 at a time (a unit), stream
 * through two rings, one to each group of warps; the copies begin before the kernel that makes x has ended
 * and run ahead across units.  A group multiplies a unit, lays its sums down, and the eight blocks' groups
 * of the same number add them in the order of the runs, an eighth of the rows of x each.  Meanwhile the
 * other group multiplies the next unit.
 *
 * Arithmetic, in_proj of 2.7b (10576 x 2560, 54 MB; a unit's run is 41 KB): the rings hold 64 (128 rows of
 * x) to 200 KB (16), memory gives a processor 14 (H100) to 19 (H200) bytes a clock, so a unit takes 2200 to
 * 2900 clocks, of which mma.sync works 400 for 32 rows and 2300 for 128 (wgmma 400 and 1600): 18 us on an
 * H100, 12 on an H200, and a start of 2 to 3.  The adding takes some 1500 clocks of one group, covered by
 * the other.  More than 128 rows (or than fit) are the work of several sets of clusters, which read the same
 * W at about the same time, from L2.  Where only 120 of 132 processors hold a cluster, or units do not
 * divide by clusters, 5 to 15% are lost.
 */
#include "kernels/cuda/product_hopper.cuh"

enum {
	MOST_RING = 16,
	LEAST_RING = 3,
	/* floats between rows of x of laid-down sums: no two lanes in a bank */
	PITCH = GROUP_ROWS + 4,
	STAY_SPARE = 1024
};

/* Where things lie behind the aligned begin of shared memory. */
struct stay_shape {
	int32_t slabs;    /* of the longest run */
	int32_t ring;     /* stages to each group */
	int32_t clusters; /* to each set of rows of x */
	int32_t sets;     /* of rows of x */
};

template <int NT> static __host__ __device__ inline size_t stay_shared(int32_t slabs, int32_t ring)
{
	const size_t tokens = NT * 8;
	return STAY_SPARE + (size_t)slabs * tokens * X_ROW + (size_t)(GROUPS * ring) * SLAB_BYTES +
	       GROUPS * tokens * PITCH * sizeof(float) + tokens * sizeof(float) +
	       (2 * MOST_RING + 2) * GROUPS * sizeof(uint64_t);
}

#if __CUDA_ARCH__ >= 900

template <int NT> struct stay_memory {
	unsigned char *x;    /* [slabs][TOKENS][X_ROW], permuted as load_matrix wants it */
	unsigned char *ring; /* [GROUPS][ring][SLAB_BYTES] */
	float *sums;         /* [GROUPS][TOKENS][PITCH] */
	float *scales;       /* [8][TOKENS / RUNS]: of the rows of x that this block finishes */
	/* [GROUPS][MOST_RING]: a stage's bytes are there; its group has read it */
	uint64_t *full, *empty;
	/* [GROUPS]: all blocks have laid a unit's sums down; have added them */
	uint64_t *laid, *added;

	__device__ stay_memory(unsigned char *shared, const struct stay_shape &shape)
	{
		const int32_t tokens = NT * 8;
		x = shared +
		    ((STAY_SPARE - (shared_at(shared) & (STAY_SPARE - 1))) & (STAY_SPARE - 1));
		ring = x + shape.slabs * tokens * X_ROW;
		sums = (float *)(ring + GROUPS * shape.ring * SLAB_BYTES);
		full = (uint64_t *)(sums + GROUPS * tokens * PITCH);
		empty = full + GROUPS * MOST_RING;
		laid = empty + GROUPS * MOST_RING;
		added = laid + GROUPS;
		scales = (float *)(added + GROUPS);
	}
};

/* This block's work: a run of columns of units first, first + step, ... < units, for x from row t0 on. */
struct stay_work {
	const uint4 *w;
	int32_t m, rows, k_tiles, run, k0, k1, t0, first, step, units;
};

/* The warp that asks: unit after unit, to the one group and the other. */
template <int NT>
__device__ inline void stay_ask(
	const stay_memory<NT> &s, const struct stay_work &b, const struct stay_shape &shape)
{
	const int32_t row_tiles = (b.rows + 15) / 16;
	int32_t stage[GROUPS] = {}, group = 0;
	/* of the use before: in the first round it counts as over */
	uint32_t parity[GROUPS] = {1, 1};
	bool waited = false;
	for (int32_t unit = b.first; unit < b.units; unit += b.step, group ^= 1) {
		const int32_t left = row_tiles - unit * GROUP_TILES;
		const int32_t present = left < GROUP_TILES ? left : GROUP_TILES;
		int32_t at = group == 0 ? stage[0] : stage[1];
		uint32_t before = group == 0 ? parity[0] : parity[1];
		for (int32_t k = b.k0; k < b.k1; k += SLAB) {
			uint64_t *full = s.full + group * MOST_RING + at;
			/* the ring is full: time to wait, and let the next kernel begin */
			if (before == 0 && !waited) {
				waited = true;
				wait_for_previous();
			}
			wait_for(s.empty + group * MOST_RING + at, before);
			ask_slab(s.ring + (group * shape.ring + at) * SLAB_BYTES, b.w, b.k_tiles,
				unit * GROUP_TILES, present, k, b.k1 - k < SLAB ? b.k1 - k : SLAB,
				full);
			if (++at == shape.ring) {
				at = 0;
				before ^= 1;
			}
		}
		if (group == 0) {
			stage[0] = at;
			parity[0] = before;
		} else {
			stage[1] = at;
			parity[1] = before;
		}
	}
	if (!waited)
		wait_for_previous();
}

/* The block's run of its rows of x, by all that multiply, and the scales of those that it finishes.  In
 * place of rows behind the last it takes the last: what a row holds reaches that row's results only. */
template <typename T, int NT>
__device__ inline void stay_fetch(
	const stay_memory<NT> &s, const struct stay_work &b, const struct m2_cuda_input &in)
{
	const int32_t pieces = (b.k1 - b.k0) * 2;
	for (int32_t i = (int32_t)threadIdx.x >> 3; i < NT * 8 * slabs_of(b.k1 - b.k0);
		i += MULTIPLIERS / 8) {
		const int32_t t = i % (NT * 8), slab = i / (NT * 8);
		const int32_t piece = (int32_t)threadIdx.x & 7, at = slab * 8 + piece;
		const int32_t known = b.t0 + t < b.m ? b.t0 + t : b.m - 1; /* not used */
		const size_t row = in.from != NULL ? (size_t)in.from[known] : (size_t)known;
		if (at < pieces)
			copy_16(s.x + i * X_ROW + ((piece ^ (t & 7)) << 4),
				(const T *)in.x + row * (size_t)in.stride +
					(size_t)(b.k0 * 16 + at * 8));
	}
	commit_group();
	const int32_t share = NT * 8 / RUNS;
	for (int32_t i = (int32_t)threadIdx.x; i < share * in.groups; i += MULTIPLIERS)
		s.scales[i] = row_scale(in, b.t0 + b.run * share + i % share, i / share, b.m);
	wait_group<0>();
	show_to_wgmma();    /* by who wrote, before they meet: all further reads need no more */
	multipliers_meet(); /* x and the scales are there, and stay */
}

/* The unit's sums of all runs, in order: an eighth of the rows of x by the group of this block, each thread
 * one row of W and every second of the rows of x. */
template <int NT> struct stay_adder {
	enum { SHARE = NT * 8 / RUNS, COUNT = SHARE * GROUP_ROWS / GROUP_THREADS };
	struct ahead a[COUNT];

	static __device__ int32_t row()
	{
		return (int32_t)threadIdx.x % GROUP_ROWS;
	}
	static __device__ int32_t token(int i) /* of the share */
	{
		return (int32_t)threadIdx.x % GROUP_THREADS / GROUP_ROWS +
		       i * (GROUP_THREADS / GROUP_ROWS);
	}
	__device__ void look(
		const struct stay_work &b, const struct m2_cuda_output &out, int32_t unit)
	{
#pragma unroll
		for (int i = 0; i < COUNT; i++)
			a[i] = look_ahead(out, unit * GROUP_ROWS + row(), b.rows,
				b.t0 + b.run * SHARE + token(i), b.m);
	}
	__device__ void add(const float *sums, const float *scales, const struct stay_work &b,
		const struct m2_cuda_input &in, const struct m2_cuda_output &out, int32_t unit)
	{
		float total[COUNT];
#pragma unroll
		for (int i = 0; i < COUNT; i++) {
			const float *place = sums + (b.run * SHARE + token(i)) * PITCH + row();
			float part[RUNS];
#pragma unroll
			for (int run = 0; run < RUNS; run++)
				part[run] = read_at(place, (uint32_t)run);
			total[i] = -0.0f; /* and the first sum is that sum, to the bit */
#pragma unroll
			for (int run = 0; run < RUNS; run++)
				total[i] = add_run(total[i], part[run],
					scales[group_of(in, run) * SHARE + token(i)]);
		}
#pragma unroll
		for (int i = 0; i < COUNT; i++)
			finish_after(out, total[i], a[i], unit * GROUP_ROWS + row(), b.rows,
				b.t0 + b.run * SHARE + token(i), b.m);
	}
};

/* One group of warps: every second unit. */
template <class Core, int NT>
__device__ inline void stay_multiply(const stay_memory<NT> &s, const struct stay_work &b,
	const struct stay_shape &shape, const struct m2_cuda_input &in,
	const struct m2_cuda_output &out)
{
	const int32_t group = (int32_t)threadIdx.x / GROUP_THREADS;
	const int32_t lane = (int32_t)threadIdx.x & 31;
	uint64_t *full = s.full + group * MOST_RING, *empty = s.empty + group * MOST_RING;
	const unsigned char *ring = s.ring + group * shape.ring * SLAB_BYTES;
	float *sums = s.sums + group * NT * 8 * PITCH;
	int32_t stage = 0;
	uint32_t parity = 0, turn = 0; /* of the ring; of the unit */
	for (int32_t unit = b.first + group * b.step; unit < b.units; unit += GROUPS * b.step) {
		const unsigned char *x = s.x;
		Core core;
		core.clear();
#pragma unroll 1
		for (int32_t k = b.k0; k < b.k1; k += SLAB, x += NT * 8 * X_ROW) {
			wait_for(&full[stage], parity);
			core.multiply(
				ring + stage * SLAB_BYTES, x, b.k1 - k < SLAB ? b.k1 - k : SLAB);
			if (lane == 0)
				arrive(&empty[stage]);
			if (++stage == shape.ring) {
				stage = 0;
				parity ^= 1;
			}
		}
		/* others may still read the sums of the unit before; the first time nobody does */
		wait_for_cluster(&s.added[group], turn ^ 1);
#pragma unroll
		for (int e = 0; e < Core::COUNT; e++)
			sums[Core::token(e) * PITCH + Core::row(e)] = core.at(e);
		__syncwarp();
		if (lane < RUNS)
			arrive_at(&s.laid[group], (uint32_t)lane);
		stay_adder<NT> adder;
		adder.look(b, out, unit);
		wait_for_cluster(&s.laid[group], turn);
		adder.add(sums, s.scales, b, in, out, unit);
		__syncwarp();
		if (lane < RUNS)
			arrive_at(&s.added[group], (uint32_t)lane);
		turn ^= 1;
	}
	/* nobody leaves while its sums are read or its barriers are arrived at */
	wait_for_cluster(&s.added[group], turn ^ 1);
}
#endif

/* Barriers, of each group:
 *   full[i]   W's bytes of a stage                        -> the group reads it
 *   empty[i]  a lane of each of the group's warps         -> the stage is asked for again
 *   laid      a lane of each of 4 warps in eight blocks   -> the unit's sums are added
 *   added     the same                                    -> the next unit's are laid down; the block ends
 * x and scales are written before multipliers_meet and never again.  All eight blocks must have made their
 * barriers before one arrives at another's: the cluster meets once, at the begin. */
template <typename T, template <typename, int> class Core, int NT>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
	product_stay_kernel(const uint4 *w, const __grid_constant__ struct m2_cuda_input input,
		int32_t m, int32_t rows, int32_t k_tiles, const struct stay_shape shape,
		const __grid_constant__ struct m2_cuda_output out)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ unsigned char bytes[];
	const stay_memory<NT> s(bytes, shape);
	const int32_t cluster = (int32_t)blockIdx.x / RUNS;
	struct stay_work b = {w, m, rows, k_tiles, (int32_t)blockIdx.x % RUNS, 0, 0,
		cluster % shape.sets * NT * 8, cluster / shape.sets, shape.clusters,
		(rows + GROUP_ROWS - 1) / GROUP_ROWS};
	run_of(b.run, k_tiles, &b.k0, &b.k1);
	if (threadIdx.x == MULTIPLIERS) {
		for (int g = 0; g < GROUPS; g++) {
			for (int i = 0; i < shape.ring; i++) {
				barrier_init(s.full + g * MOST_RING + i, 1);
				barrier_init(s.empty + g * MOST_RING + i, GROUP_THREADS / 32);
			}
			barrier_init(s.laid + g, RUNS * GROUP_THREADS / 32);
			barrier_init(s.added + g, RUNS * GROUP_THREADS / 32);
		}
		barriers_made();
	}
	__syncwarp();
	asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
	asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
	if (threadIdx.x >= MULTIPLIERS) {
		stay_ask<NT>(s, b, shape);
	} else {
		wait_for_previous();
		stay_fetch<T, NT>(s, b, input);
		stay_multiply<Core<T, NT>, NT>(s, b, shape, input, out);
	}
#endif
}

/* ---- launching ------------------------------------------------------------------------------ */

/* ring 0: does not fit. */
template <int NT> static struct stay_shape shape_for(int32_t k_tiles)
{
	struct stay_shape s = {slabs_of((k_tiles + RUNS - 1) / RUNS), MOST_RING, 0, 1};
	while (s.ring >= LEAST_RING &&
		stay_shared<NT>(s.slabs, s.ring) > (size_t)device_limits().shared)
		s.ring--;
	if (s.ring < LEAST_RING)
		s.ring = 0;
	return s;
}

/* How many clusters are at work at once; asked of the driver once. */
template <int NT> static int32_t clusters_at_once()
{
	static const int32_t known = [] {
		const auto kernel = product_stay_kernel<__nv_bfloat16, sync_core, NT>;
		const size_t shared = (size_t)device_limits().shared;
		cudaLaunchAttribute attribute = {};
		attribute.id = cudaLaunchAttributeClusterDimension;
		attribute.val.clusterDim = {RUNS, 1, 1};
		cudaLaunchConfig_t config = {};
		config.gridDim = dim3((unsigned)(device_limits().processors / RUNS * RUNS));
		config.blockDim = dim3(HOPPER_THREADS);
		config.dynamicSmemBytes = shared;
		config.attrs = &attribute;
		config.numAttrs = 1;
		int clusters = 0;
		if (!m2_cuda_wide_runs() || allow_shared(kernel, shared) != cudaSuccess ||
			cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess)
			clusters = 0;
		return (int32_t)clusters;
	}();
	return known;
}

template <typename T, template <typename, int> class Core, int NT>
static cudaError_t launch_stay(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out)
{
	const auto kernel = product_stay_kernel<T, Core, NT>;
	const int32_t k_tiles = m2_cuda_pad(w->cols) / 16;
	const int32_t units = (w->rows + GROUP_ROWS - 1) / GROUP_ROWS;
	struct stay_shape shape = shape_for<NT>(k_tiles);
	if (shape.ring == 0)
		return cudaErrorInvalidValue;
	/* a set's clusters are at work together, and the sets with them as far as there is room */
	shape.sets = (m + NT * 8 - 1) / (NT * 8);
	shape.clusters = clusters_at_once<NT>() / shape.sets;
	if (shape.clusters < 1)
		shape.clusters = 1;
	if (shape.clusters > units)
		shape.clusters = units;
	const size_t shared = stay_shared<NT>(shape.slabs, shape.ring);
	const cudaError_t error = allow_shared(kernel, (size_t)device_limits().shared);
	if (error != cudaSuccess)
		return error;
	return launch_early_clusters(kernel, dim3((unsigned)(shape.sets * shape.clusters * RUNS)),
		RUNS, HOPPER_THREADS, shared, stream, (const uint4 *)w->data, *in, m, w->rows,
		k_tiles, shape, *out);
}

int32_t m2_cuda_stay_clusters(int32_t k_tiles, int32_t tokens)
{
	switch (tokens) {
	case 16:
		return shape_for<2>(k_tiles).ring > 0 ? clusters_at_once<2>() : 0;
	case 32:
		return shape_for<4>(k_tiles).ring > 0 ? clusters_at_once<4>() : 0;
	case 64:
		return shape_for<8>(k_tiles).ring > 0 ? clusters_at_once<8>() : 0;
	case 128:
		return shape_for<16>(k_tiles).ring > 0 ? clusters_at_once<16>() : 0;
	default:
		return 0;
	}
}

template <typename T, template <typename, int> class Core>
static cudaError_t choose(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *in, int32_t m, const struct m2_cuda_output *out, int32_t tokens)
{
	switch (tokens) {
	case 16:
		return launch_stay<T, Core, 2>(stream, w, in, m, out);
	case 32:
		return launch_stay<T, Core, 4>(stream, w, in, m, out);
	case 64:
		return launch_stay<T, Core, 8>(stream, w, in, m, out);
	case 128:
		return launch_stay<T, Core, 16>(stream, w, in, m, out);
	default:
		return cudaErrorInvalidValue;
	}
}

cudaError_t m2_cuda_product_stay(cudaStream_t stream, const struct m2_cuda_matrix *w,
	const struct m2_cuda_input *input, int32_t m, const struct m2_cuda_output *out,
	struct hopper_plan plan)
{
	if (w->dtype == M2_DTYPE_F16)
		return plan.wgmma
			       ? choose<__half, wgmma_core>(stream, w, input, m, out, plan.tokens)
			       : choose<__half, sync_core>(stream, w, input, m, out, plan.tokens);
	return plan.wgmma ? choose<__nv_bfloat16, wgmma_core>(stream, w, input, m, out, plan.tokens)
			  : choose<__nv_bfloat16, sync_core>(stream, w, input, m, out, plan.tokens);
}
