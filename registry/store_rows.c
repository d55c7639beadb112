/* store_rows.c - statements, transactions and single rows of the store.
 *
 * A refusal for a taken name says by whom: the look-up comes before the insert, inside the same
 * transaction.  The primary key of `names` would refuse it too, in SQLite's words.
 */
#include "registry/store_rows.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "registry/store_schema.h"

sqlite3_stmt *m2_store_statement(struct m2_store *store, enum m2_store_statement which)
{
	sqlite3_stmt *statement = store->statements[which];
	(void)sqlite3_reset(statement); /* its result repeats an error that was told already */
	(void)sqlite3_clear_bindings(statement);
	return statement;
}

enum m2_err m2_store_step(
	struct m2_store *store, sqlite3_stmt *statement, bool *row, struct m2_why *why)
{
	const int rc = sqlite3_step(statement);
	*row = rc == SQLITE_ROW;
	if (rc == SQLITE_ROW || rc == SQLITE_DONE)
		return M2_OK;
	return m2_store_sqlite_error(store->db, store->path, why);
}

enum m2_err m2_store_run(struct m2_store *store, sqlite3_stmt *statement, struct m2_why *why)
{
	bool row;
	const enum m2_err err = m2_store_step(store, statement, &row, why);
	(void)sqlite3_reset(statement);
	return err;
}

enum m2_err m2_store_begin(struct m2_store *store, struct m2_why *why)
{
	assert(!store->in_each); /* the end would reset the query that fn stands in */
	return m2_store_run(store, m2_store_statement(store, M2_STORE_BEGIN), why);
}

enum m2_err m2_store_end(struct m2_store *store, enum m2_err err, struct m2_why *why)
{
	/* a query that still stands on a row would hold the commit back */
	for (int i = 0; i < M2_STORE_STATEMENTS; i++)
		(void)sqlite3_reset(store->statements[i]);
	if (err == M2_OK)
		err = m2_store_run(store, m2_store_statement(store, M2_STORE_COMMIT), why);
	if (err != M2_OK && sqlite3_get_autocommit(store->db) == 0)
		(void)m2_store_run(store, m2_store_statement(store, M2_STORE_ROLLBACK), NULL);
	return err;
}

enum m2_err m2_store_column(struct m2_store *store, sqlite3_stmt *statement, int column, char *out,
	size_t size, struct m2_why *why)
{
	const char *text = (const char *)sqlite3_column_text(statement, column);
	const int length = sqlite3_column_bytes(statement, column);
	if (text == NULL || (size_t)length >= size || strlen(text) != (size_t)length)
		return m2_fail(M2_EFORMAT, why, "registry %s: column %s of a row is damaged",
			store->path, sqlite3_column_name(statement, column));
	memcpy(out, text, (size_t)length + 1);
	return M2_OK;
}

/* Whose name it is, for the row an OWNER statement stands on. */
static enum m2_err taken(const char *name, bool alias, sqlite3_stmt *owner, struct m2_why *why)
{
	const char *field = alias ? "aliases" : "name";
	const char *own = (const char *)sqlite3_column_text(owner, 2);
	const char *source = (const char *)sqlite3_column_text(owner, 3);
	const char *by_hand = sqlite3_column_int(owner, 4) == M2_ORIGIN_MANUAL ? " by hand" : "";
	const bool has_source = source != NULL && source[0] != '\0';
	const char *from = has_source ? " from " : "";
	const long long by = sqlite3_column_int64(owner, 5);
	source = has_source ? source : "";
	if (sqlite3_column_int(owner, 1) != 0)
		return m2_fail_field(M2_EEXIST, why, field,
			"%s is already an alias of %s, registered%s%s%s by uid %lld", name,
			own != NULL ? own : "?", by_hand, from, source, by);
	return m2_fail_field(M2_EEXIST, why, field, "%s is already registered%s%s%s by uid %lld",
		name, by_hand, from, source, by);
}

/* *id: the row that owns the name, 0 for none.  M2_EEXIST unless that is the row which may be replaced
 * (own) and owns it as its own name. */
static enum m2_err check_name(struct m2_store *store, const char *name, bool alias, int64_t own,
	int64_t *id, struct m2_why *why)
{
	bool row;
	sqlite3_stmt *owner = m2_store_statement(store, M2_STORE_OWNER);
	(void)sqlite3_bind_text(owner, 1, name, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, owner, &row, why);
	*id = 0;
	if (err == M2_OK && row) {
		*id = sqlite3_column_int64(owner, 0);
		const bool is_alias = sqlite3_column_int(owner, 1) != 0;
		if (alias || is_alias || (own != M2_STORE_ANY_ROW && own != *id))
			err = taken(name, alias, owner, why);
	}
	(void)sqlite3_reset(owner);
	return err;
}

static enum m2_err insert_name(
	struct m2_store *store, int64_t id, const char *name, bool alias, struct m2_why *why)
{
	sqlite3_stmt *insert = m2_store_statement(store, M2_STORE_NAME);
	(void)sqlite3_bind_text(insert, 1, name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(insert, 2, id);
	(void)sqlite3_bind_int(insert, 3, alias);
	return m2_store_run(store, insert, why);
}

/* The variants row itself: a new one (*id = 0, filled) or id's. */
static enum m2_err write_row(
	struct m2_store *store, const struct m2_store_item *item, int64_t *id, struct m2_why *why)
{
	char checksum[65];
	m2_variant_checksum(item->yaml, item->yaml_length, checksum);
	sqlite3_stmt *s = m2_store_statement(store, *id == 0 ? M2_STORE_INSERT : M2_STORE_UPDATE);
	(void)sqlite3_bind_text(s, 1, item->yaml, (int)item->yaml_length, SQLITE_STATIC);
	(void)sqlite3_bind_text(s, 2, checksum, -1, SQLITE_STATIC);
	(void)sqlite3_bind_text(s, 3, item->source, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int(s, 4, (int)item->origin);
	(void)sqlite3_bind_int64(s, 5, (int64_t)time(NULL));
	(void)sqlite3_bind_int64(s, 6, (int64_t)item->by);
	if (*id != 0)
		(void)sqlite3_bind_int64(s, 7, *id);
	const enum m2_err err = m2_store_run(store, s, why);
	if (err == M2_OK && *id == 0)
		*id = sqlite3_last_insert_rowid(store->db);
	(void)sqlite3_clear_bindings(s); /* checksum is ours only until here */
	return err;
}

/* A file of a directory defines one variant: refuse a second from the same file. */
static enum m2_err check_source(
	struct m2_store *store, const struct m2_store_item *item, int64_t id, struct m2_why *why)
{
	struct m2_store_origin_row row;
	if (item->origin != M2_ORIGIN_DIRECTORY)
		return M2_OK;
	const enum m2_err err = m2_store_find_source(store, item->source, &row, why);
	if (err != M2_OK || row.id == 0 || row.id == id || row.origin != M2_ORIGIN_DIRECTORY)
		return err;
	return m2_fail(M2_EEXIST, why, "%s is registered already, as %s", item->source, row.name);
}

enum m2_err m2_store_put_row(
	struct m2_store *store, const struct m2_store_item *item, int64_t own, struct m2_why *why)
{
	int64_t id, other;
	const struct m2_variant *v = item->v;
	enum m2_err err = check_name(store, v->name, false, own, &id, why);
	if (err == M2_OK)
		err = check_source(store, item, id, why);
	if (err == M2_OK && id != 0) {
		/* its former names are free for itself */
		sqlite3_stmt *unname = m2_store_statement(store, M2_STORE_UNNAME);
		(void)sqlite3_bind_int64(unname, 1, id);
		err = m2_store_run(store, unname, why);
		if (err == M2_OK)
			err = m2_store_files_forget(store, id, why);
	}
	if (err == M2_OK)
		err = write_row(store, item, &id, why);
	if (err == M2_OK)
		err = insert_name(store, id, v->name, false, why);
	for (int i = 0; i < v->n_aliases && err == M2_OK; i++) {
		err = check_name(store, v->aliases[i], true, M2_STORE_NO_ROW, &other, why);
		if (err == M2_OK)
			err = insert_name(store, id, v->aliases[i], true, why);
	}
	return err;
}

enum m2_err m2_store_delete_row(struct m2_store *store, int64_t id, struct m2_why *why)
{
	sqlite3_stmt *delete_row = m2_store_statement(store, M2_STORE_DELETE);
	(void)sqlite3_bind_int64(delete_row, 1, id);
	return m2_store_run(store, delete_row, why);
}

enum m2_err m2_store_find_source(struct m2_store *store, const char *source,
	struct m2_store_origin_row *out, struct m2_why *why)
{
	bool row;
	sqlite3_stmt *find = m2_store_statement(store, M2_STORE_BY_SOURCE);
	(void)sqlite3_bind_text(find, 1, source, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, find, &row, why);
	memset(out, 0, sizeof *out);
	if (err == M2_OK && row) {
		out->id = sqlite3_column_int64(find, 0);
		out->origin = (enum m2_origin)sqlite3_column_int(find, 3);
		err = m2_store_column(store, find, 1, out->name, sizeof out->name, why);
		if (err == M2_OK)
			err = m2_store_column(
				store, find, 2, out->checksum, sizeof out->checksum, why);
	}
	(void)sqlite3_reset(find);
	return err;
}

enum m2_err m2_store_find_name(
	struct m2_store *store, const char *name, int64_t *id, struct m2_why *why)
{
	bool row;
	sqlite3_stmt *owner = m2_store_statement(store, M2_STORE_OWNER);
	(void)sqlite3_bind_text(owner, 1, name, -1, SQLITE_STATIC);
	enum m2_err err = m2_store_step(store, owner, &row, why);
	if (err == M2_OK && row)
		*id = sqlite3_column_int64(owner, 0);
	else if (err == M2_OK)
		err = m2_fail(M2_ENOENT, why, "no variant is named %.64s", name);
	(void)sqlite3_reset(owner);
	return err;
}
