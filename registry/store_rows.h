/* store_rows.h - what the files of the store share: the connection, its statements, single rows.
 *
 * Only registry/store*.c include this.  None of these opens a transaction but m2_store_begin.
 * Threads: one, the store's.  Everything blocks on the disk.
 */
#ifndef M2_REGISTRY_STORE_ROWS_H
#define M2_REGISTRY_STORE_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include <sqlite3.h>

#include "common/err.h"
#include "registry/store.h"

/* M2_STORE_STATEMENT(NAME, SQL): every statement the store runs, prepared once at open. */
enum m2_store_statement {
#define M2_STORE_STATEMENT(name, sql) M2_STORE_##name,
#include "registry/store_statements.def"
#undef M2_STORE_STATEMENT
	M2_STORE_STATEMENTS
};

struct m2_store {
	sqlite3 *db;
	char *path;
	sqlite3_stmt *statements[M2_STORE_STATEMENTS];
	bool in_each; /* m2_store_each's fn is running: it may not change anything */
};

/* Whose row may be replaced by a put. */
enum { M2_STORE_NO_ROW = 0, M2_STORE_ANY_ROW = -1 };

/* What is put: the arguments of m2_store_put. */
struct m2_store_item {
	const struct m2_variant *v;
	const char *yaml;
	size_t yaml_length;
	const char *source;
	enum m2_origin origin;
	uid_t by;
};

/* A prepared statement, reset and without bindings. */
sqlite3_stmt *m2_store_statement(struct m2_store *store, enum m2_store_statement which);

/* Step to the next row: *row says whether there is one. */
enum m2_err m2_store_step(
	struct m2_store *store, sqlite3_stmt *statement, bool *row, struct m2_why *why);

/* Run a statement without results, and reset it. */
enum m2_err m2_store_run(struct m2_store *store, sqlite3_stmt *statement, struct m2_why *why);

enum m2_err m2_store_begin(struct m2_store *store, struct m2_why *why);
/* Commit when err is M2_OK, otherwise roll back; the error to return. */
enum m2_err m2_store_end(struct m2_store *store, enum m2_err err, struct m2_why *why);

/* Insert, or replace the row `own` (M2_STORE_NO_ROW, M2_STORE_ANY_ROW or an id). */
enum m2_err m2_store_put_row(
	struct m2_store *store, const struct m2_store_item *item, int64_t own, struct m2_why *why);

enum m2_err m2_store_delete_row(struct m2_store *store, int64_t id, struct m2_why *why);

/* The row that was put from this source, 0 for none; its own name, checksum, origin. */
struct m2_store_origin_row {
	int64_t id;
	char name[M2_LIMIT_NAME_BYTES + 1];
	char checksum[65];
	enum m2_origin origin;
};
enum m2_err m2_store_find_source(struct m2_store *store, const char *source,
	struct m2_store_origin_row *out, struct m2_why *why);

/* Copy a text column; M2_EFORMAT when it does not fit or is no text. */
enum m2_err m2_store_column(struct m2_store *store, sqlite3_stmt *statement, int column, char *out,
	size_t size, struct m2_why *why);

/* Close the books on loads that a former process began and did not end. */
enum m2_err m2_store_loads_interrupted(struct m2_store *store, struct m2_why *why);

/* The checksums of all files of a variant. */
enum m2_err m2_store_files_forget(struct m2_store *store, int64_t id, struct m2_why *why);

/* The id behind a name or alias; M2_ENOENT. */
enum m2_err m2_store_find_name(
	struct m2_store *store, const char *name, int64_t *id, struct m2_why *why);

#endif
