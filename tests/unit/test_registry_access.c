/* test_registry_access.c - who may: root and nobody, whom every host has, and numeric ids. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "registry/access.h"

enum { NO_SUCH_UID = 1852516352, NO_SUCH_GID = 1899999999 };

static struct m2_access *cache;

static int setup(void **state)
{
	(void)state;
	cache = m2_access_create(60);
	return cache == NULL ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	m2_access_destroy(&cache);
	return cache == NULL ? 0 : -1;
}

static enum m2_err allows(uid_t uid, gid_t gid, const char (*users)[33], int n_users,
	const char (*groups)[33], int n_groups, struct m2_why *why)
{
	const struct m2_access_list list = {users, n_users, groups, n_groups};
	return m2_access_allows(cache, uid, gid, &list, 0, why);
}

static void empty_lists_let_everyone_in(void **state)
{
	(void)state;
	assert_int_equal(allows(0, 0, NULL, 0, NULL, 0, NULL), M2_OK);
	assert_int_equal(allows(NO_SUCH_UID, NO_SUCH_GID, NULL, 0, NULL, 0, NULL), M2_OK);
}

static void a_user_is_let_in_by_name_or_number(void **state)
{
	(void)state;
	const char names[][33] = {"root", "no-such-user-here"};
	const char numbers[][33] = {"7", "65534"};
	const char unknown[][33] = {"1851851851"};
	struct m2_why why;
	const struct passwd *nobody = getpwnam("nobody");
	assert_non_null(nobody);
	const uid_t uid = nobody->pw_uid;
	assert_int_equal(allows(0, 0, names, 2, NULL, 0, &why), M2_OK);
	assert_int_equal(allows(uid, uid, names, 2, NULL, 0, &why), M2_EACCES);
	char expected[128];
	(void)snprintf(expected, sizeof expected,
		"user nobody (uid %u) is none of the users root, no-such-user-here", (unsigned)uid);
	assert_string_equal(why.text, expected);
	assert_int_equal(allows(65534, 65534, numbers, 2, NULL, 0, &why), M2_OK);
	assert_int_equal(allows(7, 7, numbers, 2, NULL, 0, &why), M2_OK);
	assert_int_equal(allows(6, 7, numbers, 2, NULL, 0, &why), M2_EACCES);
	/* a uid without an entry in the password file can be listed by number */
	assert_int_equal(allows(1851851851, 1, unknown, 1, NULL, 0, &why), M2_OK);
	assert_int_equal(allows(1851851852, 1, unknown, 1, NULL, 0, &why), M2_EACCES);
	assert_string_equal(
		why.text, "user without a name (uid 1851851852) is none of the users 1851851851");
}

static void a_number_is_taken_whole(void **state)
{
	(void)state;
	/* none of these is uid 0 or uid 5 */
	const char odd[][33] = {"", "4294967296", "4294967301", "18446744073709551621", "5x", "-5",
		"+5", "4294967295"};
	for (int i = 0; i < 8; i++) {
		assert_int_equal(allows(5, 5, &odd[i], 1, &odd[i], 1, NULL), M2_EACCES);
		assert_int_equal(allows(0, 0, &odd[i], 1, &odd[i], 1, NULL), M2_EACCES);
		assert_int_equal(
			allows((uid_t)-1, (gid_t)-1, &odd[i], 1, &odd[i], 1, NULL), M2_EACCES);
	}
}

static void a_group_lets_its_members_in(void **state)
{
	(void)state;
	struct m2_why why;
	const struct group *zero = getgrgid(0);
	assert_non_null(zero);
	char root_group[1][33];
	(void)snprintf(root_group[0], 33, "%s", zero->gr_name);
	const char(*list)[33] = (const char(*)[33])root_group;
	const char by_number[][33] = {"0"};
	const char absent[][33] = {"no-such-group-1", "no-such-group-2"};
	/* root by its primary group, whatever gid the kernel says */
	assert_int_equal(allows(0, NO_SUCH_GID, NULL, 0, list, 1, &why), M2_OK);
	assert_int_equal(allows(0, NO_SUCH_GID, NULL, 0, by_number, 1, &why), M2_OK);
	/* a stranger by the gid its socket has */
	assert_int_equal(allows(NO_SUCH_UID, 0, NULL, 0, list, 1, &why), M2_OK);
	assert_int_equal(allows(NO_SUCH_UID, NO_SUCH_GID, NULL, 0, list, 1, &why), M2_EACCES);
	assert_int_equal(allows(0, 0, NULL, 0, absent, 2, &why), M2_EACCES);
	assert_string_equal(why.text,
		"user root (uid 0) is in none of the groups no-such-group-1, no-such-group-2");
	assert_int_equal(allows(0, 0, absent, 1, absent, 2, &why), M2_EACCES);
	assert_string_equal(why.text,
		"user root (uid 0) is none of the users no-such-group-1 and in "
		"none of the groups no-such-group-1, no-such-group-2");
	/* either list suffices */
	assert_int_equal(allows(0, 0, absent, 1, list, 1, &why), M2_OK);
}

/* Somebody with a supplementary group, if this host has one. */
static void supplementary_groups_count(void **state)
{
	(void)state;
	char member[33] = "";
	char group[1][33] = {""};
	setgrent();
	for (const struct group *g = getgrent(); g != NULL && member[0] == '\0'; g = getgrent())
		if (g->gr_mem[0] != NULL && strlen(g->gr_name) < 33 && strlen(g->gr_mem[0]) < 33) {
			(void)snprintf(member, sizeof member, "%s", g->gr_mem[0]);
			(void)snprintf(group[0], sizeof group[0], "%s", g->gr_name);
		}
	endgrent();
	const struct passwd *p = member[0] != '\0' ? getpwnam(member) : NULL;
	if (p == NULL) {
		print_message("# no user with a supplementary group on this host\n");
		skip();
	}
	assert_int_equal(
		allows(p->pw_uid, p->pw_gid, NULL, 0, (const char(*)[33])group, 1, NULL), M2_OK);
}

static void a_long_list_is_cut_visibly_in_the_sentence(void **state)
{
	(void)state;
	static char many[64][33];
	struct m2_why why;
	for (int i = 0; i < 64; i++)
		(void)snprintf(many[i], 33, "no-such-user-with-a-long-name-%02d", i);
	assert_int_equal(allows(0, 0, (const char(*)[33])many, 64, NULL, 0, &why), M2_EACCES);
	assert_string_equal(why.text + strlen(why.text) - 3, "...");
}

/* More users and groups than are kept, twice: answers stay right. */
static void more_than_is_kept_stays_right(void **state)
{
	(void)state;
	static char wanted[1][33];
	for (int round = 0; round < 2; round++)
		for (uid_t uid = 2000000; uid < 2000200; uid++) {
			const struct m2_access_list list = {
				(const char(*)[33])wanted, 1, (const char(*)[33])wanted, 1};
			(void)snprintf(wanted[0], 33, "%u", (unsigned)uid);
			assert_int_equal(
				m2_access_allows(cache, uid, 1, &list, (int64_t)uid, NULL), M2_OK);
			(void)snprintf(wanted[0], 33, "absent-%u", (unsigned)uid);
			assert_int_equal(m2_access_allows(cache, uid, 1, &list, (int64_t)uid, NULL),
				M2_EACCES);
		}
}

static void answers_are_kept_for_a_time_and_can_be_forgotten(void **state)
{
	(void)state;
	const char root[][33] = {"root"};
	const struct m2_access_list list = {root, 1, NULL, 0};
	const int64_t times[] = {0, 59, 60, 61, 1000, 3};
	for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
		assert_int_equal(m2_access_allows(cache, 0, 0, &list, times[i], NULL), M2_OK);
		assert_int_equal(m2_access_allows(cache, 1, 1, &list, times[i], NULL), M2_EACCES);
	}
	m2_access_forget(cache);
	assert_int_equal(m2_access_allows(cache, 0, 0, &list, 5, NULL), M2_OK);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(empty_lists_let_everyone_in),
		TEST(a_user_is_let_in_by_name_or_number),
		TEST(a_number_is_taken_whole),
		TEST(a_group_lets_its_members_in),
		TEST(supplementary_groups_count),
		TEST(a_long_list_is_cut_visibly_in_the_sentence),
		TEST(more_than_is_kept_stays_right),
		TEST(answers_are_kept_for_a_time_and_can_be_forgotten),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
