/* worker_check.c - the checker thread: checksums of the files that a variant is made of.
 *
 * Two kinds of checks.  One follows every load and records what was loaded: it skips what is known with
 * the same size and time of modification, and is in nobody's way.  The other was asked for by a person
 * (mamba2ctl verify): it reads everything, and goes first - a check of the first kind that runs steps back
 * and goes on where it was.  Both at the lowest priority that the system grants.
 *
 * A check is the front's until it is in the queue, the queue's (under work_lock) until the thread takes
 * it, and the front's again with CHECK_ENDED.
 */
#include "daemon/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/file_check.h"

#define PROGRESS_NS UINT64_C(100000000)

struct m2_worker_check {
	struct m2_worker_check *next;
	struct m2_worker *worker;
	uint64_t id;
	uint32_t model;
	bool every;
	struct m2_variant variant;
	struct m2_ipc_file *known; /* [n_known] */
	uint32_t n_known;

	/* the thread's */
	bool listed;
	struct m2_file_list list;
	enum m2_err err; /* of the list */
	struct m2_why why;
	uint64_t progress_ns;

	_Atomic bool cancelled;
	_Atomic bool step_back;
	_Atomic size_t at; /* which file */
	_Atomic uint64_t done;
	_Atomic uint64_t total;
	_Atomic bool progress_pending;
	struct m2_post post_progress;
	struct m2_post post;
};

/* What became of one file, on its way to the front. */
struct news {
	struct m2_post post;
	struct m2_ipc_checked packet;
};

static void destroy(struct m2_worker_check *c)
{
	m2_file_list_finish(&c->list);
	free(c->known);
	free(c);
}

/* ---- the thread --------------------------------------------------------------------------------- */

/* Where it is not granted (a sandbox may refuse both) the thread competes like any other. */
static void lower_priority(void)
{
	enum { IOPRIO_WHO_PROCESS = 1, IOPRIO_CLASS_IDLE = 3, IOPRIO_CLASS_SHIFT = 13 };
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), 19) != 0 ||
		syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
			IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT) != 0)
		m2_debug("checksums are computed at the usual priority: the system does not grant "
			 "a lower one");
}

static void post_progress(struct m2_worker_check *c)
{
	const uint64_t now = m2_worker_now();
	if (!c->every || now - c->progress_ns < PROGRESS_NS)
		return;
	c->progress_ns = now;
	if (!atomic_exchange(&c->progress_pending, true))
		m2_post_send(&c->worker->outbox, &c->post_progress);
}

static bool go_on(void *ctx, size_t bytes)
{
	struct m2_worker_check *c = ctx;
	atomic_fetch_add_explicit(&c->done, bytes, memory_order_relaxed);
	post_progress(c);
	return !atomic_load(&c->cancelled) && !atomic_load(&c->step_back);
}

static enum m2_err make_list(struct m2_worker_check *c)
{
	struct m2_ipc_file file;
	enum m2_err err = m2_file_list_fill(&c->list, &c->variant, &c->why);
	uint64_t total = 0;
	for (uint32_t i = 0; c->every && i < c->n_known; i++) {
		struct m2_why why;
		const enum m2_err added = m2_file_list_add(&c->list, c->known[i].path, &why);
		if (err == M2_OK && added != M2_OK) {
			err = added;
			c->why = why;
		}
	}
	for (size_t i = 0; i < c->list.count; i++)
		if (m2_file_look(c->list.paths[i], &file, NULL) == M2_OK)
			total += file.bytes;
	atomic_store(&c->total, total);
	c->listed = true;
	return err;
}

static bool is_known(const struct m2_worker_check *c, const char *path)
{
	struct m2_ipc_file now;
	if (c->every || m2_file_look(path, &now, NULL) != M2_OK)
		return false;
	for (uint32_t i = 0; i < c->n_known; i++)
		if (strcmp(c->known[i].path, path) == 0)
			return c->known[i].bytes == now.bytes &&
			       c->known[i].mtime_ns == now.mtime_ns;
	return false;
}

/* false: given up in the middle of it; without memory for the news of it the file is left out, and the
 * error is told at the end. */
static bool check_file(struct m2_worker_check *c, const char *path)
{
	struct news *news = calloc(1, sizeof *news);
	if (news == NULL) {
		c->err = m2_fail(M2_ENOMEM, &c->why, "no memory to check %.300s", path);
		return true;
	}
	struct m2_ipc_checked *p = &news->packet;
	const uint64_t before = atomic_load(&c->done);
	p->check = c->id;
	const enum m2_err err = m2_file_checksum(path, go_on, c, &p->file, p->sha256, &p->why);
	if (err == M2_ECANCELED) {
		atomic_store(&c->done, before);
		free(news);
		return false;
	}
	if (err != M2_OK)
		(void)snprintf(p->file.path, sizeof p->file.path, "%s", path);
	p->err = (uint32_t)err;
	news->post = (struct m2_post){.kind = M2_POST_CHECKED, .object = news};
	m2_post_send(&c->worker->outbox, &news->post);
	return true;
}

static void run(struct m2_worker_check *c)
{
	if (!c->listed)
		c->err = make_list(c);
	for (size_t i = atomic_load(&c->at); i < c->list.count; i++) {
		atomic_store(&c->at, i);
		if (atomic_load(&c->cancelled) || atomic_load(&c->step_back))
			return;
		if (!is_known(c, c->list.paths[i]) && !check_file(c, c->list.paths[i]))
			return;
	}
	atomic_store(&c->at, c->list.count);
}

/* Behind the last one that a person waits for; before or behind those that nobody waits for. */
static void enqueue(struct m2_worker *w, struct m2_worker_check *c, bool last)
{
	struct m2_worker_check **at = &w->checks;
	while (*at != NULL && ((*at)->every || last))
		at = &(*at)->next;
	c->next = *at;
	*at = c;
}

static struct m2_worker_check *next_check(struct m2_worker *w)
{
	struct m2_worker_check *c = NULL;
	(void)pthread_mutex_lock(&w->work_lock);
	while (w->checks == NULL && !w->work_stop)
		(void)pthread_cond_wait(&w->checker_wake, &w->work_lock);
	if (!w->work_stop) {
		c = w->checks;
		w->checks = c->next;
		atomic_store(&c->step_back, false);
	}
	w->checking = c;
	(void)pthread_mutex_unlock(&w->work_lock);
	return c;
}

/* Back into the queue, or to the front: it has ended. */
static void put_back(struct m2_worker *w, struct m2_worker_check *c)
{
	(void)pthread_mutex_lock(&w->work_lock);
	w->checking = NULL;
	const bool again = atomic_load(&c->step_back) && !atomic_load(&c->cancelled) &&
			   atomic_load(&c->at) < c->list.count && !w->work_stop;
	if (again)
		enqueue(w, c, false);
	(void)pthread_mutex_unlock(&w->work_lock);
	if (!again)
		m2_post_send(&w->outbox, &c->post);
}

static void *checker_main(void *arg)
{
	struct m2_worker *w = arg;
	struct m2_worker_check *c;
	lower_priority();
	while ((c = next_check(w)) != NULL) {
		run(c);
		put_back(w, c);
	}
	return NULL;
}

enum m2_err m2_worker_checker_start(struct m2_worker *w, struct m2_why *why)
{
	const int error = pthread_create(&w->checker_thread, NULL, checker_main, w);
	if (error != 0)
		return m2_fail(M2_ENOMEM, why, "checker thread: %s", strerror(error));
	w->checker_started = true;
	return M2_OK;
}

void m2_worker_checker_stop(struct m2_worker *w)
{
	(void)pthread_mutex_lock(&w->work_lock);
	w->work_stop = true;
	if (w->checking != NULL)
		atomic_store(&w->checking->cancelled, true);
	(void)pthread_cond_broadcast(&w->checker_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
	if (w->checker_started)
		(void)pthread_join(w->checker_thread, NULL);
	w->checker_started = false;
	while (w->checks != NULL) {
		struct m2_worker_check *c = w->checks;
		w->checks = c->next;
		destroy(c);
	}
}

/* ---- the front ---------------------------------------------------------------------------------- */

static enum m2_err send_ended(struct m2_worker *w, uint64_t check, enum m2_err err,
	const struct m2_why *reason, struct m2_why *why)
{
	struct m2_ipc_check_ended ended = {.check = check, .err = (uint32_t)err};
	if (err != M2_OK)
		ended.why = *reason;
	return m2_ipc_send(w->channel, M2_IPC_CHECK_ENDED, &ended, NULL, 0, why);
}

static struct m2_worker_check *make_check(
	struct m2_worker *w, const struct m2_ipc_check *packet, const unsigned char *body)
{
	const size_t bytes = packet->n_known * sizeof(struct m2_ipc_file);
	struct m2_worker_check *c = calloc(1, sizeof *c);
	struct m2_ipc_file *known = malloc(bytes > 0 ? bytes : 1);
	if (c == NULL || known == NULL) {
		free(c);
		free(known);
		return NULL;
	}
	c->worker = w;
	c->id = packet->check;
	c->model = packet->model;
	c->every = packet->every != 0;
	memcpy(&c->variant, body, sizeof c->variant);
	memcpy(known, body + sizeof c->variant, bytes);
	for (uint32_t i = 0; i < packet->n_known; i++)
		known[i].path[sizeof known[i].path - 1] = '\0';
	c->known = known;
	c->n_known = packet->n_known;
	c->post_progress = (struct m2_post){.kind = M2_POST_CHECK_PROGRESS, .object = c};
	c->post = (struct m2_post){.kind = M2_POST_CHECK_ENDED, .object = c};
	return c;
}

enum m2_err m2_worker_on_check(struct m2_worker *w, const struct m2_ipc_check *packet,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	struct m2_why reason;
	if (packet->n_known > M2_IPC_KNOWN_MAX ||
		body_bytes !=
			sizeof(struct m2_variant) + packet->n_known * sizeof(struct m2_ipc_file))
		return m2_fail(M2_EPROTO, why, "a check of wrong length");
	struct m2_worker_check *c = make_check(w, packet, body);
	if (c == NULL)
		return send_ended(w, packet->check,
			m2_fail(M2_ENOMEM, &reason, "no memory for a check"), &reason, why);
	(void)pthread_mutex_lock(&w->work_lock);
	enqueue(w, c, !c->every);
	if (c->every && w->checking != NULL && !w->checking->every)
		atomic_store(&w->checking->step_back, true);
	(void)pthread_cond_signal(&w->checker_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
	return M2_OK;
}

/* Those that are meant: by their number, or by the model they follow. */
static bool is_meant(const struct m2_worker_check *c, uint64_t check, uint32_t model)
{
	return model != 0 ? c->model == model : c->id == check;
}

static enum m2_err abandon(struct m2_worker *w, uint64_t check, uint32_t model, struct m2_why *why)
{
	struct m2_why reason;
	struct m2_worker_check *gone = NULL;
	enum m2_err err = M2_OK;
	(void)pthread_mutex_lock(&w->work_lock);
	if (w->checking != NULL && is_meant(w->checking, check, model))
		atomic_store(&w->checking->cancelled, true); /* it ends by itself, within a piece */
	for (struct m2_worker_check **at = &w->checks; *at != NULL;) {
		struct m2_worker_check *c = *at;
		if (!is_meant(c, check, model)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		c->next = gone;
		gone = c;
	}
	(void)pthread_mutex_unlock(&w->work_lock);
	while (gone != NULL) {
		struct m2_worker_check *c = gone;
		gone = c->next;
		const enum m2_err here = send_ended(w, c->id,
			m2_fail(M2_ECANCELED, &reason, "the check was cancelled"), &reason, why);
		err = err != M2_OK ? err : here;
		destroy(c);
	}
	return err;
}

enum m2_err m2_worker_on_check_cancel(struct m2_worker *w, uint64_t check, struct m2_why *why)
{
	return abandon(w, check, 0, why);
}

enum m2_err m2_worker_checks_leave(struct m2_worker *w, uint32_t model, struct m2_why *why)
{
	return abandon(w, 0, model, why);
}

static enum m2_err send_progress(struct m2_worker *w, struct m2_worker_check *c, struct m2_why *why)
{
	struct m2_ipc_check_progress progress = {
		.check = c->id,
		.done = atomic_load_explicit(&c->done, memory_order_relaxed),
		.total = atomic_load_explicit(&c->total, memory_order_relaxed),
	};
	const size_t at = atomic_load(&c->at);
	const char *path = at < c->list.count ? c->list.paths[at] : "";
	const char *slash = strrchr(path, '/');
	atomic_store(&c->progress_pending, false);
	(void)snprintf(progress.what, sizeof progress.what, "reading %.54s",
		slash != NULL ? slash + 1 : path);
	return m2_ipc_send(w->channel, M2_IPC_CHECK_PROGRESS, &progress, NULL, 0, why);
}

enum m2_err m2_worker_on_check_post(
	struct m2_worker *w, const struct m2_post *post, struct m2_why *why)
{
	enum m2_err err;
	if (post->kind == M2_POST_CHECKED) {
		struct news *news = post->object;
		err = m2_ipc_send(w->channel, M2_IPC_CHECKED, &news->packet, NULL, 0, why);
		free(news);
		return err;
	}
	struct m2_worker_check *c = post->object;
	if (post->kind == M2_POST_CHECK_PROGRESS)
		return send_progress(w, c, why);
	if (c->err == M2_OK && atomic_load(&c->cancelled))
		c->err = m2_fail(M2_ECANCELED, &c->why, "the check was cancelled");
	err = send_ended(w, c->id, c->err, &c->why, why);
	destroy(c);
	return err;
}
