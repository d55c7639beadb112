/* segment.h - results memory: files in tmpfs that this process alone writes and one user may read.
 *
 * A segment is created in full (posix_fallocate: a full tmpfs is an error here and never a SIGBUS in
 * the step loop), mapped, laid out, and given to its reader by a POSIX ACL entry u:<uid>:r, never by
 * a wider mode.  Requests that want messages get the same layout in anonymous memory with no file.
 *
 * Budgets are counted in bytes, for all requests together and per uid, from before creation until
 * m2_segment_destroy; private bytes that a request needs beside its segment are charged with it.
 *
 * A segment's mapping may end before its file (m2_segment_unmap, when the request is finished): the
 * file and the charge stay until the reader has released it.
 *
 * Threads: the pool may be used by any number of threads (one short lock around the budgets); one
 * segment by one thread at a time.  create, unmap and destroy may take milliseconds per 100 MB: not for
 * the step loop.
 */
#ifndef M2_DAEMON_SEGMENT_H
#define M2_DAEMON_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/results.h"

/* A segment's name: this, its maker's process id, '-', random digits.  What a dead worker has left is
 * found by it. */
#define M2_SEGMENT_PREFIX "mamba2-"

struct m2_segment_pool; /* opaque */

struct m2_segment {
	void *memory; /* struct m2_results_header first; NULL once unmapped */
	size_t bytes;
	size_t charged; /* bytes, plus the private ones */
	uint32_t uid;
	char name[M2_LIMIT_SEGMENT_NAME_BYTES]; /* file name; "": anonymous */
};

/* directory: exists, owned by this process's user.  budget, per_user: bytes; <= 0: no limit. */
enum m2_err m2_segment_pool_create(const char *directory, int64_t budget, int64_t per_user,
	struct m2_segment_pool **out, struct m2_why *why);
/* Every segment must have been destroyed. */
void m2_segment_pool_destroy(struct m2_segment_pool **pool);

/* Bytes charged and segments alive. */
void m2_segment_pool_usage(struct m2_segment_pool *pool, uint64_t *bytes, uint64_t *segments);

enum m2_segment_kind { M2_SEGMENT_FILE, M2_SEGMENT_ANONYMOUS };

/* Make, size, map, format (m2_results_format) and grant.  Zeroed *out on failure, nothing left behind.
 * M2_ELIMIT: the shape is too large ever; M2_ENOMEM: the budget, the tmpfs or memory is full; M2_EBUSY:
 * this uid's share is; M2_EACCES: the ACL cannot be set; M2_EIO: the directory failed. */
enum m2_err m2_segment_create(struct m2_segment_pool *pool, enum m2_segment_kind kind, uint32_t uid,
	const struct m2_results_shape *shape, size_t private_bytes, struct m2_segment *out,
	struct m2_why *why);
void m2_segment_unmap(struct m2_segment *segment);
/* Unmap, unlink, give the charge back; zeroes it.  Safe on zeroed memory. */
void m2_segment_destroy(struct m2_segment_pool *pool, struct m2_segment *segment);

#endif
