/* store_scan.c - a directory of variant files against the rows that came from it.
 *
 * First everything is read and parsed, then one transaction changes the registry, so that a crash
 * leaves the state before or after.  Rules:
 *   a file that is gone takes its variant with it; one that cannot be read or parsed keeps its former
 *   registration; one whose text is the same is left alone, with all that is known of its loads;
 *   a file that now declares another name gives the old one up before anything is put, so that files
 *   may exchange names; a name that is taken is refused, naming the owner, and tried again as long as
 *   another file of the same scan gives names up;
 *   what was registered by hand is never replaced or removed here.
 * Symbolic links are refused: what a directory of ours says should be in it, and an error message
 * should not quote a file that the link's maker cannot read.
 */
#include "registry/store_rows.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "registry/yaml_table.h"

enum { MAX_FILES = 1024 };

enum file_state { UNCHANGED, FAILED, VANISHED, PENDING, DONE };

struct file {
	char *path;
	enum file_state state;
	char *text; /* of a PENDING one */
	size_t length;
	struct m2_variant *v;
	struct m2_store_origin_row row; /* id 0: new */
	bool existed;
	struct m2_why why; /* why a PENDING one could not be put so far */
};

struct scan {
	struct m2_store *store;
	const char *directory; /* without a slash at its end */
	size_t directory_length;
	uid_t by;
	void (*report)(void *ctx, const struct m2_why *why);
	void *ctx;
	struct file *files; /* sorted by path */
	int n_files;
};

static void tell(const struct scan *s, const struct m2_why *why)
{
	if (s->report != NULL)
		s->report(s->ctx, why);
}

/* ---- listing ----------------------------------------------------------------------------------- */

static bool is_variant_file(const char *name)
{
	const size_t length = strlen(name);
	return name[0] != '.' && length > 5 && strcmp(name + length - 5, ".yaml") == 0;
}

static enum m2_err add_file(struct scan *s, const char *name, struct m2_why *why)
{
	const size_t bytes = s->directory_length + strlen(name) + 2;
	if (s->n_files == MAX_FILES)
		return m2_fail(M2_ELIMIT, why, "%s: more than %d files; none was read",
			s->directory, MAX_FILES);
	if (s->files == NULL)
		s->files = calloc(MAX_FILES, sizeof *s->files);
	char *path = malloc(bytes);
	if (s->files == NULL || path == NULL) {
		free(path);
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", s->directory);
	}
	(void)snprintf(path, bytes, "%.*s/%s", (int)s->directory_length, s->directory, name);
	s->files[s->n_files++].path = path;
	return M2_OK;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

/* All names; an incomplete listing is none, because what is not listed counts as gone. */
static enum m2_err list_files(struct scan *s, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	DIR *dir = opendir(s->directory_length > 0 ? s->directory : "/");
	if (dir == NULL)
		return m2_fail(errno == ENOENT ? M2_ENOENT : M2_EIO, why,
			"directory of variants %s cannot be read: %s", s->directory,
			strerror(errno));
	while (err == M2_OK) {
		errno = 0;
		const struct dirent *entry = readdir(dir);
		if (entry == NULL) {
			if (errno != 0)
				err = m2_fail(M2_EIO, why, "%s: %s", s->directory, strerror(errno));
			break;
		}
		if (is_variant_file(entry->d_name))
			err = add_file(s, entry->d_name, why);
	}
	closedir(dir);
	if (err == M2_OK && s->n_files > 1)
		qsort(s->files, (size_t)s->n_files, sizeof *s->files, by_path);
	return err;
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* One file into its state.  An error here is the file's. */
static enum m2_err read_file(struct scan *s, struct file *f, struct m2_why *why)
{
	char checksum[65];
	const size_t length = strlen(f->path);
	if (length > M2_LIMIT_PATH_BYTES || !m2_utf8_valid(f->path, length))
		return m2_fail(M2_EINVAL, why, "%s: the path is longer than %d bytes or no UTF-8",
			f->path, M2_LIMIT_PATH_BYTES);
	enum m2_err err = m2_yaml_file_read(
		f->path, M2_LIMIT_VARIANT_YAML_BYTES, false, &f->text, &f->length, why);
	if (err != M2_OK)
		return err;
	m2_variant_checksum(f->text, f->length, checksum);
	if (f->row.id != 0 && strcmp(checksum, f->row.checksum) == 0) {
		f->state = UNCHANGED;
		return M2_OK;
	}
	f->v = malloc(sizeof *f->v);
	if (f->v == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", f->path);
	f->state = PENDING;
	return m2_variant_parse(f->text, f->length, f->path,
		s->directory_length > 0 ? s->directory : "/", f->v, why);
}

static enum m2_err read_files(struct scan *s, struct m2_why *why)
{
	for (int i = 0; i < s->n_files; i++) {
		struct file *f = &s->files[i];
		struct m2_why file_why = {"", ""};
		enum m2_err err = m2_store_find_source(s->store, f->path, &f->row, why);
		if (err != M2_OK)
			return err;
		f->existed = f->row.id != 0 && f->row.origin == M2_ORIGIN_DIRECTORY;
		err = read_file(s, f, &file_why);
		if (err == M2_ENOENT) {
			f->state = VANISHED; /* since it was listed */
		} else if (err != M2_OK) {
			f->state = FAILED;
			tell(s, &file_why);
		}
		if (f->state != PENDING) {
			free(f->text);
			f->text = NULL;
		}
	}
	return M2_OK;
}

/* ---- changing ---------------------------------------------------------------------------------- */

/* Is it a file of this very directory? */
static bool is_ours(const struct scan *s, const char *source)
{
	const size_t n = s->directory_length;
	return strncmp(source, s->directory, n) == 0 && source[n] == '/' &&
	       strchr(source + n + 1, '/') == NULL;
}

static bool is_gone(const struct scan *s, const char *source)
{
	struct file key;
	memset(&key, 0, sizeof key);
	key.path = (char *)source; /* bsearch's comparison only reads it */
	const struct file *f =
		s->n_files == 0 ? NULL
				: bsearch(&key, s->files, (size_t)s->n_files, sizeof key, by_path);
	return f == NULL || f->state == VANISHED;
}

static enum m2_err remove_gone(struct scan *s, int32_t *removed, struct m2_why *why)
{
	bool row;
	enum m2_err err;
	sqlite3_stmt *rows = m2_store_statement(s->store, M2_STORE_FROM_FILES);
	while ((err = m2_store_step(s->store, rows, &row, why)) == M2_OK && row) {
		char source[M2_LIMIT_PATH_BYTES + 1];
		const int64_t id = sqlite3_column_int64(rows, 0);
		err = m2_store_column(s->store, rows, 1, source, sizeof source, why);
		if (err == M2_OK && is_ours(s, source) && is_gone(s, source)) {
			/* SQLite allows deleting the row a query stands on */
			err = m2_store_delete_row(s->store, id, why);
			(*removed)++;
		}
		if (err != M2_OK)
			break;
	}
	(void)sqlite3_reset(rows);
	return err;
}

static enum m2_err give_up_names(struct scan *s, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	for (int i = 0; i < s->n_files && err == M2_OK; i++) {
		struct file *f = &s->files[i];
		if (f->state != PENDING || !f->existed || strcmp(f->row.name, f->v->name) == 0)
			continue;
		err = m2_store_delete_row(s->store, f->row.id, why);
		f->row.id = 0;
	}
	return err;
}

/* Put one file, or undo what putting it changed. */
static enum m2_err put_file(struct scan *s, struct file *f, struct m2_why *why)
{
	const struct m2_store_item item = {
		f->v, f->text, f->length, f->path, M2_ORIGIN_DIRECTORY, s->by};
	enum m2_err err = m2_store_run(s->store, m2_store_statement(s->store, M2_STORE_SAVE), why);
	if (err != M2_OK)
		return err;
	const enum m2_err put = m2_store_put_row(
		s->store, &item, f->existed && f->row.id != 0 ? f->row.id : M2_STORE_NO_ROW, why);
	if (put != M2_OK)
		err = m2_store_run(s->store, m2_store_statement(s->store, M2_STORE_UNDO), NULL);
	if (err == M2_OK)
		err = m2_store_run(s->store, m2_store_statement(s->store, M2_STORE_RELEASE), NULL);
	return put != M2_OK ? put : err;
}

static enum m2_err put_files(struct scan *s, struct m2_why *why)
{
	bool progress = true;
	while (progress) {
		progress = false;
		for (int i = 0; i < s->n_files; i++) {
			struct file *f = &s->files[i];
			if (f->state != PENDING)
				continue;
			const enum m2_err err = put_file(s, f, &f->why);
			if (err == M2_OK) {
				f->state = DONE;
				progress = true;
			} else if (err != M2_EEXIST) {
				if (why != NULL)
					*why = f->why;
				return err;
			}
		}
	}
	return M2_OK;
}

/* ---- the whole --------------------------------------------------------------------------------- */

static void count_and_tell(struct scan *s, struct m2_scan_counts *counts)
{
	for (int i = 0; i < s->n_files; i++) {
		struct file *f = &s->files[i];
		struct m2_why why;
		if (f->state == DONE && f->existed)
			counts->changed++;
		else if (f->state == DONE)
			counts->added++;
		else if (f->state == UNCHANGED)
			counts->unchanged++;
		else if (f->state != VANISHED)
			counts->failed++;
		if (f->state == PENDING) {
			(void)m2_fail_field(
				M2_EEXIST, &why, f->why.field, "%s: %s", f->path, f->why.text);
			tell(s, &why);
		}
	}
}

static void finish(struct scan *s)
{
	for (int i = 0; i < s->n_files; i++) {
		free(s->files[i].path);
		free(s->files[i].text);
		free(s->files[i].v);
	}
	free(s->files);
}

enum m2_err m2_store_scan(struct m2_store *store, const char *directory, uid_t by,
	void (*report)(void *ctx, const struct m2_why *why), void *ctx,
	struct m2_scan_counts *counts, struct m2_why *why)
{
	char clean[M2_LIMIT_PATH_BYTES + 1];
	size_t n = strlen(directory);
	memset(counts, 0, sizeof *counts);
	if (directory[0] != '/' || n > M2_LIMIT_PATH_BYTES)
		return m2_fail(M2_EINVAL, why, "%s is not an absolute path of at most %d bytes",
			directory, M2_LIMIT_PATH_BYTES);
	while (n > 0 && directory[n - 1] == '/')
		n--;
	memcpy(clean, directory, n);
	clean[n] = '\0';
	struct scan s = {.store = store,
		.directory = clean,
		.directory_length = n,
		.by = by,
		.report = report,
		.ctx = ctx};
	struct m2_why listing;
	enum m2_err err = list_files(&s, &listing);
	if (err != M2_OK) {
		tell(&s, &listing);
		finish(&s);
		return M2_OK;
	}
	err = read_files(&s, why);
	if (err == M2_OK)
		err = m2_store_begin(store, why);
	if (err == M2_OK) {
		err = remove_gone(&s, &counts->removed, why);
		if (err == M2_OK)
			err = give_up_names(&s, why);
		if (err == M2_OK)
			err = put_files(&s, why);
		err = m2_store_end(store, err, why);
	}
	if (err == M2_OK)
		count_and_tell(&s, counts);
	else
		memset(counts, 0, sizeof *counts);
	finish(&s);
	return err;
}
