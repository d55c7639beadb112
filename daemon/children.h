/* children.h - one child process of the supervisor: started, listened to, ended, started again.
 *
 * A child is this same program with --role, joined by a SOCK_SEQPACKET pair that it finds as descriptor
 * 3.  It gets no other descriptor of ours, dies when we die, and ignores the terminal's signals: only
 * the supervisor ends it.  When it ends without being asked to, it is started again after a pause that
 * doubles from 10 ms to pause_most_ns and falls back once the child has lived 30 s.
 *
 * Threads: the supervisor's one.  Nothing blocks.
 */
#ifndef M2_DAEMON_CHILDREN_H
#define M2_DAEMON_CHILDREN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "daemon/ipc.h"
#include "daemon/loop.h"

enum { M2_CHILD_FD = 3, M2_CHILD_ARGUMENTS = 32 };

/* The command line of a child, filled by its owner for every start. */
struct m2_arguments {
	int count;
	char text[M2_CHILD_ARGUMENTS][M2_LIMIT_PATH_BYTES + 64];
};
void m2_arguments_add(struct m2_arguments *args, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

struct m2_child {
	/* set by the owner before the first start */
	char name[32];
	struct m2_loop *loop;
	enum m2_ipc_side side;
	void *ctx;
	void (*arguments)(void *ctx, struct m2_arguments *args);
	/* a packet came; an error ends the child: it broke the protocol */
	enum m2_err (*packet)(void *ctx, const struct m2_ipc_packet *packet, struct m2_why *why);
	void (*ended)(void *ctx); /* the process is gone; called before it is started again */
	uint64_t pause_most_ns;   /* longest pause before it is started again */

	/* for the owner to read */
	pid_t pid;       /* 0: none */
	pid_t ended_pid; /* of the last one that ended; 0: none has */
	bool ready;      /* set by the owner on the child's own word, cleared here */
	uint32_t life;   /* how many times it was started: its generation */
	uint32_t restarts;
	uint64_t started_ns;

	/* own */
	struct m2_ipc_channel *channel;
	struct m2_watch watch;
	struct m2_timer again; /* start it again */
	struct m2_timer end;   /* it should have ended by now: kill it */
	uint64_t pause_ns;
	bool unwanted; /* do not start it again */
};

/* Start it.  A failure (no processes, no memory) is logged and tried again like an early death. */
void m2_child_start(struct m2_child *child);

/* Queue a packet; false when there is no process to send to, or no memory or descriptor for a body beyond
 * M2_IPC_INLINE: then the child still listens, and did not get it.  A peer that does not read is killed. */
bool m2_child_send(struct m2_child *child, enum m2_ipc_type type, const void *fixed,
	const void *body, size_t body_bytes);

/* May it be sent to?  false: there is none, or it is ending, and `ended` follows. */
bool m2_child_listens(const struct m2_child *child);

/* Kill it, saying why in the log; it starts again. */
void m2_child_kill(struct m2_child *child, const char *why);

/* Ask it to end with the packet `type`; killed after grace_ns.  It is not started again. */
void m2_child_stop(struct m2_child *child, enum m2_ipc_type type, uint64_t grace_ns);

/* waitpid says that `child` ended with `status`. */
void m2_child_reaped(struct m2_child *child, int status);

#endif
