/* fuzz_safetensors.c - a hostile safetensors header: refused, or a table whose parts all hold. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"
#include "model/tensor_names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	if (size < 4)
		return 0;
	/* the first bytes say how much data follows the header */
	const uint64_t bytes = (uint64_t)data[0] | (uint64_t)data[1] << 8;
	char *json = malloc(size - 2 + 1);
	require(json != NULL);
	memcpy(json, data + 2, size - 2);
	const enum m2_err err =
		m2_safetensors_parse_header(json, size - 2, bytes, "fuzz", &file, &why);
	free(json); /* nothing may point into it */
	if (err != M2_OK) {
		require(file == NULL && why.text[0] != '\0');
		return 0;
	}
	uint64_t sum = 0;
	for (size_t i = 0; i < file->count; i++) {
		const struct m2_tensor *t = &file->tensors[i];
		int layer;
		enum m2_weight which;
		require(m2_tensor_file_find(file, t->name) == t);
		require(t->begin >= 8 + (size - 2));
		require(t->begin + t->bytes <= 8 + (size - 2) + bytes);
		require(t->n_dims >= 0 && t->n_dims <= M2_TENSOR_DIMS);
		if (m2_tensor_role_of(t->name, &layer, &which) == M2_TENSOR_WEIGHT)
			require(layer >= -1 && layer <= 9999 && (int)which < M2_W_COUNT);
		sum += t->bytes;
	}
	require(sum == bytes);
	m2_tensor_file_close(&file);
	return 0;
}
