/* store_schema.h - the registry's tables as steps from one schema version to the next.
 *
 * Step i brings a database from user_version i to i + 1.  A step that was released is never edited; a
 * change is a further step.  Only registry/store*.c and their tests include this.
 * Threads: that of the connection.  Blocks on the disk.
 */
#ifndef M2_REGISTRY_STORE_SCHEMA_H
#define M2_REGISTRY_STORE_SCHEMA_H

#include <stdint.h>

#include <sqlite3.h>

#include "common/err.h"

/* "m2db": tells our database from another program's. */
enum { M2_STORE_APPLICATION_ID = 0x6d326462 };

/* The steps of this build, their number is the schema version it writes. */
const char *const *m2_store_schema(int *count);

/* Refuse what is no registry or a newer one, without changing it: M2_EFORMAT.  *version: the one it
 * has, 0 for an empty database. */
enum m2_err m2_store_identify(
	sqlite3 *db, const char *path, int count, int *version, struct m2_why *why);

/* Run the missing steps, each in one transaction: a failure leaves the last complete version. */
enum m2_err m2_store_migrate(sqlite3 *db, const char *path, const char *const *steps, int count,
	int version, struct m2_why *why);

/* What SQLite said last as our error: EFORMAT (damaged, no database), ENOMEM, else EIO. */
enum m2_err m2_store_sqlite_error(sqlite3 *db, const char *path, struct m2_why *why);

/* One statement without results, or with results that are not needed. */
enum m2_err m2_store_exec(sqlite3 *db, const char *path, const char *sql, struct m2_why *why);

/* The first column of the first row of a query, as a number. */
enum m2_err m2_store_query_int(
	sqlite3 *db, const char *path, const char *sql, int64_t *out, struct m2_why *why);

#endif
