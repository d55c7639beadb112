/* supervisor.c - build up, wait, tear down; see supervisor.h for the rooms. */
#include "daemon/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "daemon/checks.h"
#include "daemon/dispatch.h"
#include "daemon/engines.h"
#include "daemon/inform.h"
#include "daemon/lifecycle.h"
#include "daemon/notify.h"
#include "daemon/residency.h"
#include "daemon/runtime.h"
#include "daemon/sessions.h"
#include "daemon/users.h"
#include "daemon/who.h"

/* ---- the gate as a child ------------------------------------------------------------------------ */

static void gate_arguments(void *ctx, struct m2_arguments *args)
{
	struct m2_supervisor *s = ctx;
	const struct m2_options *o = s->options;
	m2_arguments_add(args, "--role=gate");
	m2_arguments_add(args, "--fd=%d", M2_CHILD_FD);
	m2_arguments_add(args, "--runtime-dir=%s", o->runtime_dir);
	m2_arguments_add(args, "--generation=%u", s->gate.life);
	m2_arguments_add(args, "--control-gid=%u", s->control_gid);
	if (s->control_open)
		m2_arguments_add(args, "--control-open");
	m2_arguments_add(args, "--connections=%d", s->config.connections_per_user);
	m2_arguments_add(args, "--log-level=%s",
		o->log_level[0] != '\0' ? o->log_level : s->config.log_level);
}

static enum m2_err gate_packet(void *ctx, const struct m2_ipc_packet *packet, struct m2_why *why)
{
	return m2_dispatch_packet(ctx, packet, why);
}

static void gate_ended(void *ctx)
{
	struct m2_supervisor *s = ctx;
	s->gate_spoke = true;
	m2_notify_state(s);
}

/* It says once a second that its loop turns.  Two looks in a row without a word: it hangs.  One is not
 * enough: what it said meanwhile may lie unread, when it was we who were held up. */
static void on_gate_watch(void *ctx)
{
	struct m2_supervisor *s = ctx;
	const uint64_t half = (uint64_t)s->config.step_timeout_s * UINT64_C(500000000);
	const bool silent = !s->gate_spoke && s->gate.pid > 0;
	if (silent && s->gate_silent) {
		char why[64];
		(void)snprintf(
			why, sizeof why, "it has been silent for %d s", s->config.step_timeout_s);
		m2_child_kill(&s->gate, why);
	}
	s->gate_silent = silent && !s->gate_silent;
	s->gate_spoke = false;
	m2_loop_set_timer(&s->loop, &s->gate_watch,
		m2_loop_now() + (half > UINT64_C(1500000000) ? half : UINT64_C(1500000000)));
}

static void start_gate(struct m2_supervisor *s)
{
	s->gate = (struct m2_child){.name = "gate",
		.loop = &s->loop,
		.side = M2_IPC_GATE,
		.ctx = s,
		.arguments = gate_arguments,
		.packet = gate_packet,
		.ended = gate_ended,
		/* it holds nothing and starts in milliseconds, and whoever can make it crash must
		 * not keep the others out for long */
		.pause_most_ns = 200 * UINT64_C(1000000)};
	m2_child_start(&s->gate);
	s->gate_watch = (struct m2_timer){.fn = on_gate_watch, .ctx = s};
	on_gate_watch(s);
}

/* ---- up and down -------------------------------------------------------------------------------- */

/* A pidfd per client process, a socket per child: more than the usual 1024. */
static void raise_limits(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
}

/* The cpu's worker runs from the start: its first load should not wait for it. */
static enum m2_err start_cpu(struct m2_supervisor *s, struct m2_why *why)
{
	struct m2_engine *engine;
	struct m2_variant *any = malloc(sizeof *any);
	if (any == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	m2_variant_init(any);
	any->device = M2_DEVICE_CPU;
	const enum m2_err err = m2_engine_for(s, any, &engine, why);
	free(any);
	return err;
}

static enum m2_err open_registry(struct m2_supervisor *s, struct m2_why *why)
{
	char path[M2_LIMIT_PATH_BYTES + 32];
	const enum m2_err err = m2_runtime_state(s, why);
	if (err != M2_OK)
		return err;
	(void)snprintf(path, sizeof path, "%s/registry.sqlite", s->options->state_dir);
	return m2_store_open(path, &s->store, why);
}

static enum m2_err build_up(struct m2_supervisor *s, struct m2_why *why)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	s->started_at = now.tv_sec;
	s->started_ns = m2_loop_now();
	raise_limits();
	m2_list_init(&s->workers);
	m2_sessions_init(s);
	m2_residency_init(s);
	m2_checks_init(s);
	m2_inform_init(s);
	enum m2_err err = m2_loop_init(&s->loop, why);
	if (err == M2_OK)
		err = m2_who_init(s, why);
	if (err == M2_OK && (s->accounts = m2_users_create()) == NULL)
		err = m2_fail(M2_ENOMEM, why, "out of memory");
	if (err == M2_OK)
		err = m2_lifecycle_configure(s, why);
	if (err == M2_OK)
		err = m2_runtime_open(s, why);
	if (err == M2_OK)
		err = m2_lifecycle_init(s, why);
	if (err == M2_OK)
		err = open_registry(s, why);
	if (err != M2_OK)
		return err;
	m2_notify_init(s);
	start_gate(s);
	m2_lifecycle_scan(s, (uint32_t)getuid(), NULL);
	err = start_cpu(s, why);
	if (err == M2_OK)
		m2_lifecycle_preload(s);
	return err;
}

static void tear_down(struct m2_supervisor *s)
{
	if (s->loop.epoll <= 0)
		return;
	m2_lifecycle_finish(s);
	m2_checks_finish(s);
	m2_sessions_finish(s);
	m2_residency_finish(s);
	m2_engines_finish(s);
	m2_store_close(&s->store);
	m2_users_destroy(&s->accounts);
	m2_who_finish(s);
	m2_runtime_close(s);
	m2_loop_finish(&s->loop);
}

int m2_supervisor_main(const struct m2_options *options)
{
	struct m2_why why = {.text = ""};
	struct m2_supervisor *s = calloc(1, sizeof *s);
	if (s == NULL) {
		m2_error("out of memory");
		return 1;
	}
	s->options = options;
	(void)prctl(PR_SET_NAME, "mamba2d");
	enum m2_err err = build_up(s, &why);
	if (err == M2_OK)
		err = m2_loop_run(&s->loop, &why);
	if (err != M2_OK)
		m2_error("%s", why.text);
	tear_down(s);
	free(s);
	if (err == M2_OK)
		m2_info("stopped");
	return err == M2_OK ? 0 : 1;
}
