/* test_daemon_pause.c - pausing: a sequence that gives its slot up and comes back goes on with the same bits,
 * nothing of it is lost, and it can be stopped meanwhile. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/scheduler_rig.h"

static struct m2_lane *lane_of(struct rig *rig)
{
	return rig->lane[0];
}

static void step_times(struct rig *rig, int n)
{
	for (int i = 0; i < n; i++)
		(void)rig_step(rig);
}

/* Everything a client could read but the times. */
static bool same_results(const struct m2_task *a, const struct m2_task *b)
{
	const size_t head = sizeof(struct m2_results_header);
	return a->segment.bytes == b->segment.bytes &&
	       memcmp((const char *)a->header + head, (const char *)b->header + head,
		       a->segment.bytes - head) == 0;
}

static struct rig_ask random_ask(uint64_t *state)
{
	struct rig_ask ask = {0};
	*state = fake_mix(*state);
	ask.prompt_tokens = 1 + (int)(*state % 300);
	ask.prompt_seed = *state >> 7;
	ask.max_tokens = 20 + (int)((*state >> 20) % 200);
	ask.n = 1 + (int)((*state >> 40) % 4);
	ask.temperature = (*state >> 50) % 3 == 0 ? 0.0F : 0.9F;
	ask.repetition = (*state >> 53) % 2 ? 1.3F : 0.0F;
	ask.logprobs = (int)((*state >> 54) % 4);
	ask.seed = *state % 1000;
	if ((*state >> 57) % 5 == 0) {
		ask.op = M2_OP_SCORE;
		ask.n = 1;
		ask.prompt_tokens *= 5;
	}
	ask.uid = 100 + (uint32_t)((*state >> 33) % 7);
	ask.weight = 1 + (uint32_t)((*state >> 36) % 3);
	ask.priority = (enum m2_priority)((*state >> 45) % M2_PRIORITY_COUNT);
	return ask;
}

static void what_is_paused_gets_what_it_gets_alone(void **unused)
{
	(void)unused;
	enum { N = 80 };
	struct rig crowd, alone;
	struct m2_task *task[N];
	struct rig_ask ask[N];
	uint64_t state = 5;
	rig_open(&crowd, 4, 64, true);
	rig_open(&alone, 4, 5000, true);
	for (int i = 0; i < N; i++) {
		ask[i] = random_ask(&state);
		task[i] = rig_submit(&crowd, &ask[i]);
		step_times(&crowd, (int)(fake_mix(state) % 40));
	}
	rig_run(&crowd);
	uint64_t pauses = 0;
	for (int i = 0; i < N; i++) {
		struct m2_task *single = rig_submit(&alone, &ask[i]);
		rig_run(&alone);
		assert_int_equal(task[i]->err, M2_OK);
		assert_true(same_results(task[i], single));
		pauses += task[i]->header->pauses;
		assert_true((task[i]->header->pauses > 0) == (task[i]->header->paused_ns > 0));
	}
	assert_true(pauses > 20);
	assert_true(pauses == atomic_load(&lane_of(&crowd)->pauses));
	assert_true(crowd.model[0].saves > 20 && crowd.model[0].restores > 20);
	rig_close(&crowd);
	rig_close(&alone);
}

/* One user has both slots; another comes: one of the two is paused.  *second: that one. */
static void pause_one(struct rig *rig, struct rig_ask more, struct m2_task **first,
	struct m2_task **second, struct m2_task **other)
{
	more.prompt_tokens = 5;
	more.max_tokens = 3000;
	more.uid = 1;
	*first = rig_submit(rig, &more);
	*second = rig_submit(rig, &more);
	step_times(rig, M2_PAUSE_TOKENS + 2);
	*other =
		rig_submit(rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 500, .uid = 2});
	(void)rig_step(rig);
	assert_int_equal((*other)->stage, M2_STAGE_RUNNING);
	assert_int_equal((*first)->stage, M2_STAGE_RUNNING);
	assert_int_equal((*second)->stage, M2_STAGE_PAUSED);
	assert_int_equal(atomic_load(&lane_of(rig)->paused), 1);
	assert_int_equal(atomic_load(&rig->scheduler.fair.users[(*second)->place].paused), 1);
}

static void it_is_the_latest_that_is_paused_and_it_comes_back_first(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *first, *second, *other;
	rig_open(&rig, 2, 64, false);
	pause_one(&rig, (struct rig_ask){0}, &first, &second, &other);
	const uint32_t had = second->sequences[0].generated;
	struct m2_task *third =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 9, .uid = 1});
	step_times(&rig, 100);
	assert_int_equal(second->sequences[0].generated, had);
	while (other->stage == M2_STAGE_RUNNING)
		(void)rig_step(&rig);
	(void)rig_step(&rig);
	assert_int_equal(second->stage, M2_STAGE_RUNNING);
	assert_int_equal(third->stage, M2_STAGE_QUEUED);
	rig_run(&rig);
	assert_int_equal(second->sequences[0].generated, 3000);
	rig_close(&rig);
}

static void nobody_is_paused_before_the_quantum_is_over(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 1, 64, false);
	struct m2_task *one = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 3000, .uid = 1});
	(void)rig_step(&rig);
	struct m2_task *two =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 9, .uid = 2});
	while (one->stage == M2_STAGE_RUNNING)
		(void)rig_step(&rig);
	assert_true(one->turn_tokens >= M2_PAUSE_TOKENS);
	assert_true(one->turn_tokens <= M2_PAUSE_TOKENS + 1);
	assert_int_equal(two->stage, M2_STAGE_RUNNING);
	while (one->stage != M2_STAGE_RUNNING)
		(void)rig_step(&rig);
	/* or when so much time is */
	struct m2_task *three =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 9, .uid = 3});
	(void)rig_step(&rig);
	assert_int_equal(three->stage, M2_STAGE_QUEUED);
	rig_clock += M2_PAUSE_NS;
	(void)rig_step(&rig);
	assert_int_equal(three->stage, M2_STAGE_RUNNING);
	rig_run(&rig);
	rig_close(&rig);
}

static void a_cancel_and_a_deadline_take_effect_while_it_is_paused(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *first, *second, *other;
	rig_open(&rig, 2, 64, false);
	pause_one(&rig, (struct rig_ask){0}, &first, &second, &other);
	const uint32_t had = second->sequences[0].generated;
	atomic_store(&second->cancel, M2_FINISH_CANCELLED);
	atomic_fetch_add(&lane_of(&rig)->alarm, 1);
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 1);
	assert_int_equal(second->err, M2_ECANCELED);
	assert_int_equal(rig_finish(second, 0), M2_FINISH_CANCELLED);
	assert_int_equal(atomic_load(&second->sequences[0].out->published), had);
	assert_true(second->header->paused_ns > 0);
	assert_int_equal(lane_of(&rig)->n_free_states, lane_of(&rig)->facts.parked);
	rig_run(&rig);
	rig_close(&rig);

	rig_open(&rig, 2, 64, false);
	pause_one(&rig, (struct rig_ask){.deadline_ms = 50}, &first, &second, &other);
	rig_clock += 50000000;
	(void)rig_step(&rig);
	assert_int_equal(second->err, M2_EDEADLINE);
	assert_int_equal(first->err, M2_EDEADLINE);
	rig_run(&rig);
	assert_int_equal(other->err, M2_OK);
	rig_close(&rig);
}

static void completions_of_one_request_are_paused_together(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 4, 64, false);
	struct m2_task *many = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .n = 4, .max_tokens = 300, .uid = 1});
	step_times(&rig, M2_PAUSE_TOKENS);
	struct m2_task *one =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 30, .uid = 2});
	(void)rig_step(&rig);
	assert_int_equal(many->stage, M2_STAGE_PAUSED);
	for (int i = 0; i < 4; i++)
		assert_true(many->sequences[i].slot < 0 && many->sequences[i].parked >= 0);
	assert_int_equal(rig.model[0].saves, 4);
	rig_run(&rig);
	assert_int_equal(one->err, M2_OK);
	for (int i = 0; i < 4; i++)
		assert_int_equal(many->sequences[i].generated, 300);
	rig_close(&rig);
}

static void before_its_prompt_is_over_one_state_is_all_there_is(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 4, 64, false);
	struct m2_task *many = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 4000, .n = 4, .max_tokens = 20, .uid = 1});
	step_times(&rig, 3);
	(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 30, .uid = 2});
	(void)rig_step(&rig);
	assert_int_equal(many->stage, M2_STAGE_PAUSED);
	assert_int_equal(rig.model[0].saves, 1);
	rig_run(&rig);
	assert_int_equal(many->err, M2_OK);
	rig_close(&rig);
}

static void a_state_that_cannot_be_saved_ends_its_request_alone(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, false);
	rig.model[0].fail_save = 1;
	struct m2_task *a = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 900, .uid = 1});
	struct m2_task *b = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 900, .uid = 1});
	step_times(&rig, M2_PAUSE_TOKENS + 2);
	struct m2_task *c =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 9, .uid = 2});
	rig_run(&rig);
	assert_int_equal(a->err, M2_OK);
	assert_int_equal(b->err, M2_EDEVICE);
	assert_int_equal(c->err, M2_OK);
	rig_close(&rig);
}

static void an_unload_and_a_lost_device_end_the_paused_too(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *first, *second, *other;
	struct m2_why why;
	rig_open(&rig, 2, 64, false);
	pause_one(&rig, (struct rig_ask){0}, &first, &second, &other);
	atomic_store(&lane_of(&rig)->cancel_at, 0);
	assert_false(rig_step(&rig));
	assert_int_equal(rig.n_done, 3);
	rig_close(&rig);
	rig_open(&rig, 2, 64, false);
	pause_one(&rig, (struct rig_ask){0}, &first, &second, &other);
	m2_scheduler_fail(&rig.scheduler, m2_fail(M2_EDEVICE, &why, "gone"), &why);
	assert_int_equal(rig.n_done, 3);
	assert_int_equal(second->err, M2_EDEVICE);
	rig_close(&rig);
}

/* ---- limits and priorities ---------------------------------------------------------------------- */

static void a_users_slots_are_limited_and_others_fill_the_rest(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *mine[4];
	rig_open(&rig, 4, 64, false);
	for (int i = 0; i < 4; i++)
		mine[i] = rig_submit(&rig,
			&(struct rig_ask){
				.prompt_tokens = 5, .max_tokens = 50, .uid = 1, .user_slots = 2});
	struct m2_task *other = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .n = 2, .max_tokens = 50, .uid = 2});
	(void)rig_step(&rig);
	assert_int_equal(mine[0]->stage, M2_STAGE_RUNNING);
	assert_int_equal(mine[1]->stage, M2_STAGE_RUNNING);
	assert_int_equal(mine[2]->stage, M2_STAGE_QUEUED);
	assert_int_equal(other->stage, M2_STAGE_RUNNING);
	rig_run(&rig);
	for (int i = 0; i < 4; i++)
		assert_int_equal(mine[i]->err, M2_OK);
	rig_close(&rig);
}

static uint64_t bytes_of(const struct rig *rig, uint32_t uid, bool paused)
{
	for (int32_t i = 0; i < M2_FAIR_USERS; i++) {
		const struct m2_fair_user *u = &rig->scheduler.fair.users[i];
		if (rig->scheduler.fair.used[i] && atomic_load(&u->uid) == uid)
			return atomic_load(paused ? &u->paused_bytes : &u->slot_bytes);
	}
	return 0;
}

static void a_users_states_are_limited_by_their_bytes_and_the_paused_count(void **unused)
{
	(void)unused;
	const uint64_t one = sizeof(struct fake_slot);
	struct rig rig;
	struct m2_task *mine[4], *others[2];
	const struct rig_ask ask = {
		.prompt_tokens = 5, .max_tokens = 3000, .uid = 1, .user_bytes = 3 * one};
	rig_open(&rig, 4, 64, false);
	for (int i = 0; i < 4; i++)
		mine[i] = rig_submit(&rig, &ask);
	(void)rig_step(&rig);
	assert_int_equal(mine[2]->stage, M2_STAGE_RUNNING);
	assert_int_equal(mine[3]->stage, M2_STAGE_QUEUED); /* a slot is free */
	assert_int_equal(bytes_of(&rig, 1, false), 3 * one);
	for (int i = 0; i < 2; i++)
		others[i] = rig_submit(
			&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 3000, .uid = 2});
	while (mine[2]->stage == M2_STAGE_RUNNING)
		assert_true(rig_step(&rig));
	assert_int_equal(mine[2]->stage, M2_STAGE_PAUSED);
	assert_int_equal(bytes_of(&rig, 1, false), 2 * one);
	assert_int_equal(bytes_of(&rig, 1, true), one);
	assert_int_equal(bytes_of(&rig, 2, false), 2 * one);
	/* the other user goes: what is paused comes back, and nothing else of its user begins before */
	for (int i = 0; i < 2; i++)
		atomic_store(&others[i]->cancel, M2_FINISH_CANCELLED);
	atomic_fetch_add(&lane_of(&rig)->alarm, 1);
	(void)rig_step(&rig);
	assert_int_equal(mine[2]->stage, M2_STAGE_RUNNING);
	assert_int_equal(mine[3]->stage, M2_STAGE_QUEUED);
	rig_run(&rig);
	for (int i = 0; i < 4; i++)
		assert_int_equal(mine[i]->err, M2_OK);
	for (uint32_t uid = 1; uid <= 2; uid++)
		assert_int_equal(bytes_of(&rig, uid, false) + bytes_of(&rig, uid, true), 0);
	rig_close(&rig);
}

static void priorities_order_ones_own_queue_and_nobody_elses(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *t[5];
	static const enum m2_priority priority[5] = {M2_PRIORITY_NORMAL, M2_PRIORITY_LOW,
		M2_PRIORITY_NORMAL, M2_PRIORITY_HIGH, M2_PRIORITY_HIGH};
	static const int order[5] = {0, 3, 4, 2, 1}; /* the first is running already */
	rig_open(&rig, 1, 64, false);
	rig_parked = 0;
	for (int i = 0; i < 5; i++) {
		t[i] = rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5,
						.max_tokens = 9,
						.uid = 1,
						.priority = priority[i]});
		(void)rig_step(&rig);
	}
	/* another user's low one: it is their turn after the one that runs */
	struct m2_task *low = rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5,
						       .max_tokens = 9,
						       .uid = 2,
						       .priority = M2_PRIORITY_LOW});
	rig_run(&rig);
	assert_ptr_equal(rig.done[0], t[0]);
	assert_ptr_equal(rig.done[1], low);
	for (int i = 1; i < 5; i++)
		assert_ptr_equal(rig.done[i + 1], t[order[i]]);
	rig_parked = 64;
	rig_close(&rig);
}

/* ---- the table and the queue's bound ------------------------------------------------------------ */

static void users_beyond_the_table_share_one_place(void **unused)
{
	(void)unused;
	static struct m2_fair fair;
	for (uint32_t i = 0; i < M2_FAIR_USERS; i++)
		assert_int_equal(m2_fair_enter(&fair, 1000 + i, 5, 0, 1), (int32_t)i);
	assert_int_equal(m2_fair_enter(&fair, 1, 9, 3, 1), M2_FAIR_USERS);
	assert_int_equal(m2_fair_enter(&fair, 2, 9, 3, 1), M2_FAIR_USERS);
	assert_int_equal(atomic_load(&fair.users[M2_FAIR_USERS].weight), 1);
	assert_int_equal(m2_fair_enter(&fair, 1007, 5, 0, 1), 7);
	/* one that becomes idle makes room */
	m2_fair_leave(&fair, 30);
	assert_int_equal(m2_fair_enter(&fair, 3, 9, 3, 1), 30);
	assert_int_equal(atomic_load(&fair.users[30].uid), 3);
}

static void nobody_has_all_of_a_queue(void **unused)
{
	(void)unused;
	static struct m2_waiters w;
	int32_t own, total = 0;
	for (; total < 100; total++)
		assert_non_null(m2_waiters_enter(&w, 1, total, 100, &own));
	assert_null(m2_waiters_enter(&w, 1, total, 100, &own));
	assert_int_equal(own, 100);
	int32_t second = 0;
	while (m2_waiters_enter(&w, 2, total, 100, &own) != NULL) {
		second++;
		total++;
	}
	assert_int_equal(second, 50);
	_Atomic int32_t *third = m2_waiters_enter(&w, 3, total, 100, &own);
	assert_non_null(third);
	assert_int_equal(atomic_load(third), 1);
	atomic_fetch_sub(third, 1);
	assert_null(m2_waiters_enter(&w, 4, 0, 0, &own)); /* a variant without a queue */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_paused_gets_what_it_gets_alone),
		cmocka_unit_test(it_is_the_latest_that_is_paused_and_it_comes_back_first),
		cmocka_unit_test(nobody_is_paused_before_the_quantum_is_over),
		cmocka_unit_test(a_cancel_and_a_deadline_take_effect_while_it_is_paused),
		cmocka_unit_test(completions_of_one_request_are_paused_together),
		cmocka_unit_test(before_its_prompt_is_over_one_state_is_all_there_is),
		cmocka_unit_test(a_state_that_cannot_be_saved_ends_its_request_alone),
		cmocka_unit_test(an_unload_and_a_lost_device_end_the_paused_too),
		cmocka_unit_test(a_users_slots_are_limited_and_others_fill_the_rest),
		cmocka_unit_test(a_users_states_are_limited_by_their_bytes_and_the_paused_count),
		cmocka_unit_test(priorities_order_ones_own_queue_and_nobody_elses),
		cmocka_unit_test(users_beyond_the_table_share_one_place),
		cmocka_unit_test(nobody_has_all_of_a_queue),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
