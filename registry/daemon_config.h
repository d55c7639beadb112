/* daemon_config.h - the daemon's own configuration: one YAML file, checked by one table of keys.
 *
 * Parsed by the same table engine as a variant (registry/yaml_table.h); the table is
 * daemon_keys.def, which also generates configs/mamba2d.yaml.  Every key has a default, so no file
 * at all is a valid configuration.  Threads: no shared state.
 */
#ifndef M2_REGISTRY_DAEMON_CONFIG_H
#define M2_REGISTRY_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"

enum { M2_CONFIG_BUDGETS = 32, M2_CONFIG_BUDGET_BYTES = 40, M2_CONFIG_AMOUNT_BYTES = 24 };

/* What one entry of `users` says.  M2_USER_DEFAULT: nothing. */
enum { M2_CONFIG_USERS = 256, M2_USER_DEFAULT = -1 };
struct m2_user_limits {
	char name[34]; /* a user's name or number, or "@" and a group's */
	int32_t weight;
	int32_t slots;
	int32_t requests;
	int32_t tokens_per_minute;
	int64_t state_bytes;
};

struct m2_daemon_config {
	/* who may use the control endpoint, besides root and the daemon's own user */
	int32_t n_admin_users;
	char admin_users[M2_LIMIT_ACCESS_ENTRIES][33];
	int32_t n_admin_groups;
	char admin_groups[M2_LIMIT_ACCESS_ENTRIES][33];
	/* who may use the client endpoint at all; both empty: every local user */
	int32_t n_client_users;
	char client_users[M2_LIMIT_ACCESS_ENTRIES][33];
	int32_t n_client_groups;
	char client_groups[M2_LIMIT_ACCESS_ENTRIES][33];

	int32_t n_variant_dirs; /* directories of *.yaml scanned at start and on reload, absolute */
	char variant_dirs[16][M2_LIMIT_PATH_BYTES + 1];

	int32_t cpu_threads;         /* 0: one per online processor */
	char cpu_isa[16];            /* auto, portable, avx2, avx512 */
	int64_t memory_budget_bytes; /* resident bytes of all variants on the cpu; 0: no limit of ours */
	int32_t n_budgets;           /* of devices: read with m2_daemon_config_budget */
	char budgets[M2_CONFIG_BUDGETS][M2_CONFIG_BUDGET_BYTES];
	int32_t stay_s;                 /* a variant stays that long before it leaves for another */
	int64_t results_budget_bytes;   /* results memory of all requests together */
	int64_t results_per_user_bytes; /* and of one uid */
	int32_t requests_per_user;      /* running and queued requests of one uid */
	int32_t n_users;                /* what some users may; the others the next four */
	struct m2_user_limits users[M2_CONFIG_USERS];
	int32_t default_weight;
	int32_t default_slots;             /* of one user on a device at once; 0: no limit */
	int64_t default_state_bytes;       /* of one user on a device at once; 0: no limit */
	int32_t step_cost;                 /* of taking part in a step, in tokens */
	int32_t default_tokens_per_minute; /* 0: no limit */
	int64_t paused_bytes; /* of a variant, in host memory; M2_PAUSED_AS_SLOTS (daemon/scheduler.h) */
	char parked[M2_CONFIG_AMOUNT_BYTES]; /* read with m2_daemon_config_parked */
	int32_t results_keep_s;              /* how long a finished, unreleased result stays */
	int32_t connections_per_user;        /* of one uid to each endpoint of the gate */
	int32_t step_timeout_s;  /* silence of a step loop or of the gate that is a hang */
	int32_t drain_timeout_s; /* SIGTERM: how long running requests may finish */
	bool load_on_demand;     /* a request for a registered variant loads it */
	char log_level[8];
};

void m2_daemon_config_init(struct m2_daemon_config *c);
enum m2_err m2_daemon_config_parse(const char *text, size_t length, const char *source,
	struct m2_daemon_config *out, struct m2_why *why);
enum m2_err m2_daemon_config_read(
	const char *path, struct m2_daemon_config *out, struct m2_why *why);
/* Bytes that the variants on a device ("cpu", "cuda:0") may take together, of memory_total bytes that it
 * has; 0: no limit of ours.  A share of a device whose total is not known (0) is no limit. */
uint64_t m2_daemon_config_budget(
	const struct m2_daemon_config *c, const char *device, uint64_t memory_total);

/* Bytes of host memory, of memory_total that the host has, for the weights of variants that have left their
 * device; 0: none.  A share of a host whose total is not known (0) is none. */
uint64_t m2_daemon_config_parked(const struct m2_daemon_config *c, uint64_t memory_total);

char *m2_daemon_config_reference(void); /* malloc'd YAML with every key and its doc */

#endif
