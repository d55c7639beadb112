/* test_model_gguf.c - each rule of the format has a file that breaks it alone, and a whole tiny model
 * comes back as it was written. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "tests/unit/gguf_maker.h"

/* ---- helpers ---- */

static enum m2_err parse(const void *bytes, size_t n, uint64_t file_bytes, struct m2_why *why)
{
	struct m2_gguf *g = NULL;
	struct m2_tensor_file *f = NULL;
	const enum m2_err err = m2_gguf_parse(bytes, n, file_bytes, "x.gguf", &g, &f, why);
	assert_int_equal(g != NULL, err == M2_OK);
	assert_int_equal(f != NULL, err == M2_OK);
	m2_tensor_file_close(&f);
	m2_gguf_close(&g);
	return err;
}

static void expect(enum m2_err err, enum m2_err wanted, const struct m2_why *why, const char *word)
{
	if (err != wanted || strstr(why->text, word) == NULL)
		print_error("wanted \"%s\", gave %s: %s\n", word, m2_err_code(err), why->text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why->text, word));
	assert_non_null(strstr(why->text, "x.gguf"));
}

static void refuse_bytes(const void *bytes, size_t n, enum m2_err wanted, const char *word)
{
	struct m2_why why = {.text = ""};
	expect(parse(bytes, n, n, &why), wanted, &why, word);
}

/* The file of a maker, which is freed. */
static void refuse(struct gguf_maker *m, enum m2_err wanted, const char *word)
{
	struct bytes file = finish_gguf(m);
	refuse_bytes(file.at, file.n, wanted, word);
	free(file.at);
	free_gguf(m);
}

static void accept(struct gguf_maker *m)
{
	struct m2_why why = {.text = ""};
	struct bytes file = finish_gguf(m);
	const enum m2_err err = parse(file.at, file.n, file.n, &why);
	if (err != M2_OK)
		print_error("%s\n", why.text);
	assert_int_equal(err, M2_OK);
	free(file.at);
	free_gguf(m);
}

/* ---- the container ---- */

static void good_files_are_read(void **state)
{
	(void)state;
	struct gguf_maker m = start_gguf();
	accept(&m);
	m = start_gguf();
	m.version = 2;
	tensor(&m, "a", 3, 0);
	accept(&m);
	m = tiny_gguf();
	accept(&m);
	m = start_gguf();
	m.alignment = 8;
	key_u32(&m, "general.alignment", 8);
	tensor(&m, "a", 1, 0);
	tensor(&m, "b", 1, 0);
	accept(&m);
	for (uint32_t type = 0; type < M2_GGUF_TYPES; type++) {
		static const unsigned sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
		m = start_gguf();
		if (type == M2_GGUF_ARRAY)
			continue;
		(void)begin_key(&m, "scalar", type);
		put_number(&m.keys, 0, sizes[type]);
		(void)begin_array(&m, "array", type, 3);
		put_number(&m.keys, 0, sizes[type]);
		put_number(&m.keys, 0, sizes[type]);
		put_number(&m.keys, 0, sizes[type]);
		(void)begin_array(&m, "empty", type, 0);
		accept(&m);
	}
}

static void what_is_not_gguf_is_refused_by_name(void **state)
{
	(void)state;
	struct gguf_maker m = start_gguf();
	refuse_bytes("", 0, M2_EFORMAT, "cut short");
	refuse_bytes("GGU", 3, M2_EFORMAT, "cut short");
	refuse_bytes("GGML\3\0\0\0", 8, M2_EFORMAT, "not a GGUF file");
	refuse_bytes("PK\3\4........", 12, M2_EFORMAT, "not a GGUF file");
	refuse_bytes("GGUF\0\0\0\3", 8, M2_EUNSUPPORTED, "big-endian");
	m.version = 1;
	refuse(&m, M2_EUNSUPPORTED, "version 1");
	m = start_gguf();
	m.version = 4;
	refuse(&m, M2_EUNSUPPORTED, "version 4");
	m = start_gguf();
	m.version = 0;
	refuse(&m, M2_EUNSUPPORTED, "version 0");
}

/* Every prefix of a file is refused, and says that something is missing. */
static void a_file_that_is_cut_short_is_refused(void **state)
{
	(void)state;
	struct gguf_maker m = tiny_gguf();
	struct bytes file = finish_gguf(&m);
	const size_t last = file.n - 1; /* padding: its loss is none */
	struct m2_why why = {.text = ""};
	size_t refused = 0;
	for (size_t n = 0; n < last; n += n < 2800 ? 1 : 97) {
		unsigned char *part = malloc(n + 1); /* so that a byte too far is seen */
		assert_non_null(part);
		memcpy(part, file.at, n);
		const enum m2_err err = parse(part, n, n, &why);
		if (err == M2_EFORMAT && strstr(why.text, "cut short") != NULL)
			refused++;
		else
			print_error("%zu bytes: %s\n", n, why.text);
		assert_int_equal(err, M2_EFORMAT);
		free(part);
	}
	assert_true(refused > 2500);
	/* the data need not be there to read the header */
	assert_int_equal(parse(file.at, file.n - m.data.n, file.n, &why), M2_OK);
	free(file.at);
	free_gguf(&m);
}

static void counts_and_lengths_are_bounded(void **state)
{
	(void)state;
	struct gguf_maker m = start_gguf();
	m.n_keys = UINT64_MAX;
	refuse(&m, M2_ELIMIT, "keys, more than");
	m = start_gguf();
	m.n_keys = 65536;
	put(&m.keys, "\1\0\0\0\0\0\0\0k\4\0\0\0....", 17);
	refuse(&m, M2_EFORMAT, "is empty"); /* padding */
	m = start_gguf();
	m.n_tensors = UINT64_MAX;
	refuse(&m, M2_ELIMIT, "tensors, more than");
	m = start_gguf();
	m.n_tensors = 65536;
	refuse(&m, M2_EFORMAT, "is empty");
	m = start_gguf();
	put_number(&m.keys, UINT64_MAX, 8);
	m.n_keys = 1;
	refuse(&m, M2_ELIMIT, "a key's name");
	m = start_gguf();
	(void)begin_key(&m, "k", M2_GGUF_STRING);
	put_number(&m.keys, UINT64_MAX, 8);
	refuse(&m, M2_ELIMIT, "a string");
	m = start_gguf();
	(void)begin_key(&m, "k", M2_GGUF_STRING);
	put_number(&m.keys, 1000, 8);
	refuse(&m, M2_EFORMAT, "cut short");
	m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_U64, UINT64_MAX / 4);
	refuse(&m, M2_EFORMAT, "overflows");
	m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_STRING, UINT64_MAX / 4);
	refuse(&m, M2_EFORMAT, "overflows");
	m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_U8, UINT64_MAX);
	refuse(&m, M2_EFORMAT, "cut short");
	m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_STRING, 2);
	put_text(&m.keys, "one");
	put_number(&m.keys, UINT64_MAX / 2, 8);
	refuse(&m, M2_ELIMIT, "a string");
	/* a file that claims to be huge does not make the header so */
	m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_U8, 1ull << 40);
	struct m2_why why = {.text = ""};
	struct bytes file = finish_gguf(&m);
	assert_int_equal(parse(file.at, file.n, 1ull << 41, &why), M2_EFORMAT);
	free(file.at);
	free_gguf(&m);
}

static void keys_are_checked(void **state)
{
	(void)state;
	struct gguf_maker m = start_gguf();
	key_u32(&m, "a", 1);
	key_u32(&m, "b", 1);
	key_f32(&m, "a", 2);
	refuse(&m, M2_EFORMAT, "the key a is there twice");
	m = start_gguf();
	key_u32(&m, "", 1);
	refuse(&m, M2_EFORMAT, "is empty");
	m = start_gguf();
	key_u32(&m, "a\nb", 1);
	refuse(&m, M2_EFORMAT, "control");
	m = start_gguf();
	key_u32(&m, "a\xff", 1);
	refuse(&m, M2_EFORMAT, "UTF-8");
	m = start_gguf();
	(void)begin_key(&m, "a", 13);
	refuse(&m, M2_EFORMAT, "13 is no type of a value");
	m = start_gguf();
	(void)begin_array(&m, "a", 99, 0);
	refuse(&m, M2_EFORMAT, "99 is no type of an array's values");
	m = start_gguf();
	(void)begin_array(&m, "a", M2_GGUF_ARRAY, 1);
	refuse(&m, M2_EFORMAT, "an array of arrays");
	m = start_gguf();
	key_bool(&m, "a", 2);
	refuse(&m, M2_EFORMAT, "a bool of 2");
	m = start_gguf();
	key_u32(&m, "general.alignment", 24);
	refuse(&m, M2_EINVAL, "no power of two");
	m = start_gguf();
	key_u32(&m, "general.alignment", 0);
	refuse(&m, M2_EINVAL, "general.alignment is 0");
	m = start_gguf();
	key_u32(&m, "general.alignment", 1u << 31);
	refuse(&m, M2_EINVAL, "outside 1..65536");
	m = start_gguf();
	key_text(&m, "general.alignment", "32");
	refuse(&m, M2_EINVAL, "of type string, not an integer");
}

static void descriptions_of_tensors_are_checked(void **state)
{
	(void)state;
	const uint64_t one[5] = {1, 1, 1, 1, 1};
	const uint64_t zero[2] = {4, 0};
	const uint64_t huge[4] = {1ull << 40, 1ull << 20, 1ull << 20, 1};
	const uint64_t wide[1] = {1ull << 62};
	const uint64_t signless[1] = {1ull << 63};
	const uint64_t row[2] = {33, 2};
	struct gguf_maker m = start_gguf();
	char name[66];
	memset(name, 'n', 65);
	name[65] = '\0';
	tensor(&m, name + 1, 1, 0);
	accept(&m);
	m = start_gguf();
	tensor(&m, name, 1, 0);
	refuse(&m, M2_ELIMIT, "a tensor's name");
	m = start_gguf();
	tensor(&m, "", 1, 0);
	refuse(&m, M2_EFORMAT, "is empty");
	m = start_gguf();
	tensor(&m, "a\x01", 1, 0);
	refuse(&m, M2_EFORMAT, "control");
	m = start_gguf();
	describe(&m, "a", 0, one, 0, 0);
	refuse(&m, M2_EFORMAT, "a has 0 dimensions");
	m = start_gguf();
	describe(&m, "a", 5, one, 0, 0);
	refuse(&m, M2_EFORMAT, "a has 5 dimensions");
	m = start_gguf();
	describe(&m, "a", 2, zero, 0, 0);
	refuse(&m, M2_EFORMAT, "a dimension of 0");
	m = start_gguf();
	describe(&m, "a", 1, signless, 0, 0);
	refuse(&m, M2_EFORMAT, "a dimension of 9223372036854775808");
	m = start_gguf();
	describe(&m, "a", 4, huge, 0, 0);
	refuse(&m, M2_EFORMAT, "the size of a overflows");
	m = start_gguf();
	describe(&m, "a", 1, wide, 0, 0);
	refuse(&m, M2_EFORMAT, "the size of a overflows");
	m = start_gguf();
	describe(&m, "a", 1, one, 42, 0);
	refuse(&m, M2_EFORMAT, "a has the unknown type 42");
	m = start_gguf();
	describe(&m, "a", 1, one, 4, 0);
	refuse(&m, M2_EFORMAT, "a has the withdrawn type 4, Q4_2");
	m = start_gguf();
	describe(&m, "a", 2, row, 8, 0);
	refuse(&m, M2_EFORMAT, "rows of 33 elements, no multiple of the 32 in a block of Q8_0");
	m = start_gguf();
	tensor(&m, "a", 1, 0);
	tensor(&m, "a", 1, 0);
	refuse(&m, M2_EFORMAT, "a is described twice");
}

static void data_lies_where_the_order_says(void **state)
{
	(void)state;
	const uint64_t nine[1] = {9};
	struct gguf_maker m = start_gguf();
	describe(&m, "a", 1, nine, 0, 32);
	refuse(&m, M2_EFORMAT, "the data of a begins at 32, the data before it ends at 0");
	/* overlap, hole, and an end that is not padded */
	const uint64_t places[] = {0, 32, 36, 96};
	for (size_t i = 0; i < 4; i++) {
		m = start_gguf();
		tensor(&m, "a", 9, 0);
		describe(&m, "b", 1, nine, 0, places[i]);
		refuse(&m, M2_EFORMAT, "the data before it ends at 64");
	}
	m = start_gguf();
	describe(&m, "a", 1, nine, 0, 0);
	refuse(&m, M2_EFORMAT, "the data of a ends behind the file's");
	/* one byte is missing, padding is not */
	m = start_gguf();
	describe(&m, "a", 1, nine, 0, 0);
	put(&m.data, "01234567890123456789012345678901234", 35);
	refuse(&m, M2_EFORMAT, "cut short");
	m = start_gguf();
	describe(&m, "a", 1, nine, 0, 0);
	put(&m.data, "012345678901234567890123456789012345", 36);
	accept(&m);
	/* sums that leave 64 bits */
	const uint64_t wide[1] = {(1ull << 61) - 1};
	m = start_gguf();
	describe(&m, "a", 1, wide, 0, 0);
	describe(&m, "b", 1, wide, 0, 1ull << 63);
	describe(&m, "c", 1, wide, 0, 0);
	refuse(&m, M2_EFORMAT, "overflows");
}

static void another_formats_names_are_refused(void **state)
{
	(void)state;
	static const char *const foreign[] = {"lm_head.weight", "backbone.embedding.weight",
		"model.backbone.norm_f.weight", "layers.0.mixer.A_log",
		"backbone.layers.0.mixer.A_log"};
	for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
		struct gguf_maker m = start_gguf();
		tensor(&m, foreign[i], 1, 0);
		refuse(&m, M2_EFORMAT, "another format's name");
	}
	/* these are nobody's and are left for the checkpoint to name */
	static const char *const nobodys[] = {"blk.00.ssm_a", "blk.0.ssm_a.weight", "blk..ssm_a",
		"blk.0.attn_q.weight", "blk.12345.ssm_a", "blk.0.token_embd.weight", "ssm_a"};
	for (size_t i = 0; i < sizeof nobodys / sizeof *nobodys; i++) {
		struct gguf_maker m = start_gguf();
		struct m2_gguf *g = NULL;
		struct m2_tensor_file *f = NULL;
		struct m2_why why = {.text = ""};
		tensor(&m, nobodys[i], 1, 0);
		struct bytes file = finish_gguf(&m);
		assert_int_equal(
			m2_gguf_parse(file.at, file.n, file.n, "x.gguf", &g, &f, &why), M2_OK);
		assert_non_null(m2_tensor_file_find(f, nobodys[i]));
		m2_tensor_file_close(&f);
		m2_gguf_close(&g);
		free(file.at);
		free_gguf(&m);
	}
}

/* ---- files ---- */

static int make_directory(void **state)
{
	const char *base = getenv("TMPDIR");
	char *path;
	if (asprintf(&path, "%s/m2-gguf-XXXXXX", base != NULL ? base : "/tmp") < 0)
		return -1;
	*state = path;
	return mkdtemp(path) != NULL ? 0 : -1;
}

static int remove_directory(void **state)
{
	char *path = *state;
	const int result = rmdir(path);
	free(path);
	return result;
}

static char *write_file(const char *directory, struct gguf_maker *m)
{
	char *path;
	assert_true(asprintf(&path, "%s/x.gguf", directory) > 0);
	struct bytes file = finish_gguf(m);
	const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, file.at, file.n), (ssize_t)file.n);
	close(fd);
	free(file.at);
	free_gguf(m);
	return path;
}

static void check_weight(const struct m2_weight_source *source, int layer, enum m2_weight which,
	const char *name, size_t n)
{
	struct m2_why why;
	float values[512];
	assert_true(n <= 512);
	assert_int_equal(source->dtype(source->ctx, layer, which), M2_DTYPE_F32);
	assert_int_equal(source->read(source->ctx, layer, which, 0, n, values, &why), M2_OK);
	for (size_t i = 0; i < n; i++)
		assert_true(values[i] == element_of(name, i));
}

static void a_whole_model_comes_back_from_its_file(void **state)
{
	static const struct {
		enum m2_weight which;
		const char *name;
		size_t n;
	} weights[] = {{M2_W_NORM, "attn_norm.weight", T_D},
		{M2_W_IN_PROJ, "ssm_in.weight", (size_t)T_R * T_D},
		{M2_W_CONV, "ssm_conv1d.weight", (size_t)T_C * T_K},
		{M2_W_CONV_BIAS, "ssm_conv1d.bias", T_C}, {M2_W_DT_BIAS, "ssm_dt.bias", T_H},
		{M2_W_A_LOG, "ssm_a", T_H}, {M2_W_D, "ssm_d", T_H},
		{M2_W_GATED_NORM, "ssm_norm.weight", T_DS},
		{M2_W_OUT_PROJ, "ssm_out.weight", (size_t)T_D * T_DS}};
	struct m2_checkpoint *c = NULL;
	struct m2_why why = {.text = ""};
	struct gguf_maker m = tiny_gguf();
	char *path = write_file(*state, &m);
	const enum m2_err err = m2_checkpoint_open(path, 0, &c, &why);
	if (err != M2_OK)
		print_error("%s\n", why.text);
	assert_int_equal(err, M2_OK);
	assert_true(m2_checkpoint_config(c)->desc.a_given);
	const struct m2_weight_source source = m2_checkpoint_source(c);
	check_weight(&source, -1, M2_W_EMBEDDING, "token_embd.weight", (size_t)T_V * T_D);
	check_weight(&source, -1, M2_W_FINAL_NORM, "output_norm.weight", T_D);
	check_weight(&source, -1, M2_W_HEAD, "output.weight", (size_t)T_V * T_D);
	for (int layer = 0; layer < T_L; layer++)
		for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
			char name[64];
			(void)snprintf(name, sizeof name, "blk.%d.%s", layer, weights[i].name);
			check_weight(&source, layer, weights[i].which, name, weights[i].n);
		}
	m2_checkpoint_close(&c);
	assert_int_equal(unlink(path), 0);
	free(path);
}

/* A tensor that the format allows and Mamba-2 does not know. */
static void unknown_tensors_are_refused_by_the_checkpoint(void **state)
{
	struct m2_checkpoint *c = NULL;
	struct m2_why why = {.text = ""};
	struct gguf_maker m = tiny_gguf();
	tensor(&m, "blk.1.attn_q.weight", T_D, T_D);
	char *path = write_file(*state, &m);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_EUNSUPPORTED);
	assert_non_null(strstr(why.text, "blk.1.attn_q.weight"));
	assert_int_equal(unlink(path), 0);
	free(path);
}

/* A vocabulary of megabytes is read in pieces, and what lies behind it is found. */
static void long_headers_are_read_from_files(void **state)
{
	enum { N = 60000 };
	struct m2_gguf *g = NULL;
	struct m2_tensor_file *f = NULL;
	struct m2_why why = {.text = ""};
	struct gguf_maker m = start_gguf();
	(void)begin_array(&m, "words", M2_GGUF_STRING, N);
	for (int i = 0; i < N; i++)
		put_text(&m.keys, "a token of some length");
	key_u32(&m, "behind", 7);
	tensor(&m, "t", 5, 0);
	char *path = write_file(*state, &m);
	assert_int_equal(m2_gguf_open(AT_FDCWD, path, &g, &f, &why), M2_OK);
	int64_t behind = 0;
	assert_int_equal(m2_gguf_get_int(g, "behind", 0, 10, &behind, NULL, &why), M2_OK);
	assert_int_equal(behind, 7);
	const struct m2_tensor *t = m2_tensor_file_find(f, "t");
	float values[5];
	assert_non_null(t);
	assert_int_equal(m2_tensor_file_read(f, t, 0, values, sizeof values, &why), M2_OK);
	for (size_t i = 0; i < 5; i++)
		assert_true(values[i] == element_of("t", i));
	m2_tensor_file_close(&f);
	m2_gguf_close(&g);
	/* the keys alone */
	assert_int_equal(m2_gguf_open(AT_FDCWD, path, &g, NULL, &why), M2_OK);
	m2_gguf_close(&g);
	assert_int_equal(unlink(path), 0);
	free(path);
}

/* A header that goes on and on is given up at its limit; the file is a hole on the disk. */
static void a_header_beyond_its_limit_is_given_up(void **state)
{
	struct m2_gguf *g = NULL;
	struct m2_why why = {.text = ""};
	struct gguf_maker m = start_gguf();
	(void)begin_array(&m, "k", M2_GGUF_U8, 1ull << 30);
	char *path = write_file(*state, &m);
	assert_int_equal(truncate(path, 1ll << 31), 0);
	assert_int_equal(m2_gguf_open(AT_FDCWD, path, &g, NULL, &why), M2_ELIMIT);
	assert_non_null(strstr(why.text, "more than 64 MiB"));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(m2_gguf_open(AT_FDCWD, path, &g, NULL, &why), M2_ENOENT);
	free(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_files_are_read),
		cmocka_unit_test(what_is_not_gguf_is_refused_by_name),
		cmocka_unit_test(a_file_that_is_cut_short_is_refused),
		cmocka_unit_test(counts_and_lengths_are_bounded),
		cmocka_unit_test(keys_are_checked),
		cmocka_unit_test(descriptions_of_tensors_are_checked),
		cmocka_unit_test(data_lies_where_the_order_says),
		cmocka_unit_test(another_formats_names_are_refused),
		cmocka_unit_test_setup_teardown(
			a_whole_model_comes_back_from_its_file, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(unknown_tensors_are_refused_by_the_checkpoint,
			make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(
			long_headers_are_read_from_files, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(
			a_header_beyond_its_limit_is_given_up, make_directory, remove_directory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
