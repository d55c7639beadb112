/* worker_step.c - the step thread: takes what the front has sent, runs a step, beats, sleeps when idle.
 *
 * Between two looks into the inbox lies at most one step.  Nothing here allocates or locks; the only
 * sleep is on the inbox's event, when no lane has work, with a timeout for the next heartbeat.
 * The heartbeat comes from this loop and from nowhere else: a step that hangs stops it.
 */
#include "daemon/worker.h"

#include <assert.h>
#include <poll.h>
#include <string.h>

#include "common/log.h"

#define HEARTBEAT_NS UINT64_C(1000000000)

static void on_news(void *ctx, struct m2_task *task)
{
	struct m2_worker *w = ctx;
	struct m2_call *call = task->owner;
	if (!atomic_exchange(&call->news_pending, true))
		m2_post_send(&w->outbox, &call->post_news);
}

static void on_done(void *ctx, struct m2_task *task)
{
	struct m2_worker *w = ctx;
	struct m2_call *call = task->owner;
	call->post.kind = M2_POST_DONE;
	m2_post_send(&w->outbox, &call->post);
}

static void fail_submitted(struct m2_worker *w)
{
	struct m2_why why;
	if (w->lost)
		m2_scheduler_fail(&w->scheduler, M2_EDEVICE, &w->lost_why);
	else if (w->quit)
		m2_scheduler_fail(&w->scheduler,
			m2_fail(M2_EWORKER, &why, "the process that ran the request is ending"),
			&why);
}

static void take_inbox(struct m2_worker *w)
{
	struct m2_post *post = m2_post_take(&w->inbox);
	while (post != NULL) {
		struct m2_post *next = post->next;
		struct m2_resident *resident = post->object;
		struct m2_call *call = post->object;
		switch ((enum m2_post_kind)post->kind) {
		case M2_POST_ADD:
			m2_scheduler_add(&w->scheduler, resident->lane);
			break;
		case M2_POST_REMOVE:
			m2_scheduler_remove(&w->scheduler, resident->lane);
			resident->post.kind = M2_POST_REMOVED;
			m2_post_send(&w->outbox, &resident->post);
			break;
		case M2_POST_SUBMIT:
			m2_scheduler_submit(&w->scheduler, call->resident->lane, call->task);
			break;
		default:
			assert(post->kind == M2_POST_QUIT);
			w->quit = true;
			break;
		}
		post = next;
	}
}

static void beat(struct m2_worker *w, uint64_t now)
{
	if (now - w->heartbeat_ns < HEARTBEAT_NS)
		return;
	w->heartbeat_ns = now;
	atomic_store_explicit(&w->beat_steps, w->scheduler.steps, memory_order_relaxed);
	atomic_store_explicit(&w->beat_tokens, w->scheduler.tokens, memory_order_relaxed);
	if (!atomic_exchange(&w->beat_pending, true))
		m2_post_send(&w->outbox, &w->post_beat);
}

static void sleep_until_post(struct m2_worker *w)
{
	const uint64_t now = m2_worker_now();
	const uint64_t since = now - w->heartbeat_ns;
	const uint64_t left = since < HEARTBEAT_NS ? HEARTBEAT_NS - since : 0;
	struct pollfd fd = {.fd = w->inbox.event, .events = POLLIN};
	(void)poll(&fd, 1, (int)(left / 1000000U) + 1);
	m2_post_rearm(&w->inbox);
}

static void *step_main(void *arg)
{
	struct m2_worker *w = arg;
	while (!w->quit) {
		bool worked = false;
		take_inbox(w);
		if (!w->lost && !w->quit) {
			const enum m2_err err =
				m2_scheduler_step(&w->scheduler, &worked, &w->lost_why);
			if (err != M2_OK) {
				w->lost = true;
				m2_post_send(&w->outbox, &w->post_lost);
			}
		}
		fail_submitted(w);
		/* a lost device beats no more: the supervisor shall not take us for healthy */
		if (!w->lost)
			beat(w, m2_worker_now());
		if (!worked && !w->quit)
			sleep_until_post(w);
	}
	return NULL;
}

enum m2_err m2_worker_step_start(struct m2_worker *w, struct m2_why *why)
{
	w->scheduler.events =
		(struct m2_scheduler_events){.ctx = w, .news = on_news, .done = on_done};
	w->scheduler.clock = m2_worker_now;
	w->post_beat.kind = M2_POST_HEARTBEAT;
	w->post_lost.kind = M2_POST_LOST;
	w->post_quit.kind = M2_POST_QUIT;
	const int error = pthread_create(&w->step_thread, NULL, step_main, w);
	if (error != 0)
		return m2_fail(M2_ENOMEM, why, "step thread: %s", strerror(error));
	w->step_started = true;
	return M2_OK;
}

void m2_worker_step_stop(struct m2_worker *w)
{
	if (!w->step_started)
		return;
	m2_post_send(&w->inbox, &w->post_quit);
	(void)pthread_join(w->step_thread, NULL);
	w->step_started = false;
}
