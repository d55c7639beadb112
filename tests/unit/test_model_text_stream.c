/* test_model_text_stream.c - ids back to text: whole characters only, and all that is no character.
 *
 * What a stream emits is compared piece by piece; see test_model_parts.h for the ids.
 */
#include "tests/unit/test_model_parts.h"

static void expect_stream(const struct m2_tokenizer *t, bool skip, const int32_t *ids, size_t n,
	const char *const *pieces, const char *rest)
{
	struct m2_text_stream stream = {.n_held = 0};
	char *out = malloc(m2_tokenizer_max_text(t) + 9);
	assert_non_null(out);
	for (size_t i = 0; i < n; i++) {
		const size_t length = m2_text_stream_push(&stream, t, ids[i], skip, out);
		assert_int_equal(length, strlen(pieces[i]));
		assert_memory_equal(out, pieces[i], length);
	}
	const size_t length = m2_text_stream_flush(&stream, out);
	assert_int_equal(length, strlen(rest));
	assert_memory_equal(out, rest, length);
	free(out);
}

#define BAD "\xef\xbf\xbd"

static void a_stream_gives_whole_characters_only(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	expect_stream(t, true, (const int32_t[]){0xf0, 0x9f, 0x98, 0x80, 'a'}, 5,
		(const char *const[]){"", "", "", "\xf0\x9f\x98\x80", "a"}, "");
	expect_stream(t, true, (const int32_t[]){HELLO, SPACE_W}, 2,
		(const char *const[]){"hello", " w"}, "");
	m2_tokenizer_close(&t);
}

static void each_maximal_invalid_part_becomes_one_replacement(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	/* F0 9F 98 is one part, the stray 80s are one each (Unicode 15, table 3-8 and on) */
	expect_stream(t, true, (const int32_t[]){0xf0, 0x9f, 0x98, 'a', 0x80, 0x80}, 6,
		(const char *const[]){"", "", "", BAD "a", BAD, BAD}, "");
	expect_stream(t, true, (const int32_t[]){0xe2, 0x82, 0xe2, 0x82, 0xac}, 5,
		(const char *const[]){"", "", BAD, "", "\xe2\x82\xac"}, "");
	expect_stream(t, true, (const int32_t[]){0xed, 0xa0, 0x80}, 3,
		(const char *const[]){"", BAD BAD, BAD}, "");
	expect_stream(t, true, (const int32_t[]){0xc0, 0xf5, 'a'}, 3,
		(const char *const[]){BAD, BAD, "a"}, "");
	expect_stream(
		t, true, (const int32_t[]){0xf0, 0x9f}, 2, (const char *const[]){"", ""}, BAD);
	m2_tokenizer_close(&t);
}

static void specials_are_skipped_on_request_and_do_not_cut_a_character(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	expect_stream(t, true, (const int32_t[]){0xc3, CONTROL, 0xa9}, 3,
		(const char *const[]){"", "", "\xc3\xa9"}, "");
	expect_stream(t, false, (const int32_t[]){0xc3, CONTROL, 0xa9}, 3,
		(const char *const[]){"", BAD "<s>", BAD}, "");
	char *text;
	size_t length;
	struct m2_why why;
	const int32_t ids[] = {HELLO, CONTROL, SPACE_W, 0xe2};
	assert_int_equal(m2_tokenizer_decode(t, ids, 4, true, &text, &length, &why), M2_OK);
	assert_string_equal(text, "hello w" BAD);
	assert_int_equal(length, 10);
	free(text);
	assert_int_equal(m2_tokenizer_decode(t, ids, 4, false, &text, &length, &why), M2_OK);
	assert_string_equal(text, "hello<s> w" BAD);
	free(text);
	assert_int_equal(m2_tokenizer_decode(t, NULL, 0, false, &text, &length, &why), M2_OK);
	assert_string_equal(text, "");
	free(text);
	const int32_t outside[] = {'a', 264};
	assert_int_equal(
		m2_tokenizer_decode(t, outside, 2, false, &text, &length, &why), M2_EINVAL);
	assert_non_null(strstr(why.text, "token 1 is 264"));
	m2_tokenizer_close(&t);
}

static void added_text_is_literal_even_in_stand_in_letters(void **state)
{
	(void)state;
	/* U+0120 stands for a space, but an added token means what it says */
	struct m2_tokenizer *t = make((struct parts){
		.added = "{\"id\":263,\"content\":\"\xc4\xa0!\",\"normalized\":false}"});
	expect(t, 0, "\xc4\xa0!", 263, -1);
	size_t length;
	const unsigned char *bytes = m2_tokenizer_bytes(t, 263, &length);
	assert_int_equal(length, 3);
	assert_memory_equal(bytes, "\xc4\xa0!", 3);
	m2_tokenizer_close(&t);
}

static void max_text_bounds_what_a_token_adds(void **state)
{
	(void)state;
	/* seven stray bytes: seven replacements */
	struct m2_tokenizer *t = make((struct parts){
		.vocab = ",\"\xc2\xa1\xc2\xa1\xc2\xa1\xc2\xa1\xc2\xa1\xc2\xa1\xc2\xa1\":256",
		.merges = "",
		.added = ""});
	assert_int_equal(m2_tokenizer_max_text(t), 21);
	m2_tokenizer_close(&t);
}

/* ---- byte fallback, and spaces that stand before every text ---- */

/* ids: 0 "\u2581a", 1 "a", 2.. bytes E2 80 94 41, 6 <s> */
static struct m2_tokenizer *make_fallback(void)
{
	static const char text[] =
		"{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true}],"
		"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
		"\"pattern\":"
		"{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
		"{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
		"\",\"start\":1,\"stop\":0}]},"
		"\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xe2\x96\x81"
		"a\":0,\"a\":1,"
		"\"<0xE2>\":2,\"<0x80>\":3,\"<0x94>\":4,\"<0x41>\":5},\"merges\":[]}}";
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	if (m2_tokenizer_parse(text, sizeof text - 1, "x", &t, &why) != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static void bytes_that_are_tokens_are_replaced_one_by_one(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make_fallback();
	expect_stream(t, true, (const int32_t[]){2, 3, 4}, 3,
		(const char *const[]){"", "", "\xe2\x80\x94"}, "");
	/* whole characters among them stay */
	expect_stream(t, true, (const int32_t[]){5, 2, 3, 5, 3, 1}, 6,
		(const char *const[]){"A", "", "", BAD BAD "A", BAD, "a"}, "");
	expect_stream(t, true, (const int32_t[]){2, 3}, 2, (const char *const[]){"", ""}, BAD BAD);
	/* another token ends the run; a special one that is skipped does not */
	expect_stream(t, true, (const int32_t[]){2, 3, 1}, 3,
		(const char *const[]){"", "", BAD BAD "a"}, "");
	expect_stream(t, true, (const int32_t[]){2, 6, 3, 4}, 4,
		(const char *const[]){"", "", "", "\xe2\x80\x94"}, "");
	expect_stream(
		t, false, (const int32_t[]){2, 6}, 2, (const char *const[]){"", BAD "<s>"}, "");
	m2_tokenizer_close(&t);
}

static void the_first_space_of_a_text_goes_and_that_of_a_continuation_stays(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make_fallback();
	char out[64];
	expect_stream(t, true, (const int32_t[]){0, 0}, 2, (const char *const[]){"a", " a"}, "");
	expect_stream(
		t, true, (const int32_t[]){6, 0, 0}, 3, (const char *const[]){"", "a", " a"}, "");
	expect_stream(t, true, (const int32_t[]){1, 0}, 2, (const char *const[]){"a", " a"}, "");
	struct m2_text_stream stream = m2_text_stream_after(t, 1); /* goes on with "a" */
	assert_true(stream.continues);
	assert_int_equal(m2_text_stream_push(&stream, t, 0, true, out), 2);
	assert_memory_equal(out, " a", 2);
	stream = m2_text_stream_after(t, 6); /* a text of its own behind a control token */
	assert_int_equal(m2_text_stream_push(&stream, t, 0, true, out), 1);
	stream = m2_text_stream_after(t, -1);
	assert_int_equal(m2_text_stream_push(&stream, t, 0, true, out), 1);
	m2_tokenizer_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_gives_whole_characters_only),
		cmocka_unit_test(each_maximal_invalid_part_becomes_one_replacement),
		cmocka_unit_test(specials_are_skipped_on_request_and_do_not_cut_a_character),
		cmocka_unit_test(added_text_is_literal_even_in_stand_in_letters),
		cmocka_unit_test(max_text_bounds_what_a_token_adds),
		cmocka_unit_test(bytes_that_are_tokens_are_replaced_one_by_one),
		cmocka_unit_test(the_first_space_of_a_text_goes_and_that_of_a_continuation_stays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
