/* residency_internal.h - what residency.c and residency_leave.c share; for those two only. */
#ifndef M2_DAEMON_RESIDENCY_INTERNAL_H
#define M2_DAEMON_RESIDENCY_INTERNAL_H

#include "daemon/residency.h"

/* Bytes it takes on its device; 0 until it is loaded. */
uint64_t m2_tenant_bytes(const struct m2_tenant *t);

/* The first session of one of its lists; NULL: none. */
struct m2_session *m2_tenant_first(struct m2_link *list);

/* End all sessions that wait for its going, with success; or for its coming, with an error. */
void m2_tenant_answer_leaving(struct m2_tenant *t, uint64_t bytes);
void m2_tenant_fail_waiting(struct m2_tenant *t, enum m2_err err, const struct m2_why *why);

/* The daemon's READY need not wait for it any longer. */
void m2_tenant_preload_over(struct m2_tenant *t);

/* Close the row of the load history, if one is open. */
void m2_tenant_record_end(struct m2_tenant *t, enum m2_err err, const struct m2_why *result);

/* Tell everyone, and free it. */
void m2_tenant_load_failed(struct m2_tenant *t, enum m2_err err, const struct m2_why *why);

/* Free it; its lists are empty. */
void m2_tenant_forget(struct m2_tenant *t);

/* The timer of keep_alive; ctx: the supervisor. */
void m2_tenant_on_idle(void *ctx);

#endif
