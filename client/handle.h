/* handle.h - a connection to a daemon: one IO thread that owns the socket, and the calls under way.
 *
 * `lock` guards everything that is not marked otherwise; it is never held over a wait.  Application
 * threads add to `pending` and ring `wake_fd`; the IO thread sends, receives and ends calls.
 */
#ifndef M2_CLIENT_HANDLE_H
#define M2_CLIENT_HANDLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "client/call.h"
#include "client/mamba2.h"

TAILQ_HEAD(m2_call_list, m2_call);

struct mamba2 {
	/* fixed */
	char *runtime_dir;
	char *endpoint; /* ipc://... */
	int64_t timeout_ms;
	int64_t lost_after_ms; /* so long without a connection, then calls end as unreachable */
	void *zmq;             /* context */
	void *socket;          /* IO thread only */
	void *monitor;         /* IO thread only */
	int wake_fd;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t connection; /* `connected` or `stopped` changed */
	struct m2_call_list open;
	struct m2_call_list pending;
	uint64_t next_id;
	unsigned references; /* the application's, and one of every request */
	bool connected;
	int64_t lost_at_ms; /* when the connection went away; meaningless while connected */
	bool closing;       /* mamba2_close was called */
	int64_t closing_at_ms;
	bool stopped; /* the IO thread takes no more calls */
};

enum {
	M2_CLIENT_LOST_MS = 10000,
	M2_CLIENT_FLUSH_MS = 500, /* mamba2_close: for cancels and releases to be answered */
	M2_CLIENT_MESSAGE_BYTES = 33554432 /* largest answer frame we take */
};

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t m2_handle_now_ms(void);

/* A condition whose timed waits go by CLOCK_MONOTONIC. */
int m2_handle_init_condition(pthread_cond_t *condition);

/* Wait for `condition` at most until deadline_ms (-1: for ever); false when that has passed. */
bool m2_handle_wait(mamba2 *m, pthread_cond_t *condition, int64_t deadline_ms);

/* Make the IO thread look at its lists. */
void m2_handle_wake(mamba2 *m);

void m2_handle_reference(mamba2 *m);
void m2_handle_unreference(mamba2 *m); /* frees the memory with the last one */

#endif
