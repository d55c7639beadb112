/* shards.h - the files that hold one checkpoint's tensors, whatever their format.
 *
 * Internal to the room.  A directory may hold the same model in several containers; one is chosen by a
 * fixed precedence (semantics report, 4.5) and they are never mixed:
 * model.safetensors.index.json, model.safetensors, consolidated.safetensors,
 * pytorch_model.bin.index.json, pytorch_model.bin, the only *.gguf.
 * Blocks on the disk.  Threads: reading tensors from any, the rest one at a time.
 */
#ifndef M2_MODEL_SHARDS_H
#define M2_MODEL_SHARDS_H

#include <stdbool.h>

#include "model/gguf.h"
#include "model/tensor_file.h"

enum m2_container {
	M2_CONTAINER_NONE,
	M2_CONTAINER_SAFETENSORS,
	M2_CONTAINER_PYTORCH,
	M2_CONTAINER_GGUF
};

struct m2_shards_choice {
	enum m2_container container; /* NONE: the directory holds none that is known */
	bool is_index;               /* name is that of an index, not of a container */
	char name[256];
};

struct m2_shards {
	enum m2_container container;
	struct m2_tensor_file **files; /* [n_files] */
	size_t n_files;
	char **read; /* [n_read] names of the files it was read from, the index first */
	size_t n_read;
	struct m2_gguf *gguf; /* the keys of a GGUF file, else NULL */
};

/* By names alone, nothing is opened.  directory: its path, for sentences.  Errors: EINVAL (several GGUF
 * files and nothing else), EACCES, EIO (the directory cannot be listed). */
enum m2_err m2_shards_choose(
	int dirfd, const char *directory, struct m2_shards_choice *out, struct m2_why *why);

/* choice: one with a container.  Errors: ENOENT, EFORMAT, EUNSUPPORTED, ELIMIT, EACCES, EIO, ENOMEM. */
enum m2_err m2_shards_open(int dirfd, const char *directory, const struct m2_shards_choice *choice,
	struct m2_shards *out, struct m2_why *why);

/* A GGUF file by its path. */
enum m2_err m2_shards_open_gguf(const char *path, struct m2_shards *out, struct m2_why *why);

void m2_shards_finish(struct m2_shards *shards); /* safe on zeroed memory */

/* The index alone: weight_map checked, every file name once in *names (malloc'd array and strings).
 * For the tests of its rules, which need no files. */
enum m2_err m2_shards_parse_index(
	const char *text, size_t length, char ***names, size_t *count, struct m2_why *why);

#endif
