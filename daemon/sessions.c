/* sessions.c - see sessions.h.
 *
 * Two lists of ended sessions, both in order of their end: `ended` remembers answers for a minute, at
 * most ENDED_MAX of them; `holding` has those with results memory, for results_keep_s.  A session may
 * be in both; it is freed when it is in neither.
 */
#include "daemon/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "common/log.h"
#include "common/results.h"
#include "daemon/checks.h"
#include "daemon/lifecycle.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/runtime.h"
#include "daemon/engines.h"

#define SECOND      UINT64_C(1000000000)
#define ANSWER_KEEP (60 * SECOND)

enum { ENDED_MAX = 1024 };

/* ---- tables ------------------------------------------------------------------------------------- */

static void on_forget(void *ctx);
static void on_expire(void *ctx);
static void on_deadline(void *ctx);

void m2_sessions_init(struct m2_supervisor *s)
{
	struct timespec now;
	struct m2_link *lists[] = {&s->live, &s->ended, &s->holding, &s->users, &s->processes,
		&s->ps_waiting, &s->drains};
	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
		m2_list_init(lists[i]);
	if (getrandom(&s->hash, sizeof s->hash, 0) != (ssize_t)sizeof s->hash)
		m2_warn("no random numbers: tables of requests are not protected against bad keys");
	/* numbers go on where another life of the daemon may have stopped: a client that remembers one
	 * of those must not name someone's new request by it */
	clock_gettime(CLOCK_REALTIME, &now);
	s->next_request = ((uint64_t)now.tv_sec & 0xffffffffu) << 20;
	s->forget = (struct m2_timer){.fn = on_forget, .ctx = s};
	s->expire = (struct m2_timer){.fn = on_expire, .ctx = s};
	s->deadline = (struct m2_timer){.fn = on_deadline, .ctx = s};
}

bool m2_key_given(const uint8_t key[M2_LIMIT_KEY_BYTES])
{
	static const uint8_t none[M2_LIMIT_KEY_BYTES];
	return memcmp(key, none, sizeof none) != 0;
}

/* Ops whose second arrival under the same key must not run again. */
static bool once_only(uint32_t op)
{
	const uint32_t once = M2_OP_BIT(GENERATE) | M2_OP_BIT(SCORE) | M2_OP_BIT(LOAD) |
			      M2_OP_BIT(UNLOAD) | M2_OP_BIT(REGISTER) | M2_OP_BIT(REMOVE) |
			      M2_OP_BIT(VERIFY);
	return (once >> op & 1) != 0;
}

static struct m2_session **id_chain(struct m2_supervisor *s, uint64_t id)
{
	return &s->by_id[id & (M2_TABLE - 1)];
}

static struct m2_session **key_chain(struct m2_supervisor *s, uint32_t uid, const uint8_t *key)
{
	uint8_t name[M2_LIMIT_KEY_BYTES + 4];
	memcpy(name, key, M2_LIMIT_KEY_BYTES);
	memcpy(name + M2_LIMIT_KEY_BYTES, &uid, 4);
	return &s->by_key[m2_hash_bytes(s->hash, name, sizeof name) & (M2_TABLE - 1)];
}

struct m2_session *m2_session_find(struct m2_supervisor *s, uint64_t id)
{
	struct m2_session *at = *id_chain(s, id);
	while (at != NULL && at->request.id != id)
		at = at->id_next;
	return at;
}

struct m2_session *m2_session_find_key(
	struct m2_supervisor *s, uint32_t uid, const uint8_t key[M2_LIMIT_KEY_BYTES])
{
	if (!m2_key_given(key))
		return NULL;
	struct m2_session *at = *key_chain(s, uid, key);
	while (at != NULL &&
		(at->request.uid != uid || memcmp(at->request.key, key, M2_LIMIT_KEY_BYTES) != 0))
		at = at->key_next;
	return at;
}

struct m2_session *m2_session_create(struct m2_supervisor *s, const struct m2_request *request,
	const void *body, size_t body_bytes)
{
	struct m2_session *x = calloc(1, sizeof *x);
	if (x == NULL)
		return NULL;
	x->s = s;
	x->request = *request;
	x->request.id = ++s->next_request;
	x->user = m2_user_get(s, request->uid);
	if (body_bytes > 0) {
		x->body = malloc(body_bytes);
		if (x->body != NULL)
			memcpy(x->body, body, body_bytes);
		x->body_bytes = body_bytes;
	}
	if (x->user == NULL || (body_bytes > 0 && x->body == NULL)) {
		m2_user_put(&x->user);
		free(x->body);
		free(x);
		return NULL;
	}
	m2_list_init(&x->of_holding);
	m2_list_init(&x->of_process);
	m2_list_init(&x->of_resident);
	m2_list_append(&s->live, &x->of_state);
	struct m2_session **chain = id_chain(s, x->request.id);
	x->id_next = *chain;
	*chain = x;
	if (once_only(request->op) && m2_key_given(request->key)) {
		chain = key_chain(s, request->uid, request->key);
		x->key_next = *chain;
		*chain = x;
	}
	return x;
}

static void leave_key_table(struct m2_session *x)
{
	struct m2_session **at = key_chain(x->s, x->request.uid, x->request.key);
	while (*at != NULL && *at != x)
		at = &(*at)->key_next;
	if (*at == x)
		*at = x->key_next;
}

static void free_session(struct m2_session *x)
{
	struct m2_session **at = id_chain(x->s, x->request.id);
	while (*at != x)
		at = &(*at)->id_next;
	*at = x->id_next;
	leave_key_table(x);
	m2_process_detach(x);
	m2_user_put(&x->user);
	m2_list_remove(&x->of_state);
	m2_list_remove(&x->of_holding);
	m2_list_remove(&x->of_resident);
	json_object_put(x->answer);
	free(x->body);
	free(x);
}

/* ---- answers ------------------------------------------------------------------------------------ */

/* In place of an answer that found no memory. */
static void send_plain(struct m2_session *x)
{
	char text[M2_REPLY_PLAIN_BYTES];
	struct m2_ipc_reply reply = {.route = x->request.route, .uid = x->request.uid};
	reply.header_bytes = (uint32_t)m2_reply_plain(&x->request, text);
	(void)m2_child_send(&x->s->gate, M2_IPC_GATE_REPLY, &reply, text, reply.header_bytes);
}

/* false: it could not be told for lack of memory, and its client was told that. */
static bool send_object(
	struct m2_session *x, struct json_object *o, const void *payload, size_t payload_bytes)
{
	struct m2_supervisor *s = x->s;
	struct m2_ipc_reply reply = {.route = x->request.route, .uid = x->request.uid};
	size_t length = 0;
	const char *text = m2_reply_text(o, &length);
	/* an answer for an earlier gate has nowhere to go; its client will ask again */
	if (!s->gate.ready || reply.route.generation != s->gate.life)
		return text != NULL;
	char *both = NULL;
	if (text != NULL && payload_bytes > 0 && length <= M2_IPC_BODY_MAX - payload_bytes)
		both = malloc(length + payload_bytes);
	if (both != NULL) {
		memcpy(both, text, length);
		memcpy(both + length, payload, payload_bytes);
	}
	reply.header_bytes = (uint32_t)length;
	reply.payload_bytes = (uint32_t)payload_bytes;
	const void *body = payload_bytes > 0 ? both : text;
	const bool sent =
		body != NULL && length <= M2_IPC_BODY_MAX &&
		m2_child_send(&s->gate, M2_IPC_GATE_REPLY, &reply, body, length + payload_bytes);
	free(both);
	if (!sent && m2_child_listens(&s->gate))
		send_plain(x);
	return text != NULL;
}

void m2_session_send(
	struct m2_session *x, struct json_object *o, const void *payload, size_t payload_bytes)
{
	(void)send_object(x, o, payload, payload_bytes);
	json_object_put(o);
}

struct json_object *m2_session_result(const struct m2_session *x)
{
	return m2_reply_new(&x->request, "result");
}

bool m2_session_segment(const struct m2_session *x, char *path, size_t size)
{
	const int n = snprintf(path, size, "%s/%s", x->s->results_dir, x->acceptance.segment);
	return x->accepted && x->acceptance.segment[0] != '\0' && n > 0 && (size_t)n < size;
}

void m2_session_send_accepted(struct m2_session *x)
{
	char path[M2_LIMIT_PATH_BYTES + M2_LIMIT_SEGMENT_NAME_BYTES + 32];
	struct json_object *o = m2_reply_new(&x->request, "accepted");
	m2_reply_put_accepted(
		o, &x->acceptance, m2_session_segment(x, path, sizeof path) ? path : NULL);
	const bool told = send_object(x, o, NULL, 0);
	json_object_put(o);
	if (told)
		return;
	/* its client was told that there is no memory, and does not wait for it any more */
	x->release_when_ended = true;
	m2_session_cancel(x, M2_FINISH_CANCELLED);
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void free_if_done(struct m2_session *x)
{
	if (x->state == M2_SESSION_ENDED && m2_list_empty(&x->of_state) &&
		m2_list_empty(&x->of_holding))
		free_session(x);
}

static void forget_answer(struct m2_session *x)
{
	if (m2_list_empty(&x->of_state))
		return;
	m2_list_remove(&x->of_state);
	x->s->n_ended--;
	free_if_done(x);
}

static void plan(struct m2_supervisor *s)
{
	if (!m2_list_empty(&s->ended))
		m2_loop_set_timer(&s->loop, &s->forget,
			M2_LIST_OF(s->ended.next, struct m2_session, of_state)->ended_ns +
				ANSWER_KEEP);
	if (!m2_list_empty(&s->holding))
		m2_loop_set_timer(&s->loop, &s->expire,
			M2_LIST_OF(s->holding.next, struct m2_session, of_holding)->ended_ns +
				(uint64_t)s->config.results_keep_s * SECOND);
}

static void on_forget(void *ctx)
{
	struct m2_supervisor *s = ctx;
	const uint64_t now = m2_loop_now();
	while (!m2_list_empty(&s->ended)) {
		struct m2_session *x = M2_LIST_OF(s->ended.next, struct m2_session, of_state);
		if (x->ended_ns + ANSWER_KEEP > now)
			break;
		forget_answer(x);
	}
	plan(s);
}

static void on_expire(void *ctx)
{
	struct m2_supervisor *s = ctx;
	const uint64_t keep = (uint64_t)s->config.results_keep_s * SECOND;
	const uint64_t now = m2_loop_now();
	while (!m2_list_empty(&s->holding)) {
		struct m2_session *x = M2_LIST_OF(s->holding.next, struct m2_session, of_holding);
		if (x->ended_ns + keep > now)
			break;
		m2_session_release(x);
	}
	plan(s);
}

/* Out of everything that only the living are in. */
static void leave_the_living(struct m2_session *x)
{
	struct m2_tenant *tenant = x->tenant;
	m2_list_remove(&x->of_state);
	m2_list_remove(&x->of_resident);
	x->tenant = NULL;
	if (x->counted)
		x->user->running--;
	x->counted = false;
	free(x->body);
	x->body = NULL;
	x->body_bytes = 0;
	if (tenant != NULL)
		m2_residency_session_left(tenant);
	if (x->check != NULL)
		m2_check_session_left(x->check);
}

void m2_session_end(
	struct m2_session *x, struct json_object *o, const void *payload, size_t payload_bytes)
{
	struct m2_supervisor *s = x->s;
	if (!send_object(x, o, payload, payload_bytes)) {
		json_object_put(o); /* what is incomplete is not worth repeating */
		o = NULL;
	}
	leave_the_living(x);
	x->state = M2_SESSION_ENDED;
	x->ended_ns = m2_loop_now();
	if (x->accepted && x->acceptance.segment[0] != '\0') {
		m2_list_append(&s->holding, &x->of_holding);
		/* its process is watched still: results go with it */
	} else {
		m2_process_detach(x);
	}
	if (once_only(x->request.op) && m2_key_given(x->request.key) && o != NULL) {
		x->answer = o;
		o = NULL;
		m2_list_append(&s->ended, &x->of_state);
		if (++s->n_ended > ENDED_MAX)
			forget_answer(M2_LIST_OF(s->ended.next, struct m2_session, of_state));
	}
	json_object_put(o);
	plan(s);
	if (x->release_when_ended && !m2_list_empty(&x->of_holding))
		m2_session_release(x);
	else
		free_if_done(x);
	m2_lifecycle_check(s);
}

void m2_session_fail(struct m2_session *x, enum m2_err err, const struct m2_why *why)
{
	m2_session_end(x, m2_reply_error(&x->request, err, why), NULL, 0);
}

void m2_session_release(struct m2_session *x)
{
	if (x->state != M2_SESSION_ENDED) {
		x->release_when_ended = true;
		return;
	}
	if (m2_list_empty(&x->of_holding))
		return;
	m2_list_remove(&x->of_holding);
	m2_process_detach(x);
	const struct m2_ipc_cancel release = {.request = x->request.id};
	/* the worker lets go of its mapping and its charge; the name goes here and now, for one that is
	 * dying may not read this */
	if (x->engine != NULL && x->engine->child.life == x->engine_life)
		(void)m2_child_send(&x->engine->child, M2_IPC_RELEASE, &release, NULL, 0);
	m2_runtime_unlink_segment(x->s, x->acceptance.segment);
	x->acceptance.segment[0] = '\0';
	free_if_done(x);
}

void m2_session_cancel(struct m2_session *x, uint32_t reason)
{
	struct m2_why why;
	const struct m2_ipc_cancel cancel = {.request = x->request.id, .reason = reason};
	if (x->state == M2_SESSION_ENDED || x->cancelled)
		return;
	x->cancelled = true;
	if (x->state == M2_SESSION_RUNNING) {
		(void)m2_child_send(&x->engine->child, M2_IPC_CANCEL, &cancel, NULL, 0);
		return;
	}
	x->s->counters.cancelled++;
	m2_session_fail(x,
		m2_fail(M2_ECANCELED, &why,
			x->check != NULL ? "cancelled" : "cancelled before it ran"),
		&why);
}

void m2_session_adopt(struct m2_session *x, const struct m2_request *again)
{
	x->request.route = again->route;
	if (x->request.pid == again->pid)
		return;
	x->request.pid = again->pid;
	if (x->process == NULL)
		return; /* it holds nothing that a process's end would free */
	m2_process_detach(x);
	/* one that has ended meanwhile is not watched; its results expire by time */
	(void)m2_process_attach(x->s, x);
}

bool m2_session_results_gone(const struct m2_session *x)
{
	return x->accepted && x->acceptance.bytes > 0 && x->acceptance.segment[0] == '\0' &&
	       (x->request.flags & M2_REQUEST_MESSAGES) == 0;
}

void m2_session_orphan(struct m2_session *x)
{
	if (x->state == M2_SESSION_ENDED) {
		m2_session_release(x);
		return;
	}
	x->release_when_ended = true;
	/* an administrator's order stands, whoever waits for its answer */
	if (x->counted)
		m2_session_cancel(x, M2_FINISH_CANCELLED);
}

void m2_session_lost(struct m2_session *x)
{
	struct m2_why why;
	const enum m2_err err =
		m2_fail(M2_EWORKER, &why, "the process that ran this request ended: send it again");
	x->s->counters.lost++;
	if (x->accepted && x->acceptance.segment[0] != '\0') {
		m2_runtime_finish_segment(x->s, x->acceptance.segment, err, why.text);
		m2_runtime_unlink_segment(x->s, x->acceptance.segment);
		x->acceptance.segment[0] = '\0';
	}
	m2_session_fail(x, err, &why);
}

/* ---- deadlines of those that wait --------------------------------------------------------------- */

static uint64_t due(const struct m2_session *x)
{
	return x->state == M2_SESSION_WAITING && x->request.deadline_ms > 0
		       ? x->request.received_ns + (uint64_t)x->request.deadline_ms * 1000000
		       : UINT64_MAX;
}

static void on_deadline(void *ctx)
{
	struct m2_supervisor *s = ctx;
	const uint64_t now = m2_loop_now();
	uint64_t next = UINT64_MAX;
	M2_LIST_EACH(&s->live, at)
	{
		struct m2_session *x = M2_LIST_OF(at, struct m2_session, of_state);
		struct m2_why why;
		if (due(x) <= now)
			m2_session_fail(x,
				m2_fail_field(M2_EDEADLINE, &why, "deadline_ms",
					"the deadline passed while the variant was being loaded"),
				&why);
		else if (due(x) < next)
			next = due(x);
	}
	if (next != UINT64_MAX)
		m2_loop_set_timer(&s->loop, &s->deadline, next);
}

void m2_sessions_watch_deadline(struct m2_supervisor *s, const struct m2_session *x)
{
	if (due(x) != UINT64_MAX && (!s->deadline.listed || due(x) < s->deadline.at))
		m2_loop_set_timer(&s->loop, &s->deadline, due(x));
}

void m2_sessions_finish(struct m2_supervisor *s)
{
	struct m2_link *lists[] = {&s->live, &s->ended};
	for (size_t i = 0; i < 2; i++)
		while (!m2_list_empty(lists[i]))
			free_session(M2_LIST_OF(lists[i]->next, struct m2_session, of_state));
	while (!m2_list_empty(&s->holding))
		free_session(M2_LIST_OF(s->holding.next, struct m2_session, of_holding));
	m2_processes_finish(s);
}
