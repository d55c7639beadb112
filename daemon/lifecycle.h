/* lifecycle.h - signals, reload, drain and stop.  Threads: the supervisor's one. */
#ifndef M2_DAEMON_LIFECYCLE_H
#define M2_DAEMON_LIFECYCLE_H

#include <json-c/json.h>

#include "common/err.h"
#include "daemon/supervisor.h"

/* Block the signals and read them through the loop from here on. */
enum m2_err m2_lifecycle_init(struct m2_supervisor *s, struct m2_why *why);
void m2_lifecycle_finish(struct m2_supervisor *s);

/* Read the configuration: file, then command line over it. */
enum m2_err m2_lifecycle_configure(struct m2_supervisor *s, struct m2_why *why);

/* Scan the variant directories; counts and problems into o (may be NULL). */
void m2_lifecycle_scan(struct m2_supervisor *s, uint32_t by, struct json_object *o);

/* Load what says `preload: true` and is not resident. */
void m2_lifecycle_preload(struct m2_supervisor *s);

/* Configuration and variants again, as SIGHUP does; what happened goes into o (may be NULL). */
enum m2_err m2_lifecycle_reload(
	struct m2_supervisor *s, uint32_t by, struct json_object *o, struct m2_why *why);

/* No new work from here on; what runs is cancelled after wait_s.  stop: then end. */
void m2_lifecycle_drain(struct m2_supervisor *s, int64_t wait_s, bool stop);
void m2_lifecycle_resume(struct m2_supervisor *s);

/* A request has ended: perhaps it was the last that a drain waits for. */
void m2_lifecycle_check(struct m2_supervisor *s);

/* Requests that are waiting or running. */
uint32_t m2_lifecycle_running(const struct m2_supervisor *s);

#endif
