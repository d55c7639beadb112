/* checkpoint_places.h - which tensor of which file is which weight of a described model.
 * Internal to the room.  Blocks on the disk only to compare a tied head.  Threads: no shared state. */
#ifndef M2_MODEL_CHECKPOINT_PLACES_H
#define M2_MODEL_CHECKPOINT_PLACES_H

#include "model/config.h"
#include "model/shards.h"

/* Where a weight lies; tensor NULL: the model has none of it. */
struct m2_place {
	const struct m2_tensor_file *file;
	const struct m2_tensor *tensor;
};

/* *out: [1 + L][M2_W_COUNT], row 0 the model's own; malloc'd, the caller frees; it points into the
 * shards.  Every tensor is known and wanted, every wanted one is there, shapes are the config's.
 * Errors: EFORMAT, EUNSUPPORTED, EIO, ENOMEM; the sentence names the tensor. */
enum m2_err m2_places_fill(const struct m2_model_config *config, const struct m2_shards *shards,
	struct m2_place **out, struct m2_why *why);

/* layer -1: the model's own. */
static inline struct m2_place *m2_place_of(struct m2_place *places, int layer, enum m2_weight which)
{
	return &places[(size_t)(layer + 1) * M2_W_COUNT + which];
}

#endif
