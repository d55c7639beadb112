/* test_registry_store.c - the registry's database: variants, names, loads, migrations, damage. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <sqlite3.h>

#include "registry/store.h"
#include "registry/store_schema.h"
#include "tests/unit/test_registry_dir.h"

static struct m2_store *open_ok(void **state)
{
	struct m2_store *store = NULL;
	struct m2_why why = {"", ""};
	const enum m2_err err = m2_store_open(test_path(state, "registry.db"), &store, &why);
	if (err != M2_OK)
		fail_msg("%s", why.text);
	return store;
}

/* name, aliases ("a, b"), and a description that makes the text differ. */
static enum m2_err put(struct m2_store *store, const char *name, const char *aliases,
	const char *description, bool replace, struct m2_why *why)
{
	char text[512];
	struct m2_variant v;
	(void)snprintf(text, sizeof text,
		"name: %s\naliases: [%s]\ncheckpoint: m\ndescription: %s\n", name, aliases,
		description);
	assert_int_equal(m2_variant_parse(text, strlen(text), "t", "/b", &v, NULL), M2_OK);
	return m2_store_put(store, &v, text, strlen(text), "/b/file.yaml", M2_ORIGIN_MANUAL, 1000,
		replace, why);
}

static void what_is_put_is_got_by_name_and_alias(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_variant v;
	struct m2_store_entry e;
	struct m2_why why = {"", ""};
	assert_int_equal(put(store, "one", "uno, eins", "first", false, &why), M2_OK);
	const char *names[] = {"one", "uno", "eins"};
	for (int i = 0; i < 3; i++) {
		assert_int_equal(m2_store_get(store, names[i], &v, &e, &why), M2_OK);
		assert_string_equal(v.name, "one");
		assert_int_equal(v.n_aliases, 2);
		assert_string_equal(v.description, "first");
		assert_string_equal(v.checkpoint, "/b/m");
		assert_string_equal(e.name, "one");
		assert_string_equal(e.source, "/b/file.yaml");
		assert_int_equal(e.origin, M2_ORIGIN_MANUAL);
		assert_int_equal(e.registered_by, 1000);
		assert_true(e.registered_at > 1600000000);
		assert_int_equal(strlen(e.checksum), 64);
		assert_int_equal(e.loads + e.last_error + e.last_load_at, 0);
	}
	assert_int_equal(m2_store_get(store, "ONE", NULL, NULL, &why), M2_ENOENT);
	assert_string_equal(why.text, "no variant is named ONE");
	assert_int_equal(m2_store_get(store, "one", NULL, NULL, &why), M2_OK);
	m2_store_close(&store);
	assert_null(store);
	store = open_ok(state); /* and again from the disk */
	assert_int_equal(m2_store_get(store, "eins", &v, &e, &why), M2_OK);
	assert_string_equal(v.description, "first");
	m2_store_close(&store);
}

static void a_name_belongs_to_one_variant(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_why why;
	assert_int_equal(put(store, "one", "uno", "x", false, NULL), M2_OK);
	assert_int_equal(put(store, "one", "", "y", false, &why), M2_EEXIST);
	assert_string_equal(
		why.text, "one is already registered by hand from /b/file.yaml by uid 1000");
	assert_int_equal(put(store, "uno", "", "y", false, &why), M2_EEXIST);
	assert_string_equal(why.text,
		"uno is already an alias of one, registered by hand from /b/file.yaml by uid 1000");
	assert_string_equal(why.field, "name");
	/* an alias is not a name that replace may replace */
	assert_int_equal(put(store, "uno", "", "y", true, &why), M2_EEXIST);
	assert_int_equal(put(store, "two", "one", "y", true, &why), M2_EEXIST);
	assert_string_equal(why.field, "aliases");
	assert_int_equal(put(store, "two", "zwei, uno", "y", false, &why), M2_EEXIST);
	/* nothing of the refused ones is left */
	assert_int_equal(m2_store_get(store, "two", NULL, NULL, NULL), M2_ENOENT);
	assert_int_equal(m2_store_get(store, "zwei", NULL, NULL, NULL), M2_ENOENT);
	assert_int_equal(put(store, "zwei", "", "y", false, &why), M2_OK);
	m2_store_close(&store);
}

static void replacing_exchanges_text_and_aliases_and_keeps_the_loads(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_entry e;
	struct m2_variant v;
	int64_t row;
	const struct m2_why failed = {"", "no such file"};
	assert_int_equal(put(store, "one", "a, b", "old", false, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "a", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 12, 4096, M2_OK, NULL, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "one", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 3, 0, M2_EIO, &failed, NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "one", NULL, &e, NULL), M2_OK);
	assert_int_equal(e.last_error, M2_EIO);
	assert_string_equal(e.last_error_text, "no such file");
	assert_int_equal(put(store, "one", "b, c", "new", true, NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "a", NULL, NULL, NULL), M2_ENOENT);
	assert_int_equal(m2_store_get(store, "c", &v, &e, NULL), M2_OK);
	assert_string_equal(v.description, "new");
	assert_int_equal(e.loads, 1);
	assert_int_equal(e.last_load_ms, 12);
	assert_int_equal(e.last_error, 0);
	assert_string_equal(e.last_error_text, "");
	m2_store_close(&store);
}

static void removing_frees_the_names(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_why why;
	int64_t row;
	assert_int_equal(put(store, "one", "uno", "x", false, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "one", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_remove(store, "uno", NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "one", NULL, NULL, NULL), M2_ENOENT);
	assert_int_equal(m2_store_remove(store, "one", &why), M2_ENOENT);
	assert_string_equal(why.text, "no variant is named one");
	/* the load that was under way has lost its variant, and its number is not given again */
	assert_int_equal(m2_store_load_end(store, row, 1, 1, M2_OK, NULL, &why), M2_ENOENT);
	assert_int_equal(put(store, "uno", "one", "x", false, NULL), M2_OK);
	int64_t next;
	assert_int_equal(m2_store_load_begin(store, "uno", "cpu", 0, &next, NULL), M2_OK);
	assert_true(next > row);
	m2_store_close(&store);
}

struct seen {
	int count;
	int stop_after;
	char names[8][65];
};

static bool see(void *ctx, const struct m2_variant *v, const struct m2_store_entry *entry)
{
	struct seen *s = ctx;
	assert_string_equal(v->name, entry->name);
	(void)snprintf(s->names[s->count++], 65, "%s", v->name);
	return s->count != s->stop_after;
}

static void each_gives_all_in_order_of_name(void **state)
{
	struct m2_store *store = open_ok(state);
	struct seen all = {0};
	struct seen two = {.stop_after = 2};
	const char *names[] = {"b", "a.1", "c", "a-1"};
	for (int i = 0; i < 4; i++)
		assert_int_equal(put(store, names[i], "", "x", false, NULL), M2_OK);
	assert_int_equal(m2_store_each(store, see, &all, NULL), M2_OK);
	assert_int_equal(all.count, 4);
	assert_string_equal(all.names[0], "a-1");
	assert_string_equal(all.names[1], "a.1");
	assert_string_equal(all.names[3], "c");
	assert_int_equal(m2_store_each(store, see, &two, NULL), M2_OK);
	assert_int_equal(two.count, 2);
	/* a put right after: no query is left standing */
	assert_int_equal(put(store, "d", "", "x", false, NULL), M2_OK);
	m2_store_close(&store);
}

static void loads_are_booked(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_entry e;
	struct m2_why why;
	int64_t row;
	assert_int_equal(put(store, "one", "", "x", false, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "two", "cpu", 0, &row, &why), M2_ENOENT);
	assert_int_equal(m2_store_load_begin(store, "one", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 5, 0, M2_ENOMEM, NULL, NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "one", NULL, &e, NULL), M2_OK);
	assert_int_equal(e.last_error, M2_ENOMEM);
	assert_string_equal(e.last_error_text, m2_err_advice(M2_ENOMEM));
	assert_int_equal(e.loads, 0);
	assert_int_equal(m2_store_load_end(store, row, 5, 0, M2_OK, NULL, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "is not under way"));
	assert_int_equal(m2_store_load_begin(store, "one", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 70, 123, M2_OK, NULL, NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "one", NULL, &e, NULL), M2_OK);
	assert_int_equal(e.last_error, 0);
	assert_int_equal(e.loads, 1);
	assert_int_equal(e.last_load_ms, 70);
	assert_true(e.last_load_at > 1600000000);
	m2_store_close(&store);
}

static int64_t query(void **state, const char *sql)
{
	sqlite3 *db = NULL;
	int64_t n = -1;
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	assert_int_equal(m2_store_query_int(db, "db", sql, &n, NULL), M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return n;
}

static void a_load_that_the_daemon_did_not_survive_is_told(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_entry e;
	int64_t row;
	assert_int_equal(put(store, "one", "", "x", false, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "one", "cuda:3", 0, &row, NULL), M2_OK);
	m2_store_close(&store);
	store = open_ok(state);
	assert_int_equal(m2_store_get(store, "one", NULL, &e, NULL), M2_OK);
	assert_int_equal(e.last_error, M2_EWORKER);
	assert_string_equal(
		e.last_error_text, "the daemon ended while it was loading this variant on cuda:3");
	m2_store_close(&store);
	assert_int_equal(query(state, "SELECT count(*) FROM loads WHERE result = 14 AND "
				      "duration_ms IS NULL"),
		1);
}

static void the_history_is_bounded(void **state)
{
	struct m2_store *store = open_ok(state);
	int64_t row;
	assert_int_equal(put(store, "one", "", "x", false, NULL), M2_OK);
	assert_int_equal(put(store, "two", "", "x", false, NULL), M2_OK);
	assert_int_equal(m2_store_load_begin(store, "two", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 1, 1, M2_OK, NULL, NULL), M2_OK);
	m2_store_close(&store);
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	assert_int_equal(
		m2_store_exec(db, "db",
			"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE "
			"i < 1500) INSERT INTO loads (variant, device, started_at, started_by, "
			"result) SELECT (SELECT variant FROM names WHERE name = 'one'), 'cpu', i, "
			"0, 0 FROM n",
			NULL),
		M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	store = open_ok(state);
	assert_int_equal(m2_store_load_begin(store, "one", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 1, 1, M2_OK, NULL, NULL), M2_OK);
	m2_store_close(&store);
	assert_int_equal(query(state, "SELECT count(*) FROM loads"), 1001);
	assert_int_equal(query(state, "SELECT min(started_at) FROM loads"), 502);
}

/* ---- the file ---------------------------------------------------------------------------------- */

static void the_database_is_private_and_durable(void **state)
{
	struct m2_store *store = NULL;
	struct stat st;
	const mode_t old = umask(0);
	store = open_ok(state);
	umask(old);
	assert_int_equal(put(store, "one", "", "x", false, NULL), M2_OK);
	const char *files[] = {"registry.db", "registry.db-wal", "registry.db-shm"};
	for (int i = 0; i < 3; i++) {
		assert_int_equal(stat(test_path(state, files[i]), &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
	m2_store_close(&store);
	assert_int_equal(chmod(test_path(state, "registry.db"), 0644), 0);
	store = open_ok(state);
	assert_int_equal(stat(test_path(state, "registry.db"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	m2_store_close(&store);
	assert_int_equal(query(state, "PRAGMA application_id"), M2_STORE_APPLICATION_ID);
	assert_int_equal(query(state, "PRAGMA user_version"), 2);
}

static void the_schema_itself_keeps_names_unique(void **state)
{
	struct m2_store *store = open_ok(state);
	assert_int_equal(put(store, "one", "uno", "x", false, NULL), M2_OK);
	assert_int_equal(put(store, "two", "", "x", false, NULL), M2_OK);
	m2_store_close(&store);
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	const char *wrong[] = {"INSERT INTO names VALUES ('uno', 2, 1)",
		"INSERT INTO names VALUES ('more', 2, 0)", "INSERT INTO names VALUES ('x', 99, 1)",
		"UPDATE variants SET origin = 2", "UPDATE variants SET checksum = 'short'",
		"UPDATE names SET variant = 'text'"};
	assert_int_equal(m2_store_exec(db, "db", "PRAGMA foreign_keys = ON", NULL), M2_OK);
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		if (m2_store_exec(db, "db", wrong[i], NULL) == M2_OK)
			fail_msg("%s was taken", wrong[i]);
	assert_int_equal(
		m2_store_exec(db, "db", "INSERT INTO names VALUES ('UNO', 2, 1)", NULL), M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void migrations_run_once_each_and_a_failed_one_changes_nothing(void **state)
{
	int count;
	int version;
	struct m2_why why;
	const char *const *built_in = m2_store_schema(&count);
	assert_int_equal(count, 2);
	const char *later[] = {built_in[0], built_in[1],
		"ALTER TABLE variants ADD COLUMN note TEXT; UPDATE variants SET note = 'n'",
		"CREATE TABLE more (a INTEGER); INSERT INTO nowhere VALUES (1)"};
	struct m2_store *store = open_ok(state);
	assert_int_equal(put(store, "one", "", "x", false, NULL), M2_OK);
	m2_store_close(&store);
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	assert_int_equal(m2_store_identify(db, "db", 4, &version, NULL), M2_OK);
	assert_int_equal(version, 2);
	assert_int_equal(m2_store_migrate(db, "db", later, 3, version, NULL), M2_OK);
	assert_int_equal(m2_store_identify(db, "db", 4, &version, NULL), M2_OK);
	assert_int_equal(version, 3);
	assert_int_equal(m2_store_migrate(db, "db", later, 4, version, &why), M2_EIO);
	assert_string_equal(why.text, "registry db: no such table: nowhere");
	assert_int_equal(m2_store_identify(db, "db", 4, &version, NULL), M2_OK);
	assert_int_equal(version, 3);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	assert_int_equal(query(state, "SELECT count(*) FROM sqlite_schema WHERE name = 'more'"), 0);
	assert_int_equal(query(state, "SELECT count(*) FROM variants WHERE note = 'n'"), 1);
	/* and this build refuses what the later one has made of it, without touching it */
	assert_int_equal(m2_store_open(test_path(state, "registry.db"), &store, &why), M2_EFORMAT);
	assert_null(store);
	assert_non_null(
		strstr(why.text, "was written by a newer mamba2d (schema 3, this one knows 2)"));
	assert_int_equal(query(state, "PRAGMA user_version"), 3);
}

static void expect_refused(void **state, enum m2_err expected, const char *words)
{
	struct m2_store *store = NULL;
	struct m2_why why = {"", ""};
	const enum m2_err err = m2_store_open(test_path(state, "registry.db"), &store, &why);
	if (err != expected || strstr(why.text, words) == NULL ||
		strstr(why.text, "registry.db") == NULL || store != NULL)
		fail_msg("%d \"%s\", expected %d \"%s\"", err, why.text, expected, words);
}

static void what_is_no_registry_is_refused_untouched(void **state)
{
	size_t length;
	const char *path = test_path(state, "registry.db");
	test_write(path, "this is a letter and not a database, however long one makes it\n");
	expect_refused(state, M2_EFORMAT, "damaged or no registry: file is not a database");
	char *text = test_read(path, &length);
	assert_memory_equal(text, "this is a letter", 16);
	free(text);

	assert_int_equal(unlink(path), 0);
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(m2_store_exec(db, "db", "CREATE TABLE theirs (a)", NULL), M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	expect_refused(state, M2_EFORMAT, "is the database of another program");

	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	expect_refused(state, M2_EIO, "cannot be opened: Is a directory");
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_refused(state, M2_EFORMAT, "is not a regular file");
	assert_int_equal(unlink(path), 0);
	struct m2_store *store;
	struct m2_why why;
	assert_int_equal(m2_store_open(":memory:", &store, &why), M2_EINVAL);
	assert_int_equal(m2_store_open(test_path(state, "no/registry.db"), &store, &why), M2_EIO);
	assert_non_null(strstr(why.text, "cannot be opened: No such file or directory"));
}

/* A registry with some content as one file: its bytes. */
static char *make_database(void **state, size_t *length)
{
	struct m2_store *store = open_ok(state);
	char name[16];
	for (int i = 0; i < 60; i++) {
		(void)snprintf(name, sizeof name, "v%d", i);
		assert_int_equal(put(store, name, "", "some description", false, NULL), M2_OK);
	}
	m2_store_close(&store); /* checkpoints: the file is complete */
	return test_read(test_path(state, "registry.db"), length);
}

/* By a page or more, or to less than a header.  (SQLite reads a last page that lacks a few bytes as one
 * with zeros there, as after a power cut in a checkpoint; the rows' checksums are for that.  A single byte is an empty file.) */
static void a_truncated_database_is_refused(void **state)
{
	size_t length;
	char *whole = make_database(state, &length);
	const size_t cuts[] = {length / 2, length - 4096, 4096, 4095, 512, 100, 99, 16, 2};
	for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
		test_write_bytes(test_path(state, "registry.db"), whole, cuts[i]);
		expect_refused(state, M2_EFORMAT, "damaged");
	}
	free(whole);
}

/* Garbage anywhere: refused, or opened when it hit what nothing reads; never worse. */
static void a_damaged_database_is_refused_or_harmless(void **state)
{
	size_t length;
	char *whole = make_database(state, &length);
	int refused = 0;
	srand(7);
	for (int round = 0; round < 40; round++) {
		struct m2_store *store = NULL;
		struct m2_why why = {"", ""};
		struct seen seen = {0};
		seen.stop_after = 8;
		char *copy = malloc(length);
		assert_non_null(copy);
		memcpy(copy, whole, length);
		const size_t at = (size_t)rand() % (length - 200);
		for (size_t i = 0; i < 200; i++)
			copy[at + i] = (char)rand();
		test_write_bytes(test_path(state, "registry.db"), copy, length);
		free(copy);
		(void)unlink(test_path(state, "registry.db-wal"));
		(void)unlink(test_path(state, "registry.db-shm"));
		if (m2_store_open(test_path(state, "registry.db"), &store, &why) != M2_OK) {
			assert_true(strlen(why.text) > 20);
			refused++;
			continue;
		}
		(void)m2_store_each(store, see, &seen, &why);
		m2_store_close(&store);
	}
	free(whole);
	assert_true(refused > 5);
}

static void a_text_that_was_changed_behind_our_back_is_told(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_why why;
	struct m2_variant v;
	struct seen seen = {0};
	assert_int_equal(put(store, "a", "", "x", false, NULL), M2_OK);
	assert_int_equal(put(store, "b", "", "x", false, NULL), M2_OK);
	assert_int_equal(put(store, "c", "", "x", false, NULL), M2_OK);
	m2_store_close(&store);
	(void)query(state, "UPDATE variants SET yaml = 'name: b\ncheckpoint: /evil\n' WHERE id = 2 "
			   "RETURNING id");
	store = open_ok(state);
	assert_int_equal(m2_store_get(store, "b", &v, NULL, &why), M2_EFORMAT);
	assert_non_null(strstr(why.text, "the text of b is not what was registered (checksum)"));
	/* the others are still given, and the error after them */
	assert_int_equal(m2_store_each(store, see, &seen, &why), M2_EFORMAT);
	assert_int_equal(seen.count, 2);
	assert_string_equal(seen.names[1], "c");
	assert_non_null(strstr(why.text, "the text of b"));
	/* and it can be put right */
	assert_int_equal(put(store, "b", "", "x", true, NULL), M2_OK);
	assert_int_equal(m2_store_get(store, "b", &v, NULL, NULL), M2_OK);
	m2_store_close(&store);
}

static void where_it_may_not_write_it_says_so(void **state)
{
	struct m2_store *store = open_ok(state);
	m2_store_close(&store);
	assert_int_equal(chmod(test_path(state, "."), 0555), 0);
	const char *path = test_path(state, "registry.db");
	const char *fresh = test_path(state, "fresh.db");
	const pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		/* as root permissions do not count; the figure 65534 is any other user */
		struct m2_why why = {"", ""};
		if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
			_exit(10);
		if (m2_store_open(fresh, &store, &why) != M2_EIO)
			_exit(11);
		if (strstr(why.text, "fresh.db cannot be opened: Permission denied") == NULL)
			_exit(12);
		/* the file is there (for root's child: not its own), the log cannot be made */
		if (m2_store_open(path, &store, &why) != M2_EIO)
			_exit(13);
		_exit(strstr(why.text, "registry.db") != NULL ? 0 : 14);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(chmod(test_path(state, "."), 0700), 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, test_dir_setup, test_dir_teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_put_is_got_by_name_and_alias),
		TEST(a_name_belongs_to_one_variant),
		TEST(replacing_exchanges_text_and_aliases_and_keeps_the_loads),
		TEST(removing_frees_the_names),
		TEST(each_gives_all_in_order_of_name),
		TEST(loads_are_booked),
		TEST(a_load_that_the_daemon_did_not_survive_is_told),
		TEST(the_history_is_bounded),
		TEST(the_database_is_private_and_durable),
		TEST(the_schema_itself_keeps_names_unique),
		TEST(migrations_run_once_each_and_a_failed_one_changes_nothing),
		TEST(what_is_no_registry_is_refused_untouched),
		TEST(a_truncated_database_is_refused),
		TEST(a_damaged_database_is_refused_or_harmless),
		TEST(a_text_that_was_changed_behind_our_back_is_told),
		TEST(where_it_may_not_write_it_says_so),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
