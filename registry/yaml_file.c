/* yaml_file.c - a small regular file into memory, for configuration.
 *
 * Opened without blocking, looked at, then read: what a directory of configuration may hold besides
 * (FIFOs, devices, links) must not hang or surprise the daemon.  A file that grows while it is read
 * is read up to the limit and refused beyond it.
 */
#include "registry/yaml_table.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum m2_err open_regular(const char *path, bool follow, int *fd, struct m2_why *why)
{
	struct stat st;
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW));
	if (*fd < 0 && errno == ELOOP && !follow)
		return m2_fail(M2_EFORMAT, why, "%s: is a symbolic link, not a file", path);
	if (*fd < 0 && errno == ENXIO)
		return m2_fail(M2_EFORMAT, why, "%s: is not a regular file", path);
	if (*fd < 0)
		return m2_fail(errno == ENOENT || errno == ENOTDIR ? M2_ENOENT : M2_EIO, why,
			"%s: cannot be opened: %s", path, strerror(errno));
	if (fstat(*fd, &st) != 0)
		return m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return m2_fail(M2_EFORMAT, why, "%s: is not a regular file", path);
	return M2_OK;
}

static enum m2_err read_all(
	int fd, const char *path, size_t max_bytes, char *text, size_t *length, struct m2_why *why)
{
	size_t have = 0;
	while (have <= max_bytes) {
		const ssize_t n = read(fd, text + have, max_bytes + 1 - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return m2_fail(
				M2_EIO, why, "%s: cannot be read: %s", path, strerror(errno));
		if (n == 0)
			break;
		have += (size_t)n;
	}
	if (have > max_bytes)
		return m2_fail(M2_ELIMIT, why, "%s: has more than %zu bytes", path, max_bytes);
	text[have] = '\0';
	*length = have;
	return M2_OK;
}

enum m2_err m2_yaml_file_read(const char *path, size_t max_bytes, bool follow, char **text,
	size_t *length, struct m2_why *why)
{
	int fd = -1;
	char *buffer = NULL;
	enum m2_err err = open_regular(path, follow, &fd, why);
	if (err == M2_OK) {
		buffer = malloc(max_bytes + 2);
		err = buffer == NULL ? m2_fail(M2_ENOMEM, why, "%s: out of memory", path)
				     : read_all(fd, path, max_bytes, buffer, length, why);
	}
	if (fd >= 0)
		close(fd);
	if (err != M2_OK) {
		free(buffer);
		return err;
	}
	*text = buffer;
	return M2_OK;
}

enum m2_err m2_yaml_file_directory(const char *path, char *out, size_t size, struct m2_why *why)
{
	assert(size > 1);
	const char *slash = strrchr(path, '/');
	const size_t length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
	if (length >= size || length >= PATH_MAX)
		return m2_fail(
			M2_ELIMIT, why, "a path of %zu bytes, more than %zu", length, size - 1);
	if (path[0] == '/') {
		memcpy(out, path, length);
		out[length] = '\0';
		return M2_OK;
	}
	char directory[PATH_MAX] = ".";
	if (length > 0) {
		memcpy(directory, path, length);
		directory[length] = '\0';
	}
	char *whole = realpath(directory, NULL);
	if (whole == NULL)
		return m2_fail(errno == ENOENT || errno == ENOTDIR ? M2_ENOENT : M2_EIO, why,
			"%s: %s", directory, strerror(errno));
	const int n = snprintf(out, size, "%s", whole);
	free(whole);
	if (n < 0 || (size_t)n >= size)
		return m2_fail(M2_ELIMIT, why, "%s: its directory's path is longer than %zu bytes",
			path, size - 1);
	return M2_OK;
}
