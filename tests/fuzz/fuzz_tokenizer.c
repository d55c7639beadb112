/* fuzz_tokenizer.c - a hostile tokenizer.json and a hostile text: refused, or consistent.
 *
 * The input is the file, a NUL, and the text; without a NUL a text that touches every path is used.
 */
#include "tests/fuzz/tokenizer_checks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	const char *json = (const char *)data;
	const char *nul = size > 0 ? memchr(data, '\0', size) : NULL;
	const size_t length = nul != NULL ? (size_t)(nul - json) : size;
	if (m2_tokenizer_parse(json, length, "fuzz", &t, &why) != M2_OK) {
		require(t == NULL && why.text[0] != '\0');
		return 0;
	}
	check_all(t, nul != NULL ? nul + 1 : NULL, nul != NULL ? size - length - 1 : 0, data, size);
	m2_tokenizer_close(&t);
	return 0;
}
