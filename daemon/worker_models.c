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

static uint64_t memory_free(struct m2_worker *w, uint64_t *total)
{
	struct m2_device_info info;
	w->backend->info(w->device, &info);
	if (total != NULL)
		*total = info.memory_total;
	return info.memory_free;
}

static enum m2_err refuse_load(
	struct m2_worker *w, const struct m2_ipc_load *load, enum m2_err err, struct m2_why *why)
{
	struct m2_ipc_loaded loaded = {.model = load->model, .err = (uint32_t)err, .why = *why};
	struct m2_ipc_planned planned = {.model = load->model, .err = (uint32_t)err, .why = *why};
	return load->plan_only != 0
		       ? m2_ipc_send(w->channel, M2_IPC_PLANNED, &planned, NULL, 0, why)
		       : m2_ipc_send(w->channel, M2_IPC_LOADED, &loaded, NULL, 0, why);
}

/* A new one, from the supervisor's packet. */
static enum m2_err add_resident(struct m2_worker *w, const struct m2_ipc_load *packet,
	const void *body, size_t body_bytes, struct m2_resident **out, struct m2_why *why)
{
	if (body_bytes != sizeof(struct m2_variant) ||
		m2_worker_resident_find(w, packet->model) != NULL)
		return m2_fail(
			M2_EPROTO, why, "a load without a variant, or of a model that is there");
	struct m2_resident *r = calloc(1, sizeof *r);
	if (r == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a model");
	memcpy(&r->variant, body, sizeof r->variant);
	if (r->variant.slots < 1 || r->variant.slots > M2_LIMIT_SLOTS ||
		r->variant.max_batch_tokens < 1) {
		free(r);
		return m2_fail(
			M2_EPROTO, why, "a variant with slots or max_batch_tokens out of range");
	}
	r->id = packet->model;
	r->post.object = r;
	r->post_add = (struct m2_post){.kind = M2_POST_ADD, .object = r};
	r->post_remove = (struct m2_post){.kind = M2_POST_REMOVE, .object = r};
	r->post_progress = (struct m2_post){.kind = M2_POST_PROGRESS, .object = r};
	r->next = w->residents;
	w->residents = r;
	*out = r;
	return M2_OK;
}

enum m2_err m2_worker_on_load(struct m2_worker *w, const struct m2_ipc_load *packet,
	const void *body, size_t body_bytes, struct m2_why *why)
{
	struct m2_resident *r = NULL;
	enum m2_err err = M2_OK;
	if (body_bytes > 0)
		err = add_resident(w, packet, body, body_bytes, &r, why);
	else
		r = m2_worker_resident_find(w, packet->model);
	if (err == M2_ENOMEM)
		return refuse_load(w, packet, err, why);
	if (err != M2_OK)
		return err;
	if (r == NULL || (body_bytes == 0 && r->state != M2_RESIDENT_PLANNED &&
				 r->state != M2_RESIDENT_PARKED))
		return m2_fail(M2_EPROTO, why, "a load of what is neither planned nor parked");
	r->budget = packet->budget;
	if (packet->plan_only != 0 || (r->checkpoint == NULL && r->parked == 0)) {
		r->paused_bytes = packet->paused_bytes;
		r->step_cost = packet->step_cost;
	}
	r->state = packet->plan_only != 0 ? M2_RESIDENT_PLANNING : M2_RESIDENT_LOADING;
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

/* It is not there, or no more, and whoever unloads it may know. */
static enum m2_err say_unloaded(
	struct m2_worker *w, uint32_t model, uint64_t bytes, uint64_t parked, struct m2_why *why)
{
	struct m2_ipc_unloaded gone = {.model = model,
		.bytes = bytes,
		.parked = parked,
		.memory_free = memory_free(w, NULL)};
	return m2_ipc_send(w->channel, M2_IPC_UNLOADED, &gone, NULL, 0, why);
}

/* A plan or a load has failed, and has left nothing behind. */
static enum m2_err failed(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	/* an unload that came meanwhile is answered too: nothing is resident */
	const enum m2_err err = r->unload_wanted ? say_unloaded(w, r->id, 0, 0, why) : M2_OK;
	forget(w, r);
	return err;
}

/* Planned or parked, as it was before the load. */
static enum m2_err stays_planned(struct m2_worker *w, struct m2_resident *r)
{
	r->state = r->parked > 0 ? M2_RESIDENT_PARKED : M2_RESIDENT_PLANNED;
	if (r->unload_wanted) {
		r->state = M2_RESIDENT_LEAVING;
		m2_worker_load(w, r);
	}
	return M2_OK;
}

enum m2_err m2_worker_on_planned(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	struct m2_ipc_planned planned = {.model = r->id,
		.err = (uint32_t)r->err,
		.why = r->facts.why,
		.footprint = r->facts.footprint,
		.host = r->facts.host};
	planned.memory_free = memory_free(w, &planned.memory_total);
	const enum m2_err err = m2_ipc_send(w->channel, M2_IPC_PLANNED, &planned, NULL, 0, why);
	if (err != M2_OK)
		return err;
	return r->err == M2_OK ? stays_planned(w, r) : failed(w, r, why);
}

enum m2_err m2_worker_on_loaded(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	r->facts.memory_free = memory_free(w, NULL);
	const enum m2_err err = m2_ipc_send(w->channel, M2_IPC_LOADED, &r->facts, NULL, 0, why);
	if (err != M2_OK)
		return err;
	if (r->facts.crowded != 0)
		return stays_planned(w, r);
	if (r->err != M2_OK)
		return failed(w, r, why);
	r->state = M2_RESIDENT_READY;
	r->last_end_ns = m2_worker_now();
	r->n_marks = 0;
	r->marks[r->n_marks++] = (struct m2_rate_mark){r->last_end_ns, 0};
	m2_post_send(&w->inbox, &r->post_add);
	/* the unload that came meanwhile waits its time from now: nothing has run yet */
	m2_worker_leave_if_idle(w, r);
	return M2_OK;
}

enum m2_err m2_worker_on_unload(
	struct m2_worker *w, const struct m2_ipc_unload *packet, struct m2_why *why)
{
	struct m2_resident *r = m2_worker_resident_find(w, packet->model);
	if (r == NULL)
		return say_unloaded(w, packet->model, 0, 0, why);
	r->unload_wanted = true;
	r->park = packet->park != 0 && w->backend->park != NULL;
	const enum m2_err err = m2_worker_checks_leave(w, r->id, why);
	if (err != M2_OK)
		return err;
	if (r->state == M2_RESIDENT_PLANNED || r->state == M2_RESIDENT_PARKED)
		return stays_planned(w, r);
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
	r->state = r->park ? M2_RESIDENT_PARKING : M2_RESIDENT_LEAVING;
	m2_post_send(&w->inbox, &r->post_remove);
}

/* What it takes of the device when it is loaded; a plan takes nothing. */
static uint64_t loaded_bytes(const struct m2_resident *r)
{
	const struct m2_footprint *f = &r->facts.footprint;
	const bool had = r->facts.model != 0 && r->facts.err == M2_OK;
	return had ? f->weights + f->state + f->workspace : 0;
}

enum m2_err m2_worker_on_unloaded(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	const uint64_t bytes = r->parked > 0 ? 0 : loaded_bytes(r);
	const uint32_t model = r->id;
	if (r->parked > 0)
		m2_info("%s: let go, %llu bytes of host memory given back", r->variant.name,
			(unsigned long long)r->parked);
	if (bytes > 0)
		m2_info("%s: unloaded, %llu bytes given back", r->variant.name,
			(unsigned long long)bytes);
	forget(w, r);
	return say_unloaded(w, model, bytes, 0, why);
}

enum m2_err m2_worker_on_parked(struct m2_worker *w, struct m2_resident *r, struct m2_why *why)
{
	if (r->parked == 0)
		return m2_worker_on_unloaded(w, r, why);
	m2_info("%s: parked, %llu bytes given back, %llu in host memory", r->variant.name,
		(unsigned long long)loaded_bytes(r), (unsigned long long)r->parked);
	r->state = M2_RESIDENT_PARKED;
	r->unload_wanted = r->park = false;
	return say_unloaded(w, r->id, loaded_bytes(r), r->parked, why);
}

/* ---- figures ------------------------------------------------------------------------------------ */

static uint64_t tokens_of(const struct m2_resident *r)
{
	return atomic_load_explicit(&r->lane->prompt_tokens, memory_order_relaxed) +
	       atomic_load_explicit(&r->lane->generated_tokens, memory_order_relaxed);
}

void m2_worker_mark_rates(struct m2_worker *w)
{
	const uint64_t now = m2_worker_now();
	for (struct m2_resident *r = w->residents; r != NULL; r = r->next)
		if (r->state == M2_RESIDENT_READY)
			r->marks[r->n_marks++ % M2_RATE_MARKS] =
				(struct m2_rate_mark){now, tokens_of(r)};
}

/* Since the oldest mark; a mark that is older than those seconds (the step loop stood still) is as good. */
static uint64_t rate_millis(const struct m2_resident *r, uint64_t now)
{
	const uint32_t oldest = r->n_marks > M2_RATE_MARKS ? r->n_marks % M2_RATE_MARKS : 0;
	const struct m2_rate_mark *mark = &r->marks[oldest];
	if (r->n_marks == 0 || now <= mark->ns)
		return 0;
	return (uint64_t)((double)(tokens_of(r) - mark->tokens) * 1e12 / (double)(now - mark->ns));
}

static struct m2_ipc_model_stats stats_of(const struct m2_resident *r, uint64_t now)
{
	struct m2_ipc_model_stats s = {
		.model = r->id,
		.slots = r->variant.slots,
		.requests = r->n_requests,
		.idle_ns = r->n_calls > 0 ? 0 : now - r->last_end_ns,
		.rate_millis = rate_millis(r, now),
	};
	const struct m2_lane *lane = r->lane;
	s.slots_used = atomic_load_explicit(&lane->slots_used, memory_order_relaxed);
	s.queued = atomic_load_explicit(&lane->queued, memory_order_relaxed);
	s.paused = atomic_load_explicit(&lane->paused, memory_order_relaxed);
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
	stats.memory_free = memory_free(w, &stats.memory_total);
	enum m2_err err = m2_worker_send_users(w, why);
	if (err == M2_OK)
		err = m2_ipc_send(w->channel, M2_IPC_STATS_REPLY, &stats, models,
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
