/* store.c - opening the registry, and its variants one by one.
 *
 * Opening goes from what changes nothing to what does: look at the file, identify the database,
 * check it, then switch it to WAL and migrate; a file that is not ours is refused untouched.
 */
#include "registry/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry/store_rows.h"
#include "registry/store_schema.h"

enum { OPENING_WAIT_MS = 5000, SERVING_WAIT_MS = 250 }; /* for another process's lock */

/* ---- opening ----------------------------------------------------------------------------------- */

/* Create the file for its owner alone (SQLite would leave that to the umask), and refuse what is no
 * file before SQLite waits on it. */
static enum m2_err prepare_file(const char *path, struct m2_why *why)
{
	struct stat st;
	if (path[0] != '/')
		return m2_fail(M2_EINVAL, why, "registry %s: not an absolute path", path);
	const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
	if (fd < 0)
		return m2_fail(
			M2_EIO, why, "registry %s cannot be opened: %s", path, strerror(errno));
	enum m2_err err = M2_OK;
	if (fstat(fd, &st) != 0)
		err = m2_fail(M2_EIO, why, "registry %s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		err = m2_fail(M2_EFORMAT, why, "registry %s is not a regular file", path);
	else if ((st.st_mode & 077) != 0 && fchmod(fd, 0600) != 0 && errno != EPERM)
		err = m2_fail(M2_EIO, why, "registry %s: cannot be made private: %s", path,
			strerror(errno));
	close(fd);
	return err;
}

static enum m2_err connect_file(struct m2_store *store, struct m2_why *why)
{
	const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
	if (sqlite3_open_v2(store->path, &store->db, flags, NULL) != SQLITE_OK) {
		if (store->db == NULL)
			return m2_fail(M2_ENOMEM, why, "registry %s: out of memory", store->path);
		return m2_store_sqlite_error(store->db, store->path, why);
	}
	(void)sqlite3_busy_timeout(store->db, OPENING_WAIT_MS);
	/* a hostile database file may not run SQL functions of its schema or rewrite itself */
	(void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	(void)sqlite3_db_config(store->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	return M2_OK;
}

static enum m2_err quick_check(struct m2_store *store, struct m2_why *why)
{
	sqlite3_stmt *check = NULL;
	if (sqlite3_prepare_v2(store->db, "PRAGMA quick_check(1)", -1, &check, NULL) != SQLITE_OK)
		return m2_store_sqlite_error(store->db, store->path, why);
	enum m2_err err = M2_OK;
	if (sqlite3_step(check) != SQLITE_ROW) {
		err = m2_store_sqlite_error(store->db, store->path, why);
	} else {
		const char *verdict = (const char *)sqlite3_column_text(check, 0);
		if (verdict == NULL || strcmp(verdict, "ok") != 0)
			err = m2_fail(M2_EFORMAT, why, "registry %s is damaged: %s", store->path,
				verdict != NULL ? verdict : "no verdict");
	}
	(void)sqlite3_finalize(check);
	return err;
}

/* Durable commits: with WAL, FULL syncs the log at every commit. */
static enum m2_err set_modes(struct m2_store *store, struct m2_why *why)
{
	int64_t on = 0;
	enum m2_err err = m2_store_exec(store->db, store->path, "PRAGMA journal_mode = WAL", why);
	if (err == M2_OK)
		err = m2_store_exec(store->db, store->path,
			"PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON", why);
	if (err == M2_OK)
		err = m2_store_query_int(store->db, store->path, "PRAGMA foreign_keys", &on, why);
	if (err == M2_OK && on != 1)
		err = m2_fail(
			M2_EIO, why, "registry %s: this SQLite has no foreign keys", store->path);
	return err;
}

static enum m2_err prepare_statements(struct m2_store *store, struct m2_why *why)
{
	static const char *const sql[] = {
#define M2_STORE_STATEMENT(name, text) text,
#include "registry/store_statements.def"
#undef M2_STORE_STATEMENT
	};
	for (int i = 0; i < M2_STORE_STATEMENTS; i++)
		if (sqlite3_prepare_v3(store->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT,
			    &store->statements[i], NULL) != SQLITE_OK)
			return m2_store_sqlite_error(store->db, store->path, why);
	return M2_OK;
}

static enum m2_err open_store(struct m2_store *store, struct m2_why *why)
{
	int count;
	int version = 0;
	const char *const *steps = m2_store_schema(&count);
	enum m2_err err = prepare_file(store->path, why);
	if (err == M2_OK)
		err = connect_file(store, why);
	if (err == M2_OK)
		err = m2_store_identify(store->db, store->path, count, &version, why);
	if (err == M2_OK)
		err = quick_check(store, why);
	if (err == M2_OK)
		err = set_modes(store, why);
	if (err == M2_OK)
		err = m2_store_migrate(store->db, store->path, steps, count, version, why);
	if (err == M2_OK)
		err = prepare_statements(store, why);
	if (err == M2_OK)
		err = m2_store_loads_interrupted(store, why);
	/* from here on the daemon serves others: whoever holds the file locked must not hold them up */
	if (err == M2_OK)
		(void)sqlite3_busy_timeout(store->db, SERVING_WAIT_MS);
	return err;
}

enum m2_err m2_store_open(const char *path, struct m2_store **out, struct m2_why *why)
{
	struct m2_store *store = calloc(1, sizeof *store);
	char *copy = strdup(path);
	if (store == NULL || copy == NULL) {
		free(store);
		free(copy);
		return m2_fail(M2_ENOMEM, why, "registry %s: out of memory", path);
	}
	store->path = copy;
	const enum m2_err err = open_store(store, why);
	if (err != M2_OK)
		m2_store_close(&store);
	*out = store;
	return err;
}

void m2_store_close(struct m2_store **store)
{
	struct m2_store *s = *store;
	*store = NULL;
	if (s == NULL)
		return;
	for (int i = 0; i < M2_STORE_STATEMENTS; i++)
		(void)sqlite3_finalize(s->statements[i]);
	const int rc = sqlite3_close(s->db);
	assert(rc == SQLITE_OK); /* every statement is finalized */
	(void)rc;
	free(s->path);
	free(s);
}

/* ---- changing ---------------------------------------------------------------------------------- */

enum m2_err m2_store_put(struct m2_store *store, const struct m2_variant *v, const char *yaml,
	size_t yaml_length, const char *source, enum m2_origin origin, uid_t by, bool replace,
	struct m2_why *why)
{
	assert(m2_variant_name_valid(v->name) && yaml_length <= M2_LIMIT_VARIANT_YAML_BYTES);
	const struct m2_store_item item = {v, yaml, yaml_length, source, origin, by};
	if (source[0] != '\0' && source[0] != '/')
		return m2_fail_field(
			M2_EINVAL, why, "source", "source %s is not an absolute path", source);
	if (strlen(source) > M2_LIMIT_PATH_BYTES)
		return m2_fail_field(M2_ELIMIT, why, "source", "source has more than %d bytes",
			M2_LIMIT_PATH_BYTES);
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = m2_store_put_row(store, &item, replace ? M2_STORE_ANY_ROW : M2_STORE_NO_ROW, why);
	return m2_store_end(store, err, why);
}

enum m2_err m2_store_remove(struct m2_store *store, const char *name, struct m2_why *why)
{
	int64_t id;
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = m2_store_find_name(store, name, &id, why);
	if (err == M2_OK)
		err = m2_store_delete_row(store, id, why);
	return m2_store_end(store, err, why);
}

/* ---- reading ----------------------------------------------------------------------------------- */

/* The row that GET or EACH stands on.  Columns: store_statements.def, ENTRY_COLUMNS. */
static enum m2_err read_entry(
	struct m2_store *store, sqlite3_stmt *s, struct m2_store_entry *e, struct m2_why *why)
{
	memset(e, 0, sizeof *e);
	enum m2_err err = m2_store_column(store, s, 0, e->name, sizeof e->name, why);
	if (err == M2_OK)
		err = m2_store_column(store, s, 1, e->checksum, sizeof e->checksum, why);
	if (err == M2_OK)
		err = m2_store_column(store, s, 2, e->source, sizeof e->source, why);
	if (err == M2_OK)
		err = m2_store_column(
			store, s, 10, e->last_error_text, sizeof e->last_error_text, why);
	e->origin = (enum m2_origin)sqlite3_column_int(s, 3);
	e->registered_at = sqlite3_column_int64(s, 4);
	e->registered_by = (uint32_t)sqlite3_column_int64(s, 5);
	e->last_load_at = sqlite3_column_int64(s, 6);
	e->last_load_ms = sqlite3_column_int64(s, 7);
	e->loads = sqlite3_column_int64(s, 8);
	e->last_error = sqlite3_column_int(s, 9);
	return err;
}

/* The variant anew from the stored text, which must be what was put. */
static enum m2_err read_variant(struct m2_store *store, sqlite3_stmt *s,
	const struct m2_store_entry *e, struct m2_variant *v, struct m2_why *why)
{
	char checksum[65];
	char directory[M2_LIMIT_PATH_BYTES + 1];
	const char *yaml = (const char *)sqlite3_column_text(s, 11);
	const size_t length = (size_t)sqlite3_column_bytes(s, 11);
	if (yaml == NULL)
		return m2_fail(M2_ENOMEM, why, "registry %s: out of memory", store->path);
	m2_variant_checksum(yaml, length, checksum);
	if (strcmp(checksum, e->checksum) != 0)
		return m2_fail(M2_EFORMAT, why,
			"registry %s: the text of %s is not what was registered (checksum)",
			store->path, e->name);
	if (v == NULL)
		return M2_OK;
	const bool has_base = e->source[0] == '/';
	memcpy(directory, e->source, sizeof directory);
	if (has_base) {
		char *slash = strrchr(directory, '/');
		slash[slash == directory ? 1 : 0] = '\0';
	}
	const enum m2_err err = m2_variant_parse(
		yaml, length, has_base ? e->source : e->name, has_base ? directory : NULL, v, why);
	if (err == M2_OK && strcmp(v->name, e->name) != 0)
		return m2_fail(M2_EFORMAT, why, "registry %s: the text of %s names %s", store->path,
			e->name, v->name);
	return err;
}

enum m2_err m2_store_get(struct m2_store *store, const char *name, struct m2_variant *v,
	struct m2_store_entry *entry, struct m2_why *why)
{
	bool row;
	struct m2_store_entry own;
	struct m2_store_entry *e = entry != NULL ? entry : &own;
	sqlite3_stmt *get = m2_store_statement(store, M2_STORE_GET);
	(void)sqlite3_bind_text(get, 1, name, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, get, &row, why);
	if (err == M2_OK && !row)
		err = m2_fail(M2_ENOENT, why, "no variant is named %.64s", name);
	if (err == M2_OK)
		err = read_entry(store, get, e, why);
	if (err == M2_OK)
		err = read_variant(store, get, e, v, why);
	(void)sqlite3_reset(get);
	return err;
}

enum m2_err m2_store_each(struct m2_store *store,
	bool (*fn)(void *ctx, const struct m2_variant *v, const struct m2_store_entry *entry),
	void *ctx, struct m2_why *why)
{
	bool row = true;
	enum m2_err first = M2_OK; /* of a single bad row, which harms no other */
	struct m2_variant *v = malloc(sizeof *v);
	struct m2_store_entry entry;
	if (v == NULL)
		return m2_fail(M2_ENOMEM, why, "registry %s: out of memory", store->path);
	sqlite3_stmt *each = m2_store_statement(store, M2_STORE_EACH);
	enum m2_err err = M2_OK;
	for (;;) {
		err = m2_store_step(store, each, &row, why);
		if (err != M2_OK || !row)
			break;
		struct m2_why *row_why = first == M2_OK ? why : NULL;
		enum m2_err bad = read_entry(store, each, &entry, row_why);
		if (bad == M2_OK)
			bad = read_variant(store, each, &entry, v, row_why);
		if (bad != M2_OK) {
			first = first == M2_OK ? bad : first;
			continue;
		}
		store->in_each = true;
		const bool more = fn(ctx, v, &entry);
		store->in_each = false;
		if (!more)
			break;
	}
	(void)sqlite3_reset(each);
	free(v);
	return err != M2_OK ? err : first;
}
