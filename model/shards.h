/* shards.h - the safetensors files of one checkpoint, as one set of tensors.
 *
 * Internal to the room.  Either model.safetensors alone, or the files of
 * model.safetensors.index.json; the index wins where both lie there, and they are never mixed.
 * Blocks on the disk.  Threads: reading tensors from any, the rest one at a time.
 */
#ifndef M2_MODEL_SHARDS_H
#define M2_MODEL_SHARDS_H

#include "model/safetensors.h"

struct m2_shards {
	struct m2_tensor_file **files;
	size_t n_files;
};

/* directory: its path, for sentences.  Errors: ENOENT (no container), EUNSUPPORTED (one that is not
 * read yet), EFORMAT, EACCES, EIO, ENOMEM. */
enum m2_err m2_shards_open(
	int dirfd, const char *directory, struct m2_shards *out, struct m2_why *why);
void m2_shards_finish(struct m2_shards *shards); /* safe on zeroed memory */

/* The index alone: weight_map checked, every file name once in *names (malloc'd array and strings).
 * For the tests of its rules, which need no files. */
enum m2_err m2_shards_parse_index(
	const char *text, size_t length, char ***names, size_t *count, struct m2_why *why);

#endif
