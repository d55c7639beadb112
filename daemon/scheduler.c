/* scheduler.c - one step of one lane, in the order that scheduler.h gives. */
#include "daemon/scheduler.h"

#include <assert.h>
#include <string.h>

#include "daemon/scheduler_internal.h"

void m2_scheduler_add(struct m2_scheduler *s, struct m2_lane *lane)
{
	lane->fair = &s->fair;
	lane->next = s->lanes;
	s->lanes = lane;
}

static void unlink_lane(struct m2_scheduler *s, struct m2_lane *lane)
{
	struct m2_lane **at = &s->lanes;
	while (*at != lane)
		at = &(*at)->next;
	*at = lane->next;
}

void m2_scheduler_remove(struct m2_scheduler *s, struct m2_lane *lane)
{
	assert(lane->n_running == 0 && lane->n_present == 0);
	unlink_lane(s, lane);
}

void m2_scheduler_submit(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task)
{
	(void)s;
	task->lane = lane;
	m2_queue_enter(lane, task);
	/* its cancellation may have come, and rung, before it was here */
	if (atomic_load_explicit(&task->cancel, memory_order_relaxed) != 0)
		lane->wait_deadline = 0;
}

/* ---- ending ------------------------------------------------------------------------------------ */

/* All sequences have ended: finish the results and hand the task back.  It is not ours after this. */
static void retire(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task)
{
	const uint64_t now = s->clock();
	if (task->stage == M2_STAGE_PAUSED)
		task->header->paused_ns += now - task->paused_at;
	m2_scheduler_free_all(lane, task);
	m2_queue_stage(lane, task, M2_STAGE_NONE);
	m2_results_finish(task->header, task->err, task->err != M2_OK ? task->why.text : "", now);
	s->events.done(s->events.ctx, task);
}

void m2_scheduler_end(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task,
	enum m2_finish finish, enum m2_err err, const char *sentence)
{
	task->err = m2_fail(err, &task->why, "%s", sentence);
	m2_scheduler_close(task, finish);
	retire(s, lane, task);
}

/* What ends this task now, if anything. */
static enum m2_finish verdict(const struct m2_lane *lane, struct m2_task *task, uint64_t now)
{
	const uint32_t cancel = atomic_load_explicit(&task->cancel, memory_order_acquire);
	if (cancel != 0)
		return (enum m2_finish)cancel;
	if (now >= atomic_load_explicit(&lane->cancel_at, memory_order_relaxed))
		return M2_FINISH_CANCELLED;
	return now >= task->deadline_ns ? M2_FINISH_DEADLINE : M2_FINISH_RUNNING;
}

static void end_by_verdict(
	struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task, enum m2_finish finish)
{
	if (finish == M2_FINISH_DEADLINE)
		m2_scheduler_end(
			s, lane, task, finish, M2_EDEADLINE, "the request's deadline passed");
	else if (finish == M2_FINISH_ERROR)
		m2_scheduler_end(
			s, lane, task, finish, M2_EWORKER, "the process that ran the request ends");
	else
		m2_scheduler_end(s, lane, task, M2_FINISH_CANCELLED, M2_ECANCELED,
			"the request was cancelled");
}

/* ---- sweep ------------------------------------------------------------------------------------- */

static void sweep_running(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now)
{
	int32_t kept = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		const enum m2_finish finish = verdict(lane, task, now);
		if (finish == M2_FINISH_RUNNING)
			lane->running[kept++] = task;
		else
			end_by_verdict(s, lane, task, finish);
	}
	lane->n_running = kept;
}

static void sweep_list(
	struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *first, uint64_t now)
{
	for (struct m2_task *task = first, *next; task != NULL; task = next) {
		next = task->next;
		const enum m2_finish finish = verdict(lane, task, now);
		if (finish != M2_FINISH_RUNNING)
			end_by_verdict(s, lane, task, finish);
		else if (task->deadline_ns < lane->wait_deadline)
			lane->wait_deadline = task->deadline_ns;
	}
}

/* Those that wait may be many, so they are walked only when one of them may have to end. */
static void sweep_waiting(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now)
{
	const uint32_t alarm = atomic_load_explicit(&lane->alarm, memory_order_acquire);
	if (alarm == lane->alarm_seen && now < lane->wait_deadline &&
		now < atomic_load_explicit(&lane->cancel_at, memory_order_relaxed))
		return;
	lane->alarm_seen = alarm;
	lane->wait_deadline = UINT64_MAX;
	/* backwards: a party that is emptied has the last one put in its place */
	for (int32_t i = lane->n_present; i-- > 0;) {
		struct m2_party *party = &lane->parties[lane->present[i]];
		for (int p = 0; p < M2_PRIORITY_COUNT; p++)
			sweep_list(s, lane, party->queue[p].first, now);
		sweep_list(s, lane, party->paused.first, now);
	}
}

/* ---- run and deliver --------------------------------------------------------------------------- */

static bool complete(const struct m2_task *task)
{
	return task->failed ? task->n_live == 0
			    : task->prompt_done == task->prompt_tokens && task->n_live == 0;
}

/* Those that were in the step go behind those that were not, and its first behind its others: so that each
 * of a user's tasks has its turn when there is not room, or not the right, for all of them. */
static void rotate(struct m2_lane *lane)
{
	struct m2_task *first = NULL;
	int32_t n = 0;
	for (int32_t i = 0; i < lane->n_running; i++)
		if (!lane->running[i]->in_step)
			lane->order[n++] = lane->running[i];
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		if (!task->in_step)
			continue;
		if (first != NULL)
			lane->order[n++] = task;
		else
			first = task;
	}
	if (first != NULL)
		lane->order[n++] = first;
	memcpy(lane->running, lane->order, (size_t)n * sizeof *lane->order);
}

/* After a step: ring, tell, retire. */
static void settle(struct m2_scheduler *s, struct m2_lane *lane)
{
	int32_t kept = 0;
	rotate(lane);
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		const bool changed = task->changed;
		task->in_step = false;
		task->changed = false;
		if (complete(task)) {
			retire(s, lane, task); /* rings */
			continue;
		}
		lane->running[kept++] = task;
		if (changed && (task->flags & M2_REQUEST_MESSAGES) != 0)
			s->events.news(s->events.ctx, task);
		else if (changed)
			m2_results_ring(task->header);
	}
	lane->n_running = kept;
}

/* A step that the backend refused: its tasks end, the others go on. */
static void drop_step(
	struct m2_scheduler *s, struct m2_lane *lane, enum m2_err err, const struct m2_why *why)
{
	int32_t kept = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		if (task->in_step)
			m2_scheduler_end(s, lane, task, M2_FINISH_ERROR, err, why->text);
		else
			lane->running[kept++] = task;
	}
	lane->n_running = kept;
}

static enum m2_err run_step(struct m2_scheduler *s, struct m2_lane *lane, struct m2_why *why)
{
	const uint64_t start = s->clock();
	const enum m2_err err =
		lane->facts.backend->step(lane->facts.model, lane->work, lane->n_items, why);
	const uint64_t now = s->clock();
	m2_scheduler_book(lane, err == M2_OK);
	if (err == M2_EDEVICE)
		return err;
	if (err != M2_OK) {
		drop_step(s, lane, err, why);
		return M2_OK;
	}
	s->steps++;
	atomic_fetch_add_explicit(&lane->steps, 1, memory_order_relaxed);
	for (int32_t i = 0; i < lane->n_running; i++)
		if (lane->running[i]->in_step)
			lane->running[i]->header->engine_ns += now - start;
	for (int32_t i = 0; i < lane->n_items; i++) {
		const uint32_t tokens = (uint32_t)lane->work[i].n_tokens;
		s->tokens += tokens;
		lane->items[i].task->turn_tokens += tokens;
		m2_scheduler_deliver(lane, i, now);
	}
	settle(s, lane);
	return M2_OK;
}

/* The lane of the user who is furthest behind; the first of several.  NULL: nothing runs. */
static struct m2_lane *choose_lane(struct m2_scheduler *s)
{
	struct m2_lane *best = NULL;
	uint64_t least = 0;
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		for (int32_t i = 0; i < lane->n_running; i++) {
			const uint64_t time = m2_user_of(lane, lane->running[i])->time;
			if (best == NULL || time < least) {
				best = lane;
				least = time;
			}
		}
	}
	if (best != NULL)
		m2_fair_advance(&s->fair, least);
	return best;
}

/* Its turn is over: to the end of the list. */
static void pass_turn(struct m2_scheduler *s, struct m2_lane *lane)
{
	unlink_lane(s, lane);
	struct m2_lane **end = &s->lanes;
	while (*end != NULL)
		end = &(*end)->next;
	lane->next = NULL;
	*end = lane;
}

enum m2_err m2_scheduler_step(struct m2_scheduler *s, bool *worked, struct m2_why *why)
{
	const uint64_t now = s->clock();
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		sweep_running(s, lane, now);
		sweep_waiting(s, lane, now);
		m2_scheduler_admit(s, lane, now);
	}
	struct m2_lane *lane = choose_lane(s);
	*worked = lane != NULL;
	if (lane == NULL)
		return M2_OK;
	m2_scheduler_form(lane);
	assert(lane->n_items > 0); /* there is room for everyone's next token or piece */
	const enum m2_err err = run_step(s, lane, why);
	pass_turn(s, lane);
	return err;
}

void m2_scheduler_fail(struct m2_scheduler *s, enum m2_err err, const struct m2_why *why)
{
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		struct m2_task *task;
		for (int32_t i = 0; i < lane->n_running; i++)
			m2_scheduler_end(
				s, lane, lane->running[i], M2_FINISH_ERROR, err, why->text);
		lane->n_running = 0;
		while ((task = m2_queue_any(lane)) != NULL)
			m2_scheduler_end(s, lane, task, M2_FINISH_ERROR, err, why->text);
	}
}
