/* measure.cu - the device's own limits, for benches: bytes read and 16-bit products per second.
 *
 * Reading: every processor streams its share of memory far larger than the caches.  Products: on Hopper
 * warpgroups issue wgmma.m64n256k16 from shared memory and nothing else, elsewhere warps issue mma.m16n8k16
 * from registers; no kernel that also moves data goes faster.  A figure is the best of a few launches:
 * a limit is what can be reached.
 */
#include "kernels/cuda/product.cuh"

enum { MEASURED = 5, READERS = 512, LOADS = 4, ROUNDS = 2000, SLABS = 4 };

__global__ void __launch_bounds__(READERS)
	reading_kernel(const uint4 *memory, size_t n, uint32_t *sink)
{
	const size_t stride = (size_t)gridDim.x * READERS;
	uint4 sum = {0, 0, 0, 0};
	for (size_t i = (size_t)blockIdx.x * READERS + threadIdx.x; i < n; i += stride * LOADS) {
		uint4 v[LOADS] = {};
#pragma unroll
		for (int k = 0; k < LOADS; k++)
			if (i + (size_t)k * stride < n)
				v[k] = __ldcs(memory + i + (size_t)k * stride);
#pragma unroll
		for (int k = 0; k < LOADS; k++) {
			sum.x ^= v[k].x;
			sum.y ^= v[k].y;
			sum.z ^= v[k].z;
			sum.w ^= v[k].w;
		}
	}
	if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x5eed5eedu) /* never, which nobody can prove */
		*sink = sum.x;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
/* Where an operand lies in shared memory: 8 x 8 pieces of 128 bytes, two along k, no swizzle. */
__device__ inline uint64_t operand_at(const void *shared)
{
	const uint64_t address = (uint64_t)__cvta_generic_to_shared(shared);
	return (address & 0x3ffffu) >> 4 | (uint64_t)(128 >> 4) << 16 | (uint64_t)(256 >> 4) << 32;
}

#define FOUR(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
__device__ inline void wgmma(float (&d)[128], uint64_t a, uint64_t b)
{
	asm volatile(
		"wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
		"{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		"%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
		"%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
		"%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
		"%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
		"%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
		"%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
		"%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}"
		", %128, %129, 1, 1, 1, 0, 0;"
		: FOUR(0), FOUR(4), FOUR(8), FOUR(12), FOUR(16), FOUR(20), FOUR(24), FOUR(28),
		FOUR(32), FOUR(36), FOUR(40), FOUR(44), FOUR(48), FOUR(52), FOUR(56), FOUR(60),
		FOUR(64), FOUR(68), FOUR(72), FOUR(76), FOUR(80), FOUR(84), FOUR(88), FOUR(92),
		FOUR(96), FOUR(100), FOUR(104), FOUR(108), FOUR(112), FOUR(116), FOUR(120),
		FOUR(124)
		: "l"(a), "l"(b));
}
#undef FOUR

__global__ void __launch_bounds__(THREADS) products_kernel(double *operations, float *sink)
{
	__shared__ alignas(128) uint16_t a[SLABS][64 * 16], b[SLABS][256 * 16];
	for (int i = (int)threadIdx.x; i < SLABS * 64 * 16; i += THREADS)
		a[0][i] = (uint16_t)(0x3f80u | (i * 2654435761u >> 20 & 0x807fu));
	for (int i = (int)threadIdx.x; i < SLABS * 256 * 16; i += THREADS)
		b[0][i] = (uint16_t)(0x3f80u | (i * 2246822519u >> 16 & 0x807fu));
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
	__syncthreads();
	float d[128];
	for (int i = 0; i < 128; i++)
		d[i] = 0.0f;
	for (int round = 0; round < ROUNDS; round++) {
		asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
		for (int k = 0; k < SLABS; k++)
			wgmma(d, operand_at(a[k]), operand_at(b[k]));
		asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
	}
	asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
	float sum = 0.0f;
	for (int i = 0; i < 128; i++)
		sum += d[i];
	sink[(size_t)blockIdx.x * THREADS + threadIdx.x] = sum;
	if (blockIdx.x == 0 && threadIdx.x == 0)
		*operations = 2.0 * 64 * 256 * 16 * SLABS * ROUNDS * (THREADS / 128);
}
#else
__global__ void __launch_bounds__(THREADS) products_kernel(double *operations, float *sink)
{
	const uint32_t bits = 0x3f803f80u | (threadIdx.x * 2654435761u & 0x007f007fu);
	const uint4 a = {bits, bits ^ 0x80000000u, bits ^ 0x8000u, bits};
	const uint2 b = {bits ^ 0x80008000u, bits};
	float c[8][4] = {};
	for (int round = 0; round < ROUNDS * SLABS; round++) {
#pragma unroll
		for (int k = 0; k < 8; k++)
			mma(c[k], a, b, __nv_bfloat16());
	}
	float sum = 0.0f;
	for (int k = 0; k < 8; k++)
		sum += c[k][0] + c[k][1] + c[k][2] + c[k][3];
	sink[(size_t)blockIdx.x * THREADS + threadIdx.x] = sum;
	if (blockIdx.x == 0 && threadIdx.x == 0)
		*operations = 2.0 * 16 * 8 * 16 * 8 * SLABS * ROUNDS * (THREADS / 32);
}
#endif

/* The best time of some launches, in seconds, after one that is not timed. */
template <typename Launch>
static cudaError_t best_time(cudaStream_t stream, Launch launch, double *seconds)
{
	cudaEvent_t begin = nullptr, end = nullptr;
	cudaError_t error = cudaEventCreate(&begin);
	if (error == cudaSuccess)
		error = cudaEventCreate(&end);
	*seconds = 1e30;
	for (int i = -1; i < MEASURED && error == cudaSuccess; i++) {
		float ms = 0.0f;
		(void)cudaEventRecord(begin, stream);
		launch();
		(void)cudaEventRecord(end, stream);
		error = cudaGetLastError();
		if (error == cudaSuccess)
			error = cudaEventSynchronize(end);
		if (error == cudaSuccess)
			error = cudaEventElapsedTime(&ms, begin, end);
		if (i >= 0 && ms > 0.0f && 1e-3 * ms < *seconds)
			*seconds = 1e-3 * ms;
	}
	if (begin != nullptr)
		(void)cudaEventDestroy(begin);
	if (end != nullptr)
		(void)cudaEventDestroy(end);
	return error;
}

cudaError_t m2_cuda_measure_reading(
	cudaStream_t stream, void *memory, size_t bytes, double *per_second)
{
	const unsigned blocks = (unsigned)device_limits().processors * 4;
	double seconds = 0.0;
	const cudaError_t error = best_time(
		stream,
		[&] {
			reading_kernel<<<blocks, READERS, 0, stream>>>(
				(const uint4 *)memory, bytes / sizeof(uint4), (uint32_t *)memory);
		},
		&seconds);
	*per_second = (double)bytes / seconds;
	return error;
}

cudaError_t m2_cuda_measure_products(cudaStream_t stream, void *scratch, double *per_second)
{
	const unsigned blocks = (unsigned)device_limits().processors;
	double seconds = 0.0, operations = 0.0;
	cudaError_t error = best_time(
		stream,
		[&] {
			products_kernel<<<blocks, THREADS, 0, stream>>>(
				(double *)scratch, (float *)scratch + 64);
		},
		&seconds);
	if (error == cudaSuccess)
		error = cudaMemcpyAsync(
			&operations, scratch, sizeof operations, cudaMemcpyDeviceToHost, stream);
	if (error == cudaSuccess)
		error = cudaStreamSynchronize(stream);
	*per_second = operations * blocks / seconds;
	return error;
}
