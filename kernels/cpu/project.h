/* project.h - a large matrix times the tokens of a step: in_proj, out_proj and the head.
 *
 * Few tokens: each panel is read from memory once and memory is the limit, so what comes next is
 * asked for while this is computed.  Many: arithmetic is the limit, so panels are widened once per
 * block of tokens whose inputs stay in the second cache.  The same bits in both: a sum runs over the
 * columns in ascending order, from the weight's own value as f32.
 */
#ifndef M2_KERNELS_CPU_PROJECT_H
#define M2_KERNELS_CPU_PROJECT_H

#include "kernels/cpu/model.h"

/* Where a tile of a product goes: rows [row, row + rows) of tokens [token, token + tokens), from
 * tile[t * M2_TILE_ROWS + r]. */
typedef void m2_cpu_sink(struct m2_model *model, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile);

/* A thread's part of matrix . inputs, and of `more` whose rows come after the matrix's (NULL, or 0
 * rows: none).  All threads call it; a barrier comes before anybody reads the result. */
void m2_cpu_project(struct m2_model *model, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_matrix *more, const struct m2_cpu_tiles *tiles,
	const struct m2_cpu_layer *layer, m2_cpu_sink *sink);

/* Before a barrier: ask memory for what this thread's part of the next product begins with. */
void m2_cpu_ask(const struct m2_model *model, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_cpu_tiles *tiles);

#endif
