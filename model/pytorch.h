/* pytorch.h - reading pytorch_model.bin, a zip with a pickle in it, without executing anything.
 *
 * The container is read by libzip for names and sizes and by our own check of where each stored entry's
 * bytes lie; the pickle by a machine that knows the opcodes and the four kinds of objects that a state
 * dict is made of, and nothing else (semantics report, 5.2).  Every tensor must be row-major and lie
 * inside its storage; two names may share one storage (a tied head).
 *
 * Threads: no shared state.  Blocks on the disk.
 */
#ifndef M2_MODEL_PYTORCH_H
#define M2_MODEL_PYTORCH_H

#include "model/tensor_file.h"

/* Errors: EFORMAT (the zip, the pickle: which byte and why), EUNSUPPORTED (an older container, another
 * object: its name), ELIMIT, ENOENT, EACCES, EIO, ENOMEM. */
enum m2_err m2_pytorch_open(
	int dirfd, const char *name, struct m2_tensor_file **out, struct m2_why *why);

#endif
