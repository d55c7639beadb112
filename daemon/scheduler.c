/* scheduler.c - one step of one lane, in the order that scheduler.h gives. */
#include "daemon/scheduler.h"

#include <assert.h>

#include "daemon/scheduler_internal.h"

void m2_scheduler_add(struct m2_scheduler *s, struct m2_lane *lane)
{
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
	assert(lane->n_running == 0 && lane->queue_head == NULL);
	unlink_lane(s, lane);
}

void m2_scheduler_submit(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task)
{
	(void)s;
	task->lane = lane;
	task->next = NULL;
	if (lane->queue_tail != NULL)
		lane->queue_tail->next = task;
	else
		lane->queue_head = task;
	lane->queue_tail = task;
	if (task->deadline_ns < lane->queue_deadline)
		lane->queue_deadline = task->deadline_ns;
	/* its cancellation may have come, and rung, before it was here */
	if (atomic_load_explicit(&task->cancel, memory_order_relaxed) != 0)
		lane->queue_deadline = 0;
	atomic_fetch_add_explicit(&lane->queued, 1, memory_order_relaxed);
}

/* It leaves the queue; it is in no list after this. */
static void left_queue(struct m2_lane *lane, struct m2_task *task)
{
	task->next = NULL;
	atomic_fetch_sub_explicit(&lane->queued, 1, memory_order_relaxed);
	if (task->waits)
		atomic_fetch_sub_explicit(&lane->waiting, 1, memory_order_relaxed);
}

/* ---- ending ------------------------------------------------------------------------------------ */

static void release_slots(struct m2_lane *lane, struct m2_task *task)
{
	for (uint32_t i = 0; i < task->n_slots; i++) {
		struct m2_sequence *q = &task->sequences[i];
		if (q->slot >= 0)
			lane->free_slots[lane->n_free++] = q->slot;
		q->slot = -1;
	}
	atomic_store_explicit(
		&lane->slots_used, lane->facts.slots - lane->n_free, memory_order_relaxed);
}

/* All sequences have ended: finish the results and hand the task back.  It is not ours after this. */
static void retire(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task)
{
	release_slots(lane, task);
	m2_results_finish(
		task->header, task->err, task->err != M2_OK ? task->why.text : "", s->clock());
	s->events.done(s->events.ctx, task);
}

static void end_task(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task,
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
		end_task(s, lane, task, finish, M2_EDEADLINE, "the request's deadline passed");
	else if (finish == M2_FINISH_ERROR)
		end_task(
			s, lane, task, finish, M2_EWORKER, "the process that ran the request ends");
	else
		end_task(s, lane, task, M2_FINISH_CANCELLED, M2_ECANCELED,
			"the request was cancelled");
}

/* ---- sweep and admit --------------------------------------------------------------------------- */

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

/* The queue may be long, so it is walked only when something in it may have to end. */
static void sweep_queue(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now)
{
	const uint32_t alarm = atomic_load_explicit(&lane->alarm, memory_order_acquire);
	if (alarm == lane->alarm_seen && now < lane->queue_deadline &&
		now < atomic_load_explicit(&lane->cancel_at, memory_order_relaxed))
		return;
	lane->alarm_seen = alarm;
	lane->queue_deadline = UINT64_MAX;
	struct m2_task *task = lane->queue_head;
	struct m2_task **link = &lane->queue_head;
	lane->queue_tail = NULL;
	while (task != NULL) {
		struct m2_task *next = task->next;
		const enum m2_finish finish = verdict(lane, task, now);
		if (finish == M2_FINISH_RUNNING) {
			*link = task;
			link = &task->next;
			lane->queue_tail = task;
			if (task->deadline_ns < lane->queue_deadline)
				lane->queue_deadline = task->deadline_ns;
		} else {
			left_queue(lane, task);
			end_by_verdict(s, lane, task, finish);
		}
		task = next;
	}
	*link = NULL;
}

static struct m2_task *take_from_queue(struct m2_lane *lane)
{
	struct m2_task *task = lane->queue_head;
	lane->queue_head = task->next;
	if (lane->queue_head == NULL)
		lane->queue_tail = NULL;
	left_queue(lane, task);
	return task;
}

static void admit(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now)
{
	while (lane->queue_head != NULL && lane->queue_head->n_slots <= (uint32_t)lane->n_free) {
		struct m2_task *task = take_from_queue(lane);
		for (uint32_t i = 0; i < task->n_slots; i++)
			task->sequences[i].slot = lane->free_slots[--lane->n_free];
		atomic_store_explicit(
			&lane->slots_used, lane->facts.slots - lane->n_free, memory_order_relaxed);
		task->header->admitted_ns = now;
		/* the other slots get copies of this one, which also clears them */
		if (lane->facts.backend->slot_reset(lane->facts.model, task->sequences[0].slot) !=
			M2_OK) {
			end_task(s, lane, task, M2_FINISH_ERROR, M2_EDEVICE,
				"clearing a sequence's state failed");
			continue;
		}
		atomic_store_explicit(
			&task->header->state, M2_RESULTS_RUNNING, memory_order_release);
		lane->running[lane->n_running++] = task;
	}
}

/* ---- run and deliver --------------------------------------------------------------------------- */

static bool complete(const struct m2_task *task)
{
	return task->failed ? task->n_live == 0
			    : task->prompt_done == task->prompt_tokens && task->n_live == 0;
}

/* After a step: ring, tell, retire. */
static void settle(struct m2_scheduler *s, struct m2_lane *lane)
{
	int32_t kept = 0;
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
	atomic_store_explicit(
		&lane->slots_used, lane->facts.slots - lane->n_free, memory_order_relaxed);
}

/* A step that the backend refused: its tasks end, the others go on. */
static void drop_step(
	struct m2_scheduler *s, struct m2_lane *lane, enum m2_err err, const struct m2_why *why)
{
	int32_t kept = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		if (task->in_step)
			end_task(s, lane, task, M2_FINISH_ERROR, err, why->text);
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
		s->tokens += (uint64_t)lane->work[i].n_tokens;
		m2_scheduler_deliver(lane, i, now);
	}
	settle(s, lane);
	return M2_OK;
}

static enum m2_err step_lane(
	struct m2_scheduler *s, struct m2_lane *lane, bool *worked, struct m2_why *why)
{
	const uint64_t now = s->clock();
	sweep_running(s, lane, now);
	sweep_queue(s, lane, now);
	admit(s, lane, now);
	if (lane->n_running == 0)
		return M2_OK;
	m2_scheduler_form(lane);
	assert(lane->n_items > 0); /* there is room for everyone's next token or piece */
	*worked = true;
	return run_step(s, lane, why);
}

enum m2_err m2_scheduler_step(struct m2_scheduler *s, bool *worked, struct m2_why *why)
{
	*worked = false;
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		const enum m2_err err = step_lane(s, lane, worked, why);
		if (err != M2_OK)
			return err;
		if (!*worked)
			continue;
		/* its turn is over: to the end of the list */
		unlink_lane(s, lane);
		struct m2_lane **end = &s->lanes;
		while (*end != NULL)
			end = &(*end)->next;
		lane->next = NULL;
		*end = lane;
		return M2_OK;
	}
	return M2_OK;
}

void m2_scheduler_fail(struct m2_scheduler *s, enum m2_err err, const struct m2_why *why)
{
	for (struct m2_lane *lane = s->lanes; lane != NULL; lane = lane->next) {
		for (int32_t i = 0; i < lane->n_running; i++)
			end_task(s, lane, lane->running[i], M2_FINISH_ERROR, err, why->text);
		lane->n_running = 0;
		while (lane->queue_head != NULL)
			end_task(s, lane, take_from_queue(lane), M2_FINISH_ERROR, err, why->text);
	}
}
