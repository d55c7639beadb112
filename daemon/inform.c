/* inform.c - list, show, status, ps, attach: JSON of what the supervisor knows.
 *
 * ps wants the workers' own figures: it asks every worker once and answers when all have said theirs, or
 * after a second with what was known before.
 */
#include "daemon/inform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/checks.h"
#include "daemon/engines.h"
#include "daemon/lifecycle.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/users.h"
#include "daemon/who.h"

#define SECOND UINT64_C(1000000000)

static void on_ps_limit(void *ctx);

void m2_inform_init(struct m2_supervisor *s)
{
	s->ps_limit = (struct m2_timer){.fn = on_ps_limit, .ctx = s};
}

/* ---- list and show ------------------------------------------------------------------------------ */

static const char *device_name(const struct m2_variant *v, char out[16])
{
	static const char *const plain[] = {
		[M2_DEVICE_AUTO] = "auto", [M2_DEVICE_CPU] = "cpu", [M2_DEVICE_CUDA] = "cuda"};
	if (v->device != M2_DEVICE_CUDA)
		return plain[v->device];
	(void)snprintf(out, 16, "cuda:%d", v->device_ordinal);
	return out;
}

/* What list says of a variant; show says it too. */
static void put_variant(struct m2_supervisor *s, struct json_object *o, const struct m2_variant *v,
	const struct m2_store_entry *entry)
{
	char device[16];
	const struct m2_tenant *t = m2_residency_find(s, v->name);
	struct json_object *aliases = json_object_new_array();
	for (int32_t i = 0; i < v->n_aliases; i++)
		m2_reply_append(aliases, json_object_new_string(v->aliases[i]));
	m2_reply_string(o, "name", v->name);
	m2_reply_add(o, "aliases", aliases);
	m2_reply_string(o, "description", v->description);
	m2_reply_string(o, "device", device_name(v, device));
	m2_reply_int(o, "slots", v->slots);
	m2_reply_bool(o, "preload", v->preload);
	m2_reply_bool(o, "pinned", t != NULL ? t->pinned : v->pinned);
	m2_reply_string(o, "state",
		t != NULL ? m2_residency_state_name(t->state)
			  : (entry->last_error != M2_OK ? "failed" : "registered"));
	m2_reply_bool(o, "stale", t != NULL && strcmp(t->checksum, entry->checksum) != 0);
}

struct listing {
	struct m2_session *session;
	struct json_object *array;
};

static bool list_one(void *ctx, const struct m2_variant *v, const struct m2_store_entry *entry)
{
	struct listing *l = ctx;
	if (m2_who_uses(l->session->s, l->session, v, NULL) != M2_OK)
		return true;
	struct json_object *o = json_object_new_object();
	put_variant(l->session->s, o, v, entry);
	m2_reply_append(l->array, o);
	return true;
}

void m2_inform_list(struct m2_session *x)
{
	struct m2_why why;
	struct listing l = {x, json_object_new_array()};
	const enum m2_err err = m2_store_each(x->s->store, list_one, &l, &why);
	if (err != M2_OK) {
		json_object_put(l.array);
		m2_session_fail(x, err, &why);
		return;
	}
	struct json_object *o = m2_session_result(x);
	m2_reply_add(o, "variants", l.array);
	m2_session_end(x, o, NULL, 0);
}

static void put_registration(struct json_object *o, const struct m2_store_entry *entry)
{
	struct json_object *r = json_object_new_object();
	m2_reply_string(r, "checksum", entry->checksum);
	m2_reply_string(r, "source", entry->source);
	m2_reply_string(r, "origin", entry->origin == M2_ORIGIN_MANUAL ? "manual" : "directory");
	m2_reply_int(r, "registered_at", entry->registered_at);
	m2_reply_u64(r, "registered_by", entry->registered_by);
	m2_reply_int(r, "last_load_at", entry->last_load_at);
	m2_reply_int(r, "last_load_ms", entry->last_load_ms);
	m2_reply_int(r, "loads", entry->loads);
	if (entry->last_error != M2_OK) {
		struct m2_why why = {.text = ""};
		(void)m2_fail(M2_OK, &why, "%s", entry->last_error_text);
		m2_reply_add(r, "last_error",
			m2_reply_error_object(m2_err_from_number(entry->last_error), &why));
	}
	m2_reply_add(o, "registration", r);
}

void m2_inform_show(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_store_entry entry;
	struct m2_why why;
	struct m2_variant *v = malloc(sizeof *v);
	enum m2_err err = v == NULL ? m2_fail(M2_ENOMEM, &why, "out of memory")
				    : m2_store_get(s->store, x->request.model, v, &entry, &why);
	if (err == M2_OK)
		err = m2_who_uses(s, x, v, &why);
	if (err != M2_OK) {
		free(v);
		m2_session_fail(x, err, &why);
		return;
	}
	struct json_object *o = m2_session_result(x);
	struct json_object *variant = json_object_new_object();
	char *yaml = m2_variant_print(v, true);
	put_variant(s, variant, v, &entry);
	if (yaml != NULL)
		m2_reply_string(variant, "yaml", yaml);
	put_registration(variant, &entry);
	m2_checks_put_files(s, v->name, variant);
	const struct m2_tenant *t = m2_residency_find(s, v->name);
	if (t != NULL) {
		struct json_object *resident = json_object_new_object();
		m2_residency_put(t, resident);
		m2_reply_add(variant, "resident", resident);
	}
	m2_reply_add(o, "variant", variant);
	free(yaml);
	free(v);
	m2_session_end(x, o, NULL, 0);
}

/* ---- status ------------------------------------------------------------------------------------- */

static float seconds_since(uint64_t then_ns)
{
	return (float)((m2_loop_now() - then_ns) / 1000000) / 1000;
}

static struct json_object *new_process(const struct m2_child *c, const char *role)
{
	struct json_object *o = json_object_new_object();
	m2_reply_string(o, "role", role);
	m2_reply_int(o, "pid", c->pid);
	m2_reply_string(o, "state", c->ready ? "ready" : c->pid > 0 ? "starting" : "down");
	m2_reply_u64(o, "restarts", c->restarts);
	m2_reply_seconds(o, "uptime_s", c->pid > 0 ? seconds_since(c->started_ns) : 0);
	return o;
}

static struct json_object *new_device(const struct m2_engine *e)
{
	struct json_object *o = json_object_new_object();
	m2_reply_string(o, "device", e->device);
	m2_reply_string(o, "backend", e->backend);
	m2_reply_string(o, "name", e->info.name);
	m2_reply_string(o, "path", e->info.path);
	m2_residency_put_device(e, o);
	m2_reply_u64(o, "steps", e->steps);
	return o;
}

static struct json_object *new_counters(const struct m2_counters *c)
{
	const struct {
		const char *name;
		uint64_t value;
	} rows[] = {{"requests", c->requests}, {"finished", c->finished}, {"refused", c->refused},
		{"cancelled", c->cancelled}, {"failed", c->failed}, {"lost", c->lost},
		{"prompt_tokens", c->prompt_tokens}, {"generated_tokens", c->generated_tokens},
		{"loads", c->loads}, {"unloads", c->unloads}, {"evictions", c->evictions},
		{"parks", c->parks}, {"returns", c->returns}, {"parks_dropped", c->parks_dropped}};
	struct json_object *o = json_object_new_object();
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		m2_reply_u64(o, rows[i].name, rows[i].value);
	return o;
}

void m2_inform_status(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct json_object *o = m2_session_result(x);
	struct json_object *processes = json_object_new_array();
	struct json_object *devices = json_object_new_array();
	struct m2_child self = {.pid = getpid(), .ready = true, .started_ns = s->started_ns};
	uint32_t residents = 0;
	m2_reply_string(o, "version", M2_VERSION);
	m2_reply_string(o, "state",
		s->phase == M2_PHASE_STARTING   ? "starting"
		: s->phase >= M2_PHASE_DRAINING ? "stopping"
		: s->draining                   ? "draining"
						: "running");
	m2_reply_int(o, "started_at", s->started_at);
	m2_reply_seconds(o, "uptime_s", seconds_since(s->started_ns));
	m2_reply_append(processes, new_process(&self, "supervisor"));
	m2_reply_append(processes, new_process(&s->gate, "gate"));
	M2_LIST_EACH(&s->workers, at)
	{
		const struct m2_engine *e = M2_LIST_OF(at, struct m2_engine, link);
		m2_reply_append(processes, new_process(&e->child, e->child.name));
		m2_reply_append(devices, new_device(e));
	}
	M2_LIST_EACH(&s->residents, at)
	residents += M2_LIST_OF(at, struct m2_tenant, link)->state == M2_TENANT_READY;
	m2_reply_add(o, "processes", processes);
	m2_reply_add(o, "devices", devices);
	m2_reply_u64(o, "resident", residents);
	m2_reply_u64(o, "running", m2_lifecycle_running(s));
	m2_reply_add(o, "counters", new_counters(&s->counters));
	m2_users_put(s, o, m2_who_admin(s, x), x->request.uid);
	m2_session_end(x, o, NULL, 0);
}

/* ---- ps ----------------------------------------------------------------------------------------- */

static struct json_object *new_resident(const struct m2_tenant *t)
{
	struct json_object *o = json_object_new_object();
	const struct m2_ipc_model_stats *st = &t->stats;
	const bool loaded = t->state == M2_TENANT_READY || t->state == M2_TENANT_UNLOADING;
	const struct m2_footprint *f = &t->loaded.footprint;
	m2_reply_string(o, "name", t->variant.name);
	m2_reply_string(o, "state", m2_residency_state_name(t->state));
	m2_reply_string(o, "device", t->engine->device);
	m2_reply_int(o, "slots", t->variant.slots);
	m2_reply_int(o, "slots_used", st->slots_used);
	m2_reply_int(o, "queued", st->queued);
	m2_reply_int(o, "paused", st->paused);
	m2_reply_u64(o, "waiting", t->n_waiting);
	m2_reply_u64(o, "running", t->n_running);
	m2_reply_u64(o, "requests", st->requests);
	m2_reply_u64(o, "steps", st->steps);
	m2_reply_u64(o, "prompt_tokens", st->prompt_tokens);
	m2_reply_u64(o, "generated_tokens", st->generated_tokens);
	const bool idle = loaded || t->state == M2_TENANT_PARKED;
	m2_reply_seconds(o, "idle_s", idle && t->n_running == 0 ? seconds_since(t->idle_ns) : 0);
	m2_reply_u64(o, "bytes", loaded ? f->weights + f->state + f->workspace : 0);
	m2_reply_u64(o, "weights", loaded ? f->weights : 0);
	m2_reply_u64(o, "state_bytes", loaded ? f->state : 0);
	m2_reply_u64(o, "workspace", loaded ? f->workspace : 0);
	m2_reply_u64(o, "parked", t->state == M2_TENANT_UNLOADING ? 0 : t->parked);
	m2_reply_u64(o, "host", loaded ? t->loaded.host : 0);
	if (loaded && t->loaded.measured > 0)
		m2_reply_u64(o, "measured", t->loaded.measured);
	if (loaded && t->loaded.runs[0] != '\0')
		m2_reply_bounded(o, "runs", t->loaded.runs, sizeof t->loaded.runs);
	m2_reply_seconds(o, "tokens_per_s", (float)((double)st->rate_millis / 1e3));
	m2_reply_bool(o, "pinned", t->pinned);
	m2_reply_bool(o, "makes_room", t->closed);
	if (m2_residency_leaves_in(t) >= 0)
		m2_reply_seconds(o, "leaves_in_s", m2_residency_leaves_in(t));
	if (t->state == M2_TENANT_LOADING) {
		m2_reply_u64(o, "done", t->progress.done);
		m2_reply_u64(o, "total", t->progress.total);
	}
	return o;
}

static struct json_object *new_request(const struct m2_session *x)
{
	struct json_object *o = json_object_new_object();
	m2_reply_u64(o, "request", x->request.id);
	m2_reply_u64(o, "uid", x->request.uid);
	m2_reply_u64(o, "pid", x->request.pid);
	m2_reply_string(o, "op", m2_op_name((enum m2_op)x->request.op));
	m2_reply_string(o, "model", x->tenant != NULL ? x->tenant->variant.name : x->request.model);
	m2_reply_string(o, "state",
		x->state == M2_SESSION_RUNNING ? (x->accepted ? "accepted" : "sent") : "waiting");
	m2_reply_seconds(o, "age_s", seconds_since(x->request.received_ns));
	return o;
}

static void answer_ps(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct json_object *o = m2_session_result(x);
	struct json_object *residents = json_object_new_array();
	struct json_object *requests = json_object_new_array();
	const bool all = m2_who_admin(s, x);
	struct json_object *devices = json_object_new_array();
	uint64_t results = 0;
	uint64_t segments = 0;
	M2_LIST_EACH(&s->residents, at)
	{
		const struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		if (m2_who_uses(s, x, &t->variant, NULL) == M2_OK)
			m2_reply_append(residents, new_resident(t));
	}
	M2_LIST_EACH(&s->live, at)
	{
		const struct m2_session *one = M2_LIST_OF(at, struct m2_session, of_state);
		if (one->counted && (all || one->request.uid == x->request.uid))
			m2_reply_append(requests, new_request(one));
	}
	M2_LIST_EACH(&s->workers, at)
	{
		const struct m2_engine *e = M2_LIST_OF(at, struct m2_engine, link);
		results += e->stats.results_bytes;
		segments += e->stats.segments;
		m2_reply_append(devices, new_device(e));
	}
	m2_reply_add(o, "models", residents);
	m2_reply_add(o, "devices", devices);
	m2_reply_add(o, "requests", requests);
	m2_users_put(s, o, all, x->request.uid);
	m2_reply_u64(o, "results_bytes", results);
	m2_reply_u64(o, "segments", segments);
	m2_session_end(x, o, NULL, 0);
}

static void answer_all_ps(struct m2_supervisor *s)
{
	m2_loop_clear_timer(&s->loop, &s->ps_limit);
	while (!m2_list_empty(&s->ps_waiting))
		answer_ps(M2_LIST_OF(s->ps_waiting.next, struct m2_session, of_resident));
}

static void on_ps_limit(void *ctx)
{
	answer_all_ps(ctx);
}

void m2_inform_stats(struct m2_supervisor *s)
{
	M2_LIST_EACH(&s->workers, at)
	if (M2_LIST_OF(at, struct m2_engine, link)->asked)
		return;
	answer_all_ps(s);
}

void m2_inform_ps(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	const struct m2_ipc_hello ask = {M2_WIRE_VERSION, 0};
	x->state = M2_SESSION_WAITING;
	m2_list_append(&s->ps_waiting, &x->of_resident);
	M2_LIST_EACH(&s->workers, at)
	{
		struct m2_engine *e = M2_LIST_OF(at, struct m2_engine, link);
		if (e->child.ready && !e->asked)
			e->asked = m2_child_send(&e->child, M2_IPC_STATS, &ask, NULL, 0);
	}
	if (!s->ps_limit.listed)
		m2_loop_set_timer(&s->loop, &s->ps_limit, m2_loop_now() + SECOND);
	m2_inform_stats(s);
}

/* ---- attach ------------------------------------------------------------------------------------- */

void m2_inform_attach(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_session *target = m2_session_find_key(s, x->request.uid, x->request.target);
	struct json_object *o = m2_session_result(x);
	char path[M2_LIMIT_PATH_BYTES + M2_LIMIT_SEGMENT_NAME_BYTES + 32];
	if (target == NULL) {
		m2_reply_string(o, "state", "unknown");
		m2_session_end(x, o, NULL, 0);
		return;
	}
	m2_reply_string(o, "state",
		target->state == M2_SESSION_ENDED     ? "finished"
		: target->state == M2_SESSION_RUNNING ? "running"
						      : "queued");
	if (target->accepted)
		m2_reply_put_accepted(o, &target->acceptance,
			m2_session_segment(target, path, sizeof path) ? path : NULL);
	else
		m2_reply_u64(o, "request", target->request.id);
	struct json_object *error;
	if (target->answer != NULL) {
		m2_reply_add(o, "answer", json_object_get(target->answer));
		if (json_object_object_get_ex(target->answer, "error", &error))
			m2_reply_add(o, "error", json_object_get(error));
	}
	m2_session_adopt(target, &x->request);
	m2_session_end(x, o, NULL, 0);
}
