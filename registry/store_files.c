/* store_files.c - the checksums of checkpoint files.
 *
 * Whoever reads a file tells what it found together with the registration it was reading for: a variant
 * that was registered anew meanwhile may name other files, and gets no records of the old ones.
 */
#include "registry/store_rows.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum m2_err m2_store_files_forget(struct m2_store *store, int64_t id, struct m2_why *why)
{
	sqlite3_stmt *forget = m2_store_statement(store, M2_STORE_FILES_FORGET);
	(void)sqlite3_bind_int64(forget, 1, id);
	return m2_store_run(store, forget, why);
}

/* The row that FILES stands on. */
static enum m2_err read_file(
	struct m2_store *store, sqlite3_stmt *s, struct m2_store_file *f, struct m2_why *why)
{
	memset(f, 0, sizeof *f);
	enum m2_err err = m2_store_column(store, s, 0, f->path, sizeof f->path, why);
	if (err == M2_OK)
		err = m2_store_column(store, s, 3, f->sha256, sizeof f->sha256, why);
	if (err == M2_OK)
		err = m2_store_column(store, s, 5, f->found, sizeof f->found, why);
	f->bytes = (uint64_t)sqlite3_column_int64(s, 1);
	f->mtime_ns = sqlite3_column_int64(s, 2);
	f->recorded_at = sqlite3_column_int64(s, 4);
	f->checked_at = sqlite3_column_int64(s, 6);
	return err;
}

enum m2_err m2_store_files(struct m2_store *store, const char *name, struct m2_store_file **out,
	size_t *count, struct m2_why *why)
{
	int64_t id;
	bool row = false;
	struct m2_store_file *files = NULL;
	size_t n = 0;
	*out = NULL;
	*count = 0;
	enum m2_err err = m2_store_find_name(store, name, &id, why);
	if (err != M2_OK)
		return err;
	sqlite3_stmt *each = m2_store_statement(store, M2_STORE_FILES);
	(void)sqlite3_bind_int64(each, 1, id);
	while ((err = m2_store_step(store, each, &row, why)) == M2_OK && row) {
		struct m2_store_file *more = realloc(files, (n + 1) * sizeof *files);
		if (more == NULL) {
			err = m2_fail(M2_ENOMEM, why, "registry %s: out of memory", store->path);
			break;
		}
		files = more;
		err = read_file(store, each, &files[n], why);
		if (err != M2_OK)
			break;
		n++;
	}
	(void)sqlite3_reset(each);
	if (err != M2_OK) {
		free(files);
		return err;
	}
	*out = files;
	*count = n;
	return M2_OK;
}

/* The row of the variant, if its registration is still the one that is meant. */
static enum m2_err find_registered(struct m2_store *store, const char *name,
	const char *registration, int64_t *id, struct m2_why *why)
{
	bool row;
	sqlite3_stmt *find = m2_store_statement(store, M2_STORE_REGISTERED);
	(void)sqlite3_bind_text(find, 1, name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_text(find, 2, registration, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, find, &row, why);
	if (err == M2_OK && row)
		*id = sqlite3_column_int64(find, 0);
	else if (err == M2_OK)
		err = m2_fail(M2_ENOENT, why,
			"%.64s is not registered as it was when its files were read", name);
	(void)sqlite3_reset(find);
	return err;
}

static enum m2_err find_record(struct m2_store *store, int64_t id, struct m2_store_file *look,
	bool *found, struct m2_why *why)
{
	sqlite3_stmt *get = m2_store_statement(store, M2_STORE_FILE_GET);
	(void)sqlite3_bind_int64(get, 1, id);
	(void)sqlite3_bind_text(get, 2, look->path, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, get, found, why);
	look->sha256[0] = '\0';
	look->recorded_at = 0;
	if (err == M2_OK && *found) {
		look->recorded_at = sqlite3_column_int64(get, 1);
		err = m2_store_column(store, get, 0, look->sha256, sizeof look->sha256, why);
	}
	(void)sqlite3_reset(get);
	return err;
}

static enum m2_err write_look(struct m2_store *store, int64_t id, const struct m2_store_file *look,
	bool record, struct m2_why *why)
{
	sqlite3_stmt *s =
		m2_store_statement(store, record ? M2_STORE_FILE_INSERT : M2_STORE_FILE_LOOKED);
	(void)sqlite3_bind_int64(s, 1, id);
	(void)sqlite3_bind_text(s, 2, look->path, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 3, (int64_t)look->bytes);
	(void)sqlite3_bind_int64(s, 4, look->mtime_ns);
	(void)sqlite3_bind_text(s, 5, look->found, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 6, (int64_t)time(NULL));
	return m2_store_run(store, s, why);
}

enum m2_err m2_store_file_look(struct m2_store *store, const char *name, const char *registration,
	struct m2_store_file *look, bool replace, enum m2_store_seen *seen, struct m2_why *why)
{
	int64_t id = 0;
	bool known = false;
	assert(look->bytes <= INT64_MAX);
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = find_registered(store, name, registration, &id, why);
	if (err == M2_OK)
		err = find_record(store, id, look, &known, why);
	if (err == M2_OK)
		err = write_look(store, id, look, !known || replace, why);
	*seen = !known                                   ? M2_STORE_FILE_NEW
		: strcmp(look->sha256, look->found) == 0 ? M2_STORE_FILE_SAME
							 : M2_STORE_FILE_CHANGED;
	return m2_store_end(store, err, why);
}

enum m2_err m2_store_file_forget(struct m2_store *store, const char *name, const char *registration,
	const char *path, struct m2_why *why)
{
	int64_t id = 0;
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = find_registered(store, name, registration, &id, why);
	if (err == M2_OK) {
		sqlite3_stmt *forget = m2_store_statement(store, M2_STORE_FILE_FORGET);
		(void)sqlite3_bind_int64(forget, 1, id);
		(void)sqlite3_bind_text(forget, 2, path, -1, SQLITE_STATIC);
		err = m2_store_run(store, forget, why);
	}
	return m2_store_end(store, err, why);
}
