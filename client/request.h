/* request.h - a generate or score request: its call, its results memory, and who watches it. */
#ifndef M2_CLIENT_REQUEST_H
#define M2_CLIENT_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/call.h"
#include "client/mamba2.h"
#include "client/segment.h"

struct mamba2_request {
	mamba2 *m; /* one reference */
	struct m2_call *call;
	struct m2_segment segment;
	uint32_t seen;     /* doorbell at the last wait that found something */
	struct m2_why why; /* of the end, for mamba2_request_result */
	/* mamba2_request_fd: an eventfd that a thread writes to */
	int fd;
	bool watched;
	pthread_t watcher;
	atomic_bool unwatch;
};

/* How long a sleep on the futex may be: the daemon may die without ringing it. */
enum { M2_REQUEST_LOOK_MS = 250 };

/* Takes over an accepted call; maps its memory.  On failure the call is dropped. */
enum m2_err m2_request_create(
	mamba2 *m, struct m2_call *call, mamba2_request **out, struct m2_why *why);

/* Sleep until the doorbell differs from `seen`, the request has ended, or deadline_ms of
 * CLOCK_MONOTONIC (-1: none) has passed, or *stop (may be NULL) is set.  Returns the doorbell. */
uint32_t m2_request_sleep(
	const mamba2_request *r, uint32_t seen, int64_t deadline_ms, const atomic_bool *stop);

#endif
