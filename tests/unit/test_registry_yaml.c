/* test_registry_yaml.c - what the table engine takes and what it refuses, with file, line and column.
 *
 * The variant's table is the table under test; every refusal is compared as a whole sentence.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/variant.h"

struct refusal {
	const char *text;
	enum m2_err err;
	const char *field;
	const char *why;
};

#define NAME   "name: x\ncheckpoint: /x\n"
#define A_NAME "a name (^[a-z0-9][a-z0-9._-]{0,63}$)"

static void expect_refusals(const struct refusal *list, size_t count)
{
	struct m2_variant v;
	for (size_t i = 0; i < count; i++) {
		struct m2_why why = {"", ""};
		const enum m2_err err = m2_variant_parse(
			list[i].text, strlen(list[i].text), "v.yaml", NULL, &v, &why);
		if (err != list[i].err || strcmp(why.text, list[i].why) != 0 ||
			strcmp(why.field, list[i].field) != 0)
			fail_msg("%s\n  gave     %d [%s] %s\n  expected %d [%s] %s", list[i].text,
				err, why.field, why.text, list[i].err, list[i].field, list[i].why);
	}
}

#define EXPECT(list) expect_refusals(list, sizeof(list) / sizeof((list)[0]))

static void unknown_and_repeated_keys_are_refused(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{NAME "slotz: 3\n", M2_EINVAL, "slotz",
			"v.yaml:3:1: slotz: unknown key; did you mean slots?"},
		{NAME "colour: red\n", M2_EINVAL, "colour", "v.yaml:3:1: colour: unknown key"},
		{NAME "temperature: 1\n", M2_EINVAL, "temperature",
			"v.yaml:3:1: temperature: unknown key; did you mean defaults.temperature?"},
		{NAME "defaults:\n  slots: 1\n", M2_EINVAL, "defaults.slots",
			"v.yaml:4:3: defaults.slots: unknown key; did you mean slots?"},
		{NAME "\"defaults.top_k\": 1\n", M2_EINVAL, "defaults.top_k",
			"v.yaml:3:1: defaults.top_k: unknown key; did you mean defaults.top_k?"},
		{NAME "<<: {slots: 1}\n", M2_EINVAL, "<<", "v.yaml:3:1: <<: unknown key"},
		{NAME "\"\": 1\n", M2_EINVAL, "", "v.yaml:3:1: unknown key"},
		{NAME "name: y\n", M2_EINVAL, "name",
			"v.yaml:3:1: name: given twice; first in line 1"},
		{NAME "defaults: {top_k: 1}\ndefaults: {top_p: 1}\n", M2_EINVAL, "defaults",
			"v.yaml:4:1: defaults: given twice"},
		{NAME "defaults: {top_k: 1, top_k: 1}\n", M2_EINVAL, "defaults.top_k",
			"v.yaml:3:22: defaults.top_k: given twice; first in line 3"},
		{NAME "? [a]\n: b\n", M2_EINVAL, "",
			"v.yaml:3:3: a key must be a word, not a list or mapping"},
		{"checkpoint: /x\n", M2_EINVAL, "name",
			"v.yaml:1:1: name: is required and not given"},
		{"", M2_EINVAL, "name", "v.yaml:1:1: name: is required and not given"},
		{"# nothing\n---\n", M2_EINVAL, "name",
			"v.yaml:3:1: name: is required and not given"},
		{"- a\n", M2_EINVAL, "", "v.yaml:1:1: wants a mapping, lines of \"key: value\""},
		{"text\n", M2_EINVAL, "", "v.yaml:1:1: wants a mapping, lines of \"key: value\""},
	};
	EXPECT(list);
}

static void wrong_types_are_refused(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{NAME "slots: \"5\"\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not the string \"5\""},
		{NAME "slots: 5.0\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 5.0"},
		{NAME "slots: 010\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 010"},
		{NAME "slots: 0x10\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 0x10"},
		{NAME "slots: 1_000\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 1_000"},
		{NAME "slots: [1]\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not a list"},
		{NAME "slots: {a: 1}\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not a mapping"},
		{NAME "preload: yes\n", M2_EINVAL, "preload",
			"v.yaml:3:10: preload: wants true or false, not yes"},
		{NAME "preload: \"true\"\n", M2_EINVAL, "preload",
			"v.yaml:3:10: preload: wants true or false, not the string \"true\""},
		{NAME "defaults: {top_p: \"1\"}\n", M2_EINVAL, "defaults.top_p",
			"v.yaml:3:19: defaults.top_p: wants a number, 0..1, not the string \"1\""},
		{NAME "defaults: {top_p: 0x1}\n", M2_EINVAL, "defaults.top_p",
			"v.yaml:3:19: defaults.top_p: wants a number, 0..1, not 0x1"},
		{NAME "description: 5\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: wants text; 5 is a number unless it is quoted"},
		{"name: true\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: wants text; true is a truth value unless it is quoted"},
		{NAME "aliases: a\n", M2_EINVAL, "aliases",
			"v.yaml:3:10: aliases: wants a list, [a, b], not a"},
		{NAME "aliases: {a: b}\n", M2_EINVAL, "aliases",
			"v.yaml:3:10: aliases: wants a list, [a, b], not a mapping"},
		{NAME "aliases: [[a]]\n", M2_EINVAL, "aliases",
			"v.yaml:3:11: aliases: a list or mapping inside the list"},
		{NAME "aliases: [a, {b: c}]\n", M2_EINVAL, "aliases",
			"v.yaml:3:14: aliases: a list or mapping inside the list"},
		{NAME "defaults: 5\n", M2_EINVAL, "defaults",
			"v.yaml:3:11: defaults: wants a mapping of keys; leave it out to get the "
			"defaults"},
		{NAME "defaults: [1]\n", M2_EINVAL, "defaults",
			"v.yaml:3:11: defaults: wants a mapping of keys; leave it out to get the "
			"defaults"},
		{NAME "keep_alive: 300\n", M2_EINVAL, "keep_alive",
			"v.yaml:3:13: keep_alive: wants a time (30s, 5m, 2h, 1d), 0s..365d or "
			"forever, "
			"not 300"},
		{NAME "keep_alive: 5 m\n", M2_EINVAL, "keep_alive",
			"v.yaml:3:13: keep_alive: wants a time (30s, 5m, 2h, 1d), 0s..365d or "
			"forever, "
			"not 5 m"},
		{NAME "weights: fp16\n", M2_EINVAL, "weights",
			"v.yaml:3:10: weights: wants stored, f32, f16, bf16 or int8, not fp16"},
		{NAME "state: bf16\n", M2_EINVAL, "state",
			"v.yaml:3:8: state: wants f32, not bf16"},
	};
	EXPECT(list);
}

static void nothing_is_not_a_value(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{NAME "slots:\n", M2_EINVAL, "slots",
			"v.yaml:3:7: slots: has no value; leave it out to get the default"},
		{NAME "description: ~\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: has no value; leave it out to get the default"},
		{NAME "device: null\n", M2_EINVAL, "device",
			"v.yaml:3:9: device: has no value; leave it out to get the default"},
		{NAME "aliases:\n", M2_EINVAL, "aliases",
			"v.yaml:3:9: aliases: has no value; leave it out to get the default"},
		{NAME "aliases: [a, null]\n", M2_EINVAL, "aliases",
			"v.yaml:3:14: aliases: entry 2 has no value; leave it out to get the "
			"default"},
		{NAME "defaults:\n", M2_EINVAL, "defaults",
			"v.yaml:3:10: defaults: wants a mapping of keys; leave it out to get the "
			"defaults"},
		{"name: x\ncheckpoint: \"\"\n", M2_EINVAL, "checkpoint",
			"v.yaml:2:13: checkpoint: is empty"},
	};
	EXPECT(list);
}

static void values_out_of_range_are_refused(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{NAME "slots: 0\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 0"},
		{NAME "slots: 4097\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 4097"},
		{NAME "slots: 18446744073709551617\n", M2_EINVAL, "slots",
			"v.yaml:3:8: slots: wants an integer, 1..4096, not 18446744073709551617"},
		{NAME "keep_alive: 366d\n", M2_EINVAL, "keep_alive",
			"v.yaml:3:13: keep_alive: wants a time (30s, 5m, 2h, 1d), 0s..365d or "
			"forever, "
			"not 366d"},
		{NAME "keep_alive: 106751991167301d\n", M2_EINVAL, "keep_alive",
			"v.yaml:3:13: keep_alive: wants a time (30s, 5m, 2h, 1d), 0s..365d or "
			"forever, "
			"not 106751991167301d"},
		{NAME "keep_alive: -1s\n", M2_EINVAL, "keep_alive",
			"v.yaml:3:13: keep_alive: wants a time (30s, 5m, 2h, 1d), 0s..365d or "
			"forever, "
			"not -1s"},
		{NAME "defaults: {temperature: -0.1}\n", M2_EINVAL, "defaults.temperature",
			"v.yaml:3:25: defaults.temperature: wants a number, 0..100, not -0.1"},
		{NAME "defaults: {temperature: .nan}\n", M2_EINVAL, "defaults.temperature",
			"v.yaml:3:25: defaults.temperature: wants a number, 0..100, not .nan"},
		{NAME "defaults: {temperature: 1e999}\n", M2_EINVAL, "defaults.temperature",
			"v.yaml:3:25: defaults.temperature: wants a number, 0..100, not 1e999"},
		{NAME "defaults: {stop_tokens: [1, -1]}\n", M2_EINVAL, "defaults.stop_tokens",
			"v.yaml:3:29: defaults.stop_tokens: entry 2 wants an integer, 0..16777215, "
			"not "
			"-1"},
		{NAME "device: cuda:64\n", M2_EINVAL, "device",
			"v.yaml:3:9: device: wants auto, cpu or cuda:N (N in 0..63), not cuda:64"},
		{NAME "device: cuda:00\n", M2_EINVAL, "device",
			"v.yaml:3:9: device: wants auto, cpu or cuda:N (N in 0..63), not cuda:00"},
		{NAME "device: cuda\n", M2_EINVAL, "device",
			"v.yaml:3:9: device: wants auto, cpu or cuda:N (N in 0..63), not cuda"},
		{"name: ../etc\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: wants " A_NAME ", not ../etc"},
		{NAME "aliases: [b, B]\n", M2_EINVAL, "aliases",
			"v.yaml:3:14: aliases: entry 2 wants " A_NAME ", not B"},
		{NAME "aliases: [b, c, b]\n", M2_EINVAL, "aliases",
			"v.yaml:3:17: aliases: entry 3 is the same as entry 1"},
		{NAME "aliases: [b, x]\n", M2_EINVAL, "aliases",
			"v.yaml:3:10: aliases: entry 2 is the variant's own name"},
		{NAME "aliases: [a0,a1,a2,a3,a4,a5,a6,a7,a8,a9,b0,b1,b2,b3,b4,b5,b6]\n", M2_EINVAL,
			"aliases", "v.yaml:3:59: aliases: more than 16 entries"},
		{NAME "access: {users: [\"a b\"]}\n", M2_EINVAL, "access.users",
			"v.yaml:3:18: access.users: entry 1 wants a name or a numeric id of at "
			"most 32 "
			"bytes, not the string \"a b\""},
		{NAME "access: {users: [\"\"]}\n", M2_EINVAL, "access.users",
			"v.yaml:3:18: access.users: entry 1 is empty"},
		{NAME "access: {users: [a, a]}\n", M2_EINVAL, "access.users",
			"v.yaml:3:21: access.users: entry 2 is the same as entry 1"},
	};
	EXPECT(list);
}

static void what_makes_yaml_dangerous_is_refused(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{"name: &a x\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: YAML anchors (&name) are not taken"},
		{"name: x\ncheckpoint: *a\n", M2_EINVAL, "checkpoint",
			"v.yaml:2:13: checkpoint: YAML aliases (*name) are not taken"},
		{"*a : x\n", M2_EINVAL, "", "v.yaml:1:1: YAML aliases (*name) are not taken"},
		{"name: !!str x\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: YAML tags (!name) are not taken"},
		{"name: ! x\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: YAML tags (!name) are not taken"},
		{"&a {name: x}\n", M2_EINVAL, "", "v.yaml:1:1: YAML anchors (&name) are not taken"},
		{NAME "aliases: !!set [a]\n", M2_EINVAL, "aliases",
			"v.yaml:3:10: aliases: YAML tags (!name) are not taken"},
		{"%TAG ! tag:x\n---\nname: x\n", M2_EINVAL, "",
			"v.yaml:1:1: YAML tag directives are not taken"},
		{NAME "---\nname: y\n", M2_EINVAL, "",
			"v.yaml:3:1: a second document; one file holds one"},
		{NAME "description: |\n  a\n  b\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: wants one line of text (a block needs >-)"},
		{NAME "description: \"a\\x1b[31m\"\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: holds the control character U+001B"},
		{NAME "description: \"a\\0b\"\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: holds the control character U+0000"},
		{NAME "description: \"\\x9b\"\n", M2_EINVAL, "description",
			"v.yaml:3:14: description: holds the control character U+009B"},
		{"name: \"x\\0y\"\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: holds the control character U+0000"},
		{NAME "\"slots\\0\": 1\n", M2_EINVAL, "", "v.yaml:3:1: an unknown key"},
		{NAME "device: \"cpu\\0\"\n", M2_EINVAL, "device",
			"v.yaml:3:9: device: wants auto, cpu or cuda:N (N in 0..63), not the "
			"string "
			"\"cpu\""},
		{"name: {{{{{{{{\n", M2_EINVAL, "name",
			"v.yaml:1:7: name: wants " A_NAME ", not a mapping"},
	};
	EXPECT(list);
}

static void what_is_no_yaml_is_a_format_error_with_a_place(void **state)
{
	(void)state;
	const struct refusal list[] = {
		{"name: x\n\xff: 1\n", M2_EFORMAT, "", "v.yaml:2:1: not YAML: not valid UTF-8"},
		{"name: \xc3\xa4\xc3\xa4\xc0\x80\n", M2_EFORMAT, "",
			"v.yaml:1:9: not YAML: not valid UTF-8"},
		{"aliases: [x\n", M2_EFORMAT, "",
			"v.yaml:2:1: not YAML: did not find expected ',' or ']'"},
		{"name: x\n\tslots: 3\n", M2_EFORMAT, "",
			"v.yaml:2:1: not YAML: found a tab character that violates indentation"},
		{"a\x01: b\n", M2_EFORMAT, "",
			"v.yaml:1:2: not YAML: control characters are not allowed"},
	};
	EXPECT(list);
	struct m2_variant v;
	struct m2_why why;
	assert_int_equal(m2_variant_parse("name: x\0y\n", 10, "v", NULL, &v, &why), M2_EFORMAT);
	assert_string_equal(why.text, "v:1:8: not YAML: a NUL byte");
	assert_int_equal(
		m2_variant_parse("\xff\xfen\0a\0m\0e\0", 10, "v", NULL, &v, &why), M2_EFORMAT);
}

static void a_text_that_is_too_long_is_not_looked_at(void **state)
{
	(void)state;
	struct m2_variant v;
	struct m2_why why;
	const size_t length = M2_LIMIT_VARIANT_YAML_BYTES + 1;
	char *text = malloc(length);
	assert_non_null(text);
	memset(text, '#', length);
	assert_int_equal(m2_variant_parse(text, length, "v", NULL, &v, &why), M2_ELIMIT);
	assert_string_equal(why.text, "v: has 65537 bytes, more than 65536");
	/* and one of exactly the limit is: it is one comment */
	assert_int_equal(m2_variant_parse(text, length - 1, "v", NULL, &v, &why), M2_EINVAL);
	free(text);
}

static void strings_that_do_not_fit_are_refused_and_not_cut(void **state)
{
	(void)state;
	struct m2_variant v;
	struct m2_why why;
	char text[2400];
	for (int n = 511; n <= 513; n++) {
		(void)snprintf(text, sizeof text, NAME "description: %0*d.x\n", n - 2, 0);
		const enum m2_err err = m2_variant_parse(text, strlen(text), "v", NULL, &v, &why);
		assert_int_equal(err, n <= 512 ? M2_OK : M2_EINVAL);
		if (n <= 512)
			assert_int_equal(strlen(v.description), n);
	}
	assert_string_equal(why.text, "v:3:14: description: has 513 bytes, more than 512");
	(void)snprintf(text, sizeof text, "name: x\ncheckpoint: /%01024d\n", 0);
	assert_int_equal(m2_variant_parse(text, strlen(text), "v", NULL, &v, &why), M2_EINVAL);
	assert_string_equal(why.text, "v:2:13: checkpoint: has 1025 bytes, more than 1024");
	(void)snprintf(text, sizeof text, "name: x\ncheckpoint: %01021d.x\n", 0);
	assert_int_equal(m2_variant_parse(text, strlen(text), "v", "/b", &v, &why), M2_EINVAL);
	assert_string_equal(
		why.text, "v:2:13: checkpoint: has 1026 bytes with its directory, more than 1024");
	(void)snprintf(text, sizeof text, "name: %065d.x\n", 0);
	assert_int_equal(m2_variant_parse(text, strlen(text), "v", NULL, &v, &why), M2_EINVAL);
}

static void the_reason_is_readable_however_long_the_path_is(void **state)
{
	(void)state;
	struct m2_variant v;
	struct m2_why why;
	char source[1000];
	memset(source, 'd', sizeof source);
	(void)snprintf(source + 900, sizeof source - 900, "/file.yaml");
	assert_int_equal(m2_variant_parse("slotz: 1\n", 9, source, NULL, &v, &why), M2_EINVAL);
	assert_memory_equal(why.text, "...ddd", 6);
	assert_non_null(
		strstr(why.text, "/file.yaml:1:1: slotz: unknown key; did you mean slots?"));
}

static void the_accepted_forms_are_accepted(void **state)
{
	(void)state;
	struct m2_variant v;
	struct m2_why why = {"", ""};
	const char *text = "\xef\xbb\xbf%YAML 1.1\n--- # a comment\n"
			   "'name': \"x.1-2_3\"\n"
			   "aliases:\n- a\n- \"1\"\n"
			   "description: >\n  \xc3\xa4 folded\n  line\n"
			   "checkpoint: ./models/../x\n"
			   "tokenizer: none\n"
			   "device: cuda:63\n"
			   "weights: \"bf16\"\n"
			   "preload: True\n"
			   "keep_alive: 90m\n"
			   "access: {users: [alice, 1001, \"1002\"], groups: []}\n"
			   "defaults:\n  temperature: 5e-1\n  top_p: 1\n  presence_penalty: -1.25\n"
			   "  stop_tokens: [0, 7]\n"
			   "...\n";
	const enum m2_err err = m2_variant_parse(text, strlen(text), "v", "/base/", &v, &why);
	assert_string_equal(why.text, "");
	assert_int_equal(err, M2_OK);
	assert_string_equal(v.name, "x.1-2_3");
	assert_int_equal(v.n_aliases, 2);
	assert_string_equal(v.aliases[1], "1");
	assert_string_equal(v.description, "\xc3\xa4 folded line");
	assert_string_equal(v.checkpoint, "/base/models/../x");
	assert_string_equal(v.tokenizer, "none");
	assert_int_equal(v.device, M2_DEVICE_CUDA);
	assert_int_equal(v.device_ordinal, 63);
	assert_int_equal(v.weights, M2_DTYPE_BF16);
	assert_true(v.preload);
	assert_int_equal(v.keep_alive_s, 5400);
	assert_int_equal(v.n_users, 3);
	assert_string_equal(v.users[1], "1001");
	assert_string_equal(v.users[2], "1002");
	assert_int_equal(v.n_groups, 0);
	assert_true(v.defaults.temperature == 0.5f);
	assert_true(v.defaults.presence_penalty == -1.25f);
	assert_int_equal(v.defaults.n_stop_tokens, 2);
	assert_int_equal(v.defaults.stop_tokens[1], 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_and_repeated_keys_are_refused),
		cmocka_unit_test(wrong_types_are_refused),
		cmocka_unit_test(nothing_is_not_a_value),
		cmocka_unit_test(values_out_of_range_are_refused),
		cmocka_unit_test(what_makes_yaml_dangerous_is_refused),
		cmocka_unit_test(what_is_no_yaml_is_a_format_error_with_a_place),
		cmocka_unit_test(a_text_that_is_too_long_is_not_looked_at),
		cmocka_unit_test(strings_that_do_not_fit_are_refused_and_not_cut),
		cmocka_unit_test(the_reason_is_readable_however_long_the_path_is),
		cmocka_unit_test(the_accepted_forms_are_accepted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
