/* test_model_gguf_tokenizer.c - the tokenizers that GGUF files carry give the ids of the files that they
 * were converted from, and what cannot is refused by the key that shows it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer_pieces.h"
#include "tests/unit/gguf_maker.h"

/* A token of a list, with its kind and score; kind 0: normal. */
struct entry {
	const char *text;
	int32_t kind;
	float score;
};

static char byte_texts[256][5];

enum { MAX_LIST = 400 };

/* 256 bytes of a family, then the entries. */
static void key_tokens(struct gguf_maker *m, const struct entry *entries, size_t n, bool types)
{
	const char *texts[MAX_LIST];
	int32_t kinds[MAX_LIST];
	float scores[MAX_LIST];
	assert_true(n <= MAX_LIST);
	for (size_t i = 0; i < n; i++) {
		texts[i] = entries[i].text;
		kinds[i] = entries[i].kind != 0 ? entries[i].kind : M2_PIECE_NORMAL;
		scores[i] = entries[i].score;
	}
	key_texts(m, "tokenizer.ggml.tokens", texts, n);
	if (types)
		key_i32s(m, "tokenizer.ggml.token_type", kinds, n);
	key_f32s(m, "tokenizer.ggml.scores", scores, n);
}

static enum m2_err open_tokenizer(
	struct gguf_maker *m, struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_gguf *g = NULL;
	struct bytes file = finish_gguf(m);
	enum m2_err err = m2_gguf_parse(file.at, file.n, file.n, "x.gguf", &g, NULL, why);
	if (err != M2_OK)
		print_error("%s\n", why->text);
	assert_int_equal(err, M2_OK);
	free(file.at);
	free_gguf(m);
	err = m2_gguf_tokenizer(g, out, why);
	m2_gguf_close(&g); /* nothing may point into it */
	return err;
}

static struct m2_tokenizer *opened(struct gguf_maker *m)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	const enum m2_err err = open_tokenizer(m, &t, &why);
	if (err != M2_OK)
		print_error("%s\n", why.text);
	assert_int_equal(err, M2_OK);
	return t;
}

static void refuse(struct gguf_maker *m, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	const enum m2_err err = open_tokenizer(m, &t, &why);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("wanted \"%s\", gave %s: %s\n", word, m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_null(t);
	assert_non_null(strstr(why.text, word));
	assert_non_null(strstr(why.text, "x.gguf"));
}

/* ids ends with -1 */
static void encodes(
	const struct m2_tokenizer *t, const char *text, unsigned flags, const int32_t *wanted)
{
	int32_t *ids = NULL;
	size_t n = 0;
	size_t n_wanted = 0;
	struct m2_why why = {.text = ""};
	while (wanted[n_wanted] >= 0)
		n_wanted++;
	if (m2_tokenizer_encode(t, text, strlen(text), flags, 1000, &ids, &n, &why) != M2_OK)
		fail_msg("%s", why.text);
	for (size_t i = 0; n == n_wanted && i < n; i++)
		if (ids[i] != wanted[i])
			n = n_wanted + 1;
	if (n != n_wanted)
		print_error("\"%s\" gave other ids than it should\n", text);
	assert_int_equal(n, n_wanted);
	free(ids);
}
#define IDS(...)                                                                                   \
	(const int32_t[])                                                                          \
	{                                                                                          \
		__VA_ARGS__, -1                                                                    \
	}

static void is_token(const struct m2_tokenizer *t, int32_t id, const char *text, bool special)
{
	size_t length = 0;
	const unsigned char *bytes = m2_tokenizer_bytes(t, id, &length);
	assert_int_equal(length, strlen(text));
	assert_memory_equal(bytes, text, length);
	assert_int_equal(m2_tokenizer_is_special(t, id), special);
}

/* ---- byte-level BPE ---- */

/* Bytes are ids 2..257, as in GPT-NeoX behind two control tokens. */
enum { BYTE = 2, SP_A = 258, AB, SP_SP, SPACES_3, SPACES_2, E_ACUTE, NEOX_COUNT };

static size_t neox_tokens(struct entry *entries, bool marked)
{
	const int32_t added = marked ? M2_PIECE_USER_DEFINED : 0;
	entries[0] = (struct entry){"<|endoftext|>", marked ? M2_PIECE_CONTROL : 0, 0};
	entries[1] = (struct entry){"<|padding|>", marked ? M2_PIECE_CONTROL : 0, 0};
	for (unsigned byte = 0; byte < 256; byte++) {
		(void)m2_utf8_encode(m2_stand_in_of_byte((unsigned char)byte),
			(unsigned char *)byte_texts[byte]);
		entries[BYTE + byte] = (struct entry){byte_texts[byte], 0, 0};
	}
	entries[SP_A] = (struct entry){"\xc4\xa0"
				       "a",
		0, 0};
	entries[AB] = (struct entry){"ab", 0, 0};
	entries[SP_SP] = (struct entry){"\xc4\xa0\xc4\xa0", 0, 0};
	entries[SPACES_3] = (struct entry){"   ", added, 0};
	entries[SPACES_2] = (struct entry){"  ", added, 0};
	entries[E_ACUTE] = (struct entry){"\xc3\x83\xc2\xa9", 0, 0}; /* stand-ins of U+00E9 */
	entries[NEOX_COUNT] = (struct entry){"[PAD264]", M2_PIECE_UNUSED, 0};
	entries[NEOX_COUNT + 1] = (struct entry){"[PAD265]", M2_PIECE_USER_DEFINED, 0};
	return NEOX_COUNT + 2;
}

static const char *const neox_merges[] = {
	"\xc4\xa0 a", "a b", "\xc4\xa0 \xc4\xa0", "\xc3\x83 \xc2\xa9"};

/* A file as converters write it; pre NULL: before that key. */
static struct gguf_maker neox_gguf(const char *pre, bool marked)
{
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	const size_t n = neox_tokens(entries, marked);
	key_text(&m, "tokenizer.ggml.model", "gpt2");
	if (pre != NULL)
		key_text(&m, "tokenizer.ggml.pre", pre);
	key_tokens(&m, entries, n, marked);
	key_texts(&m, "tokenizer.ggml.merges", neox_merges, 4);
	key_u32(&m, "tokenizer.ggml.bos_token_id", 0);
	key_u32(&m, "tokenizer.ggml.eos_token_id", 0);
	return m;
}

static void check_neox(const struct m2_tokenizer *t)
{
	assert_int_equal(m2_tokenizer_size(t), NEOX_COUNT);
	assert_int_equal(m2_tokenizer_bos(t), 0);
	assert_int_equal(m2_tokenizer_eos(t), 0);
	assert_string_equal(m2_tokenizer_kind(t), "byte-level BPE, GGUF");
	is_token(t, 0, "<|endoftext|>", true);
	is_token(t, 1, "<|padding|>", true);
	is_token(t, SP_A, " a", false);
	is_token(t, SPACES_3, "   ", false);
	is_token(t, E_ACUTE, "\xc3\xa9", false);
	encodes(t, "", 0, IDS(-1));
	encodes(t, "ab a", 0, IDS(AB, SP_A));
	/* runs of spaces go before words, the longest first */
	encodes(t, "  a", 0, IDS(SPACES_2, BYTE + 'a'));
	encodes(t, "     a", 0, IDS(SPACES_3, SPACES_2, BYTE + 'a'));
	encodes(t, "    a", 0, IDS(SPACES_3, SP_A));
	/* no BOS by itself; control tokens only where they are asked for */
	encodes(t, "a", M2_ENCODE_TEMPLATE, IDS(BYTE + 'a'));
	encodes(t, "<|endoftext|>", M2_ENCODE_SPECIAL, IDS(0));
	int32_t plain[14];
	for (int i = 0; i < 13; i++)
		plain[i] = BYTE + "<|endoftext|>"[i];
	plain[13] = -1;
	encodes(t, "<|endoftext|>", 0, plain);
	/* fillers are not there */
	encodes(t, "[PAD264]", M2_ENCODE_SPECIAL,
		IDS(BYTE + '[', BYTE + 'P', BYTE + 'A', BYTE + 'D', BYTE + '2', BYTE + '6',
			BYTE + '4', BYTE + ']'));
	/* NFC, which only tokenizer.json writes down: e and U+0301 become U+00E9 */
	encodes(t, "e\xcc\x81", 0, IDS(E_ACUTE));
}

static void a_neox_file_gives_the_ids_of_its_tokenizer_json(void **state)
{
	(void)state;
	static const char *const pres[] = {"mpt", "olmo", "default", "gpt-2", NULL};
	for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
		for (int marked = 0; marked < 2; marked++) {
			struct gguf_maker m = neox_gguf(pres[i], marked != 0);
			struct m2_tokenizer *t = opened(&m);
			check_neox(t);
			m2_tokenizer_close(&t);
		}
}

static void other_vocabularies_are_not_normalised(void **state)
{
	(void)state;
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	const size_t n = neox_tokens(entries, true);
	entries[0].text = "<|other|>";
	key_text(&m, "tokenizer.ggml.model", "gpt2");
	key_text(&m, "tokenizer.ggml.pre", "gpt-2");
	key_tokens(&m, entries, n, true);
	key_texts(&m, "tokenizer.ggml.merges", neox_merges, 4);
	key_u32(&m, "tokenizer.ggml.bos_token_id", 0);
	key_u32(&m, "tokenizer.ggml.eos_token_id", 1);
	key_bool(&m, "tokenizer.ggml.add_bos_token", 1);
	key_bool(&m, "tokenizer.ggml.add_eos_token", 1);
	struct m2_tokenizer *t = opened(&m);
	encodes(t, "e\xcc\x81", 0, IDS(BYTE + 'e', BYTE + 0xcc, BYTE + 0x81));
	encodes(t, "a", M2_ENCODE_TEMPLATE, IDS(0, BYTE + 'a', 1));
	encodes(t, "a", 0, IDS(BYTE + 'a'));
	m2_tokenizer_close(&t);
}

/* A filler among the tokens is a hole. */
static void holes_are_no_tokens(void **state)
{
	(void)state;
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	size_t n = neox_tokens(entries, true);
	entries[n++] = (struct entry){"", M2_PIECE_USER_DEFINED, 0};
	entries[n++] = (struct entry){"<|more|>", M2_PIECE_CONTROL, 0};
	key_text(&m, "tokenizer.ggml.model", "gpt2");
	key_text(&m, "tokenizer.ggml.pre", "mpt");
	key_tokens(&m, entries, n, true);
	key_texts(&m, "tokenizer.ggml.merges", neox_merges, 4);
	struct m2_tokenizer *t = opened(&m);
	assert_int_equal(m2_tokenizer_size(t), n);
	assert_int_equal(m2_tokenizer_special(t, "<|more|>", 8), n - 1);
	encodes(t, "[PAD265]", M2_ENCODE_SPECIAL,
		IDS(BYTE + '[', BYTE + 'P', BYTE + 'A', BYTE + 'D', BYTE + '2', BYTE + '6',
			BYTE + '5', BYTE + ']'));
	m2_tokenizer_close(&t);
}

/* ---- SentencePiece ---- */

enum { SPM_BYTE = 3, SPM_A = 259, SPM_B, SPM_SP, SPM_SP_A, SPM_AB, SPM_DOC, SPM_COUNT };

static char hex_texts[256][7];

static size_t spm_tokens(struct entry *entries)
{
	entries[0] = (struct entry){"<unk>", M2_PIECE_UNKNOWN, 0};
	entries[1] = (struct entry){"<s>", M2_PIECE_CONTROL, 0};
	entries[2] = (struct entry){"</s>", M2_PIECE_CONTROL, 0};
	for (unsigned byte = 0; byte < 256; byte++) {
		(void)snprintf(hex_texts[byte], sizeof hex_texts[byte], "<0x%02X>", byte);
		entries[SPM_BYTE + byte] = (struct entry){hex_texts[byte], M2_PIECE_BYTE, 0};
	}
	entries[SPM_A] = (struct entry){"a", 0, -3};
	entries[SPM_B] = (struct entry){"b", 0, -4};
	entries[SPM_SP] = (struct entry){"\xe2\x96\x81", 0, -5};
	entries[SPM_SP_A] = (struct entry){"\xe2\x96\x81"
					   "a",
		0, -1};
	entries[SPM_AB] = (struct entry){"ab", 0, -2};
	entries[SPM_DOC] = (struct entry){"[A DOC]", M2_PIECE_USER_DEFINED, -1000};
	entries[SPM_COUNT] = (struct entry){"[PAD1]", M2_PIECE_UNUSED, -1000};
	entries[SPM_COUNT + 1] = (struct entry){"[PAD2]", M2_PIECE_UNUSED, -1000};
	return SPM_COUNT + 2;
}

static struct gguf_maker spm_gguf(void)
{
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	const size_t n = spm_tokens(entries);
	key_text(&m, "tokenizer.ggml.model", "llama");
	key_text(&m, "tokenizer.ggml.pre", "default");
	key_tokens(&m, entries, n, true);
	return m;
}

static void a_sentencepiece_file_gives_the_ids_of_its_model(void **state)
{
	(void)state;
	struct gguf_maker m = spm_gguf();
	struct m2_tokenizer *t = opened(&m);
	assert_int_equal(m2_tokenizer_size(t), SPM_COUNT);
	assert_string_equal(m2_tokenizer_kind(t), "SentencePiece BPE, GGUF");
	/* what is not said is as llama.cpp has it: BOS 1, EOS 2, BOS and a space in front */
	assert_int_equal(m2_tokenizer_bos(t), 1);
	assert_int_equal(m2_tokenizer_eos(t), 2);
	encodes(t, "a", 0, IDS(SPM_SP_A));
	encodes(t, "a", M2_ENCODE_TEMPLATE, IDS(1, SPM_SP_A));
	encodes(t, "ab", 0, IDS(SPM_SP_A, SPM_B));
	encodes(t, "bab a", 0, IDS(SPM_SP, SPM_B, SPM_AB, SPM_SP_A));
	encodes(t, "bz", 0, IDS(SPM_SP, SPM_B, SPM_BYTE + 'z'));
	/* user-defined pieces are found in text, wherever their spaces are plain ones */
	encodes(t, "b[A DOC]a", 0, IDS(SPM_SP, SPM_B, SPM_DOC, SPM_A));
	is_token(t, SPM_DOC, "[A DOC]", false);
	/* control tokens and fillers are not */
	encodes(t, "<s>", 0, IDS(SPM_SP, SPM_BYTE + '<', SPM_BYTE + 's', SPM_BYTE + '>'));
	encodes(t, "[PAD1]", 0,
		IDS(SPM_SP, SPM_BYTE + '[', SPM_BYTE + 'P', SPM_BYTE + 'A', SPM_BYTE + 'D',
			SPM_BYTE + '1', SPM_BYTE + ']'));
	m2_tokenizer_close(&t);

	m = spm_gguf();
	key_bool(&m, "tokenizer.ggml.add_space_prefix", 0);
	key_bool(&m, "tokenizer.ggml.add_bos_token", 0);
	key_bool(&m, "tokenizer.ggml.add_eos_token", 1);
	t = opened(&m);
	encodes(t, "ab", M2_ENCODE_TEMPLATE, IDS(SPM_AB, 2));
	m2_tokenizer_close(&t);
}

/* ---- refusals ---- */

static void what_is_not_supported_is_refused_by_name(void **state)
{
	(void)state;
	static const char *const models[] = {"bert", "t5", "rwkv", "no_vocab", ""};
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		struct entry entries[MAX_LIST];
		struct gguf_maker m = start_gguf();
		char words[64];
		key_text(&m, "tokenizer.ggml.model", models[i]);
		key_tokens(&m, entries, spm_tokens(entries), true);
		(void)snprintf(words, sizeof words, "tokenizer.ggml.model is \"%s\"", models[i]);
		refuse(&m, M2_EUNSUPPORTED, words);
	}
	/* Llama 3's pattern, tekken's, and a name that nobody knows */
	static const char *const pres[] = {"dbrx", "llama-bpe", "tekken", "mp", ""};
	for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
		struct gguf_maker m = neox_gguf(pres[i], true);
		char words[64];
		(void)snprintf(words, sizeof words, "tokenizer.ggml.pre is \"%s\"", pres[i]);
		refuse(&m, M2_EUNSUPPORTED, words);
	}
	struct gguf_maker m = spm_gguf();
	const int32_t map[1] = {1};
	key_i32s(&m, "tokenizer.ggml.precompiled_charsmap", map, 1);
	refuse(&m, M2_EINVAL, "precompiled_charsmap is no array of bytes");
}

static void what_is_missing_is_named(void **state)
{
	(void)state;
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	refuse(&m, M2_ENOENT, "has no tokenizer");
	m = start_gguf();
	key_text(&m, "tokenizer.ggml.model", "gpt2");
	refuse(&m, M2_ENOENT, "tokenizer.ggml.tokens");
	m = start_gguf();
	key_text(&m, "tokenizer.ggml.model", "gpt2");
	key_tokens(&m, entries, neox_tokens(entries, true), true);
	refuse(&m, M2_EFORMAT, "lacks tokenizer.ggml.merges");
	m = start_gguf();
	m.skip_key = "tokenizer.ggml.scores";
	key_text(&m, "tokenizer.ggml.model", "llama");
	key_tokens(&m, entries, spm_tokens(entries), true);
	refuse(&m, M2_EFORMAT, "lacks tokenizer.ggml.scores");
}

/* A SentencePiece file whose token list has been replaced. */
static struct gguf_maker spm_without(const char *key)
{
	struct entry entries[MAX_LIST];
	struct gguf_maker m = start_gguf();
	m.skip_key = key;
	key_text(&m, "tokenizer.ggml.model", "llama");
	key_tokens(&m, entries, spm_tokens(entries), true);
	m.skip_key = NULL;
	return m;
}

static void lists_must_agree(void **state)
{
	(void)state;
	const int32_t kinds[2] = {1, 1};
	const float scores[2] = {0, 0};
	struct gguf_maker m = spm_without("tokenizer.ggml.token_type");
	key_i32s(&m, "tokenizer.ggml.token_type", kinds, 2);
	refuse(&m, M2_EINVAL, "token_type has 2 entries, there are 267 tokens");
	m = spm_without("tokenizer.ggml.scores");
	key_f32s(&m, "tokenizer.ggml.scores", scores, 2);
	refuse(&m, M2_EINVAL, "scores has 2 entries");
	m = spm_without("tokenizer.ggml.scores");
	(void)begin_array(&m, "tokenizer.ggml.scores", M2_GGUF_F32, SPM_COUNT + 2);
	for (int i = 0; i < SPM_COUNT + 2; i++)
		put_number(&m.keys, 0x7fc00000, 4);
	refuse(&m, M2_EINVAL, "score of token 0 is not finite");
	m = spm_without("tokenizer.ggml.scores");
	(void)begin_array(&m, "tokenizer.ggml.scores", M2_GGUF_I32, SPM_COUNT + 2);
	for (int i = 0; i < SPM_COUNT + 2; i++)
		put_number(&m.keys, 0, 4);
	refuse(&m, M2_EINVAL, "no array of f32");
	m = spm_without("tokenizer.ggml.token_type");
	(void)begin_array(&m, "tokenizer.ggml.token_type", M2_GGUF_I32, SPM_COUNT + 2);
	for (int i = 0; i < SPM_COUNT + 2; i++)
		put_number(&m.keys, 7, 4);
	refuse(&m, M2_EINVAL, "token_type of token 0 is 7");
	m = spm_without("tokenizer.ggml.tokens");
	static const char *const wrong[2] = {"a", "\xff"};
	key_texts(&m, "tokenizer.ggml.tokens", wrong, 2);
	refuse(&m, M2_EFORMAT, "entry 1 of tokenizer.ggml.tokens is not valid UTF-8");
	m = spm_gguf();
	key_u32(&m, "tokenizer.ggml.eos_token_id", SPM_COUNT);
	refuse(&m, M2_EINVAL, "eos_token_id is 265, but there are 265 tokens");
	m = spm_gguf();
	key_u32(&m, "tokenizer.ggml.add_bos_token", 1);
	refuse(&m, M2_EINVAL, "add_bos_token is of type u32, not a bool");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_neox_file_gives_the_ids_of_its_tokenizer_json),
		cmocka_unit_test(other_vocabularies_are_not_normalised),
		cmocka_unit_test(holes_are_no_tokens),
		cmocka_unit_test(a_sentencepiece_file_gives_the_ids_of_its_model),
		cmocka_unit_test(what_is_not_supported_is_refused_by_name),
		cmocka_unit_test(what_is_missing_is_named),
		cmocka_unit_test(lists_must_agree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
