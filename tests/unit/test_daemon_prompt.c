/* test_daemon_prompt.c - the JSON of a conversation and of a gap: what is taken, and each refusal by the
 * member that is at fault.  Ids on a small byte-level tokenizer: what the template makes of the parts is
 * tested in test_model_template.c. */
#include "tests/unit/test_model_parts.h"

#include "common/limits.h"
#include "daemon/prompt.h"

enum { BOS = 263, EOS, INST, END_INST, PREFIX, SUFFIX };

#define SPECIAL(id, text)                                                                          \
	"{\"id\":" #id ",\"content\":\"" text "\",\"special\":true,\"normalized\":false}"

static struct m2_tokenizer *tokenizer;

static int make_tokenizer(void **state)
{
	(void)state;
	tokenizer = make(
		(struct parts){.added = SPECIAL(263, "<s>") "," SPECIAL(264, "</s>") "," SPECIAL(
				       265, "[INST]") "," SPECIAL(266, "[/INST]") "," SPECIAL(267,
				       "[PREFIX]") "," SPECIAL(268, "[SUFFIX]")});
	return 0;
}

static int close_tokenizer(void **state)
{
	(void)state;
	m2_tokenizer_close(&tokenizer);
	return 0;
}

/* Ids of a payload must be those given, -1 at the end. */
static void take(enum m2_prompt_form form, const char *json, ...)
{
	int32_t *ids = NULL;
	size_t count = 0;
	struct m2_why why = {.text = ""};
	va_list wanted;
	if (m2_prompt_encode(
		    json, strlen(json), form, tokenizer, "demo", 1000, &ids, &count, &why) != M2_OK)
		fail_msg("%s: %s: %s", json, why.field, why.text);
	va_start(wanted, json);
	for (size_t i = 0; i <= count; i++)
		assert_int_equal(va_arg(wanted, int), i < count ? ids[i] : -1);
	va_end(wanted);
	free(ids);
}

static void refuse_bytes(enum m2_prompt_form form, const char *json, size_t length,
	enum m2_err wanted, const char *field, const char *word)
{
	int32_t *ids = NULL;
	size_t count = 0;
	struct m2_why why = {.text = ""};
	/* a copy of its exact size: a sanitizer sees a byte beyond it */
	char *copy = malloc(length > 0 ? length : 1);
	assert_non_null(copy);
	memcpy(copy, json, length);
	const enum m2_err err =
		m2_prompt_encode(copy, length, form, tokenizer, "demo", 1000, &ids, &count, &why);
	free(copy);
	if (err != wanted || strcmp(why.field, field) != 0 || strstr(why.text, word) == NULL)
		fail_msg("%.60s: %s, \"%s\", \"%s\"", json, m2_err_code(err), why.field, why.text);
	assert_null(ids);
}

static void refuse_it(
	enum m2_prompt_form form, const char *json, const char *field, const char *word)
{
	refuse_bytes(form, json, strlen(json), M2_EINVAL, field, word);
}

static void a_conversation_becomes_ids(void **state)
{
	(void)state;
	take(M2_PROMPT_CHAT, "[{\"role\":\"user\",\"content\":\"a\"}]", BOS, INST, 'a', END_INST,
		-1);
	take(M2_PROMPT_CHAT,
		" [ {\"content\":\"S\",\"role\":\"system\"},{\"role\":\"user\",\"content\":\"a\"},"
		"{\"role\":\"assistant\",\"content\":\"b\"},"
		"{\"role\":\"user\",\"content\":\"he\\u006c\\u0000\\n\"}]\n",
		BOS, INST, 'a', END_INST, 'b', EOS, INST, 'S', '\n', '\n', HE, 'l', 0, '\n',
		END_INST, -1);
	/* a quote, a brace and a comma of a text are no structure */
	take(M2_PROMPT_CHAT, "[{\"role\":\"user\",\"content\":\"\\\"{,[\\\\\"}]", BOS, INST, '"',
		'{', ',', '[', '\\', END_INST, -1);
}

static void a_gap_becomes_ids(void **state)
{
	(void)state;
	take(M2_PROMPT_FILL, "{\"prefix\":\"ab\",\"suffix\":\"cd\"}", BOS, SUFFIX, 'c', 'd', PREFIX,
		'a', 'b', -1);
	take(M2_PROMPT_FILL, "{\"suffix\":\"\",\"prefix\":\"\"}", BOS, SUFFIX, PREFIX, -1);
}

static void a_refusal_names_the_message_and_its_member(void **state)
{
	(void)state;
#define CHAT_REFUSED(json, field, word) refuse_it(M2_PROMPT_CHAT, json, field, word)
#define USER                            "{\"role\":\"user\",\"content\":\"x\"}"
	CHAT_REFUSED("", "payload", "payload");
	CHAT_REFUSED("[", "payload", "payload");
	CHAT_REFUSED("[" USER "] x", "payload", "payload");
	CHAT_REFUSED("{}", "messages", "not an array");
	CHAT_REFUSED("\"x\"", "messages", "not an array");
	CHAT_REFUSED("null", "messages", "not an array");
	CHAT_REFUSED("[]", "messages", "user's turn");
	CHAT_REFUSED("[1]", "messages[0]", "messages[0] is not an object");
	CHAT_REFUSED("[" USER ",null]", "messages[1]", "messages[1] is not an object");
	CHAT_REFUSED("[{}]", "messages[0].role", "missing");
	CHAT_REFUSED("[{\"role\":\"user\"}]", "messages[0].content", "missing");
	CHAT_REFUSED("[{\"content\":\"x\"}]", "messages[0].role", "missing");
	CHAT_REFUSED("[{\"role\":1,\"content\":\"x\"}]", "messages[0].role", "not a string");
	CHAT_REFUSED("[{\"role\":null,\"content\":\"x\"}]", "messages[0].role", "not a string");
	CHAT_REFUSED("[{\"role\":\"tool\",\"content\":\"x\"}]", "messages[0].role", "none of");
	CHAT_REFUSED("[{\"role\":\"User\",\"content\":\"x\"}]", "messages[0].role", "none of");
	CHAT_REFUSED(
		"[{\"role\":\"user\\u0000\",\"content\":\"x\"}]", "messages[0].role", "none of");
	CHAT_REFUSED("[{\"role\":\"user\",\"content\":[]}]", "payload", "deep");
	CHAT_REFUSED("[{\"role\":\"user\",\"content\":7}]", "messages[0].content", "not a string");
	CHAT_REFUSED("[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]", "messages[0]",
		"other than");
	CHAT_REFUSED(
		"[{\"role\":\"user\",\"content\":\"x\",\"content\":\"y\"}]", "payload", "content");
	CHAT_REFUSED("[" USER "," USER "]", "messages", "turn 1 is the user's");
	CHAT_REFUSED("[{\"role\":\"assistant\",\"content\":\"x\"}]", "messages", "turn 0");
	CHAT_REFUSED("[" USER ",{\"role\":\"assistant\",\"content\":\"x\"}]", "messages", "last");
#define FILL_REFUSED(json, field, word) refuse_it(M2_PROMPT_FILL, json, field, word)
	FILL_REFUSED("[]", "payload", "prefix and suffix");
	FILL_REFUSED("{", "payload", "payload");
	FILL_REFUSED("{}", "prefix", "missing");
	FILL_REFUSED("{\"prefix\":\"x\"}", "suffix", "missing");
	FILL_REFUSED("{\"suffix\":\"x\"}", "prefix", "missing");
	FILL_REFUSED("{\"prefix\":\"x\",\"suffix\":2}", "suffix", "not a string");
	FILL_REFUSED("{\"prefix\":\"x\",\"suffix\":\"y\",\"middle\":\"z\"}", "payload",
		"prefix and suffix");
}

static void too_much_is_refused_before_it_is_parsed(void **state)
{
	enum { MANY = M2_LIMIT_PROMPT_TURNS };
	(void)state;
	static const char turn[2][48] = {"{\"role\":\"user\",\"content\":\"x\"},",
		"{\"role\":\"assistant\",\"content\":\"x\"},"};
	char *json = malloc((size_t)(MANY + 2) * sizeof turn[0]);
	assert_non_null(json);
	/* one message too many: an odd number ends with the user's */
	size_t n = 0;
	json[n++] = '[';
	for (int i = 0; i <= MANY; i++) {
		memcpy(json + n, turn[i % 2], strlen(turn[i % 2]));
		n += strlen(turn[i % 2]);
	}
	json[n - 1] = ']';
	refuse_bytes(M2_PROMPT_CHAT, json, n, M2_ELIMIT, "messages", "PROMPT_TURNS");
	free(json);
	/* what would take a gigabyte as objects */
	n = M2_LIMIT_PAYLOAD_BYTES;
	json = malloc(n);
	assert_non_null(json);
	for (size_t i = 0; i < n; i++)
		json[i] = "{},"[i % 3];
	json[0] = '[';
	refuse_bytes(M2_PROMPT_CHAT, json, n, M2_ELIMIT, "messages", "PROMPT_TURNS");
	refuse_bytes(M2_PROMPT_FILL, json, n, M2_EINVAL, "payload", "prefix and suffix");
	memset(json, '[', n);
	refuse_bytes(M2_PROMPT_CHAT, json, n, M2_ELIMIT, "messages", "PROMPT_TURNS");
	memset(json, '"', n);
	refuse_bytes(M2_PROMPT_CHAT, json, n, M2_EINVAL, "payload", "payload");
	memset(json, '\\', n);
	refuse_bytes(M2_PROMPT_CHAT, json, n, M2_EINVAL, "payload", "payload");
	free(json);
	/* more tokens than the caller's limit */
	int32_t *ids = NULL;
	size_t count = 0;
	struct m2_why why = {.text = ""};
	static const char one[] = "[{\"role\":\"user\",\"content\":\"abcd\"}]";
	assert_int_equal(m2_prompt_encode(one, sizeof one - 1, M2_PROMPT_CHAT, tokenizer, "demo", 5,
				 &ids, &count, &why),
		M2_ELIMIT);
	assert_null(ids);
}

static void a_tokenizer_without_a_template_is_named_with_its_variant(void **state)
{
	(void)state;
	struct m2_tokenizer *plain = make((struct parts){.added = NULL});
	int32_t *ids = NULL;
	size_t count = 0;
	struct m2_why why = {.text = ""};
	assert_int_equal(m2_prompt_encode("[]", 2, M2_PROMPT_CHAT, plain, "mamba2-130m", 1000, &ids,
				 &count, &why),
		M2_EUNSUPPORTED);
	assert_non_null(strstr(why.text, "mamba2-130m"));
	assert_string_equal(why.field, "input");
	assert_null(ids);
	m2_tokenizer_close(&plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_conversation_becomes_ids),
		cmocka_unit_test(a_gap_becomes_ids),
		cmocka_unit_test(a_refusal_names_the_message_and_its_member),
		cmocka_unit_test(too_much_is_refused_before_it_is_parsed),
		cmocka_unit_test(a_tokenizer_without_a_template_is_named_with_its_variant),
	};
	return cmocka_run_group_tests(tests, make_tokenizer, close_tokenizer);
}
