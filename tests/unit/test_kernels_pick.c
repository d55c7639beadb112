/* test_kernels_pick.c - greedy picks made by a backend, fed back by it, with two steps in flight.
 *
 * Fresh random weights and tokens each run, poisoned buffers; a shape with nothing round about it and one
 * with the published head and state.  On ref and cpu; an argument names another backend instead.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/pick.h"
#include "tests/unit/test_kernels_model.h"

enum { VOCAB = 2500, SLOTS = 80, CHAIN = 20, PROMPT = 7, TIED = 64, LONG = 2 * M2_CHUNK + 9 };

static uint64_t seed;
static const char *backends[] = {"ref", "cpu"};
static size_t n_backends = sizeof backends / sizeof backends[0];

/* ---- models --------------------------------------------------------------------------------- */

/* What is special about the rows of the head. */
enum head {
	AS_DRAWN,
	IN_TURN, /* row i is row i % TIED: every logit has its equals */
	ONE_NAN, /* row TIED is NaN */
	ALL_NAN,
};

struct special {
	struct random_model random;
	enum head head;
};

static enum m2_dtype special_dtype(void *ctx, int layer, enum m2_weight which)
{
	struct special *s = ctx;
	return random_dtype(&s->random, layer, which);
}

static enum m2_err special_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	struct special *s = ctx;
	const size_t d = (size_t)s->random.desc.hidden_size;
	const size_t size = m2_dtype_bytes(s->random.matrices);
	if (which != M2_W_HEAD || s->head == AS_DRAWN)
		return random_read(&s->random, layer, which, first, count, dst, why);
	for (size_t i = 0; i < count; i++) {
		const size_t row = (first + i) / d, from = row % TIED * d + (first + i) % d;
		void *to = (char *)dst + i * size;
		if (s->head == ALL_NAN || (s->head == ONE_NAN && row == TIED))
			memset(to, 0xff, size);
		else
			(void)random_read(&s->random, layer, which, from, 1, to, why);
	}
	return M2_OK;
}

static struct special model_of(int which, enum head head)
{
	struct m2_model_desc m = plain_desc();
	m.vocab_rows = VOCAB;
	m.tied_head = false;
	m.hidden_size = which == 0 ? 50 : 96;
	m.n_heads = 3;
	m.head_dim = which == 0 ? 24 : 64;
	m.state_size = which == 0 ? 21 : 128;
	m.n_groups = m.norm_groups = which == 0 ? 3 : 1;
	m.n_layers = which == 0 ? 2 : 1;
	return (struct special){
		.random = {m, seed + (uint64_t)which, which == 0 ? M2_DTYPE_F32 : M2_DTYPE_BF16},
		.head = head};
}

static void open_rig(struct rig *rig, const char *backend, struct special *s)
{
	const struct m2_device_options device = {.threads = 2};
	const struct m2_weight_source source = {s, special_dtype, special_read};
	const struct m2_load_options load = {
		.state = M2_DTYPE_F32, .slots = SLOTS, .max_tokens = 400, .max_items = SLOTS};
	struct m2_why why = {.text = ""};
	*rig = (struct rig){.desc = s->random.desc, .slots = SLOTS};
	enum m2_err err = m2_backend_find(backend, &rig->backend, &why);
	if (err == M2_OK)
		err = rig->backend->open(&device, &rig->device, &why);
	if (err == M2_OK)
		err = rig->backend->plan(
			rig->device, &rig->desc, &source, &load, &rig->footprint, &why);
	if (err == M2_OK)
		err = rig->backend->load(
			rig->device, &rig->desc, &source, &load, &rig->model, &why);
	if (err != M2_OK)
		fail_msg("%s", why.text);
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void poison(struct rig *rig)
{
	if (rig->backend->poison != NULL)
		rig->backend->poison(rig->model);
}

static void begin(struct rig *rig, const struct m2_work *items, int32_t count)
{
	struct m2_why why = {.text = ""};
	poison(rig);
	if (m2_backend_step_begin(rig->backend, rig->model, items, count, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void wait_one(struct rig *rig)
{
	struct m2_why why = {.text = ""};
	if (m2_backend_step_wait(rig->backend, rig->model, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void step(struct rig *rig, const struct m2_work *items, int32_t count)
{
	struct m2_why why = {.text = ""};
	poison(rig);
	if (rig->backend->step(rig->model, items, count, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void reset(struct rig *rig, int32_t slot)
{
	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
}

/* A span that wants a pick and no logits. */
static struct m2_work span(
	int32_t slot, int64_t position, const int32_t *tokens, int32_t n, struct m2_pick *pick)
{
	return (struct m2_work){
		.slot = slot,
		.n_tokens = n,
		.position = position,
		.tokens = tokens,
		.logits_first = n,
		.pick = pick,
	};
}

static struct m2_work next(int32_t slot, int64_t position, struct m2_pick *pick)
{
	struct m2_work work = span(slot, position, NULL, 1, pick);
	work.from_pick = true;
	return work;
}

static void assert_same_picks(const struct m2_pick *a, const struct m2_pick *b, size_t n)
{
	assert_memory_equal(a, b, n * sizeof *a);
}

/* The prompt, then CHAIN - 1 tokens by way of the host, one step at a time: picks[CHAIN]. */
static void run_by_host(struct rig *rig, int32_t slot, const int32_t *prompt, struct m2_pick *picks)
{
	reset(rig, slot);
	struct m2_work work = span(slot, 0, prompt, PROMPT, &picks[0]);
	step(rig, &work, 1);
	for (int32_t i = 1; i < CHAIN; i++) {
		work = span(slot, PROMPT + i - 1, &picks[i - 1].token, 1, &picks[i]);
		step(rig, &work, 1);
	}
}

/* ---- the function --------------------------------------------------------------------------- */

static void check_row(const float *row, int32_t limit, int32_t token)
{
	struct m2_pick pick;
	double sum = 0.0;
	bool finite = true;
	m2_pick_row(row, limit, &pick);
	assert_int_equal(pick.token, token);
	assert_memory_equal(&pick.logit, &row[token], sizeof(float));
	for (int32_t i = 0; i < limit; i++) {
		finite = finite && isfinite(row[i]);
		sum += exp((double)row[i] - (double)row[token]);
	}
	if (finite)
		assert_true(fabs((double)pick.logprob + log(sum)) <= 1e-6 * (1.0 + log(sum)));
	else
		assert_true(isnan(pick.logprob));
}

static void the_lowest_id_of_the_largest_wins_and_a_nan_never(void **state)
{
	(void)state;
	float row[100];
	struct rng rng = {mix64(seed + 1)};
	for (int32_t n = 1; n <= 100; n++) {
		for (int32_t i = 0; i < n; i++)
			row[i] = (float)uniform(mix64(++rng.state)) * 3.0f;
		const int32_t a = (int32_t)rng_below(&rng, (uint32_t)n);
		row[a] = 5.0f;
		check_row(row, n, a);
		const int32_t b = (int32_t)rng_below(&rng, (uint32_t)n);
		row[b] = 5.0f;
		check_row(row, n, a < b ? a : b);
		row[b] = NAN;
		if (a != b)
			check_row(row, n, a);
	}
	for (int32_t i = 0; i < 100; i++)
		row[i] = -INFINITY;
	row[0] = NAN;
	check_row(row, 100, 1);
	check_row(row, 1, 0);
	row[50] = INFINITY;
	check_row(row, 100, 50);
	row[0] = 0.0f;
	check_row(row, 50, 0);
	row[1] = -0.0f;
	check_row(row, 2, 0);
}

static void a_certain_token_keeps_its_small_doubt(void **state)
{
	(void)state;
	const float row[3] = {20.0f, 1.0f, 0.0f};
	struct m2_pick pick;
	m2_pick_row(row, 3, &pick);
	const double rest = exp(-19.0) + exp(-20.0);
	assert_true(fabs((double)pick.logprob + rest) < 1e-6 * rest);
}

/* ---- against the logits --------------------------------------------------------------------- */

/* As the header says it, from the logits that were delivered. */
static void check_pick(const struct m2_pick *pick, const float *row, int32_t limit)
{
	struct m2_pick want;
	m2_pick_row(row, limit, &want);
	assert_int_equal(pick->token, want.token);
	assert_memory_equal(&pick->logit, &want.logit, sizeof(float));
	if (isnan(want.logprob))
		assert_true(isnan(pick->logprob));
	else
		assert_true(fabsf(pick->logprob - want.logprob) <= 2e-6f * (1.0f - want.logprob));
}

/* Prompts with their last logits, and single tokens with theirs; then all again without logits. */
static void check_against_logits(const char *backend, struct special *s, uint64_t draw)
{
	enum { ITEMS = 5 };
	struct rng rng = {mix64(seed + draw)};
	int32_t tokens[LONG], limits[ITEMS];
	struct m2_pick picks[ITEMS], again[ITEMS];
	struct m2_work items[ITEMS];
	struct rig rig;
	float *logits = calloc((size_t)ITEMS * VOCAB, sizeof *logits);
	assert_non_null(logits);
	open_rig(&rig, backend, s);
	random_tokens(&rng, tokens, LONG, VOCAB);
	for (int singles = 0; singles < 2; singles++) {
		for (int32_t i = 0; i < ITEMS; i++) {
			const int32_t n = singles || i == 1 ? 1 : i == 0 ? LONG : 2 * i;
			limits[i] = i == 0 ? 0 : i == 1 ? 1 : 1 + (int32_t)rng_below(&rng, VOCAB);
			items[i] = span(3 * i, 0, tokens, n, &picks[i]);
			items[i].logits_first = n - 1;
			items[i].logits = logits + (size_t)i * VOCAB;
			items[i].pick_limit = limits[i];
			reset(&rig, 3 * i);
		}
		step(&rig, items, ITEMS);
		for (int32_t i = 0; i < ITEMS; i++) {
			check_pick(&picks[i], items[i].logits, limits[i] > 0 ? limits[i] : VOCAB);
			if (s->head == IN_TURN)
				assert_true(picks[i].token < TIED);
			items[i].logits_first = items[i].n_tokens;
			items[i].logits = NULL;
			items[i].pick = &again[i];
			reset(&rig, 3 * i);
		}
		step(&rig, items, ITEMS);
		if (s->head == AS_DRAWN || s->head == IN_TURN)
			assert_same_picks(again, picks, ITEMS);
	}
	free(logits);
	rig_close(&rig);
}

static void a_pick_is_the_largest_of_the_logits_delivered(void **state)
{
	static const enum head heads[] = {AS_DRAWN, IN_TURN, ONE_NAN, ALL_NAN};
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		for (int which = 0; which < 2; which++) {
			for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++) {
				struct special s = model_of(which, heads[h]);
				check_against_logits(backends[b], &s, h);
			}
		}
	}
}

/* ---- company -------------------------------------------------------------------------------- */

/* `count` sequences in one step each time, the watched one anywhere among them. */
static void check_company(
	struct rig *rig, int32_t count, const int32_t *prompt, const struct m2_pick *alone)
{
	struct m2_pick picks[CHAIN][SLOTS];
	struct m2_work items[SLOTS];
	int32_t others[SLOTS][PROMPT];
	struct rng rng = {mix64(seed + 50 + (uint64_t)count)};
	const int32_t own = (int32_t)rng_below(&rng, (uint32_t)count);
	for (int32_t i = 0; i < count; i++) {
		random_tokens(&rng, others[i], PROMPT, VOCAB);
		items[i] =
			span(SLOTS - 1 - i, 0, i == own ? prompt : others[i], PROMPT, &picks[0][i]);
		reset(rig, SLOTS - 1 - i);
	}
	step(rig, items, count / 2);
	step(rig, items + count / 2, count - count / 2);
	for (int32_t t = 1; t < CHAIN; t++) {
		for (int32_t i = 0; i < count; i++)
			items[i] = next(SLOTS - 1 - i, PROMPT + t - 1, &picks[t][i]);
		step(rig, items, count);
	}
	for (int32_t t = 0; t < CHAIN; t++)
		assert_same_picks(&picks[t][own], &alone[t], 1);
}

static void a_pick_has_the_same_bits_in_any_company(void **state)
{
	static const int32_t counts[] = {1, 2, 8, 33};
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		for (int which = 0; which < 2; which++) {
			struct special s = model_of(which, AS_DRAWN);
			struct rng rng = {mix64(seed + 2)};
			struct m2_pick alone[CHAIN];
			int32_t prompt[PROMPT];
			struct rig rig;
			open_rig(&rig, backends[b], &s);
			random_tokens(&rng, prompt, PROMPT, VOCAB);
			run_by_host(&rig, 5, prompt, alone);
			for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
				check_company(&rig, counts[i], prompt, alone);
			rig_close(&rig);
		}
	}
}

/* More rows than a backend makes logits of at a time, more logits than it can hold on their way, spans
 * and single tokens in one step, those with logits and those with picks in any order. */
static void check_many_rows(struct rig *rig)
{
	struct rng rng = {mix64(seed + 3)};
	int32_t tokens[LONG], last = 0;
	struct m2_pick want[SLOTS], got[SLOTS];
	struct m2_work items[SLOTS];
	float *logits = calloc((size_t)LONG * VOCAB, sizeof *logits);
	float *alone = calloc((size_t)LONG * VOCAB, sizeof *alone);
	assert_true(logits != NULL && alone != NULL);
	random_tokens(&rng, tokens, LONG, VOCAB);
	for (int32_t i = 0; i < SLOTS; i++) {
		const int32_t n = i == 40 ? LONG : 1 + i % 3;
		items[i] = span(i, 0, tokens + (i == 40 ? 0 : i), n, &want[i]);
		if (i == 40) {
			items[i].logits_first = 0;
			items[i].logits = alone;
		}
		reset(rig, i);
		step(rig, &items[i], 1);
		reset(rig, i);
		last += n;
		items[i].pick = i % 5 == 4 ? NULL : &got[i];
		if (i == 40)
			items[i].logits = logits;
	}
	assert_true(last <= 400);
	begin(rig, items, SLOTS);
	const struct m2_work behind = next(41, items[41].n_tokens, &want[4]);
	begin(rig, &behind, 1);
	wait_one(rig);
	for (int32_t i = 0; i < SLOTS; i++)
		if (i % 5 != 4)
			assert_same_picks(&got[i], &want[i], 1);
	assert_memory_equal(logits, alone, (size_t)LONG * VOCAB * sizeof *logits);
	wait_one(rig);
	free(logits);
	free(alone);
}

static void picks_and_logits_of_more_rows_than_are_made_at_a_time(void **state)
{
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		for (int which = 0; which < 2; which++) {
			struct special s = model_of(which, AS_DRAWN);
			struct rig rig;
			open_rig(&rig, backends[b], &s);
			check_many_rows(&rig);
			rig_close(&rig);
		}
	}
}

/* ---- chains --------------------------------------------------------------------------------- */

/* Two sequences; the second begins when the first has come to token 6, and leaves after its token 4; at
 * token 10 the first wants its logits too. */
enum { JOINS = 6, STAYS = 5, SHOWS = 10 };

struct chain {
	struct m2_pick first[CHAIN], second[CHAIN];
	float logits[VOCAB];
	unsigned char *saved;
};

static int32_t chain_items(
	struct chain *c, int32_t t, const int32_t *prompts, struct m2_work *items)
{
	int32_t count = 1;
	items[0] = t == 0 ? span(7, 0, prompts, PROMPT, &c->first[0])
			  : next(7, PROMPT + t - 1, &c->first[t]);
	if (t == SHOWS) {
		items[0].logits_first = 0;
		items[0].logits = c->logits;
	}
	if (t == JOINS)
		items[count++] = span(2, 0, prompts + PROMPT, PROMPT, &c->second[0]);
	else if (t > JOINS && t < JOINS + STAYS)
		items[count++] = next(2, PROMPT + t - JOINS - 1, &c->second[t - JOINS]);
	return count;
}

static void run_chain(struct rig *rig, const int32_t *prompts, int32_t in_flight, struct chain *c)
{
	struct m2_work items[2];
	reset(rig, 7);
	reset(rig, 2);
	for (int32_t t = 0; t < CHAIN; t++) {
		const int32_t count = chain_items(c, t, prompts, items);
		begin(rig, items, count);
		/* the step was copied: nobody reads these any more */
		memset(items, 0xff, sizeof items);
		if (t + 1 >= in_flight)
			wait_one(rig);
	}
	for (int32_t t = 1; t < in_flight; t++)
		wait_one(rig);
	assert_int_equal(rig->backend->slot_save(rig->model, 7, c->saved), M2_OK);
}

static void check_chain(struct rig *rig)
{
	struct rng rng = {mix64(seed + 4)};
	int32_t prompts[2 * PROMPT];
	struct m2_pick by_host[2][CHAIN];
	random_tokens(&rng, prompts, 2 * PROMPT, VOCAB);
	struct chain *one = calloc(2, sizeof *one), *two = one + 1;
	assert_non_null(one);
	one->saved = calloc(2, rig->footprint.per_slot);
	assert_non_null(one->saved);
	two->saved = one->saved + rig->footprint.per_slot;
	run_by_host(rig, 7, prompts, by_host[0]);
	run_by_host(rig, 2, prompts + PROMPT, by_host[1]);
	run_chain(rig, prompts, 1, one);
	assert_same_picks(one->first, by_host[0], CHAIN);
	assert_same_picks(one->second, by_host[1], STAYS);
	check_pick(&one->first[SHOWS], one->logits, VOCAB);
	run_chain(rig, prompts, M2_STEPS_IN_FLIGHT, two);
	assert_same_picks(two->first, by_host[0], CHAIN);
	assert_same_picks(two->second, by_host[1], STAYS);
	assert_memory_equal(two->logits, one->logits, sizeof one->logits);
	assert_memory_equal(two->saved, one->saved, rig->footprint.per_slot);
	free(one->saved);
	free(one);
}

static void a_chain_of_picks_is_the_chain_by_way_of_the_host(void **state)
{
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		for (int which = 0; which < 2; which++) {
			struct special s = model_of(which, AS_DRAWN);
			struct rig rig;
			open_rig(&rig, backends[b], &s);
			check_chain(&rig);
			rig_close(&rig);
		}
	}
}

/* A sequence has ended, and is in one more step that is under way: its slot is given to another. */
static void check_reuse(struct rig *rig)
{
	struct rng rng = {mix64(seed + 5)};
	int32_t prompts[3 * PROMPT];
	struct m2_pick want[3][CHAIN], got[2], dropped[2], copied;
	struct m2_work items[2];
	random_tokens(&rng, prompts, 3 * PROMPT, VOCAB);
	for (int32_t i = 0; i < 3; i++)
		run_by_host(rig, 10 + i, prompts + i * PROMPT, want[i]);
	for (int32_t i = 0; i < 2; i++) {
		reset(rig, 10 + i);
		items[i] = span(10 + i, 0, prompts + i * PROMPT, PROMPT, &got[i]);
	}
	begin(rig, items, 2);
	for (int32_t i = 0; i < 2; i++)
		items[i] = next(10 + i, PROMPT, &dropped[i]);
	begin(rig, items, 2);
	wait_one(rig);
	assert_same_picks(&got[0], &want[0][0], 1);
	assert_same_picks(&got[1], &want[1][0], 1);
	/* the second step runs; slot 10 goes to the third sequence, slot 30 forks off slot 11 behind it */
	reset(rig, 10);
	assert_int_equal(rig->backend->slot_copy(rig->model, 30, 11), M2_OK);
	items[0] = span(10, 0, prompts + 2 * PROMPT, PROMPT, &got[0]);
	items[1] = span(30, PROMPT + 1, &want[1][1].token, 1, &copied);
	begin(rig, items, 2);
	wait_one(rig);
	wait_one(rig);
	assert_same_picks(&dropped[0], &want[0][1], 1);
	assert_same_picks(&dropped[1], &want[1][1], 1);
	assert_same_picks(&got[0], &want[2][0], 1);
	assert_same_picks(&copied, &want[1][2], 1);
}

static void slots_change_hands_behind_the_steps_in_flight(void **state)
{
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		for (int which = 0; which < 2; which++) {
			struct special s = model_of(which, AS_DRAWN);
			struct rig rig;
			open_rig(&rig, backends[b], &s);
			check_reuse(&rig);
			rig_close(&rig);
		}
	}
}

static void a_step_of_nothing_is_begun_and_waited_for(void **state)
{
	(void)state;
	for (size_t b = 0; b < n_backends; b++) {
		struct special s = model_of(1, AS_DRAWN);
		struct m2_pick want[CHAIN], got;
		int32_t prompt[PROMPT] = {1, 2, 3};
		struct rig rig;
		open_rig(&rig, backends[b], &s);
		run_by_host(&rig, 0, prompt, want);
		reset(&rig, 0);
		const struct m2_work work = span(0, 0, prompt, PROMPT, &got);
		begin(&rig, NULL, 0);
		begin(&rig, &work, 1);
		wait_one(&rig);
		wait_one(&rig);
		assert_same_picks(&got, want, 1);
		rig_close(&rig);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_lowest_id_of_the_largest_wins_and_a_nan_never),
		cmocka_unit_test(a_certain_token_keeps_its_small_doubt),
		cmocka_unit_test(a_pick_is_the_largest_of_the_logits_delivered),
		cmocka_unit_test(a_pick_has_the_same_bits_in_any_company),
		cmocka_unit_test(picks_and_logits_of_more_rows_than_are_made_at_a_time),
		cmocka_unit_test(a_chain_of_picks_is_the_chain_by_way_of_the_host),
		cmocka_unit_test(slots_change_hands_behind_the_steps_in_flight),
		cmocka_unit_test(a_step_of_nothing_is_begun_and_waited_for),
	};
	if (argc > 1) {
		backends[0] = argv[1];
		n_backends = 1;
	}
	seed = run_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
