/* limits.c - what the machine can do at most, measured in the same run.
 *
 * A backend that can measure its device is asked.  Otherwise the device is this host's processor: as many
 * threads as the backend has read memory that no cache holds, and multiply f32 numbers in registers.  The
 * best of a few passes counts: on a shared machine the others met a neighbour.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/bench/bench.h"

enum { PASSES = 5, MOST_THREADS = 256, STREAMS = 4, LINE = 64, AHEAD = 1024, CHAINS = 12 };

static const size_t read_bytes = (size_t)512 << 20;
static const int64_t multiplies = 20000000; /* vector multiply-adds of a thread and pass */

/* An array whose loops are unrolled is kept in registers. */
#define IN_REGISTERS _Pragma("GCC unroll 16")

/* ---- reading -------------------------------------------------------------------------------- */

typedef uint64_t wide __attribute__((vector_size(16)));

/* Several places at a time and asking ahead: one plain walk gets half of what the memory can give. */
static uint64_t read_part(const char *first, size_t lines)
{
	wide sum[4] = {{0}, {0}, {0}, {0}};
	for (size_t line = 0; line < lines; line++) {
		for (size_t stream = 0; stream < STREAMS; stream++) {
			const char *at = first + (stream * lines + line) * LINE;
			const wide *words = (const wide *)(const void *)at;
			__builtin_prefetch(at + AHEAD);
			IN_REGISTERS
			for (int i = 0; i < 4; i++)
				sum[i] += words[i];
		}
	}
	const wide all = sum[0] + sum[1] + sum[2] + sum[3];
	return all[0] + all[1];
}

/* ---- multiplying ---------------------------------------------------------------------------- */

/* Operations of `rounds` rounds of independent multiply-adds; what they give goes to *sink. */
typedef double multiply_fn(int64_t rounds, float *sink);

static double multiply_plain(int64_t rounds, float *sink)
{
	typedef float four __attribute__((vector_size(16)));
	four c[CHAINS];
	const four a = {0.999f, 0.998f, 0.997f, 0.996f}, b = {1e-3f, 2e-3f, 3e-3f, 4e-3f};
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		c[j] = (four){(float)j, 1.0f, 2.0f, 3.0f};
	for (int64_t i = 0; i < rounds; i++) {
		IN_REGISTERS
		for (int j = 0; j < CHAINS; j++)
			c[j] = c[j] * a + b;
	}
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		*sink += c[j][0];
	return 2.0 * 4 * CHAINS * (double)rounds;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static double multiply_avx2(int64_t rounds, float *sink)
{
	__m256 c[CHAINS];
	const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		c[j] = _mm256_set1_ps((float)j);
	for (int64_t i = 0; i < rounds; i++) {
		IN_REGISTERS
		for (int j = 0; j < CHAINS; j++)
			c[j] = _mm256_fmadd_ps(c[j], a, b);
	}
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		*sink += _mm256_cvtss_f32(c[j]);
	return 2.0 * 8 * CHAINS * (double)rounds;
}

__attribute__((target("avx512f"))) static double multiply_avx512(int64_t rounds, float *sink)
{
	__m512 c[CHAINS];
	const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		c[j] = _mm512_set1_ps((float)j);
	for (int64_t i = 0; i < rounds; i++) {
		IN_REGISTERS
		for (int j = 0; j < CHAINS; j++)
			c[j] = _mm512_fmadd_ps(c[j], a, b);
	}
	IN_REGISTERS
	for (int j = 0; j < CHAINS; j++)
		*sink += _mm512_cvtss_f32(c[j]);
	return 2.0 * 16 * CHAINS * (double)rounds;
}
#endif

static multiply_fn *multiplier(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f"))
		return multiply_avx512;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return multiply_avx2;
#endif
	return multiply_plain;
}

/* ---- threads -------------------------------------------------------------------------------- */

struct part {
	pthread_mutex_t *gate; /* open when it is known how many there are */
	pthread_barrier_t *together;
	const char *memory; /* this thread's */
	size_t lines;       /* of one stream */
	multiply_fn *multiply;
	double operations;
	float sink;
	uint64_t sum;
	double *read_seconds;     /* [PASSES], the first thread's; NULL: another's */
	double *multiply_seconds; /* the same */
};

static void *work(void *arg)
{
	struct part *p = arg;
	(void)pthread_mutex_lock(p->gate);
	(void)pthread_mutex_unlock(p->gate);
	for (int pass = 0; pass < PASSES; pass++) {
		(void)pthread_barrier_wait(p->together);
		const double start = bench_now();
		p->sum += read_part(p->memory, p->lines);
		(void)pthread_barrier_wait(p->together);
		const double read = bench_now();
		p->operations = p->multiply(multiplies / CHAINS, &p->sink);
		(void)pthread_barrier_wait(p->together);
		if (p->read_seconds == NULL)
			continue;
		p->read_seconds[pass] = read - start;
		p->multiply_seconds[pass] = bench_now() - read;
	}
	return NULL;
}

static double best_of(const double *seconds)
{
	double best = INFINITY;
	for (int i = 0; i < PASSES; i++)
		best = fmin(best, seconds[i]);
	return best;
}

/* As many threads as can be had, up to this many, over one run of memory. */
static struct bench_limits measure_threads(int32_t threads, char *memory)
{
	static struct part parts[MOST_THREADS];
	pthread_t ids[MOST_THREADS];
	pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
	pthread_barrier_t together;
	double read[PASSES], multiply[PASSES];
	const size_t lines = read_bytes / LINE / STREAMS / (size_t)threads;
	for (int32_t i = 0; i < threads; i++)
		parts[i] = (struct part){.gate = &gate,
			.together = &together,
			.memory = memory + (size_t)i * lines * LINE * STREAMS,
			.lines = lines,
			.multiply = multiplier(),
			.read_seconds = i == 0 ? read : NULL,
			.multiply_seconds = i == 0 ? multiply : NULL};
	(void)pthread_mutex_lock(&gate);
	int32_t n = 1;
	while (n < threads && pthread_create(&ids[n], NULL, work, &parts[n]) == 0)
		n++;
	(void)pthread_barrier_init(&together, NULL, (unsigned)n);
	(void)pthread_mutex_unlock(&gate);
	(void)work(&parts[0]);
	for (int32_t i = 1; i < n; i++)
		(void)pthread_join(ids[i], NULL);
	(void)pthread_barrier_destroy(&together);
	return (struct bench_limits){
		.bytes = (double)(lines * LINE * STREAMS) * n / best_of(read),
		.operations = parts[0].operations * n / best_of(multiply),
	};
}

static int32_t threads_of(const struct bench_options *o)
{
	cpu_set_t set;
	int32_t threads = o->threads;
	if (strcmp(o->device, "cpu") != 0)
		return 1; /* the definition has one */
	if (threads == 0 && sched_getaffinity(0, sizeof set, &set) == 0)
		threads = CPU_COUNT(&set);
	return threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads;
}

enum m2_err bench_measure_limits(struct bench_run *b, struct m2_why *why)
{
	if (b->backend->measure != NULL)
		return b->backend->measure(b->device, &b->limits.bytes, &b->limits.operations, why);
	char *memory = aligned_alloc(LINE, read_bytes + AHEAD);
	if (memory == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory to measure how fast it is read");
	memset(memory, 1, read_bytes + AHEAD);
	b->limits = measure_threads(threads_of(b->o), memory);
	free(memory);
	return M2_OK;
}
