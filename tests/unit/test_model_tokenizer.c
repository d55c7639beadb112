/* test_model_tokenizer.c - small tokenizer.json files made here, each feature and each refusal alone.
 *
 * The vocabulary is all 256 bytes (ids 0..255, in the order of the bytes) and a few merges, so that
 * expected ids can be read off the test.  Real vocabularies: tests/conformance/test_tokenizers.c.
 */
#include "tests/unit/test_model_parts.h"

static void merges_go_by_rank_and_leftmost_first(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	assert_int_equal(m2_tokenizer_size(t), 264);
	expect(t, 0, "hello", HELLO, -1);
	expect(t, 0, "hellhello", HELL, HELLO, -1);
	expect(t, 0, "aaa", AA, 'a', -1);
	expect(t, 0, "aaaaa", AAAA, 'a', -1);
	expect(t, 0, "aaaaaaa", AAAA, AA, 'a', -1);
	expect(t, 0, "lll", LL, 'l', -1);
	expect(t, 0, " w w", SPACE_W, SPACE_W, -1);
	expect(t, 0, "", -1);
	expect(t, 0, "\xc3\xa9", 0xc3, 0xa9, -1);
	m2_tokenizer_close(&t);
	assert_null(t);
	/* as pairs, the same */
	t = make((struct parts){.merges = "[\"h\",\"e\"],[\"l\",\"l\"],[\"he\",\"ll\"]"});
	expect(t, 0, "hello", HELL, 'o', -1);
	m2_tokenizer_close(&t);
	/* a lower rank wins wherever it stands */
	t = make((struct parts){.merges = "\"l l\",\"h e\",\"a a\""});
	expect(t, 0, "hell", HE, LL, -1);
	m2_tokenizer_close(&t);
}

/* The rule itself, slowly: the lowest rank, leftmost, one at a time. */
static size_t merge_slowly(int32_t *ids, size_t n)
{
	static const int32_t rules[][3] = {{'h', 'e', HE}, {'l', 'l', LL}, {HE, LL, HELL},
		{HELL, 'o', HELLO}, {'a', 'a', AA}, {AA, AA, AAAA}, {' ', 'w', SPACE_W}};
	for (;;) {
		size_t best = n;
		size_t rank = sizeof rules / sizeof *rules;
		for (size_t i = 0; i + 1 < n; i++)
			for (size_t r = 0; r < rank; r++)
				if (ids[i] == rules[r][0] && ids[i + 1] == rules[r][1]) {
					rank = r;
					best = i;
				}
		if (best == n)
			return n;
		ids[best] = rules[rank][2];
		memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
		n--;
	}
}

static void the_heap_merges_as_the_rule_says(void **state)
{
	static const char letters[] = "heloaaw ";
	uint32_t seed = 12345;
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
				 "\"use_regex\":false}"});
	for (int round = 0; round < 5000; round++) {
		char text[64];
		int32_t wanted[64];
		int32_t *ids;
		size_t count;
		struct m2_why why;
		const size_t n = 1 + (size_t)(round % 60);
		for (size_t i = 0; i < n; i++) {
			seed = seed * 1664525u + 1013904223u;
			text[i] = letters[seed >> 29];
			wanted[i] = text[i];
		}
		const size_t m = merge_slowly(wanted, n);
		assert_int_equal(m2_tokenizer_encode(t, text, n, 0, 64, &ids, &count, &why), M2_OK);
		assert_int_equal(count, m);
		assert_memory_equal(ids, wanted, m * sizeof *ids);
		free(ids);
	}
	m2_tokenizer_close(&t);
}

static void special_tokens_in_text_are_text_unless_asked_for(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	expect(t, 0, "a<s>a", 'a', '<', 's', '>', 'a', -1);
	expect(t, M2_ENCODE_SPECIAL, "a<s>a", 'a', CONTROL, 'a', -1);
	expect(t, M2_ENCODE_SPECIAL, "<s><s>", CONTROL, CONTROL, -1);
	assert_true(m2_tokenizer_is_special(t, CONTROL));
	assert_false(m2_tokenizer_is_special(t, 'a'));
	assert_false(m2_tokenizer_is_special(t, -1));
	assert_false(m2_tokenizer_is_special(t, 999));
	m2_tokenizer_close(&t);
	/* neither a merge nor a whole word may produce one */
	t = make((struct parts){
		.added = "{\"id\":259,\"content\":\"hello\",\"special\":true,\"normalized\":false}",
		.more = ",\"ignore_merges\":true"});
	expect(t, 0, "hello", HELL, 'o', -1);
	expect(t, M2_ENCODE_SPECIAL, "hello", HELLO, -1);
	m2_tokenizer_close(&t);
	/* nor normalisation: U+212B becomes U+00C5 */
	t = make((struct parts){.normalizer = "{\"type\":\"NFC\"}",
		.added = "{\"id\":263,\"content\":\"\xe2\x84\xab\",\"special\":true,\"normalized\":"
			 "true}"});
	expect(t, 0, "\xe2\x84\xab", 0xc3, 0x85, -1);
	expect(t, M2_ENCODE_SPECIAL, "\xc3\x85", CONTROL, -1);
	m2_tokenizer_close(&t);
}

static void added_tokens_match_longest_first_in_two_passes(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.normalizer = "{\"type\":\"NFC\"}",
		.added = "{\"id\":263,\"content\":\"xy\",\"normalized\":true},"
			 "{\"id\":264,\"content\":\"xyz\",\"normalized\":true},"
			 "{\"id\":265,\"content\":\"yx\",\"normalized\":false},"
			 "{\"id\":266,\"content\":\"   \",\"normalized\":true},"
			 "{\"id\":267,\"content\":\"\xc3\xa9!\",\"normalized\":true},"
			 "{\"id\":268,\"content\":\"e\xcc\x81?\",\"normalized\":false}"});
	expect(t, 0, "xyz", 264, -1);
	expect(t, 0, "xyxyz", 'x', 265, 'y', 'z', -1); /* the raw pass goes first */
	expect(t, 0, "xyxy", 'x', 265, 'y', -1);
	expect(t, 0, "xy", 263, -1);
	expect(t, 0, "    w", 266, SPACE_W, -1); /* before the pattern sees the spaces */
	expect(t, 0, "e\xcc\x81!", 267, -1);
	expect(t, 0, "e\xcc\x81?", 268, -1);
	expect(t, 0, "\xc3\xa9?", 0xc3, 0xa9, '?', -1);
	m2_tokenizer_close(&t);
}

static void added_tokens_strip_and_stand_alone(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.added = "{\"id\":263,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
			 "{\"id\":264,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":false},"
			 "{\"id\":265,\"content\":\"cat\",\"single_word\":true,\"normalized\":"
			 "false}"});
	expect(t, 0, "a \xc2\xa0<l> a", 'a', 263, ' ', 'a', -1);
	expect(t, 0, " a<r>  \n a", ' ', 'a', 264, 'a', -1);
	expect(t, 0, "<r>  <l>", 264, 263, -1);
	expect(t, 0, "cat", 265, -1);
	expect(t, 0, "-cat.", '-', 265, '.', -1);
	expect(t, 0, "cats", 'c', 'a', 't', 's', -1);
	expect(t, 0,
		"\xc3\xa9"
		"cat",
		0xc3, 0xa9, 'c', 'a', 't', -1);
	expect(t, 0, "_cat cat", '_', 'c', 'a', 't', ' ', 265, -1);
	m2_tokenizer_close(&t);
}

static void text_is_normalised_where_the_file_asks(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"});
	expect(t, 0, "e\xcc\x81", 0xc3, 0xa9, -1);
	m2_tokenizer_close(&t);
	t = make((struct parts){.normalizer = "null"});
	expect(t, 0, "e\xcc\x81", 'e', 0xcc, 0x81, -1);
	m2_tokenizer_close(&t);
}

static void a_prefix_space_is_given_once_per_piece(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.pre_tokenizer =
			"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\","
			"\"add_prefix_space\":true}]}"});
	expect(t, 0, "w", SPACE_W, -1);
	expect(t, 0, " w", SPACE_W, -1);
	expect(t, M2_ENCODE_SPECIAL, "w<s>w", SPACE_W, CONTROL, SPACE_W, -1);
	expect(t, 0, "", -1);
	m2_tokenizer_close(&t);
}

static void ignore_merges_looks_the_whole_word_up_first(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.vocab = ",\"xyz\":256",
		.merges = "",
		.more = ",\"ignore_merges\":true",
		.added = "{\"id\":257,\"content\":\"<s>\"}"});
	expect(t, 0, "xyz xy", 256, ' ', 'x', 'y', -1);
	m2_tokenizer_close(&t);
	t = make((struct parts){.vocab = ",\"xyz\":256",
		.merges = "",
		.added = "{\"id\":257,\"content\":\"<s>\"}"});
	expect(t, 0, "xyz", 'x', 'y', 'z', -1);
	m2_tokenizer_close(&t);
}

#define TEMPLATE(single, ids)                                                                      \
	"{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[],"                    \
	"\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[" ids "],\"tokens\":[\"<s>\"]}}}"
#define BOS  "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

static void the_template_is_added_when_asked_for(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.post_processor =
			"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE(
				BOS "," TEXT "," BOS "," BOS, "263") "]}"});
	expect(t, M2_ENCODE_TEMPLATE, "a", CONTROL, 'a', CONTROL, CONTROL, -1);
	expect(t, M2_ENCODE_TEMPLATE, "", CONTROL, CONTROL, CONTROL, -1);
	expect(t, 0, "a", 'a', -1);
	m2_tokenizer_close(&t);
}

static void other_kinds_are_refused_by_name(void **state)
{
	(void)state;
	refuse((struct parts){.normalizer = "{\"type\":\"BertNormalizer\"}"}, M2_EUNSUPPORTED,
		"BertNormalizer");
	refuse((struct parts){.normalizer =
				      "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
				      "{\"type\":\"Nmt\"}]}"},
		M2_EUNSUPPORTED, "Nmt");
	refuse((struct parts){.pre_tokenizer = "{\"type\":\"UnicodeScripts\"}"}, M2_EUNSUPPORTED,
		"UnicodeScripts");
	refuse((struct parts){.decoder = "null"}, M2_EUNSUPPORTED, "decoder");
	refuse((struct parts){.decoder = "{\"type\":\"WordPiece\"}"}, M2_EUNSUPPORTED, "WordPiece");
	refuse((struct parts){.post_processor = "{\"type\":\"BertProcessing\"}"}, M2_EUNSUPPORTED,
		"BertProcessing");
	refuse((struct parts){.more = ",\"dropout\":0.1"}, M2_EUNSUPPORTED, "dropout");
	refuse((struct parts){.more = ",\"end_of_word_suffix\":\"</w>\""}, M2_EUNSUPPORTED,
		"end_of_word_suffix");
	refuse((struct parts){.more = ",\"continuing_subword_prefix\":\"##\""}, M2_EUNSUPPORTED,
		"continuing_subword_prefix");
	refuse((struct parts){.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, M2_EFORMAT,
		"add_prefix_space");
	refuse((struct parts){.pre_tokenizer = "{}"}, M2_EFORMAT, "no type");
	refuse((struct parts){.pre_tokenizer =
				      "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL
				      "," BYTE_LEVEL "]}"},
		M2_EUNSUPPORTED, "behind ByteLevel");
	refuse((struct parts){.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":"
					 "\"ByteLevel\"},{\"type\":\"ByteFallback\"}]}"},
		M2_EUNSUPPORTED, "behind ByteLevel");

	struct m2_tokenizer *t = NULL;
	struct m2_why why;
	static const char unigram[] = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
	static const char tekken[] = "{\"config\":{\"pattern\":\"\"},\"vocab\":[]}";
	assert_int_equal(
		m2_tokenizer_parse(unigram, strlen(unigram), "x", &t, &why), M2_EUNSUPPORTED);
	assert_non_null(strstr(why.text, "Unigram"));
	assert_int_equal(
		m2_tokenizer_parse(tekken, strlen(tekken), "x", &t, &why), M2_EUNSUPPORTED);
	assert_non_null(strstr(why.text, "tekken"));
	assert_int_equal(m2_tokenizer_parse("[]", 2, "x", &t, &why), M2_EFORMAT);
	assert_int_equal(m2_tokenizer_parse("{}", 2, "x", &t, &why), M2_EFORMAT);
	assert_int_equal(m2_tokenizer_parse("{\"model\":{}}", 12, "x", &t, &why), M2_EFORMAT);
}

static void a_vocabulary_that_contradicts_itself_is_refused(void **state)
{
	(void)state;
	refuse((struct parts){.vocab = ",\"xx\":97", .merges = ""}, M2_EFORMAT, "another token");
	refuse((struct parts){.vocab = ",\"xx\":-1", .merges = ""}, M2_EFORMAT, "not an integer");
	refuse((struct parts){.vocab = ",\"xx\":1.5", .merges = ""}, M2_EFORMAT, "not an integer");
	refuse((struct parts){.vocab = ",\"xx\":16777216", .merges = ""}, M2_EFORMAT,
		"0..16777215");
	refuse((struct parts){.vocab = ",\"xx\":16777215", .merges = ""}, M2_EFORMAT, "largest id");
	refuse((struct parts){.vocab = ",\"\":300", .merges = ""}, M2_EFORMAT, "0 bytes");
	refuse((struct parts){.vocab = ",\"xx\":300,\"xx\":301"}, M2_EFORMAT, "twice");
	refuse((struct parts){.merges = "\"h z\""}, M2_EFORMAT, "\"hz\" is not in the vocabulary");
	refuse((struct parts){.merges = "\"qq he\""}, M2_EFORMAT, "\"qq\" is not");
	refuse((struct parts){.merges = "\"he\""}, M2_EFORMAT, "not a pair");
	refuse((struct parts){.merges = "\"h e l\""}, M2_EFORMAT, "not a pair");
	refuse((struct parts){.merges = "[\"h\"]"}, M2_EFORMAT, "not a pair");
	refuse((struct parts){.merges = "[\"h\",1]"}, M2_EFORMAT, "not a pair");
	refuse((struct parts){.merges = "[\"\",\"e\"]"}, M2_EFORMAT, "not a pair");
	refuse((struct parts){.added = "{\"id\":97,\"content\":\"<s>\"}"}, M2_EFORMAT,
		"belongs to another");
	refuse((struct parts){.added = "{\"id\":300,\"content\":\"hello\"}"}, M2_EFORMAT,
		"differs");
	refuse(
		(struct parts){
			.added = "{\"id\":300,\"content\":\"x1\"},{\"id\":300,\"content\":\"x2\"}"},
		M2_EFORMAT, "added twice");
	refuse((struct parts){.added = "{\"id\":300,\"content\":\"\"}"}, M2_EFORMAT, "lacks");
	refuse((struct parts){.added = "{\"content\":\"x1\"}"}, M2_EFORMAT, "lacks");
	refuse((struct parts){.post_processor = TEMPLATE(BOS "," TEXT, "264")}, M2_EFORMAT,
		"outside 0..263");
	refuse((struct parts){.post_processor = TEMPLATE(BOS, "263")}, M2_EFORMAT, "no place");
	refuse((struct parts){.post_processor = TEMPLATE(TEXT "," TEXT, "263")}, M2_EUNSUPPORTED,
		"something else");
	refuse((struct parts){.post_processor =
				      TEMPLATE("{\"SpecialToken\":{\"id\":\"<x>\"}}," TEXT, "263")},
		M2_EFORMAT, "does not define");
}

static void text_that_cannot_be_encoded_is_an_error(void **state)
{
	int32_t *ids;
	size_t count;
	struct m2_why why;
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.added = NULL});
	assert_int_equal(m2_tokenizer_encode(t, "ab\xff", 3, 0, 10, &ids, &count, &why), M2_EINVAL);
	assert_non_null(strstr(why.text, "byte 2"));
	assert_int_equal(
		m2_tokenizer_encode(t, "a\xe2\x82", 3, 0, 10, &ids, &count, &why), M2_EINVAL);
	assert_int_equal(m2_tokenizer_encode(t, "abc", 3, 0, 2, &ids, &count, &why), M2_ELIMIT);
	assert_int_equal(m2_tokenizer_encode(t, "abc", 3, 0, 3, &ids, &count, &why), M2_OK);
	free(ids);
	assert_int_equal(m2_tokenizer_encode(t, "a\0b", 3, 0, 3, &ids, &count, &why), M2_OK);
	assert_int_equal(ids[1], 0);
	free(ids);
	m2_tokenizer_close(&t);

	static const char few[] =
		"{\"pre_tokenizer\":" BYTE_LEVEL ",\"decoder\":{\"type\":\"ByteLevel\"},"
		"\"model\":{\"vocab\":{\"a\":0,\"b\":7},\"merges\":[]}}";
	assert_int_equal(m2_tokenizer_parse(few, strlen(few), "few", &t, &why), M2_OK);
	assert_int_equal(m2_tokenizer_size(t), 8);
	expect(t, 0, "ab", 0, 7, -1);
	assert_int_equal(m2_tokenizer_encode(t, "abc", 3, 0, 9, &ids, &count, &why), M2_EINVAL);
	assert_non_null(strstr(why.text, "0x63"));
	(void)m2_tokenizer_bytes(t, 3, &count); /* a hole */
	assert_int_equal(count, 0);
	m2_tokenizer_close(&t);
}

static void *encode_many(void *shared)
{
	const struct m2_tokenizer *t = shared;
	for (int i = 0; i < 200; i++) {
		int32_t *ids;
		size_t count;
		struct m2_why why;
		if (m2_tokenizer_encode(t, "hello e\xcc\x81 w <s>", 15, M2_ENCODE_SPECIAL, 99, &ids,
			    &count, &why) != M2_OK)
			return NULL;
		const bool right = count == 7 && ids[0] == HELLO && ids[6] == CONTROL;
		free(ids);
		if (!right)
			return NULL;
	}
	return shared;
}

/* Of use under the thread sanitizer above all. */
static void threads_share_a_tokenizer(void **state)
{
	pthread_t threads[4];
	(void)state;
	struct m2_tokenizer *t = make((struct parts){.normalizer = "{\"type\":\"NFC\"}"});
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, encode_many, t), 0);
	for (int i = 0; i < 4; i++) {
		void *result;
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_ptr_equal(result, t);
	}
	m2_tokenizer_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges_go_by_rank_and_leftmost_first),
		cmocka_unit_test(the_heap_merges_as_the_rule_says),
		cmocka_unit_test(special_tokens_in_text_are_text_unless_asked_for),
		cmocka_unit_test(added_tokens_match_longest_first_in_two_passes),
		cmocka_unit_test(added_tokens_strip_and_stand_alone),
		cmocka_unit_test(text_is_normalised_where_the_file_asks),
		cmocka_unit_test(a_prefix_space_is_given_once_per_piece),
		cmocka_unit_test(ignore_merges_looks_the_whole_word_up_first),
		cmocka_unit_test(the_template_is_added_when_asked_for),
		cmocka_unit_test(other_kinds_are_refused_by_name),
		cmocka_unit_test(a_vocabulary_that_contradicts_itself_is_refused),
		cmocka_unit_test(text_that_cannot_be_encoded_is_an_error),
		cmocka_unit_test(threads_share_a_tokenizer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
