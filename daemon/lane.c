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

void m2_lane_measure(
	struct m2_lane_facts *f, const struct m2_footprint *footprint, int64_t paused_bytes)
{
	const bool given = paused_bytes != M2_PAUSED_AS_SLOTS;
	const uint64_t most = given ? (uint64_t)f->slots * M2_PARKED_PER_SLOT
				    : 2 * (uint64_t)f->slots + 1; /* one to change places by */
	const uint64_t bytes = given ? (uint64_t)paused_bytes : M2_PAUSED_BYTES;
	const uint64_t fit = footprint->per_slot > 0 ? bytes / footprint->per_slot : most;
	f->cost = m2_fair_cost_of(footprint->weights, footprint->per_slot);
	f->slot_bytes = (size_t)footprint->per_slot;
	f->parked = (int32_t)(fit < most ? fit : most);
}

size_t m2_lane_bytes(const struct m2_lane_facts *f)
{
	const size_t item =
		sizeof(struct m2_work) + sizeof(struct m2_item) + sizeof(struct m2_pick);
	const size_t slot =
		2 * sizeof(struct m2_task *) + sizeof(int32_t) + M2_STEPS_IN_FLIGHT * item;
	const size_t place = sizeof(struct m2_party) + sizeof(int32_t);
	return sizeof(struct m2_lane) + sizeof(struct m2_waiters) + (size_t)f->slots * slot +
	       M2_FAIR_PLACES * place + (size_t)f->parked * (f->slot_bytes + sizeof(int32_t)) +
	       row_count(f) * (size_t)f->vocab_rows * sizeof(float) + m2_sampler_bytes(f->vocab) +
	       text_bytes(f);
}

static bool take_flights(struct m2_lane *lane)
{
	const size_t slots = (size_t)lane->facts.slots;
	bool all = true;
	for (int i = 0; i < M2_STEPS_IN_FLIGHT; i++) {
		struct m2_flight *f = &lane->flights[i];
		f->work = calloc(slots, sizeof *f->work);
		f->items = calloc(slots, sizeof *f->items);
		f->picks = calloc(slots, sizeof *f->picks);
		all = all && f->work != NULL && f->items != NULL && f->picks != NULL;
	}
	return all;
}

static bool take_memory(struct m2_lane *lane)
{
	const struct m2_lane_facts *f = &lane->facts;
	const size_t slots = (size_t)f->slots;
	const size_t row_bytes = row_count(f) * (size_t)f->vocab_rows * sizeof(float);
	const size_t parked = (size_t)f->parked;
	lane->waiters = calloc(1, sizeof *lane->waiters);
	lane->parties = calloc(M2_FAIR_PLACES, sizeof *lane->parties);
	lane->present = calloc(M2_FAIR_PLACES, sizeof *lane->present);
	lane->states = malloc(parked > 0 ? parked * f->slot_bytes : 1);
	lane->free_states = calloc(parked > 0 ? parked : 1, sizeof *lane->free_states);
	lane->running = calloc(slots, sizeof(struct m2_task *));
	lane->order = calloc(slots, sizeof(struct m2_task *));
	lane->free_slots = calloc(slots, sizeof *lane->free_slots);
	lane->rows = malloc(row_bytes);
	lane->text = malloc(text_bytes(f));
	if (!take_flights(lane) || lane->waiters == NULL || lane->parties == NULL ||
		lane->present == NULL || lane->states == NULL || lane->free_states == NULL ||
		lane->running == NULL || lane->order == NULL || lane->free_slots == NULL ||
		lane->rows == NULL || lane->text == NULL)
		return false;
	/* the page faults now, not in a step */
	memset(lane->rows, 0, row_bytes);
	memset(lane->states, 0, parked * f->slot_bytes);
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
	lane->wait_deadline = UINT64_MAX;
	if (facts->cost.prompt == 0 || facts->cost.decode == 0)
		lane->facts.cost = (struct m2_fair_cost){1, 1};
	if (m2_sampler_init(&lane->sampler, facts->vocab, why) != M2_OK || !take_memory(lane)) {
		m2_lane_destroy(&lane);
		return m2_fail(M2_ENOMEM, why, "no memory for %zu bytes of step buffers",
			m2_lane_bytes(facts));
	}
	/* the stack gives slot 0 first */
	for (int32_t i = 0; i < facts->slots; i++)
		lane->free_slots[i] = facts->slots - 1 - i;
	lane->n_free = facts->slots;
	for (int32_t i = 0; i < facts->parked; i++)
		lane->free_states[i] = facts->parked - 1 - i;
	lane->n_free_states = facts->parked;
	*out = lane;
	return M2_OK;
}

void m2_lane_destroy(struct m2_lane **lane)
{
	struct m2_lane *l = *lane;
	if (l == NULL)
		return;
	assert(l->n_running == 0 && l->n_present == 0);
	m2_sampler_finish(&l->sampler);
	free(l->waiters);
	free(l->parties);
	free(l->present);
	free(l->states);
	free(l->free_states);
	free(l->running);
	free(l->order);
	free(l->free_slots);
	for (int i = 0; i < M2_STEPS_IN_FLIGHT; i++) {
		free(l->flights[i].work);
		free(l->flights[i].items);
		free(l->flights[i].picks);
	}
	free(l->rows);
	free(l->text);
	free(l);
	*lane = NULL;
}
