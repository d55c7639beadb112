/* call.c - the life of one message, as seen by the application's threads and by the IO thread.
 *
 * The one subtle part is the end of a request that nobody holds any more: its results memory must be
 * given back after it ran, so a dropped call stays in the handle's list until the daemon's closing
 * message, and only then is `release` sent.
 */
#include "client/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "client/handle.h"

static bool draw_key(char key[2 * M2_LIMIT_KEY_BYTES + 1])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char random[M2_LIMIT_KEY_BYTES];
	if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
		return false;
	for (size_t i = 0; i < sizeof random; i++) {
		key[2 * i] = digits[random[i] >> 4];
		key[2 * i + 1] = digits[random[i] & 15];
	}
	key[2 * M2_LIMIT_KEY_BYTES] = '\0';
	return true;
}

/* With the lock held or not: next_id is passed in. */
static enum m2_err create(uint64_t id, enum m2_op op, struct m2_header *header, const void *payload,
	size_t payload_bytes, struct m2_call **out, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	struct m2_call *call = calloc(1, sizeof *call);
	if (call == NULL || m2_handle_init_condition(&call->changed) != 0) {
		free(call);
		(void)m2_header_end(header, 0, "", NULL, NULL, NULL);
		return m2_fail(M2_ENOMEM, why, "out of memory");
	}
	call->op = op;
	call->id = id;
	if (payload_bytes > M2_LIMIT_PAYLOAD_BYTES)
		err = m2_fail_field(M2_ELIMIT, why, "payload",
			"the payload has %zu bytes, the limit is %d", payload_bytes,
			M2_LIMIT_PAYLOAD_BYTES);
	else if (!draw_key(call->key))
		err = m2_fail(M2_EIO, why, "getrandom: %s", strerror(errno));
	else if (payload != NULL && (call->payload = malloc(payload_bytes + 1)) == NULL)
		err = m2_fail(M2_ENOMEM, why, "out of memory");
	if (err == M2_OK && payload != NULL) {
		memcpy(call->payload, payload, payload_bytes);
		call->payload_bytes = payload_bytes;
	}
	struct m2_why header_why;
	const enum m2_err header_err = m2_header_end(
		header, id, call->key, &call->header, &call->header_bytes, &header_why);
	if (err == M2_OK && header_err != M2_OK) {
		err = header_err;
		if (why != NULL)
			*why = header_why;
	}
	if (err != M2_OK)
		m2_call_destroy(&call);
	*out = call;
	return err;
}

enum m2_err m2_call_create(mamba2 *m, enum m2_op op, struct m2_header *header, const void *payload,
	size_t payload_bytes, struct m2_call **out, struct m2_why *why)
{
	pthread_mutex_lock(&m->lock);
	const uint64_t id = m->next_id++;
	pthread_mutex_unlock(&m->lock);
	return create(id, op, header, payload, payload_bytes, out, why);
}

void m2_call_destroy(struct m2_call **call)
{
	struct m2_call *c = *call;
	if (c == NULL)
		return;
	(void)pthread_cond_destroy(&c->changed);
	free(c->header);
	free(c->payload);
	free(c->segment);
	free(c->json);
	free(c->reply);
	free(c);
	*call = NULL;
}

void m2_call_enqueue(mamba2 *m, struct m2_call *call)
{
	if (!call->is_open) {
		call->is_open = true;
		TAILQ_INSERT_TAIL(&m->open, call, open);
	}
	if (!call->is_pending) {
		call->is_pending = true;
		TAILQ_INSERT_TAIL(&m->pending, call, pending);
	}
}

void m2_call_submit(mamba2 *m, struct m2_call *call)
{
	pthread_mutex_lock(&m->lock);
	/* the daemon gets its time to come back from when somebody first waits for it */
	if (!m->connected && TAILQ_EMPTY(&m->open))
		m->lost_at_ms = m2_handle_now_ms();
	if (m->stopped || m->closing) {
		struct m2_why why;
		(void)m2_fail(M2_EUNREACHABLE, &why, "the connection was closed");
		m2_call_end(m, call, M2_EUNREACHABLE, &why);
	} else {
		m2_call_enqueue(m, call);
	}
	pthread_mutex_unlock(&m->lock);
	m2_handle_wake(m);
}

static enum m2_err no_answer(const mamba2 *m, int64_t timeout_ms, struct m2_why *why)
{
	return m->connected ? m2_fail(M2_ETIMEOUT, why, "no answer within %lld ms",
				      (long long)timeout_ms)
			    : m2_fail(M2_EUNREACHABLE, why, "no daemon answers at %s", m->endpoint);
}

enum m2_err m2_call_wait(mamba2 *m, struct m2_call *call, int64_t timeout_ms,
	m2_call_progress progress, void *ctx, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	uint64_t told = 0;
	int64_t deadline = timeout_ms < 0 ? -1 : m2_handle_now_ms() + timeout_ms;
	pthread_mutex_lock(&m->lock);
	while (err == M2_OK && (call->progress != told || (!call->accepted && !call->ended))) {
		if (call->progress != told) {
			told = call->progress;
			deadline = timeout_ms < 0 ? -1 : m2_handle_now_ms() + timeout_ms;
			const uint64_t done = call->done;
			const uint64_t total = call->total;
			char what[sizeof call->what];
			memcpy(what, call->what, sizeof what);
			pthread_mutex_unlock(&m->lock);
			if (progress != NULL)
				progress(ctx, done, total, what);
			pthread_mutex_lock(&m->lock);
		} else if (!m2_handle_wait(m, &call->changed, deadline) && !call->accepted &&
			   !call->ended) {
			err = no_answer(m, timeout_ms, why);
		}
	}
	if (call->ended) {
		err = call->err;
		if (why != NULL)
			*why = call->why;
	}
	pthread_mutex_unlock(&m->lock);
	return err;
}

void m2_call_end(mamba2 *m, struct m2_call *call, enum m2_err err, const struct m2_why *why)
{
	if (call->is_pending)
		TAILQ_REMOVE(&m->pending, call, pending);
	if (call->is_open)
		TAILQ_REMOVE(&m->open, call, open);
	call->is_pending = false;
	call->is_open = false;
	call->err = err;
	if (why != NULL)
		call->why = *why;
	atomic_store_explicit(&call->ended, true, memory_order_release);
	if (call->dropped) {
		if (call->accepted)
			m2_call_notify(m, M2_OP_RELEASE, call);
		m2_call_destroy(&call);
	} else {
		(void)pthread_cond_broadcast(&call->changed);
	}
}

void m2_call_notify(mamba2 *m, enum m2_op op, struct m2_call *call)
{
	if (m->stopped)
		return;
	struct m2_header header;
	struct m2_call *notice = NULL;
	m2_header_begin(&header, op);
	if (op == M2_OP_ATTACH || call->request == 0)
		m2_header_text(&header, "target", call->key);
	else
		m2_header_int(&header, "request", (int64_t)call->request);
	if (create(m->next_id++, op, &header, NULL, 0, &notice, NULL) != M2_OK)
		return;
	notice->dropped = true;
	notice->about = op == M2_OP_ATTACH ? call->id : 0;
	m2_call_enqueue(m, notice);
}

void m2_call_drop(mamba2 *m, struct m2_call **call, bool over)
{
	struct m2_call *c = *call;
	*call = NULL;
	if (c == NULL)
		return;
	const bool runs = c->op == M2_OP_GENERATE || c->op == M2_OP_SCORE;
	pthread_mutex_lock(&m->lock);
	c->dropped = true;
	if (!c->is_open) { /* ended, or never submitted */
		if (c->accepted)
			m2_call_notify(m, M2_OP_RELEASE, c);
		m2_call_destroy(&c);
	} else if (runs) { /* its end is awaited, and then gives the memory back */
		if (!over)
			m2_call_notify(m, M2_OP_CANCEL, c);
	} else {
		m2_call_end(m, c, M2_ECANCELED, NULL);
	}
	pthread_mutex_unlock(&m->lock);
	m2_handle_wake(m);
}
