/* fuzz_config.c - a hostile config.json: refused, or a description within every bound. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "model/config.h"
#include "model/shards.h"
#include "model/tensor_names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void check(const struct m2_model_config *c)
{
	struct m2_why why;
	require(m2_model_desc_check(&c->desc, &why) == M2_OK);
	require(c->vocab_size >= 1 && c->vocab_size <= c->desc.vocab_rows);
	require(c->bos_token_id >= -1 && c->bos_token_id < c->vocab_size);
	require(c->n_eos >= 0 && c->n_eos <= 16);
	for (int32_t i = 0; i < c->n_eos; i++)
		require(c->eos_token_ids[i] >= 0 && c->eos_token_ids[i] < c->vocab_size);
	require(c->pad_token_id >= -1 && c->pad_token_id < c->vocab_size);
	require(c->n_corrections >= 0 && c->n_corrections <= 4);
	for (int32_t i = 0; i < c->n_corrections; i++)
		require(c->corrections[i] != NULL && c->corrections[i][0] != '\0');
	for (int w = 0; w < M2_W_COUNT; w++) {
		int64_t shape[2];
		const int n = m2_tensor_wanted_shape(&c->desc, (enum m2_weight)w, shape);
		const int64_t elements = n == 0 ? 0 : n == 1 ? shape[0] : shape[0] * shape[1];
		/* two rooms compute it, and must agree */
		require((size_t)elements == m2_weight_elements(&c->desc, (enum m2_weight)w));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	struct m2_model_config config;
	struct m2_why why = {.text = ""};
	char **names;
	size_t count;
	for (int32_t norm_groups = 0; norm_groups < 2; norm_groups++) {
		if (m2_model_config_parse(text, size, norm_groups, &config, &why) != M2_OK) {
			require(why.text[0] != '\0');
			continue;
		}
		check(&config);
		if (m2_model_config_generation(text, size, &config, &why) == M2_OK)
			check(&config);
	}
	/* the index of the shards is JSON of the same hands */
	if (m2_shards_parse_index(text, size, &names, &count, &why) == M2_OK) {
		for (size_t i = 0; i < count; i++)
			free(names[i]);
		free(names);
	}
	return 0;
}
