/* store_loads.c - the history of loads.
 *
 * A load is written down before it begins, so that one which takes the daemon with it leaves a
 * trace: the next process finds the open row, closes it as worker_lost without a duration, and makes
 * it the variant's last error.
 */
#include "registry/store_rows.h"

#include <stdio.h>
#include <time.h>

enum m2_err m2_store_load_begin(struct m2_store *store, const char *name, const char *device,
	uid_t by, int64_t *row, struct m2_why *why)
{
	int64_t id;
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = m2_store_find_name(store, name, &id, why);
	if (err == M2_OK) {
		sqlite3_stmt *insert = m2_store_statement(store, M2_STORE_LOAD_BEGIN);
		(void)sqlite3_bind_int64(insert, 1, id);
		(void)sqlite3_bind_text(insert, 2, device, -1, SQLITE_STATIC);
		(void)sqlite3_bind_int64(insert, 3, (int64_t)time(NULL));
		(void)sqlite3_bind_int64(insert, 4, (int64_t)by);
		err = m2_store_run(store, insert, why);
	}
	if (err == M2_OK) {
		*row = sqlite3_last_insert_rowid(store->db);
		sqlite3_stmt *prune = m2_store_statement(store, M2_STORE_LOAD_PRUNE);
		(void)sqlite3_bind_int64(prune, 1, id);
		err = m2_store_run(store, prune, why);
	}
	return m2_store_end(store, err, why);
}

/* The load's row; duration < 0: not known. */
static enum m2_err close_load(struct m2_store *store, int64_t row, int64_t duration_ms,
	int64_t bytes, enum m2_err result, const char *message, struct m2_why *why)
{
	sqlite3_stmt *end = m2_store_statement(store, M2_STORE_LOAD_END);
	(void)sqlite3_bind_int64(end, 1, row);
	if (duration_ms >= 0)
		(void)sqlite3_bind_int64(end, 2, duration_ms);
	(void)sqlite3_bind_int64(end, 3, bytes);
	(void)sqlite3_bind_int(end, 4, (int)result);
	(void)sqlite3_bind_text(end, 5, message, -1, SQLITE_STATIC);
	const enum m2_err err = m2_store_run(store, end, why);
	if (err == M2_OK && sqlite3_changes(store->db) == 0)
		return m2_fail(M2_ENOENT, why, "load %lld is not under way", (long long)row);
	return err;
}

static enum m2_err note_failure(struct m2_store *store, int64_t row, enum m2_err result,
	const char *message, struct m2_why *why)
{
	sqlite3_stmt *bad = m2_store_statement(store, M2_STORE_LOAD_BAD);
	(void)sqlite3_bind_int64(bad, 1, row);
	(void)sqlite3_bind_int(bad, 2, (int)result);
	(void)sqlite3_bind_text(bad, 3, message, -1, SQLITE_STATIC);
	return m2_store_run(store, bad, why);
}

enum m2_err m2_store_load_end(struct m2_store *store, int64_t row, int64_t duration_ms,
	int64_t bytes, enum m2_err result, const struct m2_why *result_why, struct m2_why *why)
{
	const char *message = result_why != NULL ? result_why->text : m2_err_advice(result);
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	err = close_load(
		store, row, duration_ms, bytes, result, result == M2_OK ? "" : message, why);
	if (err == M2_OK && result != M2_OK) {
		err = note_failure(store, row, result, message, why);
	} else if (err == M2_OK) {
		sqlite3_stmt *good = m2_store_statement(store, M2_STORE_LOAD_GOOD);
		(void)sqlite3_bind_int64(good, 1, row);
		(void)sqlite3_bind_int64(good, 2, (int64_t)time(NULL));
		(void)sqlite3_bind_int64(good, 3, duration_ms);
		err = m2_store_run(store, good, why);
	}
	return m2_store_end(store, err, why);
}

enum m2_err m2_store_loads_interrupted(struct m2_store *store, struct m2_why *why)
{
	bool row = false;
	enum m2_err err = m2_store_begin(store, why);
	if (err != M2_OK)
		return err;
	do {
		char device[32];
		char message[96];
		sqlite3_stmt *open_load = m2_store_statement(store, M2_STORE_LOAD_OPEN);
		err = m2_store_step(store, open_load, &row, why);
		if (err != M2_OK || !row)
			break;
		const int64_t id = sqlite3_column_int64(open_load, 0);
		err = m2_store_column(store, open_load, 1, device, sizeof device, why);
		(void)sqlite3_reset(open_load);
		if (err != M2_OK)
			break;
		(void)snprintf(message, sizeof message,
			"the daemon ended while it was loading this variant on %s", device);
		err = close_load(store, id, -1, 0, M2_EWORKER, message, why);
		if (err == M2_OK)
			err = note_failure(store, id, M2_EWORKER, message, why);
	} while (err == M2_OK);
	return m2_store_end(store, err, why);
}
