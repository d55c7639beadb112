/* scheduler_rig.h - a scheduler over fake backends with a clock by hand, and requests made in one line.
 * For the test programs test_daemon_scheduler*.c, each of which includes it once. */
#ifndef M2_TESTS_SCHEDULER_RIG_H
#define M2_TESTS_SCHEDULER_RIG_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/scheduler.h"
#include "daemon/segment.h"
#include "daemon/task.h"
#include "tests/unit/fake_backend.h"

/* Byte-level BPE without merges: ids 0..25 are a..z, 26 is the end of the text. */
static const char rig_tokenizer[] =
	"{\"version\":\"1.0\",\"added_tokens\":[{\"id\":26,\"content\":\"<end>\",\"single_word\":"
	"false,"
	"\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":"
	"null,"
	"\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":"
	"true,"
	"\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\","
	"\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":"
	"\"BPE\","
	"\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_"
	"suffix\":"
	"null,\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":"
	"3,"
	"\"e\":4,\"f\":5,\"g\":6,\"h\":7,\"i\":8,\"j\":9,\"k\":10,\"l\":11,\"m\":12,\"n\":13,\"o\":"
	"14,"
	"\"p\":15,\"q\":16,\"r\":17,\"s\":18,\"t\":19,\"u\":20,\"v\":21,\"w\":22,\"x\":23,\"y\":24,"
	"\"z\":25,\"<end>\":26},\"merges\":[]}}";

enum { RIG_DONE_MAX = 256 };

struct rig {
	struct m2_scheduler scheduler;
	struct m2_model model[2];
	struct m2_lane *lane[2];
	struct m2_tokenizer *tokenizer;
	struct m2_segment_pool *pool;
	struct m2_task *done[RIG_DONE_MAX]; /* in order of their ends */
	int n_done;
	int n_news;
};

static uint64_t rig_clock; /* ns */

/* Of lanes that are made from then on. */
static int rig_parked = 64;
static struct m2_fair_cost rig_cost[2];
static uint64_t rig_step_cost;
static const struct m2_backend *rig_backend = &fake_backend;

static uint64_t rig_now(void)
{
	return rig_clock += 1000;
}

static void rig_on_news(void *ctx, struct m2_task *task)
{
	struct rig *rig = ctx;
	(void)task;
	rig->n_news++;
}

static void rig_on_done(void *ctx, struct m2_task *task)
{
	struct rig *rig = ctx;
	assert_true(rig->n_done < RIG_DONE_MAX);
	rig->done[rig->n_done++] = task;
}

static void rig_add_lane(struct rig *rig, int index, int slots, int max_batch_tokens, bool text)
{
	struct m2_why why;
	struct m2_model *m = &rig->model[index];
	const struct m2_lane_facts facts = {
		.backend = rig_backend,
		.model = m,
		.tokenizer = text ? rig->tokenizer : NULL,
		.vocab_rows = FAKE_ROWS,
		.vocab = text ? 27 : FAKE_VOCAB,
		.slots = slots,
		.step_tokens = m2_lane_step_tokens(max_batch_tokens, slots),
		.cost = rig_cost[index],
		.step_cost = rig_step_cost,
		.slot_bytes = sizeof(struct fake_slot),
		.parked = rig_parked,
	};
	*m = (struct m2_model){.slots = slots,
		.max_tokens = facts.step_tokens,
		.salt = (uint64_t)index,
		.nan_at = -1};
	assert_int_equal(m2_lane_create(&facts, &rig->lane[index], &why), M2_OK);
	m2_scheduler_add(&rig->scheduler, rig->lane[index]);
}

static void rig_open(struct rig *rig, int slots, int max_batch_tokens, bool text)
{
	struct m2_why why;
	memset(rig, 0, sizeof *rig);
	rig->scheduler.events =
		(struct m2_scheduler_events){.ctx = rig, .news = rig_on_news, .done = rig_on_done};
	rig->scheduler.clock = rig_now;
	assert_int_equal(m2_segment_pool_create("/tmp", 0, 0, &rig->pool, &why), M2_OK);
	if (text)
		assert_int_equal(m2_tokenizer_parse(rig_tokenizer, sizeof rig_tokenizer - 1, "rig",
					 &rig->tokenizer, &why),
			M2_OK);
	rig_add_lane(rig, 0, slots, max_batch_tokens, text);
}

static void rig_close(struct rig *rig)
{
	for (int i = 0; i < rig->n_done; i++)
		m2_task_destroy(rig->pool, &rig->done[i]);
	for (int i = 0; i < 2; i++) {
		if (rig->lane[i] == NULL)
			continue;
		assert_int_equal(rig->model[i].broken, 0);
		assert_int_equal(rig->lane[i]->n_free, rig->lane[i]->facts.slots);
		assert_int_equal(rig->lane[i]->n_free_states, rig->lane[i]->facts.parked);
		assert_int_equal(rig->lane[i]->n_present, 0);
		assert_int_equal(atomic_load(&rig->lane[i]->queued), 0);
		assert_int_equal(atomic_load(&rig->lane[i]->paused), 0);
		assert_int_equal(atomic_load(&rig->lane[i]->slots_used), 0);
		m2_scheduler_remove(&rig->scheduler, rig->lane[i]);
		m2_lane_destroy(&rig->lane[i]);
	}
	m2_tokenizer_close(&rig->tokenizer);
	m2_segment_pool_destroy(&rig->pool);
}

/* A request in the rig's terms; what is zero is off. */
struct rig_ask {
	int lane;
	uint32_t op; /* 0: generate */
	int prompt_tokens;
	uint64_t prompt_seed;
	int n; /* 0: 1 */
	int max_tokens;
	float temperature;
	int top_k;
	float repetition;
	int logprobs; /* one more than the request's: 0 none, 1 chosen, 1 + k */
	uint32_t flags;
	int64_t deadline_ms;
	const char *stop; /* one stop string */
	int32_t end;      /* with has_end */
	bool has_end;
	uint64_t seed;
	/* whose it is: simulated; results memory is the tester's */
	uint32_t uid;
	uint32_t weight; /* 0: 1 */
	int32_t user_slots;
	uint64_t user_bytes;
	enum m2_priority priority;
};

static int32_t rig_prompt_token(const struct rig_ask *ask, int i)
{
	return (int32_t)(fake_mix(ask->prompt_seed * 7919 + (uint64_t)i) % FAKE_VOCAB);
}

static enum m2_err rig_make(
	struct rig *rig, const struct rig_ask *ask, struct m2_task **out, struct m2_why *why)
{
	static int32_t prompt[4096];
	static uint64_t id;
	const struct m2_lane *lane = rig->lane[ask->lane];
	struct m2_request r = {.id = ++id,
		.uid = geteuid(),
		.op = ask->op != 0 ? ask->op : M2_OP_GENERATE,
		/* anonymous memory: a test of the scheduler needs no files */
		.flags = ask->flags | M2_REQUEST_TOKENS | M2_REQUEST_MESSAGES,
		.set = M2_SET_SEED | M2_SET_MAX_TOKENS,
		.n = ask->n != 0 ? ask->n : 1,
		.logprobs = ask->logprobs - 1,
		.priority = (int32_t)ask->priority,
		.deadline_ms = ask->deadline_ms};
	if ((ask->flags & (M2_REQUEST_ECHO | M2_REQUEST_LOGITS)) != 0)
		r.flags &= ~(uint32_t)M2_REQUEST_MESSAGES;
	r.sampling = (struct m2_sampling){.temperature = ask->temperature,
		.top_p = 1,
		.repetition_penalty = ask->repetition > 0 ? ask->repetition : 1,
		.top_k = ask->top_k,
		.max_tokens = ask->max_tokens,
		.seed = ask->seed};
	if (ask->stop != NULL) {
		r.n_stop = 1;
		r.stop_length[0] = (uint16_t)strlen(ask->stop);
		r.stop_bytes = r.stop_length[0];
	}
	for (int i = 0; i < ask->prompt_tokens; i++)
		prompt[i] = rig_prompt_token(ask, i);
	const struct m2_task_spec spec = {.request = &r,
		.stop = ask->stop,
		.prompt = prompt,
		.prompt_tokens = (size_t)ask->prompt_tokens,
		.ends = &ask->end,
		.n_ends = ask->has_end,
		.tokenizer = lane->facts.tokenizer,
		.vocab_rows = FAKE_ROWS,
		.vocab_size = FAKE_VOCAB,
		.slots = lane->facts.slots,
		.now_ns = rig_clock,
		.weight = ask->weight,
		.user_slots = ask->user_slots,
		.user_bytes = ask->user_bytes};
	const enum m2_err err = m2_task_create(rig->pool, &spec, out, why);
	if (err == M2_OK)
		(*out)->uid = ask->uid;
	return err;
}

static struct m2_task *rig_submit(struct rig *rig, const struct rig_ask *ask)
{
	struct m2_task *task = NULL;
	struct m2_why why = {.text = ""};
	if (rig_make(rig, ask, &task, &why) != M2_OK)
		fail_msg("%s", why.text);
	m2_scheduler_submit(&rig->scheduler, rig->lane[ask->lane], task);
	return task;
}

static bool rig_step(struct rig *rig)
{
	bool worked;
	struct m2_why why = {.text = ""};
	if (m2_scheduler_step(&rig->scheduler, &worked, &why) != M2_OK)
		fail_msg("%s", why.text);
	return worked;
}

static inline void rig_run(struct rig *rig)
{
	for (int i = 0; rig_step(rig); i++)
		assert_true(i < 100000);
}

static inline uint32_t rig_finish(const struct m2_task *task, uint32_t sequence)
{
	return atomic_load(&task->sequences[sequence].out->finish);
}

#endif
