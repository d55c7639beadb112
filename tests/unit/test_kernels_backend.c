/* test_kernels_backend.c - the boundary itself: descriptions, backends by name, plan against load. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/cpu/memory.h"
#include "tests/unit/test_kernels_model.h"

static uint64_t seed;

/* ---- descriptions --------------------------------------------------------------------------- */

static void refused(const struct m2_model_desc *m, const char *field)
{
	struct m2_why why = {0};
	if (m2_model_desc_check(m, &why) != M2_EINVAL)
		fail_msg("a bad %s is accepted", field);
	assert_string_equal(why.field, field);
	assert_true(strlen(why.text) > 10);
}

static void a_hostile_description_is_refused_by_field(void **state)
{
	(void)state;
	static const struct {
		const char *field;
		size_t offset;
		int32_t bad[3];
	} ints[] = {
#define FIELD(name) #name, offsetof(struct m2_model_desc, name)
		{FIELD(hidden_size), {0, 65537, INT32_MIN}},
		{FIELD(n_layers), {0, 1025, -1}},
		{FIELD(vocab_rows), {0, (1 << 24) + 1, INT32_MAX}},
		{FIELD(n_heads), {0, 4097, INT32_MAX}},
		{FIELD(head_dim), {0, 1025, INT32_MAX}},
		{FIELD(state_size), {0, 1025, INT32_MIN}},
		{FIELD(n_groups), {0, 3, 5}},
		{FIELD(conv_kernel), {0, 17, -4}},
		{FIELD(d_mlp), {-1, INT32_MAX, INT32_MAX / 2}},
		{FIELD(norm_groups), {0, 7, -1}},
#undef FIELD
	};
	for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
		for (int j = 0; j < 3; j++) {
			struct m2_model_desc m = plain_desc();
			memcpy((char *)&m + ints[i].offset, &ints[i].bad[j], sizeof(int32_t));
			refused(&m, ints[i].field);
		}
	}
	static const struct {
		const char *field;
		size_t offset;
		float bad[3];
	} floats[] = {
#define FIELD(name) #name, offsetof(struct m2_model_desc, name)
		{FIELD(norm_eps), {0.0f, 1.0f, NAN}},
		{FIELD(dt_min), {-0.1f, INFINITY, NAN}},
		{FIELD(dt_max), {-1.0f, -INFINITY, NAN}},
#undef FIELD
	};
	for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
		for (int j = 0; j < 3; j++) {
			struct m2_model_desc m = plain_desc();
			memcpy((char *)&m + floats[i].offset, &floats[i].bad[j], sizeof(float));
			refused(&m, floats[i].field);
		}
	}
}

static void the_largest_description_is_accepted_and_its_sizes_fit(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	struct m2_why why = {0};
	m.hidden_size = 65536;
	m.n_layers = 1024;
	m.vocab_rows = 1 << 24;
	m.n_heads = m.n_groups = 4096;
	m.head_dim = m.state_size = 1024;
	m.conv_kernel = 16;
	m.norm_groups = 4096 * 1024;
	assert_int_equal(m2_model_desc_check(&m, &why), M2_OK);
	assert_true(m2_weight_elements(&m, M2_W_EMBEDDING) == (size_t)1 << 40);
	assert_true(
		m2_weight_elements(&m, M2_W_IN_PROJ) == (size_t)65536 * (4u * 4096 * 1024 + 4096));
}

static void absent_weights_have_no_elements(void **state)
{
	(void)state;
	struct m2_model_desc m = plain_desc();
	m.conv_bias = false;
	m.gated_norm = false;
	static const enum m2_weight absent[] = {M2_W_HEAD, M2_W_IN_BIAS, M2_W_OUT_BIAS,
		M2_W_CONV_BIAS, M2_W_GATED_NORM, M2_W_COUNT};
	for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
		assert_int_equal(m2_weight_elements(&m, absent[i]), 0);
	assert_int_equal(m2_weight_elements(&m, M2_W_D), 4);
	m.d_per_channel = true;
	assert_int_equal(m2_weight_elements(&m, M2_W_D), 128);
	assert_int_equal(m2_weight_elements(&m, M2_W_IN_PROJ), 64 * (128 + 128 + 2 * 16 + 4));
	assert_int_equal(m2_weight_elements(&m, M2_W_CONV), 4 * (128 + 2 * 16));
}

/* ---- backends ------------------------------------------------------------------------------- */

static void backends_are_found_by_name(void **state)
{
	(void)state;
	static const char *const names[] = {"cpu", "ref", "ref64"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		const struct m2_backend *found = NULL;
		assert_int_equal(m2_backend_find(names[i], &found, NULL), M2_OK);
		assert_string_equal(found->name, names[i]);
	}
	static const char *const unknown[] = {"", "CPU", "tpu", "../cpu"};
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
		const struct m2_backend *found = NULL;
		struct m2_why why = {0};
		assert_int_equal(m2_backend_find(unknown[i], &found, &why), M2_EUNSUPPORTED);
		assert_null(found);
		assert_string_equal(why.field, "device");
	}
}

static void an_absent_cuda_backend_is_an_error_and_no_fallback(void **state)
{
	(void)state;
	const struct m2_backend *found = NULL;
	struct m2_why why = {0};
	const enum m2_err err = m2_backend_find("cuda", &found, &why);
	if (err == M2_OK) {
		assert_string_equal(found->name, "cuda");
		print_message("the CUDA backend is installed beside this test\n");
		skip();
	}
	assert_int_equal(err, M2_EUNSUPPORTED);
	assert_null(found);
	assert_non_null(strstr(why.text, "CUDA"));
}

static void impossible_devices_are_refused(void **state)
{
	(void)state;
	static const struct m2_device_options bad[] = {
		{.ordinal = 1, .threads = 1},
		{.threads = -1},
		{.threads = 257},
		{.threads = 1, .isa = "sse9"},
	};
	const struct m2_backend *cpu = NULL;
	assert_int_equal(m2_backend_find("cpu", &cpu, NULL), M2_OK);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct m2_device *device = NULL;
		struct m2_why why = {0};
		assert_int_not_equal(cpu->open(&bad[i], &device, &why), M2_OK);
		assert_null(device);
		assert_true(why.field[0] != '\0');
	}
}

/* ---- plan and load -------------------------------------------------------------------------- */

static void a_load_takes_what_was_planned_to_the_byte(void **state)
{
	(void)state;
	struct rng rng = {mix64(seed)};
	assert_int_equal(m2_region_total(), 0);
	for (int i = 0; i < 8; i++) {
		struct random_model r = {
			.desc = random_desc(&rng), .seed = seed, .matrices = M2_DTYPE_F16};
		struct rig rig;
		struct m2_why why = {0};
		const struct rig_options options = {
			.threads = 1 + (int32_t)rng_below(&rng, 3),
			.slots = 1 + (int32_t)rng_below(&rng, 5),
			.max_tokens = 1 + (int32_t)rng_below(&rng, 300),
			.weights = i % 2 ? M2_DTYPE_NONE : M2_DTYPE_F32,
		};
		assert_int_equal(rig_open(&rig, &r, options, &why), M2_OK);
		const struct m2_footprint *f = &rig.footprint;
		assert_true(m2_region_total() == f->weights + f->state + f->workspace);
		assert_true(f->state >= f->per_slot * (uint64_t)options.slots);
		rig_close(&rig);
		assert_int_equal(m2_region_total(), 0);
	}
}

/* The numbers of a load that fails at its nth read, or that sees a weight missing. */
struct broken_source {
	struct random_model model;
	int reads_left;
	enum m2_weight missing;
};

static enum m2_dtype broken_dtype(void *ctx, int layer, enum m2_weight which)
{
	struct broken_source *b = ctx;
	return which == b->missing ? M2_DTYPE_NONE : random_dtype(&b->model, layer, which);
}

static enum m2_err broken_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	struct broken_source *b = ctx;
	if (b->reads_left-- == 0)
		return m2_fail(M2_EIO, why, "the disk is gone");
	return random_read(&b->model, layer, which, first, count, dst, why);
}

static void fails(const char *backend, struct broken_source *b, enum m2_err expected)
{
	const struct m2_weight_source source = {b, broken_dtype, broken_read};
	const struct m2_load_options load = {
		.state = M2_DTYPE_F32, .slots = 1, .max_tokens = 4, .max_items = 1};
	const struct m2_device_options options = {.threads = 1};
	const struct m2_backend *found = NULL;
	struct m2_device *device = NULL;
	struct m2_model *model = NULL;
	struct m2_why why = {0};

	assert_int_equal(m2_backend_find(backend, &found, NULL), M2_OK);
	assert_int_equal(found->open(&options, &device, &why), M2_OK);
	assert_int_equal(
		found->load(device, &b->model.desc, &source, &load, &model, &why), expected);
	assert_null(model);
	assert_true(why.text[0] != '\0');
	assert_int_equal(m2_region_total(), 0);
	found->close(&device);
}

static void a_failed_load_leaves_nothing_behind(void **state)
{
	(void)state;
	static const char *const names[] = {"cpu", "ref", "ref64"};
	for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
		struct broken_source b = {
			{.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32}, 0,
			M2_W_COUNT};
		for (int reads = 0; reads < 12; reads += 3) {
			b.reads_left = reads;
			fails(names[n], &b, M2_EIO);
		}
		b.reads_left = -1;
		b.missing = M2_W_OUT_PROJ;
		fails(names[n], &b, M2_EFORMAT);
	}
}

static void a_footprint_beyond_64_bits_is_refused(void **state)
{
	(void)state;
	struct random_model r = {.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32};
	r.desc.n_heads = 4096;
	r.desc.head_dim = r.desc.state_size = 1024;
	r.desc.n_layers = 1024;
	const struct m2_weight_source source = random_source(&r);
	const struct m2_load_options load = {
		.state = M2_DTYPE_F32, .slots = INT32_MAX, .max_tokens = 4, .max_items = 1};
	const struct m2_device_options options = {.threads = 1};
	static const char *const names[] = {"cpu", "ref", "ref64"};
	for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
		const struct m2_backend *found = NULL;
		struct m2_device *device = NULL;
		struct m2_footprint footprint;
		struct m2_why why = {0};
		assert_int_equal(m2_backend_find(names[n], &found, NULL), M2_OK);
		assert_int_equal(found->open(&options, &device, &why), M2_OK);
		assert_int_equal(
			found->plan(device, &r.desc, &source, &load, &footprint, &why), M2_ELIMIT);
		found->close(&device);
	}
}

static void count_progress(void *ctx, uint64_t done, uint64_t total)
{
	uint64_t *seen = ctx;
	assert_true(done >= seen[0] && done <= total);
	seen[0] = done;
	seen[1] = total;
	seen[2]++;
}

static void progress_goes_up_to_the_total(void **state)
{
	(void)state;
	static const char *const names[] = {"cpu", "ref"};
	for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
		struct random_model r = {
			.desc = plain_desc(), .seed = seed, .matrices = M2_DTYPE_F32};
		const struct m2_weight_source source = random_source(&r);
		uint64_t seen[3] = {0};
		const struct m2_load_options load = {.state = M2_DTYPE_F32,
			.slots = 1,
			.max_tokens = 4,
			.max_items = 1,
			.progress = count_progress,
			.progress_ctx = seen};
		const struct m2_device_options options = {.threads = 1};
		const struct m2_backend *found = NULL;
		struct m2_device *device = NULL;
		struct m2_model *model = NULL;
		assert_int_equal(m2_backend_find(names[n], &found, NULL), M2_OK);
		assert_int_equal(found->open(&options, &device, NULL), M2_OK);
		assert_int_equal(found->load(device, &r.desc, &source, &load, &model, NULL), M2_OK);
		assert_true(seen[0] == seen[1] && seen[0] > 0 && seen[2] > 10);
		found->unload(&model);
		assert_null(model);
		found->close(&device);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hostile_description_is_refused_by_field),
		cmocka_unit_test(the_largest_description_is_accepted_and_its_sizes_fit),
		cmocka_unit_test(absent_weights_have_no_elements),
		cmocka_unit_test(backends_are_found_by_name),
		cmocka_unit_test(an_absent_cuda_backend_is_an_error_and_no_fallback),
		cmocka_unit_test(impossible_devices_are_refused),
		cmocka_unit_test(a_load_takes_what_was_planned_to_the_byte),
		cmocka_unit_test(a_failed_load_leaves_nothing_behind),
		cmocka_unit_test(a_footprint_beyond_64_bits_is_refused),
		cmocka_unit_test(progress_goes_up_to_the_total),
	};
	seed = run_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
