/* test_tokenizers.c - our ids and texts against those that the reference libraries gave.
 *
 * ../shared/tokenizers/ has, beside each tokenizer.json, a .jsonl that holds, per line, a text, its ids
 * without and with what the file's post-processor adds (the reference library splits special tokens out
 * either way), and the text that the ids decode to.  Skipped by name where ../shared is absent (M2_SHARED
 * moves it).  What the SentencePiece file gives was asked of its own library.
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
#include "common/utf8.h"
#include "model/tokenizer.h"

static const char *shared(void)
{
	const char *set = getenv("M2_SHARED");
	return set != NULL ? set : "../shared";
}

/* The real vocabularies, NULL where they are absent. */
struct tokenizers {
	struct m2_tokenizer *neox;
	struct m2_tokenizer *mistral;       /* tokenizer.json */
	struct m2_tokenizer *sentencepiece; /* the same tokenizer's .model */
};

static int open_one(const char *name, struct m2_tokenizer **out)
{
	char path[4096];
	struct m2_why why;
	(void)snprintf(path, sizeof path, "%s/tokenizers/%s", shared(), name);
	FILE *file = fopen(path, "r");
	if (file == NULL) {
		print_message("skipped: %s is absent\n", path);
		return 0;
	}
	(void)fclose(file);
	if (m2_tokenizer_open(path, out, &why) != M2_OK) {
		print_error("%s\n", why.text);
		return -1;
	}
	assert_string_equal(m2_tokenizer_path(*out), path);
	print_message("%s: %s\n", name, m2_tokenizer_kind(*out));
	return 0;
}

static int open_all(void **state)
{
	static struct tokenizers all;
	*state = &all;
	return open_one("gpt_neox_20b.json", &all.neox) != 0 ||
			       open_one("mistral_v3.json", &all.mistral) != 0 ||
			       open_one("mistral_v3.model", &all.sentencepiece) != 0
		       ? -1
		       : 0;
}

static int close_all(void **state)
{
	struct tokenizers *all = *state;
	m2_tokenizer_close(&all->neox);
	m2_tokenizer_close(&all->mistral);
	m2_tokenizer_close(&all->sentencepiece);
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

/* Pieces put one after another are the whole, and each is whole characters. */
static void expect_streamed(const struct m2_tokenizer *tokenizer, struct json_object *ids,
	struct json_object *wanted, size_t line)
{
	struct m2_text_stream stream = {.n_held = 0};
	const char *text = json_object_get_string(wanted);
	const size_t length = (size_t)json_object_get_string_len(wanted);
	size_t at = 0;
	char *piece = malloc(m2_tokenizer_max_text(tokenizer) + 9);
	assert_non_null(piece);
	for (size_t i = 0; i <= json_object_array_length(ids); i++) {
		const size_t n =
			i == json_object_array_length(ids)
				? m2_text_stream_flush(&stream, piece)
				: m2_text_stream_push(&stream, tokenizer,
					  json_object_get_int(json_object_array_get_idx(ids, i)),
					  false, piece);
		if (!m2_utf8_valid(piece, n))
			print_error("line %zu: a character is split\n", line);
		assert_true(m2_utf8_valid(piece, n));
		assert_true(at + n <= length && memcmp(text + at, piece, n) == 0);
		at += n;
	}
	assert_int_equal(at, length);
	free(piece);
}

/* The reference library splits special tokens out of a text always, SentencePiece never. */
static size_t compare_line(const struct m2_tokenizer *tokenizer, const char *line, size_t length,
	unsigned flags, size_t number)
{
	struct json_object *entry = NULL;
	struct m2_why why;
	assert_int_equal(m2_json_parse(line, length, 4, "line", &entry, &why), M2_OK);
	struct json_object *text = json_object_object_get(entry, "text");
	struct json_object *ids = json_object_object_get(entry, "ids");
	struct json_object *with = json_object_object_get(entry, "ids_with_special");
	struct json_object *decoded = json_object_object_get(entry, "decoded");
	const char *p = json_object_get_string(text);
	const size_t n = (size_t)json_object_get_string_len(text);
	expect_ids(tokenizer, p, n, flags, ids, number);
	if (with != NULL)
		expect_ids(tokenizer, p, n, flags | M2_ENCODE_TEMPLATE, with, number);
	expect_text(tokenizer, ids, decoded, number);
	expect_streamed(tokenizer, ids, decoded, number);
	json_object_put(entry);
	return 1;
}

static size_t compare_file(const struct m2_tokenizer *tokenizer, const char *path, unsigned flags)
{
	char *line = NULL;
	size_t cap = 0;
	size_t lines = 0;
	ssize_t n;
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	while ((n = getline(&line, &cap, file)) > 0)
		lines += compare_line(tokenizer, line, (size_t)n, flags, lines + 1);
	free(line);
	(void)fclose(file);
	print_message("%s: %zu lines\n", path, lines);
	return lines;
}

static void gpt_neox_ids_and_texts_equal_the_reference_on_every_line(void **state)
{
	const struct tokenizers *all = *state;
	char path[4096];
	if (all->neox == NULL)
		skip();
	(void)snprintf(path, sizeof path, "%s/tokenizers/gpt_neox_20b.jsonl", shared());
	assert_true(compare_file(all->neox, path, M2_ENCODE_SPECIAL) >= 220);
}

static void mistral_ids_and_texts_equal_the_reference_on_every_line(void **state)
{
	const struct tokenizers *all = *state;
	char path[4096];
	if (all->mistral == NULL)
		skip();
	(void)snprintf(path, sizeof path, "%s/tokenizers/mistral_v3.jsonl", shared());
	assert_true(compare_file(all->mistral, path, M2_ENCODE_SPECIAL) >= 220);
}

/* The file here has what sentencepiece 0.2.3 gives (encode, decode) for texts made for this test. */
static void the_sentencepiece_model_gives_what_its_own_library_gives(void **state)
{
	static const char path[] = "tests/conformance/data/mistral_v3_model.jsonl";
	const struct tokenizers *all = *state;
	if (all->sentencepiece == NULL)
		skip();
	FILE *file = fopen(path, "r");
	if (file == NULL) {
		print_message("skipped: %s is absent here\n", path);
		skip();
	}
	(void)fclose(file);
	assert_true(compare_file(all->sentencepiece, path, 0) >= 60);
}

static void expect_list(const struct m2_tokenizer *tokenizer, unsigned flags, const char *text,
	const int32_t *wanted, size_t n)
{
	int32_t *ids;
	size_t count;
	struct m2_why why;
	assert_int_equal(
		m2_tokenizer_encode(tokenizer, text, strlen(text), flags, 100, &ids, &count, &why),
		M2_OK);
	assert_int_equal(count, n);
	assert_memory_equal(ids, wanted, n * sizeof *ids);
	free(ids);
}
#define EXPECT(tokenizer, flags, text, ...)                                                        \
	expect_list(tokenizer, flags, text, (const int32_t[]){__VA_ARGS__},                        \
		sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* One vocabulary, two sets of rules.  SentencePiece always puts its space in front, Metaspace only where
 * the text has none; SentencePiece merges by score, tokenizer.json by a list in which runs of spaces come
 * first; SentencePiece takes no control token from a text unless told to. */
static void the_two_files_of_mistral_differ_where_their_rules_do(void **state)
{
	const struct tokenizers *all = *state;
	if (all->mistral == NULL || all->sentencepiece == NULL)
		skip();
	EXPECT(all->mistral, 0, "Hello, world!", 23325, 29493, 2294, 29576);
	EXPECT(all->sentencepiece, 0, "Hello, world!", 23325, 29493, 2294, 29576);
	EXPECT(all->mistral, 0, " a", 1032);
	EXPECT(all->sentencepiece, 0, " a", 29473, 1032);
	EXPECT(all->mistral, 0, "Hello  world", 23325, 1027, 10239);
	EXPECT(all->sentencepiece, 0, "Hello  world", 23325, 29473, 2294);
	/* what lies between control tokens: a text of its own to SentencePiece, the middle of one to
	 * prepend_scheme "first" */
	EXPECT(all->mistral, M2_ENCODE_SPECIAL, "[INST]a[/INST]", 3, 29476, 4);
	EXPECT(all->sentencepiece, M2_ENCODE_SPECIAL, "[INST]a[/INST]", 3, 1032, 4);
	assert_int_equal(m2_tokenizer_special(all->sentencepiece, "[PREFIX]", 8), 11);
	assert_int_equal(m2_tokenizer_special(all->mistral, "[PREFIX]", 8), 11);
	assert_int_equal(m2_tokenizer_special(all->sentencepiece, "hello", 5), -1);
	assert_int_equal(m2_tokenizer_bos(all->sentencepiece), 1);
	assert_int_equal(m2_tokenizer_eos(all->sentencepiece), 2);
	assert_int_equal(m2_tokenizer_size(all->sentencepiece), 32768);
}

static void a_user_cannot_write_the_end_of_text_token(void **state)
{
	const struct m2_tokenizer *tokenizer = ((const struct tokenizers *)*state)->neox;
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

static void time_megabytes(const struct m2_tokenizer *tokenizer)
{
	/* They decode to what was encoded: none begins with a space, which Metaspace would take for its own. */
	static const char *const units[] = {
		"a", "=", "The quick brown fox jumps over the lazy dog, isn't it? "};
	const size_t length = 1 << 20;
	double limit = 1.0;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	limit = 20.0; /* an instrumented build proves linearity, not speed */
#endif
	char *text = malloc(length);
	double worst = 0;
	assert_non_null(text);
	for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
		const size_t unit = strlen(units[k]);
		const size_t used = length / unit * unit;
		for (size_t at = 0; at < used; at += unit)
			memcpy(text + at, units[k], unit);
		const double seconds = seconds_for(tokenizer, text, used);
		worst = seconds > worst ? seconds : worst;
		if (k + 1 == sizeof units / sizeof *units)
			print_message(
				"%s: 1 MiB of prose %.3f s, the slowest of %zu texts %.3f s\n",
				m2_tokenizer_kind(tokenizer), seconds, k + 1, worst);
		assert_true(seconds < limit);
	}
	free(text);
}

static void a_megabyte_of_anything_encodes_in_well_under_a_second(void **state)
{
	const struct tokenizers *all = *state;
	if (all->neox == NULL)
		skip();
	time_megabytes(all->neox);
	if (all->mistral != NULL)
		time_megabytes(all->mistral);
	if (all->sentencepiece != NULL)
		time_megabytes(all->sentencepiece);
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
		cmocka_unit_test(mistral_ids_and_texts_equal_the_reference_on_every_line),
		cmocka_unit_test(the_sentencepiece_model_gives_what_its_own_library_gives),
		cmocka_unit_test(the_two_files_of_mistral_differ_where_their_rules_do),
		cmocka_unit_test(a_user_cannot_write_the_end_of_text_token),
		cmocka_unit_test(a_megabyte_of_anything_encodes_in_well_under_a_second),
		cmocka_unit_test(the_demo_tokenizer_gives_back_the_held_out_text),
	};
	return cmocka_run_group_tests(tests, open_all, close_all);
}
