/* scheduler_publish.c - from rows of logits and picks to results memory: tokens, scores, text, ends.
 *
 * What is stored becomes visible by the release stores of `published` and its kin, in the order that
 * common/results.h promises.  The doorbell is rung by scheduler_flight.c, once per task and
 * step.
 */
#include "daemon/scheduler_internal.h"

#include <math.h>
#include <string.h>

static bool is_end(const struct m2_task *task, int32_t token)
{
	for (int32_t i = 0; i < task->n_ends; i++)
		if (task->ends[i] == token)
			return true;
	return false;
}

static void fail_task(struct m2_task *task, enum m2_err err, const struct m2_why *why)
{
	if (task->failed)
		return;
	task->failed = true;
	task->err = err;
	task->why = *why;
}

/* The end of a sequence, its last counts included. */
static void end_sequence(struct m2_task *task, struct m2_sequence *q, enum m2_finish finish)
{
	if (q->text_end != NULL) {
		m2_completion_end(&q->text);
		if (q->generated > 0)
			q->text_end[q->generated - 1] = (uint32_t)q->text.shown;
		if (q->text.overflow) {
			struct m2_why why;
			fail_task(task,
				m2_fail(M2_EINTERNAL, &why,
					"more text than results memory was made for"),
				&why);
		}
	}
	q->live = false;
	task->n_live--;
	task->changed = true;
	atomic_store_explicit(&q->out->text_published, q->text.shown, memory_order_release);
	atomic_store_explicit(&q->out->finish, (uint32_t)finish, memory_order_release);
	atomic_store_explicit(&q->out->published, q->generated, memory_order_release);
}

void m2_scheduler_close(struct m2_task *task, enum m2_finish finish)
{
	for (uint32_t i = 0; i < task->n_sequences; i++)
		if (task->sequences[i].live)
			end_sequence(task, &task->sequences[i], finish);
}

/* Store a chosen token; M2_FINISH_RUNNING if the sequence goes on. */
static enum m2_finish append_token(
	struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q, int32_t token)
{
	const uint32_t at = q->generated++;
	q->tokens[at] = token;
	q->last = token;
	m2_counts_add(&q->counts, token, 1);
	enum m2_finish finish = M2_FINISH_RUNNING;
	if (is_end(task, token)) {
		q->out->stop_token = token;
		finish =
			M2_FINISH_STOP_TOKEN; /* its own text, if it has any, is not part of the text */
	} else if (q->text_end != NULL && m2_completion_push(&q->text, &task->stops,
						  lane->facts.tokenizer, token, lane->text)) {
		q->out->stop_string = q->text.stop;
		finish = M2_FINISH_STOP_STRING;
	} else if (q->generated == task->max_tokens) {
		finish = M2_FINISH_LENGTH;
	}
	if (q->text_end != NULL)
		q->text_end[at] = (uint32_t)q->text.shown;
	return finish;
}

/* What a step gives to choose a token from: the pick of a task that picks, else the row. */
struct choice {
	const float *row;
	const struct m2_pick *pick;
};

static enum m2_err take_pick(
	struct m2_sequence *q, const struct m2_pick *pick, int32_t *token, struct m2_why *why)
{
	if (!isfinite(pick->logprob))
		return m2_fail(M2_EDEVICE, why, "the model's logits are not finite numbers");
	*token = pick->token;
	if (q->logprobs != NULL)
		q->logprobs[q->generated] = pick->logprob;
	return M2_OK;
}

static enum m2_err sample(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q,
	const float *row, int32_t *token, struct m2_why *why)
{
	const struct m2_sampler_rule rule = {
		&task->sampling, task->bias, task->n_bias, (uint32_t)(q - task->sequences)};
	const uint32_t at = q->generated;
	enum m2_err err = m2_sampler_choose(&lane->sampler, row, &rule, &q->counts, at, token, why);
	if (err == M2_OK && q->logprobs != NULL)
		err = m2_sampler_logprobs(&lane->sampler, row, *token, task->top_k,
			&q->logprobs[at],
			q->top_ids != NULL ? q->top_ids + (size_t)at * task->top_k : NULL,
			q->top_logprobs != NULL ? q->top_logprobs + (size_t)at * task->top_k : NULL,
			why);
	if (err == M2_OK && q->logits != NULL) {
		float *shown = q->logits + (size_t)at * (size_t)lane->facts.vocab_rows;
		if (shown != row)
			memcpy(shown, row, (size_t)lane->facts.vocab_rows * sizeof *row);
	}
	return err;
}

/* One token of one sequence, published. */
static void extend(
	struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q, struct choice from)
{
	struct m2_why why;
	int32_t token = 0;
	const enum m2_err err = task->picks ? take_pick(q, from.pick, &token, &why)
					    : sample(lane, task, q, from.row, &token, &why);
	if (err != M2_OK) {
		fail_task(task, err, &why);
		end_sequence(task, q, M2_FINISH_ERROR);
		m2_scheduler_free_slot(lane, task, q);
		return;
	}
	const enum m2_finish finish = append_token(lane, task, q, token);
	atomic_fetch_add_explicit(&lane->generated_tokens, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(
		&m2_user_of(lane, task)->generated_tokens, 1, memory_order_relaxed);
	task->changed = true;
	if (finish != M2_FINISH_RUNNING) {
		end_sequence(task, q, finish);
		m2_scheduler_free_slot(lane, task, q);
		return;
	}
	atomic_store_explicit(&q->out->text_published, q->text.shown, memory_order_release);
	atomic_store_explicit(&q->out->published, q->generated, memory_order_release);
}

/* Scores that the rows of a piece give: row r predicts the token after position `first` + r. */
static enum m2_err score_rows(struct m2_lane *lane, struct m2_task *task, const float *rows,
	uint32_t first, uint32_t count, struct m2_why *why)
{
	for (uint32_t r = 0; r < count && task->prompt_logprobs != NULL; r++) {
		const uint32_t next = first + r + 1;
		if (next == task->prompt_tokens)
			break;
		const size_t top = (size_t)next * task->top_k;
		const enum m2_err err = m2_sampler_logprobs(&lane->sampler,
			rows + (size_t)r * (size_t)lane->facts.vocab_rows, task->prompt[next],
			task->top_k, &task->prompt_logprobs[next],
			task->prompt_top_ids != NULL ? task->prompt_top_ids + top : NULL,
			task->prompt_top_logprobs != NULL ? task->prompt_top_logprobs + top : NULL,
			why);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

/* The prompt is through: every sequence draws its first token from what the last one gave, and those that go on
 * get a copy of the state that the first one's slot holds. */
static void fork_sequences(struct m2_lane *lane, struct m2_task *task, struct choice from)
{
	const int32_t source = task->sequences[0].slot;
	for (uint32_t i = task->n_sequences; i-- > 0;) {
		struct m2_sequence *q = &task->sequences[i];
		const int32_t slot = q->slot;
		extend(lane, task, q, from); /* the first one last: its slot is still needed */
		if (!q->live || i == 0)
			continue;
		if (lane->facts.backend->slot_copy(lane->facts.model, slot, source) != M2_OK) {
			struct m2_why why;
			fail_task(task,
				m2_fail(M2_EDEVICE, &why, "copying a sequence's state failed"),
				&why);
			end_sequence(task, q, M2_FINISH_ERROR);
			m2_scheduler_free_slot(lane, task, q);
		}
	}
}

static void deliver_prompt(struct m2_lane *lane, struct m2_task *task, const struct m2_work *work)
{
	const uint32_t first = task->prompt_done;
	const uint32_t count = (uint32_t)work->n_tokens;
	struct m2_why why;
	task->prompt_done += count;
	task->prompt_ahead -= count;
	if (work->pick != NULL && task->n_sequences == 1)
		task->sequences[0].ahead--;
	atomic_fetch_add_explicit(&lane->prompt_tokens, count, memory_order_relaxed);
	atomic_fetch_add_explicit(
		&m2_user_of(lane, task)->prompt_tokens, count, memory_order_relaxed);
	if (task->wants_prompt_scores) {
		const enum m2_err err = score_rows(lane, task, work->logits, first, count, &why);
		if (err != M2_OK) {
			fail_task(task, err, &why);
			m2_scheduler_close(task, M2_FINISH_ERROR);
			return;
		}
		atomic_store_explicit(
			&task->header->prompt_published, task->prompt_done, memory_order_release);
		task->changed = true;
	}
	if (task->prompt_done < task->prompt_tokens || task->n_sequences == 0)
		return;
	struct choice from = {.pick = work->pick};
	if (!task->picks)
		from.row = work->logits + (size_t)(work->n_tokens - 1 - work->logits_first) *
						  (size_t)lane->facts.vocab_rows;
	fork_sequences(lane, task, from);
}

uint32_t m2_scheduler_deliver(
	struct m2_lane *lane, const struct m2_flight *flight, int32_t item, uint64_t now)
{
	const struct m2_work *work = &flight->work[item];
	struct m2_task *task = flight->items[item].task;
	struct m2_sequence *q = flight->items[item].sequence;
	struct m2_results_header *h = task->header;
	if (q == NULL) {
		/* before the first token is visible: a reader that sees it finds the time */
		if (task->n_sequences > 0 &&
			task->prompt_done + (uint32_t)work->n_tokens == task->prompt_tokens) {
			h->first_ns = now;
			h->first_engine_ns = h->engine_ns;
		}
		deliver_prompt(lane, task, work);
		return (uint32_t)work->n_tokens;
	}
	q->ahead--;
	if (!q->live)
		return 0; /* it ended when the step before this was looked at */
	extend(lane, task, q, (struct choice){work->logits, work->pick});
	return 1;
}
