/* pytorch_pickle.h - the pickle inside a PyTorch file, read by a machine that can only describe.
 *
 * Internal to the room.  A pickle is a program for a stack machine, and Python's own machine may call
 * anything it is told to.  This one knows the opcodes that torch.save writes (protocol 2) and a table
 * of names; what a name "does" is to become a record in our memory.  Nothing is looked up, imported or
 * called, and every other opcode or name ends the reading with its byte.
 *
 * Threads: no shared state.  Nothing blocks.
 */
#ifndef M2_MODEL_PYTORCH_PICKLE_H
#define M2_MODEL_PYTORCH_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "model/tensor_file.h"

/* One name of the state dict.  Strings point into the pickle's bytes and are not NUL-terminated. */
struct m2_pickle_tensor {
	const char *name; /* UTF-8 without control characters, 1..512 bytes */
	uint32_t name_length;
	uint32_t key_length;
	const char *key;                /* of its storage: decimal digits */
	enum m2_dtype dtype;            /* NONE: an integer type */
	uint32_t bytes;                 /* of one element */
	const char *storage;            /* "HalfStorage", static */
	uint64_t numel;                 /* elements of the storage */
	uint64_t offset;                /* of the tensor in it, in elements */
	int32_t n_dims;                 /* 0..M2_TENSOR_DIMS */
	int64_t shape[M2_TENSOR_DIMS];  /* each >= 0 */
	int64_t stride[M2_TENSOR_DIMS]; /* each >= 0, in elements */
};

struct m2_pickle {
	struct m2_pickle_tensor *tensors; /* [count] in the order of the pickle; names may repeat */
	size_t count;
};

/* bytes must outlive *out.  what: for sentences, which also name the byte.  The root must be a dict of
 * string -> tensor.  Whether tensors fit their storages is the caller's to check.
 * Errors: EFORMAT, EUNSUPPORTED (an opcode or a global of something else than a state dict), ELIMIT,
 * ENOMEM. */
enum m2_err m2_pickle_read(const void *bytes, size_t length, const char *what,
	struct m2_pickle *out, struct m2_why *why);
void m2_pickle_finish(struct m2_pickle *pickle); /* safe on zeroed memory */

#endif
