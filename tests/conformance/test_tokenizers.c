/* test_tokenizers.c - our ids and texts against those that the reference library gave.
 *
 * ../shared/tokenizers/gpt_neox_20b.jsonl holds, per line, a text, its ids without and with what the
 * file's post-processor adds (the reference library splits special tokens out either way), and the
 * text that the ids decode to.  Skipped by name where ../shared is absent (M2_SHARED moves it).
 * Also here, because they need a real vocabulary: the time that a megabyte takes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/json.h"
#include "model/tokenizer.h"

static const char *shared(void)
{
	const char *set = getenv("M2_SHARED");
	return set != NULL ? set : "../shared";
}

static int open_neox(void **state)
{
	char path[4096];
	struct m2_tokenizer *tokenizer = NULL;
	struct m2_why why;
	(void)snprintf(path, sizeof path, "%s/tokenizers/gpt_neox_20b.json", shared());
	FILE *file = fopen(path, "r");
	if (file == NULL) {
		print_message("skipped: %s is absent\n", path);
		*state = NULL;
		return 0;
	}
	(void)fclose(file);
	if (m2_tokenizer_open(path, &tokenizer, &why) != M2_OK) {
		print_error("%s\n", why.text);
		return -1;
	}
	*state = tokenizer;
	return 0;
}

static int close_neox(void **state)
{
	struct m2_tokenizer *tokenizer = *state;
	m2_tokenizer_close(&tokenizer);
	return 0;
}

static void expect_ids(const struct m2_tokenizer *tokenizer, const char *text, size_t length,
	unsigned flags, struct json_object *wanted, size_t line)
{
	int32_t *ids;
	size_t count;
	struct m2_why why;
	assert_int_equal(
		m2_tokenizer_encode(tokenizer, text, length, flags, 1 << 20, &ids, &count, &why),
		M2_OK);
	const size_t n = json_object_array_length(wanted);
	if (count != n)
		print_error("line %zu: %zu ids, %zu expected\n", line, count, n);
	assert_int_equal(count, n);
	for (size_t i = 0; i < n; i++) {
		const int want = json_object_get_int(json_object_array_get_idx(wanted, i));
		if (ids[i] != want)
			print_error("line %zu, id %zu: %d, %d expected\n", line, i, ids[i], want);
		assert_int_equal(ids[i], want);
	}
	free(ids);
}

static void expect_text(const struct m2_tokenizer *tokenizer, struct json_object *ids,
	struct json_object *wanted, size_t line)
{
	const size_t n = json_object_array_length(ids);
	int32_t *tokens = calloc(n + 1, sizeof *tokens);
	char *text;
	size_t length;
	struct m2_why why;
	assert_non_null(tokens);
	for (size_t i = 0; i < n; i++)
		tokens[i] = json_object_get_int(json_object_array_get_idx(ids, i));
	assert_int_equal(
		m2_tokenizer_decode(tokenizer, tokens, n, false, &text, &length, &why), M2_OK);
	if (length != (size_t)json_object_get_string_len(wanted))
		print_error("line %zu: \"%s\"\n", line, text);
	assert_int_equal(length, json_object_get_string_len(wanted));
	assert_memory_equal(text, json_object_get_string(wanted), length);
	free(text);
	free(tokens);
}

static void gpt_neox_ids_and_texts_equal_the_reference_on_every_line(void **state)
{
	const struct m2_tokenizer *tokenizer = *state;
	char path[4096];
	char *line = NULL;
	size_t cap = 0;
	size_t lines = 0;
	ssize_t n;
	if (tokenizer == NULL)
		skip();
	(void)snprintf(path, sizeof path, "%s/tokenizers/gpt_neox_20b.jsonl", shared());
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	while ((n = getline(&line, &cap, file)) > 0) {
		struct json_object *entry = NULL;
		struct m2_why why;
		lines++;
		assert_int_equal(m2_json_parse(line, (size_t)n, 4, "line", &entry, &why), M2_OK);
		struct json_object *text = json_object_object_get(entry, "text");
		struct json_object *ids = json_object_object_get(entry, "ids");
		const char *p = json_object_get_string(text);
		const size_t length = (size_t)json_object_get_string_len(text);
		expect_ids(tokenizer, p, length, M2_ENCODE_SPECIAL, ids, lines);
		expect_ids(tokenizer, p, length, M2_ENCODE_SPECIAL | M2_ENCODE_TEMPLATE,
			json_object_object_get(entry, "ids_with_special"), lines);
		expect_text(tokenizer, ids, json_object_object_get(entry, "decoded"), lines);
		json_object_put(entry);
	}
	free(line);
	(void)fclose(file);
	print_message("%zu lines\n", lines);
	assert_true(lines >= 220);
}

static void a_user_cannot_write_the_end_of_text_token(void **state)
{
	const struct m2_tokenizer *tokenizer = *state;
	static const char text[] = "a<|endoftext|>b<|padding|>";
	int32_t *ids;
	size_t count;
	struct m2_why why;
	char *back;
	size_t length;
	if (tokenizer == NULL)
		skip();
	assert_int_equal(
		m2_tokenizer_encode(tokenizer, text, strlen(text), 0, 100, &ids, &count, &why),
		M2_OK);
	for (size_t i = 0; i < count; i++)
		assert_false(m2_tokenizer_is_special(tokenizer, ids[i]));
	assert_int_equal(
		m2_tokenizer_decode(tokenizer, ids, count, true, &back, &length, &why), M2_OK);
	assert_string_equal(back, text);
	free(back);
	free(ids);
	assert_int_equal(m2_tokenizer_encode(tokenizer, text, strlen(text), M2_ENCODE_SPECIAL, 100,
				 &ids, &count, &why),
		M2_OK);
	assert_int_equal(count, 4);
	assert_int_equal(ids[1], 0);
	assert_int_equal(ids[3], 1);
	free(ids);
}

/* Seconds of this thread that encoding takes; the ids must decode to the text again. */
static double seconds_for(const struct m2_tokenizer *tokenizer, const char *text, size_t length)
{
	struct timespec from;
	struct timespec to;
	int32_t *ids;
	size_t count;
	char *back;
	size_t back_length;
	struct m2_why why;
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
	assert_int_equal(
		m2_tokenizer_encode(tokenizer, text, length, 0, length + 1, &ids, &count, &why),
		M2_OK);
	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
	assert_int_equal(
		m2_tokenizer_decode(tokenizer, ids, count, false, &back, &back_length, &why),
		M2_OK);
	assert_int_equal(back_length, length);
	assert_memory_equal(back, text, length);
	free(back);
	free(ids);
	return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

static void a_megabyte_of_anything_encodes_in_well_under_a_second(void **state)
{
	const struct m2_tokenizer *tokenizer = *state;
	/* All are their own NFC, so that they decode to what was encoded. */
	static const char *const units[] = {"a", " ", "\n", "=", "'", "1", "ab", "\xe6\xbc\xa2",
		"\xcc\x81", "The quick brown fox jumps over the lazy dog, isn't it? "};
	const size_t length = 1 << 20;
	double limit = 1.0;
	if (tokenizer == NULL)
		skip();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	limit = 20.0; /* an instrumented build proves linearity, not speed */
#endif
	char *text = malloc(length);
	assert_non_null(text);
	for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
		const size_t unit = strlen(units[k]);
		const size_t used = length / unit * unit;
		for (size_t at = 0; at < used; at += unit)
			memcpy(text + at, units[k], unit);
		const double seconds = seconds_for(tokenizer, text, used);
		print_message("1 MiB of \"%s\": %.3f s\n", units[k], seconds);
		assert_true(seconds < limit);
	}
	free(text);
}

/* The bundled model's own: its held-out text is text it was not made from. */
static void the_demo_tokenizer_gives_back_the_held_out_text(void **state)
{
	struct m2_tokenizer *tokenizer = NULL;
	struct m2_why why;
	(void)state;
	FILE *file = fopen("configs/demo/heldout.txt", "r");
	if (file == NULL) {
		print_message("skipped: configs/demo/heldout.txt is absent here\n");
		skip();
	}
	char *text = malloc(1 << 20);
	assert_non_null(text);
	const size_t length = fread(text, 1, 1 << 20, file);
	(void)fclose(file);
	assert_int_equal(m2_tokenizer_open("configs/demo", &tokenizer, &why), M2_OK);
	assert_int_equal(m2_tokenizer_size(tokenizer), 2048);
	assert_true(m2_tokenizer_is_special(tokenizer, 0));
	const double seconds = seconds_for(tokenizer, text, length);
	print_message("%zu bytes of held-out text: %.3f s\n", length, seconds);
	m2_tokenizer_close(&tokenizer);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gpt_neox_ids_and_texts_equal_the_reference_on_every_line),
		cmocka_unit_test(a_user_cannot_write_the_end_of_text_token),
		cmocka_unit_test(a_megabyte_of_anything_encodes_in_well_under_a_second),
		cmocka_unit_test(the_demo_tokenizer_gives_back_the_held_out_text),
	};
	return cmocka_run_group_tests(tests, open_neox, close_neox);
}
