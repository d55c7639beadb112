/* scheduler_admit.c - slots: given to whom they are due, taken by pausing, given back.
 *
 * Pausing copies a state of constant size and nothing else: the sequence's tokens, its sampler's counts and
 * its text stay where they are, in the task.  What is restored is what was saved, byte for byte, and a
 * sequence's bits depend on its state and its next token only; so a pause changes nothing but the time.
 */
#include "daemon/scheduler_internal.h"

#include <assert.h>

/* ---- slots ------------------------------------------------------------------------------------- */

/* A state more or less of those that count for a user. */
static void count_bytes(_Atomic uint64_t *figure, const struct m2_lane *lane, int32_t by)
{
	const uint64_t bytes = lane->facts.slot_bytes;
	if (by > 0)
		atomic_fetch_add_explicit(figure, bytes, memory_order_relaxed);
	else
		atomic_fetch_sub_explicit(figure, bytes, memory_order_relaxed);
}

static void hold(struct m2_lane *lane, struct m2_task *task, int32_t by)
{
	struct m2_fair_user *user = m2_user_of(lane, task);
	m2_party_of(lane, task)->held += by;
	atomic_fetch_add_explicit(&user->held, by, memory_order_relaxed);
	count_bytes(&user->slot_bytes, lane, by);
	atomic_store_explicit(
		&lane->slots_used, lane->facts.slots - lane->n_free, memory_order_relaxed);
}

static void take_slot(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q)
{
	assert(lane->n_free > 0 && q->slot < 0);
	q->slot = lane->free_slots[--lane->n_free];
	hold(lane, task, 1);
}

void m2_scheduler_free_slot(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q)
{
	if (q->slot < 0)
		return;
	lane->free_slots[lane->n_free++] = q->slot;
	q->slot = -1;
	hold(lane, task, -1);
}

static void free_state(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q)
{
	if (q->parked >= 0) {
		lane->free_states[lane->n_free_states++] = q->parked;
		count_bytes(&m2_user_of(lane, task)->paused_bytes, lane, -1);
	}
	q->parked = M2_PARKED_NONE;
}

void m2_scheduler_free_all(struct m2_lane *lane, struct m2_task *task)
{
	for (uint32_t i = 0; i < task->n_slots; i++) {
		m2_scheduler_free_slot(lane, task, &task->sequences[i]);
		free_state(lane, task, &task->sequences[i]);
	}
}

int32_t m2_scheduler_need(const struct m2_task *task)
{
	int32_t need = 0;
	if (task->stage == M2_STAGE_QUEUED)
		return (int32_t)task->n_slots;
	for (uint32_t i = 0; i < task->n_slots; i++)
		need += task->sequences[i].slot >= 0 || task->sequences[i].parked != M2_PARKED_NONE;
	return need;
}

/* Before the end of its prompt only the first of its slots has anything in it. */
static bool has_state(const struct m2_task *task, uint32_t sequence)
{
	return task->sequences[sequence].slot >= 0 &&
	       (sequence == 0 || task->prompt_done == task->prompt_tokens);
}

/* ---- running ----------------------------------------------------------------------------------- */

static void begin_turn(struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	if (atomic_load_explicit(&m2_user_of(lane, task)->running, memory_order_relaxed) == 0)
		m2_fair_start(lane->fair, task->place, M2_FAIR_CREDIT * lane->facts.cost.decode);
	m2_queue_stage(lane, task, M2_STAGE_RUNNING);
	task->turn_ns = now;
	task->turn_tokens = 0;
	lane->running[lane->n_running++] = task;
}

/* NULL: it runs; else what failed. */
static const char *start(struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	for (uint32_t i = 0; i < task->n_slots; i++)
		take_slot(lane, task, &task->sequences[i]);
	task->header->admitted_ns = now;
	/* the other slots get copies of this one, which also clears them */
	if (lane->facts.backend->slot_reset(lane->facts.model, task->sequences[0].slot) != M2_OK)
		return "clearing a sequence's state failed";
	begin_turn(lane, task, now);
	atomic_store_explicit(&task->header->state, M2_RESULTS_RUNNING, memory_order_release);
	return NULL;
}

static const char *resume(struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	const struct m2_lane_facts *f = &lane->facts;
	for (uint32_t i = 0; i < task->n_slots; i++) {
		struct m2_sequence *q = &task->sequences[i];
		if (q->parked == M2_PARKED_NONE)
			continue;
		take_slot(lane, task, q);
		if (q->parked >= 0 &&
			f->backend->slot_restore(f->model, q->slot,
				lane->states + (size_t)q->parked * f->slot_bytes) != M2_OK)
			return "restoring a sequence's state failed";
		free_state(lane, task, q);
	}
	task->header->paused_ns += now - task->paused_at;
	begin_turn(lane, task, now);
	return NULL;
}

/* ---- pausing ----------------------------------------------------------------------------------- */

static bool park(struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	const struct m2_lane_facts *f = &lane->facts;
	for (uint32_t i = 0; i < task->n_slots; i++) {
		struct m2_sequence *q = &task->sequences[i];
		if (q->slot < 0)
			continue;
		q->parked = M2_PARKED_EMPTY;
		if (!has_state(task, i))
			continue;
		q->parked = lane->free_states[--lane->n_free_states];
		count_bytes(&m2_user_of(lane, task)->paused_bytes, lane, 1);
		if (f->backend->slot_save(f->model, q->slot,
			    lane->states + (size_t)q->parked * f->slot_bytes) != M2_OK)
			return false;
	}
	for (uint32_t i = 0; i < task->n_slots; i++)
		m2_scheduler_free_slot(lane, task, &task->sequences[i]);
	m2_queue_stage(lane, task, M2_STAGE_PAUSED);
	task->paused_at = now;
	task->header->pauses++;
	atomic_fetch_add_explicit(&lane->pauses, 1, memory_order_relaxed);
	return true;
}

static int32_t states_of(const struct m2_task *task)
{
	int32_t n = 0;
	for (uint32_t i = 0; i < task->n_slots; i++)
		n += has_state(task, i);
	return n;
}

/* May this one give its slots to the one that waits? */
static bool may_give(struct m2_lane *lane, const struct m2_task *task, const struct m2_task *waiter,
	int32_t need, uint64_t now)
{
	const struct m2_party *giver = m2_party_of(lane, task);
	const struct m2_party *taker = m2_party_of(lane, waiter);
	const struct m2_fair_user *ug = m2_user_of(lane, task);
	const struct m2_fair_user *ut = m2_user_of(lane, waiter);
	if (giver == taker || task->chosen || ug->time < ut->time)
		return false;
	if (task->turn_tokens < M2_PAUSE_TOKENS && now - task->turn_ns < M2_PAUSE_NS)
		return false;
	if (taker->held == 0)
		return true;
	/* afterwards it must still have as much, for its weight, as the other has then */
	const int64_t left = giver->held - giver->giving - m2_scheduler_need(task);
	return left * atomic_load_explicit(&ut->weight, memory_order_relaxed) >=
	       (int64_t)(taker->held + need) *
		       atomic_load_explicit(&ug->weight, memory_order_relaxed);
}

/* Rather a than b, when so many slots are missing?  Not a task that is larger, whose states would fill the
 * memory for little; of the party with most for its weight; in it by lower priority, then the latest come. */
static bool rather(
	struct m2_lane *lane, const struct m2_task *a, const struct m2_task *b, int32_t missing)
{
	const struct m2_party *pa = m2_party_of(lane, a);
	const struct m2_party *pb = m2_party_of(lane, b);
	const bool large_a = m2_scheduler_need(a) > missing;
	const bool large_b = m2_scheduler_need(b) > missing;
	if (large_a != large_b)
		return large_b;
	if (pa == pb) {
		const bool low_a = a->priority == M2_PRIORITY_LOW;
		const bool high_a = a->priority == M2_PRIORITY_HIGH;
		if (a->priority != b->priority)
			return low_a || (!high_a && b->priority == M2_PRIORITY_HIGH);
		return a->id > b->id;
	}
	const struct m2_fair_user *ua = m2_user_of(lane, a);
	const struct m2_fair_user *ub = m2_user_of(lane, b);
	const int64_t of_a = (int64_t)(pa->held - pa->giving) *
			     atomic_load_explicit(&ub->weight, memory_order_relaxed);
	const int64_t of_b = (int64_t)(pb->held - pb->giving) *
			     atomic_load_explicit(&ua->weight, memory_order_relaxed);
	return of_a != of_b ? of_a > of_b : ua->time > ub->time;
}

/* Choose, by task->chosen, who gives the slots that are missing; false: there are not enough.  One that has
 * not run yet leaves a place for a state: where two change places, one must be out of the way first. */
static bool choose(struct m2_lane *lane, const struct m2_task *waiter, int32_t need, uint64_t now)
{
	int32_t freed = lane->n_free;
	int32_t states = lane->n_free_states - (waiter->stage == M2_STAGE_QUEUED ? 1 : 0);
	while (freed < need) {
		struct m2_task *best = NULL;
		for (int32_t i = 0; i < lane->n_running; i++) {
			struct m2_task *task = lane->running[i];
			if (may_give(lane, task, waiter, need, now) && states_of(task) <= states &&
				(best == NULL || rather(lane, task, best, need - freed)))
				best = task;
		}
		if (best == NULL)
			return false;
		best->chosen = true;
		m2_party_of(lane, best)->giving += m2_scheduler_need(best);
		freed += m2_scheduler_need(best);
		states -= states_of(best);
	}
	return true;
}

/* Pause who is chosen, if `go`. */
static void park_chosen(struct m2_scheduler *s, struct m2_lane *lane, bool go, uint64_t now)
{
	int32_t kept = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		const bool chosen = task->chosen;
		task->chosen = false;
		m2_party_of(lane, task)->giving = 0;
		if (!chosen || !go)
			lane->running[kept++] = task;
		else if (!park(lane, task, now))
			m2_scheduler_end(s, lane, task, M2_FINISH_ERROR, M2_EDEVICE,
				"saving a sequence's state failed");
	}
	lane->n_running = kept;
}

/* ---- admission --------------------------------------------------------------------------------- */

/* The token that is under way for one that is chosen would not be saved with its state. */
static bool chosen_fly(const struct m2_lane *lane)
{
	for (int32_t i = 0; i < lane->n_running; i++)
		if (lane->running[i]->chosen && lane->running[i]->flying > 0)
			return true;
	return false;
}

static bool make_room(struct m2_scheduler *s, struct m2_lane *lane, const struct m2_task *task,
	int32_t need, uint64_t now)
{
	const bool enough = choose(lane, task, need, now);
	lane->pause_waits = enough && chosen_fly(lane);
	park_chosen(s, lane, enough && !lane->pause_waits, now);
	return enough && !lane->pause_waits;
}

static void run(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	const char *failure =
		task->stage == M2_STAGE_QUEUED ? start(lane, task, now) : resume(lane, task, now);
	if (failure != NULL)
		m2_scheduler_end(s, lane, task, M2_FINISH_ERROR, M2_EDEVICE, failure);
}

void m2_scheduler_admit(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now)
{
	struct m2_task *task;
	lane->pause_waits = false;
	while ((task = m2_queue_next(lane, false)) != NULL) {
		const int32_t need = m2_scheduler_need(task);
		if (need > lane->n_free && !make_room(s, lane, task, need, now))
			break; /* everyone behind it waits with it */
		run(s, lane, task, now);
	}
	/* but those that have run already still change places when there is no memory for one more */
	if (task == NULL || task->stage != M2_STAGE_QUEUED || lane->pause_waits)
		return;
	while ((task = m2_queue_next(lane, true)) != NULL &&
		make_room(s, lane, task, lane->n_free + m2_scheduler_need(task), now))
		run(s, lane, task, now);
}
