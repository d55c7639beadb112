/* test_published.c - the published shapes at full size, on the CUDA backend, against the definition.
 *
 * Fresh random weights of 16 bits and fresh tokens: a prompt of a whole chunk and a tail in one step, then
 * single tokens; poisoned buffers before each step, and neighbours' slots that must stay as they are.  What is
 * compared is relative L2, of all logits and of the state behind the last token.  A layer's two products
 * round their input to 16 bits, and layers' roundings are independent: the tolerance is that of the small
 * models of three layers (test_cuda.c) times the root of how many times three layers there are.
 *
 *     M2_SHAPES="130m 370m" M2_YARDSTICK=ref ./test_published
 *
 * The definition (kernels/ref) takes minutes from 780m on, on one thread; M2_YARDSTICK=cpu takes the CPU
 * backend with f32 weights instead, which tests/unit holds against the definition.  By default 130m alone.
 * Not part of `make check`; without a device it is skipped by name.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/test_kernels_model.h"

enum { PROMPT = 64 + 6, LENGTH = PROMPT + 3, SLOTS = 3, OWN = 1, CPU_THREADS = 4 };

static uint64_t seed;

static const struct published {
	const char *name;
	int32_t hidden, layers, groups, vocab;
	bool tied;
} shapes[] = {
	{"130m", 768, 24, 1, 50288, true},
	{"370m", 1024, 48, 1, 50288, true},
	{"780m", 1536, 48, 1, 50288, true},
	{"1.3b", 2048, 48, 1, 50288, true},
	{"2.7b", 2560, 64, 1, 50288, true},
	{"7b", 4096, 64, 8, 32768, false},
};

static struct m2_model_desc desc_of(const struct published *p)
{
	struct m2_model_desc m = plain_desc();
	m.hidden_size = p->hidden;
	m.n_layers = p->layers;
	m.vocab_rows = p->vocab;
	m.n_heads = p->hidden / 32;
	m.head_dim = 64;
	m.state_size = 128;
	m.n_groups = m.norm_groups = p->groups;
	m.tied_head = p->tied;
	return m;
}

struct outcome {
	float *values[3]; /* logits [LENGTH, V], conv, ssm */
	size_t n[3];
};

static struct outcome outcome_create(const struct m2_model_desc *m)
{
	const size_t layers = (size_t)m->n_layers;
	struct outcome o = {
		.n = {(size_t)LENGTH * (size_t)m->vocab_rows,
			layers * (size_t)(m->conv_kernel - 1) * (size_t)m2_desc_conv_channels(m),
			layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size}};
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

/* The prompt in one step, then token by token. */
static void run(struct rig *rig, int32_t slot, const int32_t *tokens, struct outcome *out)
{
	struct m2_why why = {.text = ""};
	assert_int_equal(rig->backend->slot_reset(rig->model, slot), M2_OK);
	for (int32_t at = 0, end = PROMPT; at < LENGTH; at = end, end++) {
		const struct m2_work work = {
			.slot = slot,
			.n_tokens = end - at,
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

static void open_on(struct rig *rig, struct random_model *r, const char *backend, int32_t slots)
{
	struct m2_why why = {.text = ""};
	const bool cuda = strcmp(backend, "cuda") == 0;
	const struct rig_options options = {.backend = backend,
		.threads = CPU_THREADS,
		.weights = cuda ? M2_DTYPE_NONE : M2_DTYPE_F32,
		.slots = slots};
	if (rig_open(rig, r, options, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void set_neighbours(struct rig *rig, unsigned char *bytes)
{
	memset(bytes, 0xff, rig->footprint.per_slot);
	for (int32_t slot = 0; slot < SLOTS; slot++)
		if (slot != OWN)
			assert_int_equal(
				rig->backend->slot_restore(rig->model, slot, bytes), M2_OK);
}

static void check_neighbours(struct rig *rig, unsigned char *bytes)
{
	for (int32_t slot = 0; slot < SLOTS; slot++) {
		if (slot == OWN)
			continue;
		assert_int_equal(rig->backend->slot_save(rig->model, slot, bytes), M2_OK);
		for (size_t i = 0; i < rig->footprint.per_slot; i++)
			assert_int_equal(bytes[i], 0xff);
	}
}

static void check(const struct published *p, enum m2_dtype type, const char *yardstick)
{
	struct random_model r = {.desc = desc_of(p), .seed = seed, .matrices = type};
	struct outcome got = outcome_create(&r.desc), want = outcome_create(&r.desc);
	struct rng rng = {mix64(seed + 1)};
	int32_t tokens[LENGTH];
	struct rig rig;
	random_tokens(&rng, tokens, LENGTH, r.desc.vocab_rows);

	open_on(&rig, &r, "cuda", SLOTS);
	unsigned char *bytes = malloc(rig.footprint.per_slot);
	assert_non_null(bytes);
	set_neighbours(&rig, bytes);
	run(&rig, OWN, tokens, &got);
	check_neighbours(&rig, bytes);
	free(bytes);
	rig_close(&rig);

	open_on(&rig, &r, yardstick, 1);
	run(&rig, 0, tokens, &want);
	rig_close(&rig);

	double error[3], worst = 0.0;
	for (int i = 0; i < 3; i++) {
		error[i] = relative_error(got.values[i], want.values[i], want.n[i]);
		worst = fmax(worst, error[i]);
	}
	const double allowed =
		(type == M2_DTYPE_BF16 ? 2e-2 : 3e-3) * sqrt((double)r.desc.n_layers / 3.0);
	print_message("# %s, %s, against %s: logits %.2e, conv %.2e, ssm %.2e; allowed %.2e\n",
		p->name, m2_dtype_name(type), yardstick, error[0], error[1], error[2], allowed);
	outcome_destroy(&got);
	outcome_destroy(&want);
	assert_true(worst <= allowed);
}

static bool among(const char *name, const char *names)
{
	const size_t length = strlen(name);
	for (const char *at = names; (at = strstr(at, name)) != NULL; at += length)
		if ((at == names || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
			return true;
	return false;
}

static void prompts_and_single_tokens_are_the_definitions(void **state)
{
	static const enum m2_dtype types[] = {M2_DTYPE_F16, M2_DTYPE_BF16};
	const char *names = getenv("M2_SHAPES"), *yardstick = getenv("M2_YARDSTICK");
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
		for (size_t k = 0; among(shapes[i].name, names != NULL ? names : "130m") && k < 2;
			k++)
			check(&shapes[i], types[k], yardstick != NULL ? yardstick : "ref");
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
		cmocka_unit_test(prompts_and_single_tokens_are_the_definitions),
	};
	seed = run_seed();
	if (!is_there()) {
		(void)printf("ok 1 # SKIP %s: no CUDA device\n1..1\n", tests[0].name);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
