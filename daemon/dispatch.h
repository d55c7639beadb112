/* dispatch.h - what the gate says: each request checked once more, matched with one that came before,
 * and handed to its op's handler.  Threads: the supervisor's one. */
#ifndef M2_DAEMON_DISPATCH_H
#define M2_DAEMON_DISPATCH_H

#include "common/err.h"
#include "daemon/ipc.h"
#include "daemon/supervisor.h"

/* A packet of the gate.  EPROTO: the gate is broken. */
enum m2_err m2_dispatch_packet(
	struct m2_supervisor *s, const struct m2_ipc_packet *packet, struct m2_why *why);

#endif
