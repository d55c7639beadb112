/* common/PROTOCOL.md against the tables and structs it describes: every row, every offset.
 *
 * The page is found relative to this test's source root: the working directory, or above it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/results.h"
#include "common/wire.h"

static char *page;

static int read_page(void **state)
{
	static const char *const places[] = {
		"common/PROTOCOL.md", "../common/PROTOCOL.md", "../../common/PROTOCOL.md"};
	FILE *file = NULL;
	(void)state;
	for (size_t i = 0; i < sizeof places / sizeof places[0] && file == NULL; i++)
		file = fopen(places[i], "rb");
	assert_non_null(file);
	page = calloc(1, 1 << 20);
	assert_non_null(page);
	const size_t n = fread(page, 1, (1 << 20) - 1, file);
	(void)fclose(file);
	assert_in_range(n, 1000, (1 << 20) - 2);
	return 0;
}

static int free_page(void **state)
{
	(void)state;
	free(page);
	return 0;
}

/* Some line begins with `start` and, if `end` is not NULL, ends with it. */
static void expect_line(const char *start, const char *end)
{
	const size_t n = strlen(start);
	for (const char *line = page; *line != '\0'; line += strcspn(line, "\n") + 1) {
		const size_t length = strcspn(line, "\n");
		if (length >= n && strncmp(line, start, n) == 0 &&
			(end == NULL ||
				(length >= strlen(end) && strncmp(line + length - strlen(end), end,
								  strlen(end)) == 0)))
			return;
		if (line[length] == '\0')
			break;
	}
	fail_msg("PROTOCOL.md has no line \"%s ... %s\"", start, end != NULL ? end : "");
}

static void every_request_is_in_the_page(void **state)
{
	(void)state;
#define M2_OP(name, text, where, doc)                                                              \
	expect_line("| `" text "` | ", " | " doc " |");                                            \
	expect_line(M2_ENDPOINT_##where == M2_ENDPOINT_CLIENT ? "| `" text "` | client |"          \
							      : "| `" text "` | control |",        \
		NULL);
#include "common/ops.def"
#undef M2_OP
}

static void every_field_is_in_the_page_with_its_range(void **state)
{
	int count;
	const struct m2_field *fields = m2_wire_fields(&count);
	(void)state;
	for (int i = 0; i < count; i++) {
		static const char *const types[] = {[M2_FIELD_INT] = "integer",
			[M2_FIELD_FLOAT] = "number",
			[M2_FIELD_BOOL] = "boolean",
			[M2_FIELD_STRING] = "string",
			[M2_FIELD_NAME] = "name",
			[M2_FIELD_INTS] = "array of integers",
			[M2_FIELD_STRINGS] = "array of strings",
			[M2_FIELD_PAIRS] = "array of [id, number]"};
		char start[1024];
		char end[512];
		int at = snprintf(start, sizeof start, "| `%s` | %s | %.16g .. %.16g | ",
			fields[i].name, types[fields[i].type], fields[i].min, fields[i].max);
		for (int op = 1; op < M2_OP_COUNT && fields[i].ops != UINT32_MAX; op++)
			if ((fields[i].ops >> op & 1) != 0)
				at += snprintf(start + at, sizeof start - (size_t)at, "%s ",
					m2_op_name((enum m2_op)op));
		if (fields[i].ops == UINT32_MAX)
			at += snprintf(start + at, sizeof start - (size_t)at, "all ");
		(void)snprintf(start + at, sizeof start - (size_t)at, "|");
		(void)snprintf(end, sizeof end, "| %s |", fields[i].doc);
		expect_line(start, end);
	}
}

static void every_error_is_in_the_page(void **state)
{
	(void)state;
#define M2_ERROR(name, number, code, advice)                                                       \
	expect_line("| " #number " | `" code "` | ", advice " |");
#include "common/errors.def"
#undef M2_ERROR
}

static void every_limit_is_in_the_page(void **state)
{
	(void)state;
#define M2_LIMIT(name, value, unit, doc)                                                           \
	expect_line("| `" #name "` | " #value " | " unit " | " doc " |", NULL);
#include "common/limits.def"
#undef M2_LIMIT
}

static void expect_member(size_t offset, const char *name, const char *type)
{
	char line[128];
	(void)snprintf(line, sizeof line, "| %zu | `%s` | %s |", offset, name, type);
	expect_line(line, NULL);
}

static void every_member_of_a_segment_is_in_the_page_at_its_offset(void **state)
{
	(void)state;
#define H(member, type) expect_member(offsetof(struct m2_results_header, member), #member, type)
	H(magic, "char[8]");
	H(version, "u32");
	H(header_bytes, "u32");
	H(total_bytes, "u64");
	H(request, "u64");
	H(doorbell, "u32");
	H(state, "u32");
	H(error, "u32");
	H(n_sequences, "u32");
	H(prompt_tokens, "u32");
	H(max_tokens, "u32");
	H(vocab, "u32");
	H(top_k, "u32");
	H(flags, "u32");
	H(prompt_published, "u32");
	H(sequences, "u64");
	H(prompt_ids, "u64");
	H(prompt_logprobs, "u64");
	H(prompt_top_ids, "u64");
	H(prompt_top_logprobs, "u64");
	H(prompt_logits, "u64");
	H(received_ns, "u64");
	H(admitted_ns, "u64");
	H(first_ns, "u64");
	H(finished_ns, "u64");
	H(engine_ns, "u64");
	H(first_engine_ns, "u64");
	H(published_ns, "u64");
	H(paused_ns, "u64");
	H(pauses, "u64");
	H(message, "char[512]");
#undef H
#define S(member, type) expect_member(offsetof(struct m2_results_sequence, member), #member, type)
	S(published, "u32");
	S(finish, "u32");
	S(stop_token, "i32");
	S(stop_string, "i32");
	S(text_published, "u64");
	S(text_capacity, "u64");
	S(tokens, "u64");
	S(logprobs, "u64");
	S(text_end, "u64");
	S(text, "u64");
	S(top_ids, "u64");
	S(top_logprobs, "u64");
	S(logits, "u64");
	S(seed, "u64");
#undef S
	/* a member added to either struct takes from `reserved`, and then belongs above */
	assert_int_equal(offsetof(struct m2_results_header, reserved), 192);
	assert_int_equal(offsetof(struct m2_results_sequence, reserved), 96);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_request_is_in_the_page),
		cmocka_unit_test(every_field_is_in_the_page_with_its_range),
		cmocka_unit_test(every_error_is_in_the_page),
		cmocka_unit_test(every_limit_is_in_the_page),
		cmocka_unit_test(every_member_of_a_segment_is_in_the_page_at_its_offset),
	};
	return cmocka_run_group_tests(tests, read_page, free_page);
}
