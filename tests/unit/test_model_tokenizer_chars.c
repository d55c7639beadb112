/* test_model_tokenizer_chars.c - tokenizer.json files whose symbols are characters: each part of the
 * pipeline alone, with expected ids from the rules of the reference library.
 *
 * The vocabulary is a handful of letters with ids that can be read off; U+2581 is written as "\xe2\x96\x81".
 */
#include "tests/unit/test_model_parts.h"

#define MARK "\xe2\x96\x81"

enum { UNK, A, B, AB, M, MA, MM, C, DOT, DIGIT, BYTE_E2, BYTE_80, BYTE_94, CTL };

#define LETTERS                                                                                    \
	"\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"" MARK "\":4,\"" MARK "a\":5,\"" MARK MARK         \
	"\":6,\"c\":7,\".\":8,\"1\":9,\"<0xE2>\":10,\"<0x80>\":11,\"<0x94>\":12"
#define MERGES "\"a b\",\"" MARK " " MARK "\",\"" MARK " a\""
#define FUSED_STRIP                                                                                \
	"{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"      \
	"\"" MARK "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"        \
	"{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define METASPACE(scheme, split)                                                                   \
	"{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"" scheme        \
	"\",\"split\":" split "}"

struct pipeline {
	const char *normalizer, *pre_tokenizer, *decoder, *model, *added;
};

static char *write_file(struct pipeline p)
{
	char *text = NULL;
	assert_true(
		asprintf(&text,
			"{\"added_tokens\":[{\"id\":13,\"content\":\"<ctl>\",\"special\":true}%s],"
			"\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,\"model\":{"
			"\"type\":\"BPE\",\"vocab\":{" LETTERS "},\"merges\":[" MERGES "]%s}}",
			p.added != NULL ? p.added : "",
			p.normalizer != NULL ? p.normalizer : "null",
			p.pre_tokenizer != NULL ? p.pre_tokenizer : "null",
			p.decoder != NULL ? p.decoder : "{\"type\":\"Fuse\"}",
			p.model != NULL ? p.model : ",\"unk_token\":\"<unk>\"") > 0);
	return text;
}

static struct m2_tokenizer *made(struct pipeline p)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = write_file(p);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "x.json", &t, &why);
	free(text);
	if (err != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static void refused(struct pipeline p, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char *text = write_file(p);
	const enum m2_err err = m2_tokenizer_parse(text, strlen(text), "x.json", &t, &why);
	free(text);
	if (err != wanted || strstr(why.text, word) == NULL || strstr(why.text, "x.json") == NULL)
		fail_msg("gave %s: %s", m2_err_code(err), why.text);
	assert_null(t);
}

static void expect_text(const struct m2_tokenizer *t, const char *wanted, ...)
{
	int32_t ids[32];
	size_t n = 0;
	char *text;
	size_t length;
	struct m2_why why;
	va_list list;
	va_start(list, wanted);
	for (int id; (id = va_arg(list, int)) >= 0;)
		ids[n++] = id;
	va_end(list);
	assert_int_equal(m2_tokenizer_decode(t, ids, n, true, &text, &length, &why), M2_OK);
	assert_string_equal(text, wanted);
	free(text);
}

static void characters_are_symbols_and_what_is_none_is_unknown(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made((struct pipeline){.decoder = NULL});
	assert_string_equal(m2_tokenizer_kind(t), "BPE, tokenizer.json");
	expect(t, 0, "abab", AB, AB, -1);
	expect(t, 0, "", -1);
	expect(t, 0, "axyb", A, UNK, UNK, B, -1);
	expect(t, 0, MARK "ab", M, AB, -1);
	expect(t, 0, "<ctl>", UNK, C, UNK, UNK, UNK, -1);
	expect(t, M2_ENCODE_SPECIAL, "a<ctl>b", A, CTL, B, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.model = ",\"unk_token\":\"<unk>\",\"fuse_unk\":true"});
	expect(t, 0, "axyb", A, UNK, B, -1);
	expect(t, 0, "xy", UNK, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.model = ""});
	int32_t *ids;
	size_t count;
	struct m2_why why;
	assert_int_equal(m2_tokenizer_encode(t, "ax", 2, 0, 9, &ids, &count, &why), M2_EINVAL);
	assert_non_null(strstr(why.text, "0x78"));
	m2_tokenizer_close(&t);
	refused((struct pipeline){.model = ",\"unk_token\":\"<none>\""}, M2_EFORMAT, "<none>");
}

static void bytes_fall_back_all_or_none(void **state)
{
	(void)state;
	struct m2_tokenizer *t =
		made((struct pipeline){.model = ",\"unk_token\":\"<unk>\",\"byte_fallback\":true",
			.decoder = FUSED_STRIP});
	assert_string_equal(m2_tokenizer_kind(t), "BPE with byte fallback, tokenizer.json");
	expect(t, 0, "a\xe2\x80\x94", A, BYTE_E2, BYTE_80, BYTE_94, -1);
	expect(t, 0, "a\xe2\x80\x93", A, UNK, -1); /* 0x93 has no token */
	/* an unknown token waits for the next character that is known */
	expect(t, 0,
		"x\xe2\x80\x94"
		"a",
		BYTE_E2, BYTE_80, BYTE_94, UNK, A, -1);
	expect_text(t, "a\xe2\x80\x94", A, BYTE_E2, BYTE_80, BYTE_94, -1);
	m2_tokenizer_close(&t);
}

static void metaspace_prepends_as_its_scheme_says(void **state)
{
	(void)state;
	struct m2_tokenizer *t =
		made((struct pipeline){.pre_tokenizer = METASPACE("always", "true"),
			.decoder = METASPACE("always", "true")});
	expect(t, 0, "a a", MA, MA, -1);
	expect(t, 0, " a", MA, -1);
	expect(t, 0, "  a", M, MA, -1); /* cut at each mark */
	expect(t, M2_ENCODE_SPECIAL, "a<ctl>a", MA, CTL, MA, -1);
	expect_text(t, "a a", MA, MA, -1);
	expect_text(t, "a ", MA, CTL, M, -1);
	expect_text(t, " a", M, MA, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){
		.pre_tokenizer = METASPACE("first", "false"), .decoder = FUSED_STRIP});
	expect(t, 0, "  a", MM, A, -1); /* in one piece */
	expect(t, M2_ENCODE_SPECIAL, "a<ctl>a", MA, CTL, A, -1);
	expect(t, M2_ENCODE_SPECIAL, "<ctl>a", CTL, A, -1);
	expect_text(t, "a a", MA, MA, -1);
	expect_text(t, " a", MM, A, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = METASPACE("never", "true"),
		.decoder = METASPACE("never", "true")});
	expect(t, 0, "a a", A, MA, -1);
	expect_text(t, " a", MA, -1);
	m2_tokenizer_close(&t);
	/* the key of older files */
	t = made(
		(struct pipeline){.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"" MARK
						   "\",\"add_prefix_space\":false}"});
	expect(t, 0, "a a", A, MA, -1);
	m2_tokenizer_close(&t);
	refused((struct pipeline){.pre_tokenizer = METASPACE("last", "true")}, M2_EUNSUPPORTED,
		"last");
	refused((struct pipeline){.pre_tokenizer =
					  "{\"type\":\"Metaspace\",\"replacement\":\"__\"}"},
		M2_EFORMAT, "one character");
}

static void normalizers_run_in_their_order(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made((struct pipeline){
		.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
			      "\"prepend\":\"" MARK "\"},{\"type\":\"Replace\",\"pattern\":{"
			      "\"String\":\" \"},\"content\":\"" MARK "\"}]}"});
	expect(t, 0, "a a", MA, MA, -1);
	expect(t, 0, " a", MM, A, -1);
	expect(t, M2_ENCODE_SPECIAL, "a<ctl>a", MA, CTL, MA, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.normalizer = "{\"type\":\"Lowercase\"}"});
	expect(t, 0, "AB", AB, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.normalizer = "{\"type\":\"NFKC\"}"});
	expect(t, 0, "\xef\xbd\x81\xe2\x91\xa0", A, DIGIT, -1); /* full width a, circled 1 */
	m2_tokenizer_close(&t);
	/* what Strip takes from the front moves the beginning: nothing is prepended there */
	t = made((struct pipeline){
		.normalizer = "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}",
		.pre_tokenizer = METASPACE("first", "true")});
	expect(t, 0, "a", MA, -1);
	expect(t, 0, "\n a ", A, M, -1);
	m2_tokenizer_close(&t);
	refused((struct pipeline){.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"Regex\":"
						"\" {2,}\"},\"content\":\" \"}"},
		M2_EUNSUPPORTED, " {2,}");
	refused((struct pipeline){.normalizer = "{\"type\":\"Prepend\"}"}, M2_EFORMAT, "prepend");
}

#define SPLIT(pattern, behaviour, invert)                                                          \
	"{\"type\":\"Split\",\"pattern\":{\"String\":\"" pattern "\"},\"behavior\":\"" behaviour   \
	"\",\"invert\":" invert "}"

/* A cut shows where "ab" does not merge, and where a token went. */
static void each_behaviour_of_split_keeps_what_it_says(void **state)
{
	static const struct {
		const char *behaviour;
		int ids[6]; /* of "cabccab" cut at "ab", with "c c" and "c ab" unmergeable anyway */
	} cases[] = {{"Removed", {C, C, C, -1}}, {"Isolated", {C, AB, C, C, AB, -1}},
		{"MergedWithPrevious", {C, AB, C, C, AB, -1}},
		{"MergedWithNext", {C, AB, C, C, AB, -1}}, {"Contiguous", {C, AB, C, C, AB, -1}}};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char part[256];
		(void)snprintf(part, sizeof part,
			"{\"type\":\"Split\",\"pattern\":{\"String\":\"ab\"},\"behavior\":\"%s\"}",
			cases[i].behaviour);
		struct m2_tokenizer *t = made((struct pipeline){.pre_tokenizer = part});
		const int *w = cases[i].ids;
		expect(t, 0, "cabccab", w[0], w[1], w[2], w[3], w[4], w[5]);
		m2_tokenizer_close(&t);
	}
	struct m2_tokenizer *t =
		made((struct pipeline){.pre_tokenizer = SPLIT("a", "Isolated", "false")});
	expect(t, 0, "abab", A, B, A, B, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = SPLIT("a", "MergedWithNext", "false")});
	expect(t, 0, "abab", AB, AB, -1);
	expect(t, 0, "aab", A, AB, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = SPLIT("a", "MergedWithPrevious", "false")});
	expect(t, 0, "abab", A, B, A, B, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = SPLIT("a", "Removed", "true")});
	expect(t, 0, "abab", A, A, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = SPLIT("b", "MergedWithPrevious", "false")});
	expect(t, 0, "abab", AB, AB, -1);
	m2_tokenizer_close(&t);
	refused((struct pipeline){.pre_tokenizer = SPLIT("a", "Sometimes", "false")},
		M2_EUNSUPPORTED, "Sometimes");
	refused((struct pipeline){.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":"
						   "\"(a+)+$\"},\"behavior\":\"Isolated\"}"},
		M2_EUNSUPPORTED, "(a+)+$");
	refused((struct pipeline){.pre_tokenizer = SPLIT("", "Isolated", "false")}, M2_EFORMAT,
		"String");
}

static void characters_can_be_cut_by_class(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made((struct pipeline){
		.pre_tokenizer = "{\"type\":\"Digits\",\"individual_digits\":true}"});
	expect(t, 0, "a1ab", A, DIGIT, AB, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = "{\"type\":\"WhitespaceSplit\"}"});
	expect(t, 0, "a b\n ab", A, B, AB, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){.pre_tokenizer = "{\"type\":\"Whitespace\"}"});
	expect(t, 0, "ab. a b", AB, DOT, A, B, -1);
	m2_tokenizer_close(&t);
	t = made((struct pipeline){
		.pre_tokenizer = "{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}"});
	expect(t, 0, "a.b", A, B, -1);
	m2_tokenizer_close(&t);
}

static void a_known_pattern_cuts_before_byte_level(void **state)
{
	(void)state;
	struct m2_tokenizer *t = make((struct parts){
		.pre_tokenizer =
			"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
			"{"
			"\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
			"\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*"
			"[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\"},"
			"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]"
			"}"});
	expect(t, 0, "hello w", HELLO, SPACE_W, -1);
	m2_tokenizer_close(&t);
}

static void what_cannot_stream_is_refused(void **state)
{
	(void)state;
	refused(
		(struct pipeline){
			.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
				   "{\"type\":\"Strip\",\"content\":\" \",\"start\":0,"
				   "\"stop\":1}]}"},
		M2_EUNSUPPORTED, "Strip");
	refused(
		(struct pipeline){
			.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
				   "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},"
				   "\"content\":\"b\"}]}"},
		M2_EUNSUPPORTED, "behind Fuse");
	refused((struct pipeline){.decoder = "{\"type\":\"Sequence\",\"decoders\":["
					     "{\"type\":\"ByteFallback\"},{\"type\":\"Metaspace\","
					     "\"replacement\":\"_\"}]}"},
		M2_EUNSUPPORTED, "behind ByteFallback");
	refused((struct pipeline){.decoder = "{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,"
					     "\"stop\":0}"},
		M2_EFORMAT, "start");
	refused((struct pipeline){.decoder = "{\"type\":7}"}, M2_EFORMAT, "type");
	refused((struct pipeline){.added = ",{\"id\":14,\"content\":\"x\",\"special\":3}"},
		M2_EFORMAT, "special");
}

static void token_texts_can_be_stripped_and_replaced(void **state)
{
	(void)state;
	struct m2_tokenizer *t =
		made((struct pipeline){.decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":"
						  "\"Strip\",\"content\":\"a\","
						  "\"start\":1,\"stop\":1},{\"type\":\"Replace\","
						  "\"pattern\":{\"String\":\"b\"},"
						  "\"content\":\"<>\"}]}"});
	expect_text(t, "<><>c", A, AB, B, C, -1);
	m2_tokenizer_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(characters_are_symbols_and_what_is_none_is_unknown),
		cmocka_unit_test(bytes_fall_back_all_or_none),
		cmocka_unit_test(metaspace_prepends_as_its_scheme_says),
		cmocka_unit_test(normalizers_run_in_their_order),
		cmocka_unit_test(each_behaviour_of_split_keeps_what_it_says),
		cmocka_unit_test(characters_can_be_cut_by_class),
		cmocka_unit_test(a_known_pattern_cuts_before_byte_level),
		cmocka_unit_test(what_cannot_stream_is_refused),
		cmocka_unit_test(token_texts_can_be_stripped_and_replaced),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
