/* test_model_pytorch_zip.c - every way in which the zip of a PyTorch file can lie is refused, and what
 * zip writers do differently is not. */
#include "tests/unit/pytorch_place.h"

/* Sizes in front of the data and no alignment, as other zip writers have it. */
static void headers_with_sizes_are_read(void **state)
{
	struct place *p = *state;
	begin_usual(p);
	unsigned char *local = p->zip.file.at + p->zip.local;
	set_number(local + 6, 2, 0x0800);
	memcpy(local + 14, p->zip.directory.at + p->zip.entry + 16, 12);
	end_zip(&p->zip);
	accept(p);
	local = p->zip.file.at + p->zip.local;
	set_number(local + 18, 4, 9);
	refuse(p, M2_EFORMAT, "libzip refuses it");
}

/* ---- zip64 ---- */

/* The last entry's sizes and place as 64-bit values behind a field of the directory. */
static void use_zip64_entry(struct zip_maker *z, uint64_t size, uint64_t local)
{
	unsigned char *e = z->directory.at + z->entry;
	set_number(e + 20, 4, UINT32_MAX);
	set_number(e + 24, 4, UINT32_MAX);
	set_number(e + 30, 2, 28);
	set_number(e + 42, 4, UINT32_MAX);
	put_number(&z->directory, 2, 1);
	put_number(&z->directory, 2, 24);
	put_number(&z->directory, 8, size);
	put_number(&z->directory, 8, size);
	put_number(&z->directory, 8, local);
}

/* Directory, zip64 end record, locator, end record, for a directory that begins at `begin`. */
static void end_zip64(struct zip_maker *z, uint64_t begin)
{
	put(&z->file, z->directory.at, z->directory.n);
	put_text(&z->file, "PK\6\6");
	put_number(&z->file, 8, 44);
	put_number(&z->file, 4, 0);
	put_number(&z->file, 8, 0);
	put_number(&z->file, 8, z->count);
	put_number(&z->file, 8, z->count);
	put_number(&z->file, 8, z->directory.n);
	put_number(&z->file, 8, begin);
	put_text(&z->file, "PK\6\7");
	put_number(&z->file, 4, 0);
	put_number(&z->file, 8, begin + z->directory.n);
	put_number(&z->file, 4, 1);
	put_text(&z->file, "PK\5\6");
	put_number(&z->file, 4, 0);
	put_number(&z->file, 4, UINT32_MAX);
	put_number(&z->file, 8, UINT64_MAX);
	put_number(&z->file, 2, 0);
}

enum { END64_AT = 22 + 20 + 56, LOCATOR_AT = 22 + 20, END_AT = 22 };

static unsigned char *from_end(struct place *p, size_t n)
{
	return p->zip.file.at + p->zip.file.n - n;
}

static void make_zip64(struct place *p)
{
	begin_usual(p);
	use_zip64_entry(&p->zip, sizeof values_v, p->zip.local);
	end_zip64(&p->zip, p->zip.file.n);
}

static void zip64_is_read(void **state)
{
	struct place *p = *state;
	make_zip64(p);
	accept(p);
	assert_int_equal(p->file->count, 2);
	assert_int_equal(m2_tensor_file_find(p->file, "v")->begin, p->zip.data);
}

/* A file of more than four gigabytes, all but its ends a hole that takes no place on the disk. */
static void storages_beyond_four_gigabytes_are_found(void **state)
{
	struct place *p = *state;
	const uint64_t far = (uint64_t)5 << 30;
	struct m2_why why;
	uint16_t v[4];
	begin_usual(p);
	const size_t head = p->zip.local;
	const uint64_t data = far + (p->zip.data - head);
	use_zip64_entry(&p->zip, sizeof values_v, far);
	const uint64_t directory = far + (p->zip.file.n - head);
	end_zip64(&p->zip, directory);
	const int fd = openat(p->dirfd, "x.bin", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const size_t tail = p->zip.file.n - head;
	if (pwrite(fd, p->zip.file.at + head, tail, (off_t)far) != (ssize_t)tail) {
		close(fd);
		print_message("skipped: no file of 5 GiB can be made here\n");
		skip();
	}
	assert_int_equal(pwrite(fd, p->zip.file.at, head, 0), (ssize_t)head);
	close(fd);
	if (m2_pytorch_open(p->dirfd, "x.bin", &p->file, &p->why) != M2_OK)
		fail_msg("%s", p->why.text);
	const struct m2_tensor *t = m2_tensor_file_find(p->file, "v");
	assert_true(t->begin == data);
	assert_int_equal(m2_tensor_file_read(p->file, t, 0, v, sizeof v, &why), M2_OK);
	assert_memory_equal(v, values_v, sizeof v);
}

static void zip64_records_are_checked(void **state)
{
	struct place *p = *state;
	make_zip64(p);
	set_number(from_end(p, LOCATOR_AT) + 8, 8, 0);
	refuse(p, M2_EFORMAT, "does not lie in front of its locator");
	make_zip64(p);
	set_number(from_end(p, LOCATOR_AT) + 8, 8, UINT64_MAX);
	refuse(p, M2_EFORMAT, "does not lie in front of its locator");
	make_zip64(p);
	set_number(from_end(p, LOCATOR_AT) + 16, 4, 2);
	refuse(p, M2_EFORMAT, "more than one disk");
	make_zip64(p);
	set_number(from_end(p, END64_AT), 4, 0);
	refuse(p, M2_EFORMAT, "no zip64 end record");
	make_zip64(p);
	set_number(from_end(p, END64_AT) + 4, 8, 45);
	refuse(p, M2_EFORMAT, "no zip64 end record");
	make_zip64(p);
	set_number(from_end(p, END64_AT) + 20, 4, 1);
	refuse(p, M2_EFORMAT, "more than one disk");
	make_zip64(p);
	set_number(from_end(p, END64_AT) + 48, 8, UINT64_MAX - 3);
	refuse(p, M2_EFORMAT, "does not end where the zip64 end record begins");
	/* a count that a library would make room for before it looks */
	make_zip64(p);
	set_number(from_end(p, END64_AT) + 24, 8, (uint64_t)1 << 40);
	set_number(from_end(p, END64_AT) + 32, 8, (uint64_t)1 << 40);
	refuse(p, M2_ELIMIT, "1099511627776 entries");
	/* a field too short for what it has to hold, and a size that nothing has */
	begin_usual(p);
	use_zip64_entry(&p->zip, sizeof values_v, p->zip.local);
	set_number(p->zip.directory.at + p->zip.directory.n - 26, 2, 16);
	end_zip64(&p->zip, p->zip.file.n);
	refuse(p, M2_EFORMAT, "extra fields are inconsistent");
	begin_usual(p);
	use_zip64_entry(&p->zip, UINT64_MAX - 7, p->zip.local);
	end_zip64(&p->zip, p->zip.file.n);
	refuse(p, M2_EFORMAT, "reaches beyond the directory");
	begin_usual(p);
	use_zip64_entry(&p->zip, sizeof values_v, UINT64_MAX - 7);
	end_zip64(&p->zip, p->zip.file.n);
	refuse(p, M2_EFORMAT, "is said to lie outside");
}

/* ---- the container ---- */

static void a_file_that_is_cut_or_added_to_is_refused(void **state)
{
	struct place *p = *state;
	make_usual(p);
	const size_t whole = p->zip.file.n;
	for (size_t n = 0; n < whole; n += n < 100 || n + 200 > whole ? 1 : 13) {
		write_file(p, p->zip.file.at, n);
		assert_int_equal(m2_pytorch_open(p->dirfd, "x.bin", &p->file, &p->why), M2_EFORMAT);
	}
	put_text(&p->zip.file, "x");
	refuse(p, M2_EFORMAT, "something was added to it");
	make_usual(p); /* a comment */
	set_number(from_end(p, 2), 2, 1);
	put_text(&p->zip.file, "x");
	refuse(p, M2_EFORMAT, "something was added to it");
}

/* Two archives in one file, of which each reader finds its own. */
static void a_second_end_record_is_refused(void **state)
{
	struct place *p = *state;
	begin_usual(p);
	const size_t begin = p->zip.file.n;
	put(&p->zip.file, p->zip.directory.at, p->zip.directory.n);
	put_end(&p->zip, begin);
	set_number(from_end(p, 2), 2, (p->zip.directory.n + 22));
	const size_t second = p->zip.file.n;
	put(&p->zip.file, p->zip.directory.at, p->zip.directory.n);
	put_end(&p->zip, second);
	refuse(p, M2_EFORMAT, "a second end record");
	/* the same four bytes among the weights are no end record */
	free_zip(&p->zip);
	static const unsigned char magic[24] = "PK\5\6PK\5\6";
	add_pickle(p, &usual_w, NULL);
	add_entry(&p->zip, "archive/data/0", magic, sizeof magic);
	end_zip(&p->zip);
	accept(p);
}

static void the_end_record_is_checked(void **state)
{
	struct place *p = *state;
	make_usual(p);
	set_number(from_end(p, END_AT) + 4, 2, 1);
	refuse(p, M2_EFORMAT, "more than one disk");
	make_usual(p);
	set_number(from_end(p, END_AT) + 8, 2, 6);
	refuse(p, M2_EFORMAT, "more than one disk");
	make_usual(p);
	set_number(from_end(p, END_AT) + 12, 4, 5);
	refuse(p, M2_EFORMAT, "does not end where the end record begins");
	make_usual(p);
	set_number(from_end(p, END_AT) + 16, 4, UINT32_MAX);
	refuse(p, M2_EFORMAT, "does not end where the end record begins");
	for (unsigned count = 6; count <= 8; count += 2) {
		make_usual(p);
		set_number(from_end(p, END_AT) + 8, 2, count);
		set_number(from_end(p, END_AT) + 10, 2, count);
		refuse(p, M2_EFORMAT,
			count == 6 ? "its 6 entries take" : "entry 7 of the directory");
	}
}

/* The directory entry of the last, or its local header, with `bytes` bytes at `at` changed. */
static void refuse_changed(struct place *p, bool local, size_t at, int bytes, uint64_t value,
	enum m2_err wanted, const char *word)
{
	begin_usual(p);
	set_number(local ? p->zip.file.at + p->zip.local + at
			 : p->zip.directory.at + p->zip.entry + at,
		bytes, value);
	end_zip(&p->zip);
	refuse(p, wanted, word);
}

static void every_entry_is_stored_plain_and_where_it_is_said_to_be(void **state)
{
	struct place *p = *state;
	refuse_changed(p, false, 0, 4, 0, M2_EFORMAT, "entry 6 of the directory");
	refuse_changed(p, false, 8, 2, 0x0801, M2_EUNSUPPORTED, "archive/data/1 is encrypted");
	refuse_changed(p, false, 8, 2, 0x0841, M2_EUNSUPPORTED, "archive/data/1 is encrypted");
	refuse_changed(p, false, 8, 2, 0x2800, M2_EUNSUPPORTED, "archive/data/1 is encrypted");
	refuse_changed(
		p, false, 10, 2, 8, M2_EUNSUPPORTED, "archive/data/1 is compressed (method 8)");
	refuse_changed(p, false, 10, 2, 93, M2_EUNSUPPORTED, "is compressed (method 93)");
	refuse_changed(p, false, 28, 2, 900, M2_EFORMAT, "is cut short");
	refuse_changed(p, false, 34, 2, 1, M2_EFORMAT, "extra fields are inconsistent");
	refuse_changed(p, false, 24, 4, UINT32_MAX, M2_EFORMAT, "extra fields are inconsistent");
	refuse_changed(p, false, 42, 4, UINT32_MAX - 1, M2_EFORMAT, "is said to lie outside");
	refuse_changed(p, false, 42, 4, 1, M2_EFORMAT, "no local header of archive/data/1");
	refuse_changed(p, true, 0, 4, 0, M2_EFORMAT, "no local header of archive/data/1");
	refuse_changed(p, true, 30, 1, 'b', M2_EFORMAT, "archive/data/1 has another name");
	refuse_changed(p, true, 26, 2, 13, M2_EFORMAT, "archive/data/1 has another name");
	refuse_changed(p, true, 8, 2, 8, M2_EFORMAT, "says compressed or encrypted");
	refuse_changed(p, true, 6, 2, 1, M2_EFORMAT, "says compressed or encrypted");
	refuse_changed(p, true, 28, 2, 65535, M2_EFORMAT, "reaches beyond the directory");
	refuse_changed(p, true, 4, 2, 99, M2_EFORMAT, "libzip refuses it");
	refuse_changed(p, false, 12, 2, 99, M2_EFORMAT, "libzip refuses it");
}

/* What makes an archive a bomb is an entry that becomes larger than it lies there. */
static void nothing_can_be_larger_than_it_lies_in_the_file(void **state)
{
	struct place *p = *state;
	refuse_changed(p, false, 24, 4, 0x7fffffff, M2_EFORMAT,
		"archive/data/1 is stored, and is said to have 8 bytes and 2147483647");
	begin_usual(p);
	set_number(p->zip.directory.at + p->zip.entry + 20, 4, 0x7fffffff);
	set_number(p->zip.directory.at + p->zip.entry + 24, 4, 0x7fffffff);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "archive/data/1 reaches beyond");
	refuse_changed(p, false, 10, 2, 8, M2_EUNSUPPORTED, "compressed");
}

static void entries_lie_apart(void **state)
{
	struct place *p = *state;
	/* an entry whose local header is the data of another */
	struct bytes inner = {.n = 0};
	free_zip(&p->zip);
	add_pickle(p, &usual_w, NULL);
	put_text(&inner, "PK\3\4");
	put_header(&inner, 0, 0, strlen("archive/data/1"), 0);
	put_text(&inner, "archive/data/1");
	put(&inner, values_w, sizeof values_w);
	add_entry(&p->zip, "archive/data/0", inner.at, inner.n);
	const size_t inside = p->zip.data;
	add_entry(&p->zip, "archive/data/1", "", 0);
	set_number(p->zip.directory.at + p->zip.entry + 42, 4, inside);
	end_zip(&p->zip);
	free(inner.at);
	refuse(p, M2_EFORMAT, "archive/data/1 overlaps archive/data/0");
	/* many entries on one place, each with the whole of it: the quine's way to gigabytes */
	begin_usual(p);
	set_number(p->zip.directory.at + p->zip.entry + 20, 4, sizeof values_v + 16 + 22);
	set_number(p->zip.directory.at + p->zip.entry + 24, 4, sizeof values_v + 16 + 22);
	add_entry(&p->zip, "archive/data/2", "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "archive/data/2 overlaps archive/data/1");
}

/* Extra fields are what a library keeps of every header: their sum has a limit. */
static void extra_fields_are_bounded(void **state)
{
	struct place *p = *state;
	char name[64];
	char *field = calloc(1, 65535);
	assert_non_null(field);
	begin_usual(p);
	for (int i = 0; i < 520; i++) {
		(void)snprintf(name, sizeof name, "archive/data/%d", 10 + i);
		add_entry(&p->zip, name, "", 0);
		/* the local header alone, again, with a long field */
		const size_t n = strlen(name);
		p->zip.file.n = p->zip.local + 30 + n;
		set_number(p->zip.file.at + p->zip.local + 28, 2, 65535);
		put(&p->zip.file, "FB\xfb\xff", 4);
		put(&p->zip.file, field, 65531);
	}
	free(field);
	end_zip(&p->zip);
	refuse(p, M2_ELIMIT, "bytes of extra fields");
}

static void names_are_plain_different_and_in_one_directory(void **state)
{
	static const char *const bad[] = {"archive/../x", "../x", "/etc/passwd", "archive//x",
		"archive/./x", "archive/x/", "archive\\x", "archive/a\nb", "archive/\x7f",
		"archive/\xff", ""};
	struct place *p = *state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		begin_usual(p);
		add_entry(&p->zip, bad[i], "", 0);
		end_zip(&p->zip);
		refuse(p, M2_EFORMAT, "name is not plain");
	}
	char name[300];
	memset(name, 'n', sizeof name);
	memcpy(name, "archive/", 8);
	name[256] = '\0';
	begin_usual(p);
	add_entry(&p->zip, name, "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "name is not plain");
	begin_usual(p);
	add_entry(&p->zip, "archive/data/0", "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "two entries have the same name, archive/data/0");
	begin_usual(p);
	add_entry(&p->zip, "other/data/0", "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "other/data/0 does not lie in archive/");
	begin_usual(p);
	add_entry(&p->zip, "archive/code/data.pkl", "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "more than one data.pkl");
	free_zip(&p->zip);
	add_entry(&p->zip, "archive/version", "3\n", 2);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "no archive/data.pkl");
	free_zip(&p->zip);
	add_entry(&p->zip, "data.pkl", "", 0);
	end_zip(&p->zip);
	refuse(p, M2_EFORMAT, "lie in no directory");
}

/* libzip has a stream of its own while a file is opened, and none afterwards. */
static void no_descriptor_is_left_behind(void **state)
{
	struct place *p = *state;
	const int before = dup(0);
	assert_true(before >= 0);
	close(before);
	make_usual(p);
	accept(p);
	m2_tensor_file_close(&p->file);
	refuse_changed(p, true, 4, 2, 99, M2_EFORMAT, "libzip refuses it");
	refuse_changed(p, false, 10, 2, 8, M2_EUNSUPPORTED, "compressed");
	const int after = dup(0);
	assert_int_equal(after, before);
	close(after);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(headers_with_sizes_are_read),
		TEST(zip64_is_read),
		TEST(storages_beyond_four_gigabytes_are_found),
		TEST(zip64_records_are_checked),
		TEST(a_file_that_is_cut_or_added_to_is_refused),
		TEST(a_second_end_record_is_refused),
		TEST(the_end_record_is_checked),
		TEST(every_entry_is_stored_plain_and_where_it_is_said_to_be),
		TEST(nothing_can_be_larger_than_it_lies_in_the_file),
		TEST(entries_lie_apart),
		TEST(extra_fields_are_bounded),
		TEST(names_are_plain_different_and_in_one_directory),
		TEST(no_descriptor_is_left_behind),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
