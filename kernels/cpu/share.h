/* share.h - who does what of a phase, so that all threads finish together.
 *
 * The parts of a phase are numbered.  Every thread has a run of them of its own, the same in every
 * step, and takes from it piece by piece; one that has finished takes from what the others have
 * left.  So memory that a thread brought is mostly read by it, and a thread that lost its processor
 * for a while holds up nobody for long.  Parts write to places of their own: who did one changes no
 * bit.
 *
 * All threads go through the same phases, with a barrier between any two that take parts.  A
 * thread's count is one of a pair, used in turn: it is cleared in the phase after, when nobody looks
 * at it.
 */
#ifndef M2_KERNELS_CPU_SHARE_H
#define M2_KERNELS_CPU_SHARE_H

#include "kernels/cpu/model.h"

struct m2_cpu_taking {
	int32_t total; /* parts */
	int32_t piece; /* how many are taken at a time */
	int32_t which; /* of the pair */
	int32_t tried; /* threads whose parts are all taken */
};

static inline struct m2_cpu_taking m2_cpu_begin(
	struct m2_model *model, int32_t thread, int32_t total, int32_t piece)
{
	struct m2_cpu_thread *own = &model->threads[thread];
	own->phase ^= 1;
	atomic_store_explicit(&own->taken[own->phase ^ 1], 0, memory_order_relaxed);
	return (struct m2_cpu_taking){.total = total, .piece = piece, .which = own->phase};
}

/* The next parts [*first, *end) for this thread; false: there are none left. */
static inline bool m2_cpu_take(struct m2_model *model, int32_t thread, struct m2_cpu_taking *taking,
	int32_t *first, int32_t *end)
{
	const int32_t threads = model->device->threads;
	for (; taking->tried < threads; taking->tried++) {
		const int32_t whose = (thread + taking->tried) % threads;
		atomic_int *taken = &model->threads[whose].taken[taking->which];
		int32_t from, to;
		m2_cpu_share(model, whose, taking->total, &from, &to);
		if (atomic_load_explicit(taken, memory_order_relaxed) >= to - from)
			continue;
		const int32_t at =
			atomic_fetch_add_explicit(taken, taking->piece, memory_order_relaxed);
		if (at >= to - from)
			continue;
		*first = from + at;
		*end = to - *first < taking->piece ? to : *first + taking->piece;
		return true;
	}
	return false;
}

#endif
