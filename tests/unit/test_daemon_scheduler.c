/* test_daemon_scheduler.c - what a request gets: its tokens, scores and text, whatever else is going on. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "daemon/sampler_math.h"
#include "tests/unit/scheduler_rig.h"

/* The model's own greedy continuation, computed here. */
static void greedy_by_hand(const struct rig_ask *ask, int vocab, int count, int32_t *out)
{
	uint64_t history = 0;
	float row[FAKE_ROWS];
	for (int i = 0; i < ask->prompt_tokens; i++)
		history = fake_feed(history, rig_prompt_token(ask, i));
	for (int i = 0; i < count; i++) {
		int32_t best = 0;
		fake_row(history, (uint64_t)ask->lane, row);
		for (int32_t v = 1; v < vocab; v++)
			best = row[v] > row[best] ? v : best;
		out[i] = best;
		history = fake_feed(history, best);
	}
}

static void greedy_tokens_are_the_models_own_at_every_prompt_length(void **unused)
{
	(void)unused;
	static const int lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 500};
	struct rig rig;
	rig_open(&rig, 3, 100, false);
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		const struct rig_ask ask = {
			.prompt_tokens = lengths[i], .prompt_seed = i, .max_tokens = 20};
		int32_t want[20];
		greedy_by_hand(&ask, FAKE_VOCAB, 20, want);
		struct m2_task *task = rig_submit(&rig, &ask);
		rig_run(&rig);
		assert_memory_equal(task->sequences[0].tokens, want, sizeof want);
		assert_int_equal(rig_finish(task, 0), M2_FINISH_LENGTH);
		assert_int_equal(atomic_load(&task->header->state), M2_RESULTS_FINISHED);
		assert_int_equal(task->header->error, M2_OK);
		assert_true(task->header->first_ns > task->header->admitted_ns);
		assert_true(task->header->engine_ns >= task->header->first_engine_ns);
		assert_true(task->header->first_engine_ns > 0);
	}
	rig_close(&rig);
}

static struct rig_ask random_ask(uint64_t *state)
{
	struct rig_ask ask = {0};
	*state = fake_mix(*state);
	ask.prompt_tokens = 1 + (int)(*state % 300);
	ask.prompt_seed = *state >> 7;
	ask.max_tokens = 1 + (int)((*state >> 20) % 30);
	ask.n = 1 + (int)((*state >> 40) % 3);
	ask.temperature = (*state >> 50) % 3 == 0 ? 0.0F : 0.9F;
	ask.top_k = (*state >> 52) % 2 ? 10 : 0;
	ask.repetition = (*state >> 53) % 2 ? 1.3F : 0.0F;
	ask.logprobs = (int)((*state >> 54) % 4);
	ask.seed = *state % 1000;
	if ((*state >> 57) % 4 == 0) {
		ask.op = M2_OP_SCORE;
		ask.n = 1;
		ask.flags = (*state >> 59) % 2 ? M2_REQUEST_LOGITS : 0;
	} else if ((*state >> 57) % 4 == 1) {
		ask.flags = M2_REQUEST_ECHO | M2_REQUEST_LOGITS;
	}
	return ask;
}

/* All that a client could read, but for the times and the request's number. */
static bool same_results(const struct m2_task *a, const struct m2_task *b)
{
	const size_t head = sizeof(struct m2_results_header);
	if (a->segment.bytes != b->segment.bytes)
		return false;
	return memcmp((const char *)a->header + head, (const char *)b->header + head,
		       a->segment.bytes - head) == 0;
}

static void requests_that_come_and_go_get_what_they_get_alone(void **unused)
{
	(void)unused;
	enum { N = 60 };
	struct rig crowd, alone;
	struct m2_task *task[N];
	struct rig_ask ask[N];
	uint64_t state = 11;
	rig_open(&crowd, 6, 150, true);
	rig_open(&alone, 3, 5000, true);
	for (int i = 0; i < N; i++) {
		ask[i] = random_ask(&state);
		task[i] = rig_submit(&crowd, &ask[i]);
		for (uint64_t s = fake_mix(state) % 6; s > 0; s--)
			(void)rig_step(&crowd);
		if (i % 7 == 3) /* neighbours that vanish disturb nobody */
			atomic_store(&rig_submit(&crowd, &ask[i])->cancel, M2_FINISH_CANCELLED);
	}
	rig_run(&crowd);
	for (int i = 0; i < N; i++) {
		struct m2_task *single = rig_submit(&alone, &ask[i]);
		rig_run(&alone);
		assert_true(same_results(task[i], single));
		assert_int_equal(task[i]->err, M2_OK);
	}
	assert_true(crowd.model[0].longest_step > 64);
	rig_close(&crowd);
	rig_close(&alone);
}

static void completions_of_one_prompt_draw_their_own_streams(void **unused)
{
	(void)unused;
	struct rig rig;
	const struct rig_ask many = {
		.prompt_tokens = 70, .n = 4, .max_tokens = 25, .temperature = 1, .seed = 5};
	rig_open(&rig, 4, 64, false);
	struct m2_task *task = rig_submit(&rig, &many);
	rig_run(&rig);
	int equal = 0;
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(task->sequences[i].generated, 25);
		assert_int_equal(task->sequences[i].out->seed, 5);
		for (uint32_t j = 0; j < i; j++)
			equal += memcmp(task->sequences[i].tokens, task->sequences[j].tokens,
					 100) == 0;
	}
	assert_int_equal(equal, 0);
	/* the first of four is the one of one */
	struct rig_ask one = many;
	one.n = 1;
	struct m2_task *single = rig_submit(&rig, &one);
	rig_run(&rig);
	assert_memory_equal(single->sequences[0].tokens, task->sequences[0].tokens, 100);
	/* one prompt, not four: the fake counts what it is fed */
	assert_int_equal(atomic_load(&rig.lane[0]->prompt_tokens), 2 * 70);
	assert_int_equal(atomic_load(&rig.lane[0]->generated_tokens), 5 * 25);
	rig_close(&rig);
}

static void scores_are_those_of_the_rows(void **unused)
{
	(void)unused;
	enum { T = 200 };
	struct rig rig;
	rig_open(&rig, 2, 64, false);
	struct rig_ask ask = {
		.op = M2_OP_SCORE, .prompt_tokens = T, .prompt_seed = 3, .logprobs = 4};
	struct m2_task *task[2];
	task[0] = rig_submit(&rig, &ask);
	ask.flags = M2_REQUEST_LOGITS;
	task[1] = rig_submit(&rig, &ask);
	rig_run(&rig);
	uint64_t history = 0;
	assert_true(isnan(task[0]->prompt_logprobs[0]));
	assert_int_equal(task[0]->prompt_top_ids[0], -1);
	for (int t = 0; t < T; t++) {
		float row[FAKE_ROWS];
		double sum = 0;
		history = fake_feed(history, rig_prompt_token(&ask, t));
		fake_row(history, 0, row);
		assert_memory_equal(
			task[1]->prompt_logits + (size_t)t * FAKE_ROWS, row, sizeof row);
		if (t + 1 == T)
			break;
		for (int v = 0; v < FAKE_VOCAB; v++)
			sum += exp((double)row[v]);
		const float want = (float)((double)row[rig_prompt_token(&ask, t + 1)] - log(sum));
		for (int k = 0; k < 2; k++) {
			assert_true(fabsf(task[k]->prompt_logprobs[t + 1] - want) < 3e-6F);
			const float *top = task[k]->prompt_top_logprobs + (t + 1) * 3;
			assert_true(top[0] >= top[1] && top[1] >= top[2] && top[0] >= want - 3e-6F);
		}
	}
	for (int k = 0; k < 2; k++) {
		assert_int_equal(atomic_load(&task[k]->header->prompt_published), T);
		assert_int_equal(atomic_load(&task[k]->header->state), M2_RESULTS_FINISHED);
	}
	rig_close(&rig);
}

static void a_stop_string_ends_text_and_tokens_there(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, true);
	struct rig_ask ask = {.prompt_tokens = 9, .prompt_seed = 5, .max_tokens = 60};
	int32_t ids[60];
	char text[61] = {0}, stop[4] = {0};
	greedy_by_hand(&ask, 27, 60, ids);
	for (int i = 0; i < 60; i++)
		text[i] = ids[i] < 26 ? (char)('a' + ids[i]) : '?';
	memcpy(stop, text + 20, 3);
	const size_t at = (size_t)(strstr(text, stop) - text);
	ask.stop = stop;
	struct m2_task *task = rig_submit(&rig, &ask);
	rig_run(&rig);
	const struct m2_sequence *q = &task->sequences[0];
	assert_int_equal(rig_finish(task, 0), M2_FINISH_STOP_STRING);
	assert_int_equal(q->out->stop_string, 0);
	assert_int_equal(atomic_load(&q->out->text_published), at);
	assert_memory_equal(q->text.text, text, at);
	assert_int_equal(atomic_load(&q->out->published), at + 3);
	assert_memory_equal(q->tokens, ids, (at + 3) * sizeof *ids);
	assert_int_equal(q->text_end[q->generated - 1], at);
	/* and nothing was computed beyond */
	assert_int_equal(atomic_load(&rig.lane[0]->generated_tokens), at + 3);
	rig_close(&rig);
}

static void an_end_token_is_the_last_and_has_no_text(void **unused)
{
	(void)unused;
	struct rig rig;
	rig_open(&rig, 2, 64, true);
	struct rig_ask ask = {.prompt_tokens = 9, .prompt_seed = 6, .max_tokens = 60};
	int32_t ids[60];
	greedy_by_hand(&ask, 27, 60, ids);
	ask.end = ids[12];
	ask.has_end = true;
	uint32_t first = 0;
	while (ids[first] != ids[12])
		first++;
	struct m2_task *task = rig_submit(&rig, &ask);
	rig_run(&rig);
	const struct m2_sequence *q = &task->sequences[0];
	assert_int_equal(rig_finish(task, 0), M2_FINISH_STOP_TOKEN);
	assert_int_equal(q->out->stop_token, ids[12]);
	assert_int_equal(q->generated, first + 1);
	assert_int_equal(q->tokens[first], ids[12]);
	assert_int_equal(q->text_end[first], first > 0 ? q->text_end[first - 1] : 0);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greedy_tokens_are_the_models_own_at_every_prompt_length),
		cmocka_unit_test(requests_that_come_and_go_get_what_they_get_alone),
		cmocka_unit_test(completions_of_one_prompt_draw_their_own_streams),
		cmocka_unit_test(scores_are_those_of_the_rows),
		cmocka_unit_test(a_stop_string_ends_text_and_tokens_there),
		cmocka_unit_test(an_end_token_is_the_last_and_has_no_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
