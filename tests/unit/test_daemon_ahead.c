/* test_daemon_ahead.c - a step begun before the last one is waited for: everyone gets what they get without, and
 * whoever ends, is cancelled, paused or fails meanwhile leaves nothing behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/scheduler_rig.h"
#include "tests/unit/late_backend.h"

static struct m2_backend late;

static void open_late(struct rig *rig, int slots, int max_batch_tokens, bool text)
{
	late_open(&fake_backend, FAKE_ROWS * sizeof(float), &late);
	rig_backend = &late;
	rig_open(rig, slots, max_batch_tokens, text);
	rig_backend = &fake_backend;
}

static uint32_t published(const struct m2_task *task)
{
	return atomic_load(&task->sequences[0].out->published);
}

/* Everything a client could read but the times. */
static bool same_results(const struct m2_task *a, const struct m2_task *b)
{
	const size_t head = sizeof(struct m2_results_header);
	return a->segment.bytes == b->segment.bytes &&
	       memcmp((const char *)a->header + head, (const char *)b->header + head,
		       a->segment.bytes - head) == 0;
}

/* ---- the same for everyone --------------------------------------------------------------------- */

static struct rig_ask random_ask(uint64_t *state)
{
	static const char *const stops[] = {"a", "q", "ez", "km"};
	struct rig_ask ask = {0};
	*state = fake_mix(*state);
	ask.prompt_tokens = 1 + (int)(*state % 200);
	ask.prompt_seed = *state >> 7;
	ask.max_tokens = 1 + (int)((*state >> 20) % 90);
	ask.n = (*state >> 40) % 4 == 0 ? 1 + (int)((*state >> 42) % 3) : 1;
	ask.temperature = (*state >> 50) % 3 == 0 ? 0.9F : 0.0F;
	ask.repetition = (*state >> 52) % 8 == 0 ? 1.3F : 0.0F;
	ask.logprobs = (int)((*state >> 54) % 4);
	ask.logprobs = ask.logprobs > 1 && (*state >> 55) % 2 ? 1 : ask.logprobs;
	ask.seed = *state % 1000;
	if ((*state >> 56) % 8 == 0)
		ask.op = M2_OP_SCORE;
	else if ((*state >> 56) % 8 == 1)
		ask.flags = M2_REQUEST_ECHO | ((*state >> 59) % 2 ? M2_REQUEST_LOGITS : 0);
	ask.n = ask.op == M2_OP_SCORE ? 1 : ask.n;
	if ((*state >> 32) % 3 == 0 && ask.op == 0)
		ask.stop = stops[(*state >> 34) % 4];
	ask.has_end = (*state >> 36) % 3 == 0;
	ask.end = (int32_t)((*state >> 38) % 26);
	ask.uid = 100 + (uint32_t)((*state >> 44) % 4);
	return ask;
}

/* What the crowd of one seed does at the late device; adds to the figures. */
static void crowd_of(uint64_t seed, uint64_t *pauses, int *picks, int *unused_tokens)
{
	enum { N = 50 };
	struct rig crowd, alone;
	struct m2_task *task[N];
	struct rig_ask ask[N];
	bool cancelled[N];
	uint64_t state = seed;
	open_late(&crowd, 5, 64, true);
	rig_open(&alone, 3, 5000, true);
	for (int i = 0; i < N; i++) {
		ask[i] = random_ask(&state);
		task[i] = rig_submit(&crowd, &ask[i]);
		for (uint64_t s = fake_mix(state) % 60; s > 0; s--)
			(void)rig_step(&crowd);
		cancelled[i] = i % 6 == 4;
		if (cancelled[i] && task[i - 1]->stage != M2_STAGE_NONE) {
			cancelled[i - 1] = true;
			atomic_store(&task[i - 1]->cancel, M2_FINISH_CANCELLED);
			atomic_fetch_add(&crowd.lane[0]->alarm, 1);
		}
		cancelled[i] = false;
	}
	rig_run(&crowd);
	assert_int_equal(crowd.scheduler.n_flying, 0);
	uint64_t useful = atomic_load(&crowd.lane[0]->prompt_tokens);
	for (int i = 0; i < N; i++) {
		struct m2_task *single = rig_submit(&alone, &ask[i]);
		rig_run(&alone);
		*pauses += task[i]->header->pauses;
		for (uint32_t k = 0; k < task[i]->n_sequences; k++) {
			const struct m2_sequence *q = &task[i]->sequences[k];
			useful += q->generated > 0 ? q->generated - 1 : 0;
			assert_memory_equal(q->tokens, single->sequences[k].tokens,
				q->generated * sizeof *q->tokens);
		}
		if (cancelled[i])
			continue;
		assert_int_equal(task[i]->err, M2_OK);
		assert_true(same_results(task[i], single));
	}
	assert_int_equal(late_queue_of(&crowd.model[0])->deepest, 2);
	*picks += crowd.model[0].from_picks;
	*unused_tokens += crowd.model[0].tokens - (int)useful;
	rig_close(&crowd);
	rig_close(&alone);
}

static void random_crowds_get_what_each_gets_alone_and_one_step_at_a_time(void **unused)
{
	(void)unused;
	static const uint64_t seeds[] = {1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
	const int n = sizeof seeds / sizeof seeds[0];
	uint64_t pauses = 0;
	int picks = 0, unused_tokens = 0;
	for (int i = 0; i < n; i++)
		crowd_of(seeds[i], &pauses, &picks, &unused_tokens);
	assert_true(pauses > 20 && picks > 1000);
	/* a token too many for those that ended by surprise, and for the cancelled what was under way */
	assert_true(unused_tokens > 0 && unused_tokens < n * 100);
}

/* ---- what is begun, and when -------------------------------------------------------------------- */

static void the_next_step_is_begun_before_the_last_is_waited_for(void **unused)
{
	(void)unused;
	struct rig rig;
	open_late(&rig, 2, 64, false);
	struct m2_task *task =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 10});
	assert_true(task->picks);
	for (uint32_t i = 0; i < 10; i++) {
		assert_true(rig_step(&rig));
		assert_int_equal(published(task), i);
		assert_int_equal(rig.model[0].steps, i + 1);
	}
	/* it was known to end there: nothing more was begun, and its last was waited for */
	assert_true(rig_step(&rig));
	assert_int_equal(rig.n_done, 1);
	assert_int_equal(rig.model[0].steps, 10);
	assert_int_equal(rig.model[0].tokens, 5 + 9);
	assert_int_equal(rig.model[0].from_picks, 9);
	assert_false(rig_step(&rig));
	rig_close(&rig);
}

static void a_prompt_is_read_ahead(void **unused)
{
	(void)unused;
	struct rig rig;
	open_late(&rig, 2, 1, false);
	for (int score = 0; score < 2; score++) {
		struct m2_task *task =
			rig_submit(&rig, &(struct rig_ask){.op = score ? M2_OP_SCORE : 0,
						 .prompt_tokens = 300,
						 .max_tokens = 3});
		(void)rig_step(&rig);
		assert_int_equal(task->prompt_done, 0);
		(void)rig_step(&rig);
		assert_int_equal(task->prompt_done, 64);
		/* where every row comes to the host, the next piece waits for those of the last */
		assert_int_equal(task->prompt_ahead, score ? 0 : 64);
		rig_run(&rig);
		assert_int_equal(task->err, M2_OK);
	}
	rig_close(&rig);
}

static void a_surprising_end_costs_one_token_that_nobody_sees(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, true);
	struct rig_ask ask = {.prompt_tokens = 9, .prompt_seed = 6, .max_tokens = 60, .uid = 3};
	struct m2_task *all = rig_submit(&rig, &ask);
	rig_run(&rig);
	const int32_t end = all->sequences[0].tokens[12];
	uint32_t first = 0;
	while (all->sequences[0].tokens[first] != end)
		first++;
	rig_close(&rig);

	open_late(&rig, 2, 64, true);
	ask.end = end;
	ask.has_end = true;
	struct m2_task *task = rig_submit(&rig, &ask);
	while (rig.n_done == 0)
		(void)rig_step(&rig);
	/* it is told at once, with the step under way that it was in */
	assert_int_equal(rig.scheduler.n_flying, 1);
	assert_int_equal(task->flying, 0);
	assert_int_equal(rig_finish(task, 0), M2_FINISH_STOP_TOKEN);
	assert_int_equal(published(task), first + 1);
	assert_int_equal(rig.lane[0]->n_free, 2);
	m2_task_destroy(rig.pool, &rig.done[--rig.n_done]); /* before that step has come */
	/* and who comes next has its slot, behind that step */
	struct m2_task *next = rig_submit(&rig, &ask);
	rig_run(&rig);
	assert_int_equal(published(next), first + 1);
	assert_int_equal(atomic_load(&rig.lane[0]->generated_tokens), 2 * (first + 1));
	assert_int_equal(atomic_load(&rig.lane[0]->prompt_tokens), 18);
	assert_int_equal(rig.scheduler.tokens, 18 + 2 * first);
	/* done for them, and booked: what was fed, the token too many of each included */
	assert_int_equal(rig.model[0].tokens, 18 + 2 * (first + 1));
	assert_int_equal(atomic_load(&rig.scheduler.fair.users[0].work), rig.model[0].tokens);
	rig_close(&rig);
}

/* ---- with others beside it ----------------------------------------------------------------------- */

/* Greedy ones, and one that draws: tokens of both after that many calls. */
static void run_mixed(int greedy, uint32_t other, uint32_t *first, uint32_t *drawn, int *steps)
{
	struct rig rig;
	struct m2_task *task = NULL;
	open_late(&rig, 12, 64, false);
	for (int i = 0; i < greedy; i++)
		task = rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5,
						.max_tokens = 2000,
						.prompt_seed = (uint64_t)i,
						.uid = 1});
	struct m2_task *draws = rig_submit(&rig,
		&(struct rig_ask){
			.prompt_tokens = 5, .max_tokens = 2000, .temperature = 1, .uid = other});
	for (int i = 0; i < 400; i++)
		(void)rig_step(&rig);
	*first = published(task);
	*drawn = published(draws);
	*steps = rig.model[0].steps;
	rig_run(&rig);
	assert_int_equal(task->err, M2_OK);
	assert_int_equal(draws->err, M2_OK);
	rig_close(&rig);
}

static void one_that_draws_is_in_every_second_step_of_many_that_do_not(void **unused)
{
	(void)unused;
	uint32_t first, drawn;
	int steps;
	run_mixed(10, 1, &first, &drawn, &steps);
	assert_true(first >= 398 && steps >= 400);
	assert_true(drawn >= 198 && drawn <= 201);
	/* few do not go ahead of it: a step for them alone would cost as much as one for all */
	run_mixed(3, 1, &first, &drawn, &steps);
	assert_true(first >= drawn && first <= drawn + 1 && drawn >= 199);
	/* and nobody gets ahead of another user for long: ten together have what that one has */
	run_mixed(10, 2, &first, &drawn, &steps);
	assert_true(drawn >= 195);
	assert_true(10 * first + 2 * M2_FAIR_LEAD >= drawn);
	assert_true(10 * first <= drawn + 2 * M2_FAIR_LEAD);
}

static void two_models_take_turns_with_a_step_of_each_under_way(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *task[2];
	open_late(&rig, 2, 64, false);
	rig_backend = &late;
	rig_add_lane(&rig, 1, 2, 64, false);
	rig_backend = &fake_backend;
	for (int l = 0; l < 2; l++) /* both draw: alone, each would let the device stand still */
		task[l] = rig_submit(&rig, &(struct rig_ask){.lane = l,
						   .prompt_tokens = 5,
						   .max_tokens = 100,
						   .temperature = 1,
						   .uid = (uint32_t)l});
	(void)rig_step(&rig);
	for (int i = 0; i < 99; i++) {
		(void)rig_step(&rig);
		assert_int_equal(rig.scheduler.n_flying, 1);
	}
	assert_int_equal(published(task[0]) + published(task[1]), 99);
	assert_true(published(task[0]) >= 49 && published(task[1]) >= 49);
	rig_run(&rig);
	rig_close(&rig);
}

/* ---- ends ---------------------------------------------------------------------------------------- */

static void a_cancel_does_not_wait_for_picks_and_does_for_logits(void **unused)
{
	(void)unused;
	for (int logits = 0; logits < 2; logits++) {
		struct rig rig;
		open_late(&rig, 2, 64, false);
		struct m2_task *task = rig_submit(
			&rig, &(struct rig_ask){.prompt_tokens = 200,
				      .max_tokens = 50,
				      .flags = logits ? M2_REQUEST_LOGITS | M2_REQUEST_ECHO : 0});
		(void)rig_step(&rig);
		assert_int_equal(task->flying, 1);
		assert_int_equal(task->rows_flying, logits);
		atomic_store(&task->cancel, M2_FINISH_CANCELLED);
		(void)rig_step(&rig);
		assert_int_equal(rig.n_done, logits ? 0 : 1);
		if (!logits) /* nobody needs the memory that it was in */
			m2_task_destroy(rig.pool, &rig.done[--rig.n_done]);
		rig_run(&rig);
		assert_int_equal(rig.n_done, logits);
		assert_int_equal(rig.model[0].steps, 1);
		rig_close(&rig);
	}
}

static void what_is_to_be_paused_is_waited_for_first(void **unused)
{
	(void)unused;
	struct rig rig;
	open_late(&rig, 1, 64, false);
	struct m2_task *one = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 300, .uid = 1});
	for (int i = 0; i < M2_PAUSE_TOKENS + 3; i++)
		(void)rig_step(&rig);
	assert_int_equal(one->flying, 1);
	struct m2_task *two =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 9, .uid = 2});
	(void)rig_step(&rig); /* nothing is begun, what is under way is waited for */
	assert_int_equal(rig.scheduler.n_flying, 0);
	assert_int_equal(one->stage, M2_STAGE_RUNNING);
	(void)rig_step(&rig);
	assert_int_equal(one->stage, M2_STAGE_PAUSED);
	assert_int_equal(two->stage, M2_STAGE_RUNNING);
	const int fed = rig.model[0].tokens;
	rig_run(&rig);
	assert_int_equal(one->sequences[0].generated, 300);
	assert_true(one->header->pauses >= 1);
	/* no token was thrown away for it */
	assert_int_equal(rig.model[0].tokens, 5 + 299 + 5 + 8);
	assert_true(fed < rig.model[0].tokens);
	rig_close(&rig);
}

static void a_model_leaves_with_a_step_under_way_that_is_nobodys(void **unused)
{
	(void)unused;
	struct rig rig;
	open_late(&rig, 2, 64, false);
	struct m2_task *task =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 50});
	for (int i = 0; i < 5; i++)
		(void)rig_step(&rig);
	/* the unload's patience is over */
	atomic_store(&rig.lane[0]->cancel_at, 0);
	uint64_t now = 0;
	for (; rig.n_done == 0; now++)
		(void)rig_step(&rig);
	assert_int_equal(task->err, M2_ECANCELED);
	assert_int_equal(now, 1);
	assert_int_equal(rig.scheduler.n_flying, 0); /* there was nothing to begin */
	/* or at its very end */
	atomic_store(&rig.lane[0]->cancel_at, UINT64_MAX);
	struct m2_task *last =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 50});
	(void)rig_step(&rig);
	(void)rig_step(&rig);
	assert_int_equal(rig.scheduler.n_flying, 1);
	struct m2_why why;
	m2_scheduler_fail(&rig.scheduler, m2_fail(M2_EWORKER, &why, "it ends"), &why);
	assert_int_equal(last->err, M2_EWORKER);
	assert_int_equal(rig.scheduler.n_flying, 0);
	rig_close(&rig);

	open_late(&rig, 2, 64, true);
	(void)rig_submit(
		&rig, &(struct rig_ask){
			      .prompt_tokens = 5, .max_tokens = 500, .has_end = true, .end = 7});
	while (rig.n_done == 0)
		(void)rig_step(&rig);
	assert_int_equal(rig.scheduler.n_flying, 1);
	m2_scheduler_remove(&rig.scheduler, rig.lane[0]);
	assert_int_equal(rig.scheduler.n_flying, 0);
	assert_false(rig_step(&rig));
	m2_scheduler_add(&rig.scheduler, rig.lane[0]);
	rig_close(&rig);
}

static void a_step_that_fails_ends_those_in_it_and_a_lost_device_everyone(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_why why;
	bool worked;
	open_late(&rig, 3, 64, false);
	struct m2_task *in = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 50, .temperature = 1});
	struct m2_task *also =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 50});
	(void)rig_step(&rig);
	late_fail_wait = M2_EIO;
	(void)rig_step(&rig);
	assert_int_equal(in->err, M2_EIO);
	assert_int_equal(also->err, M2_EIO);
	/* not begun: the one before it comes, for those who still are there */
	in = rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 5, .max_tokens = 50});
	(void)rig_step(&rig);
	rig.model[0].fail_step = M2_ENOMEM;
	(void)rig_step(&rig);
	assert_int_equal(in->err, M2_ENOMEM);
	rig_run(&rig);
	assert_int_equal(rig.n_done, 3);

	in = rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 200,
				      .max_tokens = 50,
				      .flags = M2_REQUEST_ECHO | M2_REQUEST_LOGITS});
	(void)rig_step(&rig);
	late_fail_wait = M2_EDEVICE;
	assert_int_equal(m2_scheduler_step(&rig.scheduler, &worked, &why), M2_EDEVICE);
	m2_scheduler_fail(&rig.scheduler, M2_EDEVICE, &why);
	assert_int_equal(in->err, M2_EDEVICE);
	assert_int_equal(rig.scheduler.n_flying, 0);
	rig_close(&rig);
}

static void logits_that_are_not_finite_end_the_one_whose_they_are(void **unused)
{
	(void)unused;
	struct rig rig;
	open_late(&rig, 3, 64, false);
	rig.model[0].nan_at = 12;
	struct m2_task *bad =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 9, .max_tokens = 30});
	struct m2_task *good =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 20, .max_tokens = 30});
	rig_run(&rig);
	assert_int_equal(bad->err, M2_EDEVICE);
	assert_int_equal(published(bad), 3);
	assert_int_equal(good->err, M2_OK);
	assert_int_equal(published(good), 30);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_crowds_get_what_each_gets_alone_and_one_step_at_a_time),
		cmocka_unit_test(the_next_step_is_begun_before_the_last_is_waited_for),
		cmocka_unit_test(a_prompt_is_read_ahead),
		cmocka_unit_test(a_surprising_end_costs_one_token_that_nobody_sees),
		cmocka_unit_test(one_that_draws_is_in_every_second_step_of_many_that_do_not),
		cmocka_unit_test(two_models_take_turns_with_a_step_of_each_under_way),
		cmocka_unit_test(a_cancel_does_not_wait_for_picks_and_does_for_logits),
		cmocka_unit_test(what_is_to_be_paused_is_waited_for_first),
		cmocka_unit_test(a_model_leaves_with_a_step_under_way_that_is_nobodys),
		cmocka_unit_test(a_step_that_fails_ends_those_in_it_and_a_lost_device_everyone),
		cmocka_unit_test(logits_that_are_not_finite_end_the_one_whose_they_are),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
