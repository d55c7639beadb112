/* engines.h - the worker processes as the supervisor sees them: one per device in use, what they say
 * and what follows from it; and which one a variant gets (engines_choose.c).
 *
 * A worker is started when the first variant wants its device (the cpu's at start).  Its step loop sends
 * a heartbeat every second; one that is silent for step_timeout, or four times as long while it loads, is
 * killed.
 * Threads: the supervisor's one.
 */
#ifndef M2_DAEMON_ENGINES_H
#define M2_DAEMON_ENGINES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/children.h"
#include "daemon/supervisor.h"
#include "registry/variant.h"

struct m2_tenant;

struct m2_engine {
	struct m2_child child;
	struct m2_link link; /* in supervisor.workers */
	struct m2_supervisor *s;
	char device[16];  /* "cpu", "cuda:0": as variants name it */
	char backend[16]; /* what runs there */
	int32_t ordinal;
	struct m2_device_info info; /* valid once it was ready; memory_free: as it last said */
	struct m2_tenant *head;     /* of the line: planning, planned or loading; NULL: none */
	struct m2_tenant *loading;  /* that one while the worker plans or loads it */
	struct m2_timer settle;     /* look at the line */
	uint64_t heartbeat_ns;
	uint32_t unopened;  /* processes in a row that ended before their device was open */
	bool opened;        /* this one's is */
	enum m2_err unable; /* its process said that the device cannot be opened, and why */
	struct m2_why unable_why;
	bool rests;         /* after that: no process until somebody asks for the device again */
	enum m2_err passed; /* it did not open when it was last tried: "auto" passes it by */
	uint64_t steps;
	struct m2_ipc_stats stats;
	bool can_park; /* its backend keeps weights in host memory (kernels/backend.h) */
	bool asked;    /* STATS is on its way */
	struct m2_timer watch;
};

/* The worker for a variant's device, started if need be.  EUNSUPPORTED: this build or host has none.
 *
 * "auto" is the lowest CUDA device that opens, else the cpu (or what --backend names in its place).  Whether
 * one opens only its worker can tell: it is believed to until its worker has said otherwise, and then what
 * waits for it as "auto" goes on (m2_residency_refuse): to the next ordinal after EDEVICE, which speaks of one
 * device, else to the cpu: EUNSUPPORTED is the end of the devices or the want of a driver, and a process that
 * dies without a word, UNOPENED_MAX times, would die with the next one too. */
enum m2_err m2_engine_for(struct m2_supervisor *s, const struct m2_variant *v,
	struct m2_engine **out, struct m2_why *why);

/* Every device is worth another try by "auto", as at start. */
void m2_engines_retry(struct m2_supervisor *s);

/* Start its process: the first, or another after the device could not be opened. */
void m2_engine_start(struct m2_engine *worker);

/* One of the list that no process belongs to yet; NULL without memory. */
struct m2_engine *m2_engine_create(
	struct m2_supervisor *s, const char *device, const char *backend, int32_t ordinal);

/* Has every worker's step loop turned lately?  One that starts or loads counts as fresh. */
bool m2_engines_fresh(const struct m2_supervisor *s);

/* All ended: after this no callback comes. */
void m2_engines_finish(struct m2_supervisor *s);

#endif
