/* scheduler_queue.c - who waits in a lane: a party for each user, in it a queue per priority and the paused.
 *
 * A party is found by its user's place in the table of users, so that the step thread searches nothing; the
 * list of those present is what is walked when slots are given out.
 */
#include "daemon/scheduler_internal.h"

#include <assert.h>

/* ---- lists ------------------------------------------------------------------------------------- */

static void append(struct m2_task_list *list, struct m2_task *task)
{
	task->next = NULL;
	if (list->last != NULL)
		list->last->next = task;
	else
		list->first = task;
	list->last = task;
}

/* Nearly always the first. */
static void take(struct m2_task_list *list, struct m2_task *task)
{
	struct m2_task *before = NULL;
	struct m2_task **link = &list->first;
	while (*link != task) {
		before = *link;
		link = &before->next;
	}
	*link = task->next;
	if (list->last == task)
		list->last = before;
	task->next = NULL;
}

static struct m2_task_list *list_of(struct m2_party *party, const struct m2_task *task)
{
	return task->stage == M2_STAGE_PAUSED ? &party->paused : &party->queue[task->priority];
}

/* ---- counting ---------------------------------------------------------------------------------- */

static void count(_Atomic int32_t *figure, int32_t by)
{
	atomic_fetch_add_explicit(figure, by, memory_order_relaxed);
}

static void count_stage(struct m2_lane *lane, const struct m2_task *task, int32_t by)
{
	struct m2_fair_user *user = m2_user_of(lane, task);
	if (task->stage == M2_STAGE_QUEUED) {
		count(&user->queued, by);
		count(&lane->queued, by);
	} else if (task->stage == M2_STAGE_RUNNING) {
		count(&user->running, by);
	} else if (task->stage == M2_STAGE_PAUSED) {
		count(&user->paused, by);
		count(&lane->paused, by);
	}
}

void m2_queue_enter(struct m2_lane *lane, struct m2_task *task)
{
	task->place = m2_fair_enter(lane->fair, task->uid, task->weight, task->user_slots,
		M2_FAIR_LEAD * lane->facts.cost.decode);
	m2_user_of(lane, task)->bytes_max = task->place < M2_FAIR_USERS ? task->user_bytes : 0;
	struct m2_party *party = m2_party_of(lane, task);
	if (party->tasks++ == 0)
		lane->present[lane->n_present++] = task->place;
	m2_queue_stage(lane, task, M2_STAGE_QUEUED);
}

static void leave_party(struct m2_lane *lane, struct m2_task *task)
{
	if (--m2_party_of(lane, task)->tasks == 0) {
		int32_t i = 0;
		while (lane->present[i] != task->place)
			i++;
		lane->present[i] = lane->present[--lane->n_present];
	}
	m2_fair_leave(lane->fair, task->place);
}

void m2_queue_stage(struct m2_lane *lane, struct m2_task *task, enum m2_stage stage)
{
	struct m2_party *party = m2_party_of(lane, task);
	if (task->stage == M2_STAGE_QUEUED || task->stage == M2_STAGE_PAUSED)
		take(list_of(party, task), task);
	if (task->stage == M2_STAGE_QUEUED && task->waits != NULL) {
		count(task->waits, -1);
		count(&lane->waiting, -1);
		task->waits = NULL;
	}
	count_stage(lane, task, -1);
	task->stage = stage;
	count_stage(lane, task, 1);
	if (stage == M2_STAGE_NONE) {
		leave_party(lane, task);
		return;
	}
	if (stage == M2_STAGE_RUNNING)
		return;
	append(list_of(party, task), task);
	if (task->deadline_ns < lane->wait_deadline)
		lane->wait_deadline = task->deadline_ns;
}

/* ---- whose turn -------------------------------------------------------------------------------- */

static int rank(const struct m2_task *task)
{
	static const int ranks[M2_PRIORITY_COUNT] = {
		[M2_PRIORITY_HIGH] = 0, [M2_PRIORITY_NORMAL] = 1, [M2_PRIORITY_LOW] = 2};
	return ranks[task->priority];
}

/* The party's next: by priority; what is paused, having come earlier, before what is queued. */
static struct m2_task *next_of(const struct m2_party *party, bool paused)
{
	static const enum m2_priority order[] = {
		M2_PRIORITY_HIGH, M2_PRIORITY_NORMAL, M2_PRIORITY_LOW};
	struct m2_task *best = party->paused.first;
	for (struct m2_task *t = best; t != NULL; t = t->next)
		if (rank(t) < rank(best) || (rank(t) == rank(best) && t->id < best->id))
			best = t;
	for (int i = 0; i < M2_PRIORITY_COUNT && !paused; i++) {
		struct m2_task *t = party->queue[order[i]].first;
		if (t != NULL && (best == NULL || rank(t) < rank(best)))
			best = t;
	}
	return best;
}

/* What is paused has its states in host memory already: it takes no more of them when it goes on. */
static bool within_bytes(
	const struct m2_lane *lane, const struct m2_fair_user *user, const struct m2_task *task)
{
	const uint64_t bytes = atomic_load_explicit(&user->slot_bytes, memory_order_relaxed) +
			       atomic_load_explicit(&user->paused_bytes, memory_order_relaxed);
	return user->bytes_max == 0 || bytes == 0 || task->stage == M2_STAGE_PAUSED ||
	       bytes + task->n_slots * lane->facts.slot_bytes <= user->bytes_max;
}

/* A user with nothing runs a task that is larger than their limit: it was let in under another. */
static bool within_limit(const struct m2_fair_user *user, const struct m2_task *task)
{
	const int32_t held = atomic_load_explicit(&user->held, memory_order_relaxed);
	return user->slots_max == 0 || held == 0 ||
	       held + m2_scheduler_need(task) <= user->slots_max;
}

/* Does a get a slot before b?  Fewest for their weight, then who is furthest behind in work. */
static bool before(struct m2_lane *lane, const struct m2_task *a, const struct m2_task *b)
{
	const struct m2_fair_user *ua = m2_user_of(lane, a);
	const struct m2_fair_user *ub = m2_user_of(lane, b);
	const int64_t of_a = (int64_t)m2_party_of(lane, a)->held *
			     atomic_load_explicit(&ub->weight, memory_order_relaxed);
	const int64_t of_b = (int64_t)m2_party_of(lane, b)->held *
			     atomic_load_explicit(&ua->weight, memory_order_relaxed);
	return of_a != of_b ? of_a < of_b : ua->time < ub->time;
}

struct m2_task *m2_queue_next(struct m2_lane *lane, bool paused)
{
	struct m2_task *best = NULL;
	if (atomic_load_explicit(&lane->queued, memory_order_relaxed) == 0 &&
		atomic_load_explicit(&lane->paused, memory_order_relaxed) == 0)
		return NULL;
	for (int32_t i = 0; i < lane->n_present; i++) {
		struct m2_task *task = next_of(&lane->parties[lane->present[i]], paused);
		const struct m2_fair_user *user = task != NULL ? m2_user_of(lane, task) : NULL;
		if (task != NULL && within_limit(user, task) && within_bytes(lane, user, task) &&
			(best == NULL || before(lane, task, best)))
			best = task;
	}
	return best;
}

struct m2_task *m2_queue_any(struct m2_lane *lane)
{
	for (int32_t i = 0; i < lane->n_present; i++) {
		struct m2_task *task = next_of(&lane->parties[lane->present[i]], false);
		if (task != NULL)
			return task;
	}
	return NULL;
}
