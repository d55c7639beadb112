/* admin.h - the ops of the control endpoint.  Each ends its session, now or when the work is done.
 * Threads: the supervisor's one. */
#ifndef M2_DAEMON_ADMIN_H
#define M2_DAEMON_ADMIN_H

#include "daemon/sessions.h"

void m2_admin_load(struct m2_session *session);
void m2_admin_unload(struct m2_session *session);
void m2_admin_register(struct m2_session *session);
void m2_admin_remove(struct m2_session *session);
void m2_admin_reload(struct m2_session *session);
void m2_admin_drain(struct m2_session *session);

#endif
