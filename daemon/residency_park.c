/* residency_park.c - weights in host memory: who is parked when it makes room, and how it comes back.
 *
 * A variant that leaves for another is sent UNLOAD with park; its worker copies the weights to host memory and
 * says how many bytes they take there.  It stays in the table, nothing of it on the device, until somebody
 * wants it: then it goes into the line as a planned one, for what it takes is known to the byte.
 *
 * Host memory is of the whole host, so its budget is over all workers.  What is let go so that another is parked
 * is told so first; a worker does one thing after the other, so for one device the sum is never over the
 * budget; where they are two workers' it may be for as long as it takes to give memory back.
 */
#include "daemon/residency_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/host.h"
#include "common/log.h"
#include "daemon/notify.h"
#include "daemon/reply.h"

/* Bytes of host memory that it has, or will have when what is under way is done. */
static uint64_t parked_bytes(const struct m2_tenant *t)
{
	if (t->parking)
		return t->loaded.footprint.weights;
	return t->state == M2_TENANT_UNLOADING ? 0 : t->parked;
}

uint64_t m2_residency_parked(const struct m2_supervisor *s, const struct m2_engine *worker)
{
	uint64_t bytes = 0;
	M2_LIST_EACH(&s->residents, at)
	{
		const struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		if (worker == NULL || t->engine == worker)
			bytes += parked_bytes(t);
	}
	return bytes;
}

/* ---- who ---------------------------------------------------------------------------------------- */

/* A table of what is parked, with room for `more`; false: no memory. */
static bool list_parked(struct m2_place *place, struct m2_supervisor *s, size_t more)
{
	const uint64_t available = m2_host_available();
	size_t most = more + 1;
	M2_LIST_EACH(&s->residents, at)
	most++;
	memset(place, 0, sizeof *place);
	place->tenants = calloc(most, sizeof(struct m2_tenant *));
	place->rows = calloc(most, sizeof *place->rows);
	place->order = calloc(most, sizeof *place->order);
	place->question = (struct m2_budget_question){
		.budget = m2_daemon_config_parked(&s->config, m2_host_memory()),
		.free = available > 0 ? available : UINT64_MAX,
	};
	if (place->tenants == NULL || place->rows == NULL || place->order == NULL)
		return false;
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		const bool rests = t->state == M2_TENANT_PARKED && m2_list_empty(&t->waiting);
		if (parked_bytes(t) == 0)
			continue;
		place->tenants[place->count] = t;
		place->rows[place->count++] = (struct m2_budget_row){
			.bytes = parked_bytes(t), .used_ns = t->idle_ns, .pinned = !rests};
	}
	return true;
}

/* The answer of daemon/budget.h for one that leaves.  also: those that are to be parked before it. */
static bool ask(struct m2_place *place, const struct m2_tenant *t,
	const struct m2_tenant *const *also, size_t n_also)
{
	if (!list_parked(place, t->s, n_also))
		return false;
	for (size_t i = 0; i < n_also; i++)
		place->rows[place->count++] = (struct m2_budget_row){
			.bytes = also[i]->loaded.footprint.weights, .pinned = true};
	place->question.need = t->loaded.footprint.weights;
	return m2_budget_park(
		&place->question, t->idle_ns, place->rows, place->order, place->count);
}

static bool can_park(const struct m2_tenant *t)
{
	return t->engine->can_park && t->state == M2_TENANT_READY;
}

bool m2_tenant_would_park(
	const struct m2_tenant *t, const struct m2_tenant *const *also, size_t n_also)
{
	struct m2_place place;
	if (!can_park(t))
		return false;
	const bool parks = ask(&place, t, also, n_also);
	m2_place_finish(&place);
	return parks;
}

static void drop(struct m2_tenant *t, const char *why)
{
	m2_info("%s is parked no longer (%s): %llu bytes of host memory", t->variant.name, why,
		(unsigned long long)t->parked);
	t->s->counters.parks_dropped++;
	m2_residency_unload(t, 0, NULL);
}

static void drop_chosen(struct m2_place *place, const char *why)
{
	for (size_t i = 0; i < place->count; i++)
		if (place->rows[i].chosen)
			drop(place->tenants[i], why);
}

void m2_tenant_make_room(struct m2_tenant *t)
{
	struct m2_place place;
	if (can_park(t)) {
		t->parking = ask(&place, t, NULL, 0);
		if (t->parking)
			drop_chosen(&place, t->variant.name); /* told so first */
		m2_place_finish(&place);
	}
	m2_residency_unload(t, 0, NULL);
}

void m2_tenant_parked(struct m2_tenant *t, uint64_t bytes)
{
	t->parking = false;
	t->parked = bytes;
	t->state = M2_TENANT_PARKED;
	t->s->counters.parks++;
	m2_info("%s is parked: %llu bytes of host memory", t->variant.name,
		(unsigned long long)bytes);
	m2_notify_state(t->s);
	if (m2_list_empty(&t->leaving))
		m2_residency_session_left(t); /* keep_alive goes on */
	else
		m2_residency_unload(t, 0, NULL);
}

void m2_residency_review_parked(struct m2_supervisor *s)
{
	struct m2_place place;
	M2_LIST_EACH(&s->residents, at)
	{
		struct m2_tenant *t = M2_LIST_OF(at, struct m2_tenant, link);
		struct m2_store_entry entry;
		struct m2_why why;
		if (t->state == M2_TENANT_PARKED && m2_list_empty(&t->waiting) &&
			(m2_store_get(s->store, t->variant.name, NULL, &entry, &why) != M2_OK ||
				strcmp(entry.checksum, t->checksum) != 0))
			drop(t, "its registration has changed");
	}
	if (list_parked(&place, s, 0) &&
		m2_budget_park(&place.question, UINT64_MAX, place.rows, place.order, place.count))
		drop_chosen(&place, "a smaller budget");
	m2_place_finish(&place);
}

/* ---- back --------------------------------------------------------------------------------------- */

void m2_tenant_plan_parked(struct m2_tenant *t)
{
	t->load_ns = m2_loop_now();
	t->plan_took_ns = 0;
	t->progress = (struct m2_ipc_progress){.model = t->handle};
	t->state = M2_TENANT_PLANNED;
	t->engine->head = t;
	m2_notify_state(t->s);
}

void m2_tenant_stay_parked(struct m2_tenant *t)
{
	t->engine->head = NULL;
	t->state = M2_TENANT_PARKED;
	m2_notify_state(t->s);
	m2_residency_session_left(t);
}
