/* processes.h - users and their client processes: who has work here, and whether they still live.
 *
 * A process with live requests or results is watched through a pidfd; its end cancels and releases all of
 * it at once.  The pid is the kernel's (SO_PEERCRED): that of the process that connected.  0 is a
 * process of a pid namespace we cannot see: it is not watched, and its results expire by time.
 *
 * Threads: the supervisor's one.
 */
#ifndef M2_DAEMON_PROCESSES_H
#define M2_DAEMON_PROCESSES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/list.h"
#include "daemon/supervisor.h"

struct m2_user {
	struct m2_link link; /* in supervisor.users */
	uint32_t uid;
	uint32_t sessions; /* all that refer to it */
	int32_t running;   /* requests of a worker, waiting or running: what the quota counts */
};

struct m2_process {
	struct m2_link link; /* in supervisor.processes */
	struct m2_supervisor *s;
	uint32_t pid;
	uint32_t uid;
	struct m2_link sessions; /* by m2_session.of_process */
	struct m2_watch watch;   /* on a pidfd */
};

/* The user's record, made if need be; NULL without memory.  Give it back with put. */
struct m2_user *m2_user_get(struct m2_supervisor *s, uint32_t uid);
void m2_user_put(struct m2_user **user);

/* Put the session among its process's; false: that process has already ended. */
bool m2_process_attach(struct m2_supervisor *s, struct m2_session *session);
void m2_process_detach(struct m2_session *session); /* a second time: nothing */

void m2_processes_finish(struct m2_supervisor *s);

#endif
