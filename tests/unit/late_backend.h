/* late_backend.h - any synchronous backend as one that runs steps by itself: what a step gives is written when
 * it is waited for and not before, into memory that must then still be there.
 *
 * The step is computed when it is begun, so that slot functions take effect behind it, as they must.  Until it
 * is waited for its picks are what no token is.  Included by one test program each, and by the pretended GPU of the
 * system tests; the thread that steps.
 */
#ifndef M2_TESTS_LATE_BACKEND_H
#define M2_TESTS_LATE_BACKEND_H

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum { LATE_MODELS = 16, LATE_ITEMS = 256 };

struct late_step {
	int32_t count;
	float *to[LATE_ITEMS]; /* NULL: no logits */
	float *logits[LATE_ITEMS];
	size_t bytes[LATE_ITEMS];
	struct m2_pick *pick_to[LATE_ITEMS];
	struct m2_pick picks[LATE_ITEMS];
};

struct late_queue {
	struct m2_model *model;
	struct late_step steps[M2_STEPS_IN_FLIGHT];
	uint32_t begun;
	uint32_t waited;
	uint32_t deepest;
};

static const struct m2_backend *late_inner;
static size_t late_row_bytes;
static enum m2_err late_fail_wait; /* returned by the next wait */
static struct late_queue late_queues[LATE_MODELS];

static inline struct late_queue *late_queue_of(struct m2_model *model)
{
	struct late_queue *idle = NULL; /* an empty one, or of a model that has nothing under way */
	for (int i = LATE_MODELS; i-- > 0;) {
		if (late_queues[i].model == model)
			return &late_queues[i];
		if (late_queues[i].begun == late_queues[i].waited &&
			(idle == NULL || idle->model != NULL || late_queues[i].model == NULL))
			idle = &late_queues[i];
	}
	assert(idle != NULL);
	*idle = (struct late_queue){.model = model};
	return idle;
}

static inline enum m2_err late_begin(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	struct late_queue *q = late_queue_of(model);
	struct late_step *s = &q->steps[q->begun % M2_STEPS_IN_FLIGHT];
	struct m2_work mine[LATE_ITEMS] = {{0}};
	assert(count <= LATE_ITEMS && q->begun - q->waited < M2_STEPS_IN_FLIGHT);
	s->count = count;
	for (int32_t i = 0; i < count; i++) {
		const size_t rows = (size_t)(items[i].n_tokens - items[i].logits_first);
		mine[i] = items[i];
		s->to[i] = items[i].logits;
		s->bytes[i] = rows * late_row_bytes;
		s->logits[i] = s->to[i] != NULL ? malloc(s->bytes[i]) : NULL;
		mine[i].logits = s->logits[i];
		s->pick_to[i] = items[i].pick;
		if (items[i].pick != NULL) {
			mine[i].pick = &s->picks[i];
			*items[i].pick = (struct m2_pick){INT32_MIN, NAN, NAN};
		}
	}
	enum m2_err err = M2_OK;
	for (int32_t i = 0; i < count; i++)
		if (s->to[i] != NULL && s->logits[i] == NULL)
			err = m2_fail(M2_ENOMEM, why, "no memory for logits under way");
	if (err == M2_OK)
		err = late_inner->step(model, mine, count, why);
	if (err != M2_OK) {
		for (int32_t i = 0; i < count; i++)
			free(s->logits[i]);
		return err;
	}
	q->begun++;
	q->deepest = q->begun - q->waited > q->deepest ? q->begun - q->waited : q->deepest;
	return M2_OK;
}

static inline enum m2_err late_wait(struct m2_model *model, struct m2_why *why)
{
	struct late_queue *q = late_queue_of(model);
	struct late_step *s = &q->steps[q->waited % M2_STEPS_IN_FLIGHT];
	const enum m2_err err = late_fail_wait;
	assert(q->waited != q->begun);
	q->waited++;
	late_fail_wait = M2_OK;
	for (int32_t i = 0; i < s->count; i++) {
		if (s->to[i] != NULL && err == M2_OK)
			memcpy(s->to[i], s->logits[i], s->bytes[i]);
		if (s->pick_to[i] != NULL && err == M2_OK)
			*s->pick_to[i] = s->picks[i];
		free(s->logits[i]);
	}
	return err == M2_OK ? M2_OK : m2_fail(err, why, "the late device was told to fail");
}

/* Before every use: what the last left under way is dropped. */
static inline void late_open(
	const struct m2_backend *inner, size_t row_bytes, struct m2_backend *out)
{
	for (int i = 0; i < LATE_MODELS; i++) {
		struct late_queue *q = &late_queues[i];
		for (; q->waited != q->begun; q->waited++) {
			struct late_step *s = &q->steps[q->waited % M2_STEPS_IN_FLIGHT];
			for (int32_t k = 0; k < s->count; k++)
				free(s->logits[k]);
		}
		*q = (struct late_queue){.model = NULL};
	}
	late_inner = inner;
	late_row_bytes = row_bytes;
	late_fail_wait = M2_OK;
	*out = *inner;
	out->step_begin = late_begin;
	out->step_wait = late_wait;
}

#endif
