/* scheduler.c - from one step to the next, in the order that scheduler.h gives. */
#include "daemon/scheduler.h"

#include <assert.h>

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
	m2_flight_drop(s, lane, true);
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

void m2_scheduler_retire(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task)
{
	const uint64_t now = s->clock();
	m2_flight_forget(lane, task);
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
	m2_scheduler_retire(s, lane, task);
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
		/* logits on their way go into its results memory */
		if (finish == M2_FINISH_RUNNING || task->rows_flying)
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

/* ---- a step --------------------------------------------------------------------------------------- */

/* The lane of the user who is furthest behind, of those not passed; the first of several.  NULL: nothing
 * runs there. */
static struct m2_lane *choose_lane(struct m2_scheduler *s, uint64_t *time_of)
{
	struct m2_lane *best = NULL;
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		for (int32_t i = 0; i < lane->n_running && !lane->passed; i++) {
			const uint64_t time = m2_user_of(lane, lane->running[i])->time;
			if (best == NULL || time < *time_of) {
				best = lane;
				*time_of = time;
			}
		}
	}
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

/* A step of the first lane that has one, if any has. */
static enum m2_err begin_next(struct m2_scheduler *s, bool *begun, struct m2_why *why)
{
	uint64_t least = 0;
	struct m2_lane *lane = choose_lane(s, &least);
	if (lane != NULL)
		m2_fair_advance(&s->fair, least);
	while (lane != NULL && (lane->pause_waits || !m2_scheduler_form(lane))) {
		assert(s->n_flying > 0); /* else there is room for everyone's next token or piece */
		lane->passed = true;
		lane = choose_lane(s, &least);
	}
	*begun = lane != NULL;
	if (lane == NULL)
		return M2_OK;
	const enum m2_err err = m2_flight_begin(s, lane, why);
	pass_turn(s, lane);
	return err;
}

enum m2_err m2_scheduler_step(struct m2_scheduler *s, bool *worked, struct m2_why *why)
{
	const uint64_t now = s->clock();
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		sweep_running(s, lane, now);
		sweep_waiting(s, lane, now);
		m2_scheduler_admit(s, lane, now);
		lane->passed = false;
	}
	bool begun;
	enum m2_err err = begin_next(s, &begun, why);
	*worked = begun || s->n_flying > 0;
	if (err == M2_OK && s->n_flying > 0 &&
		(!begun || s->n_flying == m2_flight_most(s->flying[0])))
		err = m2_flight_wait(s, why);
	return err;
}

void m2_scheduler_fail(struct m2_scheduler *s, enum m2_err err, const struct m2_why *why)
{
	m2_flight_drop(s, NULL, err != M2_EDEVICE);
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
