/* gguf_tensors.h - the tensor descriptions of a GGUF file, under the names of the other dialects.
 *
 * Internal to the room.  Threads: no shared state.
 */
#ifndef M2_MODEL_GGUF_TENSORS_H
#define M2_MODEL_GGUF_TENSORS_H

#include "model/gguf_bytes.h"
#include "model/tensor_file.h"

/* Take n descriptions from bytes, which stand behind the last key, into file: names translated, shapes
 * slowest first, places in the file, sorted.  A quantised tensor has dtype NONE and its type's name.
 * alignment: a power of two.  *norm_rows as in struct m2_gguf.  Errors: EFORMAT, ELIMIT, EIO, ENOMEM. */
enum m2_err m2_gguf_tensors_read(struct m2_gguf_bytes *bytes, uint64_t n, uint32_t alignment,
	struct m2_tensor_file *file, int64_t *norm_rows, struct m2_why *why);

#endif
