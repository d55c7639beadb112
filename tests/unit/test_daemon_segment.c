/* test_daemon_segment.c - results memory: its file, its reader, its budgets, and that nothing is left. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <acl/libacl.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/acl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/segment.h"

static char directory[256];

static int make_directory(void **unused)
{
	(void)unused;
	/* a tmpfs, as the daemon's own; the mode lets another user in to look */
	(void)snprintf(directory, sizeof directory, "%s/m2-segment-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	return mkdtemp(directory) == NULL || chmod(directory, 0711) != 0;
}

static int remove_directory(void **unused)
{
	(void)unused;
	return rmdir(directory); /* fails, and so does the test, if a file is left */
}

static const struct m2_results_shape shape = {.request = 5,
	.n_sequences = 2,
	.prompt_tokens = 10,
	.max_tokens = 100,
	.vocab = 50,
	.top_k = 3,
	.flags = M2_RESULTS_TEXT | M2_RESULTS_LOGPROBS | M2_RESULTS_PROMPT_LOGPROBS,
	.text_per_token = 12};

static void path_of(const struct m2_segment *s, char *path, size_t size)
{
	(void)snprintf(path, size, "%s/%s", directory, s->name);
}

static void a_segment_is_a_whole_file_that_its_owner_alone_writes(void **unused)
{
	(void)unused;
	struct m2_segment_pool *pool;
	struct m2_segment s;
	struct m2_why why;
	struct stat st;
	char path[512];
	uint64_t bytes, count;
	assert_int_equal(m2_segment_pool_create(directory, 0, 0, &pool, &why), M2_OK);
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_FILE, geteuid(), &shape, 77, &s, &why), M2_OK);
	path_of(&s, path, sizeof path);
	char prefix[32];
	const int n = snprintf(prefix, sizeof prefix, M2_SEGMENT_PREFIX "%ld-", (long)getpid());
	assert_int_equal(strncmp(s.name, prefix, (size_t)n), 0);
	assert_int_equal(strlen(s.name), n + 32);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal((size_t)st.st_size, s.bytes);
	assert_true((size_t)st.st_blocks * 512 >= s.bytes); /* reserved, not promised */
	assert_int_equal(m2_results_check(s.memory, s.bytes, &why), M2_OK);
	m2_segment_pool_usage(pool, &bytes, &count);
	assert_int_equal(bytes, s.bytes + 77);
	assert_int_equal(count, 1);
	m2_segment_unmap(&s);
	assert_int_equal(access(path, F_OK), 0); /* the file waits for its reader */
	m2_segment_destroy(pool, &s);
	assert_int_equal(access(path, F_OK), -1);
	m2_segment_pool_usage(pool, &bytes, &count);
	assert_int_equal(bytes, 0);
	assert_int_equal(count, 0);
	m2_segment_destroy(pool, &s); /* a second time: nothing */
	m2_segment_pool_destroy(&pool);
	assert_null(pool);
}

/* In a child with that uid: may it open the path so?  0: yes, else errno. */
static int try_open(uint32_t uid, const char *path, int flags)
{
	int status;
	const pid_t pid = fork();
	if (pid == 0) {
		if (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0)
			_exit(255);
		const int fd = open(path, flags | O_CLOEXEC);
		_exit(fd >= 0 ? 0 : errno);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 254;
	return WEXITSTATUS(status);
}

static void the_named_user_may_read_and_nobody_else_anything(void **unused)
{
	(void)unused;
	struct m2_segment_pool *pool;
	struct m2_segment s;
	struct m2_why why;
	char path[512];
	if (geteuid() != 0) {
		print_message(
			"skipped: the_named_user_may_read_and_nobody_else_anything: not root\n");
		skip();
	}
	assert_int_equal(m2_segment_pool_create(directory, 0, 0, &pool, &why), M2_OK);
	const enum m2_err err =
		m2_segment_create(pool, M2_SEGMENT_FILE, 65534, &shape, 0, &s, &why);
	if (err == M2_EACCES) {
		print_message("skipped: no ACLs here: %s\n", why.text);
		m2_segment_pool_destroy(&pool);
		skip();
	}
	assert_int_equal(err, M2_OK);
	path_of(&s, path, sizeof path);
	acl_t acl = acl_get_file(path, ACL_TYPE_ACCESS);
	assert_non_null(acl);
	char *text = acl_to_any_text(acl, NULL, ',', TEXT_NUMERIC_IDS);
	assert_string_equal(text, "user::rw-,user:65534:r--,group::---,mask::r--,other::---");
	(void)acl_free(text);
	(void)acl_free(acl);
	assert_int_equal(try_open(65534, path, O_RDONLY), 0);
	assert_int_equal(try_open(65534, path, O_RDWR), EACCES);
	assert_int_equal(try_open(65534, path, O_WRONLY | O_TRUNC), EACCES);
	assert_int_equal(try_open(65533, path, O_RDONLY), EACCES);
	m2_segment_destroy(pool, &s);
	m2_segment_pool_destroy(&pool);
}

static void budgets_are_counted_to_the_byte_and_given_back(void **unused)
{
	(void)unused;
	struct m2_segment_pool *pool;
	struct m2_segment s[3];
	struct m2_why why;
	size_t one;
	uint64_t bytes, count;
	const uint32_t me = geteuid();
	assert_int_equal(m2_results_size(&shape, &one, &why), M2_OK);
	/* room for two of one user and three in all */
	assert_int_equal(m2_segment_pool_create(directory, (int64_t)(3 * one + 10),
				 (int64_t)(2 * one + 10), &pool, &why),
		M2_OK);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			m2_segment_create(pool, M2_SEGMENT_ANONYMOUS, me, &shape, 5, &s[i], &why),
			M2_OK);
	assert_string_equal(s[0].name, "");
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_FILE, me, &shape, 0, &s[2], &why), M2_EBUSY);
	assert_non_null(strstr(why.text, "results memory of user"));
	/* another user's share is its own, the whole is shared */
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_ANONYMOUS, me + 1, &shape, 1, &s[2], &why),
		M2_ENOMEM);
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_ANONYMOUS, me + 1, &shape, 0, &s[2], &why),
		M2_OK);
	m2_segment_pool_usage(pool, &bytes, &count);
	assert_int_equal(bytes, 3 * one + 10);
	assert_int_equal(count, 3);
	m2_segment_destroy(pool, &s[0]);
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_FILE, me, &shape, 5, &s[0], &why), M2_OK);
	for (int i = 0; i < 3; i++)
		m2_segment_destroy(pool, &s[i]);
	m2_segment_pool_usage(pool, &bytes, &count);
	assert_int_equal(bytes, 0);
	assert_int_equal(count, 0);
	m2_segment_pool_destroy(&pool);
}

static void what_cannot_be_made_leaves_nothing_behind(void **unused)
{
	(void)unused;
	struct m2_segment_pool *pool;
	struct m2_segment s;
	struct m2_why why;
	uint64_t bytes, count;
	struct m2_results_shape huge = shape;
	huge.vocab = 1 << 24;
	huge.flags |= M2_RESULTS_LOGITS;
	huge.max_tokens = 1 << 20;
	assert_int_equal(m2_segment_pool_create(directory, 0, 0, &pool, &why), M2_OK);
	assert_int_equal(
		m2_segment_create(pool, M2_SEGMENT_FILE, geteuid(), &huge, 0, &s, &why), M2_ELIMIT);
	assert_null(s.memory);
	m2_segment_pool_usage(pool, &bytes, &count);
	assert_int_equal(bytes, 0);
	m2_segment_pool_destroy(&pool);
	assert_int_equal(m2_segment_pool_create("/nonexistent/results", 0, 0, &pool, &why), M2_EIO);
	assert_non_null(strstr(why.text, "/nonexistent/results"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_segment_is_a_whole_file_that_its_owner_alone_writes),
		cmocka_unit_test(the_named_user_may_read_and_nobody_else_anything),
		cmocka_unit_test(budgets_are_counted_to_the_byte_and_given_back),
		cmocka_unit_test(what_cannot_be_made_leaves_nothing_behind),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
