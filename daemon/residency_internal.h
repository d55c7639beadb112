/* residency_internal.h - what the files residency*.c share; for those only. */
#ifndef M2_DAEMON_RESIDENCY_INTERNAL_H
#define M2_DAEMON_RESIDENCY_INTERNAL_H

#include "daemon/budget.h"
#include "daemon/residency.h"

struct m2_probe; /* of residency_dry.c */

/* A question to daemon/budget.h about a worker, and its answer. */
struct m2_place {
	struct m2_tenant **tenants; /* [count] */
	struct m2_budget_row *rows; /* [count] */
	size_t *order;
	size_t count;
	struct m2_budget_question question;
	struct m2_budget_outcome outcome;
};

/* May `need` bytes be loaded on the worker now?  moves: others may leave for it.  false: no memory to ask.
 * Free it with m2_place_finish. */
bool m2_place_ask(
	struct m2_place *place, const struct m2_engine *worker, uint64_t need, bool moves);
void m2_place_finish(struct m2_place *place);
/* order: the rows, last used first; of those that leave together the first have the best claim to be parked. */
void m2_place_order_by_use(struct m2_place *place);

/* The sentence of a refusal: how many bytes are missing, and who holds them. */
enum m2_err m2_place_refusal(const struct m2_place *place, const struct m2_engine *worker,
	const char *name, const struct m2_footprint *footprint, struct m2_why *why);

/* Bytes that a footprint takes on its device. */
static inline uint64_t m2_footprint_total(const struct m2_footprint *f)
{
	return f->weights + f->state + f->workspace;
}

/* residency_dry.c: true, the plan was its. */
bool m2_residency_dry_planned(struct m2_engine *worker, const struct m2_ipc_planned *planned);
void m2_residency_dry_worker_ended(struct m2_engine *worker);
bool m2_residency_dry_refuse(struct m2_engine *worker, enum m2_err err, const struct m2_why *why);
void m2_residency_dry_finish(struct m2_supervisor *s);

/* residency_park.c: it leaves for another, to be parked if that can be and else for good. */
void m2_tenant_make_room(struct m2_tenant *t);
/* Would it be parked if it left now, after also[n_also] were?  Nothing is changed. */
bool m2_tenant_would_park(
	const struct m2_tenant *t, const struct m2_tenant *const *also, size_t n_also);
/* Its weights are in host memory now. */
void m2_tenant_parked(struct m2_tenant *t, uint64_t bytes);
/* It is the head of the line: what a plan would say is known. */
void m2_tenant_plan_parked(struct m2_tenant *t);
/* It is not to come back now: it was planned, and goes on being parked. */
void m2_tenant_stay_parked(struct m2_tenant *t);

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

/* The worker forgets a plan; the tenant is gone when it says so. */
void m2_tenant_drop_plan(struct m2_tenant *t);
/* The same, and everyone is told why at once. */
void m2_tenant_refuse_plan(struct m2_tenant *t, const struct m2_why *why);

/* It is ready and open: those who waited are served, in the order they came. */
void m2_tenant_serve_waiting(struct m2_tenant *t);

/* The timer of keep_alive; ctx: the supervisor. */
void m2_tenant_on_idle(void *ctx);

#endif
