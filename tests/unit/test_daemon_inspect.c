/* test_daemon_inspect.c - what inspect says: of the bundled model, of the shapes of the published ones, and
 * of what would be refused.
 *
 * The figures of the published models are those of their papers and files: parameters, bytes of the tensors,
 * bytes of a sequence.  Run from the root of the tree.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <json-c/json.h>

#include "common/json.h"
#include "daemon/inspect.h"
#include "registry/variant.h"
#include "tests/unit/test_registry_dir.h"
#include "tests/unit/test_sparse_checkpoint.h"

static struct m2_inspect_options options(const char *path, enum m2_inspect_form form)
{
	struct m2_inspect_options o = {.form = form};
	if (path[0] == '/') {
		(void)snprintf(o.path, sizeof o.path, "%s", path);
	} else {
		char here[900];
		assert_non_null(getcwd(here, sizeof here));
		(void)snprintf(o.path, sizeof o.path, "%s/%s", here, path);
	}
	return o;
}

/* What it prints; malloc'd. */
static char *run(const struct m2_inspect_options *o, int status)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	assert_non_null(out);
	const int got = m2_inspect_run(o, out);
	assert_int_equal(fclose(out), 0);
	if (got != status)
		fail_msg("status %d instead of %d:\n%s", got, status, text);
	return text;
}

static struct json_object *run_json(const struct m2_inspect_options *o, int status)
{
	struct json_object *object = NULL;
	struct m2_why why = {"", ""};
	char *text = run(o, status);
	if (m2_json_parse(text, strlen(text), 16, "inspect", &object, &why) != M2_OK)
		fail_msg("%s:\n%s", why.text, text);
	free(text);
	return object;
}

/* "a.b" */
static struct json_object *at(struct json_object *object, const char *path)
{
	char copy[96];
	char *rest = NULL;
	(void)snprintf(copy, sizeof copy, "%s", path);
	for (char *key = strtok_r(copy, ".", &rest); key != NULL;
		key = strtok_r(NULL, ".", &rest)) {
		struct json_object *next = NULL;
		if (!json_object_object_get_ex(object, key, &next))
			fail_msg("there is no %s (in %s)", key, path);
		object = next;
	}
	return object;
}

static int64_t number(struct json_object *object, const char *path)
{
	return json_object_get_int64(at(object, path));
}

static const char *text_at(struct json_object *object, const char *path)
{
	return json_object_get_string(at(object, path));
}

/* Some warning has these words. */
static bool warns(struct json_object *o, const char *words)
{
	struct json_object *array = at(o, "warnings");
	for (size_t i = 0; i < json_object_array_length(array); i++)
		if (strstr(json_object_get_string(json_object_array_get_idx(array, i)), words) !=
			NULL)
			return true;
	return false;
}

static void the_bundled_model_is_what_it_is(void **state)
{
	(void)state;
	const struct m2_inspect_options o = options("configs/demo", M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 0);
	assert_true(json_object_get_boolean(at(j, "accepted")));
	assert_string_equal(text_at(j, "path"), o.path);
	assert_string_equal(text_at(j, "dialect"), "fla");
	assert_string_equal(text_at(j, "container"), "safetensors");
	assert_int_equal(number(j, "parameters"), 3548712);
	assert_int_equal(number(j, "elements.f32") + number(j, "elements.bf16"), 3548712);
	assert_int_equal(number(j, "bytes.tensors"),
		4 * number(j, "elements.f32") + 2 * number(j, "elements.bf16"));
	assert_int_equal(number(j, "shape.hidden_size"), 256);
	assert_int_equal(number(j, "shape.layers"), 7);
	assert_null(at(j, "shape.dt_max")); /* no limit */
	assert_int_equal(number(j, "bytes.sequence_ssm"), 7 * 8 * 64 * 64 * 4);
	assert_int_equal(number(j, "bytes.sequence_conv"), 7 * (512 + 2 * 64) * 3 * 4);
	assert_true(number(j, "bytes.weights_f32") > number(j, "bytes.weights_bf16"));
	struct json_object *one = json_object_array_get_idx(at(j, "cpu"), 0);
	struct json_object *sixteen = json_object_array_get_idx(at(j, "cpu"), 1);
	assert_int_equal(number(sixteen, "slots"), 16);
	assert_int_equal(number(sixteen, "state"), 16 * number(one, "state"));
	assert_int_equal(number(one, "weights"), number(j, "bytes.weights_stored"));
	assert_int_equal(number(j, "tokenizer.ids"), 2048);
	assert_int_equal(json_object_array_length(at(j, "eos")), 1);
	assert_int_equal(json_object_get_int(json_object_array_get_idx(at(j, "eos"), 0)), 0);
	assert_int_equal(json_object_array_length(at(j, "warnings")), 0);
	assert_true(json_object_array_length(at(j, "files")) >= 2);
	json_object_put(j);
}

static void the_text_says_the_same_in_columns(void **state)
{
	(void)state;
	const struct m2_inspect_options o = options("configs/demo", M2_INSPECT_TEXT);
	char *text = run(&o, 0);
	static const char *const lines[] = {"accepted            yes\n",
		"dialect             fla\n", "container           safetensors\n",
		"parameters          3548712 (3.5 M)\n", "  width, layers     256, 7\n",
		"  dt limits         0 to no limit\n", "  ends of a text    token 0\n",
		"  model.safetensors (6.8 MiB)\n",
		"  state             917504 bytes (896.0 KiB)\n"};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
		if (strstr(text, lines[i]) == NULL)
			fail_msg("no line %s in\n%s", lines[i], text);
	free(text);
}

/* The published models: parameters in millions, bytes at two per element in GB, and a sequence's state. */
static void the_published_shapes_have_the_published_figures(void **state)
{
	static const struct {
		const char *name;
		struct sparse_shape s;
		double millions, giga, ssm_mib, conv_mib;
	} zoo[] = {{"mamba2-130m", {768, 24, 24, 64, 128, 1, 50277, 50288, false, true, 2, 1},
			   129.0, 0.258, 18.0, 0.49},
		{"mamba2-370m", {1024, 48, 32, 64, 128, 1, 50288, 50288, false, true, 2, 1}, 368.3,
			0.737, 48.0, 1.27},
		{"mamba2-780m", {1536, 48, 48, 64, 128, 1, 50288, 50288, true, true, 2, 2}, 780.2,
			1.560, 72.0, 1.83},
		{"mamba2-1.3b", {2048, 48, 64, 64, 128, 1, 50288, 50288, false, true, 2, 1}, 1343.8,
			2.688, 96.0, 2.39},
		{"mamba2-2.7b", {2560, 64, 80, 64, 128, 1, 50288, 50288, false, true, 2, 1}, 2702.6,
			5.405, 160.0, 3.94},
		{"codestral", {4096, 64, 128, 64, 128, 8, 32768, 32768, true, false, 3, 3}, 7285.4,
			14.571, 256.0, 7.50},
		{"nvidia-8b", {4096, 56, 128, 64, 128, 8, 256000, 256000, false, false, 3, 3},
			8237.0, 16.474, 224.0, 6.56}};
	for (size_t i = 0; i < sizeof zoo / sizeof zoo[0]; i++) {
		const char *path = test_path(state, zoo[i].name);
		assert_int_equal(mkdir(path, 0700), 0);
		sparse_checkpoint(path, &zoo[i].s);
		const struct m2_inspect_options o = options(path, M2_INSPECT_JSON);
		struct json_object *j = run_json(&o, 0);
		const struct {
			const char *path;
			double unit, wanted, tolerance;
		} figures[] = {{"parameters", 1e6, zoo[i].millions, 0.05},
			{"bytes.tensors", 1e9, zoo[i].giga, 0.0006},
			{"bytes.sequence_ssm", 1048576, zoo[i].ssm_mib, 0.05},
			{"bytes.sequence_conv", 1048576, zoo[i].conv_mib, 0.006}};
		for (size_t f = 0; f < 4; f++) {
			const double got = (double)number(j, figures[f].path) / figures[f].unit;
			if (got < figures[f].wanted - figures[f].tolerance ||
				got > figures[f].wanted + figures[f].tolerance)
				fail_msg("%s: %s is %.4f, published %.4f", zoo[i].name,
					figures[f].path, got, figures[f].wanted);
		}
		assert_string_equal(text_at(j, "dialect"),
			zoo[i].s.transformers ? "transformers" : "mamba_ssm");
		assert_int_equal(number(j, "shape.vocab_rows"), zoo[i].s.rows);
		assert_null(at(j, "tokenizer"));
		assert_true(warns(j, "no tokenizer"));
		json_object_put(j);
	}
}

static const struct sparse_shape tiny = {
	32, 2, 4, 16, 16, 2, 100, 112, false, true, M2_DTYPE_F16, M2_DTYPE_F64};

static void groups_in_transformers_are_worth_a_warning(void **state)
{
	struct sparse_shape s = tiny;
	s.transformers = true;
	s.vocab = s.rows;
	sparse_checkpoint(test_path(state, "."), &s);
	struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 0);
	assert_true(warns(j, "gated norm runs in 2 groups"));
	assert_int_equal(number(j, "shape.norm_groups"), 2);
	json_object_put(j);
	o.norm_groups = 1; /* somebody has decided */
	j = run_json(&o, 0);
	assert_false(warns(j, "gated norm"));
	assert_int_equal(number(j, "shape.norm_groups"), 1);
	assert_int_equal(number(j, "shape.groups"), 2);
	json_object_put(j);
}

static void padding_rows_and_wide_types_are_named(void **state)
{
	sparse_checkpoint(test_path(state, "."), &tiny);
	const struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 0);
	assert_int_equal(number(j, "shape.vocab_rows"), 112);
	assert_int_equal(number(j, "shape.vocab_size"), 100);
	assert_int_equal(number(j, "elements.f64"), 2 * 4); /* D */
	assert_true(warns(j, "8 elements are stored as f64"));
	json_object_put(j);
}

static void a_tokenizer_of_another_size_is_worth_a_warning(void **state)
{
	struct sparse_shape s = tiny;
	size_t length;
	char *tokenizer = test_read("configs/demo/tokenizer.json", &length);
	s.vocab = s.rows = 2064;
	sparse_checkpoint(test_path(state, "."), &s);
	test_write(test_path(state, "tokenizer.json"), tokenizer);
	struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 0);
	assert_true(warns(j, "2064 rows and the tokenizer 2048 ids: the other 16 rows"));
	json_object_put(j);
	s.vocab = s.rows = 112;
	sparse_checkpoint(test_path(state, "."), &s);
	j = run_json(&o, 0);
	assert_true(warns(j, "the tokenizer has 2048 ids and the vocabulary 112 rows"));
	json_object_put(j);
	free(tokenizer);
}

static void what_would_be_refused_says_why_and_what_to_do(void **state)
{
	sparse_checkpoint(test_path(state, "."), &tiny);
	/* a hybrid: named as such, and nothing of it is described */
	test_write(test_path(state, "config.json"),
		"{\"d_model\":32,\"n_layer\":2,\"vocab_size\":100,\"attn_layer_idx\":[1],"
		"\"ssm_cfg\":{\"layer\":\"Mamba2\"},\"tie_embeddings\":true}");
	struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 1);
	assert_false(json_object_get_boolean(at(j, "accepted")));
	assert_string_equal(text_at(j, "error.code"), "unsupported");
	assert_non_null(strstr(text_at(j, "error.message"), "attn_layer_idx"));
	assert_true(strlen(text_at(j, "hint")) > 10);
	assert_false(json_object_object_get_ex(j, "shape", NULL));
	json_object_put(j);
	o.form = M2_INSPECT_TEXT;
	char *text = run(&o, 1);
	assert_non_null(strstr(text, "accepted            no (unsupported)\n"));
	assert_non_null(strstr(text, "attn_layer_idx"));
	free(text);
	/* nothing there */
	o = options(test_path(state, "nowhere"), M2_INSPECT_JSON);
	j = run_json(&o, 1);
	assert_string_equal(text_at(j, "error.code"), "not_found");
	json_object_put(j);
}

/* The checkpoint is sound: its facts are told, and the way out. */
static void a_tokenizer_that_cannot_be_read_is_the_only_thing_wrong(void **state)
{
	sparse_checkpoint(test_path(state, "."), &tiny);
	test_write(test_path(state, "tokenizer.json"), "{\"model\":{\"type\":\"WordPiece\"}}");
	struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_JSON);
	struct json_object *j = run_json(&o, 1);
	assert_non_null(strstr(text_at(j, "error.message"), "tokenizer.json"));
	assert_non_null(strstr(text_at(j, "hint"), "--tokenizer none"));
	assert_int_equal(number(j, "shape.layers"), 2);
	json_object_put(j);
	(void)snprintf(o.tokenizer, sizeof o.tokenizer, "none");
	j = run_json(&o, 0);
	assert_null(at(j, "tokenizer"));
	json_object_put(j);
}

static void the_yaml_is_a_variant(void **state)
{
	struct m2_variant v;
	struct m2_why why = {"", ""};
	sparse_checkpoint(test_path(state, "."), &tiny);
	struct m2_inspect_options o = options(test_path(state, "."), M2_INSPECT_YAML);
	(void)snprintf(o.name, sizeof o.name, "tiny.one");
	(void)snprintf(o.aliases[0], sizeof o.aliases[0], "t");
	(void)snprintf(o.aliases[1], sizeof o.aliases[1], "u-2");
	(void)snprintf(o.device, sizeof o.device, "cuda:3");
	(void)snprintf(o.weights, sizeof o.weights, "bf16");
	(void)snprintf(o.tokenizer, sizeof o.tokenizer, "none");
	o.n_aliases = 2;
	o.slots = 5;
	o.norm_groups = 1;
	char *yaml = run(&o, 0);
	if (m2_variant_parse(yaml, strlen(yaml), "printed", NULL, &v, &why) != M2_OK)
		fail_msg("%s:\n%s", why.text, yaml);
	assert_string_equal(v.name, "tiny.one");
	assert_int_equal(v.n_aliases, 2);
	assert_string_equal(v.aliases[1], "u-2");
	assert_string_equal(v.checkpoint, o.path);
	assert_string_equal(v.tokenizer, "none");
	assert_int_equal(v.device, M2_DEVICE_CUDA);
	assert_int_equal(v.device_ordinal, 3);
	assert_int_equal(v.weights, M2_DTYPE_BF16);
	assert_int_equal(v.slots, 5);
	assert_int_equal(v.norm_groups, 1);
	assert_non_null(strstr(v.description, "2 layers of 32"));
	free(yaml);
	/* what no variant may say is refused by its own parser: nothing is printed */
	(void)snprintf(o.device, sizeof o.device, "tpu");
	yaml = run(&o, 2);
	assert_string_equal(yaml, "");
	free(yaml);
	(void)snprintf(o.device, sizeof o.device, "cpu");
	(void)snprintf(o.name, sizeof o.name, "a b");
	yaml = run(&o, 2);
	assert_string_equal(yaml, "");
	free(yaml);
	/* and a refused checkpoint makes none */
	(void)snprintf(o.name, sizeof o.name, "tiny");
	assert_int_equal(unlink(test_path(state, "model.safetensors")), 0);
	yaml = run(&o, 1);
	assert_string_equal(yaml, "");
	free(yaml);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_dir_setup, test_dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_bundled_model_is_what_it_is),
		TEST(the_text_says_the_same_in_columns),
		TEST(the_published_shapes_have_the_published_figures),
		TEST(groups_in_transformers_are_worth_a_warning),
		TEST(padding_rows_and_wide_types_are_named),
		TEST(a_tokenizer_of_another_size_is_worth_a_warning),
		TEST(what_would_be_refused_says_why_and_what_to_do),
		TEST(a_tokenizer_that_cannot_be_read_is_the_only_thing_wrong),
		TEST(the_yaml_is_a_variant),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
