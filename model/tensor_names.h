/* tensor_names.h - from a tensor's name in a file to what it is, and to the shape it must have.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_TENSOR_NAMES_H
#define M2_MODEL_TENSOR_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

enum m2_tensor_role {
	M2_TENSOR_WEIGHT,  /* *layer and *which say which */
	M2_TENSOR_IGNORED, /* known, and of no use to inference */
	M2_TENSOR_UNKNOWN
};

/* Names of all dialects: an optional `model.`, an optional `backbone.`, embedding(s) in the singular
 * and the plural (semantics report, 4.1).  *layer is -1 for the model's own. */
enum m2_tensor_role m2_tensor_role_of(const char *name, int *layer, enum m2_weight *which);

/* The usual name of a weight, for sentences about one that is missing. */
void m2_tensor_usual_name(int layer, enum m2_weight which, char *out, size_t size);

/* Dimensions of a weight under a checked description: 1 or 2, or 0 when the model has none of it. */
int m2_tensor_wanted_shape(const struct m2_model_desc *m, enum m2_weight which, int64_t shape[2]);

#endif
