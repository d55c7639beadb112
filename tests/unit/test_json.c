/* test_json.c - JSON from outside: what json-c would let through, and the typed getters; strict UTF-8. */
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

#include "common/json.h"
#include "common/utf8.h"

static struct json_object *parse_ok(const char *text)
{
	struct json_object *o = NULL;
	struct m2_why why = {"", ""};
	const enum m2_err err = m2_json_parse(text, strlen(text), 16, "t", &o, &why);
	if (err != M2_OK)
		fail_msg("%s: %s", text, why.text);
	return o;
}

static void expect_refused(const char *text, size_t length, const char *words)
{
	struct json_object *o = NULL;
	struct m2_why why = {"", ""};
	const enum m2_err err = m2_json_parse(text, length, 16, "t", &o, &why);
	if (err != M2_EFORMAT || strstr(why.text, words) == NULL)
		fail_msg("%.*s gave %d \"%s\", expected \"%s\"", (int)length, text, err, why.text,
			words);
	assert_null(o);
}

static void refused(const char *text, const char *words)
{
	expect_refused(text, strlen(text), words);
}

static void a_key_that_occurs_twice_is_refused(void **state)
{
	(void)state;
	refused("{\"a\": 1, \"a\": 2}", "the key \"a\" occurs twice");
	refused("{\"x\": {\"a\": 1, \"b\": [], \"a\": 2}}", "the key \"a\" occurs twice");
	refused("[{\"\": 1, \"\": 2}]", "the key \"\" occurs twice");
	refused("{\"a\": 1, \"\\u0061\": 2}", "a key escapes a plain character");
	refused("{\"\\\"\": 1, \"\\\"\": 2}", "occurs twice");
	/* the same key in different objects, and as a value, is fine */
	json_object_put(parse_ok("{\"a\": {\"a\": \"a\"}, \"b\": [{\"a\": 1}, {\"a\": 2}]}"));
}

static void a_duplicate_is_found_among_many_keys(void **state)
{
	(void)state;
	enum { KEYS = 5000, ROOM = 24 };
	char *text = malloc(KEYS * ROOM);
	assert_non_null(text);
	for (int last = 0; last < 2; last++) {
		size_t n = 0;
		for (int i = 0; i < KEYS; i++)
			n += (size_t)snprintf(text + n, ROOM, "%s\"k%d\":0", i == 0 ? "{" : ",",
				last == 1 && i == KEYS - 1 ? 17 : i);
		text[n++] = '}';
		text[n] = '\0';
		if (last == 1)
			refused(text, "the key \"k17\" occurs twice");
		else
			json_object_put(parse_ok(text));
	}
	free(text);
}

static void nesting_has_a_limit(void **state)
{
	(void)state;
	char text[200];
	struct json_object *o = NULL;
	for (int depth = 15; depth <= 17; depth++) {
		memset(text, '[', (size_t)depth);
		memset(text + depth, ']', (size_t)depth);
		text[2 * depth] = '\0';
		if (depth > 16) {
			refused(text, "nested deeper than 16 levels");
			continue;
		}
		o = parse_ok(text);
		json_object_put(o);
	}
	refused("{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{"
		"\"a\":{\"a\":"
		"{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}}}}}}",
		"nested deeper than 16 levels");
	/* brackets inside strings are not nesting */
	json_object_put(parse_ok("[\"[[[[[[[[[[[[[[[[[[[[[[[[[\", \"{\\\"{{{{{{{{{{{{{{{{{{\"]"));
}

static void only_one_value_and_nothing_after_it(void **state)
{
	(void)state;
	refused("{} {}", "more text after the value");
	refused("{}x", "more text after the value");
	refused("1 2", "more text after the value");
	refused("[1],", "more text after the value");
	refused("{\"a\": 1", "not JSON");
	refused("", "not JSON");
	refused("   ", "not JSON");
	refused("{\"a\" 1}", "not JSON");
	refused("[1] /* note */", "unexpected byte");
	refused("// note\n[1]", "unexpected byte");
	refused("\"open", "a string does not end");
	refused("\"a\nb\"", "control character inside a string at byte 2");
	expect_refused("{}\0", 3, "unexpected byte at 2");
	expect_refused("\"a\0b\"", 5, "control character inside a string");
	json_object_put(parse_ok(" \r\n\t{} \r\n\t"));
	struct json_object *o = parse_ok("12");
	assert_int_equal(json_object_get_int(o), 12);
	json_object_put(o);
}

static void text_must_be_utf8(void **state)
{
	(void)state;
	refused("\"\xff\"", "not valid UTF-8");
	refused("\"\xc0\xaf\"", "not valid UTF-8");
	refused("\"\xed\xa0\x80\"", "not valid UTF-8");
	refused("\"\xf4\x90\x80\x80\"", "not valid UTF-8");
	refused("\"\xe2\x82\"", "not valid UTF-8");
	json_object_put(parse_ok("\"\xe2\x82\xac \xf0\x9f\x90\x8d\""));
}

static void infinity_is_read_in_every_spelling_that_checkpoints_have(void **state)
{
	(void)state;
	const char *plus[] = {"{\"x\": Infinity}", "{\"x\": {\"__float__\": \"Infinity\"}}",
		"{\"x\": \"Infinity\"}", "{\"x\": \"inf\"}"};
	const char *minus[] = {"{\"x\": -Infinity}", "{\"x\": {\"__float__\": \"-Infinity\"}}",
		"{\"x\": \"-inf\"}"};
	for (int i = 0; i < 7; i++) {
		struct json_object *o = parse_ok(i < 4 ? plus[i] : minus[i - 4]);
		double d = 0;
		bool found = false;
		assert_int_equal(
			m2_json_get_double(o, "x", -INFINITY, INFINITY, &d, &found, NULL), M2_OK);
		assert_true(found && isinf(d) && (d > 0) == (i < 4));
		assert_int_equal(m2_json_get_double(o, "x", -10, 10, &d, NULL, NULL), M2_EINVAL);
		json_object_put(o);
	}
	struct json_object *o = parse_ok("{\"x\": {\"__float__\": \"Infinity\", \"y\": 1}, "
					 "\"z\": \"12\", \"n\": NaN}");
	double d = 5;
	assert_int_equal(m2_json_get_double(o, "x", 0, 1, &d, NULL, NULL), M2_EINVAL);
	assert_int_equal(m2_json_get_double(o, "z", 0, 100, &d, NULL, NULL), M2_EINVAL);
	assert_int_equal(
		m2_json_get_double(o, "n", -INFINITY, INFINITY, &d, NULL, NULL), M2_EINVAL);
	assert_true(d == 5);
	json_object_put(o);
}

static void integers_are_whole_and_in_range(void **state)
{
	(void)state;
	struct json_object *o = parse_ok(
		"{\"a\": 7, \"whole\": 2.0, \"half\": 2.5, \"big\": 9223372036854775808, "
		"\"small\": -9223372036854775809, \"huge\": 1e300, \"exact\": 9007199254740992.0, "
		"\"over\": 9007199254740994.0, \"s\": \"7\", \"b\": true, \"null\": null, "
		"\"near\": 9223372036854775806}");
	struct m2_why why;
	int64_t n = -5;
	bool found = true;
	assert_int_equal(m2_json_get_int(o, "a", 7, 7, &n, &found, NULL), M2_OK);
	assert_true(found);
	assert_int_equal(n, 7);
	assert_int_equal(m2_json_get_int(o, "whole", 0, 9, &n, NULL, NULL), M2_OK);
	assert_int_equal(n, 2);
	assert_int_equal(m2_json_get_int(o, "exact", 0, INT64_MAX, &n, NULL, NULL), M2_OK);
	assert_int_equal(n, INT64_C(9007199254740992));
	assert_int_equal(m2_json_get_int(o, "near", 0, INT64_MAX, &n, NULL, NULL), M2_OK);
	n = -5;
	const char *bad[] = {"half", "big", "small", "huge", "over", "s", "b"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (m2_json_get_int(o, bad[i], INT64_MIN, INT64_MAX, &n, NULL, &why) != M2_EINVAL)
			fail_msg("%s was taken as %lld", bad[i], (long long)n);
		assert_string_equal(why.field, bad[i]);
	}
	assert_int_equal(m2_json_get_int(o, "a", 8, 9, &n, NULL, &why), M2_EINVAL);
	assert_string_equal(why.text, "a is 7, outside 8..9");
	assert_int_equal(m2_json_get_int(o, "a", 1, 6, &n, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_int(o, "null", 1, 6, &n, &found, &why), M2_OK);
	assert_false(found);
	found = true;
	assert_int_equal(m2_json_get_int(o, "absent", 1, 6, &n, &found, &why), M2_OK);
	assert_false(found);
	assert_int_equal(n, -5); /* untouched by all of these */
	json_object_put(o);
}

static void getters_refuse_other_types_and_name_the_key(void **state)
{
	(void)state;
	struct json_object *o = parse_ok("{\"i\": 1, \"s\": \"text\", \"nul\": \"a\\u0000b\", "
					 "\"l\": [1, 2, 3], \"o\": {\"k\": 1}, \"t\": true}");
	struct m2_why why;
	const char *text = NULL;
	size_t length = 0;
	bool b = false, found = false;
	double d;
	struct json_object *inner = NULL;
	assert_int_equal(m2_json_get_string(o, "s", 4, &text, &length, &found, &why), M2_OK);
	assert_string_equal(text, "text");
	assert_int_equal(length, 4);
	assert_int_equal(m2_json_get_string(o, "s", 3, &text, NULL, NULL, &why), M2_EINVAL);
	assert_string_equal(why.text, "s has 4 bytes, more than 3");
	assert_int_equal(m2_json_get_string(o, "nul", 9, &text, NULL, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_string(o, "i", 9, &text, NULL, NULL, &why), M2_EINVAL);
	assert_string_equal(why.field, "i");
	assert_int_equal(m2_json_get_bool(o, "t", &b, &found, &why), M2_OK);
	assert_true(b && found);
	assert_int_equal(m2_json_get_bool(o, "i", &b, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_double(o, "i", 0, 1, &d, NULL, &why), M2_OK);
	assert_int_equal(m2_json_get_double(o, "t", 0, 1, &d, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_array(o, "l", 3, &inner, &found, &why), M2_OK);
	assert_int_equal(json_object_array_length(inner), 3);
	assert_int_equal(m2_json_get_array(o, "l", 2, &inner, NULL, &why), M2_EINVAL);
	assert_null(inner);
	assert_int_equal(m2_json_get_array(o, "o", 2, &inner, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_object(o, "o", &inner, &found, &why), M2_OK);
	assert_true(found && inner != NULL);
	assert_int_equal(m2_json_get_object(o, "l", &inner, NULL, &why), M2_EINVAL);
	assert_int_equal(m2_json_get_object(o, "absent", &inner, &found, &why), M2_OK);
	assert_true(!found && inner == NULL);
	const char *const all[] = {"i", "s", "nul", "l", "o", "t", NULL};
	const char *const some[] = {"i", "s", "nul", "l", "o", NULL};
	assert_int_equal(m2_json_refuse_unknown(o, all, &why), M2_OK);
	assert_int_equal(m2_json_refuse_unknown(o, some, &why), M2_EINVAL);
	assert_string_equal(why.text, "unknown key \"t\"");
	json_object_put(o);
}

/* The decoder against the definition: every scalar value there and back, everything else refused. */
static void utf8_takes_exactly_the_scalar_values(void **state)
{
	(void)state;
	for (uint32_t code = 0; code <= 0x110000; code++) {
		unsigned char bytes[4];
		uint32_t back = 0;
		const bool scalar = code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
		const int n = m2_utf8_encode(code, bytes);
		assert_int_equal(n > 0, scalar);
		if (!scalar)
			continue;
		assert_int_equal(m2_utf8_decode(bytes, (size_t)n, &back), n);
		assert_int_equal(back, code);
		for (int cut = 1; cut < n; cut++)
			assert_int_equal(m2_utf8_decode(bytes, (size_t)cut, &back), 0);
	}
	uint64_t valid = 0; /* all three-byte strings: as many valid ones as counting says */
	for (uint32_t i = 0; i < 1u << 24; i++) {
		const char text[3] = {(char)(i >> 16), (char)(i >> 8), (char)i};
		valid += m2_utf8_valid(text, 3);
	}
	const uint64_t two = 0x800 - 0x80, three = 0x10000 - 0x800 - 0x800;
	assert_int_equal(valid, UINT64_C(128) * 128 * 128 + 2 * 128 * two + three);
}

static void utf8_names_the_maximal_invalid_part(void **state)
{
	(void)state;
	const struct {
		const char *text;
		int result;
	} cases[] = {{"\x80", -1}, {"\xff", -1}, {"\xc0\x80", -1}, {"\xc1\xbf", -1},
		{"\xe0\x80\x80", -1}, {"\xe2\x82z", -2}, {"\xf0\x9f\x90z", -3},
		{"\xf0\x80\x80\x80", -1}, {"\xed\xa0\x80", -1}, {"\xf4\x90\x80\x80", -1},
		{"\xf5\x80", -1}, {"\xe2z", -1}, {"\xe2\x82", 0}, {"\xf0", 0}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint32_t code;
		const int got = m2_utf8_decode(
			(const unsigned char *)cases[i].text, strlen(cases[i].text), &code);
		if (got != cases[i].result)
			fail_msg("case %zu: %d, expected %d", i, got, cases[i].result);
	}
	assert_true(m2_utf8_valid("", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_that_occurs_twice_is_refused),
		cmocka_unit_test(a_duplicate_is_found_among_many_keys),
		cmocka_unit_test(nesting_has_a_limit),
		cmocka_unit_test(only_one_value_and_nothing_after_it),
		cmocka_unit_test(text_must_be_utf8),
		cmocka_unit_test(infinity_is_read_in_every_spelling_that_checkpoints_have),
		cmocka_unit_test(integers_are_whole_and_in_range),
		cmocka_unit_test(getters_refuse_other_types_and_name_the_key),
		cmocka_unit_test(utf8_takes_exactly_the_scalar_values),
		cmocka_unit_test(utf8_names_the_maximal_invalid_part),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
