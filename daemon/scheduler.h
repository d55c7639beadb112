/* scheduler.h - whose turn it is: continuous batching of tasks over the slots of resident models.
 *
 * A lane is one resident model with its queue, its slots and all buffers of a step.  One call of
 * m2_scheduler_step begins a step of the next lane that has work, and waits for the oldest that is under way:
 *
 *   sweep     cancellations, deadlines and an unload that waits no longer take effect
 *   admit     every lane: slots to whom they are due, by pausing others if need be
 *   choose    the lane of the user who is furthest behind
 *   form      every decoding sequence one token; then prompts, dealt in turn one piece each until the
 *             step is full.  A piece ends at a multiple of M2_CHUNK or at the prompt's end, so that
 *             bits do not depend on the cut, and no prompt, however long, delays a decode by more than
 *             a step
 *   begin     the backend has the step; what it costs is booked to users
 *   wait      for the oldest step begun
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
 * Ahead: where the backend runs steps by itself (step_begin), the next one is begun before the last one is
 * waited for, so that the device does not stand still while its results are dealt with.  A synchronous one
 * has its results looked at before anything more is computed, as there is nothing to gain.
 *
 *   who may    a task whose tokens the device picks (m2_task_picks): its next token is already there when
 *              it is fed.  All others need their logits on the host first, and are left out of the step that
 *              is begun before those have come: with such neighbours they are in every second step.  That
 *              is fair by the measure above, which lets nobody run ahead by more than M2_FAIR_LEAD tokens;
 *              and nobody goes ahead unless there are M2_AHEAD_SHARE that do for each one left out, since
 *              a step costs what it reads of the weights however few are in it
 *   the end    one that reaches max_tokens with a step under way is not in the next.  One that turns out to
 *              have ended there (an end token, a stop string, a cancel) is in it once more: that pick is
 *              nobody's token, is counted nowhere and seen by no one; its work is booked to its user
 *              like any other, since it was done for them
 *   slots      what frees, clears, copies or restores one takes effect behind the steps under way.  A pick
 *              is not saved with its state, so a task is paused only when nothing of it is under way: when
 *              somebody is to be, the lane begins nothing until then
 *   results    logits go to the lane's rows, which there are once, or straight into results memory: so at
 *              most one step under way has any, and a task in it ends behind it, not before
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

enum { M2_PAUSE_TOKENS = 64, M2_PARKED_PER_SLOT = 64, M2_PAUSED_AS_SLOTS = -1, M2_AHEAD_SHARE = 8 };
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

struct m2_item {                      /* what a work item is for */
	struct m2_task *task;         /* NULL: it has ended meanwhile */
	struct m2_sequence *sequence; /* NULL: a piece of the prompt */
};

/* A step, from being formed until its results are delivered. */
struct m2_flight {
	struct m2_work *work;  /* [slots] */
	struct m2_item *items; /* [slots] */
	struct m2_pick *picks; /* [slots] */
	int32_t n_items;
	bool rows; /* some of its work gives logits */
	uint64_t begun_ns;
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
	struct m2_flight flights[M2_STEPS_IN_FLIGHT]; /* by begun and waited, modulo their number */
	uint32_t begun;                               /* steps, ever */
	uint32_t waited;
	bool rows_busy;   /* a step under way has logits */
	bool pause_waits; /* somebody is to be paused, when nothing of them is under way */
	bool passed;      /* it has nothing for the step that is being chosen */
	int32_t left_out; /* sequences that are not in the step being formed for want of their logits */
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
	struct m2_lane
		*flying[M2_STEPS_IN_FLIGHT]; /* whose steps are under way, the oldest first */
	int32_t n_flying;
	uint64_t waited_ns; /* when the last one had come */
	uint64_t steps;
	uint64_t tokens;
};

void m2_scheduler_add(struct m2_scheduler *s, struct m2_lane *lane);
/* The lane must be without tasks.  A step that is still under way in it is nobody's, and waited for. */
void m2_scheduler_remove(struct m2_scheduler *s, struct m2_lane *lane);
void m2_scheduler_submit(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task);

/* Begin a step of one lane, and wait for the oldest under way if that was one too many, or there was none to
 * begin.  *worked = false: nothing to do in any lane, and nothing under way.  An error is M2_EDEVICE: the
 * device is gone (m2_scheduler_fail then ends everything); other errors of a step end the tasks that
 * were in it and are not returned. */
enum m2_err m2_scheduler_step(struct m2_scheduler *s, bool *worked, struct m2_why *why);

/* End every task of every lane with this error; M2_EDEVICE: what is under way will not come, else it is
 * waited for and forgotten. */
void m2_scheduler_fail(struct m2_scheduler *s, enum m2_err err, const struct m2_why *why);

#endif
