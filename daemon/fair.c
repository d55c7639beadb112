/* fair.c - see fair.h.
 *
 * Looked through from end to end where it is looked at: the uids of all places are four kilobytes, and
 * those with work are as many as there are users now.  Numbers of virtual time are brought down together
 * when they grow large; only their differences mean anything.
 */
#include "daemon/fair.h"

#include <assert.h>
#include <string.h>

#include "kernels/backend.h"

enum {
	SCALE_BITS = 20, /* virtual time per work, so that a division by a weight loses nothing */
	COST_BITS = 10   /* bytes per unit of work */
};

#define UID_NOBODY UINT32_C(0xffffffff) /* no kernel gives it to anyone */
#define TIME_MAX   (UINT64_C(1) << 61)
#define TIME_KEEP  (UINT64_C(1) << 58) /* what is left of it: more than anyone is behind */

struct m2_fair_cost m2_fair_cost_of(uint64_t weight_bytes, uint64_t state_bytes)
{
	const uint64_t weights = weight_bytes >> COST_BITS;
	const uint64_t state = 2 * (state_bytes >> COST_BITS);
	return (struct m2_fair_cost){
		.prompt = weights + state / M2_CHUNK + 1, .decode = weights + state + 1};
}

uint64_t m2_fair_time(const struct m2_fair *f, int32_t place, uint64_t work)
{
	const uint32_t weight = atomic_load_explicit(&f->users[place].weight, memory_order_relaxed);
	return (work << SCALE_BITS) / weight;
}

/* ---- places ------------------------------------------------------------------------------------ */

static int32_t find(const struct m2_fair *f, uint32_t uid)
{
	for (int32_t i = 0; i < M2_FAIR_USERS; i++)
		if (f->uids[i] == uid && f->used[i])
			return i;
	return M2_FAIR_NOBODY;
}

/* One that nobody has, or of the idle user who is least ahead of the present: the least is forgotten. */
static int32_t free_place(const struct m2_fair *f)
{
	int32_t best = M2_FAIR_USERS;
	for (int32_t i = 0; i < M2_FAIR_USERS; i++) {
		if (!f->used[i])
			return i;
		if (f->tasks[i] == 0 &&
			(best == M2_FAIR_USERS || f->users[i].time < f->users[best].time))
			best = i;
	}
	return best;
}

static void take_place(struct m2_fair *f, int32_t place, uint32_t uid)
{
	struct m2_fair_user *u = &f->users[place];
	if (place < M2_FAIR_USERS)
		f->uids[place] = uid;
	f->used[place] = true;
	atomic_store_explicit(&u->uid, UID_NOBODY, memory_order_release);
	atomic_store_explicit(&u->prompt_tokens, 0, memory_order_relaxed);
	atomic_store_explicit(&u->generated_tokens, 0, memory_order_relaxed);
	atomic_store_explicit(&u->work, 0, memory_order_relaxed);
	u->time = f->now;
	u->planned = u->planned_work = 0;
	atomic_store_explicit(
		&u->uid, place < M2_FAIR_USERS ? uid : UID_NOBODY, memory_order_release);
}

static void raise_to(struct m2_fair_user *u, uint64_t now, uint64_t behind)
{
	const uint64_t floor = now > behind ? now - behind : 0;
	if (u->time < floor)
		u->time = floor;
}

int32_t m2_fair_enter(
	struct m2_fair *f, uint32_t uid, uint32_t weight, int32_t slots_max, uint64_t lead)
{
	int32_t place = find(f, uid);
	if (place == M2_FAIR_NOBODY) {
		place = free_place(f);
		if (place < M2_FAIR_USERS || !f->used[place])
			take_place(f, place, uid);
	}
	struct m2_fair_user *u = &f->users[place];
	const bool shared = place == M2_FAIR_USERS;
	assert(weight >= 1 && weight <= M2_FAIR_WEIGHT_MAX);
	atomic_store_explicit(&u->weight, shared ? 1 : weight, memory_order_relaxed);
	u->slots_max = shared ? 0 : slots_max;
	if (f->tasks[place]++ == 0) {
		raise_to(u, f->now, m2_fair_time(f, place, lead));
		f->active[f->n_active++] = place;
	}
	return place;
}

void m2_fair_leave(struct m2_fair *f, int32_t place)
{
	assert(f->tasks[place] > 0);
	if (--f->tasks[place] > 0)
		return;
	int32_t i = 0;
	while (f->active[i] != place)
		i++;
	f->active[i] = f->active[--f->n_active];
}

/* ---- time -------------------------------------------------------------------------------------- */

void m2_fair_start(struct m2_fair *f, int32_t place, uint64_t credit)
{
	raise_to(&f->users[place], f->now, m2_fair_time(f, place, credit));
}

bool m2_fair_least(const struct m2_fair *f, uint64_t *least)
{
	bool any = false;
	for (int32_t i = 0; i < f->n_active; i++) {
		const struct m2_fair_user *u = &f->users[f->active[i]];
		if (atomic_load_explicit(&u->running, memory_order_relaxed) == 0)
			continue;
		if (!any || u->time + u->planned < *least)
			*least = u->time + u->planned;
		any = true;
	}
	return any;
}

void m2_fair_advance(struct m2_fair *f, uint64_t least)
{
	if (least > f->now)
		f->now = least;
	if (f->now < TIME_MAX)
		return;
	const uint64_t down = f->now - TIME_KEEP;
	f->now -= down;
	for (int32_t i = 0; i < M2_FAIR_PLACES; i++)
		f->users[i].time = f->users[i].time > down ? f->users[i].time - down : 0;
}
