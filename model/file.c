/* file.c - reading files that belong to someone else.
 *
 * A daemon under its own user meets home directories it may not enter more often than any other
 * error; the sentence must name the component, because "permission denied" on the whole path sends
 * people to chmod the wrong thing.  No file is ever mapped: one that shrinks must not be a signal.
 */
#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One pread(2) moves at most this much, so that a load can be interrupted by signals in time. */
enum { PIECE_BYTES = 32 << 20 };

static enum m2_err err_of_errno(int error)
{
	return error == ENOENT || error == ENOTDIR ? M2_ENOENT
	       : error == EACCES || error == EPERM ? M2_EACCES
	       : error == ENOMEM                   ? M2_ENOMEM
						   : M2_EIO;
}

/* Longest prefix that can be named before `path` fails: try each component's directory in turn. */
static enum m2_err explain_prefix(char *path, struct m2_why *why, bool *explained)
{
	*explained = true;
	for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		if (slash[1] == '\0' || slash[1] == '/')
			continue;
		*slash = '\0';
		struct stat st;
		if (stat(path, &st) != 0 && errno == ENOENT)
			return m2_fail(M2_ENOENT, why, "%s does not exist", path);
		if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
			return m2_fail(M2_ENOENT, why, "%s is not a directory", path);
		if (faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) != 0 && errno == EACCES)
			return m2_fail(M2_EACCES, why,
				"user id %u may not enter %s: give it search (x) permission there",
				(unsigned)geteuid(), path);
		*slash = '/';
	}
	*explained = false;
	return M2_OK;
}

enum m2_err m2_path_explain(const char *path, int error, struct m2_why *why)
{
	const enum m2_err err = err_of_errno(error);
	char *copy = err == M2_ENOENT || err == M2_EACCES ? strdup(path) : NULL;
	if (copy != NULL && copy[0] != '\0') {
		bool explained;
		const enum m2_err found = explain_prefix(copy, why, &explained);
		free(copy);
		if (explained)
			return found;
	} else {
		free(copy);
	}
	if (err == M2_EACCES)
		return m2_fail(err, why, "user id %u may not read %s", (unsigned)geteuid(), path);
	if (error == ENOENT)
		return m2_fail(err, why, "%s does not exist", path);
	return m2_fail(err, why, "%s: %s", path, strerror(error));
}

enum m2_err m2_file_open(int dirfd, const char *name, const char *what, int *fd, struct m2_why *why)
{
	/* NONBLOCK: opening a FIFO would otherwise wait for a writer */
	const int opened = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (opened < 0)
		return m2_path_explain(what, errno, why);
	struct stat st;
	if (fstat(opened, &st) != 0 || !S_ISREG(st.st_mode)) {
		close(opened);
		return m2_fail(M2_EFORMAT, why, "%s is not a regular file", what);
	}
	*fd = opened;
	return M2_OK;
}

enum m2_err m2_file_read_at(int fd, void *dst, size_t bytes, unsigned long long offset,
	const char *what, struct m2_why *why)
{
	char *at = dst;
	while (bytes > 0) {
		const size_t piece = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
		const ssize_t n = pread(fd, at, piece, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return m2_fail(M2_EIO, why, "%s: reading at byte %llu: %s", what, offset,
				strerror(errno));
		if (n == 0)
			return m2_fail(M2_EIO, why,
				"%s: ends at byte %llu, it became shorter while it was open", what,
				offset);
		at += n;
		bytes -= (size_t)n;
		offset += (unsigned long long)n;
	}
	return M2_OK;
}

enum m2_err m2_file_read(int dirfd, const char *name, const char *what, size_t max_bytes,
	char **text, size_t *length, struct m2_why *why)
{
	int fd;
	enum m2_err err = m2_file_open(dirfd, name, what, &fd, why);
	if (err != M2_OK)
		return err;
	struct stat st;
	char *buffer = NULL;
	if (fstat(fd, &st) != 0)
		err = m2_fail(M2_EIO, why, "%s: %s", what, strerror(errno));
	else if ((unsigned long long)st.st_size > max_bytes)
		err = m2_fail(M2_ELIMIT, why, "%s has %lld bytes, more than %zu", what,
			(long long)st.st_size, max_bytes);
	else if ((buffer = malloc((size_t)st.st_size + 1)) == NULL)
		err = m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	else
		err = m2_file_read_at(fd, buffer, (size_t)st.st_size, 0, what, why);
	close(fd);
	if (err != M2_OK) {
		free(buffer);
		return err;
	}
	buffer[st.st_size] = '\0';
	*text = buffer;
	*length = (size_t)st.st_size;
	return M2_OK;
}
