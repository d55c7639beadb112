/* fuzz_gguf.c - a hostile GGUF header: refused with a sentence, or tensors, a configuration and a
 * tokenizer whose parts all hold.  The file is said to go on behind the bytes, so that small inputs can
 * describe tensors. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"

enum { DATA_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void check_tensors(const struct m2_tensor_file *file, uint64_t file_bytes)
{
	for (size_t i = 0; i < file->count; i++) {
		const struct m2_tensor *t = &file->tensors[i];
		uint64_t elements = 1;
		require(m2_tensor_file_find(file, t->name) == t);
		require(t->begin <= file_bytes && t->bytes <= file_bytes - t->begin);
		require(t->n_dims >= 1 && t->n_dims <= 4);
		for (int32_t k = 0; k < t->n_dims; k++) {
			require(t->shape[k] >= 1);
			elements *= (uint64_t)t->shape[k];
		}
		if (t->dtype != M2_DTYPE_NONE)
			require(t->bytes == elements * m2_dtype_bytes(t->dtype));
		for (size_t k = 0; k < i; k++) /* no two share a byte */
			require(t->begin >= file->tensors[k].begin + file->tensors[k].bytes ||
				file->tensors[k].begin >= t->begin + t->bytes);
	}
}

static void check_config(const struct m2_model_config *c)
{
	struct m2_why why;
	require(m2_model_desc_check(&c->desc, &why) == M2_OK && c->desc.a_given);
	require(c->vocab_size >= 1 && c->vocab_size <= c->desc.vocab_rows);
	require(c->bos_token_id >= -1 && c->bos_token_id < c->vocab_size);
	require(c->pad_token_id >= -1 && c->pad_token_id < c->desc.vocab_rows);
	for (int32_t i = 0; i < c->n_eos; i++)
		require(c->eos_token_ids[i] >= 0 && c->eos_token_ids[i] < c->vocab_size);
}

static void check_tokenizer(const struct m2_tokenizer *t)
{
	static const char text[] = "  Hello <s>[PAD1]\n\xc3\xa9";
	int32_t *ids = NULL;
	size_t n = 0;
	struct m2_why why = {.text = ""};
	if (m2_tokenizer_encode(t, text, sizeof text - 1, 0, 1000, &ids, &n, &why) != M2_OK) {
		require(why.text[0] != '\0');
		return;
	}
	for (size_t i = 0; i < n; i++) {
		require(ids[i] >= 0 && ids[i] < m2_tokenizer_size(t));
		require(!m2_tokenizer_is_special(t, ids[i]));
	}
	free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_gguf *gguf = NULL;
	struct m2_tensor_file *file = NULL;
	struct m2_tokenizer *tokenizer = NULL;
	struct m2_model_config config;
	struct m2_why why = {.text = ""};
	const enum m2_err err =
		m2_gguf_parse(data, size, size + DATA_BYTES, "fuzz", &gguf, &file, &why);
	if (err != M2_OK) {
		require(gguf == NULL && file == NULL && why.text[0] != '\0');
		return 0;
	}
	check_tensors(file, size + DATA_BYTES);
	if (m2_gguf_config(gguf, file, 0, &config, &why) == M2_OK)
		check_config(&config);
	else
		require(why.text[0] != '\0');
	why.text[0] = '\0';
	if (m2_gguf_tokenizer(gguf, &tokenizer, &why) == M2_OK)
		check_tokenizer(tokenizer);
	else
		require(tokenizer == NULL && why.text[0] != '\0');
	m2_tokenizer_close(&tokenizer);
	m2_tensor_file_close(&file);
	m2_gguf_close(&gguf);
	return 0;
}
