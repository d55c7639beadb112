/* test_daemon_budget.c - who leaves for whom: the cases by hand, and a hundred thousand tables at random held
 * against what budget.h promises.  At the end the rules run by themselves, as the supervisor uses them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/budget.h"

enum { MOST = 12 };

static uint64_t state = 1;

static uint64_t draw(uint64_t below)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (state >> 33) % below;
}

/* Names of the chosen rows, "ac" for the first and the third. */
static const char *chosen(const struct m2_budget_row *rows, size_t n)
{
	static char text[MOST + 1];
	size_t length = 0;
	for (size_t i = 0; i < n; i++)
		if (rows[i].chosen)
			text[length++] = (char)('a' + i);
	text[length] = '\0';
	return text;
}

static struct m2_budget_outcome ask(
	uint64_t need, uint64_t budget, uint64_t free, struct m2_budget_row *rows, size_t n)
{
	size_t order[MOST];
	const struct m2_budget_question q = {
		.need = need, .budget = budget, .free = free, .now_ns = 100};
	return m2_budget_decide(&q, rows, order, n);
}

static void a_load_that_fits_begins_at_once(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 30, .used_ns = 1}, {.bytes = 30, .used_ns = 2}};
	assert_int_equal(ask(40, 100, 40, rows, 2).answer, M2_BUDGET_GO);
	assert_int_equal(ask(40, 100, UINT64_MAX, rows, 2).answer, M2_BUDGET_GO);
	assert_int_equal(ask(UINT64_MAX / 2, 0, UINT64_MAX, rows, 2).answer, M2_BUDGET_GO);
	assert_int_equal(ask(100, 100, 100, NULL, 0).answer, M2_BUDGET_GO);
	assert_string_equal(chosen(rows, 2), "");
}

static void least_recently_used_ones_leave_and_no_more_than_needed(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 30, .used_ns = 30}, {.bytes = 10, .used_ns = 10},
		{.bytes = 30, .used_ns = 20}, {.bytes = 30, .used_ns = 40}};
	struct m2_budget_outcome o = ask(10, 100, 100, rows, 4);
	assert_int_equal(o.answer, M2_BUDGET_EVICT);
	assert_int_equal(o.missing, 10);
	assert_string_equal(chosen(rows, 4), "b");
	/* b goes first, but then it is c that makes the room, and b need not */
	o = ask(25, 100, 100, rows, 4);
	assert_int_equal(o.answer, M2_BUDGET_EVICT);
	assert_string_equal(chosen(rows, 4), "c");
	o = ask(35, 100, 100, rows, 4);
	assert_string_equal(chosen(rows, 4), "bc");
	o = ask(100, 100, 100, rows, 4);
	assert_string_equal(chosen(rows, 4), "abcd");
}

static void the_device_counts_as_the_budget_does(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 30, .used_ns = 1}, {.bytes = 30, .used_ns = 2}};
	/* the budget has room for 40, somebody else's use of the device leaves 20 */
	struct m2_budget_outcome o = ask(40, 100, 20, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_EVICT);
	assert_int_equal(o.missing, 20);
	assert_string_equal(chosen(rows, 2), "a");
	o = ask(90, 100, 20, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_REFUSE);
	assert_int_equal(o.missing, 10);
	assert_true(o.device);
	o = ask(101, 100, 1000, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_REFUSE);
	assert_int_equal(o.missing, 1);
	assert_false(o.device);
	assert_string_equal(chosen(rows, 2), "");
}

static void neither_the_pinned_nor_the_running_leave(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 40, .used_ns = 1, .pinned = true},
		{.bytes = 40, .used_ns = 2, .running = true}, {.bytes = 20, .used_ns = 3}};
	struct m2_budget_outcome o = ask(20, 100, 100, rows, 3);
	assert_int_equal(o.answer, M2_BUDGET_EVICT);
	assert_string_equal(chosen(rows, 3), "c");
	/* the running one is to make room when it is done, and c with it */
	o = ask(60, 100, 100, rows, 3);
	assert_int_equal(o.answer, M2_BUDGET_CLOSE);
	assert_string_equal(chosen(rows, 3), "bc");
	o = ask(61, 100, 100, rows, 3);
	assert_int_equal(o.answer, M2_BUDGET_REFUSE);
	assert_int_equal(o.missing, 1);
	assert_string_equal(chosen(rows, 3), "");
}

static void nobody_leaves_before_its_stay_is_over(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 50, .used_ns = 1, .here_ns = 90, .stay_ns = 130},
		{.bytes = 50, .used_ns = 2, .here_ns = 50, .stay_ns = 110, .running = true}};
	struct m2_budget_outcome o = ask(50, 100, 100, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_WAIT);
	assert_int_equal(o.until_ns, 130);
	/* nothing is idle: the one that may be closed first is */
	rows[0].running = true;
	o = ask(50, 100, 100, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_WAIT);
	assert_int_equal(o.until_ns, 110);
	rows[0].stay_ns = rows[1].stay_ns = 100;
	o = ask(50, 100, 100, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_CLOSE);
	assert_string_equal(chosen(rows, 2), "b"); /* it has been here longer */
	assert_int_equal(m2_budget_stay(100, 7, 0), 107);
	assert_int_equal(m2_budget_stay(100, 7, 20), 120);
}

static void what_leaves_already_is_waited_for(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {
		{.bytes = 50, .used_ns = 9, .leaving = true, .running = true},
		{.bytes = 50, .used_ns = 2}};
	struct m2_budget_outcome o = ask(50, 100, 100, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_WAIT);
	assert_int_equal(o.until_ns, 0);
	assert_string_equal(chosen(rows, 2), "");
	o = ask(60, 100, 100, rows, 2);
	assert_int_equal(o.answer, M2_BUDGET_EVICT);
	assert_string_equal(chosen(rows, 2), "b");
}

static void a_lowered_budget_is_a_load_of_nothing(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 50, .used_ns = 1}, {.bytes = 50, .used_ns = 2}};
	assert_int_equal(ask(0, 100, 0, rows, 2).answer, M2_BUDGET_GO);
	assert_int_equal(ask(0, 60, 0, rows, 2).answer, M2_BUDGET_EVICT);
	assert_string_equal(chosen(rows, 2), "a");
}

/* ---- at random ---------------------------------------------------------------------------------- */

static size_t random_rows(struct m2_budget_row *rows)
{
	const size_t n = draw(MOST + 1);
	for (size_t i = 0; i < n; i++)
		rows[i] = (struct m2_budget_row){.bytes = 1 + draw(50),
			.used_ns = draw(200),
			.here_ns = draw(200),
			.stay_ns = draw(200),
			.running = draw(3) == 0,
			.pinned = draw(6) == 0,
			.leaving = draw(8) == 0,
			.closed = draw(6) == 0};
	return n;
}

static bool goes_first(const struct m2_budget_row *a, const struct m2_budget_row *b)
{
	return a->closed != b->closed ? a->closed : a->used_ns < b->used_ns;
}

static bool may_go_now(const struct m2_budget_row *r)
{
	return !r->pinned && !r->leaving && !r->running && (r->closed || r->stay_ns <= 100);
}

static uint64_t total(
	const struct m2_budget_row *rows, size_t n, bool (*counts)(const struct m2_budget_row *))
{
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += counts(&rows[i]) ? rows[i].bytes : 0;
	return sum;
}

static bool any(const struct m2_budget_row *r)
{
	return r->bytes > 0;
}

static bool is_leaving(const struct m2_budget_row *r)
{
	return r->leaving;
}

static bool will_go(const struct m2_budget_row *r)
{
	return !r->pinned || r->leaving;
}

static bool is_chosen(const struct m2_budget_row *r)
{
	return r->chosen;
}

static bool fits(uint64_t need, uint64_t budget, uint64_t free, uint64_t used, uint64_t gone)
{
	return (budget == 0 || used - gone + need <= budget) && need <= free + gone;
}

static void check_evict(
	const struct m2_budget_row *rows, size_t n, uint64_t need, uint64_t budget, uint64_t free)
{
	const uint64_t used = total(rows, n, any);
	const uint64_t gone = total(rows, n, is_leaving) + total(rows, n, is_chosen);
	assert_true(fits(need, budget, free, used, gone));
	uint64_t earlier = 0;
	const struct m2_budget_row *last = NULL;
	for (size_t i = 0; i < n; i++) {
		if (!rows[i].chosen)
			continue;
		assert_true(may_go_now(&rows[i]));
		/* each one is needed */
		assert_false(fits(need, budget, free, used, gone - rows[i].bytes));
		if (last == NULL || !goes_first(&rows[i], last))
			last = &rows[i];
	}
	assert_non_null(last);
	/* and all those used less recently than the last of them would not have been enough */
	for (size_t i = 0; i < n; i++)
		earlier += may_go_now(&rows[i]) && goes_first(&rows[i], last) ? rows[i].bytes : 0;
	assert_false(fits(need, budget, free, used, total(rows, n, is_leaving) + earlier));
}

static void any_table_is_decided_as_promised(void **unused)
{
	(void)unused;
	int seen[M2_BUDGET_REFUSE + 1] = {0};
	for (int round = 0; round < 100000; round++) {
		struct m2_budget_row rows[MOST];
		const size_t n = random_rows(rows);
		const uint64_t used = total(rows, n, any);
		const uint64_t need = draw(80);
		const uint64_t budget = draw(8) == 0 ? 0 : used + draw(30);
		const uint64_t free = draw(4) == 0 ? UINT64_MAX / 2 : draw(80);
		const struct m2_budget_outcome o = ask(need, budget, free, rows, n);
		const uint64_t left = total(rows, n, is_leaving);
		seen[o.answer]++;
		assert_int_equal(o.answer == M2_BUDGET_GO, fits(need, budget, free, used, 0));
		assert_int_equal(o.answer == M2_BUDGET_REFUSE,
			!fits(need, budget, free, used, total(rows, n, will_go)));
		if (o.answer != M2_BUDGET_EVICT && o.answer != M2_BUDGET_CLOSE)
			assert_string_equal(chosen(rows, n), "");
		if (o.answer == M2_BUDGET_EVICT)
			check_evict(rows, n, need, budget, free);
		/* whoever may leave now does not keep a load waiting */
		else if (o.answer == M2_BUDGET_CLOSE ||
			 (o.answer == M2_BUDGET_WAIT && !fits(need, budget, free, used, left)))
			assert_false(
				fits(need, budget, free, used, left + total(rows, n, may_go_now)));
		for (size_t i = 0; i < n && o.answer == M2_BUDGET_CLOSE; i++)
			assert_true(!rows[i].chosen ||
				    (!rows[i].pinned && !rows[i].leaving &&
					    (rows[i].closed || rows[i].stay_ns <= 100)));
		if (o.answer == M2_BUDGET_WAIT && o.until_ns > 0)
			assert_true(o.until_ns > 100);
	}
	for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++)
		assert_true(seen[i] > 500);
}

/* ---- as the supervisor uses it ------------------------------------------------------------------ */

/* Ten variants, a device for about three: requests come at random, run a while, and are all served. */
struct world {
	struct m2_budget_row rows[MOST]; /* bytes 0: not resident */
	uint64_t bytes[MOST];
	uint64_t ends[MOST];  /* of what runs */
	uint64_t waits[MOST]; /* since when somebody waits for it; 0: nobody */
	uint64_t n_waits[MOST];
	uint64_t budget, now, loads, served, longest, loading_until;
	int loading; /* -1: none */
};

static void serve(struct world *w, size_t i, uint64_t n)
{
	const uint64_t end = w->now + 5 + draw(30);
	w->rows[i].running = true;
	w->ends[i] = end > w->ends[i] ? end : w->ends[i];
	w->served += n;
}

static void arrive(struct world *w, size_t i)
{
	if (w->rows[i].bytes > 0 && !w->rows[i].closed && w->loading != (int)i) {
		serve(w, i, 1);
		return;
	}
	w->n_waits[i]++;
	if (w->waits[i] == 0)
		w->waits[i] = w->now;
}

static void apply(struct world *w, int head, const struct m2_budget_outcome *o)
{
	for (size_t i = 0; i < MOST; i++) {
		struct m2_budget_row *r = &w->rows[i];
		if (o->answer == M2_BUDGET_CLOSE)
			r->closed = r->closed || r->chosen;
		else if (o->answer != M2_BUDGET_WAIT)
			r->closed = false;
		if (o->answer == M2_BUDGET_EVICT && r->chosen) {
			assert_false(r->running);
			*r = (struct m2_budget_row){0};
		}
	}
	if (o->answer != M2_BUDGET_GO && o->answer != M2_BUDGET_EVICT)
		return;
	w->rows[head] = (struct m2_budget_row){.bytes = w->bytes[head], .pinned = true};
	w->loading = head;
	w->loading_until = w->now + 20;
	w->loads++;
}

static void settle(struct world *w)
{
	size_t order[MOST];
	int head = -1;
	for (int i = 0; i < MOST && w->loading < 0; i++)
		if (w->rows[i].bytes == 0 && w->waits[i] > 0 &&
			(head < 0 || w->waits[i] < w->waits[head]))
			head = i;
	if (head < 0)
		return;
	const struct m2_budget_question q = {
		.need = w->bytes[head], .budget = w->budget, .free = UINT64_MAX, .now_ns = w->now};
	const struct m2_budget_outcome o = m2_budget_decide(&q, w->rows, order, MOST);
	assert_int_not_equal(o.answer, M2_BUDGET_REFUSE);
	apply(w, head, &o);
}

static void tick(struct world *w)
{
	uint64_t sum = 0;
	w->now++;
	for (int i = 0; i < MOST; i++) {
		struct m2_budget_row *r = &w->rows[i];
		sum += r->bytes;
		if (r->running && w->ends[i] <= w->now) {
			r->running = false;
			r->used_ns = w->now;
		}
	}
	assert_true(sum <= w->budget);
	if (w->loading >= 0 && w->loading_until <= w->now) {
		const int i = w->loading;
		w->longest = w->now - w->waits[i] > w->longest ? w->now - w->waits[i] : w->longest;
		w->rows[i] = (struct m2_budget_row){.bytes = w->bytes[i],
			.used_ns = w->now,
			.here_ns = w->now,
			.stay_ns = m2_budget_stay(w->now, 20, 0)};
		w->loading = -1;
		serve(w, (size_t)i, w->n_waits[i]);
		w->waits[i] = w->n_waits[i] = 0;
	}
	settle(w);
}

static void everyone_has_their_turn(void **unused)
{
	(void)unused;
	for (int heavy = 0; heavy < 2; heavy++) {
		struct world w = {.budget = 100, .loading = -1, .now = 1};
		uint64_t requests = 0;
		for (int i = 0; i < MOST; i++)
			w.bytes[i] = 20 + draw(15);
		for (int t = 0; t < 200000; t++) {
			/* heavy: the first three are asked for without pause and never idle */
			const size_t wanted = heavy != 0 && draw(4) > 0 ? draw(3) : draw(MOST);
			if (t < 190000 && draw(heavy != 0 ? 2 : 12) == 0) {
				arrive(&w, wanted);
				requests++;
			}
			tick(&w);
		}
		assert_int_equal(w.served, requests);
		/* at most all others' turns: their stay, what they still run, and a load each */
		assert_true(w.longest < MOST * (20 + 35 + 20) * 2);
		assert_true(w.loads > 1000);
	}
}

/* ---- host memory -------------------------------------------------------------------------------- */

static bool park(uint64_t need, uint64_t used, uint64_t budget, uint64_t free,
	struct m2_budget_row *rows, size_t n)
{
	size_t order[MOST];
	const struct m2_budget_question q = {.need = need, .budget = budget, .free = free};
	return m2_budget_park(&q, used, rows, order, n);
}

static void what_leaves_is_parked_and_those_used_longest_ago_go_for_it(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {{.bytes = 30, .used_ns = 30}, {.bytes = 10, .used_ns = 10},
		{.bytes = 30, .used_ns = 20}};
	assert_true(park(30, 50, 100, UINT64_MAX, rows, 3));
	assert_string_equal(chosen(rows, 3), "");
	assert_true(park(40, 50, 100, UINT64_MAX, rows, 3));
	assert_string_equal(chosen(rows, 3), "b");
	/* b goes first, but then c alone makes the room */
	assert_true(park(60, 50, 100, UINT64_MAX, rows, 3));
	assert_string_equal(chosen(rows, 3), "c");
	assert_true(park(100, 50, 100, UINT64_MAX, rows, 3));
	assert_string_equal(chosen(rows, 3), "abc");
	/* never, and never more than all there may be */
	assert_false(park(1, 50, 0, UINT64_MAX, rows, 3));
	assert_false(park(101, 50, 100, UINT64_MAX, rows, 3));
	assert_string_equal(chosen(rows, 3), "");
}

static void nothing_used_since_goes_for_what_leaves(void **unused)
{
	(void)unused;
	struct m2_budget_row rows[] = {
		{.bytes = 50, .used_ns = 30}, {.bytes = 50, .used_ns = 10, .pinned = true}};
	assert_false(
		park(10, 20, 100, UINT64_MAX, rows, 2)); /* a was used later, b is on its way */
	assert_string_equal(chosen(rows, 2), "");
	assert_true(park(10, 40, 100, UINT64_MAX, rows, 2));
	assert_string_equal(chosen(rows, 2), "a");
	/* what the host has free counts as the budget does */
	assert_false(park(60, 40, 1000, 9, rows, 2));
	assert_true(park(60, 40, 1000, 10, rows, 2));
	assert_string_equal(chosen(rows, 2), "a");
	/* a lowered budget is a park of nothing */
	assert_true(park(0, UINT64_MAX, 99, 0, rows, 2));
	assert_string_equal(chosen(rows, 2), "a");
	rows[1].pinned = false;
	assert_true(park(0, UINT64_MAX, 0, 0, rows, 2));
	assert_string_equal(chosen(rows, 2), "ab");
	assert_true(park(0, UINT64_MAX, 100, 0, rows, 2));
	assert_string_equal(chosen(rows, 2), "");
}

static void any_table_of_what_is_parked_is_kept_within_its_budget(void **unused)
{
	(void)unused;
	for (int round = 0; round < 100000; round++) {
		struct m2_budget_row rows[MOST];
		const size_t n = (size_t)draw(MOST);
		const uint64_t budget = draw(200), need = draw(100), free = draw(200),
			       used = draw(50);
		uint64_t kept = 0, may_go = 0, freed = 0;
		for (size_t i = 0; i < n; i++) {
			rows[i] = (struct m2_budget_row){
				.bytes = 1 + draw(60), .used_ns = draw(50), .pinned = draw(4) == 0};
			may_go += !rows[i].pinned && rows[i].used_ns < used ? rows[i].bytes : 0;
			kept += rows[i].bytes;
		}
		const bool could =
			need <= budget && kept - may_go + need <= budget && need <= free + may_go;
		assert_int_equal(park(need, used, budget, free, rows, n), could);
		for (size_t i = 0; i < n; i++) {
			if (!rows[i].chosen)
				continue;
			assert_true(could && !rows[i].pinned && rows[i].used_ns < used);
			freed += rows[i].bytes;
		}
		for (size_t i = 0; i < n; i++)
			assert_false(rows[i].chosen &&
				     kept - freed + rows[i].bytes + need <= budget &&
				     need <= free + freed - rows[i].bytes);
		assert_true(!could || (kept - freed + need <= budget && need <= free + freed));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_load_that_fits_begins_at_once),
		cmocka_unit_test(least_recently_used_ones_leave_and_no_more_than_needed),
		cmocka_unit_test(the_device_counts_as_the_budget_does),
		cmocka_unit_test(neither_the_pinned_nor_the_running_leave),
		cmocka_unit_test(nobody_leaves_before_its_stay_is_over),
		cmocka_unit_test(what_leaves_already_is_waited_for),
		cmocka_unit_test(a_lowered_budget_is_a_load_of_nothing),
		cmocka_unit_test(any_table_is_decided_as_promised),
		cmocka_unit_test(everyone_has_their_turn),
		cmocka_unit_test(what_leaves_is_parked_and_those_used_longest_ago_go_for_it),
		cmocka_unit_test(nothing_used_since_goes_for_what_leaves),
		cmocka_unit_test(any_table_of_what_is_parked_is_kept_within_its_budget),
	};
	return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
