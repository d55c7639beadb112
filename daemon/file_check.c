/* file_check.c - see file_check.h. */
#include "daemon/file_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "model/file.h"
#include "registry/sha256.h"

enum { PIECE = 1 << 20 };

/* ---- the list ----------------------------------------------------------------------------------- */

enum m2_err m2_file_list_add(struct m2_file_list *list, const char *path, struct m2_why *why)
{
	if (strlen(path) >= M2_IPC_FILE_PATH)
		return m2_fail(M2_EINVAL, why, "%.200s... has more than %d bytes", path,
			M2_IPC_FILE_PATH - 1);
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->paths[i], path) == 0)
			return M2_OK;
	char(*more)[M2_IPC_FILE_PATH] = realloc(list->paths, (list->count + 1) * sizeof *more);
	if (more == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a list of files");
	list->paths = more;
	(void)snprintf(more[list->count++], M2_IPC_FILE_PATH, "%s", path);
	return M2_OK;
}

void m2_file_list_finish(struct m2_file_list *list)
{
	free(list->paths);
	*list = (struct m2_file_list){0};
}

enum m2_err m2_file_tokenizer(
	const char *checkpoint, const char *named, struct m2_tokenizer **out, struct m2_why *why)
{
	*out = NULL;
	if (strcmp(named, "none") == 0)
		return M2_OK;
	const enum m2_err err = m2_tokenizer_open(named[0] != '\0' ? named : checkpoint, out, why);
	return err == M2_ENOENT && named[0] == '\0' ? M2_OK : err;
}

static enum m2_err add_checkpoint(
	struct m2_file_list *list, const struct m2_variant *v, struct m2_why *why)
{
	struct m2_checkpoint *checkpoint = NULL;
	enum m2_err err = m2_checkpoint_open(v->checkpoint, v->norm_groups, &checkpoint, why);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < m2_checkpoint_n_files(checkpoint) && err == M2_OK; i++)
		err = m2_file_list_add(list, m2_checkpoint_file(checkpoint, i), why);
	m2_checkpoint_close(&checkpoint);
	return err;
}

static enum m2_err add_tokenizer(struct m2_file_list *list, const struct m2_tokenizer *tokenizer,
	const char *path, struct m2_why *why)
{
	char beside[M2_IPC_FILE_PATH];
	enum m2_err err = m2_file_list_add(list, path, why);
	for (size_t i = 0; err == M2_OK && m2_tokenizer_beside(tokenizer, i, beside, sizeof beside);
		i++)
		err = m2_file_list_add(list, beside, why);
	return err;
}

enum m2_err m2_file_list_fill(
	struct m2_file_list *list, const struct m2_variant *variant, struct m2_why *why)
{
	struct m2_tokenizer *tokenizer = NULL;
	struct m2_why second;
	const enum m2_err first = add_checkpoint(list, variant, why);
	enum m2_err err =
		m2_file_tokenizer(variant->checkpoint, variant->tokenizer, &tokenizer, &second);
	const char *path = tokenizer != NULL ? m2_tokenizer_path(tokenizer) : NULL;
	if (err == M2_OK && path != NULL && path[0] == '/')
		err = add_tokenizer(list, tokenizer, path, &second);
	m2_tokenizer_close(&tokenizer);
	if (first == M2_OK && err != M2_OK)
		*why = second;
	return first != M2_OK ? first : err;
}

/* ---- one file ----------------------------------------------------------------------------------- */

static void fill(struct m2_ipc_file *out, const char *path, const struct stat *st)
{
	memset(out, 0, sizeof *out);
	(void)snprintf(out->path, sizeof out->path, "%s", path);
	out->bytes = (uint64_t)st->st_size;
	out->mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

enum m2_err m2_file_look(const char *path, struct m2_ipc_file *out, struct m2_why *why)
{
	struct stat st;
	if (stat(path, &st) != 0)
		return m2_path_explain(path, errno, why);
	if (!S_ISREG(st.st_mode))
		return m2_fail(M2_EFORMAT, why, "%s is not a regular file", path);
	fill(out, path, &st);
	return M2_OK;
}

static enum m2_err digest(int fd, const char *path, bool (*go_on)(void *ctx, size_t bytes),
	void *ctx, char sha256[65], struct m2_why *why)
{
	enum m2_err err = M2_OK;
	struct m2_sha256 *stream = m2_sha256_create();
	unsigned char *piece = malloc(PIECE);
	ssize_t n = 1;
	if (stream == NULL || piece == NULL)
		err = m2_fail(M2_ENOMEM, why, "%s: no memory to read it", path);
	while (err == M2_OK && n != 0) {
		n = read(fd, piece, PIECE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			err = m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
		else if (!m2_sha256_update(stream, piece, (size_t)n))
			err = m2_fail(M2_ENOMEM, why, "%s: no memory for its checksum", path);
		else if (!go_on(ctx, (size_t)n))
			err = m2_fail(M2_ECANCELED, why, "%s: nobody waits for its checksum", path);
	}
	if (err == M2_OK && !m2_sha256_end(stream, sha256))
		err = m2_fail(M2_ENOMEM, why, "%s: no memory for its checksum", path);
	free(piece);
	m2_sha256_destroy(&stream);
	return err;
}

enum m2_err m2_file_checksum(const char *path, bool (*go_on)(void *ctx, size_t bytes), void *ctx,
	struct m2_ipc_file *out, char sha256[65], struct m2_why *why)
{
	int fd;
	struct stat before = {0};
	struct stat after = {0};
	struct m2_ipc_file again;
	enum m2_err err = m2_file_open(AT_FDCWD, path, path, &fd, why);
	if (err != M2_OK)
		return err;
	if (fstat(fd, &before) != 0)
		err = m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	if (err == M2_OK)
		err = digest(fd, path, go_on, ctx, sha256, why);
	if (err == M2_OK && fstat(fd, &after) != 0)
		err = m2_fail(M2_EIO, why, "%s: %s", path, strerror(errno));
	(void)close(fd);
	if (err != M2_OK)
		return err;
	fill(out, path, &before);
	fill(&again, path, &after);
	if (memcmp(out, &again, sizeof again) != 0)
		return m2_fail(M2_EIO, why, "%s changed while it was read", path);
	return M2_OK;
}
