/* pool.h - threads that run one function together and meet at barriers.
 *
 * The caller of m2_pool_run is thread 0; the others wait for it, first spinning for some tens of
 * microseconds (a step follows a step within that time when the host is busy serving), then asleep
 * in the kernel.  A pool has one caller at a time.  A NULL pool is a pool of one thread.
 */
#ifndef M2_KERNELS_CPU_POOL_H
#define M2_KERNELS_CPU_POOL_H

#include <stdint.h>

#include "common/err.h"

struct m2_pool;

typedef void m2_pool_fn(void *ctx, int32_t thread);

/* threads >= 1 including the caller's; *out is NULL for 1.  Destroy joins the threads. */
enum m2_err m2_pool_create(int32_t threads, struct m2_pool **out, struct m2_why *why);
void m2_pool_destroy(struct m2_pool **pool);

/* fn(ctx, 0..threads-1), each on its own thread; returns when all have returned.  What they wrote
 * is then visible to the caller. */
void m2_pool_run(struct m2_pool *pool, m2_pool_fn *fn, void *ctx);

/* Inside fn: wait until every thread is here.  What was written before by any is visible after to
 * all.  Every thread must call it equally often. */
void m2_pool_barrier(struct m2_pool *pool);

#endif
