/* test_model_safetensors.c - each rule of the format has a file, or a header, that breaks it alone. */
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

#include "model/safetensors.h"

/* A header for `bytes` bytes of data; the error it gives. */
static enum m2_err parse(const char *json, size_t length, uint64_t bytes, struct m2_why *why)
{
	struct m2_tensor_file *file = NULL;
	const enum m2_err err =
		m2_safetensors_parse_header(json, length, bytes, "x.safetensors", &file, why);
	m2_tensor_file_close(&file);
	return err;
}

static void refuse(const char *json, uint64_t bytes, enum m2_err wanted, const char *word)
{
	struct m2_why why = {.text = ""};
	const enum m2_err err = parse(json, strlen(json), bytes, &why);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("%s\n  gave %s: %s\n", json, m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why.text, word));
	assert_non_null(strstr(why.text, "x.safetensors"));
}

static void accept(const char *json, uint64_t bytes)
{
	struct m2_why why = {.text = ""};
	const enum m2_err err = parse(json, strlen(json), bytes, &why);
	if (err != M2_OK)
		print_error("%s\n  gave %s\n", json, why.text);
	assert_int_equal(err, M2_OK);
}

#define T(dtype, shape, begin, end)                                                                \
	"{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void good_headers_are_read(void **state)
{
	(void)state;
	accept("{}", 0);
	accept("{}       ", 0);
	accept("{\"a\":" T("F32", "[2,3]", 0, 24) "}", 24);
	accept("{ \"a\" : {\"shape\" : [ 2 , 3 ], \"data_offsets\":[0,12],\"dtype\":\"BF16\"}}",
		12);
	accept("{\"s\":" T("F32", "[]", 0, 4) "}", 4);
	accept("{\"empty\":" T("F32", "[0,5]", 4, 4) ",\"a\":" T("F32", "[1]", 0, 4) "}", 4);
	accept("{\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\\ud83d\\ude00\":\"\"}}", 0);
	accept("{\"__metadata__\":{},\"a\":" T("U8", "[3]", 0, 3) "}", 3);
	accept("{\"a\":" T("F4", "[4]", 0, 2) "}", 2);
	accept("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1]", 0, 4) "}", 4);
}

static void what_is_not_a_header_is_refused(void **state)
{
	(void)state;
	struct m2_why why;
	refuse("", 0, M2_EFORMAT, "begin with {");
	refuse("[]", 0, M2_EFORMAT, "begin with {");
	refuse(" {}", 0, M2_EFORMAT, "begin with {");
	refuse("{", 0, M2_EFORMAT, "expected");
	refuse("{\"a\"", 0, M2_EFORMAT, "expected");
	refuse("{}x", 0, M2_EFORMAT, "padding");
	refuse("{}\n", 0, M2_EFORMAT, "padding");
	refuse("{\"a\":1}", 0, M2_EFORMAT, "object of a tensor");
	refuse("{\"a\":{\"b\":{\"c\":{}}}}", 0, M2_EFORMAT, "unknown field");
	refuse("{\"\xff\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "UTF-8");
	refuse("{\"a\xc3\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "UTF-8");
	refuse("{\"\\ud800\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "escape");
	refuse("{\"\\x\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "escape");
	refuse("{\"a\":" T("F32", "[1]", 0, 4) ",}", 4, M2_EFORMAT, "name");
	assert_int_equal(parse("{\0}", 3, 0, &why), M2_EFORMAT);
	assert_int_equal(parse("{}\0", 3, 0, &why), M2_EFORMAT);
}

static void wrong_fields_are_refused(void **state)
{
	(void)state;
	refuse("{\"a\":{}}", 0, M2_EFORMAT, "field name");
	refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, M2_EFORMAT, "lacks");
	refuse("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 4, M2_EFORMAT, "twice");
	refuse("{\"a\":{\"size\":4}}", 4, M2_EFORMAT, "unknown field");
	refuse("{\"a\":{\"dtype\":32}}", 4, M2_EFORMAT, "dtype");
	refuse("{\"a\":" T("F33", "[1]", 0, 4) "}", 4, M2_EFORMAT, "unknown dtype");
	refuse("{\"a\":" T("f32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "unknown dtype");
	refuse("{\"a\":" T("AVERYLONGDTYPENAME", "[1]", 0, 4) "}", 4, M2_ELIMIT, "longer");
	refuse("{\"a\":" T("F32", "4", 0, 4) "}", 4, M2_EFORMAT, "array");
	refuse("{\"a\":" T("F32", "[-1]", 0, 4) "}", 4, M2_EFORMAT, "unsigned");
	refuse("{\"a\":" T("F32", "[1.0]", 0, 4) "}", 4, M2_EFORMAT, "expected");
	refuse("{\"a\":" T("F32", "[1e0]", 0, 4) "}", 4, M2_EFORMAT, "expected");
	refuse("{\"a\":" T("F32", "[01]", 0, 4) "}", 4, M2_EFORMAT, "unsigned");
	refuse("{\"a\":" T("F32", "[\"1\"]", 0, 4) "}", 4, M2_EFORMAT, "unsigned");
	refuse("{\"a\":" T("F32", "[1,]", 0, 4) "}", 4, M2_EFORMAT, "unsigned");
	refuse("{\"a\":" T("F32", "[18446744073709551616]", 0, 4) "}", 4, M2_EFORMAT, "2^64");
	refuse("{\"a\":" T("F32", "[9223372036854775808]", 0, 4) "}", 4, M2_EFORMAT, "2^63");
	refuse("{\"a\":{\"data_offsets\":[0]}}", 4, M2_EFORMAT, "two data offsets");
	refuse("{\"a\":{\"data_offsets\":[0,1,2]}}", 4, M2_EFORMAT, "more than 2");
	refuse("{\"a\":" T("F32", "[1]", 4, 0) "}", 4, M2_EFORMAT, "ends before");
	refuse("{\"__metadata__\":{\"a\":1}}", 0, M2_EFORMAT, "__metadata__");
	refuse("{\"__metadata__\":[]}", 0, M2_EFORMAT, "__metadata__");
	refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, M2_EFORMAT, "two");
}

static void sizes_must_be_those_of_shape_and_type(void **state)
{
	(void)state;
	refuse("{\"a\":" T("F32", "[2]", 0, 4) "}", 4, M2_EFORMAT, "shape and type");
	refuse("{\"a\":" T("F16", "[2]", 0, 8) "}", 8, M2_EFORMAT, "shape and type");
	refuse("{\"a\":" T("F4", "[3]", 0, 1) "}", 1, M2_EFORMAT, "shape and type");
	refuse("{\"a\":" T("F32", "[4294967296,4294967296]", 0, 0) "}", 0, M2_EFORMAT, "overflows");
	refuse("{\"a\":" T("F64", "[2305843009213693952]", 0, 0) "}", 0, M2_EFORMAT, "overflows");
}

static void data_is_tiled_without_holes_or_overlap(void **state)
{
	(void)state;
	refuse("{\"a\":" T("F32", "[1]", 4, 8) "}", 8, M2_EFORMAT, "begins at 4");
	refuse("{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 8, 12) "}", 12, M2_EFORMAT,
		"begins at 8");
	refuse("{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[1]", 4, 8) "}", 8, M2_EFORMAT,
		"begins at 4");
	refuse("{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT,
		"begins at 0");
	refuse("{\"a\":" T("F32", "[1]", 0, 4) "}", 8, M2_EFORMAT, "the file has 8");
	refuse("{\"a\":" T("F32", "[1]", 0, 4) "}", 3, M2_EFORMAT, "the file has 3");
	refuse("{}", 1, M2_EFORMAT, "the file has 1");
}

static void names_are_unique_bounded_and_printable(void **state)
{
	(void)state;
	refuse("{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 4, 8) "}", 8, M2_EFORMAT,
		"twice");
	/* the same name, written differently */
	refuse("{\"a\":" T("F32", "[1]", 0, 4) ",\"\\u0061\":" T("F32", "[1]", 4, 8) "}", 8,
		M2_EFORMAT, "twice");
	refuse("{\"\xc3\xa9\":" T("F32", "[1]", 0, 4) ",\"\\u00e9\":" T("F32", "[1]", 4, 8) "}", 8,
		M2_EFORMAT, "twice");
	refuse("{\"a\\u0000b\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "control");
	refuse("{\"a\\nb\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "control");
	refuse("{\"a\nb\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "control");
	refuse("{\"a\x7f\":" T("F32", "[1]", 0, 4) "}", 4, M2_EFORMAT, "control");
	refuse("{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, M2_EFORMAT, "more than 8");
	char json[1024] = "{\"";
	memset(json + 2, 'n', 513);
	(void)snprintf(json + 515, sizeof json - 515, "\":%s}", T("F32", "[1]", 0, 4));
	refuse(json, 4, M2_ELIMIT, "longer than 512");
	memmove(json + 2, json + 3, strlen(json + 2));
	accept(json, 4);
}

/* ---- files ---- */

static int make_directory(void **state)
{
	const char *base = getenv("TMPDIR");
	char *path;
	if (asprintf(&path, "%s/m2-safetensors-XXXXXX", base != NULL ? base : "/tmp") < 0)
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

/* Write a file f.safetensors, open it, and remove it. */
static enum m2_err open_bytes(const char *directory, const void *bytes, size_t n,
	struct m2_tensor_file **file, struct m2_why *why)
{
	const int dirfd = open(directory, O_RDONLY | O_DIRECTORY);
	const int fd = openat(dirfd, "f.safetensors", O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(dirfd >= 0 && fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	close(fd);
	const enum m2_err err = m2_safetensors_open(dirfd, "f.safetensors", file, why);
	assert_int_equal(unlinkat(dirfd, "f.safetensors", 0), 0);
	close(dirfd);
	return err;
}

/* length, header, data, as a file */
static size_t compose(
	unsigned char *out, uint64_t length, const char *json, const void *data, size_t n)
{
	for (int i = 0; i < 8; i++)
		out[i] = (unsigned char)(length >> (8 * i));
	memcpy(out + 8, json, strlen(json));
	memcpy(out + 8 + strlen(json), data, n);
	return 8 + strlen(json) + n;
}

static void a_file_gives_its_tensors_bytes(void **state)
{
	static const char json[] =
		"{\"b\":" T("F32", "[1]", 4, 8) ",\"a\":" T("U8", "[4]", 0, 4) "}";
	unsigned char bytes[512];
	unsigned char got[4];
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	const size_t n = compose(bytes, strlen(json), json, "wxyz1234", 8);
	assert_int_equal(open_bytes(*state, bytes, n, &file, &why), M2_OK);
	assert_int_equal(file->count, 2);
	assert_string_equal(file->tensors[0].name, "a");
	const struct m2_tensor *b = m2_tensor_file_find(file, "b");
	assert_non_null(b);
	assert_int_equal(b->dtype, M2_DTYPE_F32);
	assert_int_equal(b->begin, 8 + strlen(json) + 4);
	assert_int_equal(m2_tensor_file_read(file, b, 0, got, (size_t)b->bytes, &why), M2_OK);
	assert_memory_equal(got, "1234", 4);
	assert_null(m2_tensor_file_find(file, "c"));
	const struct m2_tensor *a = m2_tensor_file_find(file, "a");
	assert_int_equal(a->dtype, M2_DTYPE_NONE);
	assert_string_equal(a->dtype_name, "U8");
	m2_tensor_file_close(&file);
	assert_null(file);
}

static void a_file_that_is_cut_or_lies_about_its_header_is_refused(void **state)
{
	static const char json[] = "{\"a\":" T("F32", "[1]", 0, 4) "}";
	static const struct {
		uint64_t length;
		size_t keep; /* bytes of the file, 0: all */
		const char *word;
	} files[] = {
		{sizeof json - 1, 7, "too few"},
		{sizeof json - 1, 20, "cut short"},
		{sizeof json - 1, 8 + sizeof json - 1, "the file has 0"},
		{sizeof json - 1, 8 + sizeof json - 1 + 3, "the file has 3"},
		{100000001, 0, "not a safetensors file"},
		{UINT64_MAX, 0, "not a safetensors file"},
		{UINT64_MAX - 7, 0, "not a safetensors file"},
		{99999999, 0, "cut short"},
		{0, 0, "begin with {"},
	};
	unsigned char bytes[512];
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		struct m2_tensor_file *file = NULL;
		struct m2_why why = {.text = ""};
		size_t n = compose(bytes, files[i].length, json, "1234", 4);
		n = files[i].keep > 0 ? files[i].keep : n;
		assert_int_equal(open_bytes(*state, bytes, n, &file, &why), M2_EFORMAT);
		assert_null(file);
		if (strstr(why.text, files[i].word) == NULL)
			print_error("%zu: %s\n", i, why.text);
		assert_non_null(strstr(why.text, files[i].word));
	}
}

static void a_file_that_shrinks_while_open_is_an_error_not_a_signal(void **state)
{
	static const char json[] = "{\"a\":" T("F32", "[1]", 0, 4) "}";
	unsigned char bytes[512];
	unsigned char got[4];
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	const size_t n = compose(bytes, strlen(json), json, "1234", 4);
	const int dirfd = open(*state, O_RDONLY | O_DIRECTORY);
	const int fd = openat(dirfd, "g", O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	assert_int_equal(m2_safetensors_open(dirfd, "g", &file, &why), M2_OK);
	assert_int_equal(ftruncate(fd, 12), 0);
	assert_int_equal(m2_tensor_file_read(file, &file->tensors[0], 0, got,
				 (size_t)file->tensors[0].bytes, &why),
		M2_EIO);
	assert_non_null(strstr(why.text, "became shorter"));
	m2_tensor_file_close(&file);
	assert_int_equal(unlinkat(dirfd, "g", 0), 0);
	close(fd);
	close(dirfd);
}

static void only_regular_files_are_opened_and_a_fifo_is_not_waited_for(void **state)
{
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	const int dirfd = open(*state, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkfifoat(dirfd, "p", 0600), 0);
	assert_int_equal(m2_safetensors_open(dirfd, "p", &file, &why), M2_EFORMAT);
	assert_int_equal(unlinkat(dirfd, "p", 0), 0);
	assert_int_equal(mkdirat(dirfd, "d", 0700), 0);
	assert_int_equal(m2_safetensors_open(dirfd, "d", &file, &why), M2_EFORMAT);
	assert_int_equal(unlinkat(dirfd, "d", AT_REMOVEDIR), 0);
	assert_int_equal(m2_safetensors_open(dirfd, "none", &file, &why), M2_ENOENT);
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_headers_are_read),
		cmocka_unit_test(what_is_not_a_header_is_refused),
		cmocka_unit_test(wrong_fields_are_refused),
		cmocka_unit_test(sizes_must_be_those_of_shape_and_type),
		cmocka_unit_test(data_is_tiled_without_holes_or_overlap),
		cmocka_unit_test(names_are_unique_bounded_and_printable),
		cmocka_unit_test(a_file_gives_its_tensors_bytes),
		cmocka_unit_test(a_file_that_is_cut_or_lies_about_its_header_is_refused),
		cmocka_unit_test(a_file_that_shrinks_while_open_is_an_error_not_a_signal),
		cmocka_unit_test(only_regular_files_are_opened_and_a_fifo_is_not_waited_for),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
