/* residency_dry.c - load --dry-run: what a load would do now, to the byte.
 *
 * It goes the way of a load: the same worker opens the same files and plans, the same function decides.
 * Then the plan is dropped, and nothing has changed.  What it cannot foresee is the time between its
 * answer and the load. */
#include "daemon/residency_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "daemon/reply.h"

struct m2_probe {
	struct m2_link link; /* in supervisor.probes */
	struct m2_session *session;
	struct m2_engine *engine;
	struct m2_variant variant;
	uint32_t handle; /* 0: the worker has not been asked yet */
};

static struct m2_probe *find(struct m2_engine *worker, uint32_t handle)
{
	M2_LIST_EACH(&worker->s->probes, at)
	{
		struct m2_probe *p = M2_LIST_OF(at, struct m2_probe, link);
		if (p->engine == worker && p->handle == handle)
			return p;
	}
	return NULL;
}

static void forget(struct m2_probe *p)
{
	m2_list_remove(&p->link);
	free(p);
}

static void fail(struct m2_probe *p, enum m2_err err, const struct m2_why *why)
{
	struct m2_session *x = p->session;
	forget(p);
	m2_session_fail(x, err, why);
}

static void ask(struct m2_probe *p)
{
	const struct m2_ipc_load load = {.model = ++p->engine->s->next_model,
		.plan_only = 1,
		.paused_bytes = p->engine->s->config.paused_bytes,
		.step_cost = p->engine->s->config.step_cost};
	if (p->engine->child.ready && m2_child_send(&p->engine->child, M2_IPC_LOAD, &load,
					      &p->variant, sizeof p->variant))
		p->handle = load.model;
}

/* ---- the answer --------------------------------------------------------------------------------- */

static void put_footprint(struct json_object *o, const struct m2_footprint *f, uint64_t host)
{
	struct json_object *at = json_object_new_object();
	m2_reply_u64(at, "weights", f->weights);
	m2_reply_u64(at, "state", f->state);
	m2_reply_u64(at, "workspace", f->workspace);
	m2_reply_u64(at, "per_slot", f->per_slot);
	m2_reply_u64(at, "host", host);
	m2_reply_u64(at, "total", m2_footprint_total(f));
	m2_reply_add(o, "footprint", at);
}

static void put_chosen(struct json_object *o, struct m2_place *place)
{
	struct json_object *leaves = json_object_new_array();
	const struct m2_tenant **parks = calloc(place->count + 1, sizeof(struct m2_tenant *));
	size_t n_parks = 0;
	m2_place_order_by_use(place);
	for (size_t k = 0; k < place->count; k++) {
		const size_t i = place->order[k];
		const struct m2_budget_row *r = &place->rows[i];
		if (!r->chosen && !(place->outcome.answer == M2_BUDGET_WAIT && r->leaving))
			continue;
		struct json_object *one = json_object_new_object();
		m2_reply_string(one, "name", place->tenants[i]->variant.name);
		m2_reply_u64(one, "bytes", r->bytes);
		m2_reply_bool(one, "running", r->running);
		const struct m2_tenant *t = place->tenants[i];
		const bool park =
			t->parking || (parks != NULL && m2_tenant_would_park(t, parks, n_parks));
		if (park && !t->parking)
			parks[n_parks++] = t;
		m2_reply_bool(one, "parks", park);
		m2_reply_append(leaves, one);
	}
	free(parks);
	m2_reply_add(o, "leaves", leaves);
}

static const char *outcome_name(enum m2_budget_answer answer)
{
	static const char *const names[] = {[M2_BUDGET_GO] = "loads",
		[M2_BUDGET_EVICT] = "evicts",
		[M2_BUDGET_CLOSE] = "waits",
		[M2_BUDGET_WAIT] = "waits",
		[M2_BUDGET_REFUSE] = "refused"};
	return names[answer];
}

static struct json_object *new_answer(struct m2_session *x, const struct m2_engine *engine,
	const char *name, const char *state, const struct m2_footprint *f, uint64_t host,
	struct m2_place *place)
{
	struct json_object *o = m2_session_result(x);
	const struct m2_budget_question *q = &place->question;
	const uint64_t ours = m2_residency_bytes(engine);
	m2_reply_string(o, "name", name);
	m2_reply_string(o, "state", state);
	m2_reply_string(o, "device", engine->device);
	m2_reply_string(o, "outcome", outcome_name(place->outcome.answer));
	put_footprint(o, f, host);
	m2_residency_put_device(engine, o);
	if (q->budget > 0)
		m2_reply_u64(o, "budget_left", q->budget > ours ? q->budget - ours : 0);
	m2_reply_u64(o, "missing", place->outcome.missing);
	put_chosen(o, place);
	if (place->outcome.answer == M2_BUDGET_REFUSE) {
		struct m2_why why;
		const enum m2_err err = m2_place_refusal(place, engine, name, f, &why);
		m2_reply_add(o, "refusal", m2_reply_error_object(err, &why));
	}
	return o;
}

bool m2_residency_dry_planned(struct m2_engine *worker, const struct m2_ipc_planned *planned)
{
	struct m2_probe *p = find(worker, planned->model);
	struct m2_place place;
	struct m2_why why = planned->why;
	if (p == NULL)
		return false;
	why.field[sizeof why.field - 1] = why.text[sizeof why.text - 1] = '\0';
	if (planned->err != M2_OK) {
		fail(p, m2_err_from_number((long)planned->err), &why);
		return true;
	}
	const struct m2_ipc_unload drop = {.model = planned->model};
	(void)m2_child_send(&worker->child, M2_IPC_UNLOAD, &drop, NULL, 0);
	if (!m2_place_ask(&place, worker, m2_footprint_total(&planned->footprint), true)) {
		fail(p, m2_fail(M2_ENOMEM, &why, "out of memory"), &why);
		return true;
	}
	struct m2_session *x = p->session;
	struct json_object *o = new_answer(x, worker, p->variant.name, "registered",
		&planned->footprint, planned->host, &place);
	m2_place_finish(&place);
	forget(p);
	m2_session_end(x, o, NULL, 0);
	return true;
}

void m2_residency_dry_run_parked(struct m2_session *x, const struct m2_tenant *t)
{
	struct m2_place place;
	struct m2_why why;
	const struct m2_footprint *f = &t->loaded.footprint;
	if (!m2_place_ask(&place, t->engine, m2_footprint_total(f), true)) {
		m2_session_fail(x, m2_fail(M2_ENOMEM, &why, "out of memory"), &why);
		return;
	}
	struct json_object *o =
		new_answer(x, t->engine, t->variant.name, "parked", f, t->loaded.host, &place);
	m2_reply_u64(o, "parked", t->parked);
	m2_place_finish(&place);
	m2_session_end(x, o, NULL, 0);
}

/* ---- asking ------------------------------------------------------------------------------------- */

void m2_residency_dry_run(struct m2_session *x, const struct m2_variant *variant)
{
	struct m2_why why;
	struct m2_probe *p = calloc(1, sizeof *p);
	enum m2_err err = p != NULL ? m2_engine_for(x->s, variant, &p->engine, &why)
				    : m2_fail(M2_ENOMEM, &why, "out of memory");
	if (err != M2_OK) {
		free(p);
		m2_session_fail(x, err, &why);
		return;
	}
	p->session = x;
	p->variant = *variant;
	x->state = M2_SESSION_WAITING;
	m2_list_append(&x->s->probes, &p->link);
	ask(p);
}

void m2_residency_worker_ready(struct m2_engine *worker)
{
	M2_LIST_EACH(&worker->s->probes, at)
	{
		struct m2_probe *p = M2_LIST_OF(at, struct m2_probe, link);
		if (p->engine == worker && p->handle == 0)
			ask(p);
	}
	m2_residency_settle(worker);
}

/* The device does not open: nothing of what waits for it was asked. */
bool m2_residency_dry_refuse(struct m2_engine *worker, enum m2_err err, const struct m2_why *why)
{
	bool moved = false;
	M2_LIST_EACH(&worker->s->probes, at)
	{
		struct m2_probe *p = M2_LIST_OF(at, struct m2_probe, link);
		struct m2_why unsaid;
		if (p->engine != worker)
			continue;
		if (p->variant.device == M2_DEVICE_AUTO &&
			m2_engine_for(worker->s, &p->variant, &p->engine, &unsaid) == M2_OK &&
			p->engine != worker) {
			ask(p);
			moved = true;
		} else {
			fail(p, err, why);
		}
	}
	return moved;
}

void m2_residency_dry_worker_ended(struct m2_engine *worker)
{
	struct m2_why why;
	M2_LIST_EACH(&worker->s->probes, at)
	{
		struct m2_probe *p = M2_LIST_OF(at, struct m2_probe, link);
		if (p->engine == worker && p->handle != 0)
			fail(p, m2_fail(M2_EWORKER, &why, "the worker ended while it planned"),
				&why);
	}
}

void m2_residency_dry_finish(struct m2_supervisor *s)
{
	while (!m2_list_empty(&s->probes))
		forget(M2_LIST_OF(s->probes.next, struct m2_probe, link));
}
