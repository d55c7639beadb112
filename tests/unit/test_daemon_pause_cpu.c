/* test_daemon_pause_cpu.c - the cpu's own arithmetic: a generation that is paused again and again gives the
 * same f32 logits, bit for bit, as one that nobody disturbs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "daemon/scheduler.h"
#include "tests/unit/test_kernels_model.h"

enum { DONE_MAX = 64, SLOTS = 2, VOCAB = 131 };

static struct m2_task *done[DONE_MAX];
static int n_done;
static uint64_t time_ns;

static uint64_t clock_by_hand(void)
{
	return time_ns += 1000;
}

static void on_done(void *ctx, struct m2_task *task)
{
	(void)ctx;
	assert_true(n_done < DONE_MAX);
	done[n_done++] = task;
}

static struct m2_task *submit(struct m2_scheduler *s, struct m2_lane *lane,
	struct m2_segment_pool *pool, uint32_t user, int n, int prompt_tokens, int max_tokens)
{
	static uint64_t id;
	static int32_t prompt[512];
	struct m2_task *task = NULL;
	struct m2_why why = {.text = ""};
	struct rng rng = {.state = (uint64_t)prompt_tokens};
	random_tokens(&rng, prompt, prompt_tokens, VOCAB);
	struct m2_request r = {.id = ++id,
		.uid = geteuid(),
		.op = M2_OP_GENERATE,
		.flags = M2_REQUEST_TOKENS | M2_REQUEST_LOGITS,
		.set = M2_SET_SEED | M2_SET_MAX_TOKENS,
		.n = n,
		.logprobs = 2};
	r.sampling = (struct m2_sampling){.temperature = 0.8F,
		.top_p = 1,
		.repetition_penalty = 1,
		.max_tokens = max_tokens,
		.seed = 7};
	const struct m2_task_spec spec = {.request = &r,
		.prompt = prompt,
		.prompt_tokens = (size_t)prompt_tokens,
		.vocab_rows = VOCAB,
		.vocab_size = VOCAB,
		.slots = SLOTS,
		.now_ns = time_ns};
	if (m2_task_create(pool, &spec, &task, &why) != M2_OK)
		fail_msg("%s", why.text);
	task->uid = user;
	m2_scheduler_submit(s, lane, task);
	return task;
}

static bool step(struct m2_scheduler *s)
{
	bool worked;
	struct m2_why why = {.text = ""};
	if (m2_scheduler_step(s, &worked, &why) != M2_OK)
		fail_msg("%s", why.text);
	return worked;
}

static bool same_results(const struct m2_task *a, const struct m2_task *b)
{
	const size_t head = sizeof(struct m2_results_header);
	return a->segment.bytes == b->segment.bytes &&
	       memcmp((const char *)a->header + head, (const char *)b->header + head,
		       a->segment.bytes - head) == 0;
}

static void a_paused_generation_gives_the_same_logits_bit_for_bit(void **unused)
{
	(void)unused;
	struct random_model model = {
		.desc = plain_desc(), .seed = run_seed(), .matrices = M2_DTYPE_F32};
	struct rig rig;
	struct m2_why why = {.text = ""};
	static struct m2_scheduler s;
	struct m2_lane *lane = NULL;
	struct m2_segment_pool *pool = NULL;
	if (rig_open(&rig, &model, (struct rig_options){.slots = SLOTS}, &why) != M2_OK)
		fail_msg("%s", why.text);
	struct m2_lane_facts facts = {.backend = rig.backend,
		.model = rig.model,
		.vocab_rows = VOCAB,
		.vocab = VOCAB,
		.slots = SLOTS,
		.step_tokens = m2_lane_step_tokens(64, SLOTS)};
	m2_lane_measure(&facts, &rig.footprint, 3 * (int64_t)rig.footprint.per_slot + 1);
	assert_int_equal(facts.parked, 3);
	m2_lane_measure(&facts, &rig.footprint, 0);
	assert_int_equal(facts.parked, 0);
	m2_lane_measure(&facts, &rig.footprint, INT64_C(1) << 40);
	assert_int_equal(facts.parked, SLOTS * M2_PARKED_PER_SLOT);
	m2_lane_measure(&facts, &rig.footprint, M2_PAUSED_AS_SLOTS);
	assert_int_equal(facts.parked, 2 * SLOTS + 1);
	assert_true(facts.cost.decode > facts.cost.prompt && facts.cost.prompt > 1);
	s.events.done = on_done;
	s.clock = clock_by_hand;
	assert_int_equal(m2_segment_pool_create("/tmp", 0, 0, &pool, &why), M2_OK);
	assert_int_equal(m2_lane_create(&facts, &lane, &why), M2_OK);
	m2_scheduler_add(&s, lane);

	static const int n[3] = {1, 2, 1};
	static const int prompts[3] = {130, 200, 1};
	struct m2_task *alone[3];
	struct m2_task *paused[3];
	for (int i = 0; i < 3; i++) {
		alone[i] = submit(&s, lane, pool, 1, n[i], prompts[i], 300);
		while (step(&s))
			;
	}
	for (int i = 0; i < 3; i++) {
		paused[i] = submit(&s, lane, pool, 1, n[i], prompts[i], 300);
		for (int other = 0; step(&s); other++)
			if (other % 100 < 2 && paused[i]->stage != M2_STAGE_NONE && n_done < 48)
				(void)submit(&s, lane, pool, 2 + (uint32_t)other % 2, 1, 70, 30);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(alone[i]->header->pauses, 0);
		assert_true(paused[i]->header->pauses > 0);
		assert_int_equal(paused[i]->err, M2_OK);
		assert_non_null(paused[i]->sequences[0].logits);
		assert_true(same_results(paused[i], alone[i]));
	}
	for (int i = 0; i < n_done; i++)
		m2_task_destroy(pool, &done[i]);
	m2_scheduler_remove(&s, lane);
	m2_lane_destroy(&lane);
	m2_segment_pool_destroy(&pool);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_paused_generation_gives_the_same_logits_bit_for_bit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
