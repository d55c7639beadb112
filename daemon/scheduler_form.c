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

/* Deal pieces in turn until a round gives nobody anything.  A scored prompt gets one piece, and only
 * one such prompt a step: there are M2_CHUNK rows for them. */
static void deal(struct m2_lane *lane, int32_t room)
{
	int32_t score_rows = M2_CHUNK;
	bool dealt = true;
	while (dealt && room > 0) {
		dealt = false;
		for (int32_t i = 0; i < lane->n_running; i++) {
			struct m2_task *task = lane->running[(lane->turn + i) % lane->n_running];
			const bool scored = scored_through_scratch(task);
			const int32_t piece = next_piece(task);
			if (piece == 0 || piece > room)
				continue;
			if (scored && (task->planned > 0 || score_rows < M2_CHUNK))
				continue;
			if (scored)
				score_rows -= piece;
			task->planned += (uint32_t)piece;
			room -= piece;
			dealt = true;
		}
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

void m2_scheduler_form(struct m2_lane *lane)
{
	lane->n_items = 0;
	lane->n_rows = 0;
	for (int32_t i = 0; i < lane->n_running; i++) {
		struct m2_task *task = lane->running[i];
		task->planned = 0;
		if (task->prompt_done < task->prompt_tokens)
			continue;
		for (uint32_t s = 0; s < task->n_sequences; s++)
			if (task->sequences[s].live)
				add_decode(lane, task, &task->sequences[s]);
	}
	if (lane->n_running == 0)
		return;
	lane->turn = (lane->turn + 1) % lane->n_running;
	deal(lane, lane->facts.step_tokens - lane->n_items);
	for (int32_t i = 0; i < lane->n_running; i++)
		if (lane->running[i]->planned > 0)
			add_prompt(lane, lane->running[i]);
}
