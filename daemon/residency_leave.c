/* residency_leave.c - how a resident goes: unloaded, idle too long, or with its worker; parked first or not.
 * The way in is residency.c. */
#include "daemon/residency_internal.h"

#include <stdlib.h>

#include "common/log.h"
#include "daemon/notify.h"
#include "daemon/reply.h"

#define SECOND UINT64_C(1000000000)

enum { DEATHS_MAX = 3, WAIT_DEFAULT_S = 30 };

uint64_t m2_tenant_bytes(const struct m2_tenant *r)
{
	if (r->state == M2_TENANT_LOADING)
		return m2_footprint_total(&r->plan.footprint);
	if (r->state != M2_TENANT_READY && r->state != M2_TENANT_UNLOADING)
		return 0;
	if (r->parked > 0) /* it is let go, and is not there already */
		return 0;
	return m2_footprint_total(&r->loaded.footprint);
}

struct m2_session *m2_tenant_first(struct m2_link *list)
{
	return m2_list_empty(list) ? NULL : M2_LIST_OF(list->next, struct m2_session, of_resident);
}

void m2_tenant_answer_leaving(struct m2_tenant *r, uint64_t bytes)
{
	for (struct m2_session *x; (x = m2_tenant_first(&r->leaving)) != NULL;) {
		struct json_object *o = m2_session_result(x);
		m2_reply_string(o, "name", r->variant.name);
		m2_reply_u64(o, "bytes", bytes);
		m2_session_end(x, o, NULL, 0);
	}
}

void m2_tenant_fail_waiting(struct m2_tenant *r, enum m2_err err, const struct m2_why *why)
{
	for (struct m2_session *x; (x = m2_tenant_first(&r->waiting)) != NULL;) {
		x->s->counters.refused += x->counted ? 1 : 0;
		m2_session_fail(x, err, why);
	}
}

void m2_tenant_preload_over(struct m2_tenant *r)
{
	if (!r->preload)
		return;
	r->preload = false;
	r->s->preloads--;
}

/* The last of it: all its lists are empty. */
void m2_tenant_forget(struct m2_tenant *r)
{
	struct m2_supervisor *s = r->s;
	m2_tenant_preload_over(r);
	if (r->engine->head == r)
		r->engine->head = NULL;
	m2_list_remove(&r->link);
	free(r);
	m2_notify_state(s);
}

void m2_tenant_record_end(struct m2_tenant *r, enum m2_err err, const struct m2_why *result)
{
	struct m2_why why;
	const int64_t ms = (int64_t)((m2_loop_now() - r->load_ns) / 1000000);
	const int64_t bytes = err == M2_OK ? (int64_t)m2_tenant_bytes(r) : 0;
	if (r->history >= 0 &&
		m2_store_load_end(r->s->store, r->history, ms, bytes, err, result, &why) != M2_OK)
		m2_warn("load history: %s", why.text);
	r->history = -1;
	r->recorded = true;
}

void m2_tenant_load_failed(struct m2_tenant *r, enum m2_err err, const struct m2_why *why)
{
	m2_error("variant %s could not be loaded: %s", r->variant.name, why->text);
	m2_tenant_record_end(r, err, why);
	m2_tenant_fail_waiting(r, err, why);
	m2_tenant_answer_leaving(r, 0);
	m2_tenant_forget(r);
}

/* ---- unloading ---------------------------------------------------------------------------------- */

static void send_unload(struct m2_tenant *r, int64_t wait_s)
{
	const struct m2_ipc_unload unload = {
		.model = r->handle, .park = r->parking, .wait_s = wait_s};
	(void)m2_child_send(&r->engine->child, M2_IPC_UNLOAD, &unload, NULL, 0);
}

void m2_tenant_drop_plan(struct m2_tenant *r)
{
	struct m2_why why;
	send_unload(r, 0);
	m2_tenant_record_end(r, m2_fail(M2_ECANCELED, &why, "nobody waited for it any more"), &why);
	r->engine->head = NULL;
	r->loaded = (struct m2_ipc_loaded){.model = r->handle}; /* it takes nothing */
	r->state = M2_TENANT_UNLOADING;
}

void m2_tenant_refuse_plan(struct m2_tenant *r, const struct m2_why *why)
{
	send_unload(r, 0);
	m2_tenant_load_failed(r, M2_ENOMEM, why);
}

/* It is to go and was not there yet. */
static void never_loaded(struct m2_tenant *r)
{
	struct m2_why why;
	if (r->state == M2_TENANT_PLANNED)
		send_unload(r, 0);
	const enum m2_err err = m2_fail(M2_ECANCELED, &why, "unloaded before it was loaded");
	m2_tenant_record_end(r, err, &why);
	m2_tenant_fail_waiting(r, err, &why);
	m2_tenant_answer_leaving(r, 0);
	m2_tenant_forget(r);
}

/* It is parked: nobody waits for it any longer, and its host memory is given back. */
static void let_go(struct m2_tenant *r)
{
	struct m2_why why;
	m2_tenant_fail_waiting(
		r, m2_fail(M2_ECANCELED, &why, "unloaded before it was loaded"), &why);
	if (r->engine->head == r)
		r->engine->head = NULL;
	send_unload(r, 0);
	r->state = M2_TENANT_UNLOADING;
	m2_residency_settle(r->engine);
	m2_notify_state(r->s);
}

void m2_residency_unload(struct m2_tenant *r, int64_t wait_s, struct m2_session *x)
{
	struct m2_supervisor *s = r->s;
	if (x != NULL) {
		x->state = M2_SESSION_WAITING;
		x->tenant = r;
		m2_list_append(&r->leaving, &x->of_resident);
	}
	if (wait_s < 0)
		wait_s = WAIT_DEFAULT_S;
	if (r->state == M2_TENANT_LOADING || r->state == M2_TENANT_PLANNING) {
		r->leave = true; /* a load cannot be interrupted */
		r->leave_wait_s = wait_s;
		return;
	}
	if (r->parked > 0 && r->state != M2_TENANT_UNLOADING) {
		let_go(r);
		return;
	}
	if (r->state == M2_TENANT_WAITING || r->state == M2_TENANT_PLANNED) {
		m2_residency_settle(r->engine);
		never_loaded(r);
		return;
	}
	if (r->state == M2_TENANT_UNLOADING)
		return;
	send_unload(r, wait_s);
	r->state = M2_TENANT_UNLOADING;
	r->closed = false;
	m2_info("%s %s from %s", r->parking ? "parking" : "unloading", r->variant.name,
		r->engine->device);
	m2_notify_state(s);
}

/* Those who came for it while it was leaving want it back. */
static void come_back(struct m2_tenant *r)
{
	r->state = M2_TENANT_WAITING;
	r->parking = false;
	r->parked = 0;
	r->leave = false;
	r->recorded = false;
	r->served = 0;
	r->pinned = r->variant.pinned;
	m2_residency_settle(r->engine);
	m2_notify_state(r->s);
}

static void gone(struct m2_tenant *r, uint64_t bytes)
{
	r->s->counters.unloads += m2_tenant_bytes(r) > 0 ? 1 : 0; /* else it was a plan */
	m2_tenant_answer_leaving(r, bytes);
	if (!m2_list_empty(&r->waiting))
		come_back(r);
	else
		m2_tenant_forget(r);
}

void m2_residency_unloaded(struct m2_engine *worker, const struct m2_ipc_unloaded *unloaded)
{
	struct m2_tenant *r = m2_residency_find_handle(worker, unloaded->model);
	if (r == NULL || r->state != M2_TENANT_UNLOADING)
		return;
	worker->info.memory_free = unloaded->memory_free;
	if (unloaded->bytes > 0)
		m2_info("%s has left %s: %llu bytes are free", r->variant.name, worker->device,
			(unsigned long long)unloaded->bytes);
	if (r->parking && unloaded->parked > 0)
		m2_tenant_parked(r, unloaded->parked);
	else
		gone(r, unloaded->bytes);
	m2_residency_settle(worker);
}

static bool is_idle(const struct m2_tenant *r)
{
	/* keep_alive 0 means "unload after use": one that was loaded on purpose waits for its first */
	const bool there = r->state == M2_TENANT_READY || r->state == M2_TENANT_PARKED;
	return there && !r->pinned && r->variant.keep_alive_s >= 0 && r->n_running == 0 &&
	       m2_list_empty(&r->waiting) && (r->variant.keep_alive_s > 0 || r->served > 0);
}

float m2_residency_leaves_in(const struct m2_tenant *r)
{
	const uint64_t now = m2_loop_now();
	if (!is_idle(r))
		return -1;
	const uint64_t due = r->idle_ns + (uint64_t)r->variant.keep_alive_s * SECOND;
	return due > now ? (float)((due - now) / 1000000) / 1000 : 0;
}

void m2_tenant_on_idle(void *ctx)
{
	struct m2_supervisor *s = ctx;
	const uint64_t now = m2_loop_now();
	uint64_t next = UINT64_MAX;
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (!is_idle(r))
			continue;
		const uint64_t due = r->idle_ns + (uint64_t)r->variant.keep_alive_s * SECOND;
		if (due <= now)
			m2_residency_unload(r, 0, NULL);
		else if (due < next)
			next = due;
	}
	if (next != UINT64_MAX)
		m2_loop_set_timer(&s->loop, &s->idle, next);
}

void m2_residency_session_left(struct m2_tenant *r)
{
	struct m2_supervisor *s = r->s;
	uint32_t running = 0;
	uint32_t waiting = 0;
	M2_LIST_EACH(&r->running, at)
	running++;
	M2_LIST_EACH(&r->waiting, at)
	waiting += M2_LIST_OF(at, struct m2_session, of_resident)->counted ? 1 : 0;
	if (running == 0 && r->n_running > 0)
		r->idle_ns = m2_loop_now();
	r->n_running = running;
	r->n_waiting = waiting;
	m2_residency_settle(r->engine);
	if (!is_idle(r))
		return;
	const uint64_t due = r->idle_ns + (uint64_t)r->variant.keep_alive_s * SECOND;
	if (!s->idle.listed || due < s->idle.at)
		m2_loop_set_timer(&s->loop, &s->idle, due);
}

/* ---- a worker's life ---------------------------------------------------------------------------- */

/* What was resident or on its way goes back into line. */
static void restore(struct m2_tenant *r, bool was_loading)
{
	struct m2_why why;
	const uint64_t bytes = m2_tenant_bytes(r);
	const bool parked = r->state == M2_TENANT_PARKED; /* it was the worker's memory */
	r->parking = false;
	r->parked = 0;
	if (r->state == M2_TENANT_UNLOADING || (parked && m2_list_empty(&r->waiting))) {
		gone(r, bytes);
		return;
	}
	if (r->leave) {
		never_loaded(r);
		return;
	}
	if (was_loading && ++r->deaths >= DEATHS_MAX) {
		m2_tenant_load_failed(r,
			m2_fail(M2_EWORKER, &why, "%s: the worker ended %d times while loading it",
				r->variant.name, DEATHS_MAX),
			&why);
		return;
	}
	if (was_loading && r->history >= 0)
		m2_tenant_record_end(
			r, m2_fail(M2_EWORKER, &why, "the worker ended while loading it"), &why);
	r->standing = r->standing || r->state == M2_TENANT_READY;
	r->closed = false;
	r->state = M2_TENANT_WAITING;
}

/* "auto" does not insist on a device. */
static bool go_on(struct m2_tenant *r, const struct m2_why *because)
{
	struct m2_engine *next;
	struct m2_why why;
	if (r->variant.device != M2_DEVICE_AUTO ||
		m2_engine_for(r->s, &r->variant, &next, &why) != M2_OK || next == r->engine)
		return false;
	m2_warn("%s goes to %s, since %s does not open: %s", r->variant.name, next->device,
		r->engine->device, because->text);
	r->engine = next;
	M2_LIST_EACH(&r->waiting, at)
	M2_LIST_OF(at, struct m2_session, of_resident)->engine = next;
	m2_residency_settle(next);
	return true;
}

bool m2_residency_refuse(struct m2_engine *worker, enum m2_err err, const struct m2_why *why)
{
	bool moved = m2_residency_dry_refuse(worker, err, why);
	M2_LIST_EACH(&worker->s->residents, at)
	{
		struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (r->engine != worker || r->state != M2_TENANT_WAITING)
			continue;
		if (go_on(r, why))
			moved = true;
		else
			m2_tenant_load_failed(r, err, why);
	}
	return moved;
}

void m2_residency_worker_ended(struct m2_engine *worker)
{
	struct m2_supervisor *s = worker->s;
	worker->loading = worker->head = NULL;
	m2_loop_clear_timer(&s->loop, &worker->settle);
	m2_residency_dry_worker_ended(worker);
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (r->engine != worker)
			continue;
		const bool was_loading =
			r->state == M2_TENANT_LOADING || r->state == M2_TENANT_PLANNING;
		for (struct m2_session *x; (x = m2_tenant_first(&r->running)) != NULL;)
			m2_session_lost(x);
		restore(r, was_loading);
	}
	m2_notify_state(s);
}
