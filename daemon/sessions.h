/* sessions.h - one request in the supervisor, from its arrival until its answer is forgotten.
 *
 *   new -> (waiting: for a load or for workers) -> running: at a worker -> ended
 *
 * A session with a key is kept after its end, so that a client that lost the answer with its connection
 * may ask again: the same (uid, key) never runs twice.  Results memory is kept until it is released, its
 * client process ends, or results_keep_s have passed.
 *
 * Ownership: sessions belong to the supervisor's tables; a pointer is good until m2_session_end or
 * m2_session_forget of it returns.  Threads: the supervisor's one.
 */
#ifndef M2_DAEMON_SESSIONS_H
#define M2_DAEMON_SESSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "daemon/ipc.h"
#include "daemon/processes.h"
#include "daemon/supervisor.h"

struct m2_tenant;
struct m2_engine;
struct m2_check;

enum m2_session_state {
	M2_SESSION_NEW,
	M2_SESSION_WAITING, /* among the waiting of a resident, or of ps, drain */
	M2_SESSION_RUNNING, /* sent to its worker */
	M2_SESSION_ENDED
};

struct m2_session {
	struct m2_supervisor *s;
	struct m2_request request;
	void *body; /* kept while it waits for a load */
	size_t body_bytes;
	enum m2_session_state state;
	struct m2_user *user;
	struct m2_process *process;
	struct m2_tenant *tenant; /* while waiting or running */
	struct m2_check *check;   /* verify, while it waits for that */
	struct m2_engine *engine; /* that has it, or had it and holds its segment */
	uint32_t engine_life;
	bool counted; /* in user->running */
	bool accepted;
	bool cancelled;          /* a cancel is on its way */
	bool release_when_ended; /* nobody will want the results */
	struct m2_ipc_accepted acceptance;
	struct json_object *answer; /* the final one, for who asks again */
	uint64_t ended_ns;

	struct m2_session *id_next;
	struct m2_session *key_next;
	struct m2_link of_state;   /* supervisor.live or supervisor.ended */
	struct m2_link of_holding; /* supervisor.holding */
	struct m2_link of_process;
	struct m2_link of_resident; /* resident.waiting, resident.running; ps, drain */
};

void m2_sessions_init(struct m2_supervisor *s);
void m2_sessions_finish(struct m2_supervisor *s);

/* A new session for a checked request, numbered, in the tables.  body is copied.  NULL without memory. */
struct m2_session *m2_session_create(struct m2_supervisor *s, const struct m2_request *request,
	const void *body, size_t body_bytes);

struct m2_session *m2_session_find(struct m2_supervisor *s, uint64_t id);
struct m2_session *m2_session_find_key(
	struct m2_supervisor *s, uint32_t uid, const uint8_t key[M2_LIMIT_KEY_BYTES]);

bool m2_key_given(const uint8_t key[M2_LIMIT_KEY_BYTES]);

/* An answer that is not the last; o is consumed.  payload may be NULL. */
void m2_session_send(struct m2_session *session, struct json_object *o, const void *payload,
	size_t payload_bytes);

/* The last answer; o is consumed, the session leaves its lists and is kept or freed. */
void m2_session_end(struct m2_session *session, struct json_object *o, const void *payload,
	size_t payload_bytes);

/* The last answer is an error. */
void m2_session_fail(struct m2_session *session, enum m2_err err, const struct m2_why *why);

/* An empty result to be filled: {"id","key","event":"result"}. */
struct json_object *m2_session_result(const struct m2_session *session);

/* The accepted event, again or for the first time. */
void m2_session_send_accepted(struct m2_session *session);

/* Stop it at the next step (reason: enum m2_finish); one that still waits ends at once. */
void m2_session_cancel(struct m2_session *session, uint32_t reason);

/* Its results are not needed: now, or when it ends. */
void m2_session_release(struct m2_session *session);

/* Its client asks again, from another connection or even another process: answers go there, and that
 * process's end is what counts from now on. */
void m2_session_adopt(struct m2_session *session, const struct m2_request *again);

/* It had results memory and has it no more. */
bool m2_session_results_gone(const struct m2_session *session);

/* The client process has ended: nobody reads answers or results any more. */
void m2_session_orphan(struct m2_session *session);

/* Its worker died with it. */
void m2_session_lost(struct m2_session *session);

/* Absolute path of the segment; false: there is none. */
bool m2_session_segment(const struct m2_session *session, char *path, size_t size);

/* One that waits with a deadline was queued: look at it in time. */
void m2_sessions_watch_deadline(struct m2_supervisor *s, const struct m2_session *session);

#endif
