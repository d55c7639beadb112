/* pool.c - a generation counter to start on, a counting barrier to meet at, futexes to sleep on.
 *
 * No lock and no system call while everybody is awake.  Two words are waited for: `generation`,
 * which the caller moves on to start a run, and `phase`, which the last thread to arrive at a
 * barrier moves on.  Beside each stands the number of sleepers, so that the one who moves it knows
 * whether the kernel has to be asked.  Order: a sleeper counts itself and then compares the word
 * (the kernel does, atomically); the mover changes the word and then reads the count; sequentially
 * consistent, so one of them sees the other.
 */
#include "kernels/cpu/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 600 }; /* about 30 microseconds of pause instructions */

struct gate {
	_Alignas(64) atomic_uint word;
	atomic_uint sleepers;
};

struct worker {
	struct m2_pool *pool;
	int32_t index;
	pthread_t thread;
};

struct m2_pool {
	struct gate generation;
	struct gate phase;
	_Alignas(64) atomic_uint arrived;
	uint32_t threads;
	m2_pool_fn *fn; /* NULL: end; written before generation moves, read after */
	void *ctx;
	struct worker workers[]; /* threads - 1, for the threads from 1 on */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static void gate_wait(struct gate *gate, unsigned old)
{
	for (int i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(&gate->word, memory_order_acquire) != old)
			return;
		relax();
	}
	atomic_fetch_add(&gate->sleepers, 1);
	while (atomic_load(&gate->word) == old)
		(void)syscall(SYS_futex, &gate->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
	atomic_fetch_sub(&gate->sleepers, 1);
}

static void gate_move(struct gate *gate)
{
	atomic_fetch_add(&gate->word, 1);
	if (atomic_load(&gate->sleepers) != 0)
		(void)syscall(SYS_futex, &gate->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void m2_pool_barrier(struct m2_pool *pool)
{
	if (pool == NULL)
		return;
	/* Read before arriving: it cannot move on until this thread has arrived. */
	const unsigned phase = atomic_load_explicit(&pool->phase.word, memory_order_relaxed);
	if (atomic_fetch_add(&pool->arrived, 1) + 1 == pool->threads) {
		atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
		gate_move(&pool->phase);
	} else {
		gate_wait(&pool->phase, phase);
	}
}

static void *work(void *arg)
{
	const struct worker *self = arg;
	struct m2_pool *pool = self->pool;
	for (unsigned generation = 0;; generation++) {
		gate_wait(&pool->generation, generation);
		if (pool->fn == NULL)
			return NULL;
		pool->fn(pool->ctx, self->index);
		m2_pool_barrier(pool);
	}
}

void m2_pool_run(struct m2_pool *pool, m2_pool_fn *fn, void *ctx)
{
	if (pool == NULL) {
		fn(ctx, 0);
		return;
	}
	pool->fn = fn;
	pool->ctx = ctx;
	gate_move(&pool->generation);
	fn(ctx, 0);
	m2_pool_barrier(pool);
}

/* End the workers 0..started-1 and give everything back. */
static void finish(struct m2_pool *pool, uint32_t started)
{
	pool->fn = NULL;
	gate_move(&pool->generation);
	for (uint32_t i = 0; i < started; i++)
		(void)pthread_join(pool->workers[i].thread, NULL);
	free(pool);
}

enum m2_err m2_pool_create(int32_t threads, struct m2_pool **out, struct m2_why *why)
{
	*out = NULL;
	if (threads <= 1)
		return M2_OK;
	const uint32_t others = (uint32_t)threads - 1;
	const size_t bytes = sizeof(struct m2_pool) + others * sizeof(struct worker);
	struct m2_pool *pool = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
	if (pool == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %d threads", threads);
	memset(pool, 0, bytes);
	pool->threads = (uint32_t)threads;

	/* Signals are for the threads that expect them. */
	sigset_t all, before;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = 0;
	uint32_t started = 0;
	for (; started < others && failed == 0; started += failed == 0) {
		struct worker *worker = &pool->workers[started];
		worker->pool = pool;
		worker->index = (int32_t)started + 1;
		failed = pthread_create(&worker->thread, NULL, work, worker);
	}
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed != 0) {
		finish(pool, started);
		return m2_fail(M2_ENOMEM, why, "thread %u of %d could not be started: %s",
			started + 1, threads, strerror(failed));
	}
	*out = pool;
	return M2_OK;
}

void m2_pool_destroy(struct m2_pool **pool)
{
	struct m2_pool *gone = *pool;
	*pool = NULL;
	if (gone != NULL)
		finish(gone, gone->threads - 1);
}
