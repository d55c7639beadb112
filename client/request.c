/* request.c - waiting for results, the end of a request, and giving it back.
 *
 * A request has ended when its memory says FINISHED.  If the daemon can no longer say so (it was
 * killed), the IO thread ends the call, and that counts as the end too; memory that did finish wins.
 */
#include "client/request.h"

#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/errors.h"
#include "client/handle.h"

enum m2_err m2_request_create(
	mamba2 *m, struct m2_call *call, mamba2_request **out, struct m2_why *why)
{
	mamba2_request *r = calloc(1, sizeof *r);
	enum m2_err err = r == NULL ? m2_fail(M2_ENOMEM, why, "out of memory")
				    : m2_segment_map(m->runtime_dir, call->segment,
					      call->segment_bytes, &r->segment, why);
	if (err != M2_OK) {
		free(r);
		m2_call_drop(m, &call, false);
		return err;
	}
	r->m = m;
	r->call = call;
	r->fd = -1;
	m2_handle_reference(m);
	*out = r;
	return M2_OK;
}

static uint32_t doorbell(const mamba2_request *r)
{
	return atomic_load_explicit(&r->segment.header->doorbell, memory_order_acquire);
}

static bool memory_finished(const mamba2_request *r)
{
	return atomic_load_explicit(&r->segment.header->state, memory_order_acquire) ==
	       M2_RESULTS_FINISHED;
}

static bool ended(const mamba2_request *r)
{
	return memory_finished(r) || atomic_load_explicit(&r->call->ended, memory_order_acquire);
}

int mamba2_request_finished(mamba2_request *r)
{
	return ended(r) ? 1 : 0;
}

uint32_t m2_request_sleep(
	const mamba2_request *r, uint32_t seen, int64_t deadline_ms, const atomic_bool *stop)
{
	for (;;) {
		const uint32_t bell = doorbell(r);
		if (bell != seen || ended(r) || (stop != NULL && atomic_load(stop)))
			return bell;
		int64_t ms = M2_REQUEST_LOOK_MS;
		if (deadline_ms >= 0) {
			const int64_t left = deadline_ms - m2_handle_now_ms();
			if (left <= 0)
				return bell;
			ms = left < ms ? left : ms;
		}
		(void)m2_results_wait(r->segment.header, seen, ms * 1000000);
	}
}

enum mamba2_error mamba2_request_wait(mamba2_request *r, int64_t timeout_ms)
{
	struct m2_why why;
	if (r->fd >= 0) { /* clear first, look then: what comes in between is found or rung again */
		eventfd_t count;
		(void)eventfd_read(r->fd, &count);
	}
	const int64_t deadline = timeout_ms < 0 ? -1 : m2_handle_now_ms() + timeout_ms;
	const uint32_t bell = m2_request_sleep(r, r->seen, deadline, NULL);
	if (bell != r->seen || ended(r)) {
		r->seen = bell;
		return MAMBA2_OK;
	}
	return m2_client_return(
		m2_fail(M2_ETIMEOUT, &why, "nothing new within %lld ms", (long long)timeout_ms),
		&why);
}

enum mamba2_error mamba2_request_result(mamba2_request *r, const char **message)
{
	enum m2_err err = M2_OK;
	r->why.text[0] = '\0';
	if (memory_finished(r)) {
		const struct m2_results_header *h = r->segment.header;
		err = m2_err_from_number((long)h->error);
		if (err != M2_OK) {
			const int length = (int)strnlen(h->message, sizeof h->message);
			(void)m2_fail(err, &r->why, "%.*s", length, h->message);
		}
	} else if (atomic_load_explicit(&r->call->ended, memory_order_acquire)) {
		r->why = r->call->why;
		/* a closing message without an error, and memory that nobody finished */
		err = r->call->err != M2_OK ? r->call->err : M2_EWORKER;
	} else {
		err = m2_fail(M2_EBUSY, &r->why, "the request still runs");
	}
	if (err != M2_OK && r->why.text[0] == '\0')
		(void)m2_fail(err, &r->why, "%s", m2_err_advice(err));
	if (message != NULL)
		*message = r->why.text;
	return m2_client_return(err, &r->why);
}

/* ---- the descriptor ---- */

static void *watch(void *request)
{
	mamba2_request *r = request;
	uint32_t seen = 0;
	bool last = false;
	while (!last && !atomic_load(&r->unwatch)) {
		const uint32_t bell = m2_request_sleep(r, seen, -1, &r->unwatch);
		last = ended(r);
		if (bell != seen || last)
			(void)eventfd_write(r->fd, 1);
		seen = bell;
	}
	return NULL;
}

int mamba2_request_fd(mamba2_request *r)
{
	struct m2_why why;
	if (r->watched)
		return r->fd;
	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->fd < 0) {
		(void)m2_client_return(m2_fail(M2_EIO, &why, "eventfd: %s", strerror(errno)), &why);
		return -1;
	}
	sigset_t all;
	sigset_t before;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before);
	const int failed = pthread_create(&r->watcher, NULL, watch, r);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed != 0) {
		(void)close(r->fd);
		r->fd = -1;
		(void)m2_client_return(
			m2_fail(M2_EIO, &why, "cannot start a thread: %s", strerror(failed)), &why);
		return -1;
	}
	r->watched = true;
	return r->fd;
}

/* The futex word is the daemon's to change, but anyone who maps it may wake its sleepers.  A wake that
 * comes just before the watcher sleeps is missed: then its next look, M2_REQUEST_LOOK_MS later, ends it. */
static void stop_watching(mamba2_request *r)
{
	if (!r->watched)
		return;
	atomic_store(&r->unwatch, true);
	(void)syscall(SYS_futex, &r->segment.header->doorbell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	(void)pthread_join(r->watcher, NULL);
	(void)close(r->fd);
}

enum mamba2_error mamba2_request_cancel(mamba2_request *r)
{
	mamba2 *m = r->m;
	if (ended(r))
		return MAMBA2_OK;
	pthread_mutex_lock(&m->lock);
	const bool stopped = m->stopped;
	m2_call_notify(m, M2_OP_CANCEL, r->call);
	pthread_mutex_unlock(&m->lock);
	m2_handle_wake(m);
	struct m2_why why;
	return stopped ? m2_client_return(
				 m2_fail(M2_EUNREACHABLE, &why, "the connection was closed"), &why)
		       : MAMBA2_OK;
}

uint64_t mamba2_request_number(const mamba2_request *r)
{
	return r->call->request;
}

void mamba2_request_free(mamba2_request **request)
{
	if (request == NULL || *request == NULL)
		return;
	mamba2_request *r = *request;
	mamba2 *m = r->m;
	stop_watching(r);
	m2_call_drop(m, &r->call, memory_finished(r));
	m2_segment_unmap(&r->segment);
	free(r);
	m2_handle_unreference(m);
	*request = NULL;
}
