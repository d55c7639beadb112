/* budget.c - see budget.h: from the cheapest way to make room to the dearest, and room in host memory for those
 * that make it. */
#include "daemon/budget.h"

#include <stdlib.h>

static uint64_t add(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t m2_budget_stay(uint64_t here_ns, uint64_t load_ns, uint64_t least_ns)
{
	return add(here_ns, load_ns > least_ns ? load_ns : least_ns);
}

/* ---- what is missing ---------------------------------------------------------------------------- */

/* Bytes that must become free, in the budget and on the device, if `gone` of what is there were gone. */
static uint64_t lacking(
	const struct m2_budget_question *q, uint64_t used, uint64_t gone, bool *device)
{
	const uint64_t after = add(used - gone, q->need);
	const uint64_t over = q->budget > 0 && after > q->budget ? after - q->budget : 0;
	const uint64_t free = add(q->free, gone);
	const uint64_t more = q->need > free ? q->need - free : 0;
	*device = more > over;
	return more > over ? more : over;
}

/* ---- who ---------------------------------------------------------------------------------------- */

enum order { BY_USE, BY_STAY, BY_AGE };

static uint64_t rank(const struct m2_budget_row *r, enum order by)
{
	return by == BY_USE ? r->used_ns : by == BY_STAY ? r->stay_ns : r->here_ns;
}

/* Does a come before b?  Closed ones always do: they have been promised to somebody. */
static bool before(const struct m2_budget_row *a, const struct m2_budget_row *b, enum order by)
{
	if (by != BY_STAY && a->closed != b->closed)
		return a->closed;
	return rank(a, by) < rank(b, by);
}

/* Insertion: the rows are few, and equal ones keep their order. */
static void insert(
	const struct m2_budget_row *rows, size_t *order, size_t n, size_t row, enum order by)
{
	size_t at = n;
	for (; at > 0 && before(&rows[row], &rows[order[at - 1]], by); at--)
		order[at] = order[at - 1];
	order[at] = row;
}

static bool may_leave(const struct m2_budget_row *r)
{
	return !r->pinned && !r->leaving;
}

static bool stayed(const struct m2_budget_row *r, uint64_t now)
{
	return r->closed || r->stay_ns <= now;
}

/* Choose from order[0..n) until `missing` is reached, then give back, latest first, what is not needed.
 * False: not enough, and nothing is chosen. */
static bool choose(struct m2_budget_row *rows, const size_t *order, size_t n, uint64_t missing)
{
	uint64_t sum = 0;
	size_t taken = 0;
	for (; taken < n && sum < missing; taken++) {
		rows[order[taken]].chosen = true;
		sum = add(sum, rows[order[taken]].bytes);
	}
	if (sum < missing) {
		for (size_t i = 0; i < taken; i++)
			rows[order[i]].chosen = false;
		return false;
	}
	for (size_t i = taken; i > 0; i--) {
		struct m2_budget_row *r = &rows[order[i - 1]];
		if (sum - r->bytes < missing)
			continue;
		sum -= r->bytes;
		r->chosen = false;
	}
	return true;
}

/* ---- the ways to make room ---------------------------------------------------------------------- */

static bool evict_idle(const struct m2_budget_question *q, struct m2_budget_row *rows,
	size_t *order, size_t count, uint64_t missing)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		if (may_leave(&rows[i]) && !rows[i].running && stayed(&rows[i], q->now_ns))
			insert(rows, order, n++, i, BY_USE);
	return choose(rows, order, n, missing);
}

/* When idle ones alone will make the room; 0: they will not. */
static uint64_t idle_until(const struct m2_budget_question *q, const struct m2_budget_row *rows,
	size_t *order, size_t count, uint64_t missing)
{
	size_t n = 0;
	uint64_t sum = 0;
	for (size_t i = 0; i < count; i++)
		if (may_leave(&rows[i]) && !rows[i].running)
			insert(rows, order, n++, i, BY_STAY);
	for (size_t i = 0; i < n; i++) {
		sum = add(sum, rows[order[i]].bytes);
		if (sum >= missing)
			return rows[order[i]].stay_ns > q->now_ns ? rows[order[i]].stay_ns
								  : q->now_ns + 1;
	}
	return 0;
}

/* Idle ones are closed along with those that run: else they might run again when those are done. */
static bool close_running(const struct m2_budget_question *q, struct m2_budget_row *rows,
	size_t *order, size_t count, uint64_t missing)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		if (may_leave(&rows[i]) && !rows[i].running && stayed(&rows[i], q->now_ns))
			insert(rows, order, n++, i, BY_USE);
	const size_t idle = n;
	n = 0;
	for (size_t i = 0; i < count; i++)
		if (may_leave(&rows[i]) && rows[i].running && stayed(&rows[i], q->now_ns))
			insert(rows, order + idle, n++, i, BY_AGE);
	return choose(rows, order, idle + n, missing);
}

/* The next moment at which somebody more may leave; 0: all may that ever will. */
static uint64_t next_stay(
	const struct m2_budget_question *q, const struct m2_budget_row *rows, size_t count)
{
	uint64_t next = UINT64_MAX;
	for (size_t i = 0; i < count; i++)
		if (may_leave(&rows[i]) && !stayed(&rows[i], q->now_ns) && rows[i].stay_ns < next)
			next = rows[i].stay_ns;
	return next == UINT64_MAX ? 0 : next;
}

struct m2_budget_outcome m2_budget_decide(
	const struct m2_budget_question *q, struct m2_budget_row *rows, size_t *order, size_t count)
{
	uint64_t used = 0;
	uint64_t leaving = 0;
	uint64_t movable = 0;
	bool device;
	for (size_t i = 0; i < count; i++) {
		rows[i].chosen = false;
		used = add(used, rows[i].bytes);
		leaving = add(leaving, rows[i].leaving ? rows[i].bytes : 0);
		movable = add(movable, may_leave(&rows[i]) ? rows[i].bytes : 0);
	}
	struct m2_budget_outcome out = {.answer = M2_BUDGET_GO};
	out.missing = lacking(q, used, 0, &device);
	if (out.missing == 0)
		return out;
	const uint64_t never = lacking(q, used, add(leaving, movable), &device);
	if (never > 0)
		return (struct m2_budget_outcome){
			.answer = M2_BUDGET_REFUSE, .missing = never, .device = device};
	out.answer = M2_BUDGET_WAIT;
	const uint64_t missing = lacking(q, used, leaving, &device);
	if (missing == 0)
		return out;
	if (evict_idle(q, rows, order, count, missing)) {
		out.answer = M2_BUDGET_EVICT;
		return out;
	}
	out.until_ns = idle_until(q, rows, order, count, missing);
	if (out.until_ns > 0)
		return out;
	if (close_running(q, rows, order, count, missing))
		out.answer = M2_BUDGET_CLOSE;
	else
		out.until_ns = next_stay(q, rows, count);
	return out;
}

/* ---- host memory -------------------------------------------------------------------------------- */

bool m2_budget_park(const struct m2_budget_question *q, uint64_t used_ns,
	struct m2_budget_row *rows, size_t *order, size_t count)
{
	uint64_t used = 0;
	size_t n = 0;
	for (size_t i = 0; i < count; i++) {
		rows[i].chosen = false;
		used = add(used, rows[i].bytes);
		if (may_leave(&rows[i]) && rows[i].used_ns < used_ns)
			insert(rows, order, n++, i, BY_USE);
	}
	if (q->need > q->budget)
		return false;
	const uint64_t after = add(used, q->need);
	const uint64_t over = after > q->budget ? after - q->budget : 0;
	const uint64_t more = q->need > q->free ? q->need - q->free : 0;
	return choose(rows, order, n, over > more ? over : more);
}
