/* test_park.c - weights of the CUDA backend in host memory and back: the same bits, at the same place, with slots
 * that are empty; the device's memory is free meanwhile.  Without a device every test is skipped by name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "tests/unit/test_kernels_model.h"

enum { PROMPT = 64 * 3 + 5, STEPS = 20, SLOTS = 3 };

static uint64_t seed;

static struct m2_model_desc shape(int32_t hidden, int32_t layers)
{
	struct m2_model_desc m = plain_desc();
	m.hidden_size = hidden;
	m.n_heads = hidden / 32;
	m.head_dim = 64;
	m.state_size = 128;
	m.n_layers = layers;
	m.vocab_rows = 301;
	return m;
}

static void open_rig(struct rig *rig, struct m2_model_desc desc, enum m2_dtype stored)
{
	struct random_model r = {.desc = desc, .seed = seed, .matrices = stored};
	struct m2_why why = {.text = ""};
	const struct rig_options options = {.backend = "cuda", .slots = SLOTS};
	if (rig_open(rig, &r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
	if (rig->backend->park == NULL)
		fail_msg("this backend cannot park");
}

static uint64_t free_bytes(const struct rig *rig)
{
	struct m2_device_info info;
	rig->backend->info(rig->device, &info);
	return info.memory_free;
}

/* A prompt and greedy steps in a slot that nobody has cleared since the load: logits of all steps. */
static void run(struct rig *rig, int32_t slot, bool reset, float *logits)
{
	const size_t vocab = (size_t)rig->desc.vocab_rows;
	struct rng rng = {mix64(seed)};
	struct m2_why why = {.text = ""};
	int32_t tokens[PROMPT];
	struct m2_pick pick;
	random_tokens(&rng, tokens, PROMPT, rig->desc.vocab_rows);
	if (reset)
		assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
	for (int32_t i = 0; i < STEPS; i++) {
		const struct m2_work work = {
			.slot = slot,
			.n_tokens = i == 0 ? PROMPT : 1,
			.position = i == 0 ? 0 : PROMPT + i - 1,
			.tokens = tokens,
			.logits_first = i == 0 ? PROMPT - 1 : 0,
			.logits = logits + (size_t)i * vocab,
			.pick = &pick,
		};
		if (rig->backend->step(rig->model, &work, 1, &why) != M2_OK)
			fail_msg("%s", why.text);
		tokens[0] = pick.token;
	}
}

static void park(struct rig *rig)
{
	struct m2_why why = {.text = ""};
	uint64_t host = 0;
	const uint64_t before = free_bytes(rig);
	if (rig->backend->park(rig->model, &host, &why) != M2_OK)
		fail_msg("%s", why.text);
	assert_int_equal(host, rig->footprint.weights);
	const uint64_t footprint =
		rig->footprint.weights + rig->footprint.state + rig->footprint.workspace;
	assert_true(free_bytes(rig) >= before + footprint);
}

static void unpark(struct rig *rig)
{
	struct m2_why why = {.text = ""};
	if (rig->backend->unpark(rig->model, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void what_comes_back_has_the_same_bits_and_empty_slots(void **state)
{
	(void)state;
	static const enum m2_dtype dtypes[] = {M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16};
	for (int i = 0; i < 3; i++) {
		struct rig rig;
		open_rig(&rig, shape(256, 3), dtypes[i]);
		const size_t n = (size_t)STEPS * (size_t)rig.desc.vocab_rows;
		float *want = calloc(n, sizeof *want), *got = calloc(n, sizeof *got);
		assert_non_null(want);
		assert_non_null(got);
		run(&rig, 1, true, want);
		for (int32_t round = 0; round < 3; round++) {
			park(&rig);
			unpark(&rig);
			/* not cleared since: it must be, by coming back */
			run(&rig, round, false, got);
			assert_memory_equal(got, want, n * sizeof *want);
			run(&rig, 1, true, got);
			assert_memory_equal(got, want, n * sizeof *want);
		}
		park(&rig);
		rig_close(&rig); /* a parked one can be unloaded */
		free(want);
		free(got);
	}
}

static double seconds(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void coming_back_takes_milliseconds_per_gigabyte(void **state)
{
	(void)state;
	struct rig rig;
	open_rig(&rig, shape(2048, 12), M2_DTYPE_BF16);
	const double gigabytes = (double)rig.footprint.weights / 1e9;
	const double begin = seconds();
	park(&rig);
	const double parked = seconds();
	unpark(&rig);
	const double back = seconds();
	print_message("# %.2f GB: parked in %.0f ms (%.0f a GB), back in %.0f ms (%.0f a GB)\n",
		gigabytes, (parked - begin) * 1e3, (parked - begin) * 1e3 / gigabytes,
		(back - parked) * 1e3, (back - parked) * 1e3 / gigabytes);
	assert_true((back - parked) * 1e3 / gigabytes < 500);
	rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_comes_back_has_the_same_bits_and_empty_slots),
		cmocka_unit_test(coming_back_takes_milliseconds_per_gigabyte),
	};
	struct random_model r = {.desc = plain_desc(), .matrices = M2_DTYPE_F32};
	const struct rig_options options = {.backend = "cuda"};
	struct m2_why why = {.text = ""};
	struct rig rig;
	seed = run_seed();
	if (rig_open(&rig, &r, options, &why) != M2_OK) {
		print_message("no CUDA device: %s\n", why.text);
		for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
			(void)printf("ok %zu # SKIP %s: no CUDA device\n", i + 1, tests[i].name);
		(void)printf("1..%zu\n", sizeof tests / sizeof tests[0]);
		return 0;
	}
	rig_close(&rig);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
