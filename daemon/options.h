/* options.h - the command line and the environment, read once, checked, and turned into plain values.
 *
 * The only place of the daemon that looks at the environment.  Threads: one, at start.
 */
#ifndef M2_DAEMON_OPTIONS_H
#define M2_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/log.h"

enum m2_role { M2_ROLE_SUPERVISOR, M2_ROLE_GATE, M2_ROLE_WORKER };

enum { M2_OPTION_DIRS = 16 };

struct m2_options {
	enum m2_role role;
	char config[M2_LIMIT_PATH_BYTES + 1]; /* "": none found, defaults */
	bool config_given;                    /* it was named, so it must exist */
	char config_dir[M2_LIMIT_PATH_BYTES + 1];
	char runtime_dir[M2_LIMIT_PATH_BYTES + 1];
	char state_dir[M2_LIMIT_PATH_BYTES + 1];
	int n_variant_dirs;
	char variant_dirs[M2_OPTION_DIRS][M2_LIMIT_PATH_BYTES + 1];
	char log_level[8];       /* "": as configured */
	int32_t cpu_threads;     /* -1: as configured */
	char isa[16];            /* "": as configured */
	char backend[16];        /* what runs the device "cpu": cpu or ref */
	bool journal;            /* standard error is the journal */
	char notify_socket[108]; /* where systemd listens; "": it does not */
	/* what the supervisor tells its children */
	int fd;
	uint32_t generation;
	uint32_t control_gid;
	bool control_open;
	int32_t ordinal;
	int64_t results_budget;
	int64_t results_per_user;
};

/* Parses argv; --help and --version print and end the process, as argp does; a wrong option is
 * explained on standard error and is EINVAL. */
enum m2_err m2_options_parse(int argc, char **argv, struct m2_options *out, struct m2_why *why);

#endif
