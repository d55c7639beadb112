/* budget.h - may a variant be loaded now, and who leaves for it: the decision, as a function of a table.
 *
 * The rules, in this order:
 *
 *   1  A load begins when it fits both what the budget leaves and what the device has free.  What leaves
 *      still counts until it is gone, what loads counts in full from its beginning, so the sum is never
 *      over the budget.
 *   2  What could not fit even if everything that may leave had left is refused, and nothing leaves for it.
 *   3  Nothing pinned leaves, nothing leaves while it runs, and nothing before it has been there for its
 *      stay (as long as its load took, and the configured minimum).
 *   4  If idle ones make the room they leave, those that are closed first, then least recently used first,
 *      and no more of them than needed: every one of the set is.
 *   5  Else, if it is only for some idle ones to complete their stay, the load waits for that.
 *   6  Else running ones are closed: they get no new requests, finish what they have, and then are idle.
 *      Those that have been there longest are closed first.  Together with 3, variants that together do
 *      not fit take turns, and a turn is at least as long as its load took.
 *
 * What leaves for another may be parked: its weights then lie in host memory, and coming back is quick.  That
 * memory has a budget too, and who was used least recently goes first (m2_budget_park).
 *
 * Knows no process, no session, no device.  Threads: pure functions over the caller's memory.
 */
#ifndef M2_DAEMON_BUDGET_H
#define M2_DAEMON_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One variant that holds memory of the device.  Times are CLOCK_MONOTONIC in ns. */
struct m2_budget_row {
	/* in */
	uint64_t bytes;
	uint64_t used_ns; /* when it was last used */
	uint64_t here_ns; /* since when it is ready */
	uint64_t stay_ns; /* until when it may stay at least */
	bool running;     /* requests of it run */
	bool pinned;      /* or must stay for another reason */
	bool leaving;     /* is being unloaded: its bytes will be free without our doing */
	bool closed;      /* gets no new requests */
	/* out */
	bool chosen; /* EVICT: unload it; CLOSE: give it no new requests */
};

struct m2_budget_question {
	uint64_t need;   /* bytes of the load; 0: is what is there within the budget? */
	uint64_t budget; /* of all rows together; 0: no limit */
	uint64_t free;   /* bytes the device has free, as it says; UINT64_MAX: it does not say */
	uint64_t now_ns;
};

enum m2_budget_answer {
	M2_BUDGET_GO,     /* it fits */
	M2_BUDGET_EVICT,  /* the chosen leave, and then it fits */
	M2_BUDGET_CLOSE,  /* the chosen, some of which run, are to make room when they are done */
	M2_BUDGET_WAIT,   /* for what leaves, or until until_ns */
	M2_BUDGET_REFUSE, /* it cannot fit whatever leaves */
};

struct m2_budget_outcome {
	enum m2_budget_answer answer;
	uint64_t missing;  /* bytes: GO 0; REFUSE what is missing when all that may leave has left;
			      else what is missing now */
	uint64_t until_ns; /* WAIT, CLOSE: ask again then, 0: at the next event */
	bool device;       /* REFUSE: it is the device that is too full, the budget has room */
};

/* May block: never.  rows[count]: `chosen` of each is set.  order: scratch [count]. */
struct m2_budget_outcome m2_budget_decide(const struct m2_budget_question *q,
	struct m2_budget_row *rows, size_t *order, size_t count);

/* May the weights of a variant that leaves, last used at used_ns, be parked?  rows[count]: those that are
 * parked, with bytes and times of host memory; pinned: counts and may not be let go, since it is on its way in or
 * out.  q->need: bytes to park, 0: is what is there within the budget?; q->budget: of host memory for all that is
 * parked, 0: nothing is; q->free: what the host has free.  true: yes, when the chosen have been let go, which were
 * all used less recently than it and are no more than needed.  false: it is unloaded, and nothing is chosen.
 * order: scratch [count]. */
bool m2_budget_park(const struct m2_budget_question *q, uint64_t used_ns,
	struct m2_budget_row *rows, size_t *order, size_t count);

/* Until when a variant stays at least that was ready at here_ns after a load of load_ns. */
uint64_t m2_budget_stay(uint64_t here_ns, uint64_t load_ns, uint64_t least_ns);

#endif
