/* test_replay.c - single tokens on the CUDA backend: the window of 16 tokens that a slot holds.
 *
 * A tuned model (kernels/cuda/replay.cuh) writes its state every sixteenth token and replays the tokens
 * since, so everything here happens at every place of a window: the state that is exported, cuts, saved and
 * copied slots, company whose windows stand elsewhere.  Bits are compared with memcmp.  Logits and states
 * are held against the definition in double precision, with test_ssd.c's tolerances; and where dt is
 * clamped to one number, the state against the recurrence in double precision over the very columns that
 * went into it, with that of f32.  Every buffer of the step is poisoned first.
 *
 * Without a device every test is skipped by name.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_kernels_model.h"

enum {
	WINDOW = 16,
	LONG = 300,
	LENGTH = 2 * M2_CHUNK - 1,
	SLOTS = 34,
	P = 64,
	N = 128,
};

static uint64_t seed;
static double worst_in_f32, worst[M2_DTYPE_F64 + 1];

static struct m2_model_desc shape_of(int32_t heads, int32_t groups)
{
	struct m2_model_desc m = plain_desc();
	m.hidden_size = 48;
	m.n_heads = heads;
	m.head_dim = P;
	m.state_size = N;
	m.n_groups = groups;
	m.norm_groups = heads % 8 == 0 ? groups : 1;
	m.vocab_rows = 61;
	return m;
}

static size_t conv_floats(const struct m2_model_desc *m)
{
	return (size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
	       (size_t)m2_desc_conv_channels(m);
}
static size_t ssm_floats(const struct m2_model_desc *m)
{
	return (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size;
}

static void *taken(size_t n, size_t size)
{
	void *p = calloc(n + 1, size);
	assert_non_null(p);
	return p;
}

static void open_rig(struct rig *rig, struct random_model *r, const char *backend, int32_t slots)
{
	struct m2_why why = {.text = ""};
	const struct rig_options options = {.backend = backend, .slots = slots};
	if (m2_model_desc_check(&r->desc, &why) != M2_OK ||
		rig_open(rig, r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void step(struct rig *rig, const struct m2_work *works, int32_t count)
{
	struct m2_why why = {.text = ""};
	if (rig->backend->poison != NULL)
		rig->backend->poison(rig->model);
	if (rig->backend->step(rig->model, works, count, &why) != M2_OK)
		fail_msg("%s", why.text);
}

/* Tokens [at, end) in a slot; logits [LENGTH or LONG][V]. */
static struct m2_work span_of(const struct rig *rig, int32_t slot, const int32_t *tokens,
	int32_t at, int32_t end, float *logits)
{
	return (struct m2_work){.slot = slot,
		.n_tokens = end - at,
		.position = at,
		.tokens = tokens + at,
		.logits = logits + (size_t)at * (size_t)rig->desc.vocab_rows};
}

static void run_span(struct rig *rig, int32_t slot, const int32_t *tokens, int32_t at, int32_t end,
	float *logits)
{
	const struct m2_work work = span_of(rig, slot, tokens, at, end, logits);
	step(rig, &work, 1);
}

static void run_singles(struct rig *rig, int32_t slot, const int32_t *tokens, int32_t at,
	int32_t end, float *logits)
{
	for (; at < end; at++)
		run_span(rig, slot, tokens, at, at + 1, logits);
}

static void reset(struct rig *rig, int32_t slot)
{
	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
}

static unsigned char *saved(struct rig *rig, int32_t slot)
{
	unsigned char *bytes = taken(rig->footprint.per_slot, 1);
	assert_int_equal(rig->backend->slot_save(rig->model, slot, bytes), M2_OK);
	return bytes;
}

/* ---- against the definition ------------------------------------------------------------------ */

/* Of every token of a sequence that goes token by token: its logits, and the slot behind it. */
struct course {
	float *logits, *conv, *ssm; /* [n][...] */
	size_t n_logits, n_conv, n_ssm;
};

static struct course course_create(const struct m2_model_desc *m, int32_t n)
{
	struct course c = {.n_logits = (size_t)m->vocab_rows,
		.n_conv = conv_floats(m),
		.n_ssm = ssm_floats(m)};
	c.logits = taken((size_t)n * c.n_logits, sizeof(float));
	c.conv = taken((size_t)n * c.n_conv, sizeof(float));
	c.ssm = taken((size_t)n * c.n_ssm, sizeof(float));
	return c;
}

static void course_destroy(struct course *c)
{
	free(c->logits);
	free(c->conv);
	free(c->ssm);
}

static void run_course(struct random_model *r, const char *backend, const int32_t *tokens,
	int32_t n, struct course *c)
{
	struct rig rig;
	open_rig(&rig, r, backend, 1);
	for (int32_t t = 0; t < n; t++) {
		run_span(&rig, 0, tokens, t, t + 1, c->logits);
		assert_int_equal(
			rig.backend->slot_export(rig.model, 0, c->conv + (size_t)t * c->n_conv,
				c->ssm + (size_t)t * c->n_ssm),
			M2_OK);
	}
	rig_close(&rig);
}

/* The largest over all tokens. */
static double largest_error(const struct course *a, const struct course *b, int32_t n)
{
	double error = relative_error(a->logits, b->logits, (size_t)n * a->n_logits);
	for (size_t t = 0; t < (size_t)n; t++) {
		error = fmax(error, relative_error(a->conv + t * a->n_conv, b->conv + t * a->n_conv,
					    a->n_conv));
		error = fmax(error,
			relative_error(a->ssm + t * a->n_ssm, b->ssm + t * a->n_ssm, a->n_ssm));
	}
	return error;
}

static void check_course(struct m2_model_desc desc, enum m2_dtype type, int32_t n, const char *what)
{
	struct random_model r = {.desc = desc, .seed = seed, .matrices = type};
	struct rng rng = {mix64(seed + 1)};
	const bool bf16 = type == M2_DTYPE_BF16;
	int32_t tokens[LONG];
	random_tokens(&rng, tokens, n, desc.vocab_rows);
	struct course got = course_create(&desc, n), want = course_create(&desc, n);
	run_course(&r, "ref", tokens, n, &got);
	run_course(&r, "ref64", tokens, n, &want);
	const double in_f32 = largest_error(&got, &want, n);
	run_course(&r, "cuda", tokens, n, &got);
	const double error = largest_error(&got, &want, n);
	const double allowed = fmax(bf16 ? 2e-2 : 3e-3, in_f32 * (bf16 ? 0x1p15 : 0x1p12));
	worst[type] = fmax(worst[type], error);
	if (!(error <= allowed))
		fail_msg("%s, %s: %.2e, allowed %.2e", what, m2_dtype_name(type), error, allowed);
	course_destroy(&got);
	course_destroy(&want);
}

static void after_every_token_logits_and_state_are_the_definitions(void **state)
{
	(void)state;
	check_course(shape_of(3, 1), M2_DTYPE_BF16, 3 * WINDOW + 5, "one group");
	check_course(shape_of(3, 1), M2_DTYPE_F16, 3 * WINDOW + 5, "one group");
	check_course(shape_of(8, 2), M2_DTYPE_F16, 2 * WINDOW + 5, "two groups");
	struct m2_model_desc m = shape_of(2, 1);
	m.conv_kernel = 3;
	m.d_per_channel = true;
	check_course(m, M2_DTYPE_F16, WINDOW + 5, "three taps");
}

static void after_hundreds_of_tokens_they_still_are(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(2, 1);
	m.n_layers = 1;
	check_course(m, M2_DTYPE_F16, LONG, "long");
}

/* What is a token back is gone, or nothing ever is: no weight becomes a NaN. */
static void steps_that_forget_everything_or_nothing(void **state)
{
	(void)state;
	struct m2_model_desc m = shape_of(2, 1);
	m.dt_min = 40.0f;
	check_course(m, M2_DTYPE_BF16, 2 * WINDOW + 1, "huge steps");
	m.dt_min = 0.0f;
	m.dt_max = 1e-4f;
	check_course(m, M2_DTYPE_BF16, 2 * WINDOW + 1, "tiny steps");
}

/* ---- against the recurrence over the columns that went in ------------------------------------ */

static void read_weight(struct random_model *r, enum m2_weight which, float *to)
{
	const struct m2_weight_source source = random_source(r);
	struct m2_why why = {.text = ""};
	assert_int_equal(
		source.read(source.ctx, 0, which, 0, m2_weight_elements(&r->desc, which), to, &why),
		M2_OK);
}

/* One token: h of head h0, from the raw columns of this token and those before, K - 1 of each export. */
static void recur(const struct m2_model_desc *m, const float *const *columns, const float *conv,
	const float *bias, const float *a_log, double dt, double *ssm)
{
	const int32_t channels = m2_desc_conv_channels(m), ds = m2_desc_d_ssm(m);
	double *passed = taken((size_t)channels, sizeof(double));
	for (int32_t c = 0; c < channels; c++) {
		double sum = bias[c];
		for (int32_t j = 0; j < m->conv_kernel; j++)
			sum += columns[j] == NULL ? 0.0
						  : (double)conv[c * m->conv_kernel + j] *
							    (double)columns[j][c];
		passed[c] = sum / (1.0 + exp(-sum));
	}
	for (int32_t i = 0; i < ds; i++) {
		const int32_t h = i / P, group = h / (m->n_heads / m->n_groups);
		const double decay = exp(-exp((double)a_log[h]) * dt);
		for (int32_t n = 0; n < N; n++)
			ssm[i * N + n] = decay * ssm[i * N + n] +
					 dt * passed[i] * passed[ds + group * N + n];
	}
	free(passed);
}

static void check_recurrence(float dt)
{
	struct m2_model_desc m = shape_of(4, 2);
	m.n_layers = 1;
	m.dt_min = m.dt_max = dt;
	struct random_model r = {.desc = m, .seed = seed, .matrices = M2_DTYPE_BF16};
	struct rng rng = {mix64(seed + 2)};
	const size_t channels = (size_t)m2_desc_conv_channels(&m);
	int32_t tokens[LONG];
	random_tokens(&rng, tokens, LONG, m.vocab_rows);
	float *conv = taken(channels * (size_t)m.conv_kernel, sizeof(float));
	float *bias = taken(channels, sizeof(float));
	float *a_log = taken((size_t)m.n_heads, sizeof(float));
	double *ssm = taken(ssm_floats(&m), sizeof(double));
	float *want = taken(ssm_floats(&m), sizeof(float));
	struct course got = course_create(&m, LONG);
	read_weight(&r, M2_W_CONV, conv);
	read_weight(&r, M2_W_CONV_BIAS, bias);
	read_weight(&r, M2_W_A_LOG, a_log);
	run_course(&r, "cuda", tokens, LONG, &got);
	for (int32_t t = 0; t < LONG; t++) {
		const float *columns[4]; /* the newest column of each of the last exports */
		for (int32_t j = 0; j < m.conv_kernel; j++) {
			const int32_t at = t - (m.conv_kernel - 1) + j;
			columns[j] = at < 0 ? NULL
					    : got.conv + (size_t)at * got.n_conv +
						      (size_t)(m.conv_kernel - 2) * channels;
		}
		recur(&m, columns, conv, bias, a_log, (double)dt, ssm);
		for (size_t i = 0; i < got.n_ssm; i++)
			want[i] = (float)ssm[i];
		const double error =
			relative_error(got.ssm + (size_t)t * got.n_ssm, want, got.n_ssm);
		worst_in_f32 = fmax(worst_in_f32, error);
		if (!(error <= 2e-5))
			fail_msg("dt %g, token %d: %.2e", (double)dt, (int)t, error);
	}
	course_destroy(&got);
	free(conv);
	free(bias);
	free(a_log);
	free(ssm);
	free(want);
}

static void the_state_is_the_recurrence_of_what_went_in_to_the_precision_of_f32(void **state)
{
	(void)state;
	check_recurrence(0.003f);
	check_recurrence(0.1f);
	check_recurrence(2.5f);
}

/* ---- bits ------------------------------------------------------------------------------------ */

/* A sequence of a whole chunk and single tokens behind it, in slot 0; slots of what is compared. */
struct bench {
	struct random_model model;
	struct rig rig;
	int32_t tokens[LENGTH];
	float *logits; /* [LENGTH][V] */
	unsigned char *end;
	float *ssm;
	float *other; /* logits of what is compared */
};

static size_t logits_bytes(const struct bench *b)
{
	return (size_t)LENGTH * (size_t)b->rig.desc.vocab_rows * sizeof(float);
}

static void bench_open(struct bench *b, int32_t groups)
{
	struct rng rng = {mix64(seed + 3)};
	*b = (struct bench){.model = {.desc = shape_of(groups == 1 ? 3 : 8, groups),
				    .seed = seed,
				    .matrices = M2_DTYPE_BF16}};
	open_rig(&b->rig, &b->model, "cuda", SLOTS);
	random_tokens(&rng, b->tokens, LENGTH, b->rig.desc.vocab_rows);
	b->logits = taken(logits_bytes(b), 1);
	b->other = taken(logits_bytes(b), 1);
	b->ssm = taken(ssm_floats(&b->rig.desc), sizeof(float));
	reset(&b->rig, 0);
	run_span(&b->rig, 0, b->tokens, 0, M2_CHUNK, b->logits);
	run_singles(&b->rig, 0, b->tokens, M2_CHUNK, LENGTH, b->logits);
	b->end = saved(&b->rig, 0);
}

static void bench_close(struct bench *b)
{
	free(b->logits);
	free(b->other);
	free(b->ssm);
	free(b->end);
	rig_close(&b->rig);
}

/* The slot, and the logits from a token on, are those of the uncut run. */
static void assert_same(struct bench *b, int32_t slot, int32_t from)
{
	const size_t first = (size_t)from * (size_t)b->rig.desc.vocab_rows * sizeof(float);
	unsigned char *bytes = saved(&b->rig, slot);
	assert_memory_equal((const char *)b->other + first, (const char *)b->logits + first,
		logits_bytes(b) - first);
	assert_memory_equal(bytes, b->end, b->rig.footprint.per_slot);
	free(bytes);
}

/* The first chunk whole; what is behind it in spans that begin and end anywhere in their windows. */
static void spans_cut_anywhere_behind_whole_chunks_are_single_tokens(void **state)
{
	(void)state;
	for (int32_t groups = 1; groups <= 2; groups++) {
		struct bench b;
		struct rng rng = {mix64(seed + 4)};
		bench_open(&b, groups);
		for (int round = 0; round < 12; round++) {
			memset(b.other, 0xff, logits_bytes(&b));
			reset(&b.rig, 1);
			int32_t at = 0;
			int32_t end = round % 2 == 0 ? M2_CHUNK + round : M2_CHUNK;
			if (round == 1)
				end = LENGTH; /* a chunk and its tail at once */
			while (at < LENGTH) {
				run_span(&b.rig, 1, b.tokens, at, end, b.other);
				at = end;
				end += 1 + (int32_t)rng_below(&rng, round < 6 ? 40 : 7);
				end = end < LENGTH ? end : LENGTH;
			}
			assert_same(&b, 1, 0);
		}
		bench_close(&b);
	}
}

/* At each place of two windows: saved and restored elsewhere, and copied, both over a slot that another
 * sequence has left full; they go on alike, one token by token, one in a span. */
static void a_slot_saved_or_copied_at_any_place_goes_on_with_the_same_bits(void **state)
{
	(void)state;
	struct bench b;
	bench_open(&b, 1);
	for (int32_t at = M2_CHUNK; at < M2_CHUNK + 2 * WINDOW; at++) {
		memset(b.other, 0xff, logits_bytes(&b));
		for (int32_t slot = 2; slot <= 3; slot++) {
			reset(&b.rig, slot);
			run_singles(&b.rig, slot, b.tokens + 1, 0, WINDOW + 15, b.other);
		}
		reset(&b.rig, 1);
		run_span(&b.rig, 1, b.tokens, 0, at, b.other);
		unsigned char *bytes = saved(&b.rig, 1);
		assert_int_equal(b.rig.backend->slot_copy(b.rig.model, 2, 1), M2_OK);
		reset(&b.rig, 1);
		assert_int_equal(b.rig.backend->slot_restore(b.rig.model, 3, bytes), M2_OK);
		free(bytes);
		run_singles(&b.rig, 2, b.tokens, at, LENGTH, b.other);
		assert_same(&b, 2, at);
		memset(b.other, 0xff, logits_bytes(&b));
		run_span(&b.rig, 3, b.tokens, at, LENGTH, b.other);
		assert_same(&b, 3, at);
	}
	bench_close(&b);
}

/* An export is a look: what it sees at each place does not change what comes after. */
static void an_export_changes_nothing(void **state)
{
	(void)state;
	struct bench b;
	bench_open(&b, 1);
	reset(&b.rig, 1);
	run_span(&b.rig, 1, b.tokens, 0, M2_CHUNK, b.other);
	for (int32_t at = M2_CHUNK; at < LENGTH; at++) {
		run_span(&b.rig, 1, b.tokens, at, at + 1, b.other);
		assert_int_equal(b.rig.backend->slot_export(b.rig.model, 1, NULL, b.ssm), M2_OK);
	}
	assert_same(&b, 1, 0);
	bench_close(&b);
}

/* Others whose windows stand elsewhere; in each step some stay out, and are not touched. */
static void step_among_others(struct bench *b, struct rng *rng, int32_t at, int32_t *others_at)
{
	struct m2_work works[SLOTS];
	unsigned char *before[SLOTS] = {NULL};
	float *unread = taken((size_t)b->rig.desc.vocab_rows, sizeof(float) * SLOTS);
	const int32_t own = (int32_t)rng_below(rng, SLOTS);
	int32_t count = 0;
	for (int32_t i = 0; i < SLOTS; i++) {
		const int32_t slot = (own + i) % SLOTS;
		if (slot == 0) {
			works[count++] = span_of(&b->rig, 0, b->tokens, at, at + 1, b->other);
			continue;
		}
		if (others_at[slot] == LENGTH || (slot % 8 == 0 && rng_below(rng, 2) == 0)) {
			before[slot] = saved(&b->rig, slot);
			continue;
		}
		works[count++] = (struct m2_work){.slot = slot,
			.n_tokens = 1,
			.position = others_at[slot],
			.tokens = b->tokens + others_at[slot],
			.logits = unread + (size_t)slot * (size_t)b->rig.desc.vocab_rows};
		others_at[slot]++;
	}
	step(&b->rig, works, count);
	for (int32_t slot = 0; slot < SLOTS; slot++) {
		if (before[slot] == NULL)
			continue;
		unsigned char *after = saved(&b->rig, slot);
		assert_memory_equal(after, before[slot], b->rig.footprint.per_slot);
		free(after);
		free(before[slot]);
	}
	free(unread);
}

static void alone_or_among_thirty_three_others_is_the_same(void **state)
{
	(void)state;
	for (int32_t groups = 1; groups <= 2; groups++) {
		struct bench b;
		struct rng rng = {mix64(seed + 5)};
		int32_t others_at[SLOTS];
		bench_open(&b, groups);
		for (int32_t slot = 1; slot < SLOTS; slot++) {
			others_at[slot] = 1 + (int32_t)rng_below(&rng, 2 * WINDOW);
			reset(&b.rig, slot);
			run_span(&b.rig, slot, b.tokens, 0, others_at[slot], b.other);
		}
		reset(&b.rig, 0);
		run_span(&b.rig, 0, b.tokens, 0, M2_CHUNK, b.other);
		for (int32_t at = M2_CHUNK; at < LENGTH; at++)
			step_among_others(&b, &rng, at, others_at);
		assert_same(&b, 0, 0);
		bench_close(&b);
	}
}

/* What a plan promises does not depend on whether the weights are read yet. */
static void a_load_takes_what_its_plan_says(void **state)
{
	static const enum m2_dtype types[] = {M2_DTYPE_F32, M2_DTYPE_F16, M2_DTYPE_BF16};
	(void)state;
	uint64_t plain = 0;
	for (int i = 0; i < 3; i++) {
		struct random_model r = {
			.desc = shape_of(2, 1), .seed = seed, .matrices = types[i]};
		struct rig rig;
		open_rig(&rig, &r, "cuda", 2);
		unsigned char *bytes = taken(rig.footprint.per_slot, 1);
		memset(bytes, 0xa5, rig.footprint.per_slot + 1);
		assert_int_equal(rig.backend->slot_save(rig.model, 1, bytes), M2_OK);
		assert_int_equal(bytes[rig.footprint.per_slot - 1], 0); /* of the position */
		assert_int_equal(bytes[rig.footprint.per_slot], 0xa5);
		free(bytes);
		plain = i == 0 ? rig.footprint.per_slot : plain;
		assert_true(i == 0 || rig.footprint.per_slot > plain);
		rig_close(&rig);
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
		cmocka_unit_test(after_every_token_logits_and_state_are_the_definitions),
		cmocka_unit_test(after_hundreds_of_tokens_they_still_are),
		cmocka_unit_test(steps_that_forget_everything_or_nothing),
		cmocka_unit_test(
			the_state_is_the_recurrence_of_what_went_in_to_the_precision_of_f32),
		cmocka_unit_test(spans_cut_anywhere_behind_whole_chunks_are_single_tokens),
		cmocka_unit_test(a_slot_saved_or_copied_at_any_place_goes_on_with_the_same_bits),
		cmocka_unit_test(an_export_changes_nothing),
		cmocka_unit_test(alone_or_among_thirty_three_others_is_the_same),
		cmocka_unit_test(a_load_takes_what_its_plan_says),
	};
	seed = run_seed();
	if (!is_there()) {
		for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
			(void)printf("ok %zu # SKIP %s: no CUDA device\n", i + 1, tests[i].name);
		(void)printf("1..%zu\n", sizeof tests / sizeof tests[0]);
		return 0;
	}
	const int failed = cmocka_run_group_tests(tests, NULL, NULL);
	(void)fprintf(stderr, "# largest relative errors: f32 %.2e, f16 %.2e, bf16 %.2e\n",
		worst_in_f32, worst[M2_DTYPE_F16], worst[M2_DTYPE_BF16]);
	return failed;
}
