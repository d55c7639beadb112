/* residency.c - see residency.h: the table of residents, who waits for them, and their arrival.
 * Whose turn it is and who makes room: residency_place.c.  How they go: residency_leave.c; how they are parked:
 * residency_park.c. */
#include "daemon/residency.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "daemon/checks.h"
#include "daemon/notify.h"
#include "daemon/reply.h"
#include "daemon/residency_internal.h"
#include "daemon/users.h"

void m2_residency_init(struct m2_supervisor *s)
{
	m2_list_init(&s->residents);
	m2_list_init(&s->probes);
	s->idle = (struct m2_timer){.fn = m2_tenant_on_idle, .ctx = s};
}

void m2_residency_finish(struct m2_supervisor *s)
{
	m2_residency_dry_finish(s);
	while (!m2_list_empty(&s->residents)) {
		struct m2_tenant *r = M2_LIST_OF(s->residents.next, struct m2_tenant, link);
		m2_list_remove(&r->link);
		free(r);
	}
}

static bool has_name(const struct m2_variant *v, const char *name)
{
	if (strcmp(v->name, name) == 0)
		return true;
	for (int32_t i = 0; i < v->n_aliases; i++)
		if (strcmp(v->aliases[i], name) == 0)
			return true;
	return false;
}

struct m2_tenant *m2_residency_find(struct m2_supervisor *s, const char *name)
{
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (has_name(&r->variant, name))
			return r;
	}
	return NULL;
}

struct m2_tenant *m2_residency_find_handle(struct m2_engine *worker, uint32_t handle)
{
	M2_LIST_EACH(&worker->s->residents, at)
	{
		struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (r->engine == worker && r->handle == handle && r->state != M2_TENANT_WAITING)
			return r;
	}
	return NULL;
}

const char *m2_residency_state_name(enum m2_tenant_state state)
{
	static const char *const names[] = {[M2_TENANT_WAITING] = "waiting",
		[M2_TENANT_PLANNING] = "loading",
		[M2_TENANT_PLANNED] = "waiting",
		[M2_TENANT_LOADING] = "loading",
		[M2_TENANT_READY] = "resident",
		[M2_TENANT_UNLOADING] = "unloading",
		[M2_TENANT_PARKED] = "parked"};
	return names[state];
}

uint64_t m2_residency_bytes(const struct m2_engine *worker)
{
	uint64_t bytes = 0;
	M2_LIST_EACH(&worker->s->residents, at)
	{
		const struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		if (r->engine == worker)
			bytes += m2_tenant_bytes(r);
	}
	return bytes;
}

void m2_residency_put(const struct m2_tenant *r, struct json_object *o)
{
	m2_reply_string(o, "state", m2_residency_state_name(r->state));
	m2_reply_string(o, "device", r->engine->device);
	if (r->state >= M2_TENANT_READY)
		m2_reply_put_loaded(o, &r->loaded);
}

/* ---- loading ------------------------------------------------------------------------------------ */

enum m2_err m2_residency_want(struct m2_supervisor *s, const struct m2_variant *variant,
	const struct m2_store_entry *entry, uint32_t by, struct m2_tenant **out, struct m2_why *why)
{
	struct m2_engine *engine;
	const enum m2_err err = m2_engine_for(s, variant, &engine, why);
	if (err != M2_OK)
		return err;
	struct m2_tenant *r = calloc(1, sizeof *r);
	if (r == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	r->s = s;
	r->variant = *variant;
	memcpy(r->checksum, entry->checksum, sizeof r->checksum);
	r->engine = engine;
	r->by = by;
	r->pinned = variant->pinned;
	r->wanted_ns = m2_loop_now();
	r->history = -1;
	m2_list_init(&r->running);
	m2_list_init(&r->waiting);
	m2_list_init(&r->leaving);
	m2_list_append(&s->residents, &r->link);
	*out = r;
	return M2_OK;
}

bool m2_residency_open(const struct m2_tenant *r)
{
	return r->state == M2_TENANT_READY && !r->closed;
}

void m2_residency_wait(struct m2_tenant *r, struct m2_session *x)
{
	if (m2_list_empty(&r->waiting))
		r->wanted_ns = m2_loop_now();
	x->state = M2_SESSION_WAITING;
	x->tenant = r;
	x->engine = r->engine;
	m2_list_append(&r->waiting, &x->of_resident);
	r->n_waiting += x->counted ? 1 : 0;
	m2_sessions_watch_deadline(r->s, x);
	m2_residency_settle(r->engine);
}

void m2_residency_forward(struct m2_tenant *r, struct m2_session *x)
{
	struct m2_ipc_request *packet = calloc(1, sizeof *packet);
	struct m2_why why;
	if (packet == NULL) {
		m2_session_fail(x, m2_fail(M2_ENOMEM, &why, "out of memory"), &why);
		return;
	}
	packet->request = x->request;
	packet->model = r->handle;
	m2_users_put_limits(x, packet);
	if (x->request.op == M2_OP_GENERATE)
		m2_request_apply_defaults(&packet->request, &r->variant);
	x->state = M2_SESSION_RUNNING;
	x->tenant = r;
	x->engine = r->engine;
	x->engine_life = r->engine->child.life;
	m2_list_append(&r->running, &x->of_resident);
	r->n_running++;
	r->served++;
	const bool sent =
		m2_child_send(&r->engine->child, M2_IPC_REQUEST, packet, x->body, x->body_bytes);
	free(packet);
	free(x->body);
	x->body = NULL;
	/* if the worker is dying its end answers the session */
	if (!sent && m2_child_listens(&r->engine->child))
		m2_session_fail(x,
			m2_fail(M2_ENOMEM, &why, "no memory or descriptor to pass the prompt on"),
			&why);
}

static void answer_load(struct m2_session *x, const struct m2_tenant *r)
{
	struct json_object *o = m2_session_result(x);
	m2_reply_string(o, "name", r->variant.name);
	m2_residency_put(r, o);
	m2_session_end(x, o, NULL, 0);
}

void m2_residency_progress(struct m2_engine *worker, const struct m2_ipc_progress *progress)
{
	struct m2_tenant *r = m2_residency_find_handle(worker, progress->model);
	if (r == NULL || (r->state != M2_TENANT_LOADING && r->state != M2_TENANT_PLANNING))
		return;
	r->progress = *progress;
	r->progress.what[sizeof r->progress.what - 1] = '\0';
	M2_LIST_EACH(&r->waiting, at)
	{
		struct m2_session *x = M2_LIST_OF(at, struct m2_session, of_resident);
		if (x->request.op != M2_OP_LOAD)
			continue;
		struct json_object *o = m2_reply_new(&x->request, "progress");
		m2_reply_u64(o, "done", progress->done);
		m2_reply_u64(o, "total", progress->total);
		m2_reply_string(o, "what", r->progress.what);
		m2_session_send(x, o, NULL, 0);
	}
	m2_notify_progress(r->s);
}

void m2_tenant_serve_waiting(struct m2_tenant *r)
{
	for (struct m2_session *x; (x = m2_tenant_first(&r->waiting)) != NULL;) {
		if (x->request.op == M2_OP_LOAD) {
			answer_load(x, r);
			continue;
		}
		m2_list_remove(&x->of_resident);
		r->n_waiting--;
		m2_residency_forward(r, x);
	}
}

static void load_failed(struct m2_tenant *r, const struct m2_ipc_loaded *loaded)
{
	struct m2_engine *worker = r->engine;
	struct m2_why why = loaded->why;
	if (loaded->crowded != 0) { /* somebody else took it since we asked: ask again */
		r->state = M2_TENANT_PLANNED;
		return;
	}
	why.field[sizeof why.field - 1] = why.text[sizeof why.text - 1] = '\0';
	worker->head = NULL;
	m2_tenant_load_failed(r, m2_err_from_number((long)loaded->err), &why);
}

/* It holds its place from now on. */
static void arrive(struct m2_tenant *r, const struct m2_ipc_loaded *loaded)
{
	const uint64_t now = m2_loop_now();
	r->loaded = *loaded;
	r->state = M2_TENANT_READY;
	r->engine->head = NULL;
	r->standing = false;
	r->deaths = 0;
	r->idle_ns = r->ready_ns = now;
	r->stay_ns = m2_budget_stay(
		now, now - r->load_ns, (uint64_t)r->s->config.stay_s * UINT64_C(1000000000));
	if (r->parked > 0)
		r->s->counters.returns++;
	else
		r->s->counters.loads++;
	r->parked = 0;
	m2_tenant_record_end(r, M2_OK, NULL);
	m2_info("%s is resident on %s: %llu bytes, %llu ms", r->variant.name, r->engine->device,
		(unsigned long long)m2_tenant_bytes(r), (unsigned long long)loaded->load_ms);
	m2_tenant_preload_over(r);
}

void m2_residency_loaded(struct m2_engine *worker, const struct m2_ipc_loaded *loaded)
{
	struct m2_supervisor *s = worker->s;
	struct m2_tenant *r = m2_residency_find_handle(worker, loaded->model);
	if (r == NULL || r->state != M2_TENANT_LOADING)
		return;
	worker->loading = NULL;
	worker->info.memory_free = loaded->memory_free;
	m2_residency_settle(worker);
	if (loaded->err != M2_OK) {
		load_failed(r, loaded);
		return;
	}
	arrive(r, loaded);
	m2_tenant_serve_waiting(r);
	m2_checks_loaded(r);
	m2_residency_session_left(r);
	if (r->leave)
		m2_residency_unload(r, r->leave_wait_s, NULL);
	m2_notify_state(s);
}
