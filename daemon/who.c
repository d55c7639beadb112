/* who.c - see who.h. */
#include "daemon/who.h"

#include <unistd.h>

#include "registry/access.h"

#define KEEP_NS INT64_C(30000000000)

enum m2_err m2_who_init(struct m2_supervisor *s, struct m2_why *why)
{
	s->access = m2_access_create(KEEP_NS);
	return s->access != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "out of memory");
}

void m2_who_finish(struct m2_supervisor *s)
{
	m2_access_destroy(&s->access);
}

void m2_who_forget(struct m2_supervisor *s)
{
	m2_access_forget(s->access);
}

static enum m2_err allows(struct m2_supervisor *s, const struct m2_session *x,
	const struct m2_access_list *list, struct m2_why *why)
{
	return m2_access_allows(
		s->access, x->request.uid, x->request.gid, list, (int64_t)m2_loop_now(), why);
}

bool m2_who_admin(struct m2_supervisor *s, const struct m2_session *x)
{
	const struct m2_daemon_config *c = &s->config;
	const struct m2_access_list admins = {
		c->admin_users, c->n_admin_users, c->admin_groups, c->n_admin_groups};
	if (x->request.uid == 0 || x->request.uid == geteuid())
		return true;
	/* two empty lists would be everyone */
	return (admins.n_users > 0 || admins.n_groups > 0) && allows(s, x, &admins, NULL) == M2_OK;
}

enum m2_err m2_who_enters(struct m2_supervisor *s, const struct m2_session *x, struct m2_why *why)
{
	const struct m2_daemon_config *c = &s->config;
	const struct m2_access_list clients = {
		c->client_users, c->n_client_users, c->client_groups, c->n_client_groups};
	const bool open = clients.n_users == 0 && clients.n_groups == 0;
	const bool control = x->request.route.endpoint == M2_ENDPOINT_CONTROL;
	if (!control && open)
		return M2_OK;
	if (m2_who_admin(s, x))
		return M2_OK;
	if (control)
		return m2_fail(M2_EACCES, why,
			"user %u is no administrator of this daemon: root, its own user, and those "
			"of "
			"admin.users and admin.groups are",
			x->request.uid);
	return allows(s, x, &clients, why);
}

enum m2_err m2_who_uses(struct m2_supervisor *s, const struct m2_session *x,
	const struct m2_variant *v, struct m2_why *why)
{
	const struct m2_access_list list = {v->users, v->n_users, v->groups, v->n_groups};
	struct m2_why reason;
	if ((list.n_users == 0 && list.n_groups == 0) || m2_who_admin(s, x) ||
		allows(s, x, &list, &reason) == M2_OK)
		return M2_OK;
	return m2_fail_field(M2_EACCES, why, "model", "%s: %s", v->name, reason.text);
}
