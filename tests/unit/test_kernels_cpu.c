/* test_kernels_cpu.c - the cpu backend held against the definition in double precision.
 *
 * Fresh random weights and tokens each run.  Every shape runs on every instruction set that the
 * processor has, with 1 and 2 threads, with poisoned buffers and poisoned neighbours: logits of all
 * positions and the final state must agree.  Tolerance: weights are widened exactly whatever they
 * are stored as, and everything else is f32, so a few layers stay within TOLERANCE in relative L2;
 * conformance asks for 2e-5.  A model drawn at random may be ill-conditioned (the norm of a residual
 * near zero): where the definition itself, in f32, loses more, ILL times its own error is allowed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/cpu/model.h"
#include "tests/unit/test_kernels_model.h"

#define TOLERANCE 1e-5
#define ILL       8.0

enum { LENGTH = 64 * 2 + 13, SLOTS = 3 };

static uint64_t seed;
static double worst;
static double tolerance = TOLERANCE; /* of the shape under test */

static const char *const isas[] = {"portable", "avx2", "avx512"};

struct outcome {
	float *logits; /* [LENGTH, V] */
	float *conv;
	float *ssm;
	size_t logits_n, conv_n, ssm_n;
};

static struct outcome outcome_create(const struct m2_model_desc *m)
{
	struct outcome o = {
		.logits_n = (size_t)LENGTH * (size_t)m->vocab_rows,
		.conv_n = (size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
			  (size_t)m2_desc_conv_channels(m),
		.ssm_n = (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size,
	};
	o.logits = calloc(o.logits_n, sizeof(float));
	o.conv = calloc(o.conv_n + 1, sizeof(float));
	o.ssm = calloc(o.ssm_n, sizeof(float));
	assert_true(o.logits != NULL && o.conv != NULL && o.ssm != NULL);
	return o;
}

static void outcome_destroy(struct outcome *o)
{
	free(o->logits);
	free(o->conv);
	free(o->ssm);
}

/* Run `tokens` in slot 1 in spans that end at ends[0], ends[1], ..., LENGTH. */
static void run(struct rig *rig, const int32_t *tokens, const int32_t *ends, struct outcome *out)
{
	const bool cpu = strcmp(rig->backend->name, "cpu") == 0;
	const int32_t slot = rig->slots > 1 ? 1 : 0;
	struct m2_why why = {0};

	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
	for (int32_t at = 0, i = 0; at < LENGTH; i++) {
		const struct m2_work work = {
			.slot = slot,
			.n_tokens = ends[i] - at,
			.position = at,
			.tokens = tokens + at,
			.logits = out->logits + (size_t)at * (size_t)rig->desc.vocab_rows,
		};
		if (cpu)
			rig->backend->poison(rig->model);
		assert_int_equal(rig->backend->step(rig->model, &work, 1, &why), M2_OK);
		at = ends[i];
	}
	assert_int_equal(rig->backend->slot_export(rig->model, slot, out->conv, out->ssm), M2_OK);
}

/* Spans: all at once; whole chunks and singles; cuts anywhere, which are correct too. */
static const int32_t plans[][8] = {
	{LENGTH},
	{64, 128, 129, 130, LENGTH},
	{1, 3, 40, 70, 71, 135, LENGTH},
};
enum { PLANS = sizeof plans / sizeof plans[0] };

static void compare(const char *what, const struct outcome *got, const struct outcome *want)
{
	const double errors[] = {
		relative_error(got->logits, want->logits, want->logits_n),
		relative_error(got->conv, want->conv, want->conv_n),
		relative_error(got->ssm, want->ssm, want->ssm_n),
	};
	for (int i = 0; i < 3; i++) {
		worst = errors[i] > worst ? errors[i] : worst;
		if (!(errors[i] <= tolerance))
			fail_msg("%s: error of logits %.2e, conv state %.2e, ssm state %.2e", what,
				errors[0], errors[1], errors[2]);
	}
}

static void poison_neighbours(struct rig *rig, unsigned char *bytes)
{
	memset(bytes, 0xff, rig->footprint.per_slot);
	for (int32_t slot = 0; slot < rig->slots; slot++)
		if (slot != 1)
			assert_int_equal(
				rig->backend->slot_restore(rig->model, slot, bytes), M2_OK);
}

static void neighbours_are_untouched(struct rig *rig, unsigned char *bytes)
{
	for (int32_t slot = 0; slot < rig->slots; slot++) {
		if (slot == 1)
			continue;
		assert_int_equal(rig->backend->slot_save(rig->model, slot, bytes), M2_OK);
		for (size_t i = 0; i < rig->footprint.per_slot; i++)
			assert_int_equal(bytes[i], 0xff);
	}
}

static void check_one(struct random_model *r, struct rig_options options, const int32_t *tokens,
	const struct outcome *want)
{
	struct rig rig;
	struct m2_why why = {0};
	char what[128];
	options.slots = SLOTS;
	const enum m2_err err = rig_open(&rig, r, options, &why);
	if (err == M2_EUNSUPPORTED && strcmp(why.field, "isa") == 0) {
		rig_close(&rig);
		return; /* isa_tests below say by name which sets are missing */
	}
	assert_int_equal(err, M2_OK);
	struct outcome got = outcome_create(&r->desc);
	unsigned char *bytes = malloc(rig.footprint.per_slot + 1);
	assert_non_null(bytes);
	poison_neighbours(&rig, bytes);
	for (int i = 0; i < PLANS; i++) {
		(void)snprintf(what, sizeof what, "%s, %d threads, spans %d, %s", options.isa,
			options.threads, i, m2_dtype_name(r->matrices));
		run(&rig, tokens, plans[i], &got);
		compare(what, &got, want);
	}
	neighbours_are_untouched(&rig, bytes);
	free(bytes);
	outcome_destroy(&got);
	rig_close(&rig);
}

static void run_definition(struct random_model *r, const char *backend, enum m2_dtype weights,
	const int32_t *tokens, struct outcome *out)
{
	static const int32_t all[] = {LENGTH};
	const struct rig_options options = {.backend = backend, .weights = weights};
	struct m2_why why = {0};
	struct rig rig;
	assert_int_equal(rig_open(&rig, r, options, &why), M2_OK);
	run(&rig, tokens, all, out);
	rig_close(&rig);
}

/* What this shape may lose; see the top. */
static double tolerance_of(struct random_model *r, enum m2_dtype weights, const int32_t *tokens,
	const struct outcome *want)
{
	struct outcome single = outcome_create(&r->desc);
	run_definition(r, "ref", weights, tokens, &single);
	const double lost = fmax(relative_error(single.logits, want->logits, want->logits_n),
		relative_error(single.ssm, want->ssm, want->ssm_n));
	outcome_destroy(&single);
	return fmax(TOLERANCE, ILL * lost);
}

static void check_shape(struct m2_model_desc desc, enum m2_dtype stored, enum m2_dtype weights)
{
	struct random_model r = {.desc = desc, .seed = seed, .matrices = stored};
	struct rng rng = {mix64(seed + 1)};
	struct m2_why why = {0};
	int32_t tokens[LENGTH];

	if (m2_model_desc_check(&desc, &why) != M2_OK)
		fail_msg("%s", why.text);
	random_tokens(&rng, tokens, LENGTH, desc.vocab_rows);
	struct outcome want = outcome_create(&desc);
	run_definition(&r, "ref64", weights, tokens, &want);
	tolerance = tolerance_of(&r, weights, tokens, &want);
	for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
		for (int32_t threads = 1; threads <= 2; threads++)
			check_one(&r,
				(struct rig_options){
					.isa = isas[i], .threads = threads, .weights = weights},
				tokens, &want);
	tolerance = TOLERANCE;
	outcome_destroy(&want);
}

/* ---- shapes --------------------------------------------------------------------------------- */

static void the_plain_shape(void **state)
{
	(void)state;
	check_shape(plain_desc(), M2_DTYPE_F32, M2_DTYPE_NONE);
}

static void the_published_head_and_state(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 192;
	m.n_heads = 6;
	m.head_dim = 64;
	m.state_size = 128;
	m.vocab_rows = 272;
	check_shape(m, M2_DTYPE_BF16, M2_DTYPE_NONE);
}

static void the_grouped_shape_of_codestral(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 128;
	m.n_heads = 8;
	m.head_dim = 64;
	m.state_size = 128;
	m.n_groups = 8;
	m.norm_groups = 8;
	m.n_layers = 1;
	m.tied_head = false;
	check_shape(m, M2_DTYPE_F16, M2_DTYPE_NONE);
}

static void odd_sizes_with_three_groups(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 50;
	m.n_heads = 6;
	m.head_dim = 24;
	m.state_size = 40;
	m.n_groups = 3;
	m.norm_groups = 3;
	m.conv_kernel = 3;
	check_shape(m, M2_DTYPE_F32, M2_DTYPE_NONE);
}

static void a_head_wider_than_the_widest_block(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.n_heads = 2;
	m.head_dim = 100;
	m.state_size = 7;
	m.conv_kernel = 2;
	check_shape(m, M2_DTYPE_BF16, M2_DTYPE_F32);
}

static void one_of_everything(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 1;
	m.n_heads = 1;
	m.head_dim = 1;
	m.state_size = 1;
	m.conv_kernel = 1;
	m.vocab_rows = 1;
	m.n_layers = 1;
	check_shape(m, M2_DTYPE_F32, M2_DTYPE_NONE);
}

static void a_convolution_of_one_tap_without_bias(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.conv_kernel = 1;
	m.conv_bias = false;
	check_shape(m, M2_DTYPE_F16, M2_DTYPE_NONE);
}

static void an_mlp_inside_the_mixer_and_biases(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.d_mlp = 37;
	m.proj_bias = true;
	m.d_per_channel = true;
	check_shape(m, M2_DTYPE_F32, M2_DTYPE_BF16);
}

static void no_gated_norm(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.gated_norm = false;
	check_shape(m, M2_DTYPE_F32, M2_DTYPE_NONE);
}

static void norm_before_gate_and_a_clamped_dt(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.norm_before_gate = true;
	m.dt_min = 0.02f;
	m.dt_max = 0.2f;
	check_shape(m, M2_DTYPE_F64, M2_DTYPE_NONE);
}

/* In 8 bits the definition has the very same numbers, so the same tolerance holds. */
static void eight_bits_with_everything(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.d_mlp = 37;
	m.proj_bias = true;
	m.tied_head = false;
	check_shape(m, M2_DTYPE_BF16, M2_DTYPE_INT8);
	m.hidden_size = 51; /* an odd number of columns: panels that do not end on a line */
	m.d_mlp = 0;
	m.tied_head = true;
	check_shape(m, M2_DTYPE_F16, M2_DTYPE_INT8);
}

/* Prompts widen panels, single tokens do not, and threads take panels as they come: no bit differs. */
static void check_eight_bits(const char *isa, const int32_t *tokens, struct random_model *r)
{
	struct outcome want = outcome_create(&r->desc), got = outcome_create(&r->desc);
	for (int32_t threads = 1; threads <= 3; threads++) {
		struct m2_why why = {0};
		struct rig rig;
		const enum m2_err err = rig_open(&rig, r,
			(struct rig_options){
				.isa = isa, .threads = threads, .weights = M2_DTYPE_INT8},
			&why);
		for (int i = 0; err == M2_OK && i < 2; i++) {
			const bool first = threads == 1 && i == 0;
			run(&rig, tokens, plans[i], first ? &want : &got);
			if (first)
				continue;
			assert_memory_equal(got.logits, want.logits, want.logits_n * sizeof(float));
			assert_memory_equal(got.ssm, want.ssm, want.ssm_n * sizeof(float));
		}
		rig_close(&rig);
	}
	outcome_destroy(&want);
	outcome_destroy(&got);
}

static void eight_bits_do_not_depend_on_cuts_and_threads(void **state)
{
	(void)state;
	struct random_model r = {.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_BF16};
	struct rng rng = {mix64(seed + 6)};
	int32_t tokens[LENGTH];
	random_tokens(&rng, tokens, LENGTH, r.desc.vocab_rows);
	for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
		check_eight_bits(isas[i], tokens, &r);
}

static void shapes_drawn_at_random(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed + 2)};
	static const enum m2_dtype dtypes[] = {
		M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16, M2_DTYPE_INT8};
	for (int i = 0; i < 6; i++) {
		const struct m2_model_desc m = random_desc(&rng);
		check_shape(m, dtypes[rng_below(&rng, 3)],
			rng_below(&rng, 2) ? M2_DTYPE_NONE : dtypes[rng_below(&rng, 4)]);
	}
}

/* The same numbers once more without the chunked form: both forms are right. */
static void recurrence_and_chunked_form_agree(void **state)
{
	(void)state;
	static const int32_t all[] = {LENGTH};
	struct random_model r = {.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32};
	struct rng rng = {mix64(seed + 3)};
	struct rig rig;
	struct m2_why why = {0};
	int32_t tokens[LENGTH];
	struct outcome chunked = outcome_create(&r.desc), recurrent = outcome_create(&r.desc);

	random_tokens(&rng, tokens, LENGTH, r.desc.vocab_rows);
	assert_int_equal(rig_open(&rig, &r, (struct rig_options){0}, &why), M2_OK);
	run(&rig, tokens, all, &chunked);
	rig.model->chunked = false;
	run(&rig, tokens, all, &recurrent);
	tolerance = TOLERANCE;
	compare("forms", &chunked, &recurrent);
	assert_memory_not_equal(chunked.logits, recurrent.logits, chunked.logits_n * sizeof(float));
	outcome_destroy(&chunked);
	outcome_destroy(&recurrent);
	rig_close(&rig);
}

/* A decay that overflows f32 in one token, and dt far above softplus's threshold. */
static enum m2_err extreme_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	const enum m2_err err = random_read(ctx, layer, which, first, count, dst, why);
	if (err != M2_OK || (which != M2_W_A_LOG && which != M2_W_DT_BIAS))
		return err;
	float *values = dst;
	for (size_t i = 0; i < count; i++)
		values[i] = which == M2_W_DT_BIAS ? ((first + i) % 2 ? 60.0f : -120.0f)
						  : ((first + i) % 4 < 2 ? 95.0f : -30.0f);
	return M2_OK;
}

static void extreme_decays_stay_finite(void **state)
{
	(void)state;
	static const int32_t all[] = {LENGTH};
	struct random_model r = {.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32};
	const struct m2_weight_source source = {&r, random_dtype, extreme_read};
	const struct m2_load_options load = {
		.state = M2_DTYPE_F32, .slots = 1, .max_tokens = LENGTH, .max_items = 1};
	const struct m2_device_options device = {.threads = 1};
	struct rng rng = {mix64(seed + 4)};
	struct m2_why why = {0};
	int32_t tokens[LENGTH];
	struct outcome o = outcome_create(&r.desc);
	struct rig rig = {.desc = r.desc, .slots = 1};

	random_tokens(&rng, tokens, LENGTH, r.desc.vocab_rows);
	assert_int_equal(m2_backend_find("cpu", &rig.backend, &why), M2_OK);
	assert_int_equal(rig.backend->open(&device, &rig.device, &why), M2_OK);
	assert_int_equal(
		rig.backend->load(rig.device, &r.desc, &source, &load, &rig.model, &why), M2_OK);
	run(&rig, tokens, all, &o);
	for (size_t i = 0; i < o.logits_n; i++)
		assert_true(isfinite(o.logits[i]));
	for (size_t i = 0; i < o.ssm_n; i++)
		assert_true(isfinite(o.ssm[i]));
	outcome_destroy(&o);
	rig_close(&rig);
}

/* ---- instruction sets ----------------------------------------------------------------------- */

static void isa_is_honoured_or_refused(const char *isa)
{
	const struct m2_backend *cpu = NULL;
	const struct m2_device_options options = {.threads = 1, .isa = isa};
	struct m2_device *device = NULL;
	struct m2_device_info info;
	struct m2_why why = {0};

	assert_int_equal(m2_backend_find("cpu", &cpu, &why), M2_OK);
	const enum m2_err err = cpu->open(&options, &device, &why);
	if (err == M2_EUNSUPPORTED) {
		assert_string_equal(why.field, "isa");
		print_message("this processor has no %s\n", isa);
		skip();
	}
	assert_int_equal(err, M2_OK);
	cpu->info(device, &info);
	assert_non_null(strstr(info.path, isa));
	assert_true(info.memory_total > 0 && info.memory_free <= info.memory_total);
	cpu->close(&device);
	assert_null(device);
}

static void avx2_runs_here(void **state)
{
	(void)state;
	isa_is_honoured_or_refused("avx2");
}

static void avx512_runs_here(void **state)
{
	(void)state;
	isa_is_honoured_or_refused("avx512");
}

static void portable_runs_everywhere(void **state)
{
	(void)state;
	isa_is_honoured_or_refused("portable");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(portable_runs_everywhere),
		cmocka_unit_test(avx2_runs_here),
		cmocka_unit_test(avx512_runs_here),
		cmocka_unit_test(the_plain_shape),
		cmocka_unit_test(the_published_head_and_state),
		cmocka_unit_test(the_grouped_shape_of_codestral),
		cmocka_unit_test(odd_sizes_with_three_groups),
		cmocka_unit_test(a_head_wider_than_the_widest_block),
		cmocka_unit_test(one_of_everything),
		cmocka_unit_test(a_convolution_of_one_tap_without_bias),
		cmocka_unit_test(an_mlp_inside_the_mixer_and_biases),
		cmocka_unit_test(no_gated_norm),
		cmocka_unit_test(norm_before_gate_and_a_clamped_dt),
		cmocka_unit_test(eight_bits_with_everything),
		cmocka_unit_test(eight_bits_do_not_depend_on_cuts_and_threads),
		cmocka_unit_test(shapes_drawn_at_random),
		cmocka_unit_test(recurrence_and_chunked_form_agree),
		cmocka_unit_test(extreme_decays_stay_finite),
	};
	seed = run_seed();
	const int failed = cmocka_run_group_tests(tests, NULL, NULL);
	(void)fprintf(stderr, "# largest relative error %.2e\n", worst);
	return failed;
}
