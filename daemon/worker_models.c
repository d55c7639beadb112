/* worker_models.c - the front's table of models: what the supervisor asked for, and what became of it. */
#include "daemon/worker.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

enum { UNLOAD_WAIT_S = 30 }; /* when the supervisor leaves it to us */

struct m2_resident *m2_worker_resident_find(struct m2_worker *w, uint32_t id)
{
	struct m2_resident *r = w->residents;
	while (r != NULL && r->id != id)
		r = r->next;
	return r;
}

static void forget(struct m2_worker *w, struct m2_resident *resident)
{
	struct m2_resident **at = &w->residents;
	while (*at != resident)
		at = &(*at)->next;
	*at = resident->next;
	free(resident);
}

static enum m2_err refuse_load(
	struct m2_worker *w, uint32_t model, enum m2_err err, struct m2_why *why)
{
	struct m2_ipc_loaded loaded = {.model = model, .err = (uint32_t)err, .why = *why};
	return m2_ipc_send(w->channel, M2_IPC_LOADED, &loaded, NULL, 0, why);
}

enum m2_err m2_worker_on_load(struct m2_worker *w, const struct m2_ipc_load *packet,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	struct m2_why reason;
	if (body_bytes != sizeof(struct m2_variant) ||
		m2_worker_resident_find(w, packet->model) != NULL)
		return m2_fail(
			M2_EPROTO, why, "a load without a variant, or of a model that is there");
	struct m2_resident *r = calloc(1, sizeof *r);
	if (r == NULL)
		return refuse_load(w, packet->model,
			m2_fail(M2_ENOMEM, &reason, "no memory for a model"), &reason);
	memcpy(&r->variant, body, sizeof r->variant);
	if (r->variant.slots < 1 || r->variant.slots > M2_LIMIT_SLOTS ||
		r->variant.max_batch_tokens < 1) {
		free(r);
		return m2_fail(
			M2_EPROTO, why, "a variant with slots or max_batch_tokens out of range");
	}
	r->id = packet->model;
	r->budget = packet->budget;
	r->state = M2_RESIDENT_LOADING;
	r->post.object = r;
	r->post_add = (struct m2_post){.kind = M2_POST_ADD, .object = r};
	r->post_remove = (struct m2_post){.kind = M2_POST_REMOVE, .object = r};
	r->post_progress = (struct m2_post){.kind = M2_POST_PROGRESS, .object = r};
	r->next = w->residents;
	w->residents = r;
	m2_worker_load(w, r);
	return M2_OK;
}

enum m2_err m2_worker_on_progress(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	atomic_store(&r->progress_pending, false);
	struct m2_ipc_progress progress = {
		.model = r->id,
		.done = atomic_load_explicit(&r->bytes_done, memory_order_relaxed),
		.total = atomic_load_explicit(&r->bytes_total, memory_order_relaxed),
	};
	const char *what = atomic_load_explicit(&r->what, memory_order_relaxed);
	(void)snprintf(progress.what, sizeof progress.what, "%s", what != NULL ? what : "");
	return m2_ipc_send(w->channel, M2_IPC_PROGRESS, &progress, NULL, 0, why);
}

enum m2_err m2_worker_on_loaded(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	const bool resident = r->err == M2_OK;
	enum m2_err err = m2_ipc_send(w->channel, M2_IPC_LOADED, &r->facts, NULL, 0, why);
	if (err != M2_OK)
		return err;
	if (resident) {
		r->state = M2_RESIDENT_READY;
		r->last_end_ns = m2_worker_now();
		m2_post_send(&w->inbox, &r->post_add);
		/* the unload that came meanwhile waits its time from now: nothing has run yet */
		m2_worker_leave_if_idle(w, r);
		return M2_OK;
	}
	/* an unload that came meanwhile is answered too: nothing is resident */
	if (r->unload_wanted) {
		struct m2_ipc_unloaded gone = {.model = r->id};
		err = m2_ipc_send(w->channel, M2_IPC_UNLOADED, &gone, NULL, 0, why);
	}
	forget(w, r);
	return err;
}

enum m2_err m2_worker_on_unload(
	struct m2_worker *w, const struct m2_ipc_unload *packet, struct m2_why *why)
{
	struct m2_resident *r = m2_worker_resident_find(w, packet->model);
	if (r == NULL) {
		struct m2_ipc_unloaded gone = {.model = packet->model};
		return m2_ipc_send(w->channel, M2_IPC_UNLOADED, &gone, NULL, 0, why);
	}
	r->unload_wanted = true;
	const enum m2_err err = m2_worker_checks_leave(w, r->id, why);
	if (err != M2_OK)
		return err;
	if (r->state != M2_RESIDENT_READY)
		return M2_OK;
	const int64_t wait_s = packet->wait_s < 0 ? UNLOAD_WAIT_S : packet->wait_s;
	const uint64_t at = m2_worker_now() + (uint64_t)wait_s * 1000000000U;
	/* a second unload may shorten the first one's patience */
	if (at < atomic_load(&r->lane->cancel_at))
		atomic_store(&r->lane->cancel_at, at);
	m2_worker_leave_if_idle(w, r);
	return M2_OK;
}

void m2_worker_leave_if_idle(struct m2_worker *w, struct m2_resident *r)
{
	if (!r->unload_wanted || r->n_calls > 0 || r->state != M2_RESIDENT_READY)
		return;
	r->state = M2_RESIDENT_LEAVING;
	m2_post_send(&w->inbox, &r->post_remove);
}

enum m2_err m2_worker_on_unloaded(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	const struct m2_footprint *f = &r->facts.footprint;
	struct m2_ipc_unloaded gone = {
		.model = r->id,
		.bytes = f->weights + f->state + f->workspace,
	};
	m2_info("%s: unloaded, %llu bytes given back", r->variant.name,
		(unsigned long long)gone.bytes);
	forget(w, r);
	return m2_ipc_send(w->channel, M2_IPC_UNLOADED, &gone, NULL, 0, why);
}

static struct m2_ipc_model_stats stats_of(const struct m2_resident *r, uint64_t now)
{
	struct m2_ipc_model_stats s = {
		.model = r->id,
		.slots = r->variant.slots,
		.requests = r->n_requests,
		.idle_ns = r->n_calls > 0 ? 0 : now - r->last_end_ns,
	};
	const struct m2_lane *lane = r->lane;
	s.slots_used = atomic_load_explicit(&lane->slots_used, memory_order_relaxed);
	s.queued = atomic_load_explicit(&lane->queued, memory_order_relaxed);
	s.steps = atomic_load_explicit(&lane->steps, memory_order_relaxed);
	s.prompt_tokens = atomic_load_explicit(&lane->prompt_tokens, memory_order_relaxed);
	s.generated_tokens = atomic_load_explicit(&lane->generated_tokens, memory_order_relaxed);
	return s;
}

enum m2_err m2_worker_on_stats(struct m2_worker *w, struct m2_why *why)
{
	struct m2_ipc_stats stats = {0};
	size_t n = 0;
	const uint64_t now = m2_worker_now();
	for (struct m2_resident *r = w->residents; r != NULL; r = r->next)
		n++;
	struct m2_ipc_model_stats *models = calloc(n > 0 ? n : 1, sizeof *models);
	if (models == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for statistics of %zu models", n);
	for (struct m2_resident *r = w->residents; r != NULL; r = r->next)
		if (r->state == M2_RESIDENT_READY)
			models[stats.n_models++] = stats_of(r, now);
	m2_segment_pool_usage(w->pool, &stats.results_bytes, &stats.segments);
	const enum m2_err err = m2_ipc_send(w->channel, M2_IPC_STATS_REPLY, &stats, models,
		stats.n_models * sizeof *models, why);
	free(models);
	return err;
}

void m2_worker_models_finish(struct m2_worker *w)
{
	while (w->residents != NULL) {
		m2_worker_unload_now(w, w->residents);
		forget(w, w->residents);
	}
}
