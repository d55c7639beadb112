/* inform.h - the ops that only look: list, show, status, ps, attach.  Each ends its session.
 * Threads: the supervisor's one. */
#ifndef M2_DAEMON_INFORM_H
#define M2_DAEMON_INFORM_H

#include "daemon/sessions.h"
#include "daemon/supervisor.h"

void m2_inform_init(struct m2_supervisor *s);

void m2_inform_list(struct m2_session *session);
void m2_inform_show(struct m2_session *session);
void m2_inform_status(struct m2_session *session);
void m2_inform_ps(struct m2_session *session);
void m2_inform_attach(struct m2_session *session);

/* A worker gave its figures, or died: those who wait for them may be answered. */
void m2_inform_stats(struct m2_supervisor *s);

#endif
