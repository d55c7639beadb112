/* worker.h - the parts of the worker process and who may touch them; for worker*.c only.
 *
 *   front    the thread of m2_worker_main: the channel to the supervisor, tables of models and calls
 *   step     the only one that steps; owns lanes and tasks from submission to done (worker_step.c)
 *   clerks   two threads for what would hold the front up: long texts, large results (worker_clerk.c)
 *   loader   one thread that reads checkpoints, loads and unloads (worker_load.c)
 *   checker  one thread that computes checksums of files, at the lowest priority (worker_check.c)
 *
 * The front sends to step by `inbox`; everyone sends to the front by `outbox`.  A model (m2_resident)
 * and a request (m2_call) belong to the front, except while one of the others works for them: what it
 * works on is passed with the post and comes back with one.
 *
 *   plan     front -> loader (PLANNED) -> front: waits there until it is loaded or unloaded
 *   load     front -> loader (LOADED) -> front -> step (ADD)
 *   unload   no calls left: front -> step (REMOVE) -> front -> loader (UNLOADED) -> front
 *   park     the same with PARKED; it waits there until it is loaded again or unloaded
 *   call     front, or front -> clerk (PREPARED) -> front: accepted -> step (SUBMIT), NEWS*, DONE ->
 *            front: finished.  Its results memory stays until the supervisor releases it
 *   check    front -> checker: CHECKED, CHECK_PROGRESS*, CHECK_ENDED -> front
 */
#ifndef M2_DAEMON_WORKER_H
#define M2_DAEMON_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/ipc.h"
#include "daemon/post.h"
#include "daemon/roles.h"
#include "daemon/scheduler.h"
#include "daemon/segment.h"
#include "daemon/task.h"
#include "kernels/backend.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "registry/variant.h"

enum m2_post_kind {
	/* front -> step */
	M2_POST_ADD,    /* m2_resident */
	M2_POST_REMOVE, /* m2_resident */
	M2_POST_SUBMIT, /* m2_call */
	M2_POST_QUIT,   /* finish everything, then end the thread */
	/* -> front */
	M2_POST_PROGRESS,       /* loader: m2_resident */
	M2_POST_PLANNED,        /* loader: m2_resident */
	M2_POST_LOADED,         /* loader: m2_resident */
	M2_POST_REMOVED,        /* step: m2_resident is in no scheduler any more */
	M2_POST_UNLOADED,       /* loader: m2_resident */
	M2_POST_PARKED,         /* loader: m2_resident; without `parked` it is unloaded */
	M2_POST_PREPARED,       /* clerk: m2_call */
	M2_POST_NEWS,           /* step: m2_call has more tokens to tell */
	M2_POST_DONE,           /* step: m2_call */
	M2_POST_HEARTBEAT,      /* step */
	M2_POST_CHECKED,        /* checker: what became of one file */
	M2_POST_CHECK_PROGRESS, /* checker: m2_worker_check */
	M2_POST_CHECK_ENDED,    /* checker: m2_worker_check */
	M2_POST_LOST            /* step: the device is gone, or the thread has quit */
};

enum m2_resident_state {
	M2_RESIDENT_PLANNING,
	M2_RESIDENT_PLANNED, /* its checkpoint and tokenizer are open, nothing is on the device */
	M2_RESIDENT_LOADING,
	M2_RESIDENT_PARKED, /* its weights are in host memory, nothing is on the device */
	M2_RESIDENT_READY,
	M2_RESIDENT_LEAVING,
	M2_RESIDENT_PARKING
};

enum { M2_RATE_MARKS = 6 }; /* a mark per heartbeat: the rate is that of the last five seconds */

struct m2_rate_mark {
	uint64_t ns;
	uint64_t tokens;
};

/* One load of one variant. */
struct m2_resident {
	struct m2_resident *next;      /* the front's table */
	struct m2_resident *next_work; /* the loader's queue */
	uint32_t id;
	enum m2_resident_state state; /* the front's */
	struct m2_variant variant;
	uint64_t budget;
	int64_t paused_bytes;
	int64_t step_cost; /* in tokens */

	/* the loader's until LOADED, then read only */
	enum m2_err err;
	struct m2_ipc_loaded facts;
	struct m2_model_config config;
	struct m2_checkpoint *checkpoint; /* from its plan until it is loaded */
	struct m2_tokenizer *tokenizer;   /* NULL: tokens only */
	struct m2_model *model;
	uint64_t parked; /* bytes of host memory that hold its weights; 0: they are on the device */
	struct m2_lane *lane;
	_Atomic uint64_t bytes_done;
	_Atomic uint64_t bytes_total;
	_Atomic(const char *) what; /* is being done: a static text */
	uint64_t progress_ns;       /* when progress was last posted */

	/* admission, under m2_worker.admission */
	int64_t reserved; /* slots of the calls that are accepted and not done */

	/* the front's */
	bool unload_wanted;
	bool park;        /* when it leaves */
	uint32_t n_calls; /* from reception until done or refused */
	uint64_t n_requests;
	uint64_t last_end_ns;
	struct m2_rate_mark marks[M2_RATE_MARKS]; /* the oldest is overwritten */
	uint32_t n_marks;                         /* ever made */

	_Atomic bool progress_pending;
	struct m2_post post_progress;
	struct m2_post
		post_add; /* two to step, so that the second may follow before the first is taken */
	struct m2_post post_remove;
	struct m2_post post; /* to the front: PLANNED, LOADED, REMOVED, UNLOADED */
};

/* One request, from reception until it is forgotten. */
struct m2_call {
	struct m2_call *next;      /* the front's table */
	struct m2_call *next_work; /* the clerks' queue */
	uint64_t id;
	struct m2_resident *resident; /* NULL once the call is done */
	struct m2_request request;
	uint32_t weight;     /* of its user, and most slots they may hold at once */
	int32_t user_slots;  /* 0: no limit */
	uint64_t user_bytes; /* the same, of states */
	unsigned char *body; /* [body_bytes]; freed when prepared */
	size_t body_bytes;
	uint64_t received_ns;
	bool waits_for_clerk;
	_Atomic uint32_t cancel; /* enum m2_finish, before there is a task */

	/* of preparation */
	enum m2_err err;
	struct m2_why why;
	uint32_t reserved;
	struct m2_task *task; /* generate, score; NULL once done */
	void *answer;         /* tokenize, detokenize: malloc'd */
	size_t answer_bytes;

	/* the front's */
	struct m2_segment segment; /* once done: what waits for its release */
	bool release;              /* forget it as soon as it is done */
	uint32_t sent_tokens[M2_LIMIT_COMPLETIONS];
	uint64_t sent_text[M2_LIMIT_COMPLETIONS];

	_Atomic bool news_pending;
	struct m2_post post_news;
	struct m2_post post; /* all others, one at a time */
};

struct m2_worker_check; /* of worker_check.c */

struct m2_worker {
	const struct m2_worker_options *options;
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_segment_pool *pool;

	struct m2_post_box inbox;  /* to step */
	struct m2_post_box outbox; /* to the front */

	/* front */
	struct m2_ipc_channel *channel;
	struct m2_resident *residents;
	struct m2_call **calls; /* [calls_mask + 1] chains by id */
	size_t calls_mask;
	size_t n_calls;
	bool stopping;
	int status; /* exit status */

	/* step */
	pthread_t step_thread;
	bool step_started;
	struct m2_scheduler scheduler;
	bool quit;
	bool lost;
	struct m2_why lost_why;
	uint64_t heartbeat_ns;
	_Atomic uint64_t beat_steps;
	_Atomic uint64_t beat_tokens;
	_Atomic bool beat_pending;
	struct m2_post post_beat;
	struct m2_post post_lost;
	struct m2_post post_quit;

	/* admission of calls: front and clerks */
	pthread_mutex_t admission;

	/* clerks, loader, checker: one lock for all queues, held for a few instructions */
	pthread_mutex_t work_lock;
	pthread_cond_t clerk_wake;
	pthread_cond_t loader_wake;
	struct m2_call *clerk_first, *clerk_last;
	struct m2_resident *loader_first, *loader_last;
	bool work_stop;
	bool loader_busy;
	pthread_t clerk_threads[2];
	int n_clerks;
	pthread_t loader_thread;
	bool loader_started;
	pthread_cond_t checker_wake;
	struct m2_worker_check *checks;   /* that wait, those of a person first */
	struct m2_worker_check *checking; /* the checker's at this moment */
	pthread_t checker_thread;
	bool checker_started;
};

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t m2_worker_now(void);

/* ---- worker_step.c: the step thread */
enum m2_err m2_worker_step_start(struct m2_worker *w, struct m2_why *why);
/* Ask it to finish every task with M2_EWORKER and end, and wait for that. */
void m2_worker_step_stop(struct m2_worker *w);

/* ---- worker_clerk.c: preparation, on a clerk or on the front */
enum m2_err m2_worker_clerks_start(struct m2_worker *w, struct m2_why *why);
/* Wait for the clerks to end; calls that none has begun are left in the queue. */
void m2_worker_clerks_stop(struct m2_worker *w);
/* Prepare now if that is quick, else have a clerk do it and post PREPARED; true: it is done. */
bool m2_worker_prepare(struct m2_worker *w, struct m2_call *call);
/* Have a clerk destroy a call with large results. */
void m2_worker_discard(struct m2_worker *w, struct m2_call *call);

/* ---- worker_load.c: the loader */
enum m2_err m2_worker_loader_start(struct m2_worker *w, struct m2_why *why);
/* false: a load is under way and cannot be waited for; the thread still uses the device. */
bool m2_worker_loader_stop(struct m2_worker *w);
/* state PLANNING: open and plan it and post PLANNED; LOADING: load it, planning it first if that was not
 * done, and post LOADED; LEAVING: unload it and post UNLOADED; PARKING: park it, or unload it if that fails,
 * and post PARKED. */
void m2_worker_load(struct m2_worker *w, struct m2_resident *resident);
/* Give everything back that a load took. */
void m2_worker_unload_now(struct m2_worker *w, struct m2_resident *resident);

/* ---- worker_check.c: the checker */
enum m2_err m2_worker_checker_start(struct m2_worker *w, struct m2_why *why);
/* Abandon the check that runs, and all that wait. */
void m2_worker_checker_stop(struct m2_worker *w);
enum m2_err m2_worker_on_check(struct m2_worker *w, const struct m2_ipc_check *packet,
	const void *body, size_t body_bytes, struct m2_why *why);
/* Abandon the check of that number. */
enum m2_err m2_worker_on_check_cancel(struct m2_worker *w, uint64_t check, struct m2_why *why);
/* Abandon the checks that followed the load of a model. */
enum m2_err m2_worker_checks_leave(struct m2_worker *w, uint32_t model, struct m2_why *why);
/* A post of the checker: told to the supervisor, and freed where it is the last. */
enum m2_err m2_worker_on_check_post(
	struct m2_worker *w, const struct m2_post *post, struct m2_why *why);

/* ---- worker_calls.c: the front's table of calls and what it tells the supervisor of them */
struct m2_call *m2_worker_call_find(struct m2_worker *w, uint64_t id);
/* There was no descriptor or memory to take a packet's body. */
enum m2_err m2_worker_on_body_lost(
	struct m2_worker *w, const struct m2_ipc_packet *packet, struct m2_why *why);
enum m2_err m2_worker_on_request(struct m2_worker *w, const struct m2_ipc_request *packet,
	const void *body, size_t body_bytes, struct m2_why *why);
enum m2_err m2_worker_on_prepared(struct m2_worker *w, struct m2_call *call, struct m2_why *why);
enum m2_err m2_worker_on_news(struct m2_worker *w, struct m2_call *call, struct m2_why *why);
enum m2_err m2_worker_on_done(struct m2_worker *w, struct m2_call *call, struct m2_why *why);
void m2_worker_on_cancel(struct m2_worker *w, const struct m2_ipc_cancel *packet);
void m2_worker_on_release(struct m2_worker *w, uint64_t id);
/* At the end: every call, with its results memory if `remove`, else leaving the files. */
void m2_worker_calls_finish(struct m2_worker *w, bool remove);
void m2_worker_call_destroy(struct m2_worker *w, struct m2_call *call);

/* ---- worker_messages.c: TOKENS packets for what was published since the last; none for a segment */
enum m2_err m2_worker_pump(struct m2_worker *w, struct m2_call *call, struct m2_why *why);

/* ---- worker_users.c: USERS, before the figures of models */
enum m2_err m2_worker_send_users(struct m2_worker *w, struct m2_why *why);

/* ---- worker_models.c: the front's table of models */
struct m2_resident *m2_worker_resident_find(struct m2_worker *w, uint32_t id);
enum m2_err m2_worker_on_load(struct m2_worker *w, const struct m2_ipc_load *packet,
	const void *body, size_t body_bytes, struct m2_why *why);
enum m2_err m2_worker_on_unload(
	struct m2_worker *w, const struct m2_ipc_unload *packet, struct m2_why *why);
enum m2_err m2_worker_on_planned(
	struct m2_worker *w, struct m2_resident *resident, struct m2_why *why);
enum m2_err m2_worker_on_progress(
	struct m2_worker *w, struct m2_resident *resident, struct m2_why *why);
enum m2_err m2_worker_on_loaded(
	struct m2_worker *w, struct m2_resident *resident, struct m2_why *why);
enum m2_err m2_worker_on_unloaded(
	struct m2_worker *w, struct m2_resident *resident, struct m2_why *why);
enum m2_err m2_worker_on_parked(
	struct m2_worker *w, struct m2_resident *resident, struct m2_why *why);
/* Unload it if that is wanted and nothing uses it any more. */
void m2_worker_leave_if_idle(struct m2_worker *w, struct m2_resident *resident);
enum m2_err m2_worker_on_stats(struct m2_worker *w, struct m2_why *why);
/* Once a second: what every model's rate is measured by. */
void m2_worker_mark_rates(struct m2_worker *w);
void m2_worker_models_finish(struct m2_worker *w);

#endif
