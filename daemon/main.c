/* main.c - the table of contents: read the options, then be one of three processes - or none of them.
 *
 *   supervisor   daemon/supervisor.h   what a person or systemd starts
 *   gate         daemon/gate.c         the ZeroMQ sockets
 *   worker       daemon/worker.c       one device, its models, the step loop
 *   inspect      daemon/inspect.c      no daemon: says what a checkpoint is, and ends
 */
#include <stdio.h>

#include "common/log.h"
#include "daemon/inspect.h"
#include "daemon/options.h"
#include "daemon/roles.h"
#include "daemon/supervisor.h"

static int run_gate(const struct m2_options *o)
{
	const struct m2_gate_options gate = {.fd = o->fd,
		.runtime_dir = o->runtime_dir,
		.generation = o->generation,
		.control_gid = o->control_gid,
		.control_open = o->control_open,
		.connections_per_user =
			(uint32_t)(o->connections > 0 ? o->connections : INT32_MAX)};
	return m2_gate_main(&gate);
}

static int run_worker(const struct m2_options *o)
{
	char results[M2_LIMIT_PATH_BYTES + 16];
	(void)snprintf(results, sizeof results, "%s/results", o->runtime_dir);
	const struct m2_worker_options worker = {.fd = o->fd,
		.results_dir = results,
		.backend = o->backend,
		.ordinal = o->ordinal,
		.threads = o->cpu_threads > 0 ? o->cpu_threads : 0,
		.isa = o->isa[0] != '\0' ? o->isa : "auto",
		.results_budget = o->results_budget,
		.results_per_user = o->results_per_user};
	return m2_worker_main(&worker);
}

int main(int argc, char **argv)
{
	static struct m2_options options;
	static const char *const roles[] = {"supervisor", "gate", "worker", "inspect"};
	struct m2_why why = {.text = ""};
	enum m2_log_level level = M2_LOG_INFO;

	if (m2_options_parse(argc, argv, &options, &why) != M2_OK) {
		(void)fprintf(stderr, "mamba2d: %s\n", why.text);
		return 2;
	}
	if (options.role == M2_ROLE_INSPECT)
		level = M2_LOG_WARN; /* what it has to say is its output */
	(void)m2_log_level_parse(options.log_level, &level);
	m2_log_init(roles[options.role], level, options.journal);

	switch (options.role) {
	case M2_ROLE_GATE:
		return run_gate(&options);
	case M2_ROLE_WORKER:
		return run_worker(&options);
	case M2_ROLE_INSPECT:
		return m2_inspect_run(&options.inspect, stdout);
	case M2_ROLE_SUPERVISOR:
		break;
	}
	return m2_supervisor_main(&options);
}
