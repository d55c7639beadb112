/* file_check.h - which files a variant is made of, and what is in them.
 *
 * The list is made by opening checkpoint and tokenizer as a load does; a file is read in pieces, and
 * given up between two pieces when nobody wants to know any more.
 * Threads: no shared state.  Everything blocks on the disk.
 */
#ifndef M2_DAEMON_FILE_CHECK_H
#define M2_DAEMON_FILE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/ipc.h"
#include "model/tokenizer.h"
#include "registry/variant.h"

struct m2_file_list {
	char (*paths)[M2_IPC_FILE_PATH]; /* [count], each once */
	size_t count;
};

/* Append the files of the checkpoint and of the tokenizer.  An error: the checkpoint or tokenizer cannot
 * be opened; what is listed by then stays.  ENOMEM. */
enum m2_err m2_file_list_fill(
	struct m2_file_list *list, const struct m2_variant *variant, struct m2_why *why);
/* Append one, if it is not there; one that is too long is EINVAL. */
enum m2_err m2_file_list_add(struct m2_file_list *list, const char *path, struct m2_why *why);
void m2_file_list_finish(struct m2_file_list *list); /* safe on zeroed memory */

/* A variant's tokenizer, or NULL where it has none: "" in the file means the checkpoint's own, if it
 * holds one. */
enum m2_err m2_file_tokenizer(
	const char *checkpoint, const char *named, struct m2_tokenizer **out, struct m2_why *why);

/* Size and time of modification now; links are followed.  ENOENT, EACCES, EFORMAT (no file), EIO. */
enum m2_err m2_file_look(const char *path, struct m2_ipc_file *out, struct m2_why *why);

/* Read it whole: its size and time, and its checksum.  go_on is called after every piece with its bytes;
 * false: ECANCELED.  A file that changes while it is read is EIO. */
enum m2_err m2_file_checksum(const char *path, bool (*go_on)(void *ctx, size_t bytes), void *ctx,
	struct m2_ipc_file *out, char sha256[65], struct m2_why *why);

#endif
