/* supervisor.h - the state of the main process, and who of its rooms does what.
 *
 * One thread, one loop; nothing here is shared and nothing is locked.  It blocks only on the registry's
 * small transactions.  The rooms, each a file pair:
 *
 *   supervisor   builds it all up, waits, tears it down
 *   runtime      RUNTIME and its lock, what a dead predecessor left behind
 *   children     a child process;  engines: the workers, one per device
 *   sessions     one request from its arrival until its answer is forgotten;  processes: its client
 *   dispatch     an op's handler;  inference: the ops that a worker runs
 *   residency    which variant is resident where and how it gets there;  residency_leave: how it goes;
 *                residency_place: whose turn it is;  residency_dry: what a load would do;  budget: who
 *                leaves for whom
 *   checks       checksums of checkpoint files, in the background and by verify
 *   admin        load unload register remove reload drain;  inform: list show ps status
 *   who          may this user do that;  users: how much, and what they have had
 *   lifecycle    drain and stop, reload;  notify: what systemd is told
 */
#ifndef M2_DAEMON_SUPERVISOR_H
#define M2_DAEMON_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/children.h"
#include "daemon/hash.h"
#include "daemon/list.h"
#include "daemon/loop.h"
#include "daemon/options.h"
#include "registry/daemon_config.h"
#include "registry/store.h"

struct m2_session;
struct m2_access;
struct m2_users;

enum { M2_TABLE = 4096 }; /* chains of each table below: a power of two */

enum { M2_NOTES = 8, M2_NOTE_BYTES = 320 }; /* messages to systemd */

struct m2_counters {
	uint64_t requests; /* accepted from the gate */
	uint64_t refused;
	uint64_t finished;
	uint64_t cancelled;
	uint64_t failed;
	uint64_t lost; /* with their worker */
	uint64_t prompt_tokens;
	uint64_t generated_tokens;
	uint64_t loads;
	uint64_t unloads;
	uint64_t evictions;     /* of those that made room for another, parked or not */
	uint64_t parks;         /* to host memory */
	uint64_t returns;       /* from there */
	uint64_t parks_dropped; /* let go there, for another or because they were registered anew */
};

enum m2_phase {
	M2_PHASE_STARTING, /* until the gate answers and preloads are over */
	M2_PHASE_RUNNING,
	M2_PHASE_DRAINING, /* to stop, when the running work is done */
	M2_PHASE_STOPPING  /* children are ending */
};

struct m2_supervisor {
	const struct m2_options *options;
	struct m2_daemon_config config;
	struct m2_loop loop;
	struct m2_store *store;
	struct m2_access *access;
	struct m2_users *accounts; /* users: limits and what they used */
	uint64_t started_ns;
	int64_t started_at; /* seconds since 1970 */

	/* runtime */
	int lock_fd;
	int results_fd; /* the directory */
	char results_dir[M2_LIMIT_PATH_BYTES + 16];

	/* children */
	struct m2_child gate;
	uint32_t control_gid;
	bool control_open;
	struct m2_timer gate_watch;
	bool gate_spoke;        /* since the watch last looked */
	bool gate_silent;       /* and had not, at the last look */
	struct m2_link workers; /* struct m2_engine */
	struct m2_watch signals;

	/* sessions */
	struct m2_hash_key hash;
	uint64_t next_request;
	struct m2_session *by_id[M2_TABLE];
	struct m2_session *by_key[M2_TABLE];
	struct m2_link live;    /* sessions without a final answer */
	struct m2_link ended;   /* answers kept for who asks again, oldest first */
	struct m2_link holding; /* ended sessions with results memory, oldest first */
	uint32_t n_ended;
	struct m2_timer forget;   /* of the oldest in ended */
	struct m2_timer expire;   /* of the oldest in holding */
	struct m2_timer deadline; /* of those that wait for a load */
	struct m2_link users;
	struct m2_link processes;

	/* residency */
	struct m2_link residents; /* struct m2_tenant */
	struct m2_link probes;    /* struct m2_probe: what --dry-run asks */
	uint32_t next_model;
	struct m2_timer idle;

	/* checks */
	struct m2_link checks; /* struct m2_check */
	uint64_t next_check;

	/* inform */
	struct m2_link ps_waiting; /* sessions of op ps that wait for the workers' figures */
	struct m2_timer ps_limit;

	/* lifecycle */
	enum m2_phase phase;
	bool draining;         /* accepts no new work */
	struct m2_link drains; /* sessions of op drain that wait for its end */
	struct m2_timer drain_limit;
	bool drain_cancelled; /* the limit has passed: what runs was cancelled */
	uint32_t preloads;    /* still under way */

	/* notify */
	struct m2_timer watchdog;
	uint64_t watchdog_ns; /* 0: none wanted */
	uint64_t extended_ns;
	bool said_ready;
	char status[256];
	bool status_unsaid;                  /* its line found no room */
	char notes[M2_NOTES][M2_NOTE_BYTES]; /* messages that wait for room, oldest first */
	uint32_t n_notes;
	struct m2_timer renotify;

	struct m2_counters counters;
};

/* Run until told to stop; the process's exit status. */
int m2_supervisor_main(const struct m2_options *options);

#endif
