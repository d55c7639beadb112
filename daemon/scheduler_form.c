/* scheduler_form.c - which tokens of which sequences make up the next step of a lane.
 *
 * Rows of logits: at most one per slot for decodes and ends of prompts, which lie at the beginning of
 * lane->rows, and M2_CHUNK more behind them for the one prompt per step whose every token is scored
 * through scratch memory.  Rows that the client asked to see go into results memory directly.
 */
#include "daemon/scheduler_internal.h"

#include <assert.h>

static float *row_at(struct m2_lane *lane, int32_t row)
{
	return lane->rows + (size_t)row * (size_t)lane->facts.vocab_rows;
}

static void add_item(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *sequence,
	struct m2_work work)
{
	assert(lane->n_items < lane->facts.slots);
	lane->work[lane->n_items] = work;
	lane->items[lane->n_items++] = (struct m2_item){task, sequence};
	task->in_step = true;
}

static void add_decode(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q)
{
	float *row = q->logits != NULL
			     ? q->logits + (size_t)q->generated * (size_t)lane->facts.vocab_rows
			     : row_at(lane, lane->n_rows++);
	add_item(lane, task, q,
		(struct m2_work){
			.slot = q->slot,
			.n_tokens = 1,
			.position = (int64_t)task->prompt_tokens + q->generated - 1,
			.tokens = &q->last,
			.logits_first = 0,
			.logits = row,
		});
}

static bool scored_through_scratch(const struct m2_task *task)
{
	return task->wants_prompt_scores && task->prompt_logits == NULL;
}

/* The next piece of a task's prompt behind what is planned already: to the next multiple of M2_CHUNK or
 * the prompt's end; 0 when nothing is left. */
static int32_t next_piece(const struct m2_task *task)
{
	const uint32_t at = task->prompt_done + task->planned;
	const uint32_t to_grid = (uint32_t)M2_CHUNK - at % (uint32_t)M2_CHUNK;
	const uint32_t left = task->prompt_tokens - at;
	return (int32_t)(left < to_grid ? left : to_grid);
}

/* ---- who may ------------------------------------------------------------------------------------ */

/* How far ahead.  Where taking part in a step has a price, a user who may begin comes with all they have, and
 * pays once. */
static uint64_t lead_of(const struct m2_lane *lane, const struct m2_fair_user *u)
{
	const struct m2_lane_facts *f = &lane->facts;
	const uint64_t lead = M2_FAIR_LEAD * f->cost.decode;
	return f->step_cost == 0 || u->planned == 0
		       ? lead
		       : lead + f->step_cost + (uint64_t)f->slots * f->cost.decode;
}

/* Is the task's user near enough to who is furthest behind? */
static bool may_go(const struct m2_lane *lane, const struct m2_task *task)
{
	const struct m2_fair_user *u = m2_user_of(lane, task);
	const uint64_t lead = m2_fair_time(lane->fair, task->place, lead_of(lane, u));
	uint64_t least = 0;
	(void)m2_fair_least(lane->fair, &least);
	return u->time + u->planned <= least + lead;
}

static void plan(struct m2_lane *lane, struct m2_task *task, uint64_t work)
{
	struct m2_fair_user *u = m2_user_of(lane, task);
	if (u->planned == 0)
		work += lane->facts.step_cost;
	u->planned += m2_fair_time(lane->fair, task->place, work);
	u->planned_work += work;
}

void m2_scheduler_book(struct m2_lane *lane, bool done)
{
	for (int32_t i = 0; i < lane->n_present; i++) {
		struct m2_fair_user *u = &lane->fair->users[lane->present[i]];
		if (done) {
			u->time += u->planned;
			atomic_fetch_add_explicit(&u->work, u->planned_work, memory_order_relaxed);
		}
		u->planned = u->planned_work = 0;
	}
}

/* ---- prompts ------------------------------------------------------------------------------------ */

/* Whose piece comes next: of who is furthest behind; of one user's in turn, one piece each.  A scored
 * prompt gets one piece, and only one such prompt a step: there are M2_CHUNK rows for them. */
static struct m2_task *next_dealt(struct m2_lane *lane, int32_t room, bool scores_taken)
{
	struct m2_task *best = NULL;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		const int32_t piece = next_piece(task);
		if (piece == 0 || piece > room || (scores_taken && scored_through_scratch(task)))
			continue;
		if (best != NULL) {
			const struct m2_fair_user *u = m2_user_of(lane, task);
			const struct m2_fair_user *b = m2_user_of(lane, best);
			const uint64_t time = u->time + u->planned;
			const uint64_t least = b->time + b->planned;
			if (time > least || (time == least && task->planned >= best->planned))
				continue;
		}
		best = task;
	}
	return best;
}

/* Deal pieces until the step is full, or whoever is next is too far ahead. */
static void deal(struct m2_lane *lane, int32_t room)
{
	struct m2_task *task;
	bool scores_taken = false;
	while (room > 0 && (task = next_dealt(lane, room, scores_taken)) != NULL &&
		may_go(lane, task)) {
		const int32_t piece = next_piece(task);
		scores_taken = scores_taken || scored_through_scratch(task);
		task->planned += (uint32_t)piece;
		room -= piece;
		plan(lane, task, (uint64_t)piece * lane->facts.cost.prompt);
	}
}

static void add_prompt(struct m2_lane *lane, struct m2_task *task)
{
	const int32_t n = (int32_t)task->planned;
	const bool ends = task->prompt_done + task->planned == task->prompt_tokens;
	struct m2_work work = {
		.slot = task->sequences[0].slot,
		.n_tokens = n,
		.position = task->prompt_done,
		.tokens = task->prompt + task->prompt_done,
		.logits_first = n,
		.logits = NULL,
	};
	if (task->prompt_logits != NULL) {
		work.logits_first = 0;
		work.logits = task->prompt_logits +
			      (size_t)task->prompt_done * (size_t)lane->facts.vocab_rows;
	} else if (task->wants_prompt_scores) {
		work.logits_first = 0;
		work.logits = row_at(lane, lane->facts.slots);
	} else if (ends) {
		work.logits_first = n - 1;
		work.logits = row_at(lane, lane->n_rows++);
	}
	add_item(lane, task, NULL, work);
}

/* All live sequences of a task, or none of them. */
static void add_decodes(struct m2_lane *lane, struct m2_task *task)
{
	for (uint32_t i = 0; i < task->n_sequences; i++)
		if (task->sequences[i].live)
			add_decode(lane, task, &task->sequences[i]);
	plan(lane, task, task->n_live * lane->facts.cost.decode);
}

void m2_scheduler_form(struct m2_lane *lane)
{
	lane->n_items = 0;
	lane->n_rows = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		task->planned = 0;
		if (task->prompt_done == task->prompt_tokens && may_go(lane, task))
			add_decodes(lane, task);
	}
	deal(lane, lane->facts.step_tokens - lane->n_items);
	for (int32_t i = 0; i < lane->n_running; i++)
		if (lane->running[i]->planned > 0)
			add_prompt(lane, lane->running[i]);
}
