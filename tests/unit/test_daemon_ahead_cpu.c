/* test_daemon_ahead_cpu.c - the cpu's own arithmetic: what a greedy request gets with a step begun ahead, one step
 * at a time, and by way of the sampler.
 *
 * Fresh weights each run.  The first two are the same bits; the third the same tokens, and log-probabilities
 * as near as m2_task_picks says.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <unistd.h>

#include "daemon/scheduler.h"
#include "kernels/pick.h"
#include "tests/unit/late_backend.h"
#include "tests/unit/test_kernels_model.h"

enum { SLOTS = 4, VOCAB = 131, CHOSEN = 120, TASKS = 12 };

static const float near_enough = 1e-6F;

static void on_done(void *ctx, struct m2_task *task)
{
	int *n = ctx;
	(void)task;
	++*n;
}

static void on_news(void *ctx, struct m2_task *task)
{
	(void)ctx;
	(void)task;
}

static uint64_t clock_by_hand(void)
{
	static uint64_t now;
	return now += 1000;
}

/* ---- a model, and who asks it -------------------------------------------------------------------- */

struct engine {
	struct rig rig;
	struct m2_scheduler scheduler;
	struct m2_lane *lane;
	struct m2_segment_pool *pool;
	int done;
};

static void engine_open(struct engine *e, struct random_model *model, const struct m2_backend *as)
{
	struct m2_why why = {.text = ""};
	*e = (struct engine){.done = 0};
	if (rig_open(&e->rig, model, (struct rig_options){.slots = SLOTS}, &why) != M2_OK)
		fail_msg("%s", why.text);
	struct m2_lane_facts facts = {.backend = as != NULL ? as : e->rig.backend,
		.model = e->rig.model,
		.vocab_rows = VOCAB,
		.vocab = CHOSEN,
		.slots = SLOTS,
		.step_tokens = m2_lane_step_tokens(64, SLOTS)};
	m2_lane_measure(&facts, &e->rig.footprint, M2_PAUSED_AS_SLOTS);
	e->scheduler.events =
		(struct m2_scheduler_events){.ctx = &e->done, .news = on_news, .done = on_done};
	e->scheduler.clock = clock_by_hand;
	assert_int_equal(m2_segment_pool_create("/tmp", 0, 0, &e->pool, &why), M2_OK);
	assert_int_equal(m2_lane_create(&facts, &e->lane, &why), M2_OK);
	m2_scheduler_add(&e->scheduler, e->lane);
}

static void engine_close(struct engine *e)
{
	m2_scheduler_remove(&e->scheduler, e->lane);
	m2_lane_destroy(&e->lane);
	m2_segment_pool_destroy(&e->pool);
	rig_close(&e->rig);
}

static struct m2_task *submit(struct engine *e, int index, int top)
{
	int32_t prompt[256];
	struct m2_task *task = NULL;
	struct m2_why why = {.text = ""};
	struct rng rng = {.state = (uint64_t)index + 3};
	const int tokens = 1 + (int)rng_below(&rng, 200);
	random_tokens(&rng, prompt, tokens, CHOSEN);
	const int32_t end = (int32_t)rng_below(&rng, CHOSEN);
	struct m2_request r = {.id = (uint64_t)index + 1,
		.uid = geteuid(),
		.op = M2_OP_GENERATE,
		.flags = M2_REQUEST_TOKENS | M2_REQUEST_MESSAGES,
		.set = M2_SET_SEED | M2_SET_MAX_TOKENS,
		.n = index % 5 == 4 ? 2 : 1,
		.logprobs = top};
	r.sampling = (struct m2_sampling){.temperature = index % 6 == 5 ? 0.8F : 0.0F,
		.top_p = 1,
		.repetition_penalty = 1,
		.max_tokens = 1 + (int32_t)rng_below(&rng, 60),
		.seed = 7};
	const struct m2_task_spec spec = {.request = &r,
		.prompt = prompt,
		.prompt_tokens = (size_t)tokens,
		.ends = &end,
		.n_ends = 1,
		.vocab_rows = VOCAB,
		.vocab_size = CHOSEN,
		.slots = SLOTS};
	if (m2_task_create(e->pool, &spec, &task, &why) != M2_OK)
		fail_msg("%s", why.text);
	task->uid = 1 + (uint32_t)index % 3;
	m2_scheduler_submit(&e->scheduler, e->lane, task);
	return task;
}

static bool step(struct engine *e)
{
	bool worked;
	struct m2_why why = {.text = ""};
	if (m2_scheduler_step(&e->scheduler, &worked, &why) != M2_OK)
		fail_msg("%s", why.text);
	return worked;
}

/* All at once, one every few steps; or one after the other. */
static void run_all(struct engine *e, int top, bool together, struct m2_task **tasks)
{
	for (int i = 0; i < TASKS; i++) {
		tasks[i] = submit(e, i, top);
		for (int k = 0; k < 5 && together; k++)
			(void)step(e);
		while (!together && step(e))
			;
	}
	while (step(e))
		;
	assert_int_equal(e->done, TASKS);
	for (int i = 0; i < TASKS; i++)
		assert_int_equal(tasks[i]->err, M2_OK);
}

static void bury(struct engine *e, struct m2_task **tasks)
{
	for (int i = 0; i < TASKS; i++)
		m2_task_destroy(e->pool, &tasks[i]);
	engine_close(e);
}

static void compare(const struct m2_task *a, const struct m2_task *b, float tolerance)
{
	for (uint32_t k = 0; k < a->n_sequences; k++) {
		const struct m2_sequence *x = &a->sequences[k], *y = &b->sequences[k];
		assert_int_equal(x->generated, y->generated);
		assert_int_equal(atomic_load(&x->out->finish), atomic_load(&y->out->finish));
		assert_memory_equal(x->tokens, y->tokens, x->generated * sizeof *x->tokens);
		for (uint32_t i = 0; i < x->generated; i++)
			assert_true(fabsf(x->logprobs[i] - y->logprobs[i]) <= tolerance);
	}
}

static void ahead_alone_and_by_the_sampler_are_the_same(void **unused)
{
	(void)unused;
	static struct engine ahead, plain, host;
	struct m2_task *of_ahead[TASKS], *of_plain[TASKS], *of_host[TASKS];
	struct random_model model = {
		.desc = plain_desc(), .seed = run_seed(), .matrices = M2_DTYPE_F32};
	struct m2_backend late;
	const struct m2_backend *cpu;
	struct m2_why why;
	assert_int_equal(m2_backend_find("cpu", &cpu, &why), M2_OK);
	late_open(cpu, VOCAB * sizeof(float), &late);
	engine_open(&ahead, &model, &late);
	engine_open(&plain, &model, NULL);
	engine_open(&host, &model, NULL);
	run_all(&ahead, 0, true, of_ahead);
	run_all(&plain, 0, false, of_plain);
	run_all(&host, 1, true,
		of_host); /* one more is asked for, so that the rows come to the host */
	assert_int_equal(late_queue_of(ahead.rig.model)->deepest, 2);
	for (int i = 0; i < TASKS; i++) {
		assert_int_equal(of_ahead[i]->picks, i % 6 != 5);
		assert_false(of_host[i]->picks);
		compare(of_ahead[i], of_plain[i], 0.0F);
		compare(of_ahead[i], of_host[i], near_enough);
	}
	bury(&ahead, of_ahead);
	bury(&plain, of_plain);
	bury(&host, of_host);
}

/* ---- a row --------------------------------------------------------------------------------------- */

static void a_pick_is_what_the_sampler_chooses(void **unused)
{
	(void)unused;
	enum { ROW = 5000, ROWS = 300 };
	static float row[ROW];
	struct rng rng = {.state = run_seed()};
	struct m2_sampler sampler;
	struct m2_why why = {.text = ""};
	const struct m2_sampling greedy = {.repetition_penalty = 1, .top_p = 1};
	const struct m2_sampler_rule rule = {.settings = &greedy};
	const struct m2_counts none = {0};
	for (int k = 0; k < ROWS; k++) {
		const int32_t limit = 1 + (int32_t)rng_below(&rng, ROW);
		const float scale = (float)rng_below(&rng, 30) / 3.0F;
		for (int i = 0; i < ROW; i++)
			row[i] = scale * normal(mix64(rng.state + (uint64_t)i));
		rng.state = mix64(rng.state);
		if (k % 2 == 0) /* equals: of them the first */
			for (int i = 0; i < 3; i++)
				row[rng_below(&rng, (uint32_t)limit)] = 50.0F;
		struct m2_pick pick;
		int32_t token = -1;
		float logprob = 0;
		m2_pick_row(row, limit, &pick);
		assert_int_equal(m2_sampler_init(&sampler, limit, &why), M2_OK);
		assert_int_equal(
			m2_sampler_choose(&sampler, row, &rule, &none, 0, &token, &why), M2_OK);
		assert_int_equal(
			m2_sampler_logprobs(&sampler, row, token, 0, &logprob, NULL, NULL, &why),
			M2_OK);
		assert_int_equal(pick.token, token);
		assert_true(
			fabsf(pick.logprob - logprob) <= near_enough * fmaxf(1.0F, fabsf(logprob)));
		m2_sampler_finish(&sampler);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ahead_alone_and_by_the_sampler_are_the_same),
		cmocka_unit_test(a_pick_is_what_the_sampler_chooses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
