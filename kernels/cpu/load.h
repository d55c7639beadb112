/* load.h - filling a model's weights from a source, by several threads; private to kernels/cpu and
 * its tests.
 */
#ifndef M2_KERNELS_CPU_LOAD_H
#define M2_KERNELS_CPU_LOAD_H

#include "kernels/cpu/model.h"

/* How a load is cut up. */
struct m2_cpu_loading {
	int32_t threads; /* the caller's included, >= 1; fewer if they cannot be started */
	size_t share;    /* bytes of a matrix, as resident, that a thread takes at a time */
	size_t piece;    /* bytes, as stored, that it reads at a time, if they are whole panels */
	size_t buffer; /* bytes of each thread's buffer, which bounds every read; >= piece, 1024 */
};

/* Up to 4 threads, at most as many as the device has. */
struct m2_cpu_loading m2_cpu_loading_usual(const struct m2_device *device);

/* Read every weight of a laid out model once, pack it or widen it to its place, then bring the pages
 * of the state.  All of a matrix is written, its padding too; between the pieces of the region
 * nothing is.  Blocks; the threads are this call's own, not the device's, which may be in a step of
 * another model.  The first error stops all threads and is returned; what was written stays. */
enum m2_err m2_cpu_load_weights(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, const struct m2_cpu_loading *loading,
	struct m2_why *why);

/* The large ones, which are packed. */
static inline bool m2_weight_is_matrix(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_HEAD || which == M2_W_IN_PROJ ||
	       which == M2_W_OUT_PROJ;
}

/* Those there is one of, under layer -1. */
static inline bool m2_weight_of_model(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_FINAL_NORM || which == M2_W_HEAD;
}

#endif
