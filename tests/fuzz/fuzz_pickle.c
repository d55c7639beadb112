/* fuzz_pickle.c - a hostile pickle: refused with a sentence, or records whose parts all hold. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/pytorch_pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static int lies_inside(const uint8_t *data, size_t size, const char *text, uint32_t length)
{
	const uint8_t *p = (const uint8_t *)text;
	return p >= data && length > 0 && length <= size && p <= data + (size - length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_pickle pickle;
	struct m2_why why = {.text = ""};
	if (m2_pickle_read(data, size, "fuzz", &pickle, &why) != M2_OK) {
		require(pickle.tensors == NULL && strstr(why.text, "data.pkl, byte ") != NULL);
		return 0;
	}
	for (size_t i = 0; i < pickle.count; i++) {
		const struct m2_pickle_tensor *t = &pickle.tensors[i];
		require(lies_inside(data, size, t->name, t->name_length));
		require(lies_inside(data, size, t->key, t->key_length) && t->key_length < 20);
		require(strlen(t->storage) < sizeof((struct m2_tensor){0}).dtype_name);
		require(t->bytes >= 1 && t->bytes <= 8);
		require(t->n_dims >= 0 && t->n_dims <= M2_TENSOR_DIMS);
		for (int32_t k = 0; k < t->n_dims; k++)
			require(t->shape[k] >= 0 && t->stride[k] >= 0);
	}
	m2_pickle_finish(&pickle);
	return 0;
}
