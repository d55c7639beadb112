/* residency.h - which variant is resident on which worker, and how it gets there and off again.
 *
 *   waiting -> planning -> planned -> loading -> ready -> unloading -> gone
 *                          (waits for room)                   |
 *                              ^--------- parked <------------+
 *
 * Loads are serialised per worker: one variant at a time is the head of its line, the one that somebody
 * waits for longest.  The worker opens it and says to the byte what it will take; daemon/budget.h decides
 * whether it is loaded, who leaves for it, or what it waits for.  A load that nobody waits for (preload, or
 * what a dead worker had) never makes another leave.  A variant that has to make room is closed: requests
 * that come for it wait until it is loaded again.
 *
 * One that leaves for another is parked, if its backend can and config memory.parked has room: its weights are
 * kept in host memory by its worker, and the next request for it begins at `planned`.  It is let go when others
 * need that room, when keep_alive is over, when it is registered anew, or with its worker.
 *
 * A resident keeps the variant as it was when it was loaded; the registry may have changed since (stale).
 * A worker's death puts its residents back to waiting, and they are loaded again by themselves; one that
 * took its worker along three times while loading is given up.
 *
 * Requests for a variant that is on its way, or closed, wait in the resident's list, within the variant's
 * queue and their deadlines.  Threads: the supervisor's one.
 */
#ifndef M2_DAEMON_RESIDENCY_H
#define M2_DAEMON_RESIDENCY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/ipc.h"
#include "daemon/sessions.h"
#include "daemon/supervisor.h"
#include "daemon/engines.h"
#include "registry/store.h"

enum m2_tenant_state {
	M2_TENANT_WAITING,  /* for its turn, or for its worker */
	M2_TENANT_PLANNING, /* the worker opens it */
	M2_TENANT_PLANNED,  /* waits for room */
	M2_TENANT_LOADING,
	M2_TENANT_READY,
	M2_TENANT_UNLOADING,
	M2_TENANT_PARKED /* its weights are in host memory; nobody wants it, or it waits for its turn */
};

struct m2_tenant {
	struct m2_link link; /* in supervisor.residents */
	struct m2_supervisor *s;
	struct m2_variant variant;
	char checksum[65]; /* of what was registered when it was loaded */
	struct m2_engine *engine;
	enum m2_tenant_state state;
	uint32_t handle;             /* of this load; the worker's name for it */
	struct m2_ipc_planned plan;  /* from planned on */
	struct m2_ipc_loaded loaded; /* while ready or unloading */
	struct m2_ipc_model_stats stats;
	struct m2_ipc_progress progress;
	uint32_t by;     /* uid that wanted it */
	int64_t history; /* row of the load history; -1: none */
	bool recorded;   /* this load is in the history already or does not belong there */
	bool preload;    /* wanted at start: READY waits for it */
	bool standing; /* loaded even if nobody waits: preload, or it was resident when the worker died */
	bool pinned;     /* as the variant or its loader says: it never leaves by itself */
	bool closed;     /* ready, and makes room: new requests wait until it is back */
	bool leave;      /* to be unloaded as soon as it is loaded */
	bool parking;    /* it is unloading, in order to be parked */
	uint64_t parked; /* bytes of host memory that hold its weights, until it is back or gone */
	int64_t leave_wait_s;
	uint32_t deaths;    /* of workers, while it was loading */
	uint64_t wanted_ns; /* since when somebody waits for it */
	uint64_t load_ns;   /* when the load began */
	uint64_t plan_took_ns;
	uint64_t ready_ns;
	uint64_t stay_ns; /* until when it stays at least */
	uint64_t idle_ns; /* since when nobody uses it */
	uint64_t served;  /* requests sent to it */
	uint32_t n_running;
	uint32_t n_waiting;     /* requests in waiting, without loads */
	struct m2_link running; /* sessions at the worker, by of_resident */
	struct m2_link waiting; /* sessions that wait until it is ready: requests and loads */
	struct m2_link leaving; /* sessions that wait until it is gone: unload, remove */
};

void m2_residency_init(struct m2_supervisor *s);
void m2_residency_finish(struct m2_supervisor *s);

/* By name or alias of a variant that is resident or on its way. */
struct m2_tenant *m2_residency_find(struct m2_supervisor *s, const char *name);
struct m2_tenant *m2_residency_find_handle(struct m2_engine *worker, uint32_t handle);

/* Begin to load a registered variant.  A failure of the load itself is told to the sessions that wait. */
enum m2_err m2_residency_want(struct m2_supervisor *s, const struct m2_variant *variant,
	const struct m2_store_entry *entry, uint32_t by, struct m2_tenant **out,
	struct m2_why *why);

/* May a request be forwarded to it now?  Else it waits. */
bool m2_residency_open(const struct m2_tenant *r);

/* Let a session wait until the resident is ready. */
void m2_residency_wait(struct m2_tenant *r, struct m2_session *session);

/* Send a request to the resident's worker; it must be ready. */
void m2_residency_forward(struct m2_tenant *r, struct m2_session *session);

/* Begin to unload; session (may be NULL) is answered when it is gone.  wait_s: running requests may
 * finish that long. */
void m2_residency_unload(struct m2_tenant *r, int64_t wait_s, struct m2_session *session);

/* A session has left running, waiting or leaving. */
void m2_residency_session_left(struct m2_tenant *r);

/* What workers say. */
void m2_residency_progress(struct m2_engine *worker, const struct m2_ipc_progress *progress);
void m2_residency_planned(struct m2_engine *worker, const struct m2_ipc_planned *planned);
void m2_residency_loaded(struct m2_engine *worker, const struct m2_ipc_loaded *loaded);
void m2_residency_unloaded(struct m2_engine *worker, const struct m2_ipc_unloaded *unloaded);

/* Something changed: before long the worker's line is looked at, and what can go on goes on.  Does nothing
 * itself, so that it may be called from anywhere. */
void m2_residency_settle(struct m2_engine *worker);
void m2_residency_settle_all(struct m2_supervisor *s);
void m2_residency_on_settle(void *ctx); /* that timer; ctx: the engine */

/* The worker is ready: what asked while it started is sent. */
void m2_residency_worker_ready(struct m2_engine *worker);

/* The op load with dry_run, of a variant that is not resident: answered with what a load would do now. */
void m2_residency_dry_run(struct m2_session *session, const struct m2_variant *variant);

/* The device does not open: those who wait for it are told, and not left to wait; variants of device "auto"
 * go on to the next.  true: there were such. */
bool m2_residency_refuse(struct m2_engine *worker, enum m2_err err, const struct m2_why *why);
/* Its process is gone: running requests are lost, residents go back to waiting. */
void m2_residency_worker_ended(struct m2_engine *worker);

/* Into the result of load and show: state and, once loaded, facts and footprint. */
void m2_residency_put(const struct m2_tenant *r, struct json_object *o);
const char *m2_residency_state_name(enum m2_tenant_state state);

/* Bytes of all that is loaded on a worker, in full from the beginning of its load to the end of its unload. */
uint64_t m2_residency_bytes(const struct m2_engine *worker);
/* Bytes that may be; 0: no limit. */
uint64_t m2_residency_budget(const struct m2_engine *worker);
/* Seconds until it leaves by keep_alive; negative: it does not. */
float m2_residency_leaves_in(const struct m2_tenant *r);

/* Bytes of host memory that hold parked weights, or will when what is under way is done: of one worker's, or of
 * all (NULL). */
uint64_t m2_residency_parked(const struct m2_supervisor *s, const struct m2_engine *worker);
/* Of a variant that is parked: what a load would do now. */
void m2_residency_dry_run_parked(struct m2_session *session, const struct m2_tenant *t);
/* What is parked and is not any more what is registered under its name is let go, and what the budget of host
 * memory has no room for any more. */
void m2_residency_review_parked(struct m2_supervisor *s);

/* The members total, free, models, parked, others, budget of a device. */
void m2_residency_put_device(const struct m2_engine *worker, struct json_object *o);

#endif
