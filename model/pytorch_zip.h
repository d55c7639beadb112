/* pytorch_zip.h - the zip of a PyTorch file: its entries by name, and the content of the small ones.
 *
 * Internal to the room.  Two readers must agree before anything is believed: ours, which finds the
 * bytes (pytorch_directory.h), and libzip's, which has seen more broken archives than we ever will.
 *
 * Threads: no shared state.  Blocks on the disk.
 */
#ifndef M2_MODEL_PYTORCH_ZIP_H
#define M2_MODEL_PYTORCH_ZIP_H

#include "model/pytorch_directory.h"

struct zip; /* libzip's */

struct m2_pytorch_zip {
	const char *what; /* borrowed, for sentences */
	struct m2_zip_directory directory;
	struct m2_zip_entry **by_name; /* [directory.count], sorted; owned */
	size_t prefix_length;          /* of "archive/", in front of every entry's name */
	struct zip *archive;
};

/* fd stays the caller's.  All entries stored, unencrypted, apart, with plain and different names below
 * one directory that holds one data.pkl.  Errors: as m2_zip_directory_read. */
enum m2_err m2_pytorch_zip_open(int fd, uint64_t file_bytes, const char *what,
	struct m2_pytorch_zip *out, struct m2_why *why);
void m2_pytorch_zip_finish(struct m2_pytorch_zip *zip); /* safe on zeroed memory */

/* By the name behind the prefix; name need not be NUL-terminated.  NULL: there is none. */
const struct m2_zip_entry *m2_pytorch_zip_find(
	const struct m2_pytorch_zip *zip, const char *name, size_t length);

/* A whole entry, checked against its CRC; malloc'd, the caller frees. */
enum m2_err m2_pytorch_zip_content(const struct m2_pytorch_zip *zip,
	const struct m2_zip_entry *entry, size_t max_bytes, char **out, struct m2_why *why);

#endif
