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
	struct m2_work work, bool pick)
{
	struct m2_flight *f = m2_flight_next(lane);
	assert(f->n_items < lane->facts.slots);
	if (pick) {
		work.pick = &f->picks[f->n_items];
		work.pick_limit = lane->facts.vocab;
	}
	f->rows = f->rows || work.logits != NULL;
	f->work[f->n_items] = work;
	f->items[f->n_items++] = (struct m2_item){task, sequence};
	task->in_step = true;
}

static void add_decode(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q)
{
	struct m2_work work = {
		.slot = q->slot,
		.n_tokens = 1,
		.position = (int64_t)task->prompt_tokens + q->generated + q->ahead - 1,
		.tokens = &q->last,
		.logits_first = task->picks ? 1 : 0,
		.from_pick = q->ahead > 0,
	};
	if (q->logits != NULL)
		work.logits = q->logits + (size_t)q->generated * (size_t)lane->facts.vocab_rows;
	else if (!task->picks)
		work.logits = row_at(lane, lane->n_rows++);
	add_item(lane, task, q, work, task->picks);
}

static bool scored_through_scratch(const struct m2_task *task)
{
	return task->wants_prompt_scores && task->prompt_logits == NULL;
}

/* Of the prompt, with what is under way. */
static uint32_t begun_of(const struct m2_task *task)
{
	return task->prompt_done + task->prompt_ahead;
}

/* The next piece of a task's prompt behind what is planned already: to the next multiple of M2_CHUNK or
 * the prompt's end; 0 when nothing is left. */
static int32_t next_piece(const struct m2_task *task)
{
	const uint32_t at = begun_of(task) + task->planned;
	const uint32_t to_grid = (uint32_t)M2_CHUNK - at % (uint32_t)M2_CHUNK;
	const uint32_t left = task->prompt_tokens - at;
	return (int32_t)(left < to_grid ? left : to_grid);
}

/* Must a piece wait for logits that are under way? */
static bool lacks_rows(const struct m2_lane *lane, const struct m2_task *task, int32_t piece)
{
	const bool ends = begun_of(task) + task->planned + (uint32_t)piece == task->prompt_tokens;
	return lane->rows_busy && (task->wants_prompt_scores || (ends && !task->picks));
}

/* ---- who may ------------------------------------------------------------------------------------ */

/* Has it sequences whose prompt is through, and that do not end with what is under way? */
static bool decodes(const struct m2_task *task)
{
	if (begun_of(task) < task->prompt_tokens)
		return false;
	for (uint32_t i = 0; i < task->n_sequences; i++) {
		const struct m2_sequence *q = &task->sequences[i];
		if (q->live) /* one is like the others: they are in the same steps */
			return q->generated + q->ahead < task->max_tokens;
	}
	return false;
}

/* And are their tokens where they are needed: on the host, or, picked, on the device? */
static bool ready(const struct m2_lane *lane, const struct m2_task *task)
{
	if (task->flying == 0)
		return task->picks || !lane->rows_busy;
	const bool forked = task->n_sequences == 1 || task->prompt_done == task->prompt_tokens;
	return task->picks && forked && !task->rows_flying;
}

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
		if (piece == 0 || piece > room || (scores_taken && scored_through_scratch(task)) ||
			lacks_rows(lane, task, piece))
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
	const uint32_t at = begun_of(task);
	const bool ends = at + task->planned == task->prompt_tokens;
	struct m2_work work = {
		.slot = task->sequences[0].slot,
		.n_tokens = n,
		.position = at,
		.tokens = task->prompt + at,
		.logits_first = n,
		.logits = NULL,
	};
	if (task->prompt_logits != NULL) {
		work.logits_first = 0;
		work.logits = task->prompt_logits + (size_t)at * (size_t)lane->facts.vocab_rows;
	} else if (task->wants_prompt_scores) {
		work.logits_first = 0;
		work.logits = row_at(lane, lane->facts.slots);
	} else if (ends && !task->picks) {
		work.logits_first = n - 1;
		work.logits = row_at(lane, lane->n_rows++);
	}
	add_item(lane, task, NULL, work, ends && task->picks);
}

/* All live sequences of a task, or none of them. */
static void add_decodes(struct m2_lane *lane, struct m2_task *task)
{
	for (uint32_t i = 0; i < task->n_sequences; i++)
		if (task->sequences[i].live)
			add_decode(lane, task, &task->sequences[i]);
	plan(lane, task, task->n_live * lane->facts.cost.decode);
}

static void add_all_decodes(struct m2_lane *lane)
{
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		task->planned = 0;
		if (!decodes(task) || !may_go(lane, task))
			continue;
		if (ready(lane, task))
			add_decodes(lane, task);
		else
			lane->left_out += (int32_t)task->n_live;
	}
}

static void add_all_prompts(struct m2_lane *lane)
{
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		const int32_t piece = next_piece(task);
		if (task->planned > 0)
			add_prompt(lane, task);
		else if (piece > 0 && lacks_rows(lane, task, piece) && may_go(lane, task))
			lane->left_out++;
	}
}

/* What was planned is not done. */
static void forget_step(struct m2_lane *lane)
{
	m2_scheduler_book(lane, false);
	for (int32_t i = 0; i < lane->n_running; i++)
		lane->running[i]->in_step = false;
}

bool m2_scheduler_form(struct m2_lane *lane)
{
	struct m2_flight *f = m2_flight_next(lane);
	f->n_items = 0;
	f->rows = false;
	lane->n_rows = 0;
	lane->left_out = 0;
	add_all_decodes(lane);
	deal(lane, lane->facts.step_tokens - f->n_items);
	add_all_prompts(lane);
	if (f->n_items > 0 && lane->left_out * M2_AHEAD_SHARE <= f->n_items)
		return true;
	forget_step(lane);
	return false;
}
