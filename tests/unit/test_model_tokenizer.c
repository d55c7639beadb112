/* test_model_tokenizer.c - small tokenizer.json files made here, each feature and each refusal alone.
 *
 * The vocabulary is all 256 bytes (ids 0..255, in the order of the bytes) and a few merges, so that
 * expected ids can be read off the test.  Real vocabularies: tests/conformance/test_tokenizers.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer.h"

/* Parts of a file; NULL: the usual one. */
struct parts {
	const char *added, *normalizer, *pre_tokenizer, *post_processor, *decoder, *vocab, *merges,
		*more;
};

/* ids 256.. of the usual vocabulary */
enum { HE = 256, LL, HELL, HELLO, AA, AAAA, SPACE_W, CONTROL };

#define USUAL_VOCAB                                                                                \
	",\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259,\"aa\":260,\"aaaa\":261,\"\xc4\xa0w\":" \
	"262"
#define USUAL_MERGES "\"h e\",\"l l\",\"he ll\",\"hell o\",\"a a\",\"aa aa\",\"\xc4\xa0 w\""
#define USUAL_ADDED  "{\"id\":263,\"content\":\"<s>\",\"special\":true,\"normalized\":false}"
#define BYTE_LEVEL   "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

/* The file as a string; the caller frees. */
static char *compose(const struct parts *p)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	assert_non_null(out);
	(void)fprintf(out,
		"{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,"
		"\"post_processor\":%s,\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"vocab\":{",
		p->added != NULL ? p->added : USUAL_ADDED,
		p->normalizer != NULL ? p->normalizer : "null",
		p->pre_tokenizer != NULL ? p->pre_tokenizer : BYTE_LEVEL,
		p->post_processor != NULL ? p->post_processor : "null",
		p->decoder != NULL ? p->decoder : "{\"type\":\"ByteLevel\"}");
	for (unsigned byte = 0; byte < 256; byte++) {
		char stand_in[5] = {0};
		(void)m2_utf8_encode(
			m2_stand_in_of_byte((unsigned char)byte), (unsigned char *)stand_in);
		(void)fprintf(out, "%s\"%s%s\":%u", byte == 0 ? "" : ",",
			byte == '"' || byte == '\\' ? "\\" : "", stand_in, byte);
	}
	(void)fprintf(out, "%s},\"merges\":[%s]%s}}", p->vocab != NULL ? p->vocab : USUAL_VOCAB,
		p->merges != NULL ? p->merges : USUAL_MERGES, p->more != NULL ? p->more : "");
	(void)fclose(out);
	return text;
}

static struct m2_tokenizer *make(struct parts parts)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = compose(&parts);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "tokenizer.json", &t, &why);
	free(text);
	if (err != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static void refuse(struct parts parts, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = compose(&parts);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "tokenizer.json", &t, &why);
	free(text);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("gave %s: %s\n", m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why.text, word));
	assert_non_null(strstr(why.text, "tokenizer.json"));
	assert_null(t);
}

/* text must encode to the given ids, -1 at the end. */
static void expect(const struct m2_tokenizer *t, unsigned flags, const char *text, ...)
{
	int32_t *ids;
	size_t count;
	struct m2_why why = {.text = ""};
	va_list wanted;
	assert_int_equal(
		m2_tokenizer_encode(t, text, strlen(text), flags, 1000, &ids, &count, &why), M2_OK);
	assert_non_null(ids);
	va_start(wanted, text);
	for (size_t i = 0; i <= count; i++) {
		const int id = va_arg(wanted, int);
		if (id != (i < count ? ids[i] : -1))
			print_error("\"%s\": id %zu is %d\n", text, i, i < count ? ids[i] : -1);
		assert_int_equal(id, i < count ? ids[i] : -1);
	}
	va_end(wanted);
	free(ids);
}

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
	refuse((struct parts){.normalizer = "{\"type\":\"NFKC\"}"}, M2_EUNSUPPORTED, "NFKC");
	refuse((struct parts){.normalizer =
				      "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
				      "{\"type\":\"Lowercase\"}]}"},
		M2_EUNSUPPORTED, "Lowercase");
	refuse((struct parts){.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, M2_EUNSUPPORTED,
		"Metaspace");
	refuse((struct parts){.pre_tokenizer = "null"}, M2_EUNSUPPORTED, "pre_tokenizer");
	refuse((struct parts){.decoder = "null"}, M2_EUNSUPPORTED, "decoder");
	refuse((struct parts){.decoder = "{\"type\":\"WordPiece\"}"}, M2_EUNSUPPORTED, "WordPiece");
	refuse((struct parts){.post_processor = "{\"type\":\"BertProcessing\"}"}, M2_EUNSUPPORTED,
		"BertProcessing");
	refuse((struct parts){.more = ",\"byte_fallback\":true"}, M2_EUNSUPPORTED, "byte_fallback");
	refuse((struct parts){.more = ",\"dropout\":0.1"}, M2_EUNSUPPORTED, "dropout");
	refuse((struct parts){.more = ",\"end_of_word_suffix\":\"</w>\""}, M2_EUNSUPPORTED,
		"end_of_word_suffix");
	refuse((struct parts){.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, M2_EFORMAT,
		"add_prefix_space");
	refuse((struct parts){.pre_tokenizer = "{}"}, M2_EFORMAT, "no type");
	refuse((struct parts){.pre_tokenizer =
				      "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL
				      "," BYTE_LEVEL "]}"},
		M2_EUNSUPPORTED, "two ByteLevel");

	struct m2_tokenizer *t = NULL;
	struct m2_why why;
	static const char unigram[] = "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
	assert_int_equal(
		m2_tokenizer_parse(unigram, strlen(unigram), "x", &t, &why), M2_EUNSUPPORTED);
	assert_non_null(strstr(why.text, "Unigram"));
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

/* ---- decoding ---- */

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

static void a_directory_or_a_file_can_be_opened(void **state)
{
	const char *base = getenv("TMPDIR");
	char directory[4096];
	char path[4200];
	struct m2_tokenizer *t = NULL;
	struct m2_why why;
	(void)state;
	(void)snprintf(directory, sizeof directory, "%s/m2-tokenizer-XXXXXX",
		base != NULL ? base : "/tmp");
	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof path, "%s/tokenizer.json", directory);
	assert_int_equal(m2_tokenizer_open(directory, &t, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, path));
	char *text = compose(&(struct parts){.added = NULL});
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
	free(text);
	assert_int_equal(m2_tokenizer_open(directory, &t, &why), M2_OK);
	m2_tokenizer_close(&t);
	assert_int_equal(m2_tokenizer_open(path, &t, &why), M2_OK);
	m2_tokenizer_close(&t);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(directory), 0);
	assert_int_equal(m2_tokenizer_open(directory, &t, &why), M2_ENOENT);
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
		cmocka_unit_test(a_stream_gives_whole_characters_only),
		cmocka_unit_test(each_maximal_invalid_part_becomes_one_replacement),
		cmocka_unit_test(specials_are_skipped_on_request_and_do_not_cut_a_character),
		cmocka_unit_test(added_text_is_literal_even_in_stand_in_letters),
		cmocka_unit_test(max_text_bounds_what_a_token_adds),
		cmocka_unit_test(threads_share_a_tokenizer),
		cmocka_unit_test(a_directory_or_a_file_can_be_opened),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
