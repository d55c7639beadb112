/* test_registry_variant.c - names, defaults, paths, files, and printing that reads back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"
#include "registry/variant.h"
#include "registry/yaml_table.h"
#include "tests/unit/test_registry_dir.h"

static void a_name_never_becomes_a_path(void **state)
{
	(void)state;
	const char *good[] = {"a", "0", "mamba2-130m", "a.b_c-d", "a..", "x-"};
	const char *bad[] = {"", ".", "..", "../x", "/x", "a/b", "A", "aB", "-a", "_a", ".a", "a b",
		"a\n", "\xc3\xa4", "a\x01", "a\\", "a:b", "~"};
	char longest[66];
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_true(m2_variant_name_valid(good[i]));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		if (m2_variant_name_valid(bad[i]))
			fail_msg("\"%s\" passed", bad[i]);
	memset(longest, 'a', sizeof longest);
	longest[64] = '\0';
	assert_true(m2_variant_name_valid(longest));
	longest[64] = 'a';
	longest[65] = '\0';
	assert_false(m2_variant_name_valid(longest));
}

static void defaults_are_those_of_the_table(void **state)
{
	(void)state;
	struct m2_variant v;
	m2_variant_init(&v);
	assert_string_equal(v.name, "");
	assert_string_equal(v.checkpoint, "");
	assert_string_equal(v.tokenizer, "");
	assert_int_equal(v.device, M2_DEVICE_AUTO);
	assert_int_equal(v.weights, M2_DTYPE_NONE);
	assert_int_equal(v.state, M2_DTYPE_F32);
	assert_int_equal(v.slots, 16);
	assert_int_equal(v.keep_alive_s, -1);
	assert_int_equal(v.n_aliases + v.n_users + v.n_groups, 0);
	assert_int_equal(v.defaults.max_tokens, 256);
	assert_true(v.defaults.temperature == 1.0f);
	assert_int_equal(v.defaults.n_stop_tokens, -1);
	/* a file with nothing else says the same */
	struct m2_variant parsed;
	const char *text = "name: x\ncheckpoint: /c\n";
	assert_int_equal(m2_variant_parse(text, strlen(text), "v", NULL, &parsed, NULL), M2_OK);
	(void)snprintf(v.name, sizeof v.name, "x");
	(void)snprintf(v.checkpoint, sizeof v.checkpoint, "/c");
	assert_memory_equal(&v, &parsed, sizeof v);
}

/* The least and the greatest that a request may say is what a variant may say. */
static void generation_defaults_have_the_ranges_of_the_wire(void **state)
{
	(void)state;
	const char *fields[] = {"max_tokens", "temperature", "top_k", "top_p", "min_p",
		"repetition_penalty", "presence_penalty", "frequency_penalty", "stop_tokens"};
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		const struct m2_field *f = m2_wire_field(fields[i]);
		assert_non_null(f);
		const bool list = f->type == M2_FIELD_INTS;
		const double step = f->type == M2_FIELD_FLOAT ? 0.001 : 1;
		const double values[] = {f->min, f->max, f->min - step, f->max + step};
		for (int k = 0; k < 4; k++) {
			char text[160];
			struct m2_variant v;
			(void)snprintf(text, sizeof text,
				"name: x\ncheckpoint: /c\ndefaults: {%s: %s%.10g%s}\n", fields[i],
				list ? "[" : "", values[k], list ? "]" : "");
			const enum m2_err err =
				m2_variant_parse(text, strlen(text), "v", NULL, &v, NULL);
			if (err != (k < 2 ? M2_OK : M2_EINVAL))
				fail_msg("%s gave %d", text, err);
		}
	}
}

static void relative_paths_are_taken_from_the_files_directory(void **state)
{
	(void)state;
	const struct {
		const char *path;
		const char *base;
		const char *result; /* NULL: refused */
	} cases[] = {{"/a/b", NULL, "/a/b"}, {"/a/b", "/base", "/a/b"}, {"m", "/base", "/base/m"},
		{".", "/base", "/base"}, {"./", "/base", "/base"}, {"././/m", "/base", "/base/m"},
		{"..", "/base", "/base/.."}, {"../m", "/base//", "/base/../m"}, {"m", "/", "/m"},
		{".", "/", "/"}, {".hidden", "/b", "/b/.hidden"}, {"m", NULL, NULL},
		{"m", "relative", NULL}, {"~/m", "/b", NULL}, {"none", "/b", "/b/none"}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char text[128];
		struct m2_variant v;
		struct m2_why why;
		(void)snprintf(text, sizeof text, "name: x\ncheckpoint: %s\n", cases[i].path);
		const enum m2_err err =
			m2_variant_parse(text, strlen(text), "v", cases[i].base, &v, &why);
		assert_int_equal(err, cases[i].result != NULL ? M2_OK : M2_EINVAL);
		if (cases[i].result != NULL)
			assert_string_equal(v.checkpoint, cases[i].result);
	}
}

/* ---- printing ---------------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % n;
}

static void random_name(char *out, size_t size, int unique)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	const size_t n = 3 + random_below((uint32_t)size - 4);
	(void)snprintf(out, size, "%c%02d", letters[random_below(36)], unique);
	for (size_t i = 3; i < n; i++)
		out[i] = letters[random_below(39)];
	out[n] = '\0';
}

/* Any text a record may hold: printable, quotes, colons, characters no reader takes raw. */
static void random_text(char *out, size_t size)
{
	static const char *const pieces[] = {"a", "Z", " ", "\"", "\\", "'", ":", "#", "- ", "{",
		"]", "%", "@", "null", "true", "0x1", "1.5", "~", "&a", "*", "!", "\xc3\xa4",
		"\xe2\x80\xa8", "\xef\xbb\xbf", "\xef\xbf\xbe", "\xf0\x9f\x90\x8d", "\xc2\xa0",
		"?"};
	size_t used = 0;
	const size_t wanted = random_below((uint32_t)size);
	out[0] = '\0';
	for (;;) {
		const char *piece = pieces[random_below(sizeof pieces / sizeof pieces[0])];
		if (used + strlen(piece) > wanted)
			return;
		memcpy(out + used, piece, strlen(piece) + 1);
		used += strlen(piece);
	}
}

static void random_ids(char (*out)[33], int32_t *count)
{
	*count = (int32_t)random_below(5);
	for (int32_t i = 0; i < *count; i++) {
		if (random_below(2) == 0)
			(void)snprintf(out[i], 33, "%u", 1000u * (unsigned)i + random_below(1000));
		else
			random_name(out[i], 33, i);
	}
}

static float random_float(float low, float high)
{
	const float f = low + (high - low) * (float)random_below(16777216) / 16777216.0f;
	return random_below(4) == 0 ? (random_below(2) == 0 ? low : high) : f;
}

static void random_variant(struct m2_variant *v)
{
	m2_variant_init(v);
	random_name(v->name, sizeof v->name, 99);
	v->n_aliases = (int32_t)random_below(M2_LIMIT_ALIASES + 1);
	for (int32_t i = 0; i < v->n_aliases; i++)
		random_name(v->aliases[i], sizeof v->aliases[i], i);
	random_text(v->description, sizeof v->description);
	v->checkpoint[0] = '/';
	random_text(v->checkpoint + 1, sizeof v->checkpoint - 1);
	if (random_below(3) > 0)
		(void)snprintf(v->tokenizer, sizeof v->tokenizer, "%s",
			random_below(2) == 0 ? "none" : "/t/x.json");
	v->device = (enum m2_device_kind)random_below(3);
	v->device_ordinal = v->device == M2_DEVICE_CUDA ? (int32_t)random_below(64) : 0;
	v->weights = (enum m2_dtype)random_below(4);
	v->slots = 1 + (int32_t)random_below(M2_LIMIT_SLOTS);
	v->max_batch_tokens = 1 + (int32_t)random_below(1048576);
	v->queue = (int32_t)random_below(1048577);
	v->preload = random_below(2) == 0;
	const int64_t units[] = {1, 60, 3600, 86400};
	v->keep_alive_s =
		random_below(5) == 0 ? -1 : (int64_t)random_below(365) * units[random_below(4)];
	v->norm_groups = (int32_t)random_below(4097);
	random_ids(v->users, &v->n_users);
	random_ids(v->groups, &v->n_groups);
	struct m2_variant_defaults *d = &v->defaults;
	d->max_tokens = 1 + (int32_t)random_below(M2_LIMIT_MAX_TOKENS);
	d->temperature = random_float(0, 100);
	d->top_k = (int32_t)random_below(1048577);
	d->top_p = random_float(0, 1);
	d->min_p = random_float(0, 1);
	d->repetition_penalty = random_float(0.01f, 100);
	d->presence_penalty = random_float(-100, 100);
	d->frequency_penalty = random_float(-100, 100);
	d->n_stop_tokens = (int32_t)random_below(M2_LIMIT_STOP_TOKENS + 2) - 1;
	for (int32_t i = 0; i < d->n_stop_tokens; i++)
		d->stop_tokens[i] = i * 200000 + (int32_t)random_below(200000);
}

static void what_is_printed_reads_back_equal(void **state)
{
	(void)state;
	struct m2_variant v, back;
	for (int round = 0; round < 2000; round++) {
		struct m2_why why = {"", ""};
		random_variant(&v);
		char *text = m2_variant_print(&v, round % 2 == 0);
		assert_non_null(text);
		const enum m2_err err =
			m2_variant_parse(text, strlen(text), "printed", NULL, &back, &why);
		if (err != M2_OK)
			fail_msg("%s\n%s", why.text, text);
		if (memcmp(&v, &back, sizeof v) != 0)
			fail_msg("round %d reads back different:\n%s", round, text);
		free(text);
	}
}

static void only_what_differs_from_the_defaults_is_printed_unless_all(void **state)
{
	(void)state;
	struct m2_variant v;
	const char *text = "name: x\ncheckpoint: /c\nslots: 16\nkeep_alive: 300s\n"
			   "defaults: {top_p: 0.9}\n";
	assert_int_equal(m2_variant_parse(text, strlen(text), "v", NULL, &v, NULL), M2_OK);
	char *printed = m2_variant_print(&v, false);
	assert_string_equal(
		printed, "name: x\ncheckpoint: /c\nkeep_alive: 5m\ndefaults:\n  top_p: 0.9\n");
	free(printed);
	printed = m2_variant_print(&v, true);
	assert_non_null(strstr(printed, "\nslots: 16\n"));
	assert_non_null(strstr(printed, "\naccess:\n  users: []\n  groups: []\ndefaults:\n"));
	free(printed);
}

/* ---- references and files ---------------------------------------------------------------------- */

static void the_reference_is_what_the_table_says(void **state)
{
	(void)state;
	char *generated = m2_variant_reference();
	assert_non_null(generated);
	test_reference("configs/reference.yaml", generated);
	/* it is itself a variant, with every key at its default */
	struct m2_variant v, expected;
	struct m2_why why = {"", ""};
	assert_int_equal(
		m2_variant_parse(generated, strlen(generated), "r", NULL, &v, &why), M2_OK);
	m2_variant_init(&expected);
	(void)snprintf(expected.name, sizeof expected.name, "mamba2-130m");
	(void)snprintf(expected.checkpoint, sizeof expected.checkpoint, "/srv/models/mamba2-130m");
	assert_memory_equal(&v, &expected, sizeof v);
	/* and what the table prints as defaults is what it calls the defaults */
	char *printed = m2_variant_print(&v, false);
	assert_string_equal(printed, "name: mamba2-130m\ncheckpoint: /srv/models/mamba2-130m\n");
	free(printed);
	free(generated);
}

static void the_demo_variant_is_valid(void **state)
{
	(void)state;
	struct m2_variant v;
	struct m2_why why = {"", ""};
	char *text;
	size_t length;
	const enum m2_err err = m2_variant_read("configs/demo/demo.yaml", &v, &text, &length, &why);
	assert_string_equal(why.text, "");
	assert_int_equal(err, M2_OK);
	assert_int_equal(strlen(text), length);
	free(text);
	assert_string_equal(v.name, "demo");
	assert_int_equal(v.checkpoint[0], '/');
	const size_t n = strlen(v.checkpoint);
	assert_true(n > 13);
	assert_string_equal(v.checkpoint + n - 13, "/configs/demo");
}

static void only_small_regular_files_are_read(void **state)
{
	struct m2_variant v;
	struct m2_why why;
	const char *good = test_path(state, "good.yaml");
	test_write(good, "name: x\ncheckpoint: m\n");
	assert_int_equal(m2_variant_read(good, &v, NULL, NULL, &why), M2_OK);
	assert_string_equal(v.checkpoint, test_path(state, "m"));

	assert_int_equal(
		m2_variant_read(test_path(state, "none.yaml"), &v, NULL, NULL, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "none.yaml: cannot be opened: No such file"));
	assert_int_equal(m2_variant_read(test_path(state, "."), &v, NULL, NULL, &why), M2_EFORMAT);
	assert_non_null(strstr(why.text, "is not a regular file"));
	assert_int_equal(mkfifo(test_path(state, "fifo"), 0600), 0);
	assert_int_equal(
		m2_variant_read(test_path(state, "fifo"), &v, NULL, NULL, &why), M2_EFORMAT);
	assert_int_equal(m2_variant_read("/dev/zero", &v, NULL, NULL, &why), M2_EFORMAT);

	char *big = malloc(M2_LIMIT_VARIANT_YAML_BYTES + 1);
	assert_non_null(big);
	memset(big, '\n', M2_LIMIT_VARIANT_YAML_BYTES + 1);
	test_write_bytes(good, big, M2_LIMIT_VARIANT_YAML_BYTES + 1);
	assert_int_equal(m2_variant_read(good, &v, NULL, NULL, &why), M2_ELIMIT);
	assert_non_null(strstr(why.text, "has more than 65536 bytes"));
	memcpy(big, "name: x\ncheckpoint: /c\n", 23);
	test_write_bytes(good, big, M2_LIMIT_VARIANT_YAML_BYTES);
	assert_int_equal(m2_variant_read(good, &v, NULL, NULL, &why), M2_OK);
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_never_becomes_a_path),
		cmocka_unit_test(defaults_are_those_of_the_table),
		cmocka_unit_test(generation_defaults_have_the_ranges_of_the_wire),
		cmocka_unit_test(relative_paths_are_taken_from_the_files_directory),
		cmocka_unit_test(what_is_printed_reads_back_equal),
		cmocka_unit_test(only_what_differs_from_the_defaults_is_printed_unless_all),
		cmocka_unit_test(the_reference_is_what_the_table_says),
		cmocka_unit_test(the_demo_variant_is_valid),
		cmocka_unit_test_setup_teardown(
			only_small_regular_files_are_read, test_dir_setup, test_dir_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
