/* segment.h - results memory as the client sees it: found, checked, mapped read-only.
 *
 * The daemon tells a path.  It is not opened as told: it must lie directly in the results directory of
 * the daemon this handle is connected to, under a plain name, be a regular file of the told size, and
 * pass m2_results_check.  So an answer can never make a client map anything else.
 */
#ifndef M2_CLIENT_SEGMENT_H
#define M2_CLIENT_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/results.h"

struct m2_segment {
	const struct m2_results_header *header; /* NULL: not mapped */
	size_t bytes;
};

/* Errors: EPROTO (path or size is not what it must be), EACCES, ENOENT, EIO (the system says no),
 * EFORMAT (the check).  May block on the file system, which is a tmpfs. */
enum m2_err m2_segment_map(const char *runtime_dir, const char *path, uint64_t bytes,
	struct m2_segment *out, struct m2_why *why);
void m2_segment_unmap(struct m2_segment *segment);

#endif
