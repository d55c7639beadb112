/* gguf.h - reading GGUF files of architecture mamba2: tensors, configuration, tokenizer.
 *
 * One file holds all three (semantics report, 5.3).  Tensors of type F32, F16 and BF16 run; the
 * quantised types are named in the refusal.  Tensors come out under the names of the other dialects
 * (backbone.layers.0.mixer.in_proj.weight), shapes slowest first.  A is stored as -exp(A_log):
 * desc.a_given is set.
 *
 * Threads: an opened file is immutable.  Blocks on the disk in open only.
 */
#ifndef M2_MODEL_GGUF_H
#define M2_MODEL_GGUF_H

#include "model/config.h"
#include "model/tensor_file.h"
#include "model/tokenizer.h"

struct m2_gguf; /* opaque: the keys of one file */

/* tensors may be NULL: the keys alone.  *tensors is the caller's to close. */
enum m2_err m2_gguf_open(int dirfd, const char *name, struct m2_gguf **out,
	struct m2_tensor_file **tensors, struct m2_why *why);
/* The same of bytes in memory, with file_bytes bytes in the whole file: for fuzzing. */
enum m2_err m2_gguf_parse(const void *bytes, size_t length, uint64_t file_bytes, const char *what,
	struct m2_gguf **out, struct m2_tensor_file **tensors, struct m2_why *why);
void m2_gguf_close(struct m2_gguf **gguf);

/* The checked description; vocab_rows and tied_head are taken from the tensors. */
enum m2_err m2_gguf_config(const struct m2_gguf *gguf, const struct m2_tensor_file *tensors,
	int32_t norm_groups, struct m2_model_config *out, struct m2_why *why);

/* From tokenizer.ggml.*; M2_ENOENT: the file has none. */
enum m2_err m2_gguf_tokenizer(
	const struct m2_gguf *gguf, struct m2_tokenizer **out, struct m2_why *why);

#endif
