/* pick.h - the greedy choice from one row of logits, for backends whose logits are in host memory.
 *
 * One plain function, so that all of them choose alike; kernels/cuda has its own.
 */
#ifndef M2_KERNELS_PICK_H
#define M2_KERNELS_PICK_H

#include "kernels/backend.h"

/* *out from row[0..limit), limit >= 1, as struct m2_pick says.  The bits depend on the row alone, not on
 * the processor: plain arithmetic, no libm.  The probability is summed in f64.  Any thread. */
void m2_pick_row(const float *row, int32_t limit, struct m2_pick *out);

/* The limit of an item's pick in a model of vocab_rows. */
static inline int32_t m2_pick_limit(const struct m2_work *work, int32_t vocab_rows)
{
	return work->pick_limit > 0 ? work->pick_limit : vocab_rows;
}

#endif
