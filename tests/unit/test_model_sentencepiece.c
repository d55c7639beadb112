/* test_model_sentencepiece.c - small SentencePiece models made here: rules of merging, of spaces, of kinds
 * of pieces, and files that are refused.
 *
 * What real models give is in tests/conformance/test_tokenizers.c.
 */
#include "tests/unit/test_model_parts.h"

#include <math.h>

#include "model/sentencepiece.h"
#include "model/sentencepiece.pb-c.h"

#define MARK "\xe2\x96\x81"

enum { MAX_PIECES_HERE = 300 };

struct spec {
	const char *text;
	float score;
	int type;
};

/* What a test may want to be otherwise. */
struct options {
	bool unigram, no_dummy, squeeze, suffix, bytes;
	int model_type; /* 0: by `unigram` */
	const unsigned char *charsmap;
	size_t charsmap_length;
};

struct file {
	uint8_t *bytes;
	size_t length;
};

static struct file write_model(const struct spec *specs, size_t n, struct options o)
{
	static M2__Spm__Piece pieces[MAX_PIECES_HERE];
	static M2__Spm__Piece *list[MAX_PIECES_HERE];
	static char names[256][8];
	M2__Spm__Model model = M2__SPM__MODEL__INIT;
	M2__Spm__Trainer trainer = M2__SPM__TRAINER__INIT;
	M2__Spm__Normalizer normalizer = M2__SPM__NORMALIZER__INIT;
	const size_t count = n + (o.bytes ? 256 : 0);
	for (size_t i = 0; i < count; i++) {
		m2__spm__piece__init(&pieces[i]);
		list[i] = &pieces[i];
		if (i >= n)
			(void)snprintf(
				names[i - n], sizeof names[0], "<0x%02X>", (unsigned)(i - n));
		char *text = i < n ? (char *)(uintptr_t)specs[i].text : names[i - n];
		pieces[i].piece.data = (uint8_t *)text;
		pieces[i].piece.len = strlen(text);
		pieces[i].has_piece = true;
		pieces[i].has_score = pieces[i].has_type = true;
		pieces[i].score = i < n ? specs[i].score : 0;
		pieces[i].type = i < n ? specs[i].type : M2_PIECE_BYTE;
	}
	model.n_pieces = count;
	model.pieces = list;
	model.trainer = &trainer;
	trainer.has_model_type = true;
	trainer.model_type = o.model_type != 0 ? o.model_type : o.unigram ? 1 : 2;
	trainer.has_treat_whitespace_as_suffix = true;
	trainer.treat_whitespace_as_suffix = o.suffix;
	model.normalizer = &normalizer;
	normalizer.has_add_dummy_prefix = normalizer.has_remove_extra_whitespaces = true;
	normalizer.add_dummy_prefix = !o.no_dummy;
	normalizer.remove_extra_whitespaces = o.squeeze;
	normalizer.has_precompiled_charsmap = o.charsmap != NULL;
	normalizer.precompiled_charsmap.data = (uint8_t *)(uintptr_t)o.charsmap;
	normalizer.precompiled_charsmap.len = o.charsmap_length;
	struct file file = {.length = m2__spm__model__get_packed_size(&model)};
	file.bytes = malloc(file.length + 1);
	assert_non_null(file.bytes);
	assert_int_equal(m2__spm__model__pack(&model, file.bytes), file.length);
	return file;
}

static struct m2_tokenizer *made(const struct spec *specs, size_t n, struct options o)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	struct file file = write_model(specs, n, o);
	const enum m2_err err =
		m2_tokenizer_parse_spm(file.bytes, file.length, "x.model", &t, &why);
	free(file.bytes);
	if (err != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static void refused(
	const struct spec *specs, size_t n, struct options o, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	struct file file = write_model(specs, n, o);
	const enum m2_err err =
		m2_tokenizer_parse_spm(file.bytes, file.length, "x.model", &t, &why);
	free(file.bytes);
	if (err != wanted || strstr(why.text, word) == NULL || strstr(why.text, "x.model") == NULL)
		fail_msg("gave %s: %s", m2_err_code(err), why.text);
	assert_null(t);
}
#define N(specs) (specs), sizeof(specs) / sizeof *(specs)

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

/* 0 unknown, 1 and 2 control */
#define HEAD                                                                                       \
	{"<unk>", 0, M2_PIECE_UNKNOWN}, {"<s>", 0, M2_PIECE_CONTROL},                              \
	{                                                                                          \
		"</s>", 0, M2_PIECE_CONTROL                                                        \
	}

static const struct spec plain[] = {HEAD, {MARK, -5, 1}, {"a", -6, 1}, {"b", -7, 1}, {"ab", -1, 1},
	{"ba", -2, 1}, {MARK "a", -3, 1}, {"aa", -4, 1}};
enum { UNK, BOS, EOS, M, A, B, AB, BA, MA, PAIR, BYTES };

static void merges_go_by_score_and_leftmost_first(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made(N(plain), (struct options){.bytes = false});
	assert_string_equal(m2_tokenizer_kind(t), "SentencePiece BPE, .model");
	assert_string_equal(m2_tokenizer_path(t), "");
	assert_int_equal(m2_tokenizer_bos(t), BOS);
	assert_int_equal(m2_tokenizer_eos(t), EOS);
	expect(t, 0, "", -1);
	expect(t, 0, "a", MA, -1);
	expect(t, 0, "aba", M, AB, A, -1); /* ab before the space takes the a */
	expect(t, 0, "bab", M, B, AB, -1);
	expect(t, 0, " a", M, MA, -1);
	expect(t, 0, "baaa", M, BA, PAIR, -1);
	m2_tokenizer_close(&t);
	/* equal scores: the leftmost */
	const struct spec ties[] = {
		HEAD, {MARK, -9, 1}, {"a", -9, 1}, {"b", -9, 1}, {"ab", -1, 1}, {"ba", -1, 1}};
	t = made(N(ties), (struct options){.bytes = false});
	expect(t, 0, "abab", M, AB, AB, -1);
	expect(t, 0, "baba", M, BA, BA, -1);
	m2_tokenizer_close(&t);
}

static void two_characters_that_are_no_pieces_may_be_one(void **state)
{
	(void)state;
	const struct spec pieces[] = {HEAD, {MARK, -1, 1}, {"xy", -2, 1}, {"xyz", -3, 1}};
	struct m2_tokenizer *t = made(N(pieces), (struct options){.bytes = false});
	expect(t, 0, "xy", M, 4, -1);
	expect(t, 0, "xyz", M, 5, -1);
	expect(t, 0, "xz", M, UNK, -1); /* one unknown for a run */
	expect(t, 0, "xqxyq", M, UNK, 4, UNK, -1);
	m2_tokenizer_close(&t);
	t = made(N(pieces), (struct options){.bytes = true});
	expect(t, 0, "xz", M, 6 + 'x', 6 + 'z', -1);
	expect(t, 0, "\xc3\xa9", M, 6 + 0xc3, 6 + 0xa9, -1);
	m2_tokenizer_close(&t);
}

static void control_pieces_come_on_request_and_user_pieces_always(void **state)
{
	(void)state;
	const struct spec pieces[] = {HEAD, {MARK, -1, 1}, {"a", -2, 1}, {"<", -3, 1}, {"s", -3, 1},
		{">", -3, 1}, {"<s", -3, 1}, {"[x]", 0, M2_PIECE_USER_DEFINED},
		{"[x]a", 0, M2_PIECE_USER_DEFINED}, {"aa", -1, 1}};
	struct m2_tokenizer *t = made(N(pieces), (struct options){.bytes = false});
	expect(t, 0, "<s>", 3, 8, 7, -1);
	expect(t, M2_ENCODE_SPECIAL, "a<s>a", 3, 4, BOS, 3, 4, -1);
	expect(t, 0, "a[x]a[x]", 3, 4, 10, 9, -1); /* the longest; they merge with nothing */
	expect(t, 0, "aa[x]", 3, 11, 9, -1);
	assert_int_equal(m2_tokenizer_special(t, "<s>", 3), BOS);
	assert_int_equal(m2_tokenizer_special(t, "[x]", 3), -1);
	assert_true(m2_tokenizer_is_special(t, BOS));
	assert_false(m2_tokenizer_is_special(t, UNK));
	m2_tokenizer_close(&t);
}

static void unused_pieces_come_apart_again(void **state)
{
	(void)state;
	const struct spec pieces[] = {HEAD, {MARK, -9, 1}, {"a", -8, 1}, {"b", -7, 1}, {"c", -6, 1},
		{"ab", -1, M2_PIECE_UNUSED}, {"abc", -2, 1}, {"d", -5, M2_PIECE_UNUSED}};
	struct m2_tokenizer *t = made(N(pieces), (struct options){.bytes = false});
	expect(t, 0, "abc", 3, 8, -1);
	expect(t, 0, "aba", 3, 4, 5, 4, -1);
	expect(t, 0, "d", 3, UNK, -1);
	m2_tokenizer_close(&t);
}

static void spaces_follow_the_normaliser(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made(N(plain), (struct options){.squeeze = true});
	expect(t, 0, "  a  a ", MA, MA, -1);
	expect(t, 0, "   ", -1);
	expect_text(t, "a", M, MA, -1);
	m2_tokenizer_close(&t);
	t = made(N(plain), (struct options){.no_dummy = true});
	expect(t, 0, "a a", A, MA, -1);
	expect_text(t, " a", MA, -1);
	m2_tokenizer_close(&t);
	t = made(N(plain), (struct options){.suffix = true});
	expect(t, 0, "a", A, M, -1);
	m2_tokenizer_close(&t);
}

static void the_dummy_space_is_taken_off_once_at_the_beginning(void **state)
{
	(void)state;
	struct m2_tokenizer *t = made(N(plain), (struct options){.bytes = true});
	expect_text(t, "a a", MA, MA, -1);
	expect_text(t, " a", M, MA, -1);
	expect_text(t, "ba a", BA, MA, -1);
	expect_text(t, "a", BOS, MA, -1);
	expect_text(t, " \xe2\x81\x87 a", UNK, A, -1);
	expect_text(t, "a\xef\xbf\xbd", MA, BYTES + 0xe2, -1);
	expect_text(t, "\xef\xbf\xbd\xef\xbf\xbd b", BYTES + 0xe2, BYTES + 0x81, M, B, -1);
	expect_text(t,
		"A\xef\xbf\xbd"
		"B",
		BYTES + 'A', BYTES + 0xff, BYTES + 'B', -1);
	m2_tokenizer_close(&t);
}

static void unigram_takes_the_best_sum(void **state)
{
	(void)state;
	const struct spec pieces[] = {HEAD, {MARK, -2, 1}, {"a", -2, 1}, {"b", -2, 1},
		{"ab", -3, 1}, {"abb", -4.5F, 1}, {MARK "a", -2.5F, 1},
		{"u", 0, M2_PIECE_USER_DEFINED}, {"bb", -2, M2_PIECE_UNUSED}};
	struct m2_tokenizer *t = made(N(pieces), (struct options){.unigram = true});
	assert_string_equal(m2_tokenizer_kind(t), "SentencePiece unigram, .model");
	expect(t, 0, "ab", 8, 5, -1);  /* -4.5 beats -5 */
	expect(t, 0, "abb", 3, 7, -1); /* -6.5, as -2.5 -2 -2: the first to get there stays */
	expect(t, 0, "bab", 3, 5, 6, -1);
	expect(t, 0, "aub", 8, 9, 5, -1);
	expect(t, 0, "xyb", 3, UNK, 5, -1);
	m2_tokenizer_close(&t);
}

/* A double array of one key, "A" to "a": unit 0 leads to 'A' ^ 1, that to its value at ^ 2. */
static void a_charsmap_replaces_and_is_checked(void **state)
{
	unsigned char map[4 + 4 * 128 + 2] = {4 * 128 & 0xff, 4 * 128 >> 8};
	const unsigned where = 1 ^ 'A';
	(void)state;
	unsigned char *units = map + 4;
	units[1] = 1 << 2;                 /* offset 1 in bits 10.. */
	units[4 * where] = 'A';            /* its label, */
	units[4 * where + 1] = 1 | 2 << 2; /* bit 8: a key ends here; offset 2 */
	units[4 * (where ^ 2) + 3] = 0x80; /* the value, 0 */
	map[sizeof map - 2] = 'a';
	struct options o = {.charsmap = map, .charsmap_length = sizeof map};
	struct m2_tokenizer *t = made(N(plain), o);
	expect(t, 0, "AbA", M, AB, A, -1);
	m2_tokenizer_close(&t);
	map[sizeof map - 1] = 'a'; /* no NUL at the end */
	refused(N(plain), o, M2_EFORMAT, "precompiled_charsmap");
	o.charsmap_length = 3;
	refused(N(plain), o, M2_EFORMAT, "precompiled_charsmap");
	map[0] = 3;
	o.charsmap_length = sizeof map;
	refused(N(plain), o, M2_EFORMAT, "double array");
}

static void pieces_that_make_no_sense_are_refused(void **state)
{
	(void)state;
	const struct options o = {.bytes = false};
	char longest[600];
	memset(longest, 'a', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	const struct spec twice[] = {HEAD, {"a", 0, 1}, {"a", -1, 1}};
	const struct spec empty[] = {HEAD, {"", 0, 1}};
	const struct spec invalid[] = {HEAD, {"\xff", 0, 1}};
	const struct spec nan_score[] = {HEAD, {"a", NAN, 1}};
	const struct spec infinite[] = {HEAD, {"a", INFINITY, 1}};
	const struct spec type[] = {HEAD, {"a", 0, 9}};
	const struct spec negative[] = {HEAD, {"a", 0, -1}};
	const struct spec byte[] = {HEAD, {"<0xGG>", 0, M2_PIECE_BYTE}};
	const struct spec unknowns[] = {HEAD, {"a", 0, M2_PIECE_UNKNOWN}};
	const struct spec no_unknown[] = {{"a", 0, 1}};
	const struct spec too_long[] = {HEAD, {longest, 0, 1}};
	refused(N(twice), o, M2_EFORMAT, "as another is");
	refused(N(empty), o, M2_EFORMAT, "piece 3 is empty");
	refused(N(invalid), o, M2_EFORMAT, "piece 3 is not valid UTF-8");
	refused(N(nan_score), o, M2_EFORMAT, "no finite number");
	refused(N(infinite), o, M2_EFORMAT, "no finite number");
	refused(N(type), o, M2_EFORMAT, "type outside");
	refused(N(negative), o, M2_EFORMAT, "type outside");
	refused(N(byte), o, M2_EFORMAT, "<0x00>");
	refused(N(unknowns), o, M2_EFORMAT, "both the unknown");
	refused(N(no_unknown), o, M2_EFORMAT, "no unknown piece");
	refused(N(too_long), o, M2_EFORMAT, "599 bytes");
	refused(N(plain), (struct options){.model_type = 3}, M2_EUNSUPPORTED, "word");
	refused(N(plain), (struct options){.model_type = 4}, M2_EUNSUPPORTED, "char");
	refused(N(plain), (struct options){.model_type = 77}, M2_EUNSUPPORTED, "type 77");
	refused(plain, 0, o, M2_EFORMAT, "0 pieces");
}

static void bytes_that_are_no_model_are_refused(void **state)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why;
	(void)state;
	assert_int_equal(m2_tokenizer_parse_spm("hello", 5, "x", &t, &why), M2_EFORMAT);
	assert_int_equal(m2_tokenizer_parse_spm("", 0, "x", &t, &why), M2_EFORMAT);
	/* a piece per two bytes: the reader's budget ends first */
	const size_t n = 24 << 20;
	char *bomb = malloc(n);
	assert_non_null(bomb);
	for (size_t i = 0; i < n; i += 2)
		memcpy(bomb + i, "\x0a", 2);
	assert_int_equal(m2_tokenizer_parse_spm(bomb, n, "x", &t, &why), M2_EFORMAT);
	assert_non_null(strstr(why.text, "256 MiB"));
	free(bomb);
	assert_null(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merges_go_by_score_and_leftmost_first),
		cmocka_unit_test(two_characters_that_are_no_pieces_may_be_one),
		cmocka_unit_test(control_pieces_come_on_request_and_user_pieces_always),
		cmocka_unit_test(unused_pieces_come_apart_again),
		cmocka_unit_test(spaces_follow_the_normaliser),
		cmocka_unit_test(the_dummy_space_is_taken_off_once_at_the_beginning),
		cmocka_unit_test(unigram_takes_the_best_sum),
		cmocka_unit_test(a_charsmap_replaces_and_is_checked),
		cmocka_unit_test(pieces_that_make_no_sense_are_refused),
		cmocka_unit_test(bytes_that_are_no_model_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
