/* test_daemon_fair.c - shares of simulated users over ten simulated seconds: whatever they ask for, and
 * however, each gets work in proportion to their weight; and who comes new waits for nobody's queue. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "tests/unit/scheduler_rig.h"

enum { USERS_MAX = 32, UID = 5000 };
#if defined(__SANITIZE_THREAD__)
enum { FLOOD = 1000 }; /* its memory of every page that is mapped is slow */
#else
enum { FLOOD = 10000 };
#endif

#define SECONDS(n) ((uint64_t)(n)*UINT64_C(1000000000))

/* A simulated user: always `at_once` requests under way, each like `ask`. */
struct demand {
	struct rig_ask ask;
	int at_once;
	int under_way;
	double work; /* that they were given */
	bool served; /* a token of theirs was there */
	uint64_t
		first; /* rig_clock when the first token of the first request was there; 0: not yet */
	int tokens;    /* of prompts and completions */
	int ended;
};

struct world {
	struct rig rig;
	struct demand users[USERS_MAX];
	int n_users;
	struct m2_task *gone; /* done in this step */
	uint64_t step_ns;     /* of a step, besides its work */
};

static void on_gone(void *ctx, struct m2_task *task)
{
	struct world *w = ctx;
	task->next = w->gone;
	w->gone = task;
}

static void open_world(struct world *w, int slots, int max_batch_tokens)
{
	memset(w, 0, sizeof *w);
	rig_open(&w->rig, slots, max_batch_tokens, false);
	w->step_ns = 1000000;
	w->rig.scheduler.events.ctx = w;
	w->rig.scheduler.events.done = on_gone;
}

static struct demand *add_user(struct world *w, uint32_t weight, int at_once, struct rig_ask ask)
{
	struct demand *d = &w->users[w->n_users];
	d->ask = ask;
	d->ask.uid = UID + (uint32_t)w->n_users++;
	d->ask.weight = weight;
	d->at_once = at_once;
	return d;
}

static void top_up(struct world *w)
{
	for (int i = 0; i < w->n_users; i++) {
		struct demand *d = &w->users[i];
		for (; d->under_way < d->at_once; d->under_way++) {
			d->ask.prompt_seed++;
			(void)rig_submit(&w->rig, &d->ask);
		}
	}
}

/* What the step did, from what it was made of; a device that needs 1 ms and 50 us per unit of work. */
static void account(struct world *w, const uint64_t steps[2])
{
	double work = 0;
	for (int l = 0; l < 2; l++) {
		const struct m2_lane *lane = w->rig.lane[l];
		if (lane == NULL || atomic_load(&lane->steps) == steps[l])
			continue;
		const struct m2_flight *f = &lane->flights[(lane->begun - 1) % M2_STEPS_IN_FLIGHT];
		for (int32_t i = 0; i < f->n_items; i++) {
			const int n = f->work[i].n_tokens;
			struct demand *d = &w->users[f->items[i].task->uid - UID];
			const uint64_t cost = f->items[i].sequence != NULL
						      ? lane->facts.cost.decode
						      : lane->facts.cost.prompt;
			d->work += (double)n * (double)cost;
			d->tokens += n;
			work += (double)n * (double)cost;
			d->served =
				d->served || f->work[i].logits != NULL || f->work[i].pick != NULL;
		}
	}
	rig_clock += w->step_ns + (uint64_t)(work * 50000);
	for (int u = 0; u < w->n_users; u++)
		if (w->users[u].served && w->users[u].first == 0)
			w->users[u].first = rig_clock;
}

static void bury(struct world *w)
{
	for (struct m2_task *task = w->gone, *next; task != NULL; task = next) {
		next = task->next;
		w->users[task->uid - UID].under_way--;
		w->users[task->uid - UID].ended++;
		m2_task_destroy(w->rig.pool, &task);
	}
	w->gone = NULL;
}

static void step_world(struct world *w)
{
	uint64_t steps[2] = {0};
	top_up(w);
	for (int l = 0; l < 2; l++)
		if (w->rig.lane[l] != NULL)
			steps[l] = atomic_load(&w->rig.lane[l]->steps);
	assert_true(rig_step(&w->rig));
	account(w, steps);
	bury(w);
}

static void run_for(struct world *w, uint64_t ns)
{
	const uint64_t end = rig_clock + ns;
	for (int i = 0; i < w->n_users; i++) {
		w->users[i].work = 0;
		w->users[i].tokens = 0;
	}
	while (rig_clock < end)
		step_world(w);
}

/* Nobody wants anything any more; what is left is cancelled. */
static void close_world(struct world *w)
{
	for (int l = 0; l < 2; l++)
		if (w->rig.lane[l] != NULL)
			atomic_store(&w->rig.lane[l]->cancel_at, 0);
	while (rig_step(&w->rig))
		;
	bury(w);
	for (int i = 0; i < w->n_users; i++)
		assert_int_equal(w->users[i].under_way, 0);
	assert_int_equal(w->rig.scheduler.fair.n_active, 0);
	rig_close(&w->rig);
}

/* Each within 5 % of their weight's share of the work. */
static void check_shares(const struct world *w, const char *what)
{
	double work = 0;
	uint32_t weights = 0;
	for (int i = 0; i < w->n_users; i++) {
		work += w->users[i].work;
		weights += w->users[i].ask.weight;
	}
	for (int i = 0; i < w->n_users; i++) {
		const double due = (double)w->users[i].ask.weight / weights;
		const double share = w->users[i].work / work;
		if (getenv("M2_SHOW_SHARES") != NULL)
			print_message(
				"%s: user %d weight %u: due %.4f has %.4f (%d tokens, %d ended)\n",
				what, i, w->users[i].ask.weight, due, share, w->users[i].tokens,
				w->users[i].ended);
		if (fabs(share / due - 1) > 0.05)
			fail_msg("%s: user %d of weight %u has %.4f of the work, due are %.4f",
				what, i, w->users[i].ask.weight, share, due);
	}
}

/* What users do: singles, floods, long prompts, many completions, scores. */
static const struct rig_ask single = {.prompt_tokens = 20, .max_tokens = 100};
static const struct rig_ask short_one = {.prompt_tokens = 8, .max_tokens = 30};
static const struct rig_ask reader = {.prompt_tokens = 2000, .max_tokens = 3};
static const struct rig_ask fan = {.prompt_tokens = 40, .n = 8, .max_tokens = 60};
static const struct rig_ask scorer = {.op = M2_OP_SCORE, .prompt_tokens = 500, .logprobs = 1};

static void ten_thousand_requests_weigh_no_more_than_one_at_a_time(void **unused)
{
	(void)unused;
	struct world w;
	open_world(&w, 16, 256);
	add_user(&w, 1, FLOOD, short_one);
	add_user(&w, 1, 1, single);
	run_for(&w, SECONDS(10));
	assert_true(atomic_load(&w.rig.lane[0]->queued) > FLOOD - 100);
	check_shares(&w, "10,000 against one");
	close_world(&w);
}

static void two_users_share_by_weight_whatever_they_ask_for(void **unused)
{
	(void)unused;
	static const struct {
		const char *what;
		const struct rig_ask *ask[2];
		int at_once[2];
		uint32_t weight[2];
	} rows[] = {
		{"40 against one", {&single, &single}, {40, 1}, {1, 1}},
		{"prompts against decodes", {&reader, &single}, {20, 4}, {1, 1}},
		{"n = 8 against singles", {&fan, &single}, {6, 3}, {1, 1}},
		{"scores against decodes", {&scorer, &single}, {30, 2}, {1, 1}},
		{"weights 3 and 1", {&short_one, &short_one}, {500, 500}, {3, 1}},
		{"weights 1 and 9, prompts heavy", {&reader, &single}, {50, 2}, {1, 9}},
		{"weights 1 and 50", {&short_one, &short_one}, {100, 100}, {1, 50}},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct world w;
		open_world(&w, 16, 256);
		for (int u = 0; u < 2; u++)
			add_user(&w, rows[i].weight[u], rows[i].at_once[u], *rows[i].ask[u]);
		run_for(&w, SECONDS(1));
		run_for(&w, SECONDS(10));
		check_shares(&w, rows[i].what);
		close_world(&w);
	}
}

static void add_ten(struct world *w, bool weighted)
{
	static const struct rig_ask *const asks[] = {&short_one, &single, &reader, &fan, &scorer};
	static const int at_once[] = {1000, 1, 30, 4, 3};
	for (int i = 0; i < 10; i++)
		add_user(w, weighted ? 1 + (uint32_t)i % 4 : 1, at_once[i % 5] + i / 5,
			*asks[i % 5]);
}

static void ten_users_share_by_weight_whatever_they_ask_for(void **unused)
{
	(void)unused;
	for (int weighted = 0; weighted < 2; weighted++) {
		struct world w;
		open_world(&w, 16, 256);
		add_ten(&w, weighted);
		run_for(&w, SECONDS(2));
		run_for(&w, SECONDS(10));
		check_shares(&w, weighted ? "ten, weighted" : "ten");
		assert_true(atomic_load(&w.rig.lane[0]->pauses) > 0);
		close_world(&w);
	}
}

/* A quantum is over after three steps here, and memory is what it is by default. */
static void on_a_slow_device_too(void **unused)
{
	(void)unused;
	struct world w;
	const int before = rig_parked;
	rig_parked = 33;
	open_world(&w, 16, 256);
	w.step_ns = 40000000;
	add_ten(&w, false);
	run_for(&w, SECONDS(20));
	run_for(&w, SECONDS(40));
	check_shares(&w, "ten, slowly");
	close_world(&w);
	rig_parked = before;
}

/* parked: states that there is memory for. */
static void take_turns(int users, int parked, const char *what)
{
	struct world w;
	const int before = rig_parked;
	rig_parked = parked;
	open_world(&w, 4, 64);
	for (int i = 0; i < users; i++)
		add_user(&w, 1, 1 + i % 7,
			(struct rig_ask){.prompt_tokens = 10, .max_tokens = 2000});
	run_for(&w, SECONDS(2));
	run_for(&w, SECONDS(10));
	check_shares(&w, what);
	/* and nobody thrashes: a quantum is what it is */
	const struct m2_lane *lane = w.rig.lane[0];
	assert_true(atomic_load(&lane->pauses) > 20);
	assert_true(atomic_load(&lane->pauses) * M2_PAUSE_TOKENS / 2 <
		    atomic_load(&lane->generated_tokens));
	close_world(&w);
	rig_parked = before;
}

static void more_users_than_slots_take_turns_by_pausing(void **unused)
{
	(void)unused;
	take_turns(20, 64, "twenty on four slots");
}

static void with_memory_for_one_more_they_still_change_places(void **unused)
{
	(void)unused;
	take_turns(8, 5, "eight on four slots, five parked");
}

static void without_memory_for_states_slots_are_waited_for(void **unused)
{
	(void)unused;
	struct world w;
	const int before = rig_parked;
	rig_parked = 0;
	open_world(&w, 8, 64);
	add_user(&w, 1, 500, short_one);
	add_user(&w, 1, 1, single);
	run_for(&w, SECONDS(10));
	check_shares(&w, "nothing parked"); /* work is shared all the same */
	assert_int_equal(atomic_load(&w.rig.lane[0]->pauses), 0);
	close_world(&w);
	rig_parked = before;
}

static void a_large_models_token_counts_for_more_than_a_small_ones(void **unused)
{
	(void)unused;
	struct world w;
	rig_cost[0] = (struct m2_fair_cost){10, 12};
	rig_cost[1] = (struct m2_fair_cost){1, 1};
	open_world(&w, 8, 64);
	rig_add_lane(&w.rig, 1, 8, 64, false);
	struct rig_ask small = single;
	small.lane = 1;
	add_user(&w, 1, 20, single);
	add_user(&w, 1, 20, small);
	struct demand *both = add_user(&w, 2, 3, small);
	run_for(&w, SECONDS(10));
	check_shares(&w, "two models");
	/* the small model's user has the same work in many times the tokens */
	assert_true(w.users[1].tokens > 8 * w.users[0].tokens);
	assert_true(both->tokens > 16 * w.users[0].tokens);
	close_world(&w);
	rig_cost[0] = rig_cost[1] = (struct m2_fair_cost){0, 0};
}

/* The device of account(): a step costs as much as twenty tokens. */
static void with_a_price_for_steps_a_flood_fills_them_and_slows_one_by_their_share(void **unused)
{
	(void)unused;
	int tokens[2][2];
	for (int priced = 0; priced < 2; priced++) {
		struct world w;
		rig_step_cost = priced ? 20 : 0;
		open_world(&w, 16, 256);
		add_user(&w, 1, 200, single);
		add_user(&w, 1, 1, single);
		run_for(&w, SECONDS(1));
		run_for(&w, SECONDS(10));
		for (int u = 0; u < 2; u++)
			tokens[priced][u] = w.users[u].tokens;
		close_world(&w);
	}
	rig_step_cost = 0;
	if (getenv("M2_SHOW_SHARES") != NULL)
		print_message("flood and one: %d %d, with a price %d %d\n", tokens[0][0],
			tokens[0][1], tokens[1][0], tokens[1][1]);
	assert_true(tokens[1][0] > 4 * tokens[0][0]);
	/* alone, the one would have a step of one token each 1.05 ms */
	const double alone = 10 / 1.05e-3;
	assert_true(tokens[1][1] > 0.95 * alone / 2);
}

static void virtual_time_starts_again_before_it_is_at_its_end(void **unused)
{
	(void)unused;
	struct world w;
	rig_cost[0] = (struct m2_fair_cost){UINT64_C(1) << 30, UINT64_C(1) << 30};
	open_world(&w, 8, 64);
	add_user(&w, 1, 20, single);
	add_user(&w, 2, 20, single);
	uint64_t highest = 0;
	bool fell = false;
	/* the clock says nothing of use with such costs: count steps */
	for (int i = 0; i < 5000; i++) {
		step_world(&w);
		fell = fell || w.rig.scheduler.fair.now < highest;
		highest = w.rig.scheduler.fair.now;
	}
	assert_true(fell);
	check_shares(&w, "over the end of time");
	close_world(&w);
	rig_cost[0] = (struct m2_fair_cost){0, 0};
}

/* ---- newcomers ---------------------------------------------------------------------------------- */

/* The worst of some rounds, in ns. */
static uint64_t first_token(const struct rig_ask *const asks[3], int rounds)
{
	uint64_t worst = 0;
	for (int round = 0; round < rounds; round++) {
		struct world w;
		open_world(&w, 16, 256);
		for (int i = 0; i < 9; i++)
			add_user(&w, 1, 200, *asks[i % 3]);
		run_for(&w, SECONDS(1) / 7 * (uint64_t)(1 + round % 5) + (uint64_t)round * 3000000);
		struct demand *late = add_user(&w, 1, 1, short_one);
		const uint64_t came = rig_clock;
		while (late->first == 0)
			step_world(&w);
		worst = late->first - came > worst ? late->first - came : worst;
		close_world(&w);
	}
	if (getenv("M2_SHOW_SHARES") != NULL)
		print_message("worst first token of a newcomer: %.1f ms\n", (double)worst / 1e6);
	return worst;
}

static void a_newcomers_first_token_waits_for_nobodys_queue(void **unused)
{
	(void)unused;
	static const struct rig_ask *const singles[] = {&reader, &single, &short_one};
	static const struct rig_ask *const gangs[] = {&reader, &single, &fan};
	const uint64_t longest_step = 1000000 + 256 * 50000;
	/* the quantum of whoever has the slots, the step under way and its own */
	assert_true(first_token(singles, 8) <= M2_PAUSE_NS + 2 * longest_step);
	/* three users want eight slots at once; they may be waiting already, and be further behind */
	assert_true(first_token(gangs, 8) <= 4 * (M2_PAUSE_NS + 2 * longest_step));
}

static void idleness_is_not_saved_up(void **unused)
{
	(void)unused;
	struct world w;
	open_world(&w, 8, 64);
	struct demand *always = add_user(&w, 1, 20, single);
	struct demand *sometimes = add_user(&w, 1, 20, single);
	run_for(&w, SECONDS(1));
	sometimes->at_once = 0;
	run_for(&w, SECONDS(20));
	sometimes->at_once = 20;
	run_for(&w, SECONDS(2));
	check_shares(&w, "after twenty seconds of silence");
	assert_true(always->ended > 0);
	close_world(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ten_thousand_requests_weigh_no_more_than_one_at_a_time),
		cmocka_unit_test(two_users_share_by_weight_whatever_they_ask_for),
		cmocka_unit_test(ten_users_share_by_weight_whatever_they_ask_for),
		cmocka_unit_test(on_a_slow_device_too),
		cmocka_unit_test(more_users_than_slots_take_turns_by_pausing),
		cmocka_unit_test(with_memory_for_one_more_they_still_change_places),
		cmocka_unit_test(without_memory_for_states_slots_are_waited_for),
		cmocka_unit_test(a_large_models_token_counts_for_more_than_a_small_ones),
		cmocka_unit_test(
			with_a_price_for_steps_a_flood_fills_them_and_slows_one_by_their_share),
		cmocka_unit_test(virtual_time_starts_again_before_it_is_at_its_end),
		cmocka_unit_test(a_newcomers_first_token_waits_for_nobodys_queue),
		cmocka_unit_test(idleness_is_not_saved_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
