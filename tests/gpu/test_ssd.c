/* test_ssd.c - prompts on the CUDA backend: whole chunks, their heads and tails, several at once.
 *
 * Each case is a model of head_dim 64 and state_size 128 with 16-bit weights, which takes the chunked form
 * (kernels/cuda/ssd.cuh), and sequences that go through it side by side in steps cut anywhere.  Logits and
 * final states are held against the definition in double precision, with test_cuda.c's tolerances, or, for
 * a draw so ill-conditioned that the definition itself loses more in f32, with what it loses there times
 * the rounding of 16 bits over that of f32, or ILL times what noise of 16 bits on the matrices makes of the
 * definition.  Every buffer of the step is poisoned first.  What is cut at
 * multiples of 64 must have the very bits of what is not, whatever runs beside it.
 *
 * Without a device every test is skipped by name.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_kernels_model.h"

enum { SEQUENCES = 3, LONGEST = 64 * 5 + 37, MAX_TOKENS = SEQUENCES * LONGEST };

#define ILL 8.0 /* as in test_cuda.c */

static const int32_t lengths[SEQUENCES] = {LONGEST, 64 * 3 + 1, 64 * 2};

static uint64_t seed;
static double worst[M2_DTYPE_F64 + 1];

/* What a sequence left. */
struct outcome {
	float *logits; /* [LONGEST, V] */
	float *conv, *ssm;
	size_t n_logits, n_conv, n_ssm;
};

struct bench {
	struct rig rig;
	int32_t tokens[SEQUENCES][LONGEST];
	struct outcome got[SEQUENCES], want[SEQUENCES];
	double in_f32[SEQUENCES]; /* error of the definition in f32 */
	double by_noise
		[SEQUENCES]; /* distance of the definition from itself, with noise of 16 bits */
};

static float *floats(size_t n)
{
	float *p = calloc(n, sizeof(float));
	assert_non_null(p);
	return p;
}

static struct outcome outcome_create(const struct m2_model_desc *m, int32_t length)
{
	struct outcome o = {
		.n_logits = (size_t)length * (size_t)m->vocab_rows,
		.n_conv = (size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
			  (size_t)m2_desc_conv_channels(m),
		.n_ssm = (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size,
	};
	o.logits = floats(o.n_logits);
	o.conv = floats(o.n_conv);
	o.ssm = floats(o.n_ssm);
	return o;
}

static void outcome_destroy(struct outcome *o)
{
	free(o->logits);
	free(o->conv);
	free(o->ssm);
}

static struct m2_work work_of(struct bench *b, int32_t i, int32_t at, int32_t end)
{
	return (struct m2_work){.slot = i,
		.n_tokens = end - at,
		.position = at,
		.tokens = b->tokens[i] + at,
		.logits = b->got[i].logits + (size_t)at * (size_t)b->rig.desc.vocab_rows};
}

static void step(struct rig *rig, const struct m2_work *works, int32_t count)
{
	struct m2_why why = {.text = ""};
	if (rig->backend->poison != NULL)
		rig->backend->poison(rig->model);
	if (rig->backend->step(rig->model, works, count, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void export(struct bench *b, int32_t i)
{
	assert_int_equal(
		b->rig.backend->slot_export(b->rig.model, i, b->got[i].conv, b->got[i].ssm), M2_OK);
}

/* All sequences together, each cut at its own ends (ascending, ended by 0: the rest at once). */
static void run_together(struct bench *b, const int32_t (*ends)[8])
{
	int32_t at[SEQUENCES] = {0}, turn[SEQUENCES] = {0};
	for (int32_t i = 0; i < SEQUENCES; i++)
		assert_int_equal(b->rig.backend->slot_reset(b->rig.model, i), M2_OK);
	for (;;) {
		struct m2_work works[SEQUENCES];
		int32_t count = 0;
		for (int32_t i = 0; i < SEQUENCES; i++) {
			const int32_t given = ends[i][turn[i]];
			const int32_t end = given > 0 ? given : lengths[i];
			if (at[i] == lengths[i])
				continue;
			works[count++] = work_of(b, i, at[i], end);
			at[i] = end;
			turn[i]++;
		}
		if (count == 0)
			break;
		step(&b->rig, works, count);
	}
	for (int32_t i = 0; i < SEQUENCES; i++)
		export(b, i);
}

/* Sequence i by itself, a cut at multiple c of 64 if bit c of cuts is set. */
static void run_alone(struct bench *b, int32_t i, unsigned cuts)
{
	assert_int_equal(b->rig.backend->slot_reset(b->rig.model, i), M2_OK);
	for (int32_t at = 0, end; at < lengths[i]; at = end) {
		end = at - at % M2_CHUNK + M2_CHUNK;
		while (end < lengths[i] && (cuts >> (end / M2_CHUNK) & 1u) == 0)
			end += M2_CHUNK;
		end = end < lengths[i] ? end : lengths[i];
		const struct m2_work work = work_of(b, i, at, end);
		step(&b->rig, &work, 1);
	}
	export(b, i);
}

static double largest_error(const struct outcome *got, const struct outcome *want)
{
	return fmax(relative_error(got->logits, want->logits, want->n_logits),
		fmax(relative_error(got->conv, want->conv, want->n_conv),
			relative_error(got->ssm, want->ssm, want->n_ssm)));
}

static void define(
	struct bench *b, struct random_model *r, const char *backend, struct outcome *outcomes)
{
	struct m2_why why = {.text = ""};
	struct rig rig;
	const struct rig_options options = {.backend = backend, .slots = SEQUENCES};
	if (rig_open(&rig, r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
	for (int32_t i = 0; i < SEQUENCES; i++) {
		struct outcome *o = &outcomes[i];
		const struct m2_work work = {.slot = i,
			.n_tokens = lengths[i],
			.tokens = b->tokens[i],
			.logits = o->logits};
		step(&rig, &work, 1);
		assert_int_equal(rig.backend->slot_export(rig.model, i, o->conv, o->ssm), M2_OK);
	}
	rig_close(&rig);
}

static void bench_open(struct bench *b, struct random_model *r)
{
	struct m2_why why = {.text = ""};
	struct rng rng = {mix64(seed + 1)};
	const struct rig_options options = {
		.backend = "cuda", .slots = SEQUENCES, .max_tokens = MAX_TOKENS};
	if (m2_model_desc_check(&r->desc, &why) != M2_OK ||
		rig_open(&b->rig, r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
	for (int32_t i = 0; i < SEQUENCES; i++) {
		random_tokens(&rng, b->tokens[i], lengths[i], r->desc.vocab_rows);
		b->got[i] = outcome_create(&r->desc, lengths[i]);
		b->want[i] = outcome_create(&r->desc, lengths[i]);
	}
}

static void bench_close(struct bench *b)
{
	for (int32_t i = 0; i < SEQUENCES; i++) {
		outcome_destroy(&b->got[i]);
		outcome_destroy(&b->want[i]);
	}
	rig_close(&b->rig);
}

static void check_errors(const struct bench *b, enum m2_dtype type, const char *what)
{
	const bool bf16 = type == M2_DTYPE_BF16;
	for (int32_t i = 0; i < SEQUENCES; i++) {
		const struct outcome *g = &b->got[i], *w = &b->want[i];
		const double error = largest_error(g, w);
		const double allowed = fmax(fmax(bf16 ? 2e-2 : 3e-3, ILL * b->by_noise[i]),
			b->in_f32[i] * (bf16 ? 0x1p16 : 0x1p13));
		worst[type] = fmax(worst[type], error);
		if (!(error <= allowed))
			fail_msg("%s, %s, sequence %d: logits %.2e, conv %.2e, ssm %.2e, allowed "
				 "%.2e",
				what, m2_dtype_name(type), (int)i,
				relative_error(g->logits, w->logits, w->n_logits),
				relative_error(g->conv, w->conv, w->n_conv),
				relative_error(g->ssm, w->ssm, w->n_ssm), allowed);
	}
}

/* Cuts of the three sequences: none; chunks, then a tail; heads, tails and single tokens anywhere. */
static const int32_t plans[][SEQUENCES][8] = {
	{{0}, {0}, {0}},
	{{64, 256, 0}, {128, 192, 0}, {64, 0}},
	{{1, 130, 131, 300, 0}, {63, 191, 0}, {2, 127, 0}},
};

static void check_shape(struct m2_model_desc desc, const char *what)
{
	static const enum m2_dtype types[] = {M2_DTYPE_F16, M2_DTYPE_BF16};
	for (int i = 0; i < 2; i++) {
		struct random_model r = {.desc = desc, .seed = seed, .matrices = types[i]};
		struct bench b = {.rig = {.slots = 0}};
		bench_open(&b, &r);
		define(&b, &r, "ref", b.got);
		define(&b, &r, "ref64", b.want);
		for (int32_t k = 0; k < SEQUENCES; k++)
			b.in_f32[k] = largest_error(&b.got[k], &b.want[k]);
		struct random_model noisy = r;
		noisy.noise = types[i] == M2_DTYPE_BF16 ? 0x1p-9f : 0x1p-12f;
		define(&b, &noisy, "ref64", b.got);
		for (int32_t k = 0; k < SEQUENCES; k++)
			b.by_noise[k] = largest_error(&b.got[k], &b.want[k]);
		for (size_t p = 0; p < sizeof plans / sizeof plans[0]; p++) {
			run_together(&b, plans[p]);
			check_errors(&b, types[i], what);
		}
		bench_close(&b);
	}
}

static struct m2_model_desc shape_of(int32_t heads, int32_t groups)
{
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 96;
	m.n_heads = heads;
	m.head_dim = 64;
	m.state_size = 128;
	m.n_groups = groups;
	m.vocab_rows = 97;
	return m;
}

static void one_group(void **state)
{
	(void)state;
	check_shape(shape_of(3, 1), "three heads, one group");
}

static void two_groups_and_a_norm_for_each(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(8, 2);
	m.norm_groups = 2;
	m.d_per_channel = true;
	check_shape(m, "eight heads, two groups");
}

static void eight_groups(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(16, 8);
	m.norm_groups = 8;
	m.n_layers = 1;
	check_shape(m, "sixteen heads, eight groups");
}

static void other_numbers_of_taps(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(2, 1);
	m.conv_kernel = 3;
	check_shape(m, "three taps");
	m.conv_kernel = 1;
	m.conv_bias = false;
	check_shape(m, "one tap");
}

/* dt of 4 and more, A to -16: what is a token back is gone, and must not come back as a NaN. */
static void steps_that_forget_everything(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(4, 1);
	m.dt_min = 4.0f;
	check_shape(m, "large steps");
	m.dt_min = 40.0f;
	check_shape(m, "huge steps");
}

static void steps_that_forget_nothing(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(4, 1);
	m.dt_max = 1e-4f;
	check_shape(m, "tiny steps");
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
	assert_memory_equal(a->logits, b->logits, a->n_logits * sizeof(float));
	assert_memory_equal(a->conv, b->conv, a->n_conv * sizeof(float));
	assert_memory_equal(a->ssm, b->ssm, a->n_ssm * sizeof(float));
}

/* How many heads a block of the outputs takes, and which form the walk over states has (ssd_states.cu),
 * depends on heads and company: on 132 processors 24 heads walk in one form alone and in another three
 * together, 40 heads in two others. */
static void a_cut_at_a_multiple_of_64_or_company_changes_no_bit(void **state)
{
	(void)state;
	static const struct {
		int32_t heads, groups;
		unsigned cuts; /* every how many of the ways to cut */
	} shapes[] = {{8, 1, 2}, {8, 2, 2}, {24, 1, 22}, {40, 1, 22}};
	for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
		struct random_model r = {.desc = shape_of(shapes[k].heads, shapes[k].groups),
			.seed = seed,
			.matrices = M2_DTYPE_BF16};
		struct bench b = {.rig = {.slots = 0}};
		bench_open(&b, &r);
		run_together(&b, plans[0]);
		for (int32_t i = 0; i < SEQUENCES; i++) {
			const struct outcome together = b.got[i];
			b.got[i] = outcome_create(&r.desc, lengths[i]);
			for (unsigned cuts = 0; cuts < 64; cuts += shapes[k].cuts) {
				memset(b.got[i].logits, 0xff, b.got[i].n_logits * sizeof(float));
				run_alone(&b, i, cuts);
				assert_same(&b.got[i], &together);
			}
			outcome_destroy(&b.got[i]);
			b.got[i] = together;
		}
		bench_close(&b);
	}
}

static bool is_there(void)
{
	const struct m2_backend *backend = NULL;
	struct m2_device *device = NULL;
	struct m2_why why = {.text = ""};
	const struct m2_device_options options = {.ordinal = 0};
	enum m2_err err = m2_backend_find("cuda", &backend, &why);
	if (err == M2_OK)
		err = backend->open(&options, &device, &why);
	if (err == M2_OK)
		backend->close(&device);
	else
		print_message("no CUDA device: %s\n", why.text);
	return err == M2_OK;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_group),
		cmocka_unit_test(two_groups_and_a_norm_for_each),
		cmocka_unit_test(eight_groups),
		cmocka_unit_test(other_numbers_of_taps),
		cmocka_unit_test(steps_that_forget_everything),
		cmocka_unit_test(steps_that_forget_nothing),
		cmocka_unit_test(a_cut_at_a_multiple_of_64_or_company_changes_no_bit),
	};
	seed = run_seed();
	if (!is_there()) {
		for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
			(void)printf("ok %zu # SKIP %s: no CUDA device\n", i + 1, tests[i].name);
		(void)printf("1..%zu\n", sizeof tests / sizeof tests[0]);
		return 0;
	}
	const int failed = cmocka_run_group_tests(tests, NULL, NULL);
	(void)fprintf(stderr, "# largest relative errors: f16 %.2e, bf16 %.2e\n",
		worst[M2_DTYPE_F16], worst[M2_DTYPE_BF16]);
	return failed;
}
