/* safetensors_header.h - the JSON of a safetensors file, read without building a tree of it.
 *
 * Internal to the room.  The grammar of a header is tiny and its size is not (100 MB are legal), so
 * a reader of its own keeps memory in proportion to the tensors described, sees duplicates that a
 * JSON library would merge, and reads numbers exactly.
 */
#ifndef M2_MODEL_SAFETENSORS_HEADER_H
#define M2_MODEL_SAFETENSORS_HEADER_H

#include "model/safetensors.h"

/* *tensors (malloc'd, caller frees) in the order of the file, names in *names (malloc'd too), begin
 * relative to the end of the header.  Checks grammar, types, names, counts, dims and that each
 * tensor's bytes are its shape's; not the layout of tensors among each other, nor duplicates.
 * Errors: EFORMAT, ELIMIT, ENOMEM. */
enum m2_err m2_safetensors_header_read(const char *json, size_t length, const char *what,
	struct m2_tensor **tensors, size_t *count, char **names, struct m2_why *why);

#endif
