/* scheduler_internal.h - how the files of the scheduler divide a step; for scheduler*.c only.
 *
 * lane.c makes lanes, scheduler_form.c plans the work, scheduler_publish.c turns logits into results,
 * scheduler.c calls them in order.  All on the step thread.
 */
#ifndef M2_DAEMON_SCHEDULER_INTERNAL_H
#define M2_DAEMON_SCHEDULER_INTERNAL_H

#include "daemon/scheduler.h"

/* Fill lane->work, items and n_items; task->planned of the prompts that get a piece. */
void m2_scheduler_form(struct m2_lane *lane);

/* Results of one item of a step that ran. */
void m2_scheduler_deliver(struct m2_lane *lane, int32_t item, uint64_t now);

/* End what still runs of a task: text is completed, every live sequence gets `finish`. */
void m2_scheduler_close(struct m2_task *task, enum m2_finish finish);

#endif
