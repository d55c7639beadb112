/* scheduler_internal.h - how the files of the scheduler divide a step; for scheduler*.c only.
 *
 * lane.c makes lanes, scheduler_queue.c keeps who waits, scheduler_admit.c gives and takes slots,
 * scheduler_form.c plans the work, scheduler_flight.c has it run, scheduler_publish.c turns what comes into
 * results, scheduler.c calls them in order.  All on the step thread.
 */
#ifndef M2_DAEMON_SCHEDULER_INTERNAL_H
#define M2_DAEMON_SCHEDULER_INTERNAL_H

#include "daemon/scheduler.h"

/* ---- scheduler.c */

/* All its sequences have ended: finish the results and hand it back.  It is not ours after this. */
void m2_scheduler_retire(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task);

/* End a task that is in no list of the running; it is not ours after this. */
void m2_scheduler_end(struct m2_scheduler *s, struct m2_lane *lane, struct m2_task *task,
	enum m2_finish finish, enum m2_err err, const char *sentence);

/* ---- scheduler_queue.c: parties and what each waits with */

static inline struct m2_party *m2_party_of(struct m2_lane *lane, const struct m2_task *task)
{
	return &lane->parties[task->place];
}

static inline struct m2_fair_user *m2_user_of(
	const struct m2_lane *lane, const struct m2_task *task)
{
	return &lane->fair->users[task->place];
}

/* Into its user's queue; the user takes part from now on. */
void m2_queue_enter(struct m2_lane *lane, struct m2_task *task);

/* Another stage, with all that is counted; NONE: it is no longer the lane's.  A queued or paused task is
 * taken out of its list, and one that is paused is put into it. */
void m2_queue_stage(struct m2_lane *lane, struct m2_task *task, enum m2_stage stage);

/* Whose turn it is to get slots, and with which task; NULL: nobody's.  paused: only of those that are. */
struct m2_task *m2_queue_next(struct m2_lane *lane, bool paused);

/* Any that waits, for the end of everything; NULL: none. */
struct m2_task *m2_queue_any(struct m2_lane *lane);

/* ---- scheduler_admit.c: slots */

/* Slots that it takes up, or will when it runs again. */
int32_t m2_scheduler_need(const struct m2_task *task);

/* Slots to whom they are due. */
void m2_scheduler_admit(struct m2_scheduler *s, struct m2_lane *lane, uint64_t now);

/* Give back what a sequence, or a whole task, has: its slots, and its states if it is paused. */
void m2_scheduler_free_slot(struct m2_lane *lane, struct m2_task *task, struct m2_sequence *q);
void m2_scheduler_free_all(struct m2_lane *lane, struct m2_task *task);

/* ---- scheduler_form.c */

/* Fill the lane's next flight; task->planned of the prompts that get a piece; what it costs whom.  false:
 * there is nothing for it, or not enough to go ahead, and nothing is planned. */
bool m2_scheduler_form(struct m2_lane *lane);

/* The step was begun, or (done = false) was not: what was planned is booked to users, or forgotten. */
void m2_scheduler_book(struct m2_lane *lane, bool done);

/* ---- scheduler_flight.c */

/* The flight that is formed next, and is the newest once it is begun. */
static inline struct m2_flight *m2_flight_next(struct m2_lane *lane)
{
	return &lane->flights[lane->begun % M2_STEPS_IN_FLIGHT];
}

/* Steps that may be under way at once. */
static inline int32_t m2_flight_most(const struct m2_lane *lane)
{
	return lane->facts.backend->step_begin != NULL ? M2_STEPS_IN_FLIGHT : 1;
}

/* The lane's next flight, as formed.  M2_EDEVICE; any other error has ended its tasks. */
enum m2_err m2_flight_begin(struct m2_scheduler *s, struct m2_lane *lane, struct m2_why *why);

/* The oldest of all: its results are delivered, and those that are complete go.  Errors likewise. */
enum m2_err m2_flight_wait(struct m2_scheduler *s, struct m2_why *why);

/* The task ends: what is under way for it is nobody's. */
void m2_flight_forget(struct m2_lane *lane, struct m2_task *task);

/* Of one lane, or (NULL) of all: what is under way is nobody's any more, and waited for, unless the device is
 * gone. */
void m2_flight_drop(struct m2_scheduler *s, const struct m2_lane *only, bool wait);

/* ---- scheduler_publish.c */

/* Results of one item of a step that has come; tokens of a prompt or a sequence that this took, 0: what
 * it was for has ended. */
uint32_t m2_scheduler_deliver(
	struct m2_lane *lane, const struct m2_flight *flight, int32_t item, uint64_t now);

/* End what still runs of a task: text is completed, every live sequence gets `finish`. */
void m2_scheduler_close(struct m2_task *task, enum m2_finish finish);

#endif
