/* store_schema.c - the tables, and how a database gets them.
 *
 * Names and aliases share one table with the name as its primary key, so that the schema itself
 * keeps them unique across all variants; text compares byte by byte (SQLite's BINARY).  A variant's
 * YAML is stored as it was given: the record is made from it anew each time, so there are no columns
 * to drift from variant_keys.def.  Load ids are never reused (AUTOINCREMENT): the end of a load whose
 * variant was removed meanwhile must not hit another one's.  A file's recorded checksum stays until
 * the variant is registered anew or somebody says that what is there now is right: a change that was
 * noticed is not forgotten by being noticed.
 */
#include "registry/store_schema.h"

#include <stdio.h>
#include <string.h>

static const char *const steps[] = {
	/* 1: variants, their names, their loads; application_id "m2db" */
	"PRAGMA application_id = 1832019042;"
	"CREATE TABLE variants ("
	"  id INTEGER PRIMARY KEY,"
	"  yaml TEXT NOT NULL,"
	"  checksum TEXT NOT NULL CHECK (length(checksum) = 64),"
	"  source TEXT NOT NULL,"
	"  origin INTEGER NOT NULL CHECK (origin IN (0, 1)),"
	"  registered_at INTEGER NOT NULL,"
	"  registered_by INTEGER NOT NULL,"
	"  last_load_at INTEGER NOT NULL DEFAULT 0,"
	"  last_load_ms INTEGER NOT NULL DEFAULT 0,"
	"  loads INTEGER NOT NULL DEFAULT 0,"
	"  last_error INTEGER NOT NULL DEFAULT 0,"
	"  last_error_text TEXT NOT NULL DEFAULT ''"
	") STRICT;"
	/* a file of a directory defines one variant */
	"CREATE UNIQUE INDEX variants_file ON variants (source) WHERE origin = 0;"
	"CREATE TABLE names ("
	"  name TEXT PRIMARY KEY,"
	"  variant INTEGER NOT NULL REFERENCES variants (id) ON DELETE CASCADE,"
	"  alias INTEGER NOT NULL CHECK (alias IN (0, 1))"
	") STRICT, WITHOUT ROWID;"
	"CREATE INDEX names_variant ON names (variant);"
	"CREATE UNIQUE INDEX names_own ON names (variant) WHERE alias = 0;"
	"CREATE TABLE loads ("
	"  id INTEGER PRIMARY KEY AUTOINCREMENT,"
	"  variant INTEGER NOT NULL REFERENCES variants (id) ON DELETE CASCADE,"
	"  device TEXT NOT NULL,"
	"  started_at INTEGER NOT NULL,"
	"  started_by INTEGER NOT NULL,"
	"  duration_ms INTEGER," /* NULL with a result: the daemon did not survive it */
	"  bytes INTEGER,"
	"  result INTEGER,"
	"  message TEXT"
	") STRICT;"
	"CREATE INDEX loads_variant ON loads (variant, id);"
	"CREATE INDEX loads_open ON loads (id) WHERE result IS NULL;",
	/* 2: what the files of a variant's checkpoint were when they were first seen, and at the last look */
	"CREATE TABLE files ("
	"  variant INTEGER NOT NULL REFERENCES variants (id) ON DELETE CASCADE,"
	"  path TEXT NOT NULL CHECK (substr(path, 1, 1) = '/'),"
	"  bytes INTEGER NOT NULL CHECK (bytes >= 0),"
	"  mtime_ns INTEGER NOT NULL,"
	"  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),"
	"  recorded_at INTEGER NOT NULL,"
	"  found TEXT NOT NULL CHECK (length(found) = 64)," /* at the last look; sha256: unchanged */
	"  checked_at INTEGER NOT NULL,"
	"  PRIMARY KEY (variant, path)"
	") STRICT, WITHOUT ROWID;",
};

const char *const *m2_store_schema(int *count)
{
	*count = (int)(sizeof steps / sizeof steps[0]);
	return steps;
}

enum m2_err m2_store_sqlite_error(sqlite3 *db, const char *path, struct m2_why *why)
{
	const int code = sqlite3_errcode(db) & 0xff;
	const char *text = sqlite3_errmsg(db);
	switch (code) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return m2_fail(
			M2_EFORMAT, why, "registry %s is damaged or no registry: %s", path, text);
	case SQLITE_NOMEM:
		return m2_fail(M2_ENOMEM, why, "registry %s: out of memory", path);
	default:
		break;
	}
	const int system = sqlite3_system_errno(db);
	if ((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) && system != 0)
		return m2_fail(M2_EIO, why, "registry %s: %s: %s", path, text, strerror(system));
	return m2_fail(M2_EIO, why, "registry %s: %s", path, text);
}

enum m2_err m2_store_exec(sqlite3 *db, const char *path, const char *sql, struct m2_why *why)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return m2_store_sqlite_error(db, path, why);
	return M2_OK;
}

enum m2_err m2_store_query_int(
	sqlite3 *db, const char *path, const char *sql, int64_t *out, struct m2_why *why)
{
	sqlite3_stmt *statement = NULL;
	if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
		return m2_store_sqlite_error(db, path, why);
	enum m2_err err = M2_OK;
	if (sqlite3_step(statement) == SQLITE_ROW)
		*out = sqlite3_column_int64(statement, 0);
	else
		err = m2_store_sqlite_error(db, path, why);
	(void)sqlite3_finalize(statement);
	return err;
}

enum m2_err m2_store_identify(
	sqlite3 *db, const char *path, int count, int *version, struct m2_why *why)
{
	int64_t application = 0, stored = 0, tables = 0;
	enum m2_err err = m2_store_query_int(db, path, "PRAGMA application_id", &application, why);
	if (err == M2_OK)
		err = m2_store_query_int(db, path, "PRAGMA user_version", &stored, why);
	if (err == M2_OK)
		err = m2_store_query_int(
			db, path, "SELECT count(*) FROM sqlite_schema", &tables, why);
	if (err != M2_OK)
		return err;
	if (application != M2_STORE_APPLICATION_ID &&
		(application != 0 || stored != 0 || tables != 0))
		return m2_fail(
			M2_EFORMAT, why, "registry %s is the database of another program", path);
	if (stored > count)
		return m2_fail(M2_EFORMAT, why,
			"registry %s was written by a newer mamba2d (schema %lld, this one knows "
			"%d)",
			path, (long long)stored, count);
	if (stored < 0 || (stored == 0) != (tables == 0))
		return m2_fail(M2_EFORMAT, why, "registry %s has no valid schema version", path);
	*version = (int)stored;
	return M2_OK;
}

enum m2_err m2_store_migrate(sqlite3 *db, const char *path, const char *const *list, int count,
	int version, struct m2_why *why)
{
	for (int i = version; i < count; i++) {
		char number[48];
		(void)snprintf(number, sizeof number, "PRAGMA user_version = %d", i + 1);
		enum m2_err err = m2_store_exec(db, path, "BEGIN IMMEDIATE", why);
		if (err == M2_OK)
			err = m2_store_exec(db, path, list[i], why);
		if (err == M2_OK)
			err = m2_store_exec(db, path, number, why);
		if (err == M2_OK)
			err = m2_store_exec(db, path, "COMMIT", why);
		if (err != M2_OK) {
			/* a BEGIN that failed has nothing to roll back */
			if (sqlite3_get_autocommit(db) == 0)
				(void)m2_store_exec(db, path, "ROLLBACK", NULL);
			return err;
		}
	}
	return M2_OK;
}
