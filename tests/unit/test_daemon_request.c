/* The struct that travels between the processes: offsets of its body, the receiver's check, defaults. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "daemon/request.h"

static struct m2_request generate(void)
{
	struct m2_request r;
	memset(&r, 0, sizeof r);
	r.op = M2_OP_GENERATE;
	r.n = 1;
	r.logprobs = -1;
	r.wait_s = -1;
	r.key[0] = 1;
	memcpy(r.model, "demo", 5);
	return r;
}

static enum m2_err check(const struct m2_request *r)
{
	return m2_request_check(r, m2_request_body_bytes(r), NULL);
}

static void the_parts_of_a_body_lie_where_the_header_says(void **state)
{
	struct m2_request r = generate();
	(void)state;
	assert_int_equal(m2_request_body_bytes(&r), 0);
	r.prompt_bytes = 3;
	r.n_logit_bias = 2;
	r.n_stop = 2;
	r.stop_length[0] = 4;
	r.stop_length[1] = 1;
	r.stop_bytes = 5;
	assert_int_equal(m2_request_bias_at(&r), 8);
	assert_int_equal(m2_request_stop_at(&r), 24);
	assert_int_equal(m2_request_body_bytes(&r), 29);
	assert_int_equal(check(&r), M2_OK);
	assert_int_equal(m2_request_check(&r, 28, NULL), M2_EPROTO);
	assert_int_equal(m2_request_check(&r, 30, NULL), M2_EPROTO);
	r.stop_bytes = 6;
	assert_int_equal(check(&r), M2_EPROTO);
}

/* Each change alone makes a good request one that no gate sends. */
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		struct m2_request r = generate();                                                  \
		change;                                                                            \
		assert_int_equal(check(&r), M2_EPROTO);                                            \
	} while (0)

static void every_field_out_of_range_is_refused(void **state)
{
	struct m2_request r0 = generate();
	(void)state;
	assert_int_equal(check(&r0), M2_OK);
	REFUSED(r.op = 0);
	REFUSED(r.op = M2_OP_COUNT);
	REFUSED(r.client_id = UINT64_MAX);
	REFUSED(r.id = UINT64_MAX);
	REFUSED(r.route.length = 33);
	REFUSED(r.route.endpoint = 2);
	REFUSED(r.model[0] = '\0');
	REFUSED(r.model[0] = '/');
	REFUSED(memset(r.model, 'a', sizeof r.model));
	REFUSED(memset(r.source, '/', sizeof r.source));
	REFUSED(memcpy(r.source, "/x", 3)); /* generate has no source */
	REFUSED(r.flags = 1u << 31);
	REFUSED(r.flags = M2_REQUEST_RESUME);
	REFUSED(r.flags = M2_REQUEST_MESSAGES | M2_REQUEST_LOGITS);
	REFUSED(r.set = 1u << 20);
	REFUSED(r.n = 0);
	REFUSED(r.n = M2_LIMIT_COMPLETIONS + 1);
	REFUSED(r.logprobs = -2);
	REFUSED(r.logprobs = M2_LIMIT_TOP_LOGPROBS + 1);
	REFUSED(r.deadline_ms = -1);
	REFUSED(r.deadline_ms = M2_LIMIT_DEADLINE_MS + 1);
	REFUSED(r.wait_s = 5);
	REFUSED(r.request = 5);
	REFUSED(r.prompt_bytes = M2_LIMIT_PAYLOAD_BYTES + 1);
	REFUSED(r.flags = M2_REQUEST_TOKENS; r.prompt_bytes = 5);
	REFUSED(r.flags = M2_REQUEST_TOKENS | M2_REQUEST_CHAT);
	REFUSED(r.flags = M2_REQUEST_CHAT | M2_REQUEST_FILL);
	REFUSED(r.flags = M2_REQUEST_CHAT | M2_REQUEST_SPECIAL);
	REFUSED(r.flags = M2_REQUEST_FILL | M2_REQUEST_SPECIAL);
	REFUSED(r.n_logit_bias = M2_LIMIT_LOGIT_BIAS + 1);
	REFUSED(r.n_stop = M2_LIMIT_STOP_STRINGS + 1);
	REFUSED(r.n_stop = 1); /* of length 0 */
	REFUSED(r.n_stop = 1; r.stop_length[0] = M2_LIMIT_STOP_BYTES + 1;
		r.stop_bytes = M2_LIMIT_STOP_BYTES + 1);
}

static void sampling_fields_count_only_where_they_are_set(void **state)
{
	struct m2_request r0 = generate();
	(void)state;
	r0.sampling.temperature = NAN;
	r0.sampling.n_stop_tokens = -7;
	assert_int_equal(check(&r0), M2_OK);
	REFUSED(r.set = M2_SET_TEMPERATURE; r.sampling.temperature = NAN);
	REFUSED(r.set = M2_SET_TEMPERATURE; r.sampling.temperature = -0.5f);
	REFUSED(r.set = M2_SET_TOP_P; r.sampling.top_p = 1.5f);
	REFUSED(r.set = M2_SET_MIN_P; r.sampling.min_p = INFINITY);
	REFUSED(r.set = M2_SET_TOP_K; r.sampling.top_k = -1);
	REFUSED(r.set = M2_SET_MAX_TOKENS; r.sampling.max_tokens = 0);
	REFUSED(r.set = M2_SET_REPETITION; r.sampling.repetition_penalty = 0);
	REFUSED(r.set = M2_SET_PRESENCE; r.sampling.presence_penalty = -101);
	REFUSED(r.set = M2_SET_FREQUENCY; r.sampling.frequency_penalty = 101);
	REFUSED(r.set = M2_SET_SEED; r.sampling.seed = UINT64_MAX);
	REFUSED(r.set = M2_SET_STOP_TOKENS; r.sampling.n_stop_tokens = -1);
	REFUSED(r.set = M2_SET_STOP_TOKENS; r.sampling.n_stop_tokens = M2_LIMIT_STOP_TOKENS + 1);
	REFUSED(r.set = M2_SET_STOP_TOKENS; r.sampling.n_stop_tokens = 1;
		r.sampling.stop_tokens[0] = -1);
	r0 = generate();
	r0.set = M2_SET_REPETITION;
	r0.sampling.repetition_penalty = 0.01f; /* the smallest that the wire allows, as a float */
	assert_int_equal(check(&r0), M2_OK);
}

static void the_form_of_a_prompt_goes_with_its_op(void **state)
{
	static const uint32_t forms[] = {M2_REQUEST_TOKENS, M2_REQUEST_CHAT, M2_REQUEST_FILL};
	static const struct {
		uint32_t op;
		bool takes[3];
	} cases[] = {{M2_OP_GENERATE, {true, true, true}}, {M2_OP_SCORE, {true, true, true}},
		{M2_OP_TOKENIZE, {false, true, true}}, {M2_OP_DETOKENIZE, {true, false, false}},
		{M2_OP_SHOW, {false, false, false}}};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		for (size_t f = 0; f < 3; f++) {
			struct m2_request r = generate();
			r.op = cases[i].op;
			r.flags = forms[f];
			assert_int_equal(check(&r), cases[i].takes[f] ? M2_OK : M2_EPROTO);
		}
}

static void a_field_of_another_op_is_refused(void **state)
{
	struct m2_request r = generate();
	(void)state;
	r.op = M2_OP_STATUS;
	assert_int_equal(check(&r), M2_EPROTO); /* it names a model */
	r.model[0] = '\0';
	assert_int_equal(check(&r), M2_OK);
	r.n = 2;
	assert_int_equal(check(&r), M2_EPROTO);
	r.n = 1;
	r.set = M2_SET_SEED;
	assert_int_equal(check(&r), M2_EPROTO);
	r.set = 0;
	r.prompt_bytes = 1;
	assert_int_equal(check(&r), M2_EPROTO);
}

static void defaults_fill_what_the_request_left_and_nothing_else(void **state)
{
	static struct m2_variant v;
	struct m2_request r = generate();
	(void)state;
	v.defaults = (struct m2_variant_defaults){.max_tokens = 77,
		.temperature = 0.5f,
		.top_k = 9,
		.top_p = 0.25f,
		.min_p = 0.125f,
		.repetition_penalty = 1.5f,
		.presence_penalty = 2,
		.frequency_penalty = 3,
		.n_stop_tokens = 1,
		.stop_tokens = {42}};
	r.set = M2_SET_TEMPERATURE | M2_SET_STOP_TOKENS;
	r.sampling.temperature = 0; /* greedy was asked for: zero is an answer */
	r.sampling.n_stop_tokens = 0;
	m2_request_apply_defaults(&r, &v);
	assert_true(r.sampling.temperature == 0);
	assert_int_equal(r.sampling.n_stop_tokens, 0);
	assert_int_equal(r.sampling.max_tokens, 77);
	assert_int_equal(r.sampling.top_k, 9);
	assert_true(r.sampling.top_p == 0.25f && r.sampling.min_p == 0.125f);
	assert_true(r.sampling.repetition_penalty == 1.5f);
	assert_true(r.sampling.presence_penalty == 2 && r.sampling.frequency_penalty == 3);
	r.set = 0;
	m2_request_apply_defaults(&r, &v);
	assert_int_equal(r.sampling.n_stop_tokens, 1);
	assert_int_equal(r.sampling.stop_tokens[0], 42);
	assert_true(r.sampling.temperature == 0.5f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_parts_of_a_body_lie_where_the_header_says),
		cmocka_unit_test(every_field_out_of_range_is_refused),
		cmocka_unit_test(sampling_fields_count_only_where_they_are_set),
		cmocka_unit_test(the_form_of_a_prompt_goes_with_its_op),
		cmocka_unit_test(a_field_of_another_op_is_refused),
		cmocka_unit_test(defaults_fill_what_the_request_left_and_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
