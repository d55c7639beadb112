/* scheduler.h - whose turn it is: continuous batching of tasks over the slots of resident models.
 *
 * A lane is one resident model with its queue, its slots and all buffers of a step.  One call of
 * m2_scheduler_step runs one step of the next lane that has work:
 *
 *   sweep     cancellations, deadlines and an unload that waits no longer take effect
 *   admit     first come, first served; a task gets all its slots at once or waits, and those behind
 *             it wait with it
 *   form      every decoding sequence one token; then prompts, dealt in turn one piece each until the
 *             step is full.  A piece ends at a multiple of M2_CHUNK or at the prompt's end, so that
 *             bits do not depend on the cut, and no prompt, however long, delays a decode by more than
 *             a step
 *   run       the backend
 *   deliver   sample, append, publish, ring; tasks that are complete go back to their owner
 *
 * A step has room for slots + M2_CHUNK tokens at least, and rows for as many logits: there is always
 * room for one piece beside a full house of decodes, so nobody starves.
 *
 * Threads: all functions here on the step thread, except create, destroy and bytes of a lane not in a
 * scheduler, and except the atomics of struct m2_lane.  No function but those allocates, takes a lock
 * or makes a system call other than the futex wake of a publication.
 */
#ifndef M2_DAEMON_SCHEDULER_H
#define M2_DAEMON_SCHEDULER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/sampler.h"
#include "daemon/task.h"
#include "kernels/backend.h"
#include "model/tokenizer.h"

/* What a lane is made for. */
struct m2_lane_facts {
	const struct m2_backend *backend;
	struct m2_model *model; /* the caller's; loaded with slots and step_tokens below */
	const struct m2_tokenizer *tokenizer; /* the caller's, or NULL */
	int32_t vocab_rows;
	int32_t vocab; /* ids that may be chosen: of the model and of the tokenizer */
	int32_t slots;
	int32_t step_tokens; /* m2_lane_step_tokens() */
};

/* Room of a step for a variant's max_batch_tokens. */
int32_t m2_lane_step_tokens(int32_t max_batch_tokens, int32_t slots);

struct m2_item { /* what a work item is for */
	struct m2_task *task;
	struct m2_sequence *sequence; /* NULL: a piece of the prompt */
};

struct m2_lane {
	struct m2_lane_facts facts;

	/* anyone -> step thread */
	_Atomic uint32_t alarm;     /* one more whenever a task's cancel is set */
	_Atomic uint64_t cancel_at; /* CLOCK_MONOTONIC; from then on every task is cancelled */

	/* step thread -> anyone: figures, relaxed */
	_Atomic uint64_t steps;
	_Atomic uint64_t prompt_tokens;
	_Atomic uint64_t generated_tokens;
	_Atomic int32_t slots_used;
	_Atomic int32_t queued;
	/* those with `waits`: counted up by whoever submits, down when they leave the queue */
	_Atomic int32_t waiting;

	/* the step thread's */
	struct m2_lane *next;
	struct m2_task *queue_head;
	struct m2_task *queue_tail;
	uint32_t alarm_seen;
	uint64_t queue_deadline;  /* the earliest in the queue */
	struct m2_task **running; /* [slots], in order of admission */
	int32_t n_running;
	int32_t turn;        /* which of them is dealt a piece of its prompt first */
	int32_t *free_slots; /* stack [slots] */
	int32_t n_free;
	struct m2_work *work;  /* [slots] */
	struct m2_item *items; /* [slots] */
	int32_t n_items;
	float *rows; /* [slots + M2_CHUNK, vocab_rows]: one per slot, then those of prompt scores */
	int32_t n_rows; /* of the first kind, in this step */
	struct m2_sampler sampler;
	char *text; /* scratch of the tokenizer's stream */
};

/* Host bytes that create takes, for the model's footprint. */
size_t m2_lane_bytes(const struct m2_lane_facts *facts);
enum m2_err m2_lane_create(
	const struct m2_lane_facts *facts, struct m2_lane **out, struct m2_why *why);
void m2_lane_destroy(struct m2_lane **lane); /* no task in it */

/* Where things go that the step thread has to tell.  Called on the step thread; must not block. */
struct m2_scheduler_events {
	void *ctx;
	/* tokens of a task with M2_REQUEST_MESSAGES were published */
	void (*news)(void *ctx, struct m2_task *task);
	/* its results are finished, err and why are set; the scheduler knows it no more */
	void (*done)(void *ctx, struct m2_task *task);
};

struct m2_scheduler {
	struct m2_lane *lanes; /* the next to have its turn first */
	struct m2_scheduler_events events;
	uint64_t (*clock)(void); /* CLOCK_MONOTONIC in ns, or a test's */
	uint64_t steps;
	uint64_t tokens;
};

void m2_scheduler_add(struct m2_scheduler *s, struct m2_lane *lane);
/* The lane must be without tasks. */
void m2_scheduler_remove(struct m2_scheduler *s, struct m2_lane *lane);
void m2_scheduler_submit(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task);

/* One step of one lane.  *worked = false: nothing to do in any lane.  An error is M2_EDEVICE: the
 * device is gone (m2_scheduler_fail then ends everything); other errors of a step end the tasks that
 * were in it and are not returned. */
enum m2_err m2_scheduler_step(struct m2_scheduler *s, bool *worked, struct m2_why *why);

/* End every task of every lane with this error. */
void m2_scheduler_fail(struct m2_scheduler *s, enum m2_err err, const struct m2_why *why);

#endif
