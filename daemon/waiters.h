/* waiters.h - how many requests of each user wait for slots of one model: the bound of its queue.
 *
 * A model's queue is a promise to everyone, so nobody may have all of it.  While there is room anyone may
 * wait; when it is full, a user may still wait who has fewer there than an equal part of it among those who
 * wait, or none.  The total stays below queue * (1 + ln users), since each further user is entitled to less.
 *
 * Threads: enter and its undoing under the caller's lock; what enter returned is counted down by anyone.
 */
#ifndef M2_DAEMON_WAITERS_H
#define M2_DAEMON_WAITERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { M2_WAITERS_USERS = 1024 };

struct m2_waiters {
	uint32_t uids[M2_WAITERS_USERS];
	_Atomic int32_t counts[M2_WAITERS_USERS]; /* 0: the place is free */
};

/* May one more request of this user wait?  total: that wait now; limit: of the queue.  The count that it
 * is in, to be counted down when it waits no longer; NULL: it may not, and *own is what they have. */
_Atomic int32_t *m2_waiters_enter(
	struct m2_waiters *w, uint32_t uid, int32_t total, int32_t limit, int32_t *own);

#endif
