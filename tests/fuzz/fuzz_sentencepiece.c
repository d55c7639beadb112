/* fuzz_sentencepiece.c - a hostile SentencePiece model and a hostile text: refused, or consistent.
 *
 * The first byte says how many of the last bytes are the text; what is between them is the file.
 */
#include "tests/fuzz/tokenizer_checks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_tokenizer *t = NULL;
	struct m2_why why = {.text = ""};
	if (size == 0)
		return 0;
	const size_t text = data[0] < size ? data[0] : 0;
	const size_t length = size - 1 - text;
	if (m2_tokenizer_parse_spm(data + 1, length, "fuzz", &t, &why) != M2_OK) {
		require(t == NULL && why.text[0] != '\0');
		return 0;
	}
	check_all(t, text > 0 ? (const char *)data + 1 + length : NULL, text, data, size);
	m2_tokenizer_close(&t);
	return 0;
}
