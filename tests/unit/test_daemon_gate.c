/* What a client's bytes become: the gate's parser, the peer's identity, and whose connection it is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/gate_parse.h"
#include "daemon/gate_peers.h"

#define KEY "00112233445566778899aabbccddeeff"
#define GEN "\"v\":1,\"op\":\"generate\",\"id\":7,\"key\":\"" KEY "\",\"model\":\"demo\""

struct parsed {
	enum m2_err err;
	struct m2_request r;
	void *body;
	size_t body_bytes;
	struct m2_why why;
};

static struct parsed parse(enum m2_endpoint where, const char *header, const char *payload)
{
	struct parsed p = {.why = {"", ""}};
	p.err = m2_gate_parse(header, strlen(header), payload,
		payload != NULL ? strlen(payload) : 0, where, &p.r, &p.body, &p.body_bytes, &p.why);
	return p;
}

static void accept_it(const char *header, const char *payload)
{
	struct parsed p = parse(M2_ENDPOINT_CONTROL, header, payload);
	if (p.err != M2_OK)
		fail_msg("%s: %s", header, p.why.text);
	assert_int_equal(m2_request_check(&p.r, p.body_bytes, &p.why), M2_OK);
	free(p.body);
}

static void refuse_it(const char *header, const char *payload, enum m2_err err, const char *field)
{
	struct parsed p = parse(M2_ENDPOINT_CLIENT, header, payload);
	if (p.err != err || strcmp(p.why.field, field) != 0 || p.why.text[0] == '\0')
		fail_msg("%s: %d, field \"%s\", \"%s\"", header, p.err, p.why.field, p.why.text);
	assert_null(p.body);
}

static void a_full_request_becomes_its_struct(void **state)
{
	static const char header[] =
		"{" GEN ",\"input\":\"text\",\"special\":true,\"max_tokens\":12,\"n\":3,"
		"\"temperature\":0.5,\"top_k\":40,\"top_p\":0.75,\"min_p\":0.25,"
		"\"repetition_penalty\":1.5,\"presence_penalty\":-2,"
		"\"frequency_penalty\":2.5,\"logit_bias\":[[5,-1000],[6,0.5]],"
		"\"seed\":9007199254740991,\"stop_tokens\":[1,2],"
		"\"stop\":[\"ab\",\"\\u00e9\"],\"ignore_eos\":true,\"logprobs\":4,"
		"\"echo\":true,\"deadline_ms\":1000,\"stream\":\"messages\"}";
	struct parsed p = parse(M2_ENDPOINT_CLIENT, header, "Hello");
	const struct m2_sampling *s = &p.r.sampling;
	(void)state;
	assert_int_equal(p.err, M2_OK);
	assert_int_equal(p.r.op, M2_OP_GENERATE);
	assert_int_equal(p.r.client_id, 7);
	assert_int_equal(p.r.key[0], 0x00);
	assert_int_equal(p.r.key[15], 0xff);
	assert_string_equal(p.r.model, "demo");
	assert_int_equal(p.r.n, 3);
	assert_int_equal(p.r.logprobs, 4);
	assert_int_equal(p.r.deadline_ms, 1000);
	assert_int_equal(p.r.flags,
		M2_REQUEST_SPECIAL | M2_REQUEST_IGNORE_EOS | M2_REQUEST_ECHO | M2_REQUEST_MESSAGES);
	assert_int_equal(p.r.set, (1 << 10) - 1);
	assert_int_equal(s->max_tokens, 12);
	assert_int_equal(s->top_k, 40);
	assert_true(s->temperature == 0.5f && s->top_p == 0.75f && s->min_p == 0.25f);
	assert_true(s->repetition_penalty == 1.5f && s->presence_penalty == -2);
	assert_true(s->frequency_penalty == 2.5f);
	assert_int_equal(s->seed, 9007199254740991);
	assert_int_equal(s->n_stop_tokens, 2);
	assert_int_equal(s->stop_tokens[1], 2);
	assert_int_equal(p.r.prompt_bytes, 5);
	assert_memory_equal(p.body, "Hello", 5);
	const struct m2_logit_bias *bias =
		(const void *)((const char *)p.body + m2_request_bias_at(&p.r));
	assert_int_equal(bias[0].id, 5);
	assert_true(bias[0].bias == -1000 && bias[1].bias == 0.5f);
	assert_int_equal(p.r.stop_bytes, 4);
	assert_memory_equal((const char *)p.body + m2_request_stop_at(&p.r), "ab\xc3\xa9", 4);
	assert_int_equal(m2_request_check(&p.r, p.body_bytes, NULL), M2_OK);
	free(p.body);
}

static void the_word_of_input_says_what_the_payload_is(void **state)
{
	static const struct {
		const char *field;
		uint32_t flag;
	} cases[] = {{"", 0}, {",\"input\":\"text\"", 0},
		{",\"input\":\"tokens\"", M2_REQUEST_TOKENS},
		{",\"input\":\"chat\"", M2_REQUEST_CHAT}, {",\"input\":\"fill\"", M2_REQUEST_FILL}};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char header[256];
		(void)snprintf(header, sizeof header, "{" GEN "%s}", cases[i].field);
		struct parsed p = parse(M2_ENDPOINT_CLIENT, header, "[  ]");
		assert_int_equal(p.err, M2_OK);
		assert_int_equal(p.r.flags, cases[i].flag);
		/* the gate looks at no JSON but its own: the worker reads the payload */
		assert_int_equal(p.r.prompt_bytes, 4);
		assert_memory_equal(p.body, "[  ]", 4);
		free(p.body);
	}
}

static void every_op_has_a_header_that_passes(void **state)
{
	(void)state;
	accept_it("{" GEN "}", "x");
	accept_it("{\"v\":1,\"op\":\"score\",\"key\":\"" KEY
		  "\",\"model\":\"a\",\"input\":\"tokens\","
		  "\"logits\":true}",
		"abcd");
	accept_it("{\"v\":1,\"op\":\"tokenize\",\"model\":\"a\"}", "");
	accept_it("{\"v\":1,\"op\":\"tokenize\",\"model\":\"a\",\"input\":\"chat\"}", "[]");
	accept_it("{\"v\":1,\"op\":\"detokenize\",\"model\":\"a\"}", "abcdefgh");
	accept_it("{\"v\":1,\"op\":\"cancel\",\"request\":5}", NULL);
	accept_it("{\"v\":1,\"op\":\"cancel\",\"target\":\"" KEY "\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"release\",\"request\":5}", NULL);
	accept_it("{\"v\":1,\"op\":\"attach\",\"target\":\"" KEY "\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"list\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"show\",\"model\":\"a\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"status\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"ps\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"load\",\"model\":\"a\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"unload\",\"model\":\"a\",\"wait_s\":0}", NULL);
	accept_it("{\"v\":1,\"op\":\"register\",\"source\":\"/x/a.yaml\",\"replace\":true}",
		"name: a");
	accept_it("{\"v\":1,\"op\":\"remove\",\"model\":\"a\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"reload\"}", NULL);
	accept_it("{\"v\":1,\"op\":\"drain\",\"wait_s\":5,\"stop_daemon\":true}", NULL);
}

static void a_refusal_names_its_field_and_code(void **state)
{
	(void)state;
	refuse_it("", NULL, M2_EPROTO, "");
	refuse_it("[]", NULL, M2_EPROTO, "");
	refuse_it("{", NULL, M2_EPROTO, "");
	refuse_it("{\"op\":\"list\"}", NULL, M2_EPROTO, "v");
	refuse_it("{\"v\":2,\"op\":\"list\"}", NULL, M2_EPROTO, "v");
	refuse_it("{\"v\":1}", NULL, M2_EINVAL, "op");
	refuse_it("{\"v\":1,\"op\":\"fly\"}", NULL, M2_EINVAL, "op");
	refuse_it("{\"v\":1,\"op\":\"list\",\"op\":\"list\"}", NULL, M2_EPROTO, "");
	refuse_it("{\"v\":1,\"op\":\"list\",\"color\":1}", NULL, M2_EINVAL, "color");
	refuse_it("{\"v\":1,\"op\":\"list\",\"model\":\"a\"}", NULL, M2_EINVAL, "model");
	refuse_it("{\"v\":1,\"op\":\"list\"}", "x", M2_EPROTO, "");
	refuse_it("{" GEN "}", NULL, M2_EPROTO, "");
	refuse_it("{\"v\":1,\"op\":\"generate\",\"model\":\"a\"}", "x", M2_EINVAL, "key");
	refuse_it("{\"v\":1,\"op\":\"generate\",\"key\":\"" KEY "\"}", "x", M2_EINVAL, "model");
	refuse_it("{" GEN ",\"n\":0}", "x", M2_EINVAL, "n");
	refuse_it("{" GEN ",\"n\":1.5}", "x", M2_EINVAL, "n");
	refuse_it("{" GEN ",\"n\":\"1\"}", "x", M2_EINVAL, "n");
	refuse_it("{" GEN ",\"n\":99999999999999999999}", "x", M2_EINVAL, "n");
	refuse_it("{" GEN ",\"n\":null}", "x", M2_EINVAL, "n");
	refuse_it("{" GEN ",\"temperature\":Infinity}", "x", M2_EINVAL, "temperature");
	refuse_it("{" GEN ",\"temperature\":NaN}", "x", M2_EINVAL, "temperature");
	refuse_it("{" GEN ",\"temperature\":-0.1}", "x", M2_EINVAL, "temperature");
	refuse_it("{" GEN ",\"special\":1}", "x", M2_EINVAL, "special");
	refuse_it("{" GEN ",\"stop\":[\"\"]}", "x", M2_EINVAL, "stop");
	refuse_it("{" GEN ",\"stop\":\"a\"}", "x", M2_EINVAL, "stop");
	refuse_it("{" GEN ",\"stop_tokens\":[-1]}", "x", M2_EINVAL, "stop_tokens");
	refuse_it("{" GEN ",\"logit_bias\":[[1]]}", "x", M2_EINVAL, "logit_bias");
	refuse_it("{" GEN ",\"logit_bias\":[[-1,0]]}", "x", M2_EINVAL, "logit_bias");
	refuse_it("{" GEN ",\"logit_bias\":[[1,1e30]]}", "x", M2_EINVAL, "logit_bias");
	refuse_it("{" GEN ",\"logit_bias\":{\"1\":2}}", "x", M2_EINVAL, "logit_bias");
	refuse_it("{" GEN ",\"stream\":\"tcp\"}", "x", M2_EINVAL, "stream");
	refuse_it("{" GEN ",\"stream\":\"messages\",\"logits\":true}", "x", M2_EINVAL, "stream");
	refuse_it("{" GEN ",\"input\":\"tokens\"}", "abc", M2_EINVAL, "input");
	refuse_it("{" GEN "}", "\xff", M2_EINVAL, "input");
	refuse_it("{" GEN ",\"input\":\"poem\"}", "x", M2_EINVAL, "input");
	refuse_it("{" GEN ",\"input\":\"Chat\"}", "[]", M2_EINVAL, "input");
	refuse_it("{" GEN ",\"input\":\"chat\"}", "\xff", M2_EINVAL, "input");
	refuse_it("{" GEN ",\"input\":\"chat\"}", NULL, M2_EPROTO, "");
	refuse_it("{" GEN ",\"input\":\"chat\",\"special\":true}", "[]", M2_EINVAL, "special");
	refuse_it("{" GEN ",\"special\":true,\"input\":\"fill\"}", "{}", M2_EINVAL, "special");
	refuse_it("{\"v\":1,\"op\":\"tokenize\",\"model\":\"a\",\"input\":\"tokens\"}", "abcd",
		M2_EINVAL, "input");
	refuse_it("{\"v\":1,\"op\":\"show\",\"model\":\"../x\"}", NULL, M2_EINVAL, "model");
	refuse_it("{\"v\":1,\"op\":\"show\",\"model\":\"A\"}", NULL, M2_EINVAL, "model");
	refuse_it("{\"v\":1,\"op\":\"attach\",\"target\":\"00\"}", NULL, M2_EINVAL, "target");
	refuse_it("{\"v\":1,\"op\":\"attach\",\"target\":\"zz112233445566778899aabbccddeeff\"}",
		NULL, M2_EINVAL, "target");
	refuse_it("{\"v\":1,\"op\":\"attach\",\"target\":\"00000000000000000000000000000000\"}",
		NULL, M2_EINVAL, "target");
	refuse_it("{\"v\":1,\"op\":\"cancel\"}", NULL, M2_EINVAL, "request");
	refuse_it("{\"v\":1,\"op\":\"load\",\"model\":\"a\"}", NULL, M2_EACCES, "op");
}

static void entries_beyond_the_limit_are_a_limit_error(void **state)
{
	static const char start[] = "{" GEN ",\"stop_tokens\":[1";
	char header[1024];
	size_t at = sizeof start - 1;
	(void)state;
	memcpy(header, start, at);
	for (int i = 0; i < M2_LIMIT_STOP_TOKENS; i++, at += 2)
		memcpy(header + at, ",1", 2);
	memcpy(header + at, "]}", 3);
	refuse_it(header, "x", M2_ELIMIT, "stop_tokens");
}

static void a_header_or_payload_beyond_its_limit_is_refused(void **state)
{
	static char big[M2_LIMIT_PAYLOAD_BYTES + 2];
	struct parsed p = {.why = {"", ""}};
	(void)state;
	memset(big, ' ', sizeof big - 1);
	p.err = m2_gate_parse(big, M2_LIMIT_HEADER_BYTES + 1, NULL, 0, M2_ENDPOINT_CLIENT, &p.r,
		&p.body, &p.body_bytes, &p.why);
	assert_int_equal(p.err, M2_ELIMIT);
	static const char header[] = "{" GEN "}";
	p.err = m2_gate_parse(header, sizeof header - 1, big, M2_LIMIT_PAYLOAD_BYTES + 1,
		M2_ENDPOINT_CLIENT, &p.r, &p.body, &p.body_bytes, &p.why);
	assert_int_equal(p.err, M2_ELIMIT);
	p.err = m2_gate_parse(header, sizeof header - 1, big, M2_LIMIT_PAYLOAD_BYTES,
		M2_ENDPOINT_CLIENT, &p.r, &p.body, &p.body_bytes, &p.why);
	assert_int_equal(p.err, M2_OK);
	free(p.body);
}

static void a_refusal_still_knows_whom_to_answer(void **state)
{
	struct parsed p = parse(
		M2_ENDPOINT_CLIENT, "{\"v\":9,\"id\":77,\"key\":\"" KEY "\",\"op\":\"x\"}", NULL);
	(void)state;
	assert_int_equal(p.err, M2_EPROTO);
	assert_int_equal(p.r.client_id, 77);
	assert_int_equal(p.r.key[15], 0xff);
	p = parse(
		M2_ENDPOINT_CLIENT, "{\"v\":1,\"id\":-4,\"key\":\"short\",\"op\":\"list\"}", NULL);
	assert_int_not_equal(p.err, M2_OK);
	assert_int_equal(p.r.client_id, 0);
	assert_int_equal(p.r.key[0], 0);
}

static void a_peer_is_three_decimal_fields_from_the_right(void **state)
{
	uint32_t uid = 1;
	uint32_t gid = 2;
	uint32_t pid = 3;
	(void)state;
	assert_true(m2_gate_peer("localhost:65534:100:12242", &uid, &gid, &pid));
	assert_int_equal(uid, 65534);
	assert_int_equal(gid, 100);
	assert_int_equal(pid, 12242);
	assert_true(m2_gate_peer("a:b:c:0:4294967295:1", &uid, &gid, &pid));
	assert_int_equal(uid, 0);
	assert_int_equal(gid, UINT32_MAX);
	static const char *const wrong[] = {NULL, "", "localhost", "1:2:3", "localhost:1:2",
		"localhost:1:2:", "localhost::2:3", "localhost:x:2:3", "localhost:-1:2:3",
		"localhost:1:2:4294967296", "localhost:1:2:99999999999", "localhost: 1:2:3",
		"localhost:1:2:3 "};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_false(m2_gate_peer(wrong[i], &uid, &gid, &pid));
}

static void an_answer_goes_only_to_the_user_who_spoke_last(void **state)
{
	struct m2_peers *peers = m2_peers_create(4);
	const uint8_t id[32] = {1, 2, 3};
	(void)state;
	assert_non_null(peers);
	assert_false(m2_peers_match(peers, 0, id, 5, 1000));
	m2_peers_note(peers, 0, id, 5, 1000);
	assert_true(m2_peers_match(peers, 0, id, 5, 1000));
	assert_false(m2_peers_match(peers, 0, id, 5, 1001));
	assert_false(
		m2_peers_match(peers, 1, id, 5, 1000)); /* the other endpoint's ids are others */
	assert_false(m2_peers_match(peers, 0, id, 4, 1000));
	m2_peers_note(peers, 0, id, 5, 1001); /* taken over */
	assert_false(m2_peers_match(peers, 0, id, 5, 1000));
	assert_true(m2_peers_match(peers, 0, id, 5, 1001));
	m2_peers_note(peers, 0, id, 32, 7);
	assert_true(m2_peers_match(peers, 0, id, 32, 7));
	m2_peers_destroy(&peers);
	assert_null(peers);
}

static void beyond_its_capacity_the_longest_silent_is_forgotten(void **state)
{
	enum { CAPACITY = 100, CONNECTIONS = 5000 };
	struct m2_peers *peers = m2_peers_create(CAPACITY);
	(void)state;
	assert_non_null(peers);
	for (uint32_t i = 0; i < CONNECTIONS; i++) {
		m2_peers_note(peers, 0, (const uint8_t *)&i, 4, i);
		m2_peers_note(peers, 0, (const uint8_t *)"talker", 6, 42); /* speaks all the time */
	}
	assert_true(m2_peers_match(peers, 0, (const uint8_t *)"talker", 6, 42));
	uint32_t known = 0;
	for (uint32_t i = 0; i < CONNECTIONS; i++) {
		const bool match = m2_peers_match(peers, 0, (const uint8_t *)&i, 4, i);
		assert_int_equal(match, i >= CONNECTIONS - (CAPACITY - 1));
		known += match;
	}
	assert_int_equal(known, CAPACITY - 1);
	m2_peers_destroy(&peers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_request_becomes_its_struct),
		cmocka_unit_test(the_word_of_input_says_what_the_payload_is),
		cmocka_unit_test(every_op_has_a_header_that_passes),
		cmocka_unit_test(a_refusal_names_its_field_and_code),
		cmocka_unit_test(entries_beyond_the_limit_are_a_limit_error),
		cmocka_unit_test(a_header_or_payload_beyond_its_limit_is_refused),
		cmocka_unit_test(a_refusal_still_knows_whom_to_answer),
		cmocka_unit_test(a_peer_is_three_decimal_fields_from_the_right),
		cmocka_unit_test(an_answer_goes_only_to_the_user_who_spoke_last),
		cmocka_unit_test(beyond_its_capacity_the_longest_silent_is_forgotten),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
