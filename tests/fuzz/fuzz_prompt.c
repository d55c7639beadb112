/* Fuzz target: the payload of a conversation or a gap, from its bytes to ids, as the worker takes it.
 *
 * Input: one byte (bit 0: a gap), then the JSON.  The tokenizer is of single bytes and the control tokens of
 * the template.  Ids that come out are of the vocabulary, and control tokens stand only where the template
 * puts them: as many as the form has, whatever is written in the texts.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "daemon/prompt.h"
#include "model/byte_alphabet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BOS = 256, EOS, INST, END_INST, PREFIX, SUFFIX, MAX_IDS = 20000 };

static struct m2_tokenizer *make_tokenizer(void)
{
	static const char *const controls[] = {
		"<s>", "</s>", "[INST]", "[/INST]", "[PREFIX]", "[SUFFIX]"};
	struct m2_tokenizer *t = NULL;
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	if (out == NULL)
		abort();
	for (unsigned i = 0; i < 6; i++)
		(void)fprintf(out, "%s{\"id\":%u,\"content\":\"%s\",\"special\":true}",
			i == 0 ? "{\"added_tokens\":[" : ",", BOS + i, controls[i]);
	(void)fputs("],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
		    "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
		    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{",
		out);
	for (unsigned byte = 0; byte < 256; byte++) {
		unsigned char at[5] = {0};
		(void)m2_utf8_encode(m2_stand_in_of_byte((unsigned char)byte), at);
		(void)fprintf(out, "%s\"%s%s\":%u", byte == 0 ? "" : ",",
			byte == '"' || byte == '\\' ? "\\" : "", (const char *)at, byte);
	}
	(void)fputs("}}}", out);
	(void)fclose(out);
	if (m2_tokenizer_parse(text, length, "tokenizer.json", &t, NULL) != M2_OK)
		abort();
	free(text);
	return t;
}

static void check_ids(const int32_t *ids, size_t count, enum m2_prompt_form form)
{
	size_t seen[6] = {0};
	for (size_t i = 0; i < count; i++) {
		if (ids[i] < 0 || ids[i] > SUFFIX)
			__builtin_trap();
		if (ids[i] >= BOS)
			seen[ids[i] - BOS]++;
	}
	const bool gap = form == M2_PROMPT_FILL;
	const size_t users = seen[INST - BOS];
	if (count < 3 || count > MAX_IDS || ids[0] != BOS || seen[0] != 1 ||
		seen[PREFIX - BOS] != gap || seen[SUFFIX - BOS] != gap ||
		seen[END_INST - BOS] != users || (users == 0) != gap ||
		(users > 0 && seen[EOS - BOS] != users - 1))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct m2_tokenizer *tokenizer; /* kept for all inputs */
	struct m2_why why = {"", ""};
	int32_t *ids = NULL;
	size_t count = 0;
	if (tokenizer == NULL)
		tokenizer = make_tokenizer();
	if (size < 1)
		return 0;
	const enum m2_prompt_form form = (data[0] & 1) != 0 ? M2_PROMPT_FILL : M2_PROMPT_CHAT;
	/* the gate lets nothing else through */
	if (!m2_utf8_valid((const char *)data + 1, size - 1))
		return 0;
	/* of the exact size: reading beyond it is seen */
	char *json = malloc(size > 1 ? size - 1 : 1);
	if (json == NULL)
		abort();
	memcpy(json, data + 1, size - 1);
	const enum m2_err err = m2_prompt_encode(
		json, size - 1, form, tokenizer, "fuzz", MAX_IDS, &ids, &count, &why);
	free(json);
	if (err == M2_OK)
		check_ids(ids, count, form);
	else if (ids != NULL || why.text[0] == '\0' || why.field[0] == '\0')
		__builtin_trap();
	free(ids);
	return 0;
}
