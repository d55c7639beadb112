/* roles.h - the two children of the supervisor, as functions that main calls.
 *
 * main executes itself again with --role=gate or --role=worker and the number of the inherited socket;
 * each returns the process's exit status.  Both die with the supervisor (PR_SET_PDEATHSIG, and end of
 * file on the socket).
 */
#ifndef M2_DAEMON_ROLES_H
#define M2_DAEMON_ROLES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/log.h"

struct m2_gate_options {
	int fd;                  /* socket pair to the supervisor */
	const char *runtime_dir; /* holds client.sock and control.sock */
	uint32_t generation;
	uint32_t control_gid; /* group of control.sock, (uint32_t)-1: the daemon's own, mode 0600 */
	bool control_open; /* mode 0666: administrators that one group cannot name; the supervisor
				 checks every request anyway */
	uint32_t connections_per_user; /* to each endpoint, >= 1 */
};

struct m2_worker_options {
	int fd;
	const char *results_dir; /* where segments are made; exists, owned by the daemon */
	const char *backend;     /* "cpu", "ref", "cuda" */
	int32_t ordinal;
	int32_t threads;
	const char *isa;
	int64_t results_budget;   /* bytes, of all requests of this worker */
	int64_t results_per_user; /* and of one uid */
};

int m2_gate_main(const struct m2_gate_options *options);
int m2_worker_main(const struct m2_worker_options *options);

#endif
