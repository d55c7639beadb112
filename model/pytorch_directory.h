/* pytorch_directory.h - where the bytes of a zip's stored entries lie.
 *
 * Internal to the room.  Tensors are read from the file itself, by several threads and without a copy,
 * so we need what a zip library keeps to itself: the place of each entry's data.  This reads the end
 * records, the central directory and every local header, with pread(2) and within bounds, and accepts
 * what torch.save writes: one disk, stored entries, no encryption, no comment, zip64 where needed.
 *
 * Threads: no shared state.  Blocks on the disk.
 */
#ifndef M2_MODEL_PYTORCH_DIRECTORY_H
#define M2_MODEL_PYTORCH_DIRECTORY_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct m2_zip_entry {
	const char *name; /* owned by the directory; printable ASCII or UTF-8, NUL-terminated */
	uint64_t header;  /* of its local header */
	uint64_t begin;   /* of its data; the data of no two entries overlap */
	uint64_t bytes;
};

struct m2_zip_directory {
	struct m2_zip_entry *entries; /* [count] in the order of the central directory */
	size_t count;
	char *names;
};

/* what: for sentences.  Errors: EFORMAT, EUNSUPPORTED (compressed, encrypted), ELIMIT, EIO, ENOMEM. */
enum m2_err m2_zip_directory_read(int fd, uint64_t file_bytes, const char *what,
	struct m2_zip_directory *out, struct m2_why *why);
void m2_zip_directory_finish(struct m2_zip_directory *directory); /* safe on zeroed memory */

#endif
