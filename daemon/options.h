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

enum m2_role { M2_ROLE_SUPERVISOR, M2_ROLE_GATE, M2_ROLE_WORKER, M2_ROLE_INSPECT };

enum { M2_OPTION_DIRS = 16 };

enum m2_inspect_form { M2_INSPECT_TEXT, M2_INSPECT_JSON, M2_INSPECT_YAML };

/* --inspect PATH: what a checkpoint is, without a daemon (daemon/inspect.h).  "" and 0: not given. */
struct m2_inspect_options {
	char path[M2_LIMIT_PATH_BYTES + 1];
	enum m2_inspect_form form;
	int32_t norm_groups;
	char tokenizer[M2_LIMIT_PATH_BYTES + 1]; /* absolute, or "none" */
	/* of the variant that --yaml prints; its parser checks them */
	char name[M2_LIMIT_NAME_BYTES + 1];
	int32_t n_aliases;
	char aliases[M2_LIMIT_ALIASES][M2_LIMIT_NAME_BYTES + 1];
	int32_t slots;
	char device[16];
	char weights[16];
};

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
	int32_t connections; /* of one user to the gate; 0: not said */
	int64_t results_per_user;
	struct m2_inspect_options inspect;
};

/* Parses argv; --help and --version print and end the process, as argp does; a wrong option is
 * explained on standard error and is EINVAL. */
enum m2_err m2_options_parse(int argc, char **argv, struct m2_options *out, struct m2_why *why);

#endif
