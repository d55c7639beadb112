/* test_daemon_scheduler_turns.c - whose turn it is: fairness, cancellation, deadlines, failures, and that
 * a step allocates nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "tests/unit/scheduler_rig.h"

/* ---- a guard on the allocator ------------------------------------------------------------------ */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAVE_GUARD 0
#else
#define HAVE_GUARD 1
#endif

/* volatile: the compiler knows malloc and does not think that it reads variables */
static _Thread_local volatile bool guarded;
static _Thread_local volatile int allocations;

#if HAVE_GUARD

/* glibc's own names for what this program puts itself in front of */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *old);

void *malloc(size_t size)
{
	allocations += guarded;
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	allocations += guarded;
	return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
	allocations += guarded;
	return __libc_realloc(old, size);
}

void free(void *old)
{
	allocations += guarded;
	__libc_free(old);
}
#endif

static void a_step_neither_allocates_nor_frees(void **unused)
{
	(void)unused;
	if (!HAVE_GUARD)
		skip(); /* a sanitizer owns the allocator */
	struct rig rig;
	rig_open(&rig, 6, 100, true);
	for (int i = 0; i < 20; i++) {
		const struct rig_ask ask = {.prompt_tokens = 1 + 37 * i,
			.n = 1 + i % 3,
			.max_tokens = 15,
			.temperature = 0.8F,
			.top_k = i % 2 ? 9 : 0,
			.repetition = 1.2F,
			.logprobs = i % 5,
			.stop = "zq",
			.flags = i % 4 == 0 ? M2_REQUEST_ECHO : 0,
			.op = i % 9 == 8 ? M2_OP_SCORE : 0};
		(void)rig_submit(&rig, &ask);
	}
	guarded = true;
	void *volatile proof = malloc(1); /* the guard guards */
	free(proof);
	guarded = false;
	assert_int_equal(allocations, 2);
	allocations = 0;
	bool worked = true;
	while (worked) {
		struct m2_why why;
		guarded = true;
		const enum m2_err err = m2_scheduler_step(&rig.scheduler, &worked, &why);
		guarded = false;
		assert_int_equal(err, M2_OK);
	}
	assert_int_equal(allocations, 0);
	assert_int_equal(rig.n_done, 20);
	rig_close(&rig);
}

/* ---- turns ------------------------------------------------------------------------------------- */

static void a_long_prompt_delays_no_decode(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 4, 128, false);
	const struct rig_ask quick = {.prompt_tokens = 5, .max_tokens = 40};
	const struct rig_ask heavy = {.prompt_tokens = 2000, .max_tokens = 2};
	struct m2_task *decoding = rig_submit(&rig, &quick);
	(void)rig_step(&rig);
	struct m2_task *long_one = rig_submit(&rig, &heavy);
	for (uint32_t i = 1; i < 12; i++) {
		assert_int_equal(atomic_load(&decoding->sequences[0].out->published), i);
		assert_true(rig_step(&rig));
	}
	assert_true(long_one->prompt_done >= 11 * 64 && long_one->prompt_done < 2000);
	assert_true(rig.model[0].longest_step <= 128);
	/* a short prompt that comes behind the long one is not kept waiting by it either */
	struct m2_task *late = rig_submit(&rig, &quick);
	(void)rig_step(&rig);
	(void)rig_step(&rig);
	assert_true(atomic_load(&late->sequences[0].out->published) >= 1);
	assert_true(long_one->prompt_done < 2000);
	rig_run(&rig);
	assert_int_equal(rig.n_done, 3);
	rig_close(&rig);
}

static void scored_prompts_beside_a_full_house_all_get_there(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 8, 1, false); /* the smallest step there is: slots + M2_CHUNK */
	for (int i = 0; i < 5; i++)
		(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 200});
	for (int i = 0; i < 3; i++)
		(void)rig_submit(&rig,
			&(struct rig_ask){.op = M2_OP_SCORE, .prompt_tokens = 300, .logprobs = 1});
	rig_run(&rig);
	assert_int_equal(rig.n_done, 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(rig.done[i]->err, M2_OK);
	rig_close(&rig);
}

static void slots_are_given_first_come_first_served_and_all_at_once(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 4, 64, false);
	struct m2_task *a =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 4, .n = 3, .max_tokens = 9});
	struct m2_task *b =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 4, .n = 2, .max_tokens = 3});
	struct m2_task *c =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 4, .max_tokens = 3});
	(void)rig_step(&rig);
	assert_int_equal(atomic_load(&a->header->state), M2_RESULTS_RUNNING);
	assert_int_equal(atomic_load(&b->header->state), M2_RESULTS_QUEUED);
	assert_int_equal(atomic_load(&c->header->state),
		M2_RESULTS_QUEUED); /* a slot is free: not its turn */
	assert_int_equal(atomic_load(&rig.lane[0]->queued), 2);
	assert_int_equal(atomic_load(&rig.lane[0]->slots_used), 3);
	rig_run(&rig);
	assert_ptr_equal(rig.done[0], a);
	rig_close(&rig);
}

static void two_models_take_turns(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, false);
	rig_add_lane(&rig, 1, 2, 64, false);
	const struct rig_ask ask[2] = {{.prompt_tokens = 5, .max_tokens = 20},
		{.lane = 1, .prompt_tokens = 5, .max_tokens = 20}};
	struct m2_task *task[2] = {rig_submit(&rig, &ask[0]), rig_submit(&rig, &ask[1])};
	for (int i = 0; i < 20; i++) {
		assert_true(rig_step(&rig));
		assert_true(abs(rig.model[0].steps - rig.model[1].steps) <= 1);
	}
	rig_run(&rig);
	/* the salt makes them different models */
	assert_memory_not_equal(task[0]->sequences[0].tokens, task[1]->sequences[0].tokens, 80);
	rig_close(&rig);
}

/* ---- ends before the end ----------------------------------------------------------------------- */

static void a_cancel_takes_effect_before_the_next_step(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, false);
	struct m2_task *prompt =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 1000, .max_tokens = 9});
	struct m2_task *decode =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 99});
	struct m2_task *queued =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 9});
	struct m2_task *last =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 9});
	for (int i = 0; i < 4; i++)
		(void)rig_step(&rig);
	const uint32_t had = decode->sequences[0].generated;
	const uint32_t seen = prompt->prompt_done;
	assert_true(had > 0 && seen > 0 && seen < 1000);
	atomic_store(&prompt->cancel, M2_FINISH_CANCELLED);
	atomic_store(&decode->cancel, M2_FINISH_CANCELLED);
	atomic_store(&queued->cancel, M2_FINISH_CANCELLED);
	atomic_fetch_add(&rig.lane[0]->alarm, 1);
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 3);
	assert_int_equal(decode->sequences[0].generated, had);
	assert_int_equal(prompt->prompt_done, seen);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rig.done[i]->header->error, M2_ECANCELED);
		assert_int_equal(rig_finish(rig.done[i], 0), M2_FINISH_CANCELLED);
		assert_int_equal(atomic_load(&rig.done[i]->header->state), M2_RESULTS_FINISHED);
	}
	assert_int_equal(atomic_load(&queued->sequences[0].out->published), 0);
	rig_run(&rig);
	assert_int_equal(last->err, M2_OK);
	rig_close(&rig);
}

static void a_cancel_that_came_before_the_task_counts(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *task;
	struct m2_why why;
	rig_open(&rig, 1, 64, false);
	(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 50});
	(void)rig_step(&rig);
	assert_int_equal(
		rig_make(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 5}, &task, &why),
		M2_OK);
	atomic_store(&task->cancel, M2_FINISH_CANCELLED);
	m2_scheduler_submit(&rig.scheduler, rig.lane[0], task);
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 1);
	assert_ptr_equal(rig.done[0], task);
	rig_run(&rig);
	rig_close(&rig);
}

static void a_deadline_ends_what_runs_and_what_waits_and_keeps_what_is_done(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 1, 64, false);
	rig_clock = 1000000;
	struct m2_task *running = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 5000, .deadline_ms = 10});
	struct m2_task *waiting = rig_submit(
		&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 50, .deadline_ms = 5});
	for (int i = 0; i < 20; i++)
		(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 0);
	rig_clock += 5000000;
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 1);
	assert_ptr_equal(rig.done[0], waiting);
	rig_clock += 5000000;
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 2);
	assert_int_equal(running->header->error, M2_EDEADLINE);
	assert_int_equal(rig_finish(running, 0), M2_FINISH_DEADLINE);
	assert_true(atomic_load(&running->sequences[0].out->published) >= 20);
	assert_false(rig_step(&rig));
	rig_close(&rig);
}

static void an_unload_cancels_what_is_left_when_its_time_is_over(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 1, 64, false);
	(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 5000});
	(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 3, .max_tokens = 5000});
	(void)rig_step(&rig);
	atomic_store(&rig.lane[0]->cancel_at, rig_clock + 1000000);
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 0);
	rig_clock += 1000000;
	assert_false(rig_step(&rig));
	assert_int_equal(rig.n_done, 2);
	rig_close(&rig);
}

/* ---- failures ---------------------------------------------------------------------------------- */

static void logits_that_are_not_finite_end_that_request_alone(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 4, 64, false);
	rig.model[0].nan_at = 15;
	struct m2_task *bad =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 10, .n = 2, .max_tokens = 20});
	struct m2_task *score = rig_submit(
		&rig, &(struct rig_ask){.op = M2_OP_SCORE, .prompt_tokens = 40, .logprobs = 1});
	struct m2_task *good =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 2, .max_tokens = 10});
	rig_run(&rig);
	assert_int_equal(bad->header->error, M2_EDEVICE);
	assert_int_equal(rig_finish(bad, 0), M2_FINISH_ERROR);
	assert_int_equal(bad->sequences[0].generated, 5);
	assert_int_equal(score->header->error, M2_EDEVICE);
	assert_int_equal(good->header->error, M2_OK);
	assert_int_equal(good->sequences[0].generated, 10);
	rig_close(&rig);
}

static void a_step_that_fails_ends_its_tasks_and_a_lost_device_is_returned(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_why why;
	bool worked;
	rig_open(&rig, 2, 64, false);
	struct m2_task *first =
		rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 10, .max_tokens = 20});
	rig.model[0].fail_step = M2_EINTERNAL;
	(void)rig_step(&rig);
	assert_int_equal(rig.n_done, 1);
	assert_int_equal(first->header->error, M2_EINTERNAL);
	for (int i = 0; i < 4; i++)
		(void)rig_submit(&rig, &(struct rig_ask){.prompt_tokens = 10, .max_tokens = 20});
	(void)rig_step(&rig);
	rig.model[0].fail_step = M2_EDEVICE;
	assert_int_equal(m2_scheduler_step(&rig.scheduler, &worked, &why), M2_EDEVICE);
	m2_scheduler_fail(&rig.scheduler, M2_EDEVICE, &why);
	assert_int_equal(rig.n_done, 5);
	for (int i = 1; i < 5; i++)
		assert_int_equal(atomic_load(&rig.done[i]->header->state), M2_RESULTS_FINISHED);
	rig_close(&rig);
}

static void what_the_model_cannot_do_is_refused_with_its_field(void **unused)
{
	(void)unused;
	struct rig rig;
	struct m2_task *task = NULL;
	struct m2_why why;
	rig_open(&rig, 2, 64, false);
	assert_int_equal(
		rig_make(&rig, &(struct rig_ask){.max_tokens = 5}, &task, &why), M2_EINVAL);
	assert_string_equal(why.field, "prompt");
	assert_int_equal(
		rig_make(&rig, &(struct rig_ask){.prompt_tokens = 1, .n = 3, .max_tokens = 5},
			&task, &why),
		M2_EINVAL);
	assert_string_equal(why.field, "n");
	assert_int_equal(
		rig_make(&rig, &(struct rig_ask){.prompt_tokens = 1, .max_tokens = 5, .stop = "x"},
			&task, &why),
		M2_EINVAL);
	assert_string_equal(why.field, "stop");
	assert_null(task);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_step_neither_allocates_nor_frees),
		cmocka_unit_test(a_long_prompt_delays_no_decode),
		cmocka_unit_test(scored_prompts_beside_a_full_house_all_get_there),
		cmocka_unit_test(slots_are_given_first_come_first_served_and_all_at_once),
		cmocka_unit_test(two_models_take_turns),
		cmocka_unit_test(a_cancel_takes_effect_before_the_next_step),
		cmocka_unit_test(a_cancel_that_came_before_the_task_counts),
		cmocka_unit_test(a_deadline_ends_what_runs_and_what_waits_and_keeps_what_is_done),
		cmocka_unit_test(an_unload_cancels_what_is_left_when_its_time_is_over),
		cmocka_unit_test(logits_that_are_not_finite_end_that_request_alone),
		cmocka_unit_test(a_step_that_fails_ends_its_tasks_and_a_lost_device_is_returned),
		cmocka_unit_test(what_the_model_cannot_do_is_refused_with_its_field),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
