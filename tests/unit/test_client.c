/* test_client.c - libmamba2 against a daemon of a few lines (fake_gate.h): requests, answers, results
 * memory that must be refused, waiting, and threads.  Loss of the connection: test_client_reconnect.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <poll.h>

#include "client/mamba2.h"
#include "tests/unit/fake_gate.h"

struct fixture {
	struct fake_gate *gate;
	mamba2 *m;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	assert_non_null(f);
	f->gate = fake_gate_create();
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = f->gate->dir;
	o.timeout_ms = 10000;
	assert_int_equal(mamba2_connect(&o, &f->m), MAMBA2_OK);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	mamba2_close(&f->m);
	assert_null(f->m);
	fake_gate_destroy(&f->gate, true);
	free(f);
	return 0;
}

static const int32_t prompt[] = {1, 2, 3, 4};

static enum mamba2_error generate(struct fixture *f, const char *model, mamba2_request **r)
{
	mamba2_generate_options o;
	mamba2_generate_options_init(&o);
	o.model = model;
	o.tokens = prompt;
	o.n_tokens = 4;
	return mamba2_generate(f->m, &o, r);
}

static void wait_finished(mamba2_request *r)
{
	while (!mamba2_request_finished(r))
		assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
}

static void a_request_is_accepted_published_and_finished(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "demo", &r), MAMBA2_OK);
	wait_finished(r);
	const int32_t *tokens = NULL;
	assert_int_equal(mamba2_request_tokens(r, 0, &tokens), FAKE_TOKENS);
	assert_int_equal(tokens[7], 107);
	size_t bytes = 0;
	const char *text = mamba2_request_text(r, 0, &bytes);
	assert_int_equal(bytes, 2 * FAKE_TOKENS);
	assert_memory_equal(text, "abababababababab", 16);
	assert_int_equal(mamba2_request_text_ends(r, 0)[3], 8);
	assert_true(mamba2_request_logprobs(r, 0)[0] == -0.5f);
	size_t top_k = 0;
	assert_non_null(mamba2_request_top_ids(r, 0, &top_k));
	assert_int_equal(top_k, 2);
	size_t vocab = 0;
	assert_non_null(mamba2_request_logits(r, 0, &vocab));
	assert_int_equal(vocab, FAKE_VOCAB);
	assert_int_equal(mamba2_request_finish(r, 0), MAMBA2_LENGTH);
	const char *message = NULL;
	assert_int_equal(mamba2_request_result(r, &message), MAMBA2_OK);
	mamba2_timings t;
	mamba2_request_timings(r, &t);
	assert_int_equal(t.total, 8000);
	assert_int_equal(t.first, 0);
	/* what was not asked for, and what does not exist */
	assert_null(mamba2_request_prompt_logprobs(r));
	assert_int_equal(mamba2_request_tokens(r, 1, &tokens), 0);
	assert_null(tokens);
	assert_null(mamba2_request_text(r, -1, &bytes));
	mamba2_request_free(&r);
	assert_null(r);
	assert_true(fake_gate_await(f->gate, M2_OP_RELEASE, 1));
	assert_int_equal(fake_gate_count(f->gate, M2_OP_CANCEL), 0);
}

static void a_score_shows_the_prompt(void **state)
{
	struct fixture *f = *state;
	mamba2_score_options o;
	mamba2_score_options_init(&o);
	o.model = "demo";
	o.prompt = "text";
	o.prompt_bytes = 4;
	o.top = 2;
	o.logits = 1;
	mamba2_request *r = NULL;
	assert_int_equal(mamba2_score(f->m, &o, &r), MAMBA2_OK);
	wait_finished(r);
	const int32_t *tokens = NULL;
	size_t vocab = 0;
	assert_int_equal(mamba2_request_prompt(r, &tokens), 4);
	assert_int_equal(tokens[3], 4);
	assert_int_equal(mamba2_request_prompt_scored(r), 4);
	assert_true(mamba2_request_prompt_logprobs(r)[2] == -2.0f);
	assert_true(mamba2_request_prompt_logits(r, &vocab)[3 * FAKE_VOCAB] == 3.0f);
	assert_int_equal(vocab, FAKE_VOCAB);
	assert_non_null(mamba2_request_prompt_top_ids(r, &vocab));
	mamba2_request_free(&r);
	assert_true(fake_gate_await(f->gate, M2_OP_RELEASE, 1));
}

/* What goes over the wire, exactly as common/fields.def wants it. */
static void options_become_fields(void **state)
{
	struct fixture *f = *state;
	const int32_t stops[] = {7, 8};
	const char *strings[] = {"\n\n", "end"};
	const mamba2_logit_bias bias[] = {{3, -1.5f}};
	mamba2_generate_options o;
	mamba2_generate_options_init(&o);
	o.model = "refuse";
	o.prompt = "hi";
	o.prompt_bytes = 2;
	o.max_tokens = 5;
	o.temperature = 0.7f;
	o.repetition_penalty = 0.01f; /* the edge of its range, as a float */
	o.presence_penalty = -1;
	o.seed = 0;
	o.stop_tokens = stops;
	o.n_stop_tokens = 2;
	o.stop = strings;
	o.n_stop = 2;
	o.logit_bias = bias;
	o.n_logit_bias = 1;
	o.ignore_eos = 1;
	mamba2_request *r = NULL;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EBUSY);
	static const char *const parts[] = {"\"v\":1,", "\"op\":\"generate\"", "\"input\":\"text\"",
		"\"max_tokens\":5", "\"temperature\":0.7,", "\"repetition_penalty\":0.01,",
		"\"presence_penalty\":-1,", "\"seed\":0", "\"stop_tokens\":[7,8]",
		"\"stop\":[\"\\n\\n\",\"end\"]", "\"logit_bias\":[[3,-1.5]]",
		"\"ignore_eos\":true"};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		if (!fake_gate_last_has(f->gate, parts[i]))
			fail_msg("%s is not in %s", parts[i], f->gate->last);
	static const char *const absent[] = {"top_k", "top_p", "min_p", "frequency", "logprobs",
		"echo", "logits", "deadline", "\"n\"", "special"};
	for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
		if (fake_gate_last_has(f->gate, absent[i]))
			fail_msg("%s is in %s", absent[i], f->gate->last);
	pthread_mutex_lock(&f->gate->lock);
	assert_int_equal(f->gate->last_payload_bytes, 2);
	pthread_mutex_unlock(&f->gate->lock);
}

static void the_form_of_a_prompt_is_the_field_input(void **state)
{
	struct fixture *f = *state;
	static const char *const inputs[] = {
		"\"input\":\"text\"", "\"input\":\"chat\"", "\"input\":\"fill\""};
	mamba2_request *r = NULL;
	for (int form = MAMBA2_FORM_TEXT; form <= MAMBA2_FORM_FILL; form++) {
		mamba2_generate_options o;
		mamba2_generate_options_init(&o);
		o.model = "refuse";
		o.form = form;
		o.prompt = "[{}]";
		o.prompt_bytes = 4;
		assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EBUSY);
		assert_true(fake_gate_last_has(f->gate, inputs[form]));
		mamba2_score_options s;
		mamba2_score_options_init(&s);
		s.model = "refuse";
		s.form = form;
		s.prompt = "[{}]";
		s.prompt_bytes = 4;
		assert_int_equal(mamba2_score(f->m, &s, &r), MAMBA2_EBUSY);
		assert_true(fake_gate_last_has(f->gate, inputs[form]));
	}
	mamba2_generate_options o;
	mamba2_generate_options_init(&o);
	o.model = "demo";
	o.form = 3;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EINVAL);
	assert_string_equal(mamba2_message_field(f->m), "form");
	o.form = MAMBA2_FORM_CHAT;
	o.tokens = prompt;
	o.n_tokens = 4;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EINVAL);
	assert_string_equal(mamba2_message_field(f->m), "form");
	int32_t *ids = NULL;
	size_t count = 0;
	assert_int_equal(
		mamba2_tokenize_form(f->m, "demo", MAMBA2_FORM_CHAT, "[]", 2, &ids, &count),
		MAMBA2_OK);
	assert_true(fake_gate_last_has(f->gate, inputs[MAMBA2_FORM_CHAT]));
	mamba2_free(ids);
}

/* A program that was built with the first header has a struct without `form`, and calls the function, not
 * the macro that took its place. */
static void a_program_of_the_first_version_is_served(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	struct {
		mamba2_generate_options o;
		char guard[8];
	} g;
	struct {
		mamba2_score_options o;
		char guard[8];
	} s;
	memset(&g, 0x5a, sizeof g);
	memset(&s, 0x5a, sizeof s);
	(mamba2_generate_options_init)(&g.o);
	(mamba2_score_options_init)(&s.o);
	assert_int_equal(g.o.size, offsetof(mamba2_generate_options, form));
	assert_int_equal(s.o.size, offsetof(mamba2_score_options, form));
	/* what lies behind its struct is not touched, and not read */
	assert_int_equal(g.o.form, 0x5a5a5a5a);
	assert_int_equal(s.o.form, 0x5a5a5a5a);
	g.o.model = s.o.model = "refuse";
	g.o.prompt = s.o.prompt = "x";
	g.o.prompt_bytes = s.o.prompt_bytes = 1;
	assert_int_equal(mamba2_generate(f->m, &g.o, &r), MAMBA2_EBUSY);
	assert_true(fake_gate_last_has(f->gate, "\"input\":\"text\""));
	assert_int_equal(mamba2_score(f->m, &s.o, &r), MAMBA2_EBUSY);
	assert_true(fake_gate_last_has(f->gate, "\"input\":\"text\""));
}

static void a_priority_is_sent_as_a_word_and_the_second_structs_have_none(void **state)
{
	struct fixture *f = *state;
	mamba2_generate_options o;
	mamba2_request *r = NULL;
	mamba2_generate_options_init(&o);
	o.model = "refuse";
	o.prompt = "x";
	o.prompt_bytes = 1;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EBUSY);
	assert_false(fake_gate_last_has(f->gate, "priority"));
	o.priority = MAMBA2_PRIORITY_HIGH;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EBUSY);
	assert_true(fake_gate_last_has(f->gate, "\"priority\":\"high\""));
	o.priority = 7;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EINVAL);
	assert_string_equal(mamba2_message_field(f->m), "priority");
	/* what lies behind the second struct is not read */
	o.size = offsetof(mamba2_generate_options, priority);
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EBUSY);
	assert_false(fake_gate_last_has(f->gate, "priority"));
}

static void values_out_of_range_are_refused_before_sending(void **state)
{
	struct fixture *f = *state;
	mamba2_generate_options o;
	mamba2_request *r = NULL;
#define REFUSED(field, value, name, error)                                                         \
	do {                                                                                       \
		mamba2_generate_options_init(&o);                                                  \
		o.model = "demo";                                                                  \
		o.field = (value);                                                                 \
		assert_int_equal(mamba2_generate(f->m, &o, &r), (error));                          \
		assert_string_equal(mamba2_message_field(f->m), (name));                           \
		assert_null(r);                                                                    \
	} while (0)
	REFUSED(max_tokens, 0, "max_tokens", MAMBA2_EINVAL);
	REFUSED(temperature, -1.0f, "temperature", MAMBA2_EINVAL);
	REFUSED(temperature, INFINITY, "temperature", MAMBA2_EINVAL);
	REFUSED(n, 65, "n", MAMBA2_EINVAL);
	REFUSED(model, NULL, "model", MAMBA2_EINVAL);
	REFUSED(model, "", "model", MAMBA2_EINVAL);
	REFUSED(logprobs, 65, "logprobs", MAMBA2_EINVAL);
	REFUSED(deadline_ms, -5, "deadline_ms", MAMBA2_EINVAL);
	static const int32_t many[65];
	mamba2_generate_options_init(&o);
	o.model = "demo";
	o.stop_tokens = many;
	o.n_stop_tokens = 65;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_ELIMIT);
	mamba2_generate_options_init(&o);
	o.model = "demo";
	o.prompt = "x";
	o.prompt_bytes = 5000000;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_ELIMIT);
	o.size = 3;
	assert_int_equal(mamba2_generate(f->m, &o, &r), MAMBA2_EINVAL);
	assert_int_equal(fake_gate_count(f->gate, M2_OP_GENERATE), 0);
}

static void a_refusal_carries_code_field_and_sentence(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = (mamba2_request *)f;
	assert_int_equal(generate(f, "refuse", &r), MAMBA2_EBUSY);
	assert_null(r);
	assert_string_equal(mamba2_message(f->m), "the queue is full");
	assert_string_equal(mamba2_message_field(f->m), "model");
	assert_string_equal(mamba2_error_code(MAMBA2_EBUSY), "busy");
}

static void malformed_and_foreign_answers_are_ignored(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "garbage", &r), MAMBA2_OK);
	wait_finished(r);
	assert_int_equal(mamba2_request_tokens(r, 0, NULL), FAKE_TOKENS);
	mamba2_request_free(&r);
}

static void an_answer_that_cannot_be_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "result", &r), MAMBA2_EPROTO);
}

static void results_memory_that_is_not_ours_is_refused(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *model;
		enum mamba2_error error;
		const char *word;
	} cases[] = {{"outside", MAMBA2_EPROTO, "not in"}, {"link", MAMBA2_EPROTO, "symbolic link"},
		{"offsets", MAMBA2_EFORMAT, "offset"}, {"length", MAMBA2_EPROTO, "bytes"},
		{"missing", MAMBA2_ENOENT, "results memory"},
		{"relative", MAMBA2_EPROTO, "not in"}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		mamba2_request *r = NULL;
		assert_int_equal(generate(f, cases[i].model, &r), cases[i].error);
		assert_null(r);
		if (strstr(mamba2_message(f->m), cases[i].word) == NULL)
			fail_msg("%s: \"%s\" is not in \"%s\"", cases[i].model, cases[i].word,
				mamba2_message(f->m));
		/* what was refused is given back all the same */
		assert_true(fake_gate_await(f->gate, M2_OP_RELEASE, (int)i + 1));
	}
}

static void a_cancelled_request_ends_and_keeps_what_it_has(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "slow", &r), MAMBA2_OK);
	assert_int_equal(mamba2_request_wait(r, 10000), MAMBA2_OK);
	assert_int_equal(mamba2_request_finish(r, 0), MAMBA2_RUNNING);
	assert_int_equal(mamba2_request_result(r, NULL), MAMBA2_EBUSY);
	assert_int_equal(mamba2_request_cancel(r), MAMBA2_OK);
	wait_finished(r);
	assert_int_equal(mamba2_request_finish(r, 0), MAMBA2_CANCELLED);
	assert_int_equal(mamba2_request_tokens(r, 0, NULL), 1);
	assert_int_equal(mamba2_request_cancel(r), MAMBA2_OK); /* once more: nothing to do */
	mamba2_request_free(&r);
}

static void freeing_a_running_request_cancels_and_releases_it(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "slow", &r), MAMBA2_OK);
	mamba2_request_free(&r);
	assert_true(fake_gate_await(f->gate, M2_OP_CANCEL, 1));
	assert_true(fake_gate_await(f->gate, M2_OP_RELEASE, 1));
}

static void closing_right_after_freeing_still_gives_the_memory_back(void **state)
{
	struct fixture *f = *state;
	mamba2 *m = NULL;
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = f->gate->dir;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_OK);
	struct fixture second = {.gate = f->gate, .m = m};
	mamba2_request *r = NULL;
	assert_int_equal(generate(&second, "slow", &r), MAMBA2_OK);
	mamba2_request_free(&r);
	mamba2_close(&m);
	assert_int_equal(fake_gate_count(f->gate, M2_OP_RELEASE), 1);
}

static void results_outlive_the_handle(void **state)
{
	struct fixture *f = *state;
	mamba2 *m = NULL;
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = f->gate->dir;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_OK);
	struct fixture second = {.gate = f->gate, .m = m};
	mamba2_request *done = NULL;
	mamba2_request *running = NULL;
	assert_int_equal(generate(&second, "demo", &done), MAMBA2_OK);
	assert_int_equal(generate(&second, "slow", &running), MAMBA2_OK);
	mamba2_close(&m);
	assert_int_equal(mamba2_request_tokens(done, 0, NULL), FAKE_TOKENS);
	assert_int_equal(mamba2_request_result(running, NULL), MAMBA2_EUNREACHABLE);
	assert_int_equal(mamba2_request_finish(running, 0), MAMBA2_ERROR);
	mamba2_request_free(&done);
	mamba2_request_free(&running);
}

static void waits_say_timeout_and_look_says_nothing_new(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "slow", &r), MAMBA2_OK);
	assert_int_equal(mamba2_request_wait(r, -1), MAMBA2_OK); /* the first token */
	assert_int_equal(mamba2_request_wait(r, 0), MAMBA2_ETIMEOUT);
	struct timespec before;
	struct timespec after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_int_equal(mamba2_request_wait(r, 300), MAMBA2_ETIMEOUT);
	clock_gettime(CLOCK_MONOTONIC, &after);
	const double waited = (double)(after.tv_sec - before.tv_sec) +
			      (double)(after.tv_nsec - before.tv_nsec) / 1e9;
	assert_true(waited > 0.29);
	fake_gate_command(f->gate, 'f');
	assert_int_equal(mamba2_request_wait(r, -1), MAMBA2_OK);
	wait_finished(r);
	assert_int_equal(mamba2_request_wait(r, 0), MAMBA2_OK); /* finished stays finished */
	mamba2_request_free(&r);
}

static void the_descriptor_is_readable_when_something_is_new(void **state)
{
	struct fixture *f = *state;
	mamba2_request *r = NULL;
	assert_int_equal(generate(f, "slow", &r), MAMBA2_OK);
	struct pollfd p = {.fd = mamba2_request_fd(r), .events = POLLIN};
	assert_true(p.fd >= 0);
	assert_int_equal(mamba2_request_fd(r), p.fd);
	assert_int_equal(poll(&p, 1, 10000), 1); /* the first token */
	assert_int_equal(mamba2_request_wait(r, 0), MAMBA2_OK);
	assert_int_equal(poll(&p, 1, 50), 0);
	fake_gate_command(f->gate, 'f');
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(mamba2_request_wait(r, 0), MAMBA2_OK);
	wait_finished(r);
	mamba2_request_free(&r);
	/* and freed while the watcher sleeps */
	assert_int_equal(generate(f, "slow", &r), MAMBA2_OK);
	assert_true(mamba2_request_fd(r) >= 0);
	mamba2_request_free(&r);
}

static void an_answer_that_does_not_come_is_a_timeout(void **state)
{
	struct fixture *f = *state;
	mamba2 *m = NULL;
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = f->gate->dir;
	o.timeout_ms = 200;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_OK);
	struct fixture second = {.gate = f->gate, .m = m};
	mamba2_request *r = NULL;
	assert_int_equal(generate(&second, "lost", &r), MAMBA2_ETIMEOUT);
	assert_non_null(strstr(mamba2_message(m), "200 ms"));
	assert_true(fake_gate_await(f->gate, M2_OP_CANCEL, 1)); /* nobody wants it any more */
	mamba2_close(&m);
}

static void nobody_there_is_unreachable(void **state)
{
	(void)state;
	mamba2 *m = NULL;
	mamba2_options o = MAMBA2_OPTIONS_INIT;
	o.runtime_dir = "/nonexistent/mamba2d";
	o.timeout_ms = 100;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_EUNREACHABLE);
	assert_null(m);
	assert_non_null(strstr(mamba2_message(NULL), "/nonexistent/mamba2d/client.sock"));
	char far[200];
	memset(far, 'x', sizeof far - 1);
	far[0] = '/';
	far[sizeof far - 1] = '\0';
	o.runtime_dir = far;
	assert_int_equal(mamba2_connect(&o, &m), MAMBA2_EINVAL);
	assert_string_equal(mamba2_message_field(NULL), "runtime_dir");
}

static void note_progress(void *ctx, uint64_t done, uint64_t total, const char *what)
{
	if (done == 5 && total == 10 && strcmp(what, "weights") == 0)
		++*(int *)ctx;
}

static void the_other_calls_wait_for_their_answers(void **state)
{
	struct fixture *f = *state;
	char *json = NULL;
	int seen = 0;
	assert_int_equal(mamba2_load(f->m, "demo", note_progress, &seen, &json), MAMBA2_OK);
	assert_int_equal(seen, 1);
	assert_non_null(strstr(json, "\"name\":\"demo\""));
	mamba2_free(json);
	assert_int_equal(mamba2_list(f->m, &json), MAMBA2_OK);
	assert_non_null(strstr(json, "\"variants\""));
	mamba2_free(json);
	int32_t *ids = NULL;
	size_t count = 0;
	assert_int_equal(mamba2_tokenize(f->m, "demo", "ab", 2, 0, &ids, &count), MAMBA2_OK);
	assert_int_equal(count, 2);
	assert_int_equal(ids[1], 2);
	mamba2_free(ids);
	assert_int_equal(mamba2_register(f->m, "name: x\n", 8, "/etc/x.yaml", 1, NULL), MAMBA2_OK);
	assert_true(fake_gate_last_has(f->gate, "\"source\":\"/etc/x.yaml\",\"replace\":true"));
	assert_int_equal(mamba2_drain(f->m, 5, 1, 0, NULL), MAMBA2_OK);
	assert_true(fake_gate_last_has(f->gate, "\"wait_s\":5,\"stop_daemon\":true"));
}

static void *hammer(void *fixture)
{
	struct fixture *f = fixture;
	for (int i = 0; i < 20; i++) {
		mamba2_request *r = NULL;
		if (generate(f, i % 4 == 3 ? "refuse" : "demo", &r) != MAMBA2_OK) {
			if (strcmp(mamba2_message(f->m), "the queue is full") != 0 || i % 4 != 3)
				return f;
			continue;
		}
		while (!mamba2_request_finished(r))
			if (mamba2_request_wait(r, 10000) != MAMBA2_OK)
				return f;
		if (mamba2_request_tokens(r, 0, NULL) != FAKE_TOKENS)
			return f;
		mamba2_request_free(&r);
	}
	return NULL;
}

static void threads_share_one_handle(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[4];
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, f), 0);
	for (int i = 0; i < 4; i++) {
		void *failed = NULL;
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	assert_true(fake_gate_await(f->gate, M2_OP_RELEASE, 60));
}

#define WITH_GATE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_GATE(a_request_is_accepted_published_and_finished),
		WITH_GATE(a_score_shows_the_prompt),
		WITH_GATE(options_become_fields),
		WITH_GATE(the_form_of_a_prompt_is_the_field_input),
		WITH_GATE(a_program_of_the_first_version_is_served),
		WITH_GATE(a_priority_is_sent_as_a_word_and_the_second_structs_have_none),
		WITH_GATE(values_out_of_range_are_refused_before_sending),
		WITH_GATE(a_refusal_carries_code_field_and_sentence),
		WITH_GATE(malformed_and_foreign_answers_are_ignored),
		WITH_GATE(an_answer_that_cannot_be_is_a_protocol_error),
		WITH_GATE(results_memory_that_is_not_ours_is_refused),
		WITH_GATE(a_cancelled_request_ends_and_keeps_what_it_has),
		WITH_GATE(freeing_a_running_request_cancels_and_releases_it),
		WITH_GATE(closing_right_after_freeing_still_gives_the_memory_back),
		WITH_GATE(results_outlive_the_handle),
		WITH_GATE(waits_say_timeout_and_look_says_nothing_new),
		WITH_GATE(the_descriptor_is_readable_when_something_is_new),
		WITH_GATE(an_answer_that_does_not_come_is_a_timeout),
		cmocka_unit_test(nobody_there_is_unreachable),
		WITH_GATE(the_other_calls_wait_for_their_answers),
		WITH_GATE(threads_share_one_handle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
