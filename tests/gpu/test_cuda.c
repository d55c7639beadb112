/* test_cuda.c - the CUDA backend held against the definition in double precision.
 *
 * Fresh random weights and tokens each run, poisoned buffers and neighbours, spans cut anywhere.
 * Tolerances, relative L2 of logits and states: with f32 weights everything is f32 (no TF32), so a few
 * layers stay within 1e-5; with 16-bit weights each product's input is rounded to that type (half a unit
 * in the last place: 2^-9 for bf16, 2^-12 for f16, at most), twice a layer and once before the head,
 * and three layers of that stay within the figures below.  Where the definition itself loses more in
 * f32 or by noise of 16 bits on its weights (an ill-conditioned draw), ILL times that is allowed.
 *
 * Without a device every test is skipped by name.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_kernels_model.h"

#define ILL 8.0

enum { LENGTH = 64 * 2 + 13, SLOTS = 3, OWN = 1 };

static uint64_t seed;
static double worst[M2_DTYPE_F64 + 1];

static double tolerance_of_type(enum m2_dtype resident)
{
	return resident == M2_DTYPE_BF16 ? 2e-2 : resident == M2_DTYPE_F16 ? 3e-3 : 1e-5;
}

struct outcome {
	float *values[3]; /* logits [LENGTH, V], conv, ssm */
	size_t n[3];
};

static struct outcome outcome_create(const struct m2_model_desc *m)
{
	struct outcome o = {
		.n = {(size_t)LENGTH * (size_t)m->vocab_rows,
			(size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
				(size_t)m2_desc_conv_channels(m),
			(size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size}};
	for (int i = 0; i < 3; i++) {
		o.values[i] = calloc(o.n[i] + 1, sizeof(float));
		assert_non_null(o.values[i]);
	}
	return o;
}

static void outcome_destroy(struct outcome *o)
{
	for (int i = 0; i < 3; i++)
		free(o->values[i]);
}

static void run(struct rig *rig, const int32_t *tokens, const int32_t *ends, struct outcome *out)
{
	const int32_t slot = rig->slots > 1 ? OWN : 0;
	struct m2_why why = {.text = ""};
	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
	for (int32_t at = 0, i = 0; at < LENGTH; at = ends[i++]) {
		const struct m2_work work = {
			.slot = slot,
			.n_tokens = ends[i] - at,
			.position = at,
			.tokens = tokens + at,
			.logits = out->values[0] + (size_t)at * (size_t)rig->desc.vocab_rows,
		};
		if (rig->backend->poison != NULL)
			rig->backend->poison(rig->model);
		if (rig->backend->step(rig->model, &work, 1, &why) != M2_OK)
			fail_msg("%s", why.text);
	}
	assert_int_equal(
		rig->backend->slot_export(rig->model, slot, out->values[1], out->values[2]), M2_OK);
}

static void run_definition(struct random_model *r, const char *backend, enum m2_dtype weights,
	const int32_t *tokens, struct outcome *out)
{
	static const int32_t all[] = {LENGTH};
	struct m2_why why = {.text = ""};
	struct rig rig;
	const struct rig_options options = {.backend = backend, .weights = weights};
	if (rig_open(&rig, r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
	run(&rig, tokens, all, out);
	rig_close(&rig);
}

static double largest_error(const struct outcome *got, const struct outcome *want)
{
	double error = 0.0;
	for (int i = 0; i < 3; i++)
		error = fmax(error, relative_error(got->values[i], want->values[i], want->n[i]));
	return error;
}

/* What roundings to 16 bits cost this draw, by the definition: its distance from itself with noise of that
 * size on every matrix.  A model of width 1, say, gives back only the sign of what comes near zero. */
static double cost_of_noise(struct random_model r, enum m2_dtype type, const int32_t *tokens)
{
	struct outcome plain = outcome_create(&r.desc), noisy = outcome_create(&r.desc);
	r.matrices = M2_DTYPE_F32;
	run_definition(&r, "ref64", M2_DTYPE_F32, tokens, &plain);
	r.noise = type == M2_DTYPE_BF16 ? 0x1p-9f : 0x1p-12f;
	run_definition(&r, "ref64", M2_DTYPE_F32, tokens, &noisy);
	const double cost = largest_error(&noisy, &plain);
	outcome_destroy(&plain);
	outcome_destroy(&noisy);
	return cost;
}

static void poison_neighbours(struct rig *rig, unsigned char *bytes, bool check)
{
	for (int32_t slot = 0; slot < rig->slots; slot++) {
		if (slot == OWN)
			continue;
		if (!check) {
			memset(bytes, 0xff, rig->footprint.per_slot);
			assert_int_equal(
				rig->backend->slot_restore(rig->model, slot, bytes), M2_OK);
			continue;
		}
		assert_int_equal(rig->backend->slot_save(rig->model, slot, bytes), M2_OK);
		for (size_t i = 0; i < rig->footprint.per_slot; i++)
			assert_int_equal(bytes[i], 0xff);
	}
}

/* Spans: all at once; whole chunks and singles; cuts anywhere, which are correct too. */
static const int32_t plans[][8] = {
	{LENGTH},
	{64, 128, 129, 130, LENGTH},
	{1, 3, 40, 70, 71, 135, LENGTH},
};

static void check_shape(struct m2_model_desc desc, enum m2_dtype stored, enum m2_dtype weights)
{
	struct random_model r = {.desc = desc, .seed = seed, .matrices = stored};
	const enum m2_dtype resident = weights != M2_DTYPE_NONE ? weights : stored;
	struct rng rng = {mix64(seed + 1)};
	struct m2_why why = {.text = ""};
	struct rig rig;
	int32_t tokens[LENGTH];
	if (m2_model_desc_check(&desc, &why) != M2_OK)
		fail_msg("%s", why.text);
	random_tokens(&rng, tokens, LENGTH, desc.vocab_rows);
	struct outcome want = outcome_create(&desc), got = outcome_create(&desc);
	run_definition(&r, "ref", weights, tokens, &got);
	run_definition(&r, "ref64", weights, tokens, &want);
	double allowed = fmax(tolerance_of_type(resident), ILL * largest_error(&got, &want));
	if (resident != M2_DTYPE_F32)
		allowed = fmax(allowed, ILL * cost_of_noise(r, resident, tokens));
	const struct rig_options options = {.backend = "cuda", .weights = weights, .slots = SLOTS};
	if (rig_open(&rig, &r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
	unsigned char *bytes = malloc(rig.footprint.per_slot);
	assert_non_null(bytes);
	poison_neighbours(&rig, bytes, false);
	for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
		run(&rig, tokens, plans[i], &got);
		const double error = largest_error(&got, &want);
		worst[resident] = fmax(worst[resident], error);
		if (!(error <= allowed))
			fail_msg("%s, spans %zu: logits %.2e, conv %.2e, ssm %.2e, allowed %.2e",
				m2_dtype_name(resident), i,
				relative_error(got.values[0], want.values[0], want.n[0]),
				relative_error(got.values[1], want.values[1], want.n[1]),
				relative_error(got.values[2], want.values[2], want.n[2]), allowed);
	}
	poison_neighbours(&rig, bytes, true);
	free(bytes);
	outcome_destroy(&want);
	outcome_destroy(&got);
	rig_close(&rig);
}

static struct m2_model_desc published(int32_t hidden, int32_t groups)
{
	struct m2_model_desc m = plain_desc();
	m.hidden_size = hidden;
	m.n_heads = hidden / 32;
	m.head_dim = 64;
	m.state_size = 128;
	m.n_groups = groups;
	m.norm_groups = groups;
	m.vocab_rows = 301;
	return m;
}

static const enum m2_dtype dtypes[] = {M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16};

static void the_plain_shape(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		check_shape(plain_desc(), dtypes[i], M2_DTYPE_NONE);
}

static void the_published_head_and_state(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		check_shape(published(256, 1), dtypes[i], M2_DTYPE_NONE);
		check_shape(published(256, 8), dtypes[i], M2_DTYPE_NONE);
	}
}

static void weights_converted_at_load(void **state)
{
	(void)state;
	check_shape(published(128, 1), M2_DTYPE_F32, M2_DTYPE_BF16);
	check_shape(published(128, 1), M2_DTYPE_BF16, M2_DTYPE_F32);
	check_shape(plain_desc(), M2_DTYPE_F32, M2_DTYPE_F16);
}

static void shapes_drawn_at_random(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed + 7)};
	for (int i = 0; i < 40; i++)
		check_shape(random_desc(&rng), dtypes[rng_below(&rng, 3)], M2_DTYPE_NONE);
}

static int open_once(void **state)
{
	struct random_model r = {.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32};
	struct m2_why why = {.text = ""};
	struct rig rig;
	(void)state;
	const struct rig_options options = {.backend = "cuda"};
	const enum m2_err err = rig_open(&rig, &r, options, &why);
	if (err == M2_OK)
		rig_close(&rig);
	else
		print_message("no CUDA device: %s\n", why.text);
	return err == M2_OK ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_plain_shape),
		cmocka_unit_test(the_published_head_and_state),
		cmocka_unit_test(weights_converted_at_load),
		cmocka_unit_test(shapes_drawn_at_random),
	};
	seed = run_seed();
	if (open_once(NULL) != 0) {
		for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
			(void)printf("ok %zu # SKIP %s: no CUDA device\n", i + 1, tests[i].name);
		(void)printf("1..%zu\n", sizeof tests / sizeof tests[0]);
		return 0;
	}
	const int failed = cmocka_run_group_tests(tests, NULL, NULL);
	(void)fprintf(stderr, "# largest relative errors: f32 %.2e, f16 %.2e, bf16 %.2e\n",
		worst[M2_DTYPE_F32], worst[M2_DTYPE_F16], worst[M2_DTYPE_BF16]);
	return failed;
}
