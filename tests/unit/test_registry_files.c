/* test_registry_files.c - the checksums of checkpoint files in the registry: recorded, held against, kept. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>

#include "registry/store.h"
#include "registry/store_schema.h"
#include "tests/unit/test_registry_dir.h"

static const char *const digest_a =
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char *const digest_b =
	"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

static struct m2_store *open_ok(void **state)
{
	struct m2_store *store = NULL;
	struct m2_why why = {"", ""};
	if (m2_store_open(test_path(state, "registry.db"), &store, &why) != M2_OK)
		fail_msg("%s", why.text);
	return store;
}

/* Registers, and gives the checksum of the registration. */
static void put(struct m2_store *store, const char *name, const char *description, char out[65])
{
	char text[256];
	struct m2_variant v;
	(void)snprintf(text, sizeof text,
		"name: %s\naliases: [%s-too]\ncheckpoint: /m\n"
		"description: %s\n",
		name, name, description);
	assert_int_equal(m2_variant_parse(text, strlen(text), "t", NULL, &v, NULL), M2_OK);
	assert_int_equal(
		m2_store_put(store, &v, text, strlen(text), "", M2_ORIGIN_MANUAL, 7, true, NULL),
		M2_OK);
	m2_variant_checksum(text, strlen(text), out);
}

static struct m2_store_file file(const char *path, uint64_t bytes, const char *found)
{
	struct m2_store_file f = {.bytes = bytes, .mtime_ns = -5};
	(void)snprintf(f.path, sizeof f.path, "%s", path);
	(void)snprintf(f.found, sizeof f.found, "%s", found);
	return f;
}

static enum m2_store_seen look(
	struct m2_store *store, const char *registration, struct m2_store_file *f, bool replace)
{
	enum m2_store_seen seen = M2_STORE_FILE_NEW;
	struct m2_why why = {"", ""};
	if (m2_store_file_look(store, "one", registration, f, replace, &seen, &why) != M2_OK)
		fail_msg("%s", why.text);
	return seen;
}

static void the_first_look_records_and_later_ones_are_held_against_it(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_file *files = NULL;
	size_t count = 9;
	char registration[65];
	put(store, "one", "x", registration);
	assert_int_equal(m2_store_files(store, "one", &files, &count, NULL), M2_OK);
	assert_null(files);
	assert_int_equal(count, 0);
	struct m2_store_file b = file("/m/b", 3, digest_a);
	struct m2_store_file a = file("/m/a", UINT64_C(14571000000), digest_b);
	assert_int_equal(look(store, registration, &b, false), M2_STORE_FILE_NEW);
	assert_int_equal(look(store, registration, &a, false), M2_STORE_FILE_NEW);
	assert_int_equal(look(store, registration, &a, false), M2_STORE_FILE_SAME);
	b = file("/m/b", 4, digest_b);
	assert_int_equal(look(store, registration, &b, false), M2_STORE_FILE_CHANGED);
	assert_string_equal(b.sha256, digest_a); /* what it should have been */
	assert_true(b.recorded_at > 1600000000);
	m2_store_close(&store);
	store = open_ok(state); /* and from the disk */
	assert_int_equal(m2_store_files(store, "one-too", &files, &count, NULL), M2_OK);
	assert_int_equal(count, 2);
	assert_string_equal(files[0].path, "/m/a");
	assert_int_equal(files[0].bytes, UINT64_C(14571000000));
	assert_int_equal(files[0].mtime_ns, -5);
	assert_string_equal(files[0].sha256, digest_b);
	assert_string_equal(files[0].found, digest_b);
	assert_true(
		files[0].recorded_at > 1600000000 && files[0].checked_at >= files[0].recorded_at);
	/* what was recorded stays, and what was found stands beside it */
	assert_int_equal(files[1].bytes, 4);
	assert_string_equal(files[1].sha256, digest_a);
	assert_string_equal(files[1].found, digest_b);
	free(files);
	assert_int_equal(look(store, registration, &b, false), M2_STORE_FILE_CHANGED);
	m2_store_close(&store);
}

static void only_somebodys_word_makes_a_change_right(void **state)
{
	struct m2_store *store = open_ok(state);
	char registration[65];
	put(store, "one", "x", registration);
	struct m2_store_file f = file("/m/a", 3, digest_a);
	assert_int_equal(look(store, registration, &f, false), M2_STORE_FILE_NEW);
	f = file("/m/a", 3, digest_b);
	assert_int_equal(look(store, registration, &f, true), M2_STORE_FILE_CHANGED);
	assert_int_equal(look(store, registration, &f, false), M2_STORE_FILE_SAME);
	m2_store_close(&store);
}

static void what_was_read_for_another_registration_is_not_stored(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_file *files;
	enum m2_store_seen seen;
	size_t count;
	char before[65], after[65];
	struct m2_why why;
	struct m2_store_file f = file("/m/a", 3, digest_a);
	put(store, "one", "x", before);
	assert_int_equal(look(store, before, &f, false), M2_STORE_FILE_NEW);
	put(store, "one", "y", after);
	/* registered anew: the checksums are forgotten, and late news of the old files is refused */
	assert_int_equal(m2_store_files(store, "one", &files, &count, NULL), M2_OK);
	assert_int_equal(count, 0);
	assert_int_equal(
		m2_store_file_look(store, "one", before, &f, false, &seen, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "one"));
	assert_int_equal(m2_store_file_forget(store, "one", before, "/m/a", NULL), M2_ENOENT);
	assert_int_equal(m2_store_files(store, "one", &files, &count, NULL), M2_OK);
	assert_int_equal(count, 0);
	assert_int_equal(look(store, after, &f, false), M2_STORE_FILE_NEW);
	assert_int_equal(m2_store_file_forget(store, "one", after, "/m/a", NULL), M2_OK);
	assert_int_equal(m2_store_file_forget(store, "one", after, "/m/a", NULL), M2_OK);
	assert_int_equal(look(store, after, &f, false), M2_STORE_FILE_NEW);
	m2_store_close(&store);
}

static int64_t rows(void **state)
{
	sqlite3 *db = NULL;
	int64_t n = -1;
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	assert_int_equal(
		m2_store_query_int(db, "db", "SELECT count(*) FROM files", &n, NULL), M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return n;
}

static void they_go_with_their_variant(void **state)
{
	struct m2_store *store = open_ok(state);
	struct m2_store_file *files;
	enum m2_store_seen seen;
	size_t count;
	char registration[65];
	struct m2_store_file f = file("/m/a", 3, digest_a);
	put(store, "one", "x", registration);
	assert_int_equal(look(store, registration, &f, false), M2_STORE_FILE_NEW);
	assert_int_equal(rows(state), 1);
	assert_int_equal(m2_store_remove(store, "one", NULL), M2_OK);
	assert_int_equal(rows(state), 0);
	assert_int_equal(m2_store_files(store, "one", &files, &count, NULL), M2_ENOENT);
	assert_int_equal(
		m2_store_file_look(store, "one", registration, &f, false, &seen, NULL), M2_ENOENT);
	m2_store_close(&store);
}

/* A registry of the first version: it opens, keeps what it had, and can record. */
static void a_registry_without_the_table_gets_it(void **state)
{
	int count;
	const char *const *steps = m2_store_schema(&count);
	sqlite3 *db = NULL;
	char registration[65];
	assert_int_equal(sqlite3_open(test_path(state, "registry.db"), &db), SQLITE_OK);
	assert_int_equal(m2_store_migrate(db, "db", steps, 1, 0, NULL), M2_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	struct m2_store *store = open_ok(state);
	struct m2_store_file f = file("/m/a", 3, digest_a);
	put(store, "one", "x", registration);
	assert_int_equal(look(store, registration, &f, false), M2_STORE_FILE_NEW);
	m2_store_close(&store);
	assert_int_equal(rows(state), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, test_dir_setup, test_dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_first_look_records_and_later_ones_are_held_against_it),
		TEST(only_somebodys_word_makes_a_change_right),
		TEST(what_was_read_for_another_registration_is_not_stored),
		TEST(they_go_with_their_variant),
		TEST(a_registry_without_the_table_gets_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
