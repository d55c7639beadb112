/* segment.c - see segment.h. */
#include "client/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/limits.h"

static bool plain_name(const char *name)
{
	const size_t length = strlen(name);
	return length > 0 && length <= M2_LIMIT_SEGMENT_NAME_BYTES && name[0] != '.' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
		       length;
}

/* The daemon may spell its directory differently (a link, a relative path): the same directory is what
 * has the same device and inode. */
static bool same_directory(int fd, const char *path, size_t length)
{
	struct stat ours;
	struct stat told;
	char *copy = strndup(path, length);
	const bool same = copy != NULL && fstat(fd, &ours) == 0 && stat(copy, &told) == 0 &&
			  ours.st_dev == told.st_dev && ours.st_ino == told.st_ino;
	free(copy);
	return same;
}

static enum m2_err system_error(struct m2_why *why, const char *path)
{
	const int number = errno;
	const enum m2_err err = number == EACCES || number == EPERM ? M2_EACCES
				: number == ENOENT                  ? M2_ENOENT
				: number == ENOMEM                  ? M2_ENOMEM
								    : M2_EIO;
	return m2_fail(err, why, "results memory %s: %s", path, strerror(number));
}

static enum m2_err open_inside(
	const char *runtime_dir, const char *path, int *fd, struct m2_why *why)
{
	const char *slash = strrchr(path, '/');
	char *directory = NULL;
	if (path[0] != '/' || slash == path || !plain_name(slash + 1))
		return m2_fail(M2_EPROTO, why, "results memory has no plain path: %.200s", path);
	if (asprintf(&directory, "%s/results", runtime_dir) < 0)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	enum m2_err err = M2_OK;
	const int at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (at < 0)
		err = system_error(why, directory);
	else if (!same_directory(at, path, (size_t)(slash - path)))
		err = m2_fail(
			M2_EPROTO, why, "results memory %.200s is not in %.200s", path, directory);
	else if ((*fd = openat(at, slash + 1, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)) < 0)
		err = errno == ELOOP ? m2_fail(M2_EPROTO, why,
					       "results memory %.200s is a symbolic link", path)
				     : system_error(why, path);
	if (at >= 0)
		(void)close(at);
	free(directory);
	return err;
}

static enum m2_err map_file(
	int fd, const char *path, uint64_t bytes, struct m2_segment *out, struct m2_why *why)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return system_error(why, path);
	if (!S_ISREG(st.st_mode) || bytes < sizeof(struct m2_results_header) ||
		bytes > M2_LIMIT_RESULT_BYTES || (uint64_t)st.st_size != bytes)
		return m2_fail(M2_EPROTO, why,
			"results memory %.200s is not a file of the told %llu bytes", path,
			(unsigned long long)bytes);
	void *base = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return system_error(why, path);
	*out = (struct m2_segment){.header = base, .bytes = (size_t)bytes};
	const enum m2_err err = m2_results_check(base, (size_t)bytes, why);
	if (err != M2_OK)
		m2_segment_unmap(out);
	return err;
}

enum m2_err m2_segment_map(const char *runtime_dir, const char *path, uint64_t bytes,
	struct m2_segment *out, struct m2_why *why)
{
	int fd = -1;
	*out = (struct m2_segment){NULL, 0};
	enum m2_err err = open_inside(runtime_dir, path, &fd, why);
	if (err == M2_OK)
		err = map_file(fd, path, bytes, out, why);
	if (fd >= 0)
		(void)close(fd);
	return err;
}

void m2_segment_unmap(struct m2_segment *segment)
{
	if (segment->header == NULL)
		return;
	union { /* munmap takes what mmap gave, without const */
		const void *in;
		void *out;
	} base = {.in = segment->header};
	(void)munmap(base.out, segment->bytes);
	*segment = (struct m2_segment){NULL, 0};
}
