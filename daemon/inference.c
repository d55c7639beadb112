/* inference.c - from a checked request to the worker that holds its variant.
 *
 * Read m2_inference_run from top to bottom: it is the supervisor's part in the life of a request.
 */
#include "daemon/inference.h"

#include <stdlib.h>

#include "common/results.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/users.h"
#include "daemon/who.h"

static enum m2_err check_quota(struct m2_session *x, int64_t *retry_ms, struct m2_why *why)
{
	if (x->s->draining)
		return m2_fail(M2_EDRAINING, why, "the daemon accepts no new work");
	return m2_users_admit(x, retry_ms, why);
}

/* Requests of this user among those that wait for the resident. */
static uint32_t own_waiting(const struct m2_tenant *t, const struct m2_session *x)
{
	uint32_t own = 0;
	M2_LIST_EACH(&t->waiting, at)
	own += M2_LIST_OF(at, struct m2_session, of_resident)->user == x->user;
	return own;
}

/* It is on its way: a bounded number of requests waits for it, and nobody's takes all the room. */
static enum m2_err check_waiting(
	const struct m2_tenant *t, const struct m2_session *x, struct m2_why *why)
{
	if (m2_residency_open(t) || t->n_waiting < (uint32_t)t->variant.queue ||
		m2_users_may_wait(x->s, t->n_waiting, own_waiting(t, x), t->variant.queue))
		return M2_OK;
	return m2_fail_field(M2_EBUSY, why, "model",
		"%s is not resident now and %u requests wait for it already", t->variant.name,
		t->n_waiting);
}

static void refuse(
	struct m2_session *x, enum m2_err err, int64_t retry_ms, const struct m2_why *why)
{
	struct json_object *o = m2_reply_error(&x->request, err, why);
	struct json_object *error;
	x->s->counters.refused++;
	if (retry_ms > 0 && json_object_object_get_ex(o, "error", &error))
		m2_reply_int(error, "retry_ms", retry_ms);
	m2_session_end(x, o, NULL, 0);
}

/* The resident of that name, or one that is now on its way. */
static enum m2_err find_tenant(struct m2_session *x, struct m2_tenant **out, struct m2_why *why)
{
	struct m2_supervisor *s = x->s;
	*out = m2_residency_find(s, x->request.model);
	if (*out != NULL)
		return m2_who_uses(s, x, &(*out)->variant, why);

	struct m2_store_entry entry;
	struct m2_variant *v = malloc(sizeof *v);
	if (v == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	enum m2_err err = m2_store_get(s->store, x->request.model, v, &entry, why);
	if (err == M2_OK)
		err = m2_who_uses(s, x, v, why);
	if (err == M2_OK && !s->config.load_on_demand)
		err = m2_fail_field(M2_ENOENT, why, "model",
			"%s is registered but not resident, and this daemon does not load on "
			"demand: "
			"an administrator can load it",
			v->name);
	if (err == M2_OK)
		err = m2_residency_want(s, v, &entry, x->request.uid, out, why);
	free(v);
	return err;
}

void m2_inference_run(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_tenant *t = NULL;
	struct m2_why why;
	int64_t retry_ms = 0;
	enum m2_err err = check_quota(x, &retry_ms, &why);
	if (err == M2_OK)
		err = find_tenant(x, &t, &why);
	if (err == M2_OK)
		err = check_waiting(t, x, &why);
	if (err == M2_OK && !m2_process_attach(s, x))
		err = m2_fail(M2_ECANCELED, &why, "the process that asked has ended");
	if (err != M2_OK) {
		refuse(x, err, retry_ms, &why);
		return;
	}
	x->counted = true;
	x->user->running++;
	s->counters.requests++;
	if (m2_residency_open(t))
		m2_residency_forward(t, x);
	else
		m2_residency_wait(t, x);
}

/* One's own request, by number or by key; an administrator's reach is everyone's. */
static struct m2_session *find_target(struct m2_session *x)
{
	struct m2_session *target =
		x->request.request != 0
			? m2_session_find(x->s, x->request.request)
			: m2_session_find_key(x->s, x->request.uid, x->request.target);
	if (target == NULL || target == x)
		return NULL;
	const bool own = target->request.uid == x->request.uid;
	const bool control = x->request.route.endpoint == M2_ENDPOINT_CONTROL;
	return own || (control && m2_who_admin(x->s, x)) ? target : NULL;
}

static void answer_state(struct m2_session *x, const char *state)
{
	struct json_object *o = m2_session_result(x);
	m2_reply_string(o, "state", state);
	m2_session_end(x, o, NULL, 0);
}

static void no_such(struct m2_session *x)
{
	struct m2_why why;
	m2_session_fail(x,
		m2_fail_field(
			M2_ENOENT, &why, "request", "no such request of user %u", x->request.uid),
		&why);
}

void m2_inference_cancel(struct m2_session *x)
{
	struct m2_session *target = find_target(x);
	if (target == NULL || !(target->counted || target->state == M2_SESSION_ENDED)) {
		no_such(x);
		return;
	}
	const bool ended = target->state == M2_SESSION_ENDED;
	m2_session_cancel(target, M2_FINISH_CANCELLED);
	answer_state(x, ended ? "finished" : "cancelling");
}

void m2_inference_release(struct m2_session *x)
{
	struct m2_session *target = find_target(x);
	if (target == NULL) {
		no_such(x);
		return;
	}
	const bool ended = target->state == M2_SESSION_ENDED;
	m2_session_release(target);
	answer_state(x, ended ? "released" : "running");
}
