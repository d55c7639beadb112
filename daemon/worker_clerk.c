/* worker_clerk.c - from a request's bytes to a task: tokenise, find a place, make results memory.
 *
 * Short requests are prepared on the front itself, which saves two changes of thread; what may take
 * longer (a long text, large results) goes to one of two clerks, so that a megabyte of somebody's text
 * holds up nobody's single token.  The same code runs in both places.
 *
 * Admission.  A call that finds its slots free reserves them; one that does not waits, and at most
 * `queue` calls of a variant may wait, of which no user can take all from the others (daemon/waiters.h).
 * The place is reserved before the work on results begins.
 */
#include "daemon/worker.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/prompt.h"

enum {
	QUICK_PROMPT_BYTES = 8192,
	QUICK_TOKENS = 65536, /* of results, over all completions */
	QUICK_SEGMENT_BYTES = 4194304
};

/* ---- admission --------------------------------------------------------------------------------- */

/* *waits: the count that it is in until it has its slots; NULL: slots were free. */
static enum m2_err reserve(
	struct m2_worker *w, struct m2_call *call, _Atomic int32_t **waits, struct m2_why *why)
{
	struct m2_resident *r = call->resident;
	const uint32_t slots = call->request.op == M2_OP_SCORE ? 1 : (uint32_t)call->request.n;
	enum m2_err err = M2_OK;
	int32_t own = 0;
	*waits = NULL;
	(void)pthread_mutex_lock(&w->admission);
	if (r->reserved + slots > r->variant.slots) {
		const int32_t total = atomic_load_explicit(&r->lane->waiting, memory_order_relaxed);
		*waits = m2_waiters_enter(
			r->lane->waiters, call->request.uid, total, r->variant.queue, &own);
		if (*waits == NULL)
			err = m2_fail(M2_EBUSY, why,
				"all %d slots of %s are taken and %d requests wait already (its "
				"limit is %d), %d of them of user %u",
				r->variant.slots, r->variant.name, total, r->variant.queue, own,
				call->request.uid);
		else
			atomic_fetch_add_explicit(&r->lane->waiting, 1, memory_order_relaxed);
	}
	if (err == M2_OK) {
		r->reserved += slots;
		call->reserved = slots;
	}
	(void)pthread_mutex_unlock(&w->admission);
	return err;
}

static void unreserve(struct m2_worker *w, struct m2_call *call, _Atomic int32_t *waits)
{
	(void)pthread_mutex_lock(&w->admission);
	call->resident->reserved -= call->reserved;
	if (waits != NULL) {
		atomic_fetch_sub_explicit(waits, 1, memory_order_relaxed);
		atomic_fetch_sub_explicit(&call->resident->lane->waiting, 1, memory_order_relaxed);
	}
	(void)pthread_mutex_unlock(&w->admission);
	call->reserved = 0;
}

/* ---- tokens ------------------------------------------------------------------------------------ */

/* The request's ids, malloc'd: given as they are, or made of its text. */
static enum m2_err take_tokens(
	const struct m2_call *call, int32_t **ids, size_t *count, struct m2_why *why)
{
	const struct m2_request *r = &call->request;
	const struct m2_tokenizer *tokenizer = call->resident->tokenizer;
	if ((r->flags & M2_REQUEST_TOKENS) != 0 || r->op == M2_OP_DETOKENIZE) {
		if (r->prompt_bytes % sizeof(int32_t) != 0)
			return m2_fail_field(M2_EINVAL, why, "payload",
				"%u bytes are not a whole number of int32 token ids",
				r->prompt_bytes);
		*count = r->prompt_bytes / sizeof(int32_t);
		*ids = malloc(*count > 0 ? *count * sizeof(int32_t) : 1);
		if (*ids == NULL)
			return m2_fail(M2_ENOMEM, why, "no memory for %zu tokens", *count);
		memcpy(*ids, call->body, *count * sizeof(int32_t));
		return M2_OK;
	}
	if (tokenizer == NULL)
		return m2_fail_field(M2_EINVAL, why, "input", "%s has no tokenizer: send token ids",
			call->resident->variant.name);
	if ((r->flags & (M2_REQUEST_CHAT | M2_REQUEST_FILL)) != 0)
		return m2_prompt_encode((const char *)call->body, r->prompt_bytes,
			(r->flags & M2_REQUEST_CHAT) != 0 ? M2_PROMPT_CHAT : M2_PROMPT_FILL,
			tokenizer, call->resident->variant.name, M2_LIMIT_PROMPT_TOKENS, ids, count,
			why);
	unsigned flags = M2_ENCODE_TEMPLATE;
	if ((r->flags & M2_REQUEST_SPECIAL) != 0)
		flags |= M2_ENCODE_SPECIAL;
	return m2_tokenizer_encode(tokenizer, (const char *)call->body, r->prompt_bytes, flags,
		M2_LIMIT_PROMPT_TOKENS, ids, count, why);
}

/* What ends a sequence: the variant's stop tokens, or the checkpoint's where it names none, or the
 * tokenizer's where that names none either (state-spaces' configs do not), unless the request ignores
 * those; and always the request's own. */
static int32_t end_tokens(const struct m2_call *call, int32_t ends[M2_TASK_ENDS_MAX])
{
	const struct m2_request *r = &call->request;
	const struct m2_variant_defaults *d = &call->resident->variant.defaults;
	const struct m2_model_config *config = &call->resident->config;
	int32_t n = 0;
	if ((r->flags & M2_REQUEST_IGNORE_EOS) == 0 && d->n_stop_tokens >= 0)
		for (int32_t i = 0; i < d->n_stop_tokens; i++)
			ends[n++] = d->stop_tokens[i];
	else if ((r->flags & M2_REQUEST_IGNORE_EOS) == 0)
		for (int32_t i = 0; i < config->n_eos; i++)
			ends[n++] = config->eos_token_ids[i];
	const struct m2_tokenizer *tokenizer = call->resident->tokenizer;
	if ((r->flags & M2_REQUEST_IGNORE_EOS) == 0 && d->n_stop_tokens < 0 && config->n_eos == 0 &&
		tokenizer != NULL && m2_tokenizer_eos(tokenizer) >= 0)
		ends[n++] = m2_tokenizer_eos(tokenizer);
	if ((r->set & M2_SET_STOP_TOKENS) != 0)
		for (int32_t i = 0; i < r->sampling.n_stop_tokens; i++)
			ends[n++] = r->sampling.stop_tokens[i];
	return n;
}

/* ---- the four operations ----------------------------------------------------------------------- */

/* One request that alone has more states than its user may have would wait for ever. */
static enum m2_err check_bytes(const struct m2_call *call, struct m2_why *why)
{
	const uint64_t each = call->resident->facts.footprint.per_slot;
	const uint64_t n = call->request.n > 1 ? (uint64_t)call->request.n : 1;
	if (call->user_bytes == 0 || n * each <= call->user_bytes)
		return M2_OK;
	return m2_fail_field(M2_ELIMIT, why, "n",
		"%llu sequences of %s have states of %llu bytes, and user %u may have %llu "
		"(state_bytes)",
		(unsigned long long)n, call->resident->variant.name, (unsigned long long)(n * each),
		call->request.uid, (unsigned long long)call->user_bytes);
}

static enum m2_err prepare_task(struct m2_worker *w, struct m2_call *call, const int32_t *ids,
	size_t count, struct m2_why *why)
{
	const struct m2_resident *r = call->resident;
	int32_t ends[M2_TASK_ENDS_MAX];
	_Atomic int32_t *waits;
	const struct m2_task_spec spec = {
		.request = &call->request,
		.bias = (const struct m2_logit_bias *)(const void *)(call->body +
								     m2_request_bias_at(
									     &call->request)),
		.stop = (const char *)call->body + m2_request_stop_at(&call->request),
		.prompt = ids,
		.prompt_tokens = count,
		.ends = ends,
		.n_ends = end_tokens(call, ends),
		.tokenizer = r->tokenizer,
		.vocab_rows = r->config.desc.vocab_rows,
		.vocab_size = r->config.vocab_size,
		.slots = r->variant.slots,
		.now_ns = call->received_ns,
		.weight = call->weight,
		.user_slots = call->user_slots,
		.user_bytes = call->user_bytes,
	};
	enum m2_err err = check_bytes(call, why);
	if (err == M2_OK)
		err = reserve(w, call, &waits, why);
	if (err != M2_OK)
		return err;
	err = m2_task_create(w->pool, &spec, &call->task, why);
	if (err != M2_OK) {
		unreserve(w, call, waits);
		return err;
	}
	call->task->waits = waits;
	call->task->owner = call;
	return M2_OK;
}

static enum m2_err answer_text(
	struct m2_call *call, const int32_t *ids, size_t count, struct m2_why *why)
{
	const struct m2_resident *r = call->resident;
	char *text = NULL;
	if (r->tokenizer == NULL)
		return m2_fail_field(
			M2_EINVAL, why, "model", "%s has no tokenizer", r->variant.name);
	const int32_t size = m2_tokenizer_size(r->tokenizer);
	for (size_t i = 0; i < count; i++)
		if (ids[i] < 0 || ids[i] >= size)
			return m2_fail_field(M2_EINVAL, why, "payload",
				"token %d at index %zu is not in 0..%d", ids[i], i, size - 1);
	enum m2_err err = m2_tokenizer_decode(
		r->tokenizer, ids, count, false, &text, &call->answer_bytes, why);
	if (err == M2_OK && call->answer_bytes > M2_IPC_BODY_MAX) {
		free(text);
		return m2_fail_field(M2_ELIMIT, why, "payload",
			"the text has %zu bytes, one answer carries %d", call->answer_bytes,
			M2_IPC_BODY_MAX);
	}
	call->answer = text;
	return err;
}

static enum m2_err prepare(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	int32_t *ids = NULL;
	size_t count = 0;
	m2_request_apply_defaults(&call->request, &call->resident->variant);
	enum m2_err err = take_tokens(call, &ids, &count, why);
	if (err != M2_OK)
		return err;
	if (call->request.op == M2_OP_TOKENIZE) {
		call->answer = ids;
		call->answer_bytes = count * sizeof *ids;
		return M2_OK;
	}
	err = call->request.op == M2_OP_DETOKENIZE ? answer_text(call, ids, count, why)
						   : prepare_task(w, call, ids, count, why);
	free(ids);
	return err;
}

static void prepare_here(struct m2_worker *w, struct m2_call *call)
{
	call->err = prepare(w, call, &call->why);
	free(call->body);
	call->body = NULL;
}

/* ---- clerks ------------------------------------------------------------------------------------ */

static bool is_quick(const struct m2_call *call)
{
	const struct m2_request *r = &call->request;
	const int64_t tokens = (r->set & M2_SET_MAX_TOKENS) != 0
				       ? r->sampling.max_tokens
				       : call->resident->variant.defaults.max_tokens;
	return r->prompt_bytes <= QUICK_PROMPT_BYTES && (r->flags & M2_REQUEST_LOGITS) == 0 &&
	       r->logprobs <= 0 && tokens * r->n <= QUICK_TOKENS;
}

static void give_to_clerk(struct m2_worker *w, struct m2_call *call)
{
	call->next_work = NULL;
	call->waits_for_clerk = true;
	(void)pthread_mutex_lock(&w->work_lock);
	if (w->clerk_last != NULL)
		w->clerk_last->next_work = call;
	else
		w->clerk_first = call;
	w->clerk_last = call;
	(void)pthread_cond_signal(&w->clerk_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
}

bool m2_worker_prepare(struct m2_worker *w, struct m2_call *call)
{
	if (is_quick(call)) {
		prepare_here(w, call);
		return true;
	}
	give_to_clerk(w, call);
	return false;
}

void m2_worker_discard(struct m2_worker *w, struct m2_call *call)
{
	if (call->segment.bytes <= QUICK_SEGMENT_BYTES || w->n_clerks == 0)
		m2_worker_call_destroy(w, call);
	else
		give_to_clerk(w, call); /* without a resident: there is nothing to prepare */
}

static struct m2_call *next_call(struct m2_worker *w)
{
	struct m2_call *call = NULL;
	(void)pthread_mutex_lock(&w->work_lock);
	while (w->clerk_first == NULL && !w->work_stop)
		(void)pthread_cond_wait(&w->clerk_wake, &w->work_lock);
	if (!w->work_stop) {
		call = w->clerk_first;
		w->clerk_first = call->next_work;
		if (w->clerk_first == NULL)
			w->clerk_last = NULL;
	}
	(void)pthread_mutex_unlock(&w->work_lock);
	return call;
}

static void *clerk_main(void *arg)
{
	struct m2_worker *w = arg;
	struct m2_call *call;
	while ((call = next_call(w)) != NULL) {
		if (call->resident == NULL) {
			m2_worker_call_destroy(w, call);
			continue;
		}
		prepare_here(w, call);
		call->post.kind = M2_POST_PREPARED;
		m2_post_send(&w->outbox, &call->post);
	}
	return NULL;
}

enum m2_err m2_worker_clerks_start(struct m2_worker *w, struct m2_why *why)
{
	const int wanted = (int)(sizeof w->clerk_threads / sizeof w->clerk_threads[0]);
	while (w->n_clerks < wanted) {
		const int error =
			pthread_create(&w->clerk_threads[w->n_clerks], NULL, clerk_main, w);
		if (error != 0)
			return m2_fail(M2_ENOMEM, why, "clerk thread: %s", strerror(error));
		w->n_clerks++;
	}
	return M2_OK;
}

void m2_worker_clerks_stop(struct m2_worker *w)
{
	(void)pthread_mutex_lock(&w->work_lock);
	w->work_stop = true;
	(void)pthread_cond_broadcast(&w->clerk_wake);
	(void)pthread_mutex_unlock(&w->work_lock);
	while (w->n_clerks > 0)
		(void)pthread_join(w->clerk_threads[--w->n_clerks], NULL);
	/* what only waited to be thrown away */
	for (struct m2_call *call = w->clerk_first, *next; call != NULL; call = next) {
		next = call->next_work;
		if (call->resident == NULL)
			m2_worker_call_destroy(w, call);
	}
	w->clerk_first = w->clerk_last = NULL;
}
