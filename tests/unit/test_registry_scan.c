/* test_registry_scan.c - directories of variant files: what is new, changed, gone, bad, in the way. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/store.h"
#include "tests/unit/test_registry_dir.h"

static struct m2_store *store;

struct reports {
	int count;
	struct m2_why last[8];
};

static struct reports reports;
static struct m2_scan_counts counts;

static void report(void *ctx, const struct m2_why *why)
{
	struct reports *r = ctx;
	assert_true(r->count < 8);
	r->last[r->count++] = *why;
}

static int setup(void **state)
{
	if (test_dir_setup(state) != 0)
		return -1;
	store = NULL;
	return mkdir(test_path(state, "d"), 0700) != 0 ||
	       m2_store_open(test_path(state, "registry.db"), &store, NULL) != M2_OK;
}

static int teardown(void **state)
{
	m2_store_close(&store);
	return test_dir_teardown(state);
}

static void file(void **state, const char *name, const char *text)
{
	char path[64];
	(void)snprintf(path, sizeof path, "d/%s", name);
	if (text == NULL)
		assert_int_equal(unlink(test_path(state, path)), 0);
	else
		test_write(test_path(state, path), text);
}

static void scan(void **state)
{
	struct m2_why why = {"", ""};
	memset(&reports, 0, sizeof reports);
	const enum m2_err err =
		m2_store_scan(store, test_path(state, "d"), 7, report, &reports, &counts, &why);
	if (err != M2_OK)
		fail_msg("%s", why.text);
}

#define COUNTS(a, c, r, u, f)                                                                      \
	do {                                                                                       \
		if (counts.added != (a) || counts.changed != (c) || counts.removed != (r) ||       \
			counts.unchanged != (u) || counts.failed != (f))                           \
			fail_msg("added %d changed %d removed %d unchanged %d failed %d: %s",      \
				counts.added, counts.changed, counts.removed, counts.unchanged,    \
				counts.failed, reports.last[0].text);                              \
	} while (0)

static bool has(const char *name)
{
	const enum m2_err err = m2_store_get(store, name, NULL, NULL, NULL);
	assert_true(err == M2_OK || err == M2_ENOENT);
	return err == M2_OK;
}

static const char *description(const char *name)
{
	static struct m2_variant v;
	assert_int_equal(m2_store_get(store, name, &v, NULL, NULL), M2_OK);
	return v.description;
}

static bool told(int index, const char *words)
{
	return index < reports.count && strstr(reports.last[index].text, words) != NULL;
}

static void new_changed_and_vanished_files_are_followed(void **state)
{
	struct m2_store_entry e;
	struct m2_variant v;
	int64_t row;
	file(state, "a.yaml", "name: a\ncheckpoint: m\n");
	file(state, "b.yaml", "name: bee\naliases: [b]\ncheckpoint: /m\n");
	scan(state);
	COUNTS(2, 0, 0, 0, 0);
	assert_int_equal(m2_store_get(store, "a", &v, &e, NULL), M2_OK);
	assert_string_equal(e.source, test_path(state, "d/a.yaml"));
	assert_string_equal(v.checkpoint, test_path(state, "d/m"));
	assert_int_equal(e.origin, M2_ORIGIN_DIRECTORY);
	assert_int_equal(e.registered_by, 7);

	assert_int_equal(m2_store_load_begin(store, "a", "cpu", 0, &row, NULL), M2_OK);
	assert_int_equal(m2_store_load_end(store, row, 5, 5, M2_OK, NULL, NULL), M2_OK);
	scan(state);
	COUNTS(0, 0, 0, 2, 0);
	assert_int_equal(m2_store_get(store, "a", NULL, &e, NULL), M2_OK);
	assert_int_equal(e.loads, 1);

	file(state, "b.yaml", "name: bee\naliases: [bb]\ncheckpoint: /m\ndescription: new\n");
	file(state, "a.yaml", NULL);
	file(state, "c.yaml", "name: c\ncheckpoint: /m\n");
	scan(state);
	COUNTS(1, 1, 1, 0, 0);
	assert_false(has("a"));
	assert_false(has("b"));
	assert_string_equal(description("bb"), "new");
	assert_int_equal(reports.count, 0);
}

static void a_bad_file_is_reported_and_harms_no_other(void **state)
{
	file(state, "a.yaml", "name: a\ncheckpoint: /m\nslotz: 3\n");
	file(state, "b.yaml", "name: b\ncheckpoint: /m\n");
	scan(state);
	COUNTS(1, 0, 0, 0, 1);
	assert_int_equal(reports.count, 1);
	assert_true(told(0, "/d/a.yaml:3:1: slotz: unknown key; did you mean slots?"));
	/* what a file registered before it went bad stays */
	file(state, "b.yaml", "name: b\ncheckpoint: /m\n: :\n");
	scan(state);
	COUNTS(0, 0, 0, 0, 2);
	assert_true(has("b"));
	file(state, "b.yaml", NULL);
	scan(state);
	COUNTS(0, 0, 1, 0, 1);
	assert_false(has("b"));
}

static void only_visible_regular_yaml_files_count(void **state)
{
	file(state, "real.yaml", "name: real\ncheckpoint: /m\n");
	file(state, ".hidden.yaml", "name: hidden\ncheckpoint: /m\n");
	file(state, ".yaml", "name: nameless\ncheckpoint: /m\n");
	file(state, "notes.txt", "name: notes\ncheckpoint: /m\n");
	file(state, "a.yaml~", "name: backup\ncheckpoint: /m\n");
	file(state, "a.yml", "name: yml\ncheckpoint: /m\n");
	assert_int_equal(mkdir(test_path(state, "d/dir.yaml"), 0700), 0);
	assert_int_equal(mkfifo(test_path(state, "d/fifo.yaml"), 0600), 0);
	test_write(test_path(state, "elsewhere.yaml"), "name: link\ncheckpoint: /m\n");
	assert_int_equal(
		symlink(test_path(state, "elsewhere.yaml"), test_path(state, "d/link.yaml")), 0);
	scan(state);
	COUNTS(1, 0, 0, 0, 3);
	assert_true(told(0, "dir.yaml: is not a regular file"));
	assert_true(told(1, "fifo.yaml: is not a regular file"));
	assert_true(told(2, "link.yaml: is a symbolic link, not a file"));
	assert_true(has("real"));
	const char *others[] = {"hidden", "nameless", "notes", "backup", "yml", "link"};
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		assert_false(has(others[i]));
}

static void the_second_of_two_files_with_one_name_is_refused(void **state)
{
	file(state, "1.yaml", "name: same\ncheckpoint: /m\ndescription: first\n");
	file(state, "2.yaml", "name: same\ncheckpoint: /m\ndescription: second\n");
	file(state, "3.yaml", "name: other\naliases: [same]\ncheckpoint: /m\n");
	for (int round = 0; round < 2; round++) {
		scan(state);
		COUNTS(round == 0 ? 1 : 0, 0, 0, round, 2);
		assert_string_equal(description("same"), "first");
		assert_true(told(0, "/d/2.yaml: same is already registered from "));
		assert_true(told(0, "/d/1.yaml by uid 7"));
		assert_true(told(1, "/d/3.yaml: same is already registered"));
		assert_string_equal(reports.last[1].field, "aliases");
		assert_false(has("other"));
	}
	file(state, "1.yaml", NULL); /* the next in line gets the name */
	scan(state);
	COUNTS(1, 0, 1, 0, 1);
	assert_string_equal(description("same"), "second");
}

static void files_may_exchange_and_hand_on_names(void **state)
{
	file(state, "1.yaml", "name: x\naliases: [p]\ncheckpoint: /m\ndescription: one\n");
	file(state, "2.yaml", "name: y\naliases: [q]\ncheckpoint: /m\ndescription: two\n");
	scan(state);
	COUNTS(2, 0, 0, 0, 0);
	file(state, "1.yaml", "name: y\ncheckpoint: /m\ndescription: one\n");
	file(state, "2.yaml", "name: x\ncheckpoint: /m\ndescription: two\n");
	scan(state);
	COUNTS(0, 2, 0, 0, 0);
	assert_string_equal(description("y"), "one");
	assert_string_equal(description("x"), "two");
	assert_false(has("p"));
	/* a renamed file is a new source for its name */
	assert_int_equal(rename(test_path(state, "d/1.yaml"), test_path(state, "d/0.yaml")), 0);
	scan(state);
	COUNTS(1, 0, 1, 1, 0);
	assert_string_equal(description("y"), "one");
	/* an alias goes from a later file to an earlier one in the same scan */
	file(state, "2.yaml", "name: x\naliases: [handed]\ncheckpoint: /m\n");
	scan(state);
	file(state, "0.yaml", "name: y\naliases: [handed]\ncheckpoint: /m\ndescription: got it\n");
	file(state, "2.yaml", "name: x\ncheckpoint: /m\n");
	scan(state);
	COUNTS(0, 2, 0, 0, 0);
	assert_string_equal(description("handed"), "got it");
}

static void put_by_hand(
	void **state, const char *source, const char *text, bool replace, enum m2_err expected)
{
	struct m2_variant v;
	assert_int_equal(m2_variant_parse(text, strlen(text), "t", "/b", &v, NULL), M2_OK);
	const char *path = source[0] == '\0' ? "" : test_path(state, source);
	assert_int_equal(m2_store_put(store, &v, text, strlen(text), path, M2_ORIGIN_MANUAL, 0,
				 replace, NULL),
		expected);
}

static void what_was_registered_by_hand_is_not_touched(void **state)
{
	const char *hand = "name: hand\ncheckpoint: /m\ndescription: by hand\n";
	put_by_hand(state, "", hand, false, M2_OK);
	put_by_hand(state, "d/gone.yaml", "name: gone\ncheckpoint: /m\n", false, M2_OK);
	file(state, "hand.yaml", "name: hand\ncheckpoint: /m\ndescription: from a file\n");
	scan(state);
	COUNTS(0, 0, 0, 0, 1);
	assert_true(told(0, "hand is already registered by hand by uid 0"));
	assert_string_equal(description("hand"), "by hand");
	assert_true(has("gone"));
	/* the same text as the file: nothing to complain about */
	file(state, "hand.yaml", NULL);
	file(state, "gone.yaml", "name: gone\ncheckpoint: /m\n");
	scan(state);
	COUNTS(0, 0, 0, 1, 0);
	file(state, "gone.yaml", NULL);
	scan(state);
	COUNTS(0, 0, 0, 0, 0);
	assert_true(has("gone"));
	/* replacing a directory's variant by hand takes it out of the directory's hands */
	file(state, "f.yaml", "name: f\ncheckpoint: /m\n");
	scan(state);
	put_by_hand(state, "", "name: f\ncheckpoint: /m\ndescription: mine\n", true, M2_OK);
	scan(state);
	COUNTS(0, 0, 0, 0, 1);
	assert_string_equal(description("f"), "mine");
}

static void a_directory_that_cannot_be_read_changes_nothing(void **state)
{
	file(state, "a.yaml", "name: a\ncheckpoint: /m\n");
	scan(state);
	COUNTS(1, 0, 0, 0, 0);
	assert_int_equal(rename(test_path(state, "d"), test_path(state, "away")), 0);
	scan(state);
	COUNTS(0, 0, 0, 0, 0);
	assert_int_equal(reports.count, 1);
	assert_true(told(0, "cannot be read: No such file or directory"));
	assert_true(has("a"));
	struct m2_why why;
	assert_int_equal(m2_store_scan(store, "relative", 0, NULL, NULL, &counts, &why), M2_EINVAL);
	assert_int_equal(
		m2_store_scan(store, test_path(state, "d"), 0, NULL, NULL, &counts, &why), M2_OK);
}

static void directories_do_not_see_each_others_files(void **state)
{
	struct m2_why why;
	assert_int_equal(mkdir(test_path(state, "d/sub"), 0700), 0);
	assert_int_equal(mkdir(test_path(state, "d2"), 0700), 0);
	test_write(test_path(state, "d/sub/s.yaml"), "name: s\ncheckpoint: /m\n");
	test_write(test_path(state, "d2/t.yaml"), "name: t\ncheckpoint: /m\n");
	assert_int_equal(m2_store_scan(store, test_path(state, "d/sub///"), 0, report, &reports,
				 &counts, &why),
		M2_OK);
	COUNTS(1, 0, 0, 0, 0);
	assert_int_equal(
		m2_store_scan(store, test_path(state, "d2"), 0, report, &reports, &counts, &why),
		M2_OK);
	scan(state); /* d itself is empty; neither d/sub's nor d2's variant is its to remove */
	COUNTS(0, 0, 0, 0, 0);
	assert_true(has("s") && has("t"));
	assert_int_equal(
		m2_store_scan(store, test_path(state, "d/sub"), 0, report, &reports, &counts, &why),
		M2_OK);
	COUNTS(0, 0, 0, 1, 0); /* with and without slashes it is the same directory */
}

static void more_files_than_anyone_needs_are_refused_as_a_whole(void **state)
{
	char name[32];
	file(state, "0.yaml", "name: a\ncheckpoint: /m\n");
	scan(state);
	for (int i = 1; i <= 1024; i++) {
		(void)snprintf(name, sizeof name, "%d.yaml", i);
		file(state, name, "");
	}
	scan(state);
	COUNTS(0, 0, 0, 0, 0);
	assert_true(told(0, "more than 1024 files; none was read"));
	assert_true(has("a"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(new_changed_and_vanished_files_are_followed),
		TEST(a_bad_file_is_reported_and_harms_no_other),
		TEST(only_visible_regular_yaml_files_count),
		TEST(the_second_of_two_files_with_one_name_is_refused),
		TEST(files_may_exchange_and_hand_on_names),
		TEST(what_was_registered_by_hand_is_not_touched),
		TEST(a_directory_that_cannot_be_read_changes_nothing),
		TEST(directories_do_not_see_each_others_files),
		TEST(more_files_than_anyone_needs_are_refused_as_a_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
