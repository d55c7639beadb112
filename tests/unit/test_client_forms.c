/* test_client_forms.c - conversations and gaps as the JSON that a prompt of those forms is: no handle, no
 * daemon.  That the form is sent with the prompt is test_client.c's. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "client/mamba2.h"

/* The JSON of the two forms, as the daemon reads it. */
static void texts_become_the_json_of_a_form(void **state)
{
	(void)state;
	char *json = NULL;
	size_t bytes = 0;
	const mamba2_chat_message messages[] = {
		{"system", "a\"b\\", 4}, {"user", "\xc3\xa9\n\0/", 5}};
	static const char chat[] = "[{\"role\":\"system\",\"content\":\"a\\\"b\\\\\"},"
				   "{\"role\":\"user\",\"content\":\"\xc3\xa9\\n\\u0000/\"}]";
	assert_int_equal(mamba2_chat_json(messages, 2, &json, &bytes), MAMBA2_OK);
	assert_string_equal(json, chat);
	assert_int_equal(bytes, strlen(chat));
	mamba2_free(json);
	assert_int_equal(mamba2_fill_json("a", 1, NULL, 0, &json, &bytes), MAMBA2_OK);
	assert_string_equal(json, "{\"prefix\":\"a\",\"suffix\":\"\"}");
	mamba2_free(json);
	assert_int_equal(mamba2_fill_json("a", 1, "\xff", 1, &json, &bytes), MAMBA2_EINVAL);
	assert_null(json);
	assert_string_equal(mamba2_message_field(NULL), "suffix");
	const mamba2_chat_message nobody = {NULL, "x", 1};
	assert_int_equal(mamba2_chat_json(&nobody, 1, &json, &bytes), MAMBA2_EINVAL);
	assert_string_equal(mamba2_message_field(NULL), "role");
	assert_null(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_become_the_json_of_a_form),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
