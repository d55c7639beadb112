/* lane.c - all memory of a resident model's steps, taken once at load; the contract is in scheduler.h. */
#include "daemon/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int32_t m2_lane_step_tokens(int32_t max_batch_tokens, int32_t slots)
{
	const int32_t least = slots + M2_CHUNK;
	return max_batch_tokens > least ? max_batch_tokens : least;
}

static size_t row_count(const struct m2_lane_facts *f)
{
	return (size_t)f->slots + M2_CHUNK;
}

static size_t text_bytes(const struct m2_lane_facts *f)
{
	/* + 9: what m2_text_stream_push may add */
	return f->tokenizer != NULL ? m2_tokenizer_max_text(f->tokenizer) + 9 : 1;
}

size_t m2_lane_bytes(const struct m2_lane_facts *f)
{
	const size_t slot = sizeof(struct m2_task *) + sizeof(int32_t) + sizeof(struct m2_work) +
			    sizeof(struct m2_item);
	return sizeof(struct m2_lane) + (size_t)f->slots * slot +
	       row_count(f) * (size_t)f->vocab_rows * sizeof(float) + m2_sampler_bytes(f->vocab) +
	       text_bytes(f);
}

static bool take_memory(struct m2_lane *lane)
{
	const struct m2_lane_facts *f = &lane->facts;
	const size_t slots = (size_t)f->slots;
	const size_t row_bytes = row_count(f) * (size_t)f->vocab_rows * sizeof(float);
	lane->running = calloc(slots, sizeof(struct m2_task *));
	lane->free_slots = calloc(slots, sizeof *lane->free_slots);
	lane->work = calloc(slots, sizeof *lane->work);
	lane->items = calloc(slots, sizeof *lane->items);
	lane->rows = malloc(row_bytes);
	lane->text = malloc(text_bytes(f));
	if (lane->running == NULL || lane->free_slots == NULL || lane->work == NULL ||
		lane->items == NULL || lane->rows == NULL || lane->text == NULL)
		return false;
	memset(lane->rows, 0, row_bytes); /* the page faults now, not in a step */
	return true;
}

enum m2_err m2_lane_create(
	const struct m2_lane_facts *facts, struct m2_lane **out, struct m2_why *why)
{
	assert(facts->slots >= 1 && facts->vocab >= 1 && facts->vocab <= facts->vocab_rows);
	struct m2_lane *lane = calloc(1, sizeof *lane);
	if (lane == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a lane");
	lane->facts = *facts;
	atomic_init(&lane->cancel_at, UINT64_MAX);
	lane->queue_deadline = UINT64_MAX;
	if (m2_sampler_init(&lane->sampler, facts->vocab, why) != M2_OK || !take_memory(lane)) {
		m2_lane_destroy(&lane);
		return m2_fail(M2_ENOMEM, why, "no memory for %zu bytes of step buffers",
			m2_lane_bytes(facts));
	}
	/* the stack gives slot 0 first */
	for (int32_t i = 0; i < facts->slots; i++)
		lane->free_slots[i] = facts->slots - 1 - i;
	lane->n_free = facts->slots;
	*out = lane;
	return M2_OK;
}

void m2_lane_destroy(struct m2_lane **lane)
{
	struct m2_lane *l = *lane;
	if (l == NULL)
		return;
	assert(l->n_running == 0 && l->queue_head == NULL);
	m2_sampler_finish(&l->sampler);
	free(l->running);
	free(l->free_slots);
	free(l->work);
	free(l->items);
	free(l->rows);
	free(l->text);
	free(l);
	*lane = NULL;
}
