/* inference.c - from a checked request to the worker that holds its variant.
 *
 * Read m2_inference_run from top to bottom: it is the supervisor's part in the life of a request.
 */
#include "daemon/inference.h"

#include <stdlib.h>

#include "common/results.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/who.h"

static enum m2_err check_quota(struct m2_session *x, struct m2_why *why)
{
	const struct m2_supervisor *s = x->s;
	if (s->draining)
		return m2_fail(M2_EDRAINING, why, "the daemon accepts no new work");
	if (x->user->running >= s->config.requests_per_user)
		return m2_fail(M2_EBUSY, why,
			"user %u has %d requests under way, and may have %d (requests_per_user)",
			x->request.uid, x->user->running, s->config.requests_per_user);
	return M2_OK;
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
	enum m2_err err = check_quota(x, &why);
	if (err == M2_OK)
		err = find_tenant(x, &t, &why);
	if (err == M2_OK && t->state != M2_TENANT_READY &&
		t->n_waiting >= (uint32_t)t->variant.queue)
		err = m2_fail_field(M2_EBUSY, &why, "model",
			"%s is being loaded and %u requests wait for it already", t->variant.name,
			t->n_waiting);
	if (err == M2_OK && !m2_process_attach(s, x))
		err = m2_fail(M2_ECANCELED, &why, "the process that asked has ended");
	if (err != M2_OK) {
		s->counters.refused++;
		m2_session_fail(x, err, &why);
		return;
	}
	x->counted = true;
	x->user->running++;
	s->counters.requests++;
	if (t->state == M2_TENANT_READY)
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
