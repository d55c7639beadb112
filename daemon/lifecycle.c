/* lifecycle.c - see lifecycle.h.
 *
 *   running -> draining (no new work) -> [limit: cancel what runs] -> drained
 *                 ^ resume                                            `-> stopping -> the loop ends
 *
 * Stopping asks the children to end and waits for their exit, which the loop sees as SIGCHLD; whoever
 * does not is killed.  A second SIGTERM or SIGINT skips all waiting.
 */
#include "daemon/lifecycle.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/results.h"
#include "daemon/engines.h"
#include "daemon/notify.h"
#include "daemon/reply.h"
#include "daemon/residency.h"
#include "daemon/sessions.h"
#include "daemon/who.h"

#define SECOND       UINT64_C(1000000000)
#define STOP_GRACE   (5 * SECOND) /* from "end" to kill */
#define CANCEL_GRACE (2 * SECOND) /* from cancelling the rest to stopping without it */

enum { WAIT_DEFAULT_S = 30 };

/* ---- configuration ------------------------------------------------------------------------------ */

/* Who may open the control socket at all: one group can be its owner, more need it open to all, and
 * the supervisor refuses each message of a stranger. */
static void choose_control_mode(struct m2_supervisor *s)
{
	const struct m2_daemon_config *c = &s->config;
	s->control_gid = (uint32_t)-1;
	s->control_open = c->n_admin_users > 0 || c->n_admin_groups > 1;
	if (s->control_open || c->n_admin_groups == 0)
		return;
	const struct group *group = getgrnam(c->admin_groups[0]);
	char *end;
	const unsigned long number = strtoul(c->admin_groups[0], &end, 10);
	if (group != NULL)
		s->control_gid = group->gr_gid;
	else if (*end == '\0' && end != c->admin_groups[0])
		s->control_gid = (uint32_t)number;
	else
		m2_warn("there is no group \"%s\" (admin.groups)", c->admin_groups[0]);
}

static void add_variant_dirs(struct m2_supervisor *s)
{
	const struct m2_options *o = s->options;
	struct m2_daemon_config *c = &s->config;
	const int most = (int)(sizeof c->variant_dirs / sizeof c->variant_dirs[0]);
	/* nothing said anywhere: the configuration directory's own */
	if (c->n_variant_dirs == 0 && o->n_variant_dirs == 0) {
		(void)snprintf(c->variant_dirs[0], sizeof c->variant_dirs[0], "%.1000s/variants",
			o->config_dir);
		if (access(c->variant_dirs[0], F_OK) == 0)
			c->n_variant_dirs = 1;
	}
	for (int i = 0; i < o->n_variant_dirs; i++) {
		if (c->n_variant_dirs == most) {
			m2_warn("more than %d variant directories: %s is left out", most,
				o->variant_dirs[i]);
			continue;
		}
		memcpy(c->variant_dirs[c->n_variant_dirs++], o->variant_dirs[i],
			sizeof c->variant_dirs[0]);
	}
}

enum m2_err m2_lifecycle_configure(struct m2_supervisor *s, struct m2_why *why)
{
	const struct m2_options *o = s->options;
	struct m2_daemon_config *fresh = malloc(sizeof *fresh);
	enum m2_log_level level = M2_LOG_INFO;
	enum m2_err err = M2_OK;
	if (fresh == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	m2_daemon_config_init(fresh);
	if (o->config[0] != '\0')
		err = m2_daemon_config_read(o->config, fresh, why);
	if (err == M2_OK)
		s->config = *fresh;
	free(fresh);
	if (err != M2_OK)
		return err;
	(void)m2_log_level_parse(
		o->log_level[0] != '\0' ? o->log_level : s->config.log_level, &level);
	m2_log_init("supervisor", level, o->journal);
	choose_control_mode(s);
	add_variant_dirs(s);
	return M2_OK;
}

/* ---- variants ----------------------------------------------------------------------------------- */

static void report_problem(void *ctx, const struct m2_why *why)
{
	struct json_object *problems = ctx;
	m2_warn("%s", why->text);
	if (problems != NULL)
		m2_reply_append(problems, json_object_new_string(why->text));
}

void m2_lifecycle_scan(struct m2_supervisor *s, uint32_t by, struct json_object *o)
{
	struct m2_scan_counts sum = {0};
	struct json_object *problems = o != NULL ? json_object_new_array() : NULL;
	for (int i = 0; i < s->config.n_variant_dirs; i++) {
		struct m2_scan_counts one = {0};
		struct m2_why why;
		if (m2_store_scan(s->store, s->config.variant_dirs[i], by, report_problem, problems,
			    &one, &why) != M2_OK)
			report_problem(problems, &why);
		sum.added += one.added;
		sum.changed += one.changed;
		sum.removed += one.removed;
		sum.unchanged += one.unchanged;
		sum.failed += one.failed;
	}
	m2_info("variants: %d added, %d changed, %d removed, %d unchanged, %d with problems",
		sum.added, sum.changed, sum.removed, sum.unchanged, sum.failed);
	if (o == NULL)
		return;
	m2_reply_int(o, "added", sum.added);
	m2_reply_int(o, "changed", sum.changed);
	m2_reply_int(o, "removed", sum.removed);
	m2_reply_int(o, "unchanged", sum.unchanged);
	m2_reply_int(o, "failed", sum.failed);
	m2_reply_add(o, "problems", problems);
}

static bool preload_one(void *ctx, const struct m2_variant *v, const struct m2_store_entry *entry)
{
	struct m2_supervisor *s = ctx;
	struct m2_tenant *t;
	struct m2_why why;
	if (!v->preload || m2_residency_find(s, v->name) != NULL)
		return true;
	if (m2_residency_want(s, v, entry, (uint32_t)getuid(), &t, &why) != M2_OK) {
		m2_error("variant %s: %s", v->name, why.text);
		return true;
	}
	t->preload = t->standing = true;
	s->preloads++;
	return true;
}

void m2_lifecycle_preload(struct m2_supervisor *s)
{
	struct m2_why why;
	if (m2_store_each(s->store, preload_one, s, &why) != M2_OK)
		m2_error("registry: %s", why.text);
	m2_residency_settle_all(s);
}

/* Residents whose registration is another now, or gone. */
static void put_stale(struct m2_supervisor *s, struct json_object *o)
{
	struct json_object *stale = json_object_new_array();
	M2_LIST_EACH(&s->residents, at)
	{
		const struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		struct m2_store_entry entry;
		struct m2_why why;
		if (t->state == M2_TENANT_UNLOADING)
			continue;
		if (m2_store_get(s->store, t->variant.name, NULL, &entry, &why) == M2_OK &&
			strcmp(entry.checksum, t->checksum) == 0)
			continue;
		m2_warn("%s stays resident as it was loaded; its registration has changed",
			t->variant.name);
		m2_reply_append(stale, json_object_new_string(t->variant.name));
	}
	m2_reply_add(o, "stale", stale);
}

enum m2_err m2_lifecycle_reload(
	struct m2_supervisor *s, uint32_t by, struct json_object *o, struct m2_why *why)
{
	const uint32_t gid = s->control_gid;
	const bool open = s->control_open;
	struct json_object *scratch = o == NULL ? json_object_new_object() : NULL;
	m2_notify_reloading(s);
	const enum m2_err err = m2_lifecycle_configure(s, why);
	if (err == M2_OK) {
		m2_who_forget(s);
		m2_engines_retry(s);
		m2_lifecycle_scan(s, by, o != NULL ? o : scratch);
		m2_residency_review_parked(s);
		put_stale(s, o != NULL ? o : scratch);
		m2_lifecycle_preload(s);
		/* the gate sets the mode when it binds; it is back within milliseconds */
		if (gid != s->control_gid || open != s->control_open)
			m2_child_kill(&s->gate, "the control socket's group changed");
	} else {
		m2_error("configuration unchanged: %s", why->text);
	}
	json_object_put(scratch);
	m2_notify_reloaded(s);
	return err;
}

/* ---- drain and stop ----------------------------------------------------------------------------- */

uint32_t m2_lifecycle_running(const struct m2_supervisor *s)
{
	uint32_t n = 0;
	M2_LIST_EACH(&s->live, at)
	n += M2_LIST_OF(at, struct m2_session, of_state)->counted ? 1 : 0;
	return n;
}

static void answer_drains(struct m2_supervisor *s)
{
	while (!m2_list_empty(&s->drains)) {
		struct m2_session *x = M2_LIST_OF(s->drains.next, struct m2_session, of_resident);
		struct json_object *o = m2_session_result(x);
		m2_reply_string(o, "state",
			s->phase >= M2_PHASE_DRAINING ? "stopping"
			: s->draining                 ? "drained"
						      : "running");
		m2_reply_u64(o, "running", m2_lifecycle_running(s));
		m2_session_end(x, o, NULL, 0);
	}
}

static bool children_left(const struct m2_supervisor *s)
{
	M2_LIST_EACH(&s->workers, at)
	if (M2_LIST_OF(at, struct m2_engine, link)->child.pid > 0)
		return true;
	return s->gate.pid > 0;
}

static void stop_children(struct m2_supervisor *s, uint64_t grace_ns)
{
	s->phase = M2_PHASE_STOPPING;
	m2_notify_state(s);
	M2_LIST_EACH(&s->workers, at)
	m2_child_stop(&M2_LIST_OF(at, struct m2_engine, link)->child, M2_IPC_STOP, grace_ns);
	m2_child_stop(&s->gate, M2_IPC_GATE_STOP, grace_ns);
	s->loop.stop = !children_left(s);
}

static void cancel_all(struct m2_supervisor *s)
{
	s->drain_cancelled = true;
	/* a session that waits ends inside the call and leaves the list: begin anew each time */
	for (bool again = true; again;) {
		again = false;
		M2_LIST_EACH(&s->live, at)
		{
			struct m2_session *x = M2_LIST_OF(at, struct m2_session, of_state);
			if (!x->counted || x->cancelled)
				continue;
			m2_session_cancel(x, M2_FINISH_CANCELLED);
			again = true;
			break;
		}
	}
}

/* The drain's timer: the work is done, or its time is over. */
static void on_drain(void *ctx)
{
	struct m2_supervisor *s = ctx;
	if (s->phase == M2_PHASE_STOPPING || !s->draining)
		return;
	const uint32_t running = m2_lifecycle_running(s);
	if (running > 0 && !s->drain_cancelled) {
		m2_warn("%u requests did not finish in time and are cancelled", running);
		cancel_all(s);
		m2_loop_set_timer(&s->loop, &s->drain_limit, m2_loop_now() + CANCEL_GRACE);
		return;
	}
	answer_drains(s);
	if (s->phase == M2_PHASE_DRAINING)
		stop_children(s, STOP_GRACE);
}

void m2_lifecycle_check(struct m2_supervisor *s)
{
	/* not here: the caller may be walking through the sessions */
	if (s->draining && s->phase != M2_PHASE_STOPPING && m2_lifecycle_running(s) == 0)
		m2_loop_set_timer(&s->loop, &s->drain_limit, m2_loop_now());
}

void m2_lifecycle_drain(struct m2_supervisor *s, int64_t wait_s, bool stop)
{
	if (wait_s < 0)
		wait_s = stop ? s->config.drain_timeout_s : WAIT_DEFAULT_S;
	s->draining = true;
	s->drain_cancelled = false;
	s->drain_limit.fn = on_drain;
	s->drain_limit.ctx = s;
	if (stop && s->phase < M2_PHASE_DRAINING) {
		s->phase = M2_PHASE_DRAINING;
		m2_notify_stopping(s);
	}
	m2_info("draining: %u requests are under way", m2_lifecycle_running(s));
	m2_loop_set_timer(&s->loop, &s->drain_limit, m2_loop_now() + (uint64_t)wait_s * SECOND);
	m2_notify_state(s);
	m2_lifecycle_check(s);
}

void m2_lifecycle_resume(struct m2_supervisor *s)
{
	s->draining = false;
	m2_loop_clear_timer(&s->loop, &s->drain_limit);
	answer_drains(s);
	m2_info("accepting work again");
	m2_notify_state(s);
}

/* ---- signals ------------------------------------------------------------------------------------ */

static void reap(struct m2_supervisor *s)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == s->gate.pid)
			m2_child_reaped(&s->gate, status);
		M2_LIST_EACH(&s->workers, at)
		{
			struct m2_child *c = &M2_LIST_OF(at, struct m2_engine, link)->child;
			if (pid == c->pid)
				m2_child_reaped(c, status);
		}
	}
	if (s->phase == M2_PHASE_STOPPING && !children_left(s))
		s->loop.stop = true;
}

static void terminate(struct m2_supervisor *s)
{
	if (s->phase == M2_PHASE_STOPPING || s->phase == M2_PHASE_DRAINING) {
		m2_warn("told to stop again: stopping at once");
		stop_children(s, 0);
		return;
	}
	m2_info("stopping");
	m2_lifecycle_drain(s, -1, true);
}

static void on_signal(void *ctx, uint32_t events)
{
	struct m2_supervisor *s = ctx;
	struct signalfd_siginfo info;
	struct m2_why why;
	(void)events;
	if (read(s->signals.fd, &info, sizeof info) != (ssize_t)sizeof info)
		return;
	switch (info.ssi_signo) {
	case SIGCHLD:
		reap(s);
		break;
	case SIGHUP:
		m2_info("reading configuration and variants again");
		(void)m2_lifecycle_reload(s, (uint32_t)getuid(), NULL, &why);
		break;
	default:
		terminate(s);
		break;
	}
}

enum m2_err m2_lifecycle_init(struct m2_supervisor *s, struct m2_why *why)
{
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return m2_fail(M2_EIO, why, "signals: %s", strerror(errno));
	const int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return m2_fail(M2_EIO, why, "signalfd: %s", strerror(errno));
	s->signals = (struct m2_watch){.fn = on_signal, .ctx = s};
	return m2_loop_add(&s->loop, &s->signals, fd, EPOLLIN, why);
}

void m2_lifecycle_finish(struct m2_supervisor *s)
{
	if (s->signals.fn == NULL)
		return;
	const int fd = s->signals.fd;
	m2_loop_remove(&s->loop, &s->signals);
	(void)close(fd);
}
