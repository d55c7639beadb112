/* test_cases.c - every backend against every stored case.
 *
 * Logits at every stored position, the greedy continuation and the final states must be those of the
 * float64 reference, with weights f32 and with weights as stored, however the prompt is cut.  A backend
 * that this build or this machine cannot give is skipped by name.
 */
#include "tests/conformance/cases.h"

static const int32_t spans[] = {0 /* all at once */, 1, 7, 64, 256};
/* With weights as stored one cut will do: the prompt is one span and the greedy continuation single
 * tokens, which are the two ways in which a weight is read. */
#ifdef __SANITIZE_THREAD__ /* which looks at threads, slowly, and not at numbers */
enum { N_SPANS = 2, N_SPANS_STORED = 1 };
#else
enum { N_SPANS = sizeof spans / sizeof *spans, N_SPANS_STORED = 1 };
#endif

/* One model on one backend. */
struct bench {
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_model *model;
	double tolerance;
};

static void must(enum m2_err err, const struct m2_why *why, const struct case_data *c)
{
	if (err != M2_OK)
		fail_msg("%s: %s", c->words, why->text);
}

static void load(struct bench *b, struct case_data *c, enum m2_dtype weights)
{
	struct m2_why why = {.text = ""};
	const struct m2_weight_source source = m2_checkpoint_source(c->checkpoint);
	const struct m2_load_options options = {.weights = weights,
		.state = M2_DTYPE_F32,
		.slots = 1,
		.max_tokens = c->n_tokens,
		.max_items = 1};
	must(b->backend->load(b->device, c->desc, &source, &options, &b->model, &why), &why, c);
}

static void step(struct bench *b, const struct case_data *c, int32_t position,
	const int32_t *tokens, int32_t n, float *logits)
{
	struct m2_why why = {.text = ""};
	const struct m2_work work = {.slot = 0,
		.n_tokens = n,
		.position = position,
		.tokens = tokens,
		.logits_first = 0,
		.logits = logits};
	must(b->backend->step(b->model, &work, 1, &why), &why, c);
}

/* Distance of the stored rows: all together, and the worst single one. */
static void compare_logits(
	const struct case_data *c, const float *logits, double *overall, double *worst_row)
{
	const size_t v = (size_t)c->desc->vocab_rows;
	float *rows = malloc((size_t)c->n_rows * v * sizeof *rows);
	assert_non_null(rows);
	*worst_row = 0.0;
	for (int32_t i = 0; i < c->n_rows; i++) {
		memcpy(rows + (size_t)i * v, logits + (size_t)c->positions[i] * v,
			v * sizeof *rows);
		const double row = relative_l2(rows + (size_t)i * v, c->logits + (size_t)i * v, v);
		*worst_row = row > *worst_row ? row : *worst_row;
	}
	*overall = relative_l2(rows, c->logits, (size_t)c->n_rows * v);
	free(rows);
}

static void compare_states(
	struct bench *b, const struct case_data *c, double *ssm_distance, double *conv_distance)
{
	const size_t n_ssm = case_ssm_size(c->desc);
	const size_t n_conv = case_conv_size(c->desc);
	float *ssm = malloc(n_ssm * sizeof *ssm);
	float *conv = malloc((n_conv + 1) * sizeof *conv);
	float *wanted = case_wanted_conv(c);
	assert_true(ssm != NULL && conv != NULL);
	assert_int_equal(b->backend->slot_export(b->model, 0, conv, ssm), M2_OK);
	*ssm_distance = relative_l2(ssm, c->ssm, n_ssm);
	*conv_distance = relative_l2(conv, wanted, n_conv);
	free(ssm);
	free(conv);
	free(wanted);
}

/* logits: the row after the prompt, overwritten. */
static void expect_greedy(struct bench *b, const struct case_data *c, float *logits)
{
	for (int32_t i = 0; i < c->n_greedy; i++) {
		const int32_t token = case_argmax(logits, c->desc->vocab_rows);
		if (token != c->greedy[i])
			fail_msg("%s: greedy token %d is %d, %d expected", c->words, i, token,
				c->greedy[i]);
		if (i + 1 < c->n_greedy)
			step(b, c, c->n_tokens + i, &token, 1, logits);
	}
}

/* Largest distances over the spans of one case. */
struct distances {
	double logits, row, ssm, conv;
};

static void keep_larger(double *kept, double value)
{
	if (!(value <= *kept)) /* a NaN is kept */
		*kept = value;
}

static void run_span(struct bench *b, const struct case_data *c, int32_t span, float *logits,
	struct distances *worst)
{
	const size_t v = (size_t)c->desc->vocab_rows;
	const int32_t length = span == 0 ? c->n_tokens : span;
	double overall;
	double row;
	double ssm;
	double conv;
	assert_int_equal(b->backend->slot_reset(b->model, 0), M2_OK);
	for (int32_t at = 0; at < c->n_tokens; at += length) {
		const int32_t n = at + length <= c->n_tokens ? length : c->n_tokens - at;
		step(b, c, at, c->tokens + at, n, logits + (size_t)at * v);
	}
	compare_logits(c, logits, &overall, &row);
	compare_states(b, c, &ssm, &conv);
	if (!(overall < b->tolerance && row < b->tolerance && ssm < b->tolerance &&
		    conv < b->tolerance))
		fail_msg("%s, %s, spans of %d: logits %.1e (worst row %.1e), ssm %.1e, conv %.1e",
			b->backend->name, c->words, (int)length, overall, row, ssm, conv);
	keep_larger(&worst->logits, overall);
	keep_larger(&worst->row, row);
	keep_larger(&worst->ssm, ssm);
	keep_larger(&worst->conv, conv);
	if (b->tolerance <= CASE_TOLERANCE) /* else two near ones may change places */
		expect_greedy(b, c, logits + (size_t)(c->n_tokens - 1) * v);
}

/* The cuda backend rounds the input of a product to the type of the weights, if that has 16 bits: half a
 * unit in the last place (2^-9 or 2^-12 of a number), twice a layer and once for the head. */
static double tolerance_of(
	const struct m2_backend *backend, const struct case_data *c, enum m2_dtype weights)
{
	if (strcmp(backend->name, "cuda") != 0 || weights == M2_DTYPE_F32)
		return CASE_TOLERANCE;
	const struct m2_weight_source source = m2_checkpoint_source(c->checkpoint);
	switch (source.dtype(source.ctx, 0, M2_W_IN_PROJ)) {
	case M2_DTYPE_BF16:
		return 2e-2;
	case M2_DTYPE_F16:
		return 3e-3;
	default:
		return CASE_TOLERANCE;
	}
}

static void run_case(const struct m2_backend *backend, const char *isa, struct case_data *c,
	enum m2_dtype weights, size_t n_spans)
{
	struct bench b = {.backend = backend, .tolerance = tolerance_of(backend, c, weights)};
	struct m2_why why = {.text = ""};
	const struct m2_device_options options = {.threads = 2, .isa = isa};
	must(backend->open(&options, &b.device, &why), &why, c);
	load(&b, c, weights);
	float *logits = malloc((size_t)c->n_tokens * (size_t)c->desc->vocab_rows * sizeof *logits);
	assert_non_null(logits);
	struct distances worst = {.logits = 0.0};
	for (size_t i = 0; i < n_spans; i++)
		run_span(&b, c, spans[i], logits, &worst);
	free(logits);
	print_message("%s %s, %s, weights %s, %zu cut(s): logits <= %.1e (one row %.1e), ssm %.1e, "
		      "conv %.1e\n",
		backend->name, isa, c->words,
		weights == M2_DTYPE_NONE ? "as stored" : m2_dtype_name(weights), n_spans,
		worst.logits, worst.row, worst.ssm, worst.conv);
	backend->unload(&b.model);
	backend->close(&b.device);
}

/* All cases on one backend, with one instruction set. */
static void run_all(const char *name, const char *isa)
{
	const struct m2_backend *backend;
	struct m2_device *device;
	struct m2_why why = {.text = ""};
	const struct m2_device_options options = {.threads = 2, .isa = isa};
	if (m2_backend_find(name, &backend, &why) != M2_OK ||
		backend->open(&options, &device, &why) != M2_OK) {
		print_message("skipped: %s, isa %s: %s\n", name, isa, why.text);
		skip();
	}
	backend->close(&device);
	int run = 0;
	for (size_t i = 0; i < N_CASES; i++) {
		struct case_data c;
		if (!case_open(&case_names[i], &c))
			continue;
		run_case(backend, isa, &c, M2_DTYPE_F32, N_SPANS);
		run_case(backend, isa, &c, M2_DTYPE_NONE, N_SPANS_STORED);
		case_close(&c);
		run++;
	}
	if (run == 0)
		skip();
}

#ifndef __SANITIZE_THREAD__
static void ref_gives_every_case(void **state)
{
	(void)state;
	run_all("ref", "auto");
}

static void ref64_gives_every_case(void **state)
{
	(void)state;
	run_all("ref64", "auto");
}

static void cpu_gives_every_case_in_portable_code(void **state)
{
	(void)state;
	run_all("cpu", "portable");
}

static void cpu_gives_every_case_with_avx2(void **state)
{
	(void)state;
	run_all("cpu", "avx2");
}

static void cpu_gives_every_case_with_avx512(void **state)
{
	(void)state;
	run_all("cpu", "avx512");
}

#endif

static void cpu_gives_every_case_with_what_it_chooses(void **state)
{
	(void)state;
	run_all("cpu", "auto");
}

static void cuda_gives_every_case(void **state)
{
	(void)state;
	run_all("cuda", "auto");
}

/* An argument chooses tests by name, as tests/conformance/test_mutants.py does. */
int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
#ifndef __SANITIZE_THREAD__ /* the definition has one thread, and all instruction sets the same ones */
		cmocka_unit_test(ref_gives_every_case),
		cmocka_unit_test(ref64_gives_every_case),
		cmocka_unit_test(cpu_gives_every_case_in_portable_code),
		cmocka_unit_test(cpu_gives_every_case_with_avx2),
		cmocka_unit_test(cpu_gives_every_case_with_avx512),
#endif
		cmocka_unit_test(cpu_gives_every_case_with_what_it_chooses),
		cmocka_unit_test(cuda_gives_every_case),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
