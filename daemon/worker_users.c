/* worker_users.c - what each user has at this worker now, for ps.
 *
 * The figures are the scheduler's own, read while it goes on: a row may be a step older than the next, and one
 * whose place changes hands while it is read is left out.
 */
#include "daemon/worker.h"

#include <stdlib.h>

static bool read_user(const struct m2_fair_user *u, struct m2_ipc_user_stats *out)
{
	const uint32_t uid = atomic_load_explicit(&u->uid, memory_order_acquire);
	/* acquire: the look at the uid below comes after all of them */
	*out = (struct m2_ipc_user_stats){
		.uid = uid,
		.weight = atomic_load_explicit(&u->weight, memory_order_acquire),
		.queued = atomic_load_explicit(&u->queued, memory_order_acquire),
		.running = atomic_load_explicit(&u->running, memory_order_acquire),
		.paused = atomic_load_explicit(&u->paused, memory_order_acquire),
		.slots = atomic_load_explicit(&u->held, memory_order_acquire),
		.prompt_tokens = atomic_load_explicit(&u->prompt_tokens, memory_order_acquire),
		.generated_tokens =
			atomic_load_explicit(&u->generated_tokens, memory_order_acquire),
		.work = atomic_load_explicit(&u->work, memory_order_acquire),
		.slot_bytes = atomic_load_explicit(&u->slot_bytes, memory_order_acquire),
		.paused_bytes = atomic_load_explicit(&u->paused_bytes, memory_order_acquire),
	};
	return out->weight > 0 && atomic_load_explicit(&u->uid, memory_order_relaxed) == uid;
}

enum m2_err m2_worker_send_users(struct m2_worker *w, struct m2_why *why)
{
	struct m2_ipc_users head = {0};
	struct m2_ipc_user_stats *rows = calloc(M2_FAIR_PLACES, sizeof *rows);
	if (rows == NULL)
		return M2_OK; /* ps then shows none */
	for (int32_t i = 0; i < M2_FAIR_PLACES; i++) {
		struct m2_ipc_user_stats *row = &rows[head.n_users];
		if (read_user(&w->scheduler.fair.users[i], row) &&
			row->queued + row->running + row->paused > 0)
			head.n_users++;
	}
	const enum m2_err err = m2_ipc_send(
		w->channel, M2_IPC_USERS, &head, rows, head.n_users * sizeof *rows, why);
	free(rows);
	return err == M2_ENOMEM ? M2_OK : err;
}
