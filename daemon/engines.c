/* engines.c - see engines.h.
 *
 * Packets are looked up in a table by type; each handler takes its struct by copy or checked pointer.  A
 * packet about a request that is not this worker's is ignored: it may have crossed with our own.
 */
#include "daemon/engines.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "daemon/checks.h"
#include "daemon/inform.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/runtime.h"
#include "daemon/users.h"
#include "daemon/sessions.h"

#define SECOND     UINT64_C(1000000000)
#define SLOW_LOAD  4              /* times as long a load may hold the step loop up */
#define FRESH      (3 * SECOND)   /* three beats */
#define SLOW_START (120 * SECOND) /* and a device that does not open that long */

static void arguments(void *ctx, struct m2_arguments *args)
{
	struct m2_engine *w = ctx;
	const struct m2_options *o = w->s->options;
	const struct m2_daemon_config *c = &w->s->config;
	m2_arguments_add(args, "--role=worker");
	m2_arguments_add(args, "--fd=%d", M2_CHILD_FD);
	m2_arguments_add(args, "--backend=%s", w->backend);
	m2_arguments_add(args, "--ordinal=%d", w->ordinal);
	m2_arguments_add(
		args, "--cpu-threads=%d", o->cpu_threads >= 0 ? o->cpu_threads : c->cpu_threads);
	m2_arguments_add(args, "--isa=%s", o->isa[0] != '\0' ? o->isa : c->cpu_isa);
	m2_arguments_add(args, "--runtime-dir=%s", o->runtime_dir);
	m2_arguments_add(args, "--results-budget=%lld", (long long)c->results_budget_bytes);
	m2_arguments_add(args, "--results-per-user=%lld", (long long)c->results_per_user_bytes);
	m2_arguments_add(
		args, "--log-level=%s", o->log_level[0] != '\0' ? o->log_level : c->log_level);
}

/* A step loop that does not turn that long hangs. */
static uint64_t bearable(const struct m2_engine *w)
{
	return (uint64_t)w->s->config.step_timeout_s * SECOND;
}

enum { UNOPENED_MAX = 3 };

/* ---- what it says ------------------------------------------------------------------------------- */

/* The session a packet speaks of, if it is at this worker. */
static struct m2_session *session_of(struct m2_engine *w, uint64_t request)
{
	struct m2_session *x = m2_session_find(w->s, request);
	if (x != NULL && x->state == M2_SESSION_RUNNING && x->engine == w)
		return x;
	m2_debug("%s speaks of request %llu, which it has not", w->child.name,
		(unsigned long long)request);
	return NULL;
}

static enum m2_err on_ready(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_worker_ready *ready = packet->fixed;
	(void)why;
	w->info = ready->device;
	w->info.name[sizeof w->info.name - 1] = w->info.path[sizeof w->info.path - 1] = '\0';
	w->can_park = ready->can_park != 0;
	w->child.ready = true;
	w->unopened = 0;
	w->passed = M2_OK;
	w->opened = true;
	w->heartbeat_ns = m2_loop_now();
	m2_loop_set_timer(&w->s->loop, &w->watch, w->heartbeat_ns + bearable(w));
	m2_info("%s is ready: %s, %s", w->child.name, w->info.name, w->info.path);
	m2_residency_worker_ready(w);
	return M2_OK;
}

static enum m2_err on_unable(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_unable *unable = packet->fixed;
	(void)why;
	w->unable = m2_err_from_number((long)unable->err);
	w->unable_why = unable->why;
	w->unable_why.field[sizeof w->unable_why.field - 1] = '\0';
	w->unable_why.text[sizeof w->unable_why.text - 1] = '\0';
	return M2_OK;
}

static enum m2_err on_planned(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	w->heartbeat_ns = m2_loop_now();
	m2_residency_planned(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_progress(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	m2_residency_progress(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_loaded(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	w->heartbeat_ns = m2_loop_now();
	m2_residency_loaded(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_unloaded(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	m2_residency_unloaded(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_accepted(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_accepted *a = packet->fixed;
	struct m2_session *x = session_of(w, a->request);
	if (x == NULL)
		return M2_OK;
	if (a->segment[0] != '\0' && !m2_runtime_segment_valid(a->segment))
		return m2_fail(M2_EPROTO, why, "a segment with a wrong name");
	x->acceptance = *a;
	x->accepted = true;
	m2_session_send_accepted(x);
	return M2_OK;
}

static enum m2_err on_tokens(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_tokens *t = packet->fixed;
	struct m2_session *x = session_of(w, t->request);
	if (x == NULL)
		return M2_OK;
	struct json_object *o = m2_reply_new(&x->request, "tokens");
	const enum m2_err err = m2_reply_put_tokens(o, t, packet->body, packet->body_bytes, why);
	m2_session_send(x, o, NULL, 0);
	return err;
}

static enum m2_err on_finished(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_finished *f = packet->fixed;
	struct m2_session *x = session_of(w, f->request);
	struct m2_counters *counters = &w->s->counters;
	(void)why;
	if (x == NULL)
		return M2_OK;
	counters->prompt_tokens += f->prompt_tokens;
	counters->generated_tokens += f->generated_tokens;
	m2_users_book(x, f);
	if (f->err == M2_OK)
		counters->finished++;
	else if (f->err == M2_ECANCELED)
		counters->cancelled++;
	else
		counters->failed++;
	struct json_object *o = m2_reply_new(&x->request, "finished");
	m2_reply_put_finished(o, f);
	m2_session_end(x, o, NULL, 0);
	return M2_OK;
}

static enum m2_err on_data(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_data *data = packet->fixed;
	struct m2_session *x = session_of(w, data->request);
	(void)why;
	if (x == NULL)
		return M2_OK;
	w->s->counters.finished++;
	struct json_object *o = m2_session_result(x);
	m2_reply_u64(o, x->request.op == M2_OP_TOKENIZE ? "count" : "bytes",
		x->request.op == M2_OP_TOKENIZE ? packet->body_bytes / 4 : packet->body_bytes);
	m2_session_end(x, o, packet->body, packet->body_bytes);
	return M2_OK;
}

static enum m2_err on_refused(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_refused *refused = packet->fixed;
	struct m2_session *x = session_of(w, refused->request);
	(void)why;
	if (x == NULL)
		return M2_OK;
	struct m2_why reason = refused->why;
	reason.field[sizeof reason.field - 1] = reason.text[sizeof reason.text - 1] = '\0';
	w->s->counters.refused++;
	x->accepted = false; /* whatever it was told: there is no segment */
	m2_session_fail(x, m2_err_from_number((long)refused->err), &reason);
	return M2_OK;
}

static enum m2_err on_heartbeat(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_heartbeat *beat = packet->fixed;
	(void)why;
	w->heartbeat_ns = m2_loop_now();
	w->steps = beat->steps;
	return M2_OK;
}

static enum m2_err on_stats(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	const struct m2_ipc_stats *stats = packet->fixed;
	if (packet->body_bytes != stats->n_models * sizeof(struct m2_ipc_model_stats))
		return m2_fail(M2_EPROTO, why, "figures of wrong length");
	w->stats = *stats;
	w->info.memory_total = stats->memory_total;
	w->info.memory_free = stats->memory_free;
	for (uint32_t i = 0; i < stats->n_models; i++) {
		struct m2_ipc_model_stats one;
		memcpy(&one, (const char *)packet->body + i * sizeof one, sizeof one);
		struct m2_tenant *r = m2_residency_find_handle(w, one.model);
		if (r != NULL)
			r->stats = one;
	}
	w->asked = false;
	m2_inform_stats(w->s);
	return M2_OK;
}

static enum m2_err on_checked(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	m2_checks_file(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_check_progress(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	m2_checks_progress(w, packet->fixed);
	return M2_OK;
}

static enum m2_err on_check_ended(
	struct m2_engine *w, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	(void)why;
	m2_checks_ended(w, packet->fixed);
	return M2_OK;
}

/* We have no memory or descriptor to take a large answer: its request ends with that. */
static enum m2_err on_body_lost(struct m2_engine *w, const struct m2_ipc_packet *packet)
{
	struct m2_why why;
	const struct m2_ipc_data *data = packet->fixed;
	struct m2_session *x = packet->type == M2_IPC_DATA ? session_of(w, data->request) : NULL;
	const enum m2_err err =
		m2_fail(M2_ENOMEM, &why, "no memory or descriptor to take the answer");
	m2_error("%s: %s", w->child.name, why.text);
	if (x != NULL)
		m2_session_fail(x, err, &why);
	if (packet->type == M2_IPC_STATS_REPLY) {
		w->asked = false;
		m2_inform_stats(w->s);
	}
	return M2_OK;
}

static enum m2_err on_packet(void *ctx, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	static enum m2_err (*const handlers[M2_IPC_TYPE_COUNT])(
		struct m2_engine *, const struct m2_ipc_packet *, struct m2_why *) = {
		[M2_IPC_WORKER_READY] = on_ready,
		[M2_IPC_WORKER_UNABLE] = on_unable,
		[M2_IPC_PROGRESS] = on_progress,
		[M2_IPC_PLANNED] = on_planned,
		[M2_IPC_LOADED] = on_loaded,
		[M2_IPC_UNLOADED] = on_unloaded,
		[M2_IPC_ACCEPTED] = on_accepted,
		[M2_IPC_TOKENS] = on_tokens,
		[M2_IPC_FINISHED] = on_finished,
		[M2_IPC_DATA] = on_data,
		[M2_IPC_REFUSED] = on_refused,
		[M2_IPC_HEARTBEAT] = on_heartbeat,
		[M2_IPC_STATS_REPLY] = on_stats,
		[M2_IPC_USERS] = m2_users_on_stats,
		[M2_IPC_CHECKED] = on_checked,
		[M2_IPC_CHECK_PROGRESS] = on_check_progress,
		[M2_IPC_CHECK_ENDED] = on_check_ended,
	};
	assert(handlers[packet->type] != NULL); /* the channel's table lets nothing else through */
	if (packet->body_lost)
		return on_body_lost(ctx, packet);
	return handlers[packet->type](ctx, packet, why);
}

/* ---- its life ----------------------------------------------------------------------------------- */

/* Not for the sweep after this worker: another one's segment, or one that a session still has. */
static bool keep_segment(void *ctx, const char *name)
{
	const struct m2_engine *w = ctx;
	struct m2_supervisor *s = w->s;
	if (!m2_runtime_segment_made_by(name, w->child.ended_pid))
		return true;
	M2_LIST_EACH(&s->holding, at)
	if (strcmp(M2_LIST_OF(at, struct m2_session, of_holding)->acceptance.segment, name) == 0)
		return true;
	return false;
}

/* The process said why the device does not open: it rests.  One that dies without a word, time after time,
 * is tried on all the same; who asks later hears of the next attempt. */
static void not_opened(struct m2_engine *w)
{
	struct m2_why why;
	if (w->unable != M2_OK) {
		why = w->unable_why;
		w->rests = !w->child.unwanted;
		w->child.unwanted = true;
		w->passed = w->unable;
		(void)m2_residency_refuse(w, w->unable, &why);
		w->unable = M2_OK;
		w->unopened = 0;
	} else if (++w->unopened >= UNOPENED_MAX) {
		w->passed = M2_EWORKER;
		/* where "auto" had the choice, it has made another */
		w->rests = m2_residency_refuse(w,
			m2_fail(M2_EDEVICE, &why,
				"device %s could not be opened, %u times in a row: the daemon's "
				"log says why",
				w->device, w->unopened),
			&why);
		w->child.unwanted = w->child.unwanted || w->rests;
	}
}

static void on_ended(void *ctx)
{
	struct m2_engine *w = ctx;
	m2_loop_clear_timer(&w->s->loop, &w->watch);
	w->asked = false;
	m2_checks_worker_ended(w);
	m2_residency_worker_ended(w);
	if (!w->opened)
		not_opened(w);
	w->opened = false;
	m2_runtime_sweep(w->s, keep_segment, w);
	m2_inform_stats(w->s);
	if (!w->child.unwanted)
		m2_loop_set_timer(&w->s->loop, &w->watch, m2_loop_now() + SLOW_START);
}

static uint64_t silent_at(const struct m2_engine *w)
{
	if (w->rests)
		return UINT64_MAX;
	if (!w->child.ready)
		return w->child.started_ns + SLOW_START;
	return w->heartbeat_ns + (w->loading != NULL ? SLOW_LOAD : 1) * bearable(w);
}

static void on_watch(void *ctx)
{
	struct m2_engine *w = ctx;
	const uint64_t now = m2_loop_now();
	const uint64_t at = silent_at(w);
	if (at <= now && w->child.pid > 0)
		m2_child_kill(&w->child, w->child.ready ? "its step loop is silent (step_timeout)"
							: "it did not open its device in 120 s");
	m2_loop_set_timer(&w->s->loop, &w->watch, at > now ? at : now + bearable(w));
}

/* The service's own watchdog goes hungry sooner: how long it bears that is systemd's setting. */
static uint64_t fresh_until(const struct m2_engine *w)
{
	const uint64_t at = silent_at(w);
	return w->child.ready && w->loading == NULL ? w->heartbeat_ns + FRESH : at;
}

bool m2_engines_fresh(const struct m2_supervisor *s)
{
	const uint64_t now = m2_loop_now();
	M2_LIST_EACH(&s->workers, at)
	if (fresh_until(M2_LIST_OF(at, struct m2_engine, link)) <= now)
		return false;
	return true;
}

struct m2_engine *m2_engine_create(
	struct m2_supervisor *s, const char *device, const char *backend, int32_t ordinal)
{
	struct m2_engine *w = calloc(1, sizeof *w);
	if (w == NULL)
		return NULL;
	w->s = s;
	w->ordinal = ordinal;
	(void)snprintf(w->device, sizeof w->device, "%s", device);
	(void)snprintf(w->backend, sizeof w->backend, "%s", backend);
	(void)snprintf(w->child.name, sizeof w->child.name, "worker %s", device);
	w->child.loop = &s->loop;
	w->child.side = M2_IPC_WORKER;
	w->child.ctx = w;
	w->child.pause_most_ns = 5 * UINT64_C(1000000000); /* it reads models again each time */
	w->child.arguments = arguments;
	w->child.packet = on_packet;
	w->child.ended = on_ended;
	w->watch = (struct m2_timer){.fn = on_watch, .ctx = w};
	w->settle = (struct m2_timer){.fn = m2_residency_on_settle, .ctx = w};
	m2_list_append(&s->workers, &w->link);
	return w;
}

void m2_engine_start(struct m2_engine *w)
{
	w->rests = false;
	w->child.unwanted = false;
	m2_child_start(&w->child);
	m2_loop_set_timer(&w->s->loop, &w->watch, m2_loop_now() + SLOW_START);
}

void m2_engines_finish(struct m2_supervisor *s)
{
	while (!m2_list_empty(&s->workers)) {
		struct m2_engine *w = M2_LIST_OF(s->workers.next, struct m2_engine, link);
		m2_loop_clear_timer(&s->loop, &w->watch);
		m2_loop_clear_timer(&s->loop, &w->settle);
		m2_loop_clear_timer(&s->loop, &w->child.again);
		m2_loop_clear_timer(&s->loop, &w->child.end);
		m2_list_remove(&w->link);
		free(w);
	}
}
