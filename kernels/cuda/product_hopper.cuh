/* product_hopper.cuh - what the products of Hopper are made of: barriers, bulk copies, the two cores.
 *
 * Private to kernels/cuda.  A block has two or three groups of four warps that multiply, and warps that ask
 * for what they need: W by bulk copies (its tiles are runs of memory, launch.h) and x by copies of 16 bytes
 * where clusters stay (product_stay.cu), both by tensor copies elsewhere (product_wide.cu).  A ring of stages
 * lies between; every stage has a barrier `full` (the bytes are there) and one `empty` (all have read them).
 * The n-th use of a stage is phase n of both, and a wait names its parity.  Names and protocols: PTX ISA 8.0,
 * "mbarrier", "cp.async.bulk", "wgmma".
 *
 * A core multiplies 64 rows of W with NT * 8 rows of x, by one group.  Both take the same operands from
 * the same places and leave the same bits: per result a chain of fused sums of 16 products and what was
 * there, with 25 bits behind the point (Xie et al., MMA-Sim, arXiv 2511.10909: validated for mma and wgmma
 * of Hopper alike; tests/gpu/bench_product.cu compares them).
 */
#ifndef M2_KERNELS_CUDA_PRODUCT_HOPPER_CUH
#define M2_KERNELS_CUDA_PRODUCT_HOPPER_CUH

#include "kernels/cuda/product.cuh"

enum {
	GROUPS = 2, /* that multiply */
	GROUP_THREADS = 128,
	MULTIPLIERS = GROUPS * GROUP_THREADS,
	HOPPER_THREADS = MULTIPLIERS + 32, /* the last warp asks */
	GROUP_TILES = 4,                   /* of rows of W, to a group */
	GROUP_ROWS = GROUP_TILES * 16,
	SLAB = 4,                              /* tiles of columns, to a stage */
	SLAB_BYTES = GROUP_TILES * SLAB * 512, /* of a group's rows of W */
	X_ROW = 128                            /* bytes of a row of x in a slab */
};

static __device__ inline uint32_t shared_at(const void *p)
{
	return (uint32_t)__cvta_generic_to_shared(p);
}

/* Slabs of a run: they never cross its end. */
static __host__ __device__ inline int32_t slabs_of(int32_t tiles)
{
	return (tiles + SLAB - 1) / SLAB;
}

#if __CUDA_ARCH__ >= 900

/* ---- barriers ------------------------------------------------------------------------------- */

static __device__ inline void barrier_init(uint64_t *barrier, uint32_t arrivals)
{
	asm volatile(
		"mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(barrier)), "r"(arrivals)
		: "memory");
}
/* After the inits, by the thread that made them: the copy engine and other blocks see them. */
static __device__ inline void barriers_made()
{
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	asm volatile("fence.proxy.async;" ::: "memory");
}
static __device__ inline void arrive(uint64_t *barrier)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(barrier))
		     : "memory");
}
/* And `bytes` more are to come by bulk copies before the phase ends. */
static __device__ inline void arrive_expecting(uint64_t *barrier, uint32_t bytes)
{
	asm volatile(
		"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(barrier)),
		"r"(bytes)
		: "memory");
}
/* As soon as this thread's copies of 16 bytes have arrived; counted among the barrier's arrivals. */
static __device__ inline void arrive_with_copies(uint64_t *barrier)
{
	asm volatile(
		"cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_at(barrier))
		: "memory");
}
/* At the barrier of the same name in block `rank` of the cluster; what this thread (and, after a
 * __syncwarp, its warp) did before is done for whoever waits there with wait_for_cluster. */
static __device__ inline void arrive_at(uint64_t *barrier, uint32_t rank)
{
	asm volatile("{\n\t.reg .b32 there;\n\t"
		     "mapa.shared::cluster.u32 there, %0, %1;\n\t"
		     "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n\t}" ::"r"(
			     shared_at(barrier)),
		     "r"(rank)
		     : "memory");
}
static __device__ inline void wait_for(uint64_t *barrier, uint32_t parity)
{
	uint32_t done;
	do {
		asm volatile("{\n\t.reg .pred p;\n\t"
			     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
			     "selp.u32 %0, 1, 0, p;\n\t}"
			     : "=r"(done)
			     : "r"(shared_at(barrier)), "r"(parity)
			     : "memory");
	} while (done == 0);
}
static __device__ inline void wait_for_cluster(uint64_t *barrier, uint32_t parity)
{
	uint32_t done;
	do {
		asm volatile("{\n\t.reg .pred p;\n\t"
			     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], "
			     "%2;\n\t"
			     "selp.u32 %0, 1, 0, p;\n\t}"
			     : "=r"(done)
			     : "r"(shared_at(barrier)), "r"(parity)
			     : "memory");
	} while (done == 0);
}
/* All threads of the groups that multiply, and of no other warp. */
static __device__ inline void multipliers_meet()
{
	asm volatile("bar.sync 1, %0;" ::"n"((int)MULTIPLIERS) : "memory");
}

/* A number in block `rank` of the cluster, from the same place there. */
static __device__ inline float read_at(const float *place, uint32_t rank)
{
	float value;
	asm volatile("{\n\t.reg .b32 there;\n\t"
		     "mapa.shared::cluster.u32 there, %1, %2;\n\t"
		     "ld.shared::cluster.f32 %0, [there];\n\t}"
		     : "=f"(value)
		     : "r"(shared_at(place)), "r"(rank)
		     : "memory");
	return value;
}

/* ---- copies --------------------------------------------------------------------------------- */

/* `bytes` (a multiple of 16) in one piece; counted off at the barrier. */
static __device__ inline void copy_bulk(
	void *to, const void *from, uint32_t bytes, uint64_t *barrier)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
		     "[%0], [%1], %2, [%3];" ::"r"(shared_at(to)),
		     "l"(from), "r"(bytes), "r"(shared_at(barrier))
		     : "memory");
}

/* By the whole warp: `tiles` tiles of columns from k on, of up to `present` row tiles from row_tile on. */
static __device__ inline void ask_slab(unsigned char *to, const uint4 *w, int32_t k_tiles,
	int32_t row_tile, int32_t present, int32_t k, int32_t tiles, uint64_t *barrier)
{
	const int32_t lane = (int32_t)threadIdx.x & 31;
	if (lane == 0)
		arrive_expecting(barrier, (uint32_t)(present * tiles * 512));
	__syncwarp();
	if (lane < present)
		copy_bulk(to + lane * SLAB * 512,
			w + ((size_t)(row_tile + lane) * (size_t)k_tiles + (size_t)k) * 32,
			(uint32_t)(tiles * 512), barrier);
}

/* ---- cores ---------------------------------------------------------------------------------- */

/* Copies of 16 bytes were written the ordinary way; wgmma reads past it. */
static __device__ inline void show_to_wgmma()
{
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* mma.sync: a warp has all rows of W (or half of them) and a share of the rows of x. */
template <typename T, int NT> struct sync_core {
	enum {
		ACROSS = NT < 4 ? NT : 4, /* warps along the rows of x */
		TILES = ACROSS,           /* of rows of W, to a warp: GROUP_TILES * ACROSS / 4 */
		WIDTH = NT / ACROSS,
		COUNT = NT * 4
	};
	float sum[TILES][WIDTH][4];

	__device__ float &at(int e)
	{
		return sum[e / 4 / WIDTH][e / 4 % WIDTH][e & 3];
	}
	/* Place of element e: row of the group's 64, row of x of the block's. */
	static __device__ int32_t row(int e)
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5 & 3,
			      lane = (int32_t)threadIdx.x & 31;
		return (warp / ACROSS * TILES + e / 4 / WIDTH) * 16 + (lane >> 2) +
		       (e >> 1 & 1) * 8;
	}
	static __device__ int32_t token(int e)
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5 & 3,
			      lane = (int32_t)threadIdx.x & 31;
		return (warp % ACROSS * WIDTH + e / 4 % WIDTH) * 8 + (lane & 3) * 2 + (e & 1);
	}
	__device__ void clear()
	{
#pragma unroll
		for (int e = 0; e < COUNT; e++)
			at(e) = 0.0f;
	}
	/* What other threads' copies of 16 bytes brought, once they have arrived. */
	static __device__ void see()
	{
	}
	/* W: [GROUP_TILES][SLAB][32] of 16 bytes; x: [NT * 8] rows as load_matrix wants them. */
	__device__ void multiply(const unsigned char *w, const unsigned char *x, int32_t tiles)
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5 & 3,
			      lane = (int32_t)threadIdx.x & 31;
		const uint4 *a_at = (const uint4 *)w + warp / ACROSS * TILES * SLAB * 32 + lane;
#pragma unroll
		for (int u = 0; u < SLAB; u += 2) {
			uint4 b[WIDTH];
			if (u >= tiles)
				break;
#pragma unroll
			for (int n = 0; n < WIDTH; n++)
				load_matrix(b[n], x, (warp % ACROSS * WIDTH + n) * 8, u * 2);
#pragma unroll
			for (int v = 0; v < 2; v++) {
				if (u + v >= tiles)
					break;
#pragma unroll
				for (int r = 0; r < TILES; r++) {
					const uint4 a = load_tile(a_at + (r * SLAB + u + v) * 32);
#pragma unroll
					for (int n = 0; n < WIDTH; n++)
						mma(sum[r][n], a,
							v == 0 ? make_uint2(b[n].x, b[n].y)
							       : make_uint2(b[n].z, b[n].w),
							T());
				}
			}
		}
		__syncwarp(); /* all lanes have read: lane 0 may say so */
	}
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* m64 n(8 NT) k16: the sums' list of registers, then A's four, B's descriptor. */
#define M2_8(c, i)                                                                                 \
	"+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]),                \
		"+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define M2_32(c, i) M2_8(c, i), M2_8(c, i + 8), M2_8(c, i + 16), M2_8(c, i + 24)
#define M2_WGMMA_OF(T, NAME, N, COUNT, SUMS, OPERANDS, ...)                                        \
	static __device__ inline void wgmma(float(&c)[COUNT], uint4 a, uint64_t b, T)              \
	{                                                                                          \
		asm volatile("{\n\t.reg .pred p;\n\tsetp.eq.u32 p, 0, 0;\n\t"                      \
			     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME       \
			     " {" SUMS "}, " OPERANDS ", p, 1, 1, 0;\n\t}"                         \
			     : __VA_ARGS__                                                         \
			     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b));                    \
	}
/* The same with A in shared memory too. */
#define M2_WGMMA_SHARED(T, NAME, N, COUNT, SUMS, OPERANDS, ...)                                    \
	static __device__ inline void wgmma(float(&c)[COUNT], uint64_t a, uint64_t b, T)           \
	{                                                                                          \
		asm volatile("{\n\t.reg .pred p;\n\tsetp.eq.u32 p, 0, 0;\n\t"                      \
			     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME       \
			     " {" SUMS "}, " OPERANDS ", p, 1, 1, 0, 0;\n\t}"                      \
			     : __VA_ARGS__                                                         \
			     : "l"(a), "l"(b));                                                    \
	}
#define M2_SUMS_8  "%0,%1,%2,%3,%4,%5,%6,%7"
#define M2_SUMS_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define M2_SUMS_32                                                                                 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                   \
	"%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define M2_SUMS_64                                                                                 \
	"%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                   \
	"%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                         \
	"%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                         \
	"%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define M2_WGMMA(T, NAME)                                                                          \
	M2_WGMMA_OF(T, NAME, 16, 8, M2_SUMS_8, "{%8,%9,%10,%11}, %12", M2_8(c, 0))                 \
	M2_WGMMA_OF(T, NAME, 32, 16, M2_SUMS_16, "{%16,%17,%18,%19}, %20", M2_8(c, 0), M2_8(c, 8)) \
	M2_WGMMA_OF(T, NAME, 64, 32, M2_SUMS_32, "{%32,%33,%34,%35}, %36", M2_32(c, 0))            \
	M2_WGMMA_OF(                                                                               \
		T, NAME, 128, 64, M2_SUMS_64, "{%64,%65,%66,%67}, %68", M2_32(c, 0), M2_32(c, 32)) \
	M2_WGMMA_SHARED(T, NAME, 64, 32, M2_SUMS_32, "%32, %33", M2_32(c, 0))                      \
	M2_WGMMA_SHARED(T, NAME, 128, 64, M2_SUMS_64, "%64, %65", M2_32(c, 0), M2_32(c, 32))
M2_WGMMA(__nv_bfloat16, "bf16")
M2_WGMMA(__half, "f16")
#undef M2_WGMMA
#undef M2_WGMMA_OF
#undef M2_WGMMA_SHARED
#undef M2_SUMS_8
#undef M2_SUMS_16
#undef M2_SUMS_32
#undef M2_SUMS_64
#undef M2_32
#undef M2_8

/* wgmma: a warp has 16 rows of W and all rows of x.  A comes from registers, or where it lies
 * (begin); B is x in shared memory, K-major, rows of 128 bytes in the 128-byte swizzle, which is the
 * permutation that load_matrix undoes; its eight-row pieces lie 1024 bytes apart. */
template <typename T, int NT> struct wgmma_core {
	enum { COUNT = NT * 4 };
	float sum[COUNT];

	__device__ float &at(int e)
	{
		return sum[e];
	}
	static __device__ int32_t row(int e)
	{
		const int32_t warp = (int32_t)threadIdx.x >> 5 & 3,
			      lane = (int32_t)threadIdx.x & 31;
		return warp * 16 + (lane >> 2) + (e >> 1 & 1) * 8;
	}
	static __device__ int32_t token(int e)
	{
		return e / 4 * 8 + ((int32_t)threadIdx.x & 3) * 2 + (e & 1);
	}
	__device__ void clear()
	{
#pragma unroll
		for (int e = 0; e < COUNT; e++)
			at(e) = 0.0f;
	}
	static __device__ void see()
	{
		show_to_wgmma();
	}
	/* The compiler neither reads the sums before here nor writes them behind. */
	__device__ void settle()
	{
#pragma unroll
		for (int e = 0; e < COUNT; e++)
			asm volatile("" : "+f"(at(e))::"memory");
	}
	/* W's operands of a slab: in registers, from [GROUP_TILES][SLAB][32] of 16 bytes. */
	struct operands {
		uint4 a[SLAB];

		__device__ void load(const unsigned char *w, int32_t tiles)
		{
			const int32_t warp = (int32_t)threadIdx.x >> 5 & 3,
				      lane = (int32_t)threadIdx.x & 31;
			const uint4 *a_at = (const uint4 *)w + warp * SLAB * 32 + lane;
#pragma unroll
			for (int u = 0; u < SLAB; u++)
				if (u < tiles)
					a[u] = load_tile(a_at + u * 32);
		}
	};
	/* x: address / 16; 1024 / 16 between pieces of eight rows; swizzle of 128 bytes. */
	static __device__ uint64_t of_x(const unsigned char *x)
	{
		return (uint64_t)((shared_at(x) & 0x3ffffu) >> 4) | (uint64_t)1 << 16 |
		       (uint64_t)64 << 32 | (uint64_t)1 << 62;
	}
	template <int Tiles>
	__device__ void multiply_tiles(const operands &of, const unsigned char *x)
	{
		const uint64_t b = of_x(x);
		settle();
		asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
		for (int u = 0; u < Tiles; u++)
			wgmma(sum, of.a[u], b + (uint64_t)(u * 2), T());
		asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
		wait<0>();
		settle();
	}
	/* All but the last `Pending` of what was begun have ended. */
	template <int Pending> static __device__ void wait()
	{
		asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
	}
	__device__ void multiply(const unsigned char *w, const unsigned char *x, int32_t tiles)
	{
		operands of;
		of.load(w, tiles);
		if (tiles == SLAB) {
			multiply_tiles<SLAB>(of, x);
			return;
		}
		for (int32_t u = 0; u < tiles; u++) {
			of.load(w + u * 512, 1);
			multiply_tiles<1>(of, x + u * 32);
		}
	}
	/* The same of W as product_wide.cu has it in shared memory, [SLAB][2][squares of eight][128 bytes], a
	 * group's squares from `w` on, `to_next` bytes to the next eight columns.  Begun only: until it is
	 * waited for nobody touches the sums, W and x, and the sums must be settled before and after. */
	template <int Tiles>
	__device__ void begin_tiles(const unsigned char *w, int32_t to_next, const unsigned char *x)
	{
		const uint64_t b = of_x(x);
		const uint64_t a = (uint64_t)((shared_at(w) & 0x3ffffu) >> 4) |
				   (uint64_t)(to_next / 16) << 16 | (uint64_t)(128 / 16) << 32;
		asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
		for (int u = 0; u < Tiles; u++)
			wgmma(sum, a + (uint64_t)(u * to_next / 8), b + (uint64_t)(u * 2), T());
		asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
	}
	__device__ void begin(
		const unsigned char *w, int32_t to_next, const unsigned char *x, int32_t tiles)
	{
		switch (tiles) {
		case SLAB:
			begin_tiles<SLAB>(w, to_next, x);
			break;
		case 3:
			begin_tiles<3>(w, to_next, x);
			break;
		case 2:
			begin_tiles<2>(w, to_next, x);
			break;
		default:
			begin_tiles<1>(w, to_next, x);
		}
	}
};

#else /* built without the instructions: the other core stands in */
template <typename T, int NT> struct wgmma_core : sync_core<T, NT> {
};
#endif
#else /* kernels of Hopper are empty elsewhere, and never launched */
template <typename T, int NT> struct sync_core {
};
template <typename T, int NT> struct wgmma_core {
};
#endif

#endif
