/* residency_place.c - the line of variants that wait for a place: whose turn it is, and what becomes of it.
 *
 * Everything that might change the answer - a session has left, something is loaded or gone, the
 * configuration changed, a stay is over - ends in m2_residency_settle, which only sets a timer: the line is
 * looked at from the loop, never from within something else.
 */
#include "daemon/residency_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "daemon/notify.h"
#include "daemon/reply.h"

/* ---- the question ------------------------------------------------------------------------------- */

uint64_t m2_residency_budget(const struct m2_engine *worker)
{
	return m2_daemon_config_budget(
		&worker->s->config, worker->device, worker->info.memory_total);
}

static struct m2_budget_row row_of(const struct m2_tenant *t, bool moves)
{
	return (struct m2_budget_row){
		.bytes = m2_tenant_bytes(t),
		.used_ns = t->idle_ns,
		.here_ns = t->ready_ns,
		.stay_ns = t->stay_ns,
		.running = t->n_running > 0,
		.pinned = t->pinned || !moves || t->state == M2_TENANT_LOADING,
		.leaving = t->state == M2_TENANT_UNLOADING,
		.closed = t->closed,
	};
}

bool m2_place_ask(struct m2_place *place, const struct m2_engine *worker, uint64_t need, bool moves)
{
	const struct m2_supervisor *s = worker->s;
	size_t most = 1;
	M2_LIST_EACH(&s->residents, at)
	most++;
	memset(place, 0, sizeof *place);
	place->tenants = calloc(most, sizeof(struct m2_tenant *));
	place->rows = calloc(most, sizeof *place->rows);
	place->order = calloc(most, sizeof *place->order);
	if (place->tenants == NULL || place->rows == NULL || place->order == NULL) {
		m2_place_finish(place);
		return false;
	}
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		if (t->engine != worker || m2_tenant_bytes(t) == 0)
			continue;
		place->tenants[place->count] = t;
		place->rows[place->count++] = row_of(t, moves);
	}
	place->question = (struct m2_budget_question){
		.need = need,
		.budget = m2_residency_budget(worker),
		/* a device that does not know what it has free says 0 */
		.free = worker->info.memory_free > 0 ? worker->info.memory_free : UINT64_MAX,
		.now_ns = m2_loop_now(),
	};
	place->outcome =
		m2_budget_decide(&place->question, place->rows, place->order, place->count);
	return true;
}

void m2_place_finish(struct m2_place *place)
{
	free(place->tenants);
	free(place->rows);
	free(place->order);
	memset(place, 0, sizeof *place);
}

void m2_place_order_by_use(struct m2_place *place)
{
	for (size_t i = 0; i < place->count; i++) {
		size_t at = i;
		for (; at > 0 && place->rows[i].used_ns > place->rows[place->order[at - 1]].used_ns;
			at--)
			place->order[at] = place->order[at - 1];
		place->order[at] = i;
	}
}

/* "a (123 bytes, pinned), b (45 bytes, running)": as many as fit. */
static void list_holders(const struct m2_place *place, char *out, size_t size)
{
	size_t used = 0;
	out[0] = '\0';
	for (size_t i = 0; i < place->count; i++) {
		const struct m2_budget_row *r = &place->rows[i];
		const char *what = place->tenants[i]->pinned ? "pinned"
				   : r->running              ? "running"
							     : "idle";
		const int n = snprintf(out + used, size - used, "%s%s (%llu bytes, %s)",
			i > 0 ? ", " : "", place->tenants[i]->variant.name,
			(unsigned long long)r->bytes, what);
		if (n < 0 || (size_t)n >= size - used) {
			(void)snprintf(out + used, size - used, ", ...");
			return;
		}
		used += (size_t)n;
	}
}

enum m2_err m2_place_refusal(const struct m2_place *place, const struct m2_engine *worker,
	const char *name, const struct m2_footprint *footprint, struct m2_why *why)
{
	char holders[192];
	const unsigned long long total = m2_footprint_total(footprint);
	const unsigned long long missing = place->outcome.missing;
	list_holders(place, holders, sizeof holders);
	if (!place->outcome.device)
		return m2_fail_field(M2_ENOMEM, why, "model",
			"%s takes %llu bytes and %llu are missing: the budget of %s is %llu "
			"bytes%s%s",
			name, total, missing, worker->device,
			(unsigned long long)place->question.budget,
			place->count > 0 ? ", held by " : "", holders);
	return m2_fail_field(M2_ENOMEM, why, "model",
		"%s takes %llu bytes and %llu are missing: %s has %llu bytes free of %llu%s%s",
		name, total, missing, worker->device, (unsigned long long)worker->info.memory_free,
		(unsigned long long)worker->info.memory_total,
		place->count > 0 ? ", of which mamba2d holds " : "; others hold the rest", holders);
}

/* ---- what follows from the answer --------------------------------------------------------------- */

/* The load that they were to make room for needs it no more, or has what it needs. */
static void reopen(struct m2_engine *worker)
{
	M2_LIST_EACH(&worker->s->residents, at)
	{
		struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		if (t->engine != worker || !t->closed || t->state != M2_TENANT_READY)
			continue;
		t->closed = false;
		m2_tenant_serve_waiting(t);
		m2_residency_session_left(t);
	}
}

static void begin_load(struct m2_tenant *t)
{
	const struct m2_ipc_load load = {
		.model = t->handle, .budget = m2_footprint_total(&t->plan.footprint)};
	if (!m2_child_send(&t->engine->child, M2_IPC_LOAD, &load, NULL, 0))
		return; /* the worker is ending, and its end puts this back into line */
	t->load_ns = m2_loop_now() - t->plan_took_ns;
	t->state = M2_TENANT_LOADING;
	t->engine->loading = t;
	m2_info("loading %s on %s", t->variant.name, t->engine->device);
	m2_notify_state(t->s);
}

static void evict(struct m2_place *place, const char *for_whom)
{
	m2_place_order_by_use(place);
	for (size_t k = 0; k < place->count; k++) {
		const size_t i = place->order[k];
		struct m2_tenant *t = place->tenants[i];
		if (!place->rows[i].chosen)
			continue;
		m2_info("%s leaves for %s: %llu bytes", t->variant.name, for_whom,
			(unsigned long long)place->rows[i].bytes);
		t->s->counters.evictions++;
		m2_tenant_make_room(t);
	}
}

static void close_chosen(struct m2_place *place, const char *for_whom)
{
	for (size_t i = 0; i < place->count; i++) {
		struct m2_tenant *t = place->tenants[i];
		if (!place->rows[i].chosen || t->closed)
			continue;
		m2_info("%s finishes what it runs and makes room for %s", t->variant.name,
			for_whom);
		t->closed = true;
	}
}

/* It is planned: load it, make room for it, let it wait, or refuse it.  true: look at the line again. */
static bool place_head(struct m2_tenant *t)
{
	struct m2_engine *worker = t->engine;
	struct m2_place place;
	struct m2_why why;
	/* nobody wants it any more */
	if (m2_list_empty(&t->waiting) && !t->standing) {
		if (t->parked > 0)
			m2_tenant_stay_parked(t);
		else
			m2_tenant_drop_plan(t);
		reopen(worker);
		return true;
	}
	if (!m2_place_ask(&place, worker, m2_footprint_total(&t->plan.footprint),
		    !m2_list_empty(&t->waiting))) {
		m2_warn("no memory to find a place for %s", t->variant.name);
		m2_loop_set_timer(
			&worker->s->loop, &worker->settle, m2_loop_now() + UINT64_C(1000000000));
		return false;
	}
	const struct m2_budget_outcome o = place.outcome;
	switch (o.answer) {
	case M2_BUDGET_GO:
		begin_load(t);
		reopen(worker);
		break;
	case M2_BUDGET_EVICT:
		evict(&place, t->variant.name);
		reopen(worker);
		break;
	case M2_BUDGET_CLOSE:
		close_chosen(&place, t->variant.name);
		break;
	case M2_BUDGET_WAIT:
		break;
	case M2_BUDGET_REFUSE:
		(void)m2_place_refusal(&place, worker, t->variant.name, &t->plan.footprint, &why);
		if (t->parked > 0) {
			m2_tenant_fail_waiting(t, M2_ENOMEM, &why);
			m2_tenant_stay_parked(t);
		} else {
			m2_tenant_refuse_plan(t, &why);
		}
		reopen(worker);
		break;
	}
	m2_place_finish(&place);
	if (o.until_ns > 0)
		m2_loop_set_timer(&worker->s->loop, &worker->settle, o.until_ns);
	return o.answer == M2_BUDGET_REFUSE;
}

/* ---- the line ----------------------------------------------------------------------------------- */

/* Those that somebody waits for come first, and of them the one that is waited for longest. */
static bool comes_before(const struct m2_tenant *a, const struct m2_tenant *b)
{
	const bool wanted = !m2_list_empty(&a->waiting);
	if (wanted != !m2_list_empty(&b->waiting))
		return wanted;
	return a->wanted_ns < b->wanted_ns;
}

static struct m2_tenant *next_in_line(struct m2_engine *worker)
{
	struct m2_tenant *next = NULL;
	M2_LIST_EACH(&worker->s->residents, at)
	{
		struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		const bool in_line = t->state == M2_TENANT_WAITING ||
				     (t->state == M2_TENANT_PARKED && !m2_list_empty(&t->waiting));
		if (t->engine == worker && in_line && (next == NULL || comes_before(t, next)))
			next = t;
	}
	return next;
}

static void begin_plan(struct m2_tenant *t)
{
	struct m2_supervisor *s = t->s;
	struct m2_why why = {.text = ""};
	const struct m2_ipc_load load = {.model = ++s->next_model,
		.plan_only = 1,
		.paused_bytes = s->config.paused_bytes,
		.step_cost = s->config.step_cost};
	t->handle = load.model;
	t->load_ns = m2_loop_now();
	t->progress = (struct m2_ipc_progress){.model = t->handle};
	if (!t->recorded && t->history < 0 &&
		m2_store_load_begin(s->store, t->variant.name, t->engine->device, t->by,
			&t->history, &why) != M2_OK) {
		m2_warn("load history: %s", why.text);
		t->history = -1;
	}
	if (!m2_child_send(&t->engine->child, M2_IPC_LOAD, &load, &t->variant, sizeof t->variant))
		return; /* the worker is ending; it stays in line for the next one */
	t->state = M2_TENANT_PLANNING;
	t->engine->head = t->engine->loading = t;
	m2_notify_state(s);
}

/* The budget is smaller than it was: the idle ones leave at once, the others when they are idle. */
static void trim(struct m2_engine *worker)
{
	struct m2_place place;
	const uint64_t budget = m2_residency_budget(worker);
	if (budget == 0 || m2_residency_bytes(worker) <= budget) {
		reopen(worker);
		return;
	}
	if (!m2_place_ask(&place, worker, 0, true))
		return;
	if (place.outcome.answer == M2_BUDGET_EVICT)
		evict(&place, "a smaller budget");
	else if (place.outcome.answer == M2_BUDGET_CLOSE)
		close_chosen(&place, "a smaller budget");
	if (place.outcome.until_ns > 0)
		m2_loop_set_timer(&worker->s->loop, &worker->settle, place.outcome.until_ns);
	m2_place_finish(&place);
}

static bool look(struct m2_engine *worker)
{
	if (worker->head == NULL) {
		struct m2_tenant *next = next_in_line(worker);
		if (next != NULL && next->parked > 0) {
			m2_tenant_plan_parked(next);
			return true;
		}
		if (next != NULL)
			begin_plan(next);
		else
			trim(worker);
		return false;
	}
	return worker->head->state == M2_TENANT_PLANNED && place_head(worker->head);
}

void m2_residency_on_settle(void *ctx)
{
	struct m2_engine *worker = ctx;
	while (worker->child.ready && look(worker)) {
	}
}

void m2_residency_settle(struct m2_engine *worker)
{
	m2_loop_set_timer(&worker->s->loop, &worker->settle, m2_loop_now());
}

void m2_residency_settle_all(struct m2_supervisor *s)
{
	M2_LIST_EACH(&s->workers, at)
	m2_residency_settle(M2_LIST_OF(at, struct m2_engine, link));
}

void m2_residency_planned(struct m2_engine *worker, const struct m2_ipc_planned *planned)
{
	worker->info.memory_total = planned->memory_total;
	worker->info.memory_free = planned->memory_free;
	if (m2_residency_dry_planned(worker, planned))
		return;
	struct m2_tenant *t = m2_residency_find_handle(worker, planned->model);
	if (t == NULL || t->state != M2_TENANT_PLANNING)
		return;
	worker->loading = NULL;
	if (planned->err != M2_OK) {
		struct m2_why why = planned->why;
		why.field[sizeof why.field - 1] = why.text[sizeof why.text - 1] = '\0';
		worker->head = NULL;
		m2_tenant_load_failed(t, m2_err_from_number((long)planned->err), &why);
	} else {
		t->plan = *planned;
		t->state = M2_TENANT_PLANNED;
		t->plan_took_ns = m2_loop_now() - t->load_ns;
		if (t->leave)
			m2_residency_unload(t, t->leave_wait_s, NULL);
	}
	m2_residency_settle(worker);
}

/* ---- told --------------------------------------------------------------------------------------- */

void m2_residency_put_device(const struct m2_engine *worker, struct json_object *o)
{
	const struct m2_device_info *i = &worker->info;
	const uint64_t ours = m2_residency_bytes(worker);
	const uint64_t used =
		i->memory_total > i->memory_free ? i->memory_total - i->memory_free : 0;
	const uint64_t budget = m2_residency_budget(worker);
	m2_reply_u64(o, "memory_total", i->memory_total);
	m2_reply_u64(o, "memory_free", i->memory_free);
	m2_reply_u64(o, "memory_models", ours);
	m2_reply_u64(o, "memory_parked", m2_residency_parked(worker->s, worker));
	m2_reply_u64(o, "memory_others", used > ours ? used - ours : 0);
	m2_reply_u64(o, "memory_budget", budget);
}
