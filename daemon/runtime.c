/* runtime.c - see runtime.h.  The lock is an flock on an open file: the kernel drops it with the process,
 * however it ended, so that no stale lock ever has to be judged. */
#include "daemon/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/results.h"
#include "common/wire.h"
#include "daemon/segment.h"

/* mkdir -p of an absolute path; only what is missing gets the mode. */
static enum m2_err make_directory(const char *path, mode_t mode, struct m2_why *why)
{
	char part[M2_LIMIT_PATH_BYTES + 17];
	const size_t length = strlen(path);
	for (size_t i = 1; i <= length && length < sizeof part; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, path[i] == '\0' ? mode : 0755) != 0 && errno != EEXIST)
			return m2_fail(M2_EIO, why, "%s: %s", part, strerror(errno));
	}
	struct stat st;
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		return m2_fail(M2_EIO, why, "%s: not a directory", path);
	return M2_OK;
}

static enum m2_err take_lock(struct m2_supervisor *s, struct m2_why *why)
{
	char path[M2_LIMIT_PATH_BYTES + 16];
	char text[32];
	(void)snprintf(path, sizeof path, "%s/lock", s->options->runtime_dir);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (s->lock_fd < 0)
		return m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		const ssize_t n = pread(s->lock_fd, text, sizeof text - 1, 0);
		text[n > 0 ? n : 0] = '\0';
		return m2_fail(M2_EBUSY, why,
			"another mamba2d (process %ld) runs on %s: stop it or choose another "
			"--runtime-dir",
			strtol(text, NULL, 10), s->options->runtime_dir);
	}
	const int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
	if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, text, (size_t)n, 0) != n)
		return m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
	return M2_OK;
}

static void remove_socket(struct m2_supervisor *s, const char *name)
{
	char path[M2_LIMIT_PATH_BYTES + 32];
	(void)snprintf(path, sizeof path, "%s/%s", s->options->runtime_dir, name);
	if (unlink(path) != 0 && errno != ENOENT)
		m2_warn("%s: %s", path, strerror(errno));
}

static bool keep_none(void *ctx, const char *name)
{
	(void)ctx;
	(void)name;
	return false;
}

static void clean(struct m2_supervisor *s)
{
	remove_socket(s, M2_SOCKET_CLIENT);
	remove_socket(s, M2_SOCKET_CONTROL);
	m2_runtime_sweep(s, keep_none, NULL);
}

enum m2_err m2_runtime_open(struct m2_supervisor *s, struct m2_why *why)
{
	enum m2_err err = make_directory(s->options->runtime_dir, 0755, why);
	if (err == M2_OK)
		err = take_lock(s, why);
	if (err != M2_OK)
		return err;
	(void)snprintf(
		s->results_dir, sizeof s->results_dir, "%s/results", s->options->runtime_dir);
	err = make_directory(s->results_dir, 0711, why);
	if (err != M2_OK)
		return err;
	s->results_fd = open(s->results_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	/* the process's umask may have narrowed the mode, and clients must pass through */
	if (s->results_fd < 0 || fchmod(s->results_fd, 0711) != 0 ||
		chmod(s->options->runtime_dir, 0755) != 0)
		return m2_fail(M2_EIO, why, "%s: %s", s->results_dir, strerror(errno));
	clean(s);
	return M2_OK;
}

void m2_runtime_close(struct m2_supervisor *s)
{
	if (s->results_fd > 0) {
		clean(s);
		(void)close(s->results_fd);
		(void)rmdir(s->results_dir);
	}
	if (s->lock_fd > 0)
		(void)close(s->lock_fd);
	s->results_fd = s->lock_fd = 0;
}

enum m2_err m2_runtime_state(struct m2_supervisor *s, struct m2_why *why)
{
	return make_directory(s->options->state_dir, 0700, why);
}

bool m2_runtime_segment_valid(const char *name)
{
	const size_t length = strnlen(name, M2_LIMIT_SEGMENT_NAME_BYTES);
	return length > 0 && length < M2_LIMIT_SEGMENT_NAME_BYTES && name[0] != '.' &&
	       strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") ==
		       length;
}

bool m2_runtime_segment_made_by(const char *name, pid_t pid)
{
	char prefix[32];
	const int n = snprintf(prefix, sizeof prefix, M2_SEGMENT_PREFIX "%ld-", (long)pid);
	return strncmp(name, prefix, (size_t)n) == 0;
}

void m2_runtime_unlink_segment(struct m2_supervisor *s, const char *name)
{
	if (unlinkat(s->results_fd, name, 0) != 0 && errno != ENOENT)
		m2_warn("results %s: %s", name, strerror(errno));
}

static void finish_mapped(void *memory, size_t bytes, enum m2_err err, const char *message)
{
	struct m2_results_header *h = memory;
	if (m2_results_check(memory, bytes, NULL) != M2_OK)
		return; /* its worker died while it made it: no client knows of it */
	for (uint32_t i = 0; i < h->n_sequences; i++) {
		struct m2_results_sequence *q = m2_results_sequence(memory, i);
		uint32_t running = M2_FINISH_RUNNING;
		(void)atomic_compare_exchange_strong(&q->finish, &running, M2_FINISH_ERROR);
	}
	m2_results_finish(h, err, message, m2_loop_now());
}

void m2_runtime_finish_segment(
	struct m2_supervisor *s, const char *name, enum m2_err err, const char *message)
{
	struct stat st;
	const int fd = openat(s->results_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
		st.st_size >= (off_t)sizeof(struct m2_results_header)) {
		void *memory =
			mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (memory != MAP_FAILED) {
			finish_mapped(memory, (size_t)st.st_size, err, message);
			(void)munmap(memory, (size_t)st.st_size);
		}
	}
	(void)close(fd);
}

void m2_runtime_sweep(struct m2_supervisor *s, bool (*keep)(void *ctx, const char *name), void *ctx)
{
	const int fd = openat(s->results_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (dir == NULL) {
		m2_warn("%s: %s", s->results_dir, strerror(errno));
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
			!keep(ctx, e->d_name)) {
			/* a client may be asleep on it: it wakes with an error, not never */
			m2_runtime_finish_segment(s, e->d_name, M2_EWORKER,
				"the daemon ended while the request ran: send it again");
			m2_runtime_unlink_segment(s, e->d_name);
		}
	(void)closedir(dir);
}
