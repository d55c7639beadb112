/* waiters.c - see waiters.h.
 *
 * A place is taken when its count leaves 0 and free when it is 0 again, which the step thread may bring about
 * at any moment; only enter takes places, under its caller's lock, so a place that it sees free stays so.
 */
#include "daemon/waiters.h"

#include <stddef.h>

_Atomic int32_t *m2_waiters_enter(
	struct m2_waiters *w, uint32_t uid, int32_t total, int32_t limit, int32_t *own)
{
	int32_t users = 1; /* that wait, this one included */
	int32_t free_place = -1;
	int32_t place = -1;
	*own = 0;
	for (int32_t i = 0; i < M2_WAITERS_USERS; i++) {
		const int32_t count = atomic_load_explicit(&w->counts[i], memory_order_acquire);
		if (count == 0) {
			free_place = free_place < 0 ? i : free_place;
		} else if (w->uids[i] == uid) {
			place = i;
			*own = count;
		} else {
			users++;
		}
	}
	const bool full = total >= limit;
	if (limit <= 0 || (full && *own > 0 && *own >= limit / users) ||
		(place < 0 && free_place < 0))
		return NULL;
	if (place < 0) {
		place = free_place;
		w->uids[place] = uid;
	}
	atomic_fetch_add_explicit(&w->counts[place], 1, memory_order_acq_rel);
	return &w->counts[place];
}
