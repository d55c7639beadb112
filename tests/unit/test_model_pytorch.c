/* test_model_pytorch.c - tensors of torch.save's files are read where their bytes lie, and each way in
 * which one can be described wrongly is refused.  The container is test_model_pytorch_zip.c's. */
#include "tests/unit/pytorch_place.h"

#include <pthread.h>

/* Tensors w and v on the storage data/0 of 24 bytes. */
static void make_tensors(struct place *p, const struct tensor_of *w, const struct tensor_of *v)
{
	free_zip(&p->zip);
	add_pickle(p, w, v);
	add_entry(&p->zip, "archive/data/0", values_w, sizeof values_w);
	end_zip(&p->zip);
}

static void tensors_are_read_where_they_lie(void **state)
{
	struct place *p = *state;
	struct m2_why why;
	float w[6];
	uint16_t v[2];
	make_usual(p);
	accept(p);
	assert_int_equal(p->file->count, 2);
	const struct m2_tensor *t = m2_tensor_file_find(p->file, "w");
	assert_non_null(t);
	assert_int_equal(t->dtype, M2_DTYPE_F32);
	assert_string_equal(t->dtype_name, "FloatStorage");
	assert_int_equal(t->n_dims, 2);
	assert_int_equal(t->shape[0], 2);
	assert_int_equal(t->shape[1], 3);
	assert_int_equal(t->bytes, 24);
	assert_int_equal(t->begin % 64, 0);
	assert_int_equal(m2_tensor_file_read(p->file, t, 0, w, sizeof w, &why), M2_OK);
	assert_memory_equal(w, values_w, sizeof w);
	t = m2_tensor_file_find(p->file, "v");
	assert_non_null(t);
	assert_int_equal(t->dtype, M2_DTYPE_F16);
	assert_int_equal(t->begin, p->zip.data);
	assert_int_equal(m2_tensor_file_read(p->file, t, 4, v, sizeof v, &why), M2_OK);
	assert_memory_equal(v, values_v + 2, sizeof v);
}

static void views_and_aliases_of_a_storage_are_ranges_of_it(void **state)
{
	struct place *p = *state;
	const struct tensor_of whole = {"FloatStorage", "0", 6, 0, {2, 3, -1}, {3, 1, -1}};
	const struct tensor_of part = {"FloatStorage", "0", 6, 3, {1, 3, -1}, {77, 1, -1}};
	make_tensors(p, &whole, &whole);
	accept(p);
	const struct m2_tensor *w = m2_tensor_file_find(p->file, "w");
	const struct m2_tensor *v = m2_tensor_file_find(p->file, "v");
	assert_int_equal(w->begin, v->begin);
	assert_int_equal(w->bytes, v->bytes);
	make_tensors(p, &whole, &part);
	accept(p);
	w = m2_tensor_file_find(p->file, "w");
	v = m2_tensor_file_find(p->file, "v");
	assert_int_equal(v->begin, w->begin + 12);
	assert_int_equal(v->bytes, 12);
	/* a scalar, an empty tensor with any strides, a storage smaller than its entry */
	make_tensors(p, &(struct tensor_of){"FloatStorage", "0", 6, 5, {-1}, {-1}},
		&(struct tensor_of){"FloatStorage", "0", 6, 6, {0, 5, -1}, {9, 9, -1}});
	accept(p);
	assert_int_equal(m2_tensor_file_find(p->file, "w")->bytes, 4);
	assert_int_equal(m2_tensor_file_find(p->file, "v")->bytes, 0);
	make_tensors(p, &(struct tensor_of){"FloatStorage", "0", 2, 0, {2, -1}, {1, -1}}, NULL);
	accept(p);
}

static void integer_tensors_are_described_but_have_no_type_of_ours(void **state)
{
	struct place *p = *state;
	make_tensors(p, &(struct tensor_of){"LongStorage", "0", 3, 1, {2, -1}, {1, -1}}, NULL);
	accept(p);
	assert_int_equal(p->file->tensors[0].dtype, M2_DTYPE_NONE);
	assert_string_equal(p->file->tensors[0].dtype_name, "LongStorage");
	assert_int_equal(p->file->tensors[0].bytes, 16);
}

static void what_people_have_instead_is_named(void **state)
{
	struct place *p = *state;
	static const char legacy[] =
		"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80";
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
	char tar[1024] = "x";
	memcpy(tar + 257, "ustar", 5);
	write_file(p, legacy, sizeof legacy - 1);
	expect_refusal(p, M2_EUNSUPPORTED, "is a bare pickle");
	write_file(p, tar, sizeof tar);
	expect_refusal(p, M2_EUNSUPPORTED, "is a tar");
	write_file(p, pointer, sizeof pointer - 1);
	expect_refusal(p, M2_EFORMAT, "pointer of Git LFS");
	write_file(p, "", 0);
	expect_refusal(p, M2_EFORMAT, "is no zip");
	write_file(p, "{}", 2);
	expect_refusal(p, M2_EFORMAT, "is no zip");
	write_file(p, "PK", 2);
	expect_refusal(p, M2_EFORMAT, "too few for a zip");
	struct bytes empty = {.n = 0};
	put_text(&empty, "PK\5\6");
	for (int i = 0; i < 18; i++)
		put(&empty, "", 1);
	write_file(p, empty.at, empty.n);
	free(empty.at);
	expect_refusal(p, M2_EFORMAT, "its entries lie in no directory");
	assert_int_equal(unlinkat(p->dirfd, "x.bin", 0), 0);
	expect_refusal(p, M2_ENOENT, "x.bin does not exist");
	assert_int_equal(mkfifoat(p->dirfd, "x.bin", 0600), 0);
	expect_refusal(p, M2_EFORMAT, "not a regular file");
}

static void byte_order_and_crc_are_checked(void **state)
{
	struct place *p = *state;
	free_zip(&p->zip);
	add_pickle(p, &usual_w, NULL);
	add_entry(&p->zip, "archive/data/0", values_w, sizeof values_w);
	add_entry(&p->zip, "archive/byteorder", "big", 3);
	end_zip(&p->zip);
	refuse(p, M2_EUNSUPPORTED, "its byteorder is not \"little\"");
	free_zip(&p->zip);
	add_pickle(p, &usual_w, NULL);
	add_entry(&p->zip, "archive/byteorder", "little, little, little", 22);
	end_zip(&p->zip);
	refuse(p, M2_ELIMIT, "archive/byteorder has 22 bytes");
	free_zip(&p->zip);
	add_pickle(p, &usual_w, NULL);
	p->zip.file.at[p->zip.data + 8] ^= 1; /* a letter of a name */
	add_entry(&p->zip, "archive/data/0", values_w, sizeof values_w);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "archive/data.pkl is damaged");
	free_zip(&p->zip);
	char *large = calloc(1, (16 << 20) + 1);
	assert_non_null(large);
	add_entry(&p->zip, "archive/data.pkl", large, (16 << 20) + 1);
	free(large);
	end_zip(&p->zip);
	refuse(p, M2_ELIMIT, "archive/data.pkl has 16777217 bytes");
	free_zip(&p->zip);
	add_entry(&p->zip, "archive/data.pkl",
		"\x80\x02"
		"cos\nsystem\n.",
		14);
	end_zip(&p->zip);
	refuse(p, M2_EUNSUPPORTED, "x.bin: data.pkl, byte 2: the global os.system");
}

static void a_tensor_lies_inside_its_storage_and_that_in_its_entry(void **state)
{
	static const struct {
		struct tensor_of t;
		enum m2_err err;
		const char *word;
	} bad[] = {
		{{"FloatStorage", "9", 6, 0, {6, -1}, {1, -1}}, M2_EFORMAT,
			"the storage of w, data/9, is not there"},
		{{"FloatStorage", "00", 6, 0, {6, -1}, {1, -1}}, M2_EFORMAT,
			"data/00, is not there"},
		{{"FloatStorage", "0", 7, 0, {6, -1}, {1, -1}}, M2_EFORMAT,
			"7 elements of 4 bytes, archive/data/0 has 24 bytes"},
		{{"DoubleStorage", "0", 6, 0, {1, -1}, {1, -1}}, M2_EFORMAT,
			"6 elements of 8 bytes"},
		{{"FloatStorage", "0", INT64_MAX, 0, {6, -1}, {1, -1}}, M2_EFORMAT,
			"9223372036854775807 elements"},
		{{"FloatStorage", "0", 6, 0, {7, -1}, {1, -1}}, M2_EFORMAT,
			"w takes 7 elements from element 0 of a storage of 6"},
		{{"FloatStorage", "0", 6, 1, {6, -1}, {1, -1}}, M2_EFORMAT, "from element 1 of"},
		{{"FloatStorage", "0", 6, INT64_MAX, {6, -1}, {1, -1}}, M2_EFORMAT,
			"from element 9223372036854775807"},
		{{"FloatStorage", "0", 6, 7, {0, -1}, {1, -1}}, M2_EFORMAT, "w takes 0 elements"},
		{{"FloatStorage", "0", 6, 0, {INT64_MAX, INT64_MAX, -1}, {1, 1, -1}}, M2_EFORMAT,
			"the size of w overflows"},
		{{"FloatStorage", "0", 6, 0, {(int64_t)1 << 62, 2, -1}, {2, 1, -1}}, M2_EFORMAT,
			"the size of w overflows"},
		{{"FloatStorage", "0", 6, 0, {2, 3, -1}, {1, 2, -1}}, M2_EUNSUPPORTED,
			"the strides of w are not row-major"},
		{{"FloatStorage", "0", 6, 0, {3, -1}, {2, -1}}, M2_EUNSUPPORTED, "not row-major"},
		{{"FloatStorage", "0", 6, 0, {5, -1}, {0, -1}}, M2_EUNSUPPORTED, "not row-major"},
		{{"FloatStorage", "0", 6, 0, {2, 1, 3, -1}, {1, 9, 1, -1}}, M2_EUNSUPPORTED,
			"not row-major"},
	};
	struct place *p = *state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		make_tensors(p, &bad[i].t, NULL);
		refuse(p, bad[i].err, bad[i].word);
	}
}

static void a_name_or_a_storage_is_not_described_twice(void **state)
{
	struct place *p = *state;
	make_tensors(p, &usual_w, &(struct tensor_of){"IntStorage", "0", 6, 0, {6, -1}, {1, -1}});
	refuse(p, M2_EFORMAT, "storage 0 is described twice");
	make_tensors(p, &usual_w, &(struct tensor_of){"FloatStorage", "0", 5, 0, {5, -1}, {1, -1}});
	refuse(p, M2_EFORMAT, "storage 0 is described twice");
	struct bytes b = {.n = 0};
	begin_dict(&b);
	put_tensor(&b, "w", &usual_w);
	put_tensor(&b, "w", &usual_w);
	end_dict(&b);
	free_zip(&p->zip);
	add_entry(&p->zip, "archive/data.pkl", b.at, b.n);
	free(b.at);
	add_entry(&p->zip, "archive/data/0", values_w, sizeof values_w);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "the tensor w is described twice");
}

/* ---- two threads ---- */

static void *open_often(void *arg)
{
	const struct place *p = arg;
	size_t opened = 0;
	for (int i = 0; i < 50; i++) {
		struct m2_tensor_file *file = NULL;
		struct m2_why why = {.text = ""};
		opened += m2_pytorch_open(p->dirfd, "x.bin", &file, &why) == M2_OK ? 1 : 0;
		m2_tensor_file_close(&file);
	}
	return opened == 50 ? arg : NULL;
}

/* A worker loads one file while its checker opens another; the thread sanitizer watches. */
static void two_threads_open_files_at_once(void **state)
{
	struct place *p = *state;
	make_usual(p);
	accept(p);
	pthread_t other;
	void *result = NULL;
	assert_int_equal(pthread_create(&other, NULL, open_often, p), 0);
	assert_non_null(open_often(p));
	assert_int_equal(pthread_join(other, &result), 0);
	assert_non_null(result);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tensors_are_read_where_they_lie),
		TEST(views_and_aliases_of_a_storage_are_ranges_of_it),
		TEST(integer_tensors_are_described_but_have_no_type_of_ours),
		TEST(what_people_have_instead_is_named),
		TEST(byte_order_and_crc_are_checked),
		TEST(a_tensor_lies_inside_its_storage_and_that_in_its_entry),
		TEST(a_name_or_a_storage_is_not_described_twice),
		TEST(two_threads_open_files_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
