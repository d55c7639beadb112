/* worker.c - the worker process: assembled in order, its front loop, taken apart in reverse.
 *
 * The front waits for two things: packets of the supervisor and posts of the other threads.  It ends
 * when the supervisor says so or is gone, or when the device is lost; then every task is finished with
 * an error, so that no client waits for a process that is no more.
 */
#include "daemon/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"

enum { BURST = 64 }; /* packets before the posts have their turn */

uint64_t m2_worker_now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* ---- what comes in ----------------------------------------------------------------------------- */

static enum m2_err on_packet(struct m2_worker *w, const struct m2_ipc_packet *p, struct m2_why *why)
{
	if (p->body_lost)
		return m2_worker_on_body_lost(w, p, why);
	switch (p->type) {
	case M2_IPC_LOAD:
		return m2_worker_on_load(w, p->fixed, p->body, p->body_bytes, why);
	case M2_IPC_UNLOAD:
		return m2_worker_on_unload(w, p->fixed, why);
	case M2_IPC_REQUEST:
		return m2_worker_on_request(w, p->fixed, p->body, p->body_bytes, why);
	case M2_IPC_CANCEL:
		m2_worker_on_cancel(w, p->fixed);
		return M2_OK;
	case M2_IPC_RELEASE: {
		const struct m2_ipc_cancel *release = p->fixed;
		m2_worker_on_release(w, release->request);
		return M2_OK;
	}
	case M2_IPC_STATS:
		return m2_worker_on_stats(w, why);
	case M2_IPC_CHECK:
		return m2_worker_on_check(w, p->fixed, p->body, p->body_bytes, why);
	case M2_IPC_CHECK_CANCEL: {
		const struct m2_ipc_cancel *cancel = p->fixed;
		return m2_worker_on_check_cancel(w, cancel->request, why);
	}
	case M2_IPC_STOP:
		w->stopping = true;
		return M2_OK;
	default:
		return m2_fail(M2_EPROTO, why, "a packet of type %d for a worker", (int)p->type);
	}
}

static enum m2_err send_heartbeat(struct m2_worker *w, struct m2_why *why)
{
	atomic_store(&w->beat_pending, false);
	m2_worker_mark_rates(w);
	const struct m2_ipc_heartbeat beat = {
		.steps = atomic_load_explicit(&w->beat_steps, memory_order_relaxed),
		.tokens = atomic_load_explicit(&w->beat_tokens, memory_order_relaxed),
	};
	return m2_ipc_send(w->channel, M2_IPC_HEARTBEAT, &beat, NULL, 0, why);
}

static enum m2_err on_post(struct m2_worker *w, struct m2_post *post, struct m2_why *why)
{
	struct m2_resident *resident = post->object;
	switch ((enum m2_post_kind)post->kind) {
	case M2_POST_PROGRESS:
		return m2_worker_on_progress(w, post->object, why);
	case M2_POST_PLANNED:
		return m2_worker_on_planned(w, post->object, why);
	case M2_POST_LOADED:
		return m2_worker_on_loaded(w, post->object, why);
	case M2_POST_REMOVED:
		m2_worker_load(w, resident); /* it leaves: the loader takes it down */
		return M2_OK;
	case M2_POST_UNLOADED:
		return m2_worker_on_unloaded(w, post->object, why);
	case M2_POST_PARKED:
		return m2_worker_on_parked(w, post->object, why);
	case M2_POST_PREPARED:
		return m2_worker_on_prepared(w, post->object, why);
	case M2_POST_NEWS:
		return m2_worker_on_news(w, post->object, why);
	case M2_POST_DONE:
		return m2_worker_on_done(w, post->object, why);
	case M2_POST_HEARTBEAT:
		return send_heartbeat(w, why);
	case M2_POST_CHECKED:
	case M2_POST_CHECK_PROGRESS:
	case M2_POST_CHECK_ENDED:
		return m2_worker_on_check_post(w, post, why);
	default:
		w->stopping = true; /* M2_POST_LOST */
		w->status = 1;
		m2_error("device lost: %s", w->lost_why.text);
		return M2_OK;
	}
}

static enum m2_err take_outbox(struct m2_worker *w, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	struct m2_post *post = m2_post_take(&w->outbox);
	while (post != NULL) {
		struct m2_post *next = post->next;
		const enum m2_err here = on_post(w, post, why);
		err = err != M2_OK ? err : here; /* the others are handled all the same */
		post = next;
	}
	return err;
}

static enum m2_err take_packets(struct m2_worker *w, struct m2_why *why)
{
	for (int i = 0; i < BURST && !w->stopping; i++) {
		struct m2_ipc_packet packet;
		bool got;
		enum m2_err err = m2_ipc_receive(w->channel, &packet, &got, why);
		if (err == M2_OK && !got)
			return M2_OK;
		if (err == M2_OK)
			err = on_packet(w, &packet, why);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

static enum m2_err front_loop(struct m2_worker *w, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	while (err == M2_OK && !w->stopping) {
		const bool writes = m2_ipc_channel_wants_write(w->channel);
		struct pollfd fds[2] = {
			{.fd = m2_ipc_channel_fd(w->channel),
				.events = (short)(writes ? POLLIN | POLLOUT : POLLIN)},
			{.fd = w->outbox.event, .events = POLLIN},
		};
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return m2_fail(M2_EIO, why, "poll: %s", strerror(errno));
		m2_post_rearm(&w->outbox);
		err = take_outbox(w, why);
		if (err == M2_OK && (fds[0].revents & POLLOUT) != 0)
			err = m2_ipc_flush(w->channel, why);
		if (err == M2_OK && (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0)
			err = take_packets(w, why);
	}
	return err;
}

/* ---- assembly ---------------------------------------------------------------------------------- */

static enum m2_err open_device(struct m2_worker *w, struct m2_why *why)
{
	const struct m2_device_options options = {
		.ordinal = w->options->ordinal,
		.threads = w->options->threads,
		.isa = w->options->isa,
	};
	enum m2_err err = m2_backend_find(w->options->backend, &w->backend, why);
	return err != M2_OK ? err : w->backend->open(&options, &w->device, why);
}

/* The sentence goes to whoever waits for this device. */
static void say_unable(struct m2_worker *w, enum m2_err err, const struct m2_why *why)
{
	const struct m2_ipc_unable unable = {.err = (uint32_t)err, .why = *why};
	(void)m2_ipc_send(w->channel, M2_IPC_WORKER_UNABLE, &unable, NULL, 0, NULL);
}

static enum m2_err say_ready(struct m2_worker *w, struct m2_why *why)
{
	struct m2_ipc_worker_ready ready = {0};
	w->backend->info(w->device, &ready.device);
	ready.can_park = w->backend->park != NULL;
	(void)snprintf(ready.backend, sizeof ready.backend, "%s", w->backend->name);
	return m2_ipc_send(w->channel, M2_IPC_WORKER_READY, &ready, NULL, 0, why);
}

static enum m2_err assemble(struct m2_worker *w, struct m2_why *why)
{
	const struct m2_worker_options *o = w->options;
	enum m2_err err =
		m2_ipc_channel_create(o->fd, M2_IPC_WORKER, M2_IPC_SUPERVISOR, &w->channel, why);
	if (err == M2_OK && (!m2_post_box_init(&w->inbox) || !m2_post_box_init(&w->outbox)))
		err = m2_fail(M2_EIO, why, "eventfd: %s", strerror(errno));
	if (err == M2_OK)
		err = m2_segment_pool_create(
			o->results_dir, o->results_budget, o->results_per_user, &w->pool, why);
	if (err == M2_OK && (err = open_device(w, why)) != M2_OK)
		say_unable(w, err, why);
	if (err == M2_OK)
		err = m2_worker_clerks_start(w, why);
	if (err == M2_OK)
		err = m2_worker_loader_start(w, why);
	if (err == M2_OK)
		err = m2_worker_checker_start(w, why);
	if (err == M2_OK)
		err = m2_worker_step_start(w, why);
	if (err == M2_OK)
		err = say_ready(w, why); /* last: from here on we are asked things */
	return err;
}

/* Threads first, each when nothing can come for it any more; then what they worked on.  false: the
 * loader is inside the backend and cannot be waited for; the end of the process takes it down. */
static bool take_apart(struct m2_worker *w, bool remove)
{
	struct m2_why why;
	m2_worker_step_stop(w);
	m2_worker_clerks_stop(w);
	const bool idle = m2_worker_loader_stop(w);
	m2_worker_checker_stop(w);
	/* the last words: every task was finished by the step thread */
	w->stopping = true;
	if (w->channel != NULL) {
		(void)take_outbox(w, &why);
		(void)m2_ipc_flush(w->channel, &why);
	}
	m2_worker_calls_finish(w, remove);
	if (!idle)
		return false;
	m2_worker_models_finish(w);
	if (w->device != NULL)
		w->backend->close(&w->device);
	m2_segment_pool_destroy(&w->pool);
	m2_ipc_channel_destroy(&w->channel);
	m2_post_box_finish(&w->inbox);
	m2_post_box_finish(&w->outbox);
	return true;
}

int m2_worker_main(const struct m2_worker_options *options)
{
	struct m2_why why = {.text = ""};
	struct m2_worker *w = calloc(1, sizeof *w);
	if (w == NULL) {
		m2_error("no memory to begin");
		return 1;
	}
	w->options = options;
	w->inbox.event = w->outbox.event = -1;
	(void)pthread_mutex_init(&w->admission, NULL);
	(void)pthread_mutex_init(&w->work_lock, NULL);
	(void)pthread_cond_init(&w->clerk_wake, NULL);
	(void)pthread_cond_init(&w->loader_wake, NULL);
	(void)pthread_cond_init(&w->checker_wake, NULL);
	enum m2_err err = assemble(w, &why);
	if (err == M2_OK)
		err = front_loop(w, &why);
	if (err != M2_OK) {
		m2_error("worker ends: %s", why.text);
		w->status = 1;
	}
	const int status = w->status;
	/* after a lost device the supervisor starts us again, and clients may still read what they have */
	if (take_apart(w, !w->lost))
		free(w);
	return status;
}
