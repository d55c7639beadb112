/* runtime.h - the runtime directory: one daemon per directory, and a clean floor for it.
 * Threads: the supervisor's one. */
#ifndef M2_DAEMON_RUNTIME_H
#define M2_DAEMON_RUNTIME_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/err.h"
#include "daemon/supervisor.h"

/* Create RUNTIME (0755) and RUNTIME/results (0711), take RUNTIME/lock, remove what a predecessor that
 * died left: sockets and results.  EBUSY names the process that holds the lock. */
enum m2_err m2_runtime_open(struct m2_supervisor *s, struct m2_why *why);

/* Remove sockets and results; the lock file stays (removing it would race with the next start). */
void m2_runtime_close(struct m2_supervisor *s);

/* Create STATE (0700) if it is not there. */
enum m2_err m2_runtime_state(struct m2_supervisor *s, struct m2_why *why);

/* Did the process `pid`, a worker, make the segment of that name (segment.c)? */
bool m2_runtime_segment_made_by(const char *name, pid_t pid);

/* Is it a name that a worker may give a segment? */
bool m2_runtime_segment_valid(const char *name);

void m2_runtime_unlink_segment(struct m2_supervisor *s, const char *name);

/* Finish a segment whose worker died: state, error and message, and a wake for who waits. */
void m2_runtime_finish_segment(
	struct m2_supervisor *s, const char *name, enum m2_err err, const char *message);

/* Unlink every segment for which keep(ctx, name) is false. */
void m2_runtime_sweep(
	struct m2_supervisor *s, bool (*keep)(void *ctx, const char *name), void *ctx);

#endif
