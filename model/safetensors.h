/* safetensors.h - reading safetensors files that may be hostile.
 *
 * Layout: u64 little-endian header length, JSON header, data.  Every rule of the reference reader and
 * ours (semantics report 5.1: no holes, no overlap, exact end, no duplicate names, bounded depth,
 * dims, names and counts) is checked before a tensor can be read.  Data is read with pread(2), never
 * mapped: a file that shrinks gives M2_EIO, not a signal.
 *
 * Threads: an opened file may be read from several threads at once.
 */
#ifndef M2_MODEL_SAFETENSORS_H
#define M2_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/err.h"

enum { M2_TENSOR_DIMS = 8 };

struct m2_tensor {
	const char *name; /* owned by the file */
	enum m2_dtype
		dtype; /* NONE: a type of the format that no weight of ours has (dtype_name) */
	char dtype_name[16];
	int32_t n_dims;
	int64_t shape[M2_TENSOR_DIMS];
	uint64_t begin; /* offset in the file */
	uint64_t bytes;
};

struct m2_safetensors; /* opaque: one open file and its table */

/* Check a header alone (for the fuzzer and for in-memory tests): data_bytes is what follows it. */
enum m2_err m2_safetensors_parse_header(const char *json, size_t length, uint64_t data_bytes,
	const char *what, struct m2_safetensors **out, struct m2_why *why);

/* dirfd/name: opened with O_NOFOLLOW not set (hub caches link), regular files only. */
enum m2_err m2_safetensors_open(
	int dirfd, const char *name, struct m2_safetensors **out, struct m2_why *why);
void m2_safetensors_close(struct m2_safetensors **file);

size_t m2_safetensors_count(const struct m2_safetensors *file);
const struct m2_tensor *m2_safetensors_at(const struct m2_safetensors *file, size_t index);
const struct m2_tensor *m2_safetensors_find(const struct m2_safetensors *file, const char *name);

/* The whole tensor, tensor->bytes bytes. */
enum m2_err m2_safetensors_read(const struct m2_safetensors *file, const struct m2_tensor *tensor,
	void *dst, struct m2_why *why);

#endif
