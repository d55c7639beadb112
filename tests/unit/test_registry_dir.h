/* test_registry_dir.h - a private directory for one test, and files in it. */
#ifndef M2_TESTS_UNIT_TEST_REGISTRY_DIR_H
#define M2_TESTS_UNIT_TEST_REGISTRY_DIR_H

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct test_dir {
	char path[256];
};

static inline int test_dir_setup(void **state)
{
	const char *base = getenv("TMPDIR");
	struct test_dir *d = calloc(1, sizeof *d);
	if (d == NULL)
		return -1;
	const int n = snprintf(d->path, sizeof d->path, "%s/m2registry.XXXXXX",
		base != NULL && base[0] == '/' ? base : "/tmp");
	if (n < 0 || n >= (int)sizeof d->path || mkdtemp(d->path) == NULL) {
		free(d);
		return -1;
	}
	*state = d;
	return 0;
}

static inline int test_dir_remove_one(
	const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static inline int test_dir_teardown(void **state)
{
	struct test_dir *d = *state;
	const int rc = nftw(d->path, test_dir_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(d);
	*state = NULL;
	return rc;
}

/* DIR/name in one of a few rotating buffers. */
static inline const char *test_path(void **state, const char *name)
{
	static char buffers[8][1600];
	static int turn;
	char *out = buffers[turn++ % 8];
	const struct test_dir *d = *state;
	(void)snprintf(out, sizeof buffers[0], "%s/%s", d->path, name);
	return out;
}

static inline void test_write_bytes(const char *path, const void *bytes, size_t length)
{
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, length, f), length);
	assert_int_equal(fclose(f), 0);
}

static inline void test_write(const char *path, const char *text)
{
	test_write_bytes(path, text, strlen(text));
}

/* Of a file in the tree, or of the test itself: malloc'd. */
static inline char *test_read(const char *path, size_t *length)
{
	FILE *f = fopen(path, "re");
	if (f == NULL)
		fail_msg("%s cannot be opened; run tests from the root of the tree", path);
	char *text = NULL;
	size_t have = 0;
	for (;;) {
		text = realloc(text, have + 4097);
		assert_non_null(text);
		const size_t n = fread(text + have, 1, 4096, f);
		if (n == 0)
			break;
		have += n;
	}
	text[have] = '\0';
	fclose(f);
	*length = have;
	return text;
}

/* The committed file equals what is generated; M2_REGENERATE=1 writes it instead. */
static inline void test_reference(const char *path, const char *generated)
{
	if (getenv("M2_REGENERATE") != NULL)
		test_write(path, generated);
	size_t length;
	char *committed = test_read(path, &length);
	if (strcmp(committed, generated) != 0)
		fail_msg("%s is not what its table generates: run this test with M2_REGENERATE=1",
			path);
	free(committed);
}

#endif
