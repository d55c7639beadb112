/* checks.h - checksums of checkpoint files: who asked for them, what the worker found, what is recorded.
 *
 * A check runs in a worker (daemon/worker_check.c).  One follows every successful load and records what
 * was loaded, with nobody waiting; the other is the op verify.  What a check finds is stored under the
 * registration that it began with.  Threads: the supervisor's one.
 */
#ifndef M2_DAEMON_CHECKS_H
#define M2_DAEMON_CHECKS_H

#include <json-c/json.h>

#include "daemon/engines.h"
#include "daemon/residency.h"
#include "daemon/sessions.h"
#include "daemon/supervisor.h"

struct m2_check;

void m2_checks_init(struct m2_supervisor *s);
void m2_checks_finish(struct m2_supervisor *s);

/* The op verify. */
void m2_checks_verify(struct m2_session *session);

/* A variant has been loaded: record its files. */
void m2_checks_loaded(struct m2_tenant *tenant);

/* The session that waits for a check has ended, whatever the reason. */
void m2_check_session_left(struct m2_check *check);

/* What workers say. */
void m2_checks_file(struct m2_engine *worker, const struct m2_ipc_checked *checked);
void m2_checks_progress(struct m2_engine *worker, const struct m2_ipc_check_progress *progress);
void m2_checks_ended(struct m2_engine *worker, const struct m2_ipc_check_ended *ended);
/* Its process is gone. */
void m2_checks_worker_ended(struct m2_engine *worker);

/* The member `files` of show. */
void m2_checks_put_files(struct m2_supervisor *s, const char *name, struct json_object *o);

#endif
