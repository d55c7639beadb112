/* fake_backend.h - a backend for tests of the scheduler: "logits" are a function of the tokens a slot
 * has seen and of nothing else, and every rule of kernels/backend.h that a caller could break is checked.
 *
 * Included by one test program each; not thread-safe beyond what a backend must be.
 */
#ifndef M2_TESTS_FAKE_BACKEND_H
#define M2_TESTS_FAKE_BACKEND_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum { FAKE_SLOTS = 16, FAKE_VOCAB = 40, FAKE_ROWS = 48 }; /* 8 rows of padding */

struct fake_slot {
	uint64_t history;
	int64_t position;
};

struct m2_model {
	struct fake_slot slot[FAKE_SLOTS];
	int32_t picked[FAKE_SLOTS]; /* 1 + what the slot's last step picked, 0: nothing */
	int32_t slots;
	int32_t max_tokens;
	uint64_t salt;
	int broken;       /* rules of the boundary that were broken */
	int longest_step; /* most tokens in one step */
	int steps;
	int tokens; /* that slots were fed */
	int from_picks;
	int nan_at;            /* a history of that length gives NaN; -1 never */
	enum m2_err fail_step; /* returned by the next step */
	int saves;
	int restores;
	int fail_save;                           /* the save of that number fails; 0: none */
	void (*on_step)(struct m2_model *model); /* before a step */
};

static inline uint64_t fake_mix(uint64_t x)
{
	x += 0x9E3779B97F4A7C15u;
	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
	x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
	return x ^ (x >> 31);
}

static inline uint64_t fake_feed(uint64_t history, int32_t token)
{
	return fake_mix(history * 31 + (uint64_t)(uint32_t)token + 1);
}

/* The row after a history.  Padding gets the largest values: nobody may choose it. */
static inline void fake_row(uint64_t history, uint64_t salt, float *row)
{
	for (int i = 0; i < FAKE_ROWS; i++) {
		const uint64_t bits = fake_mix(history ^ salt ^ ((uint64_t)i << 40));
		row[i] = i < FAKE_VOCAB ? (float)(bits >> 40) / (float)(1 << 20) - 8.0F : 1e6F;
	}
}

/* The choice of struct m2_pick; of its log-probability only that it is a function of the row, and NaN when it
 * must be. */
static inline void fake_pick(const float *row, int32_t limit, struct m2_pick *out)
{
	float sum = 0;
	int32_t best = 0;
	for (int32_t v = 0; v < limit; v++) {
		best = row[v] > row[best] ? v : best;
		sum += row[v];
	}
	*out = (struct m2_pick){best, (sum - sum) + row[best] / -1024.0F, row[best]};
}

static inline enum m2_err fake_item(struct m2_model *m, const struct m2_work *w)
{
	struct fake_slot *s = &m->slot[w->slot];
	const int64_t end = w->position + w->n_tokens;
	m->broken += w->slot < 0 || w->slot >= m->slots || w->n_tokens < 1;
	m->broken += s->position != w->position;
	/* a span of more than one token begins on the grid */
	m->broken += w->n_tokens > 1 && w->position % M2_CHUNK != 0;
	/* one that gives no logits is not the last of its prompt: it ends on the grid */
	m->broken += w->logits == NULL && w->pick == NULL && end % M2_CHUNK != 0;
	m->broken += w->from_pick && (w->n_tokens != 1 || m->picked[w->slot] == 0);
	float last[FAKE_ROWS] = {0};
	for (int32_t t = 0; t < w->n_tokens; t++) {
		const int32_t token = w->from_pick ? m->picked[w->slot] - 1 : w->tokens[t];
		m->broken += token < 0 || token >= FAKE_ROWS;
		s->history = fake_feed(s->history, token);
		s->position++;
		const bool picks = w->pick != NULL && t == w->n_tokens - 1;
		if (t < w->logits_first && !picks)
			continue;
		fake_row(s->history, m->salt, last);
		if (s->position == m->nan_at)
			last[3] = 0.0F / 0.0F * (float)m->steps;
		if (t >= w->logits_first)
			memcpy(w->logits + (size_t)(t - w->logits_first) * FAKE_ROWS, last,
				sizeof last);
	}
	m->tokens += w->n_tokens;
	m->from_picks += w->from_pick;
	m->picked[w->slot] = 0;
	if (w->pick == NULL)
		return M2_OK;
	fake_pick(last, w->pick_limit > 0 ? w->pick_limit : FAKE_ROWS, w->pick);
	m->picked[w->slot] = w->pick->token + 1;
	return M2_OK;
}

static inline enum m2_err fake_step(
	struct m2_model *m, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	int tokens = 0;
	uint32_t seen = 0;
	if (m->on_step != NULL)
		m->on_step(m);
	m->steps++;
	m->broken += count < 1 || count > m->slots;
	if (m->fail_step != M2_OK) {
		const enum m2_err err = m->fail_step;
		m->fail_step = M2_OK;
		return m2_fail(err, why, "the fake device was told to fail");
	}
	for (int32_t i = 0; i < count; i++) {
		m->broken += (int)(seen >> items[i].slot & 1);
		seen |= 1U << items[i].slot;
		tokens += items[i].n_tokens;
		(void)fake_item(m, &items[i]);
	}
	m->broken += tokens > m->max_tokens;
	m->longest_step = tokens > m->longest_step ? tokens : m->longest_step;
	return M2_OK;
}

static inline enum m2_err fake_reset(struct m2_model *m, int32_t slot)
{
	m->slot[slot] = (struct fake_slot){0};
	m->picked[slot] = 0;
	return M2_OK;
}

static inline enum m2_err fake_copy(struct m2_model *m, int32_t dst, int32_t src)
{
	m->slot[dst] = m->slot[src];
	m->picked[dst] = 0;
	return M2_OK;
}

static inline enum m2_err fake_save(struct m2_model *m, int32_t slot, void *dst)
{
	if (++m->saves == m->fail_save)
		return M2_EDEVICE;
	memcpy(dst, &m->slot[slot], sizeof m->slot[slot]);
	m->picked[slot] = 0;
	m->slot[slot].position = -1; /* whoever gets the slot must set it first */
	return M2_OK;
}

static inline enum m2_err fake_restore(struct m2_model *m, int32_t slot, const void *src)
{
	m->restores++;
	m->picked[slot] = 0;
	memcpy(&m->slot[slot], src, sizeof m->slot[slot]);
	return M2_OK;
}

static const struct m2_backend fake_backend = {
	.name = "fake",
	.step = fake_step,
	.slot_reset = fake_reset,
	.slot_copy = fake_copy,
	.slot_save = fake_save,
	.slot_restore = fake_restore,
};

#endif
