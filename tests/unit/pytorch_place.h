/* pytorch_place.h - a directory with one file of torch.save in it, and what opening it must give.
 *
 * Each test makes the usual file (two tensors in two storages) and changes one thing.
 * Header only: two test programs share it, and tests are one file each.
 */
#ifndef M2_TESTS_UNIT_PYTORCH_PLACE_H
#define M2_TESTS_UNIT_PYTORCH_PLACE_H

#include "tests/unit/pytorch_maker.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/pytorch.h"

static const struct tensor_of usual_w = {"FloatStorage", "0", 6, 0, {2, 3, -1}, {3, 1, -1}};
static const struct tensor_of usual_v = {"HalfStorage", "1", 4, 0, {4, -1}, {1, -1}};
static const float values_w[] = {0, 1, 2, 3, 4, 5};
static const uint16_t values_v[] = {0x3c00, 0x4000, 0x4200, 0x4400};

/* One directory with one file, x.bin. */
struct place {
	char path[4096];
	int dirfd;
	struct zip_maker zip;
	struct m2_tensor_file *file;
	struct m2_why why;
};

static inline int make_place(void **state)
{
	const char *base = getenv("TMPDIR");
	struct place *p = calloc(1, sizeof *p);
	if (p == NULL)
		return -1;
	(void)snprintf(
		p->path, sizeof p->path, "%s/m2-pytorch-XXXXXX", base != NULL ? base : "/tmp");
	if (mkdtemp(p->path) == NULL)
		return -1;
	p->dirfd = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = p;
	return p->dirfd >= 0 ? 0 : -1;
}

static inline int remove_place(void **state)
{
	struct place *p = *state;
	free_zip(&p->zip);
	m2_tensor_file_close(&p->file);
	(void)unlinkat(p->dirfd, "x.bin", 0);
	close(p->dirfd);
	const int result = rmdir(p->path);
	free(p);
	return result;
}

static inline void write_file(const struct place *p, const void *data, size_t n)
{
	const int fd = openat(p->dirfd, "x.bin", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, n), (ssize_t)n);
	assert_int_equal(close(fd), 0);
}

static inline void expect_refusal(struct place *p, enum m2_err wanted, const char *word)
{
	m2_tensor_file_close(&p->file);
	p->why = (struct m2_why){.text = ""};
	const enum m2_err err = m2_pytorch_open(p->dirfd, "x.bin", &p->file, &p->why);
	if (err != wanted || strstr(p->why.text, word) == NULL)
		print_error("gave %s: %s\n", m2_err_code(err), p->why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(p->why.text, word));
	assert_non_null(strstr(p->why.text, "x.bin"));
	assert_null(p->file);
}

/* The file as it stands in the maker. */
static inline void refuse(struct place *p, enum m2_err wanted, const char *word)
{
	write_file(p, p->zip.file.at, p->zip.file.n);
	expect_refusal(p, wanted, word);
}

static inline void accept(struct place *p)
{
	m2_tensor_file_close(&p->file);
	write_file(p, p->zip.file.at, p->zip.file.n);
	if (m2_pytorch_open(p->dirfd, "x.bin", &p->file, &p->why) != M2_OK)
		fail_msg("%s", p->why.text);
}

static inline void add_pickle(struct place *p, const struct tensor_of *w, const struct tensor_of *v)
{
	struct bytes b = {.n = 0};
	begin_dict(&b);
	put_tensor(&b, "w", w);
	if (v != NULL)
		put_tensor(&b, "v", v);
	end_dict(&b);
	add_entry(&p->zip, "archive/data.pkl", b.at, b.n);
	free(b.at);
}

/* All but the end; the last entry is archive/data/1. */
static inline void begin_usual(struct place *p)
{
	free_zip(&p->zip);
	add_pickle(p, &usual_w, &usual_v);
	add_entry(&p->zip, "archive/.format_version", "1", 1);
	add_entry(&p->zip, "archive/byteorder", "little", 6);
	add_entry(&p->zip, "archive/data/0", values_w, sizeof values_w);
	add_entry(&p->zip, "archive/version", "3\n", 2);
	add_entry(&p->zip, "archive/.data/serialization_id", "0123456789", 10);
	add_entry(&p->zip, "archive/data/1", values_v, sizeof values_v);
}

static inline void make_usual(struct place *p)
{
	begin_usual(p);
	end_zip(&p->zip);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)

#endif
