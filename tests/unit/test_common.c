/* test_common.c - errors, checked sizes, UTF-8, the log's sanitising, and the tables of the wire. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/err.h"
#include "common/log.h"
#include "common/num.h"
#include "common/utf8.h"
#include "common/wire.h"

static void every_error_has_its_own_number_and_code(void **state)
{
	(void)state;
	for (int i = 0; i < M2_ERR_COUNT; i++) {
		const enum m2_err err = (enum m2_err)i;
		assert_int_equal(m2_err_from_number(i), err);
		assert_int_equal(m2_err_from_code(m2_err_code(err)), err);
		assert_true(strlen(m2_err_advice(err)) > 10);
	}
	assert_int_equal(m2_err_from_number(-1), M2_EINTERNAL);
	assert_int_equal(m2_err_from_number(9999), M2_EINTERNAL);
	assert_int_equal(m2_err_from_code("no such code"), M2_EINTERNAL);
}

static void a_long_sentence_is_cut_visibly(void **state)
{
	(void)state;
	struct m2_why why;
	char text[2000];
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	assert_int_equal(m2_fail_field(M2_EIO, &why, "field", "%s", text), M2_EIO);
	assert_int_equal(strlen(why.text), sizeof why.text - 1);
	assert_string_equal(why.text + sizeof why.text - 4, "...");
	assert_string_equal(why.field, "field");
	assert_int_equal(m2_fail(M2_EIO, NULL, "nobody listens"), M2_EIO);
}

static void a_sentence_cannot_drive_a_terminal(void **state)
{
	(void)state;
	struct m2_why why;
	(void)m2_fail(M2_EFORMAT, &why, "tensor %s", "a\x1b[31m\nb");
	assert_string_equal(why.text, "tensor a?[31m?b");
}

static void log_lines_are_single_and_bounded(void **state)
{
	(void)state;
	int pipe_ends[2];
	assert_int_equal(pipe(pipe_ends), 0);
	const int saved = dup(STDERR_FILENO);
	assert_true(dup2(pipe_ends[1], STDERR_FILENO) >= 0);
	char text[3000];
	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	m2_log_init("test", M2_LOG_INFO, true);
	m2_info("one\ntwo %s", text);
	m2_debug("not shown");
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	close(saved);
	close(pipe_ends[1]);
	char got[4096];
	const ssize_t n = read(pipe_ends[0], got, sizeof got - 1);
	close(pipe_ends[0]);
	assert_true(n > 0 && n <= 1024);
	got[n] = '\0';
	assert_memory_equal(got, "<6>test: one?two xxx", 20);
	assert_string_equal(got + n - 4, "...\n");
	assert_ptr_equal(strchr(got, '\n'), got + n - 1);
}

static void sizes_do_not_wrap(void **state)
{
	(void)state;
	size_t out = 7;
	assert_false(m2_mul_size(SIZE_MAX / 2, 3, &out));
	assert_false(m2_add_size(SIZE_MAX, 1, &out));
	assert_false(m2_round_up_size(SIZE_MAX - 3, 64, &out));
	assert_int_equal(out, 7);
	assert_true(m2_round_up_size(65, 64, &out));
	assert_int_equal(out, 128);
	size_t total = SIZE_MAX - 10;
	assert_false(m2_add_mul_size(&total, 4, 4));
	assert_true(total == SIZE_MAX - 10);
}

/* Against the definition: every scalar value round-trips, and nothing else decodes. */
static void utf8_accepts_exactly_the_scalar_values(void **state)
{
	(void)state;
	for (uint32_t code = 0; code <= 0x110000; code++) {
		unsigned char bytes[4];
		const int n = m2_utf8_encode(code, bytes);
		const int scalar = code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
		assert_int_equal(n > 0, scalar);
		uint32_t back;
		if (n > 0) {
			assert_int_equal(m2_utf8_decode(bytes, (size_t)n, &back), n);
			assert_int_equal(back, code);
			for (int short_of = 1; short_of < n; short_of++)
				assert_int_equal(m2_utf8_decode(bytes, (size_t)short_of, &back), 0);
		}
	}
	static const struct {
		const char *bytes;
		int want;
	} bad[] = {{"\x80", -1}, {"\xc0\x80", -1}, {"\xc1\xbf", -1}, {"\xe0\x80\x80", -1},
		{"\xed\xa0\x80", -1}, {"\xf4\x90\x80\x80", -1}, {"\xf5\x80\x80\x80", -1},
		{"\xe2\x82(", -2}, {"\xf0\x9f\x98(", -3}, {"\xc3(", -1}, {"\xff", -1}};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		uint32_t code;
		assert_int_equal(m2_utf8_decode((const unsigned char *)bad[i].bytes,
					 strlen(bad[i].bytes), &code),
			bad[i].want);
		assert_false(m2_utf8_valid(bad[i].bytes, strlen(bad[i].bytes)));
	}
	assert_true(m2_utf8_valid("na\xc3\xafve \xf0\x9f\xa6\x99", 11));
	assert_false(m2_utf8_valid("\xf0\x9f", 2));
}

static void every_op_and_field_is_found_by_name(void **state)
{
	(void)state;
	for (int i = 1; i < M2_OP_COUNT; i++)
		assert_int_equal(m2_op_from_name(m2_op_name((enum m2_op)i)), i);
	assert_int_equal(m2_op_from_name("nothing"), M2_OP_NONE);
	assert_int_equal(m2_op_endpoint(M2_OP_GENERATE), M2_ENDPOINT_CLIENT);
	assert_int_equal(m2_op_endpoint(M2_OP_REGISTER), M2_ENDPOINT_CONTROL);
	int count;
	const struct m2_field *fields = m2_wire_fields(&count);
	for (int i = 0; i < count; i++) {
		assert_ptr_equal(m2_wire_field(fields[i].name), &fields[i]);
		assert_true(fields[i].min <= fields[i].max);
		assert_true(fields[i].ops != 0);
	}
	assert_null(m2_wire_field("nothing"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_error_has_its_own_number_and_code),
		cmocka_unit_test(a_long_sentence_is_cut_visibly),
		cmocka_unit_test(a_sentence_cannot_drive_a_terminal),
		cmocka_unit_test(log_lines_are_single_and_bounded),
		cmocka_unit_test(sizes_do_not_wrap),
		cmocka_unit_test(utf8_accepts_exactly_the_scalar_values),
		cmocka_unit_test(every_op_and_field_is_found_by_name),
	};
	return cmocka_run_group_tests_name("common", tests, NULL, NULL);
}
