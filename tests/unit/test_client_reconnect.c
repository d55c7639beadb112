/* test_client_reconnect.c - libmamba2 when the gate goes away: what is sent again, what is asked for, and
 * what ends.  The fake gate keeps its requests over a restart, as the supervisor does. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "client/handle.h"
#include "client/mamba2.h"
#include "tests/unit/fake_gate.h"

static const int32_t prompt[] = {1, 2, 3, 4};

static mamba2 *connect_to(struct fake_gate *g)
{
	mamba2 *m = NULL;
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = g->dir;
	o.timeout_ms = 15000;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_OK);
	return m;
}

static enum mamba2_error generate(mamba2 *m, const char *model, mamba2_request **r)
{
	mamba2_generate_options o;
	mamba2_generate_options_init(&o);
	o.model = model;
	o.tokens = prompt;
	o.n_tokens = 4;
	return mamba2_generate(m, &o, r);
}

struct asking {
	mamba2 *m;
	enum mamba2_error error;
	mamba2_request *r;
};

static void *ask(void *asking)
{
	struct asking *a = asking;
	a->error = generate(a->m, "lost", &a->r);
	return NULL;
}

static void what_was_not_answered_is_sent_again_with_the_same_key(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	struct asking a = {.m = connect_to(g)};
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
	assert_true(fake_gate_await(g, M2_OP_GENERATE, 1));
	fake_gate_stop(g);
	fake_gate_start(g);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(a.error, MAMBA2_OK);
	pthread_mutex_lock(&g->lock);
	assert_int_equal(g->n_requests, 1); /* one key */
	assert_int_equal(g->requests[0].seen, 2);
	pthread_mutex_unlock(&g->lock);
	while (!mamba2_request_finished(a.r))
		assert_int_equal(mamba2_request_wait(a.r, 10000), MAMBA2_OK);
	assert_int_equal(mamba2_request_tokens(a.r, 0, NULL), FAKE_TOKENS);
	mamba2_request_free(&a.r);
	mamba2_close(&a.m);
	fake_gate_destroy(&g, true);
}

static void a_running_request_survives_the_gate(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	mamba2 *m = connect_to(g);
	mamba2_request *r = NULL;
	assert_int_equal(generate(m, "slow", &r), MAMBA2_OK);
	assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	fake_gate_stop(g);
	/* results come through memory, gate or not */
	fake_publish(&g->requests[0], 2);
	assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	assert_int_equal(mamba2_request_tokens(r, 0, NULL), 3);
	fake_gate_start(g);
	assert_true(fake_gate_await(g, M2_OP_ATTACH, 1));
	assert_int_equal(fake_gate_count(g, M2_OP_GENERATE), 1); /* asked for, not run again */
	assert_int_equal(mamba2_request_finished(r), 0);
	fake_gate_command(g, 'f');
	while (!mamba2_request_finished(r))
		assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	assert_int_equal(mamba2_request_result(r, NULL), MAMBA2_OK);
	mamba2_request_free(&r);
	assert_true(fake_gate_await(g, M2_OP_RELEASE, 1));
	mamba2_close(&m);
	fake_gate_destroy(&g, true);
}

static void a_request_that_nobody_knows_any_more_ends_as_worker_lost(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	mamba2 *m = connect_to(g);
	mamba2_request *r = NULL;
	assert_int_equal(generate(m, "slow", &r), MAMBA2_OK);
	assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	fake_gate_stop(g);
	g->forgetful = true;
	fake_gate_start(g);
	while (!mamba2_request_finished(r))
		assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	const char *message = NULL;
	assert_int_equal(mamba2_request_result(r, &message), MAMBA2_EWORKER);
	assert_non_null(strstr(message, "restarted"));
	assert_int_equal(mamba2_request_finish(r, 0), MAMBA2_ERROR);
	assert_int_equal(mamba2_request_tokens(r, 0, NULL), 1); /* what came stays */
	mamba2_request_free(&r);
	/* the handle goes on working */
	assert_int_equal(generate(m, "demo", &r), MAMBA2_OK);
	mamba2_request_free(&r);
	mamba2_close(&m);
	fake_gate_destroy(&g, true);
}

static void memory_that_finished_wins_over_a_daemon_that_forgot(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	mamba2 *m = connect_to(g);
	mamba2_request *r = NULL;
	assert_int_equal(generate(m, "slow", &r), MAMBA2_OK);
	fake_gate_stop(g);
	fake_publish(&g->requests[0], FAKE_TOKENS);
	fake_finish(NULL, &g->requests[0], M2_FINISH_LENGTH, M2_OK);
	g->forgetful = true;
	fake_gate_start(g);
	assert_true(fake_gate_await(g, M2_OP_ATTACH, 1));
	assert_int_equal(mamba2_request_wait(r, 1000), MAMBA2_OK);
	assert_int_equal(mamba2_request_result(r, NULL), MAMBA2_OK);
	assert_int_equal(mamba2_request_finish(r, 0), MAMBA2_LENGTH);
	mamba2_request_free(&r);
	mamba2_close(&m);
	fake_gate_destroy(&g, true);
}

static void a_daemon_that_stays_away_ends_requests_as_unreachable(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	mamba2 *m = connect_to(g);
	mamba2_request *r = NULL;
	pthread_mutex_lock(&m->lock);
	m->lost_after_ms = 400; /* instead of ten seconds */
	pthread_mutex_unlock(&m->lock);
	assert_int_equal(generate(m, "slow", &r), MAMBA2_OK);
	assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	fake_gate_stop(g);
	while (!mamba2_request_finished(r))
		assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	assert_int_equal(mamba2_request_result(r, NULL), MAMBA2_EUNREACHABLE);
	char *json = NULL;
	assert_int_equal(mamba2_list(m, &json), MAMBA2_EUNREACHABLE);
	assert_null(json);
	mamba2_request_free(&r);
	/* it may come back later: reconnection is tried four times a second */
	pthread_mutex_lock(&m->lock);
	m->lost_after_ms = M2_CLIENT_LOST_MS;
	pthread_mutex_unlock(&m->lock);
	fake_gate_start(g);
	assert_int_equal(generate(m, "demo", &r), MAMBA2_OK);
	mamba2_request_free(&r);
	mamba2_close(&m);
	fake_gate_destroy(&g, true);
}

static void closing_with_no_daemon_does_not_hang(void **state)
{
	(void)state;
	struct fake_gate *g = fake_gate_create();
	mamba2 *m = connect_to(g);
	mamba2_request *r = NULL;
	assert_int_equal(generate(m, "slow", &r), MAMBA2_OK);
	fake_gate_stop(g);
	const int64_t before = m2_handle_now_ms();
	mamba2_request_free(&r);
	mamba2_close(&m);
	assert_true(m2_handle_now_ms() - before < 5000);
	fake_gate_destroy(&g, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_not_answered_is_sent_again_with_the_same_key),
		cmocka_unit_test(a_running_request_survives_the_gate),
		cmocka_unit_test(a_request_that_nobody_knows_any_more_ends_as_worker_lost),
		cmocka_unit_test(memory_that_finished_wins_over_a_daemon_that_forgot),
		cmocka_unit_test(a_daemon_that_stays_away_ends_requests_as_unreachable),
		cmocka_unit_test(closing_with_no_daemon_does_not_hang),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
