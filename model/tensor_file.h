/* tensor_file.h - one open file of tensors, whatever its format.
 *
 * safetensors, PyTorch's zip and GGUF differ in how they say where a tensor lies; once that is said
 * and checked, a tensor is a run of bytes in a file, row-major, and everything behind this header is
 * the same for all.  A format's reader (safetensors.h, pytorch.h, gguf.h) makes one of these.  Data is
 * read with pread(2), never mapped: a file that shrinks gives M2_EIO, not a signal.
 *
 * Threads: an opened file may be read from several threads at once.
 */
#ifndef M2_MODEL_TENSOR_FILE_H
#define M2_MODEL_TENSOR_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/err.h"

enum { M2_TENSOR_DIMS = 8 };

struct m2_tensor {
	const char *name;    /* owned by the file */
	enum m2_dtype dtype; /* NONE: a type that no weight of ours has (dtype_name says which) */
	char dtype_name[16]; /* as the format spells it */
	int32_t n_dims;
	int64_t shape[M2_TENSOR_DIMS]; /* slowest first; row-major without gaps */
	uint64_t begin;                /* offset in the file */
	uint64_t bytes;
};

struct m2_tensor_file {
	int fd;                    /* owned; -1: only a header */
	char *what;                /* its name, for sentences; owned */
	struct m2_tensor *tensors; /* [count], sorted by name, names unique; owned */
	size_t count;
	char *names; /* the memory behind the names; owned */
};

/* A file without tensors, fd -1.  NULL: out of memory. */
struct m2_tensor_file *m2_tensor_file_create(const char *what);
void m2_tensor_file_close(struct m2_tensor_file **file); /* closes fd; frees all; NULLs it */

/* Sort by name and refuse duplicates (M2_EFORMAT): the last thing a format's reader does. */
enum m2_err m2_tensor_file_sort(struct m2_tensor_file *file, struct m2_why *why);

const struct m2_tensor *m2_tensor_file_find(const struct m2_tensor_file *file, const char *name);

/* `bytes` bytes of the tensor from its byte `offset`; the range lies inside it (asserted). */
enum m2_err m2_tensor_file_read(const struct m2_tensor_file *file, const struct m2_tensor *tensor,
	uint64_t offset, void *dst, size_t bytes, struct m2_why *why);

#endif
