/* test_daemon_users.c - limits of users: whose entry holds, and the bucket of tokens per minute. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/users.h"
#include "daemon/who.h"

#define MINUTE UINT64_C(60000000000)

static struct m2_supervisor *supervisor(const char *yaml)
{
	struct m2_why why = {.text = ""};
	struct m2_supervisor *s = calloc(1, sizeof *s);
	assert_non_null(s);
	assert_int_equal(m2_loop_init(&s->loop, &why), M2_OK);
	m2_list_init(&s->users);
	if (m2_daemon_config_parse(yaml, strlen(yaml), "test", &s->config, &why) != M2_OK)
		fail_msg("%s", why.text);
	assert_int_equal(m2_who_init(s, &why), M2_OK);
	s->accounts = m2_users_create();
	assert_non_null(s->accounts);
	return s;
}

static void close_supervisor(struct m2_supervisor **s)
{
	m2_users_destroy(&(*s)->accounts);
	m2_who_finish(*s);
	m2_loop_finish(&(*s)->loop);
	free(*s);
	*s = NULL;
}

static void ones_own_entry_comes_before_a_groups_and_that_before_the_default(void **unused)
{
	(void)unused;
	struct m2_supervisor *s =
		supervisor("users:\n"
			   "  - {name: \"@7777\", weight: 5, slots: 6, state_bytes: 1G}\n"
			   "  - {name: \"@8888\", weight: 9}\n"
			   "  - {name: 61234, weight: 7, tokens_per_minute: 10}\n"
			   "default_user: {weight: 2, slots: 3, state_bytes: 5M}\n"
			   "requests_per_user: 11\n");
	struct m2_user_limits l = m2_users_limits(s, 61234, 7777);
	assert_int_equal(l.weight, 7);
	assert_int_equal(
		l.slots, 3); /* what the entry leaves open is the default, not the group's */
	assert_int_equal(l.tokens_per_minute, 10);
	l = m2_users_limits(s, 61235, 7777);
	assert_int_equal(l.weight, 5);
	assert_int_equal(l.slots, 6);
	assert_int_equal(l.requests, 11);
	assert_int_equal(l.state_bytes, 1 << 30);
	assert_int_equal(m2_users_limits(s, 61234, 7777).state_bytes, 5 << 20);
	assert_int_equal(m2_users_limits(s, 61235, 8888).weight, 9);
	l = m2_users_limits(s, 61235, 61235);
	assert_int_equal(l.weight, 2);
	assert_int_equal(l.tokens_per_minute, 0);
	/* names, by the host's name service */
	close_supervisor(&s);
	s = supervisor("users: [{name: root, weight: 4}]\n");
	assert_int_equal(m2_users_limits(s, 0, 0).weight, 4);
	assert_int_equal(m2_users_limits(s, 61235, 61235).weight, 1);
	close_supervisor(&s);
}

static void a_bucket_fills_evenly_and_holds_a_minute(void **unused)
{
	(void)unused;
	assert_true(m2_users_refill(-5000, 600, 0, 17) == 600); /* never used */
	assert_true(fabs(m2_users_refill(0, 600, 1, 1 + MINUTE / 2) - 300) < 1e-6);
	assert_true(fabs(m2_users_refill(-600, 600, 1, 1 + MINUTE) - 0) < 1e-6);
	assert_true(m2_users_refill(599, 600, 1, 1 + 9 * MINUTE) == 600);
}

static void refusals_name_the_limit_and_say_how_long(void **unused)
{
	(void)unused;
	struct m2_supervisor *s = supervisor(
		"default_user: {slots: 4, tokens_per_minute: 600}\nrequests_per_user: 2\n");
	struct m2_user user = {.uid = 61236};
	struct m2_session x = {.s = s, .user = &user};
	struct m2_why why;
	int64_t retry_ms = -1;
	x.request.uid = x.request.gid = 61236;
	x.request.op = M2_OP_GENERATE;
	x.request.n = 4;
	assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_OK);
	assert_int_equal(retry_ms, 0);
	x.request.n = 5;
	assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_ELIMIT);
	assert_string_equal(why.field, "n");
	assert_string_equal(why.text, "n is 5, and user 61236 may run 4 sequences at once (slots)");
	x.request.n = 1;
	user.running = 2;
	assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_EBUSY);
	assert_string_equal(why.field, "requests_per_user");
	user.running = 0;
	const struct m2_ipc_finished f = {.prompt_tokens = 200, .generated_tokens = 500};
	m2_users_book(&x, &f); /* a hundred too many */
	assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_EBUSY);
	assert_string_equal(why.field, "tokens_per_minute");
	assert_true(retry_ms > 9000 && retry_ms <= 10101); /* of 10 a second */
	assert_non_null(strstr(why.text, "600 tokens per minute"));
	x.request.op = M2_OP_TOKENIZE; /* which makes none */
	assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_OK);
	struct json_object *o = json_object_new_object();
	struct json_object *rows;
	m2_users_put(s, o, false, 61236);
	assert_true(json_object_object_get_ex(o, "users", &rows));
	assert_int_equal(json_object_array_length(rows), 1);
	struct json_object *row = json_object_array_get_idx(rows, 0);
	assert_int_equal(
		json_object_get_int64(json_object_object_get(row, "generated_tokens")), 500);
	assert_int_equal(json_object_get_int64(json_object_object_get(row, "refused")), 3);
	assert_true(json_object_get_int64(json_object_object_get(row, "tokens_left")) < 0);
	json_object_put(o);
	o = json_object_new_object();
	m2_users_put(s, o, false, 1);
	assert_true(json_object_object_get_ex(o, "users", &rows));
	assert_int_equal(json_object_array_length(rows), 0); /* not another's */
	json_object_put(o);
	close_supervisor(&s);
}

static void accounts_are_bounded(void **unused)
{
	(void)unused;
	struct m2_supervisor *s = supervisor("");
	struct m2_user user = {.uid = 1};
	struct m2_session x = {.s = s, .user = &user};
	struct m2_why why;
	int64_t retry_ms;
	x.request.op = M2_OP_SCORE;
	x.request.n = 1;
	for (uint32_t i = 0; i < M2_ACCOUNTS + 50; i++) {
		x.request.uid = x.request.gid = 100000 + i;
		assert_int_equal(m2_users_admit(&x, &retry_ms, &why), M2_OK);
	}
	struct json_object *o = json_object_new_object();
	struct json_object *rows;
	m2_users_put(s, o, true, 0);
	assert_true(json_object_object_get_ex(o, "users", &rows));
	assert_int_equal(json_object_array_length(rows), M2_ACCOUNTS);
	json_object_put(o);
	close_supervisor(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ones_own_entry_comes_before_a_groups_and_that_before_the_default),
		cmocka_unit_test(a_bucket_fills_evenly_and_holds_a_minute),
		cmocka_unit_test(refusals_name_the_limit_and_say_how_long),
		cmocka_unit_test(accounts_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
