/* file.h - small files of a checkpoint directory, read whole, and paths that cannot be reached.
 *
 * Threads: no shared state.  Blocks on the disk.
 */
#ifndef M2_MODEL_FILE_H
#define M2_MODEL_FILE_H

#include <stddef.h>

#include "common/err.h"

/* Open a regular file for reading; dirfd as in openat(2), AT_FDCWD included.  what: its path for the
 * sentence.  Links are followed (hub caches are made of them); a FIFO or device is refused without
 * being waited for.  Errors: ENOENT, EACCES, EIO, EFORMAT (no regular file). */
enum m2_err m2_file_open(
	int dirfd, const char *name, const char *what, int *fd, struct m2_why *why);

/* The whole file, NUL-terminated behind *length bytes; malloc'd, the caller frees.  Larger than
 * max_bytes: M2_ELIMIT.  Other errors as m2_file_open, and ENOMEM. */
enum m2_err m2_file_read(int dirfd, const char *name, const char *what, size_t max_bytes,
	char **text, size_t *length, struct m2_why *why);

/* Exactly `bytes` bytes at `offset`, in pieces that no single call makes long.  A file that ends
 * early is M2_EIO. */
enum m2_err m2_file_read_at(int fd, void *dst, size_t bytes, unsigned long long offset,
	const char *what, struct m2_why *why);

/* After open(2) of `path` failed with error number `error`: the same in words that name the first
 * component of the path that is missing or may not be entered.  Returns ENOENT, EACCES or EIO. */
enum m2_err m2_path_explain(const char *path, int error, struct m2_why *why);

#endif
