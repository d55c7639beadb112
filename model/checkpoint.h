/* checkpoint.h - a directory with a Mamba-2 checkpoint: config, tensors, and the two held together.
 *
 * open() finds config.json, the container (model.safetensors, or the shards of
 * model.safetensors.index.json; the other containers come with the zoo), maps tensor names of the
 * dialects to enum m2_weight, checks every shape against the config, and refuses what is missing,
 * unknown or of a type that cannot be run - naming the tensor and both numbers.  After that it is a
 * m2_weight_source for a backend.
 *
 * Blocks on the disk.  Threads: one at a time per checkpoint, except source.read (any).
 */
#ifndef M2_MODEL_CHECKPOINT_H
#define M2_MODEL_CHECKPOINT_H

#include "kernels/backend.h"
#include "model/config.h"

struct m2_checkpoint; /* opaque */

enum m2_err m2_checkpoint_open(
	const char *directory, int32_t norm_groups, struct m2_checkpoint **out, struct m2_why *why);
void m2_checkpoint_close(struct m2_checkpoint **checkpoint);

const struct m2_model_config *m2_checkpoint_config(const struct m2_checkpoint *checkpoint);

/* The source lives as long as the checkpoint. */
struct m2_weight_source m2_checkpoint_source(struct m2_checkpoint *checkpoint);

/* Facts for show and for the log. */
uint64_t m2_checkpoint_parameters(const struct m2_checkpoint *checkpoint);
uint64_t m2_checkpoint_bytes(
	const struct m2_checkpoint *checkpoint); /* of the tensors, as stored */
const char *m2_checkpoint_container(
	const struct m2_checkpoint *checkpoint); /* "safetensors, 9 shards" */

#endif
