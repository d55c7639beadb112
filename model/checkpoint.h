/* checkpoint.h - a Mamba-2 checkpoint as it was published: config, tensors, and the two held together.
 *
 * open() takes a directory (config.json or params.json, and one container: safetensors, PyTorch's
 * pytorch_model.bin, either in shards with an index, or GGUF) or the path of one *.gguf file.  It maps
 * tensor names of the dialects to enum m2_weight, checks every shape against the config, and refuses
 * what is missing, unknown or of a type that cannot be run - naming the tensor and both numbers.  After
 * that it is a m2_weight_source for a backend.  Which container is taken where several lie together:
 * model/shards.h.
 *
 * Blocks on the disk.  Threads: one at a time per checkpoint, except source.read (any).
 */
#ifndef M2_MODEL_CHECKPOINT_H
#define M2_MODEL_CHECKPOINT_H

#include "kernels/backend.h"
#include "model/config.h"

struct m2_checkpoint; /* opaque */

enum m2_err m2_checkpoint_open(
	const char *path, int32_t norm_groups, struct m2_checkpoint **out, struct m2_why *why);
void m2_checkpoint_close(struct m2_checkpoint **checkpoint);

const struct m2_model_config *m2_checkpoint_config(const struct m2_checkpoint *checkpoint);

/* The source lives as long as the checkpoint. */
struct m2_weight_source m2_checkpoint_source(struct m2_checkpoint *checkpoint);

/* Facts for show and for the log. */
uint64_t m2_checkpoint_parameters(const struct m2_checkpoint *checkpoint);
uint64_t m2_checkpoint_bytes(
	const struct m2_checkpoint *checkpoint); /* of the tensors, as stored */
/* Their elements by dtype, as stored; a tied head is counted once, in the embedding. */
void m2_checkpoint_elements(
	const struct m2_checkpoint *checkpoint, uint64_t elements[M2_DTYPE_F64 + 1]);
/* "safetensors", "safetensors, 9 shards", "pytorch", "pytorch, 2 shards", "gguf" */
const char *m2_checkpoint_container(const struct m2_checkpoint *checkpoint);

/* Paths of every file that it was read from - config, generation config, index, containers - for
 * checksums.  They begin with the path that was opened; owned by the checkpoint. */
size_t m2_checkpoint_n_files(const struct m2_checkpoint *checkpoint);
const char *m2_checkpoint_file(const struct m2_checkpoint *checkpoint, size_t index);

#endif
