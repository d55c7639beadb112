/* scheduler.h - whose turn it is: continuous batching of tasks over the slots of resident models.
 *
 * A lane is one resident model with its queue, its slots and all buffers of a step.  One call of
 * m2_scheduler_step runs one step of the next lane that has work:
 *
 *   sweep     cancellations, deadlines and an unload that waits no longer take effect
 *   admit     every lane: slots to whom they are due, by pausing others if need be
 *   choose    the lane of the user who is furthest behind
 *   form      every decoding sequence one token; then prompts, dealt in turn one piece each until the
 *             step is full.  A piece ends at a multiple of M2_CHUNK or at the prompt's end, so that
 *             bits do not depend on the cut, and no prompt, however long, delays a decode by more than
 *             a step
 *   run       the backend
 *   deliver   sample, append, publish, ring; tasks that are complete go back to their owner
 *
 * Whose turn it is (daemon/fair.h says by what measure).  All that a user has in a lane is a party; first
 * come, first served, higher priorities first, holds within a party and nowhere else.
 *
 *   work      who is furthest behind in work is served; others may be M2_FAIR_LEAD tokens ahead, and are
 *             left out of steps beyond that, though they keep their slots
 *   slots     a free slot goes to the party that has fewest for its weight; among equals to the one that is
 *             behind in work.  A task gets all its slots at once or waits, and everyone behind it with it
 *   pausing   if there is none free, and some other party has more for its weight, one of its tasks is
 *             paused: its states are copied to host memory, and its slots change hands.  It comes back
 *             like anyone who waits, before its user's queue, and goes on with the same bits.  Nobody is
 *             paused before they had M2_PAUSE_TOKENS tokens or M2_PAUSE_NS, and only as many are as there
 *             is memory for, which is taken with the lane: beyond that, slots are waited for
 *
 * So a newcomer's first token is due after M2_PAUSE_NS, the step under way and those of its own prompt,
 * whoever else has how much queued; and as much again for each user who waits for slots too and has had
 * less.
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
#include "daemon/fair.h"
#include "daemon/sampler.h"
#include "daemon/task.h"
#include "daemon/waiters.h"
#include "kernels/backend.h"
#include "model/tokenizer.h"

enum { M2_PAUSE_TOKENS = 64, M2_PARKED_PER_SLOT = 64, M2_PAUSED_AS_SLOTS = -1 };
#define M2_PAUSED_BYTES UINT64_C(1073741824)
#define M2_PAUSE_NS     UINT64_C(100000000)

/* What a lane is made for. */
struct m2_lane_facts {
	const struct m2_backend *backend;
	struct m2_model *model; /* the caller's; loaded with slots and step_tokens below */
	const struct m2_tokenizer *tokenizer; /* the caller's, or NULL */
	int32_t vocab_rows;
	int32_t vocab; /* ids that may be chosen: of the model and of the tokenizer */
	int32_t slots;
	int32_t step_tokens; /* m2_lane_step_tokens() */
	/* by m2_lane_measure */
	struct m2_fair_cost cost; /* of one token; zeros count as ones */
	uint64_t step_cost;       /* of taking part in a step, for a user */
	size_t slot_bytes;        /* what slot_save writes */
	int32_t parked; /* states that may lie in host memory; 0: nothing is ever paused */
};

/* What one token of the model costs, and how many of its states may be parked in host memory: as many as
 * `paused_bytes` bytes hold, at most M2_PARKED_PER_SLOT for a slot; M2_PAUSED_AS_SLOTS: twice as many as
 * there are slots and one more, within M2_PAUSED_BYTES. */
void m2_lane_measure(
	struct m2_lane_facts *facts, const struct m2_footprint *footprint, int64_t paused_bytes);

/* Room of a step for a variant's max_batch_tokens. */
int32_t m2_lane_step_tokens(int32_t max_batch_tokens, int32_t slots);

struct m2_item { /* what a work item is for */
	struct m2_task *task;
	struct m2_sequence *sequence; /* NULL: a piece of the prompt */
};

struct m2_task_list {
	struct m2_task *first;
	struct m2_task *last;
};

/* All that one user has in a lane. */
struct m2_party {
	struct m2_task_list queue[M2_PRIORITY_COUNT];
	struct m2_task_list paused; /* in order of their pausing */
	int32_t tasks;              /* queued, running, paused */
	int32_t held;               /* slots */
	int32_t giving;             /* of those, by tasks that are chosen to be paused */
};

struct m2_lane {
	struct m2_lane_facts facts;
	struct m2_waiters *waiters; /* front and clerks, under their own lock */

	/* anyone -> step thread */
	_Atomic uint32_t alarm;     /* one more whenever a task's cancel is set */
	_Atomic uint64_t cancel_at; /* CLOCK_MONOTONIC; from then on every task is cancelled */

	/* step thread -> anyone: figures, relaxed */
	_Atomic uint64_t steps;
	_Atomic uint64_t prompt_tokens;
	_Atomic uint64_t generated_tokens;
	_Atomic int32_t slots_used;
	_Atomic int32_t queued;
	_Atomic int32_t paused;
	_Atomic uint64_t pauses;
	/* those with `waits`: counted up by whoever submits, down when they leave the queue */
	_Atomic int32_t waiting;

	/* the step thread's */
	struct m2_lane *next;
	struct m2_fair *fair;     /* of the scheduler it is in */
	struct m2_party *parties; /* [M2_FAIR_PLACES], by the user's place */
	int32_t *present;         /* [M2_FAIR_PLACES]: places of parties with tasks, in no order */
	int32_t n_present;
	uint32_t alarm_seen;
	uint64_t wait_deadline;   /* the earliest of those that are queued or paused */
	struct m2_task **running; /* [slots], who was left out of the last steps first */
	struct m2_task **order;   /* [slots], scratch of that */
	int32_t n_running;
	char *states;         /* [parked, slot_bytes] */
	int32_t *free_states; /* stack [parked] */
	int32_t n_free_states;
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
	struct m2_fair fair;
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
