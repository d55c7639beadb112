/* scheduler_flight.c - steps on their way: begun, waited for in the same order, and what becomes of a task's
 * part in them when it ends meanwhile.
 *
 * A task knows how much of it is under way (flying, ahead, prompt_ahead), and an item whose task it is; the
 * one who ends first leaves the other alone.  Picks are written into the flight, so an item that is nobody's
 * needs nothing of the task that it was for.
 */
#include "daemon/scheduler_internal.h"

#include <assert.h>
#include <string.h>

static struct m2_flight *oldest(struct m2_lane *lane)
{
	return &lane->flights[lane->waited % M2_STEPS_IN_FLIGHT];
}

static void find_rows(struct m2_lane *lane)
{
	lane->rows_busy = false;
	for (uint32_t i = lane->waited; i != lane->begun; i++)
		lane->rows_busy = lane->rows_busy || lane->flights[i % M2_STEPS_IN_FLIGHT].rows;
}

/* ---- begin ------------------------------------------------------------------------------------- */

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

/* Those that are in the step go behind those that are not, and its first behind its others: so that each
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

static void take_off(struct m2_lane *lane, const struct m2_flight *f)
{
	for (int32_t i = 0; i < f->n_items; i++) {
		struct m2_task *task = f->items[i].task;
		struct m2_sequence *q = f->items[i].sequence;
		task->rows_flying = task->rows_flying || f->work[i].logits != NULL;
		if (q == NULL) {
			task->prompt_ahead += (uint32_t)f->work[i].n_tokens;
			/* what the end of a prompt gives to several is dealt out when it has come */
			q = f->work[i].pick != NULL && task->n_sequences == 1 ? task->sequences
									      : NULL;
		}
		if (q != NULL)
			q->ahead++;
	}
	for (int32_t i = 0; i < lane->n_running; i++)
		lane->running[i]->flying += lane->running[i]->in_step;
	rotate(lane);
	for (int32_t i = 0; i < lane->n_running; i++)
		lane->running[i]->in_step = false;
}

enum m2_err m2_flight_begin(struct m2_scheduler *s, struct m2_lane *lane, struct m2_why *why)
{
	struct m2_flight *f = m2_flight_next(lane);
	assert(s->n_flying < m2_flight_most(lane));
	f->begun_ns = s->clock();
	const enum m2_err err = m2_backend_step_begin(
		lane->facts.backend, lane->facts.model, f->work, f->n_items, why);
	m2_scheduler_book(lane, err == M2_OK);
	if (err == M2_EDEVICE)
		return err;
	if (err != M2_OK) {
		drop_step(s, lane, err, why);
		return M2_OK;
	}
	take_off(lane, f);
	lane->begun++;
	s->flying[s->n_flying++] = lane;
	find_rows(lane);
	return M2_OK;
}

/* ---- wait -------------------------------------------------------------------------------------- */

/* Whose it is: in_step of those whom the flight is for. */
static void land(struct m2_lane *lane, const struct m2_flight *f, uint64_t took)
{
	for (int32_t i = 0; i < f->n_items; i++) {
		if (f->items[i].task == NULL)
			continue;
		f->items[i].task->in_step = true;
		if (f->work[i].logits != NULL)
			f->items[i].task->rows_flying = false;
	}
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		task->flying -= task->in_step;
		task->header->engine_ns += task->in_step ? took : 0;
	}
}

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
			m2_scheduler_retire(s, lane, task); /* rings */
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

static void deliver(
	struct m2_scheduler *s, struct m2_lane *lane, const struct m2_flight *f, uint64_t now)
{
	s->steps++;
	atomic_fetch_add_explicit(&lane->steps, 1, memory_order_relaxed);
	for (int32_t i = 0; i < f->n_items; i++) {
		struct m2_task *task = f->items[i].task;
		if (task == NULL)
			continue;
		const uint32_t tokens = m2_scheduler_deliver(lane, f, i, now);
		s->tokens += tokens;
		task->turn_tokens += tokens;
	}
	settle(s, lane);
}

enum m2_err m2_flight_wait(struct m2_scheduler *s, struct m2_why *why)
{
	struct m2_lane *lane = s->flying[0];
	struct m2_flight *f = oldest(lane);
	const enum m2_err err = m2_backend_step_wait(lane->facts.backend, lane->facts.model, why);
	if (err == M2_EDEVICE)
		return err;
	/* with two under way, the device was at this one from the end of the other */
	const uint64_t now = s->clock();
	const uint64_t start = f->begun_ns > s->waited_ns ? f->begun_ns : s->waited_ns;
	s->waited_ns = now;
	lane->waited++;
	s->n_flying--;
	memmove(s->flying, s->flying + 1, (size_t)s->n_flying * sizeof *s->flying);
	find_rows(lane);
	land(lane, f, now - start);
	if (err == M2_OK)
		deliver(s, lane, f, now);
	else
		drop_step(s, lane, err, why);
	return M2_OK;
}

/* ---- ends -------------------------------------------------------------------------------------- */

void m2_flight_forget(struct m2_lane *lane, struct m2_task *task)
{
	if (task->flying == 0)
		return;
	assert(!task->rows_flying); /* its results memory is still to be written to */
	task->flying = 0;
	for (uint32_t i = lane->waited; i != lane->begun; i++) {
		struct m2_flight *f = &lane->flights[i % M2_STEPS_IN_FLIGHT];
		for (int32_t k = 0; k < f->n_items; k++)
			if (f->items[k].task == task)
				f->items[k].task = NULL;
	}
}

void m2_flight_drop(struct m2_scheduler *s, const struct m2_lane *only, bool wait)
{
	struct m2_why unsaid; /* a device that is gone will say so again */
	int32_t kept = 0;
	for (int32_t i = 0; i < s->n_flying; i++) {
		struct m2_lane *lane = s->flying[i];
		if (only != NULL && only != lane) {
			s->flying[kept++] = lane;
			continue;
		}
		if (wait)
			(void)m2_backend_step_wait(lane->facts.backend, lane->facts.model, &unsaid);
		lane->waited = lane->begun;
		lane->rows_busy = false;
		for (int32_t k = 0; k < lane->n_running; k++) {
			lane->running[k]->flying = 0;
			lane->running[k]->rows_flying = false;
		}
	}
	s->n_flying = kept;
}
