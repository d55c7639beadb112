/* test_model_tokenizer_open.c - which file of a directory is the tokenizer, and what lies beside it.
 *
 * SentencePiece files are packed here by the generated code that reads them.
 */
#include "tests/unit/test_model_parts.h"

#include "model/sentencepiece.pb-c.h"
#include "model/tokenizer_pieces.h"

static char directory[4096];

static void path_of(char out[4200], const char *name)
{
	(void)snprintf(out, 4200, "%s/%s", directory, name);
}

static void put(const char *name, const void *bytes, size_t length)
{
	char path[4200];
	path_of(path, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, length, file), length);
	assert_int_equal(fclose(file), 0);
}

static void drop(const char *name)
{
	char path[4200];
	path_of(path, name);
	assert_int_equal(unlink(path), 0);
}

static void put_json(const char *name)
{
	char *text = compose(&(struct parts){.added = NULL}); /* 264 ids */
	put(name, text, strlen(text));
	free(text);
}

/* <unk> <s> </s> and so many letters. */
static void put_model(const char *name, size_t letters)
{
	static M2__Spm__Piece pieces[400];
	static M2__Spm__Piece *list[400];
	static char texts[400][5];
	M2__Spm__Model model = M2__SPM__MODEL__INIT;
	M2__Spm__Trainer trainer = M2__SPM__TRAINER__INIT;
	static char *const head[] = {"<unk>", "<s>", "</s>"};
	for (size_t i = 0; i < letters + 3; i++) {
		m2__spm__piece__init(&pieces[i]);
		list[i] = &pieces[i];
		memset(texts[i], 0, sizeof texts[i]);
		(void)m2_utf8_encode((uint32_t)(0x400 + i), (unsigned char *)texts[i]);
		char *text = i < 3 ? head[i] : texts[i];
		pieces[i].piece.data = (uint8_t *)text;
		pieces[i].piece.len = strlen(text);
		pieces[i].has_piece = true;
		pieces[i].has_type = i < 3;
		pieces[i].type = i == 0 ? M2_PIECE_UNKNOWN : M2_PIECE_CONTROL;
	}
	model.n_pieces = letters + 3;
	model.pieces = list;
	model.trainer = &trainer;
	trainer.has_model_type = true;
	trainer.model_type = 2;
	const size_t length = m2__spm__model__get_packed_size(&model);
	uint8_t *bytes = malloc(length);
	assert_non_null(bytes);
	(void)m2__spm__model__pack(&model, bytes);
	put(name, bytes, length);
	free(bytes);
}

static int make_directory(void **state)
{
	const char *base = getenv("TMPDIR");
	(void)state;
	(void)snprintf(directory, sizeof directory, "%s/m2-tokenizer-XXXXXX",
		base != NULL ? base : "/tmp");
	return mkdtemp(directory) != NULL ? 0 : -1;
}

static int remove_directory(void **state)
{
	(void)state;
	return rmdir(directory);
}

static struct m2_tokenizer *opened(const char *name)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char path[4200];
	path_of(path, name);
	if (m2_tokenizer_open(name[0] != '\0' ? path : directory, &t, &why) != M2_OK)
		fail_msg("%s", why.text);
	return t;
}

static void refused(const char *name, enum m2_err wanted, const char *word)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	char path[4200];
	path_of(path, name);
	const enum m2_err err = m2_tokenizer_open(name[0] != '\0' ? path : directory, &t, &why);
	if (err != wanted || strstr(why.text, word) == NULL)
		fail_msg("gave %s: %s", m2_err_code(err), why.text);
	assert_null(t);
}

static void expect_path(const char *name)
{
	char path[4200];
	struct m2_tokenizer *t = opened("");
	path_of(path, name);
	assert_string_equal(m2_tokenizer_path(t), path);
	m2_tokenizer_close(&t);
}

static void a_directory_or_a_file_can_be_opened(void **state)
{
	(void)state;
	refused("", M2_ENOENT, "tokenizer.json");
	refused("tokenizer.json", M2_ENOENT, "tokenizer.json");
	refused("no/such/place", M2_ENOENT, "no");
	put_json("tokenizer.json");
	expect_path("tokenizer.json");
	struct m2_tokenizer *t = opened("tokenizer.json");
	assert_int_equal(m2_tokenizer_size(t), 264);
	m2_tokenizer_close(&t);
	drop("tokenizer.json");
}

static void the_original_goes_before_the_conversion_that_knows_no_more(void **state)
{
	(void)state;
	put_json("tokenizer.json");
	put_model("tokenizer.model", 300);
	expect_path("tokenizer.model");
	put_model("tokenizer.model.v3", 290);
	expect_path("tokenizer.model.v3");
	put_model("tokenizer.model.v3", 200); /* 203 pieces: the .json knows 264 */
	expect_path("tokenizer.json");
	drop("tokenizer.json");
	expect_path("tokenizer.model.v3");
	drop("tokenizer.model.v3");
	put_model("other.model", 250);
	expect_path("tokenizer.model");
	drop("tokenizer.model");
	expect_path("other.model");
	put_model("another.model", 250);
	refused("", M2_EINVAL, "could both be");
	put_json("tokenizer.json"); /* of two strangers neither is taken */
	expect_path("tokenizer.json");
	drop("another.model");
	put("other.model", "not one", 7);
	expect_path("tokenizer.json");
	drop("tokenizer.json");
	refused("", M2_EFORMAT, "other.model");
	drop("other.model");
}

static void tekken_alone_is_refused_by_name(void **state)
{
	(void)state;
	put("tekken.json", "{\"config\":{},\"vocab\":[]}", 24);
	refused("", M2_EUNSUPPORTED, "tekken");
	refused("tekken.json", M2_EUNSUPPORTED, "tekken");
	put_json("tokenizer.json");
	expect_path("tokenizer.json");
	drop("tokenizer.json");
	drop("tekken.json");
}

static void files_beside_it_name_the_ends_of_a_text(void **state)
{
	static const char map[] = "{\"eos_token\":\"h\",\"bos_token\":{\"content\":\"<s>\"}}";
	static const char config[] = "{\"eos_token\":{\"content\":\"<s>\"},\"bos_token\":null}";
	(void)state;
	put_json("tokenizer.json");
	struct m2_tokenizer *t = opened("");
	assert_int_equal(m2_tokenizer_bos(t), -1);
	assert_int_equal(m2_tokenizer_eos(t), -1);
	m2_tokenizer_close(&t);
	put("special_tokens_map.json", map, sizeof map - 1);
	t = opened("");
	assert_int_equal(m2_tokenizer_bos(t), CONTROL);
	assert_int_equal(m2_tokenizer_eos(t), 'h');
	m2_tokenizer_close(&t);
	put("tokenizer_config.json", config, sizeof config - 1);
	t = opened("tokenizer.json");
	assert_int_equal(m2_tokenizer_bos(t), CONTROL);
	assert_int_equal(m2_tokenizer_eos(t), CONTROL);
	expect(t, M2_ENCODE_TEMPLATE, "h", 'h', -1); /* the file's own template has nothing */
	m2_tokenizer_close(&t);
	put("tokenizer_config.json", "[]", 2);
	refused("", M2_EFORMAT, "tokenizer_config.json");
	drop("tokenizer_config.json");
	drop("special_tokens_map.json");
	drop("tokenizer.json");
}

static void a_sentencepiece_file_is_told_what_to_add(void **state)
{
	static const char both[] = "{\"add_bos_token\":true,\"add_eos_token\":true}";
	static const char none[] = "{\"add_bos_token\":false}";
	(void)state;
	put_model("tokenizer.model", 10);
	struct m2_tokenizer *t = opened("");
	expect(t, M2_ENCODE_TEMPLATE, "", 1, -1); /* by its name */
	expect(t, 0, "", -1);
	m2_tokenizer_close(&t);
	put("tokenizer_config.json", both, sizeof both - 1);
	t = opened("");
	expect(t, M2_ENCODE_TEMPLATE, "", 1, 2, -1);
	m2_tokenizer_close(&t);
	put("tokenizer_config.json", none, sizeof none - 1);
	t = opened("");
	expect(t, M2_ENCODE_TEMPLATE, "", -1);
	m2_tokenizer_close(&t);
	drop("tokenizer_config.json");
	drop("tokenizer.model");
	put_model("mine.model", 10);
	t = opened("");
	expect(t, M2_ENCODE_TEMPLATE, "", -1);
	m2_tokenizer_close(&t);
	drop("mine.model");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_directory_or_a_file_can_be_opened),
		cmocka_unit_test(the_original_goes_before_the_conversion_that_knows_no_more),
		cmocka_unit_test(tekken_alone_is_refused_by_name),
		cmocka_unit_test(files_beside_it_name_the_ends_of_a_text),
		cmocka_unit_test(a_sentencepiece_file_is_told_what_to_add),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
