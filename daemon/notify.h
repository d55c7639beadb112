/* notify.h - what systemd is told: ready, status, watchdog, reloading, stopping.
 * Without NOTIFY_SOCKET every call is nothing.  Threads: the supervisor's one. */
#ifndef M2_DAEMON_NOTIFY_H
#define M2_DAEMON_NOTIFY_H

#include "daemon/supervisor.h"

void m2_notify_init(struct m2_supervisor *s); /* starts the watchdog if systemd asked for one */

/* Residency or the gate changed: READY=1 when the start is over, STATUS= if its line is another. */
void m2_notify_state(struct m2_supervisor *s);

/* A load goes on: while starting, ask for more time, once a second at most. */
void m2_notify_progress(struct m2_supervisor *s);

void m2_notify_reloading(struct m2_supervisor *s);
void m2_notify_reloaded(struct m2_supervisor *s);
void m2_notify_stopping(struct m2_supervisor *s);

#endif
