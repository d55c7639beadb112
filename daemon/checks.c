/* checks.c - see checks.h.
 *
 * A file whose content is another one than recorded is a matter for people: it is logged once, when it
 * is found, and `show` says it until the record is replaced on purpose.
 */
#include "daemon/checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/utf8.h"
#include "daemon/reply.h"

struct m2_check {
	struct m2_link link; /* in supervisor.checks */
	struct m2_supervisor *s;
	uint64_t id;
	struct m2_engine *engine;
	uint32_t life; /* of the engine's process */
	char name[M2_LIMIT_NAME_BYTES + 1];
	char registration[65];
	struct m2_session *session; /* NULL: nobody waits */
	bool replace;
	bool failed; /* something is changed, missing or unreadable */
	struct json_object *files;
	uint64_t bytes;
	uint64_t started_ns;
};

void m2_checks_init(struct m2_supervisor *s)
{
	m2_list_init(&s->checks);
}

static void forget(struct m2_check *c)
{
	if (c->session != NULL)
		c->session->check = NULL;
	m2_list_remove(&c->link);
	json_object_put(c->files);
	free(c);
}

void m2_checks_finish(struct m2_supervisor *s)
{
	while (!m2_list_empty(&s->checks))
		forget(M2_LIST_OF(s->checks.next, struct m2_check, link));
}

static struct m2_check *find(struct m2_engine *worker, uint64_t id)
{
	M2_LIST_EACH(&worker->s->checks, at)
	{
		struct m2_check *c = M2_LIST_OF(at, struct m2_check, link);
		if (c->id == id && c->engine == worker && c->life == worker->child.life)
			return c;
	}
	return NULL;
}

/* ---- the beginning ------------------------------------------------------------------------------ */

/* What is recorded, behind the variant: the body of the packet.  malloc'd. */
static enum m2_err make_body(struct m2_supervisor *s, const struct m2_variant *v,
	unsigned char **out, uint32_t *n_known, struct m2_why *why)
{
	struct m2_store_file *files = NULL;
	size_t count = 0;
	const enum m2_err err = m2_store_files(s->store, v->name, &files, &count, why);
	if (err != M2_OK)
		return err;
	if (count > M2_IPC_KNOWN_MAX)
		count = M2_IPC_KNOWN_MAX; /* no checkpoint has so many: the rest counts as new */
	unsigned char *body = calloc(1, sizeof *v + count * sizeof(struct m2_ipc_file));
	if (body == NULL) {
		free(files);
		return m2_fail(M2_ENOMEM, why, "out of memory");
	}
	memcpy(body, v, sizeof *v);
	for (size_t i = 0; i < count; i++) {
		struct m2_ipc_file known = {.bytes = files[i].bytes, .mtime_ns = files[i].mtime_ns};
		memcpy(known.path, files[i].path, sizeof known.path);
		memcpy(body + sizeof *v + i * sizeof known, &known, sizeof known);
	}
	free(files);
	*out = body;
	*n_known = (uint32_t)count;
	return M2_OK;
}

_Static_assert((int)M2_STORE_FILE_PATH == (int)M2_IPC_FILE_PATH, "paths are copied whole");

/* Begin a check; session NULL: in the background, ends with the load `model`. */
static enum m2_err begin(struct m2_engine *engine, const struct m2_variant *v,
	const char *registration, struct m2_session *session, uint32_t model, struct m2_why *why)
{
	struct m2_supervisor *s = engine->s;
	struct m2_ipc_check packet = {.model = model, .every = session != NULL};
	unsigned char *body = NULL;
	struct m2_check *c = calloc(1, sizeof *c);
	if (c == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	const enum m2_err err = make_body(s, v, &body, &packet.n_known, why);
	if (err != M2_OK) {
		free(c);
		return err;
	}
	c->s = s;
	c->id = packet.check = ++s->next_check;
	c->engine = engine;
	c->life = engine->child.life;
	memcpy(c->name, v->name, sizeof c->name);
	memcpy(c->registration, registration, sizeof c->registration);
	c->files = json_object_new_array();
	if (c->files == NULL) {
		free(body);
		free(c);
		return m2_fail(M2_ENOMEM, why, "out of memory");
	}
	c->started_ns = m2_loop_now();
	const bool sent = m2_child_send(&engine->child, M2_IPC_CHECK, &packet, body,
		sizeof *v + packet.n_known * sizeof(struct m2_ipc_file));
	free(body);
	if (!sent) {
		json_object_put(c->files);
		free(c);
		return m2_fail(M2_EWORKER, why,
			"the process that would read the files is being started again: try again");
	}
	m2_list_append(&s->checks, &c->link);
	c->session = session;
	if (session != NULL) {
		c->replace = (session->request.flags & M2_REQUEST_REPLACE) != 0;
		session->check = c;
	}
	return M2_OK;
}

void m2_checks_loaded(struct m2_tenant *t)
{
	struct m2_why why;
	const enum m2_err err = begin(t->engine, &t->variant, t->checksum, NULL, t->handle, &why);
	if (err != M2_OK && err != M2_ENOENT) /* removed meanwhile: nothing to record */
		m2_warn("%s: checksums are not recorded: %s", t->variant.name, why.text);
}

/* The worker that has it, or the cpu's: files need no device. */
static enum m2_err find_engine(struct m2_supervisor *s, const struct m2_variant *v,
	struct m2_engine **out, struct m2_why *why)
{
	const struct m2_tenant *t = m2_residency_find(s, v->name);
	if (t != NULL && t->engine->child.ready) {
		*out = t->engine;
		return M2_OK;
	}
	struct m2_variant *any = malloc(sizeof *any);
	if (any == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	*any = *v;
	any->device = M2_DEVICE_CPU;
	const enum m2_err err = m2_engine_for(s, any, out, why);
	free(any);
	return err;
}

void m2_checks_verify(struct m2_session *x)
{
	struct m2_supervisor *s = x->s;
	struct m2_store_entry entry;
	struct m2_engine *engine;
	struct m2_why why;
	struct m2_variant *v = malloc(sizeof *v);
	enum m2_err err = v == NULL ? m2_fail(M2_ENOMEM, &why, "out of memory")
				    : m2_store_get(s->store, x->request.model, v, &entry, &why);
	if (err == M2_OK && s->draining)
		err = m2_fail(M2_EDRAINING, &why, "the daemon accepts no new work");
	if (err == M2_OK)
		err = find_engine(s, v, &engine, &why);
	if (err == M2_OK && !m2_process_attach(s, x))
		err = m2_fail(M2_ECANCELED, &why, "the process that asked has ended");
	if (err == M2_OK)
		err = begin(engine, v, entry.checksum, x, 0, &why);
	free(v);
	if (err != M2_OK) {
		m2_session_fail(x, err, &why);
		return;
	}
	x->state = M2_SESSION_WAITING;
	x->counted =
		true; /* a drain waits for it, ps shows it, cancel and its client's end stop it */
	x->user->running++;
}

void m2_check_session_left(struct m2_check *c)
{
	c->session->check = NULL;
	c->session = NULL;
	const struct m2_ipc_cancel cancel = {.request = c->id};
	if (c->life == c->engine->child.life)
		(void)m2_child_send(&c->engine->child, M2_IPC_CHECK_CANCEL, &cancel, NULL, 0);
}

/* ---- what is found ------------------------------------------------------------------------------ */

/* File names are bytes; JSON is not. */
static void put_text(struct json_object *o, const char *name, const char *text)
{
	m2_reply_string(
		o, name, m2_utf8_valid(text, strlen(text)) ? text : "(a name that is not UTF-8)");
}

/* A file that was read. */
static void was_read(struct m2_check *c, const struct m2_ipc_checked *p, struct json_object *o)
{
	struct m2_why why;
	struct m2_store_file look = {.bytes = p->file.bytes, .mtime_ns = p->file.mtime_ns};
	enum m2_store_seen seen = M2_STORE_FILE_NEW;
	memcpy(look.path, p->file.path, sizeof look.path);
	memcpy(look.found, p->sha256, sizeof look.found);
	const enum m2_err err = m2_store_file_look(
		c->s->store, c->name, c->registration, &look, c->replace, &seen, &why);
	m2_reply_string(o, "sha256", look.found);
	if (err != M2_OK) { /* registered anew or removed meanwhile, or the disk is full */
		c->failed = true;
		m2_reply_string(o, "state", "unreadable");
		put_text(o, "message", why.text);
		if (err != M2_ENOENT)
			m2_warn("%s: a checksum is not recorded: %s", c->name, why.text);
		return;
	}
	m2_reply_string(o, "state",
		seen == M2_STORE_FILE_CHANGED ? "changed"
		: seen == M2_STORE_FILE_NEW   ? "recorded"
					      : "ok");
	if (seen != M2_STORE_FILE_CHANGED)
		return;
	m2_reply_string(o, "recorded", look.sha256);
	m2_reply_int(o, "recorded_at", look.recorded_at);
	c->failed = c->failed || !c->replace;
	m2_log(c->replace ? M2_LOG_INFO : M2_LOG_WARN,
		"%s: %s is not what was recorded: its SHA-256 is %s%s", c->name, look.path,
		look.found, c->replace ? ", and is recorded now" : "");
}

static void was_not_read(struct m2_check *c, const struct m2_ipc_checked *p, struct json_object *o)
{
	const enum m2_err err = m2_err_from_number((long)p->err);
	struct m2_why why = p->why;
	why.text[sizeof why.text - 1] = '\0';
	m2_reply_string(o, "state", err == M2_ENOENT ? "missing" : "unreadable");
	put_text(o, "message", why.text);
	if (err == M2_ENOENT && c->replace)
		(void)m2_store_file_forget(
			c->s->store, c->name, c->registration, p->file.path, NULL);
	else
		c->failed = true;
	m2_warn("%s: no checksum: %s", c->name, why.text);
}

void m2_checks_file(struct m2_engine *worker, const struct m2_ipc_checked *checked)
{
	struct m2_check *c = find(worker, checked->check);
	if (c == NULL)
		return;
	struct m2_ipc_checked p = *checked;
	p.file.path[sizeof p.file.path - 1] = '\0';
	p.sha256[64] = '\0';
	if (p.file.bytes > INT64_MAX || (p.err == M2_OK && strlen(p.sha256) != 64))
		return; /* no worker of ours says that */
	struct json_object *o = json_object_new_object();
	put_text(o, "path", p.file.path);
	m2_reply_u64(o, "bytes", p.file.bytes);
	if (p.err == M2_OK)
		was_read(c, &p, o);
	else
		was_not_read(c, &p, o);
	c->bytes += p.file.bytes;
	m2_reply_append(c->files, o);
}

void m2_checks_progress(struct m2_engine *worker, const struct m2_ipc_check_progress *progress)
{
	struct m2_check *c = find(worker, progress->check);
	if (c == NULL || c->session == NULL)
		return;
	const size_t length = strnlen(progress->what, sizeof progress->what - 1);
	char what[sizeof progress->what];
	memcpy(what, progress->what, length);
	what[length] = '\0';
	struct json_object *o = m2_reply_new(&c->session->request, "progress");
	m2_reply_u64(o, "done", progress->done);
	m2_reply_u64(o, "total", progress->total);
	m2_reply_string(o, "what", m2_utf8_valid(what, length) ? what : "reading files");
	m2_session_send(c->session, o, NULL, 0);
}

/* ---- the end ------------------------------------------------------------------------------------ */

static void answer(struct m2_check *c, enum m2_err err, const struct m2_why *why)
{
	struct m2_session *x = c->session;
	struct json_object *o = m2_session_result(x);
	const double seconds = (double)(m2_loop_now() - c->started_ns) / 1e9;
	m2_reply_string(o, "name", c->name);
	m2_reply_string(o, "state", c->failed || err != M2_OK ? "failed" : "ok");
	m2_reply_add(o, "files", json_object_get(c->files));
	m2_reply_u64(o, "bytes", c->bytes);
	m2_reply_seconds(o, "seconds", (float)seconds);
	if (err != M2_OK)
		m2_reply_add(o, "error", m2_reply_error_object(err, why));
	m2_info("%s: %zu files verified, %llu bytes in %.1f s: %s", c->name,
		json_object_array_length(c->files), (unsigned long long)c->bytes, seconds,
		c->failed || err != M2_OK ? "not as recorded" : "as recorded");
	x->check = NULL;
	c->session = NULL;
	m2_session_end(x, o, NULL, 0);
}

void m2_checks_ended(struct m2_engine *worker, const struct m2_ipc_check_ended *ended)
{
	struct m2_check *c = find(worker, ended->check);
	if (c == NULL)
		return;
	const enum m2_err err = m2_err_from_number((long)ended->err);
	struct m2_why why = ended->why;
	why.field[sizeof why.field - 1] = why.text[sizeof why.text - 1] = '\0';
	if (c->session != NULL && json_object_array_length(c->files) == 0 && err != M2_OK) {
		struct m2_session *x = c->session;
		x->check = NULL;
		c->session = NULL;
		m2_session_fail(x, err, &why);
	} else if (c->session != NULL) {
		answer(c, err, &why);
	} else if (err != M2_OK && err != M2_ECANCELED) {
		m2_warn("%s: checksums: %s", c->name, why.text);
	}
	forget(c);
}

void m2_checks_worker_ended(struct m2_engine *worker)
{
	struct m2_why why;
	(void)m2_fail(M2_EWORKER, &why, "the process that read the files ended: send it again");
	M2_LIST_EACH(&worker->s->checks, at)
	{
		struct m2_check *c = M2_LIST_OF(at, struct m2_check, link);
		if (c->engine != worker)
			continue;
		struct m2_session *x = c->session;
		if (x != NULL)
			x->check = NULL;
		c->session = NULL;
		if (x != NULL)
			m2_session_fail(x, M2_EWORKER, &why);
		forget(c);
	}
}

/* ---- show --------------------------------------------------------------------------------------- */

void m2_checks_put_files(struct m2_supervisor *s, const char *name, struct json_object *o)
{
	struct m2_store_file *files;
	size_t count;
	struct m2_why why;
	struct json_object *array = json_object_new_array();
	m2_reply_add(o, "files", array);
	if (m2_store_files(s->store, name, &files, &count, &why) != M2_OK) {
		m2_warn("%s: checksums: %s", name, why.text);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		const struct m2_store_file *f = &files[i];
		const bool changed = strcmp(f->sha256, f->found) != 0;
		struct json_object *one = json_object_new_object();
		put_text(one, "path", f->path);
		m2_reply_u64(one, "bytes", f->bytes);
		m2_reply_string(one, "sha256", f->sha256);
		m2_reply_int(one, "recorded_at", f->recorded_at);
		m2_reply_int(one, "checked_at", f->checked_at);
		m2_reply_string(one, "state", changed ? "changed" : "ok");
		if (changed)
			m2_reply_string(one, "found", f->found);
		m2_reply_append(array, one);
	}
	free(files);
}
