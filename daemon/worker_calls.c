/* worker_calls.c - the front's table of requests, and everything the supervisor hears of them.
 *
 * The end of a call that was never accepted is REFUSED (or DATA, for the two that only translate); after
 * ACCEPTED it is FINISHED, always and once.
 */
#include "daemon/worker.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
	TABLE_FIRST = 256,
	KEEP_MAPPED_BYTES = 4194304 /* a larger mapping is given back with its file, by a clerk */
};

/* ---- the table --------------------------------------------------------------------------------- */

/* Ids are the supervisor's running numbers: spread well as they are. */
static struct m2_call **chain_of(struct m2_worker *w, uint64_t id)
{
	return &w->calls[id & w->calls_mask];
}

struct m2_call *m2_worker_call_find(struct m2_worker *w, uint64_t id)
{
	if (w->calls == NULL)
		return NULL;
	struct m2_call *call = *chain_of(w, id);
	while (call != NULL && call->id != id)
		call = call->next;
	return call;
}

/* Twice as many chains once there is a call for each. */
static enum m2_err grow(struct m2_worker *w, struct m2_why *why)
{
	const size_t old = w->calls != NULL ? w->calls_mask + 1 : 0;
	if (w->n_calls < old)
		return M2_OK;
	const size_t size = old == 0 ? TABLE_FIRST : 2 * old;
	struct m2_call **table = calloc(size, sizeof(struct m2_call *));
	if (table == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a table of %zu requests", size);
	struct m2_call **before = w->calls;
	w->calls = table;
	w->calls_mask = size - 1;
	for (size_t i = 0; i < old; i++) {
		for (struct m2_call *call = before[i], *next; call != NULL; call = next) {
			next = call->next;
			struct m2_call **chain = chain_of(w, call->id);
			call->next = *chain;
			*chain = call;
		}
	}
	free(before);
	return M2_OK;
}

static void unlink_call(struct m2_worker *w, struct m2_call *call)
{
	struct m2_call **at = chain_of(w, call->id);
	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	w->n_calls--;
}

void m2_worker_call_destroy(struct m2_worker *w, struct m2_call *call)
{
	m2_task_destroy(w->pool, &call->task);
	m2_segment_destroy(w->pool, &call->segment);
	free(call->answer);
	free(call->body);
	free(call);
}

/* Its model no longer counts it.  Posts may unload the model: the call does not know it after this. */
static void leave_model(struct m2_worker *w, struct m2_call *call)
{
	struct m2_resident *r = call->resident;
	(void)pthread_mutex_lock(&w->admission);
	r->reserved -= call->reserved;
	(void)pthread_mutex_unlock(&w->admission);
	call->reserved = 0;
	call->resident = NULL;
	r->n_calls--;
	r->last_end_ns = m2_worker_now();
	m2_worker_leave_if_idle(w, r);
}

static void forget(struct m2_worker *w, struct m2_call *call)
{
	unlink_call(w, call);
	m2_worker_discard(w, call);
}

/* ---- reception --------------------------------------------------------------------------------- */

static enum m2_err refuse(struct m2_worker *w, uint64_t id, enum m2_err err,
	const struct m2_why *reason, struct m2_why *why)
{
	struct m2_ipc_refused refused = {.request = id, .err = (uint32_t)err, .why = *reason};
	return m2_ipc_send(w->channel, M2_IPC_REFUSED, &refused, NULL, 0, why);
}

enum m2_err m2_worker_on_body_lost(
	struct m2_worker *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_request *request = packet->fixed;
	struct m2_why reason;
	const enum m2_err err = m2_fail(
		M2_ENOMEM, &reason, "no memory or descriptor in the worker to take the prompt");
	if (packet->type == M2_IPC_REQUEST)
		return refuse(w, request->request.id, err, &reason, why);
	*why = reason; /* what it was would be waited for: the end of this process answers */
	return err;
}

static enum m2_err find_model(struct m2_worker *w, const struct m2_ipc_request *packet,
	struct m2_resident **out, struct m2_why *reason)
{
	struct m2_resident *r = m2_worker_resident_find(w, packet->model);
	*out = r;
	if (r == NULL || r->state < M2_RESIDENT_READY)
		return m2_fail_field(
			M2_ENOENT, reason, "model", "%s is not resident", packet->request.model);
	if (r->unload_wanted || r->state == M2_RESIDENT_LEAVING)
		return m2_fail_field(M2_EDRAINING, reason, "model", "%s is being unloaded",
			packet->request.model);
	return M2_OK;
}

static struct m2_call *make_call(const struct m2_ipc_request *packet, const void *body,
	size_t body_bytes, struct m2_resident *resident)
{
	struct m2_call *call = calloc(1, sizeof *call);
	unsigned char *copy = malloc(body_bytes > 0 ? body_bytes : 1);
	if (call == NULL || copy == NULL) {
		free(call);
		free(copy);
		return NULL;
	}
	if (body_bytes > 0)
		memcpy(copy, body, body_bytes);
	call->id = packet->request.id;
	call->resident = resident;
	call->request = packet->request;
	call->weight = packet->weight;
	call->user_slots = packet->slots;
	call->user_bytes = packet->state_bytes;
	call->body = copy;
	call->body_bytes = body_bytes;
	call->received_ns = m2_worker_now();
	call->post.object = call;
	call->post_news = (struct m2_post){.kind = M2_POST_NEWS, .object = call};
	return call;
}

enum m2_err m2_worker_on_request(struct m2_worker *w, const struct m2_ipc_request *packet,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	const uint64_t id = packet->request.id;
	const uint32_t op = packet->request.op;
	struct m2_resident *resident;
	struct m2_why reason;
	enum m2_err err = m2_request_check(&packet->request, body_bytes, why);
	if (err != M2_OK)
		return err;
	if (packet->weight < 1 || packet->weight > M2_FAIR_WEIGHT_MAX || packet->slots < 0)
		return m2_fail(M2_EPROTO, why, "a request with a weight or slots out of range");
	if ((op != M2_OP_GENERATE && op != M2_OP_SCORE && op != M2_OP_TOKENIZE &&
		    op != M2_OP_DETOKENIZE) ||
		id == 0 || m2_worker_call_find(w, id) != NULL)
		return m2_fail(
			M2_EPROTO, why, "a request that is not a worker's, or twice the same");
	err = find_model(w, packet, &resident, &reason);
	if (err == M2_OK)
		err = grow(w, &reason);
	if (err != M2_OK)
		return refuse(w, id, err, &reason, why);
	struct m2_call *call = make_call(packet, body, body_bytes, resident);
	if (call == NULL)
		return refuse(w, id, m2_fail(M2_ENOMEM, &reason, "no memory for a request"),
			&reason, why);
	struct m2_call **chain = chain_of(w, id);
	call->next = *chain;
	*chain = call;
	w->n_calls++;
	resident->n_calls++;
	resident->n_requests++;
	return m2_worker_prepare(w, call) ? m2_worker_on_prepared(w, call, why) : M2_OK;
}

enum m2_err m2_worker_on_prepared(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	enum m2_err err;
	call->waits_for_clerk = false;
	if (w->stopping && call->err == M2_OK) /* nobody would run it */
		call->err = m2_fail(M2_EWORKER, &call->why, "the worker is ending");
	if (call->err != M2_OK || call->task == NULL) {
		struct m2_ipc_data data = {.request = call->id, .bytes = call->answer_bytes};
		err = call->err != M2_OK ? refuse(w, call->id, call->err, &call->why, why)
					 : m2_ipc_send(w->channel, M2_IPC_DATA, &data, call->answer,
						   call->answer_bytes, why);
		if (call->err == M2_OK &&
			err == M2_ENOMEM) /* the answer is too large to be sent now */
			err = refuse(w, call->id, err, why, why);
		leave_model(w, call);
		forget(w, call);
		return err;
	}
	struct m2_ipc_accepted accepted = {
		.request = call->id,
		.bytes = call->task->segment.bytes,
		.prompt_tokens = call->task->prompt_tokens,
	};
	memcpy(accepted.segment, call->task->segment.name, sizeof accepted.segment);
	atomic_store(&call->task->cancel, atomic_load(&call->cancel));
	call->post.kind = M2_POST_SUBMIT;
	/* the step thread wakes while we write; what it has to say of this call comes through us, so the
	 * supervisor still hears ACCEPTED first.  If the channel is broken the end of the worker cleans up */
	m2_post_send(&w->inbox, &call->post);
	return m2_ipc_send(w->channel, M2_IPC_ACCEPTED, &accepted, NULL, 0, why);
}

/* ---- the end ----------------------------------------------------------------------------------- */

enum m2_err m2_worker_on_news(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	atomic_store(&call->news_pending, false);
	return m2_worker_pump(w, call, why);
}

static uint64_t since(uint64_t start, uint64_t end)
{
	return end > start ? end - start : 0;
}

static struct m2_ipc_finished report(const struct m2_call *call)
{
	const struct m2_task *task = call->task;
	const struct m2_results_header *h = task->header;
	struct m2_ipc_finished f = {
		.request = call->id,
		.err = (uint32_t)task->err,
		.n_sequences = task->n_sequences,
		.why = task->why,
		.prompt_tokens = task->prompt_tokens,
		.queue_ns = since(h->received_ns, h->admitted_ns),
		.first_ns = since(h->received_ns, h->first_ns),
		.total_ns = since(h->received_ns, h->finished_ns),
		.engine_ns = h->engine_ns,
		.paused_ns = h->paused_ns,
		.pauses = h->pauses,
		.seed = task->sampling.seed,
	};
	for (uint32_t i = 0; i < task->n_sequences; i++) {
		const struct m2_results_sequence *q = task->sequences[i].out;
		f.ends[i] = (struct m2_ipc_sequence_end){
			.tokens = atomic_load_explicit(&q->published, memory_order_acquire),
			.finish = atomic_load_explicit(&q->finish, memory_order_acquire),
			.stop_token = q->stop_token,
			.stop_string = q->stop_string,
		};
		f.generated_tokens += f.ends[i].tokens;
	}
	return f;
}

enum m2_err m2_worker_on_done(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	const bool messages = (call->request.flags & M2_REQUEST_MESSAGES) != 0;
	enum m2_err err = m2_worker_pump(w, call, why);
	if (err == M2_OK) {
		const struct m2_ipc_finished finished = report(call);
		err = m2_ipc_send(w->channel, M2_IPC_FINISHED, &finished, NULL, 0, why);
	}
	call->segment = call->task->segment;
	call->task->segment = (struct m2_segment){0};
	m2_task_destroy(w->pool, &call->task);
	leave_model(w, call);
	if (messages || call->release)
		forget(w, call);
	else if (call->segment.bytes <= KEEP_MAPPED_BYTES)
		m2_segment_unmap(&call->segment);
	return err;
}

void m2_worker_on_cancel(struct m2_worker *w, const struct m2_ipc_cancel *packet)
{
	struct m2_call *call = m2_worker_call_find(w, packet->request);
	/* done already, or never here: the answer is on its way */
	if (call == NULL || call->resident == NULL)
		return;
	const uint32_t reason =
		packet->reason == M2_FINISH_DEADLINE ? M2_FINISH_DEADLINE : M2_FINISH_CANCELLED;
	atomic_store(&call->cancel, reason);
	/* a task that a clerk is making is the clerk's until it comes back */
	if (call->waits_for_clerk || call->task == NULL)
		return;
	atomic_store(&call->task->cancel, reason);
	atomic_fetch_add(&call->resident->lane->alarm, 1);
}

void m2_worker_on_release(struct m2_worker *w, uint64_t id)
{
	struct m2_call *call = m2_worker_call_find(w, id);
	if (call == NULL)
		return;
	if (call->resident == NULL) {
		forget(w, call);
		return;
	}
	const struct m2_ipc_cancel cancel = {.request = id, .reason = M2_FINISH_CANCELLED};
	call->release = true;
	m2_worker_on_cancel(w, &cancel);
}

void m2_worker_calls_finish(struct m2_worker *w, bool remove)
{
	for (size_t i = 0; w->calls != NULL && i <= w->calls_mask; i++) {
		while (w->calls[i] != NULL) {
			struct m2_call *call = w->calls[i];
			w->calls[i] = call->next;
			if (call->task != NULL)
				m2_results_finish(call->task->header, M2_EWORKER,
					"the process that ran the request ended", m2_worker_now());
			if (!remove) {
				/* unmapped by hand, and no name to unlink */
				call->segment.name[0] = '\0';
				if (call->task != NULL)
					call->task->segment.name[0] = '\0';
			}
			m2_worker_call_destroy(w, call);
		}
	}
	free(w->calls);
	w->calls = NULL;
	w->n_calls = 0;
}
