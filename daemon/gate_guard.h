/* gate_guard.h - how many connections one user may have at the gate, and all together.
 *
 * libzmq accepts whoever connects and aborts its process when descriptors run out, so that one user's loop
 * of connect(2) would cost everyone the gate again and again.  The guard hears of every accepted
 * connection from libzmq's monitor, asks the kernel whose it is, and shuts down those beyond the limit
 * before they have said a word.  The client and the control endpoint count apart: whoever fills the one
 * does not lock administrators out of the other.
 *
 * It sees a connection a moment after it was accepted, on the gate's own thread: `reserve` descriptors
 * below the process's limit stay free for what is accepted in that moment.
 *
 * Threads: the gate's one.  Nothing blocks.
 */
#ifndef M2_DAEMON_GATE_GUARD_H
#define M2_DAEMON_GATE_GUARD_H

#include <stdint.h>

#include "common/err.h"

struct m2_guard; /* opaque */

/* context: ZeroMQ's, outlives the guard; socket: a ROUTER, before it is bound.  name: of the endpoint, for
 * the log.  per_user: connections of one uid, >= 1; total: of all, >= 1. */
enum m2_err m2_guard_create(void *context, void *socket, const char *name, uint32_t per_user,
	uint32_t total, struct m2_guard **out, struct m2_why *why);
/* Before its socket is closed. */
void m2_guard_destroy(struct m2_guard **guard, void *socket);

/* The ZeroMQ socket to poll for input, and what to do then. */
void *m2_guard_events(const struct m2_guard *guard);
void m2_guard_turn(struct m2_guard *guard);

/* How many connections each of two endpoints may have in a process that may have `files` descriptors. */
uint32_t m2_guard_total(uint64_t files);

#endif
