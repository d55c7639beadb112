/* admin.c - load, unload, register, remove, reload, drain. */
#include "daemon/admin.h"

#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "daemon/lifecycle.h"
#include "daemon/reply.h"
#include "daemon/residency.h"

static void answer_resident(struct m2_session *x, const struct m2_tenant *t)
{
	struct json_object *o = m2_session_result(x);
	m2_reply_string(o, "name", t->variant.name);
	m2_residency_put(t, o);
	m2_session_end(x, o, NULL, 0);
}

/* Of a variant that is resident or on its way: nothing more would be done. */
static void answer_dry_run(struct m2_session *x, const struct m2_tenant *t)
{
	struct json_object *o = m2_session_result(x);
	m2_reply_string(o, "name", t->variant.name);
	m2_residency_put(t, o);
	m2_reply_string(o, "outcome", t->state == M2_TENANT_READY ? "resident" : "under way");
	m2_residency_put_device(t->engine, o);
	m2_session_end(x, o, NULL, 0);
}

/* What is registered under that name becomes a tenant, or is only asked about. */
static enum m2_err load_registered(
	struct m2_session *x, bool dry, struct m2_tenant **out, struct m2_why *why)
{
	struct m2_supervisor *s = x->s;
	struct m2_store_entry entry;
	struct m2_variant *v = malloc(sizeof *v);
	enum m2_err err = v == NULL ? m2_fail(M2_ENOMEM, why, "out of memory")
				    : m2_store_get(s->store, x->request.model, v, &entry, why);
	if (err == M2_OK && dry)
		m2_residency_dry_run(x, v);
	else if (err == M2_OK)
		err = m2_residency_want(s, v, &entry, x->request.uid, out, why);
	free(v);
	return err;
}

void m2_admin_load(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_tenant *t = m2_residency_find(s, x->request.model);
	struct m2_why why;
	const bool dry = (x->request.flags & M2_REQUEST_DRY_RUN) != 0;
	enum m2_err err = M2_OK;
	if (s->draining && !dry)
		err = m2_fail(M2_EDRAINING, &why, "the daemon accepts no new work");
	if (err == M2_OK && t == NULL)
		err = load_registered(x, dry, &t, &why);
	if (err != M2_OK) {
		m2_session_fail(x, err, &why);
		return;
	}
	if (dry) {
		if (t != NULL && t->state == M2_TENANT_PARKED)
			m2_residency_dry_run_parked(x, t);
		else if (t != NULL)
			answer_dry_run(x, t);
		return;
	}
	if ((x->request.flags & M2_REQUEST_PIN) != 0) {
		t->pinned = true;
		m2_residency_settle(t->engine); /* who counted on its leaving waits in vain */
	}
	if (t->state == M2_TENANT_READY)
		answer_resident(x, t);
	else
		m2_residency_wait(t, x);
}

void m2_admin_unload(struct m2_session *x)
{
	struct m2_why why;
	struct m2_tenant *t = m2_residency_find(x->s, x->request.model);
	if (t == NULL)
		m2_session_fail(x,
			m2_fail_field(
				M2_ENOENT, &why, "model", "%s is not resident", x->request.model),
			&why);
	else
		m2_residency_unload(t, x->request.wait_s, x);
}

/* The directory that relative paths in the YAML are taken from: that of the file it came from. */
static char *base_of(const char *source)
{
	char *copy = source[0] == '/' ? strdup(source) : NULL;
	char *base = copy != NULL ? strdup(dirname(copy)) : NULL;
	free(copy);
	return base;
}

void m2_admin_register(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_why why;
	const bool replace = (x->request.flags & M2_REQUEST_REPLACE) != 0;
	const char *source = x->request.source[0] != '\0' ? x->request.source : "(no file)";
	struct m2_variant *v = malloc(sizeof *v);
	char *base = base_of(x->request.source);
	const char *yaml = x->body_bytes > 0 ? x->body : "";
	const size_t length = x->request.prompt_bytes;
	enum m2_err err = v != NULL ? M2_OK : m2_fail(M2_ENOMEM, &why, "out of memory");
	if (err == M2_OK && length > M2_LIMIT_VARIANT_YAML_BYTES)
		err = m2_fail(M2_ELIMIT, &why, "%s: %zu bytes, more than %d", source, length,
			M2_LIMIT_VARIANT_YAML_BYTES);
	if (err == M2_OK)
		err = m2_variant_parse(yaml, length, source, base, v, &why);
	if (err == M2_OK)
		err = m2_store_put(s->store, v, yaml, length, x->request.source, M2_ORIGIN_MANUAL,
			x->request.uid, replace, &why);
	free(base);
	if (err != M2_OK) {
		free(v);
		m2_session_fail(x, err, &why);
		return;
	}
	m2_info("%s registered by uid %u", v->name, x->request.uid);
	struct json_object *o = m2_session_result(x);
	char checksum[65];
	m2_variant_checksum(yaml, length, checksum);
	m2_reply_string(o, "name", v->name);
	m2_reply_string(o, "checksum", checksum);
	m2_residency_review_parked(s);
	/* a resident keeps what it was loaded with until it is loaded again */
	const struct m2_tenant *t = m2_residency_find(s, v->name);
	m2_reply_bool(o, "stale",
		t != NULL && t->state != M2_TENANT_UNLOADING && strcmp(t->checksum, checksum) != 0);
	free(v);
	m2_session_end(x, o, NULL, 0);
}

void m2_admin_remove(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_store_entry entry;
	struct m2_why why;
	enum m2_err err = m2_store_get(s->store, x->request.model, NULL, &entry, &why);
	if (err == M2_EFORMAT) { /* a damaged row can be removed all the same, by its own name */
		memcpy(entry.name, x->request.model, sizeof entry.name);
		err = M2_OK;
	}
	if (err == M2_OK)
		err = m2_store_remove(s->store, entry.name, &why);
	if (err != M2_OK) {
		m2_session_fail(x, err, &why);
		return;
	}
	m2_info("%s removed by uid %u", entry.name, x->request.uid);
	struct m2_tenant *t = m2_residency_find(s, entry.name);
	if (t != NULL) {
		m2_residency_unload(t, x->request.wait_s, x);
		return;
	}
	struct json_object *o = m2_session_result(x);
	m2_reply_string(o, "name", entry.name);
	m2_reply_u64(o, "bytes", 0);
	m2_session_end(x, o, NULL, 0);
}

void m2_admin_reload(struct m2_session *x)
{
	struct m2_why why;
	struct json_object *o = m2_session_result(x);
	const enum m2_err err = m2_lifecycle_reload(x->s, x->request.uid, o, &why);
	if (err == M2_OK) {
		m2_session_end(x, o, NULL, 0);
		return;
	}
	json_object_put(o);
	m2_session_fail(x, err, &why);
}

void m2_admin_drain(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	const bool stop = (x->request.flags & M2_REQUEST_STOP_DAEMON) != 0;
	if ((x->request.flags & M2_REQUEST_RESUME) != 0) {
		struct m2_why why;
		if (stop || s->phase >= M2_PHASE_DRAINING) {
			m2_session_fail(x,
				m2_fail_field(M2_EINVAL, &why, "resume",
					"a daemon that stops does not resume"),
				&why);
			return;
		}
		m2_lifecycle_resume(s);
		struct json_object *o = m2_session_result(x);
		m2_reply_string(o, "state", "running");
		m2_session_end(x, o, NULL, 0);
		return;
	}
	x->state = M2_SESSION_WAITING;
	m2_list_append(&s->drains, &x->of_resident);
	m2_lifecycle_drain(s, x->request.wait_s, stop);
}
