/* load_checkpoint.h - a checkpoint of a published shape, full of random numbers, for bench_load.c.
 *
 * One config.json in mamba_ssm's dialect and one model.safetensors.  All tensors have one type; what
 * the numbers are does not matter, for no step is run.
 */
#ifndef M2_TESTS_BENCH_LOAD_CHECKPOINT_H
#define M2_TESTS_BENCH_LOAD_CHECKPOINT_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "model/tensor_names.h"

enum { TABLE_BYTES = 4 << 20 };

struct shape {
	const char *name;
	int32_t hidden_size;
	int32_t n_layers;
};

static const struct shape shapes[] = {{"130m", 768, 24}, {"370m", 1024, 48}, {"780m", 1536, 48},
	{"1.3b", 2048, 48}, {"2.7b", 2560, 64}};

static inline bool fail(const char *what)
{
	(void)fprintf(stderr, "bench_load: %s: %s\n", what, strerror(errno));
	return false;
}

static inline struct m2_model_desc describe(const struct shape *shape)
{
	return (struct m2_model_desc){
		.hidden_size = shape->hidden_size,
		.n_layers = shape->n_layers,
		.vocab_rows = 50288,
		.n_heads = 2 * shape->hidden_size / 64,
		.head_dim = 64,
		.state_size = 128,
		.n_groups = 1,
		.conv_kernel = 4,
		.norm_groups = 1,
		.tied_head = true,
		.conv_bias = true,
		.gated_norm = true,
		.norm_eps = 1e-5f,
		.dt_max = INFINITY,
	};
}

static inline bool write_config(const char *directory, const struct shape *shape)
{
	char path[PATH_MAX + 32];
	(void)snprintf(path, sizeof path, "%s/config.json", directory);
	FILE *file = fopen(path, "we");
	if (file == NULL)
		return fail(path);
	(void)fprintf(file,
		"{\"d_model\":%d,\"n_layer\":%d,\"vocab_size\":50277,\"ssm_cfg\":{\"layer\":"
		"\"Mamba2\"},"
		"\"rms_norm\":true,\"residual_in_fp32\":true,\"fused_add_norm\":true,"
		"\"pad_vocab_size_multiple\":16,\"tie_embeddings\":true}\n",
		shape->hidden_size, shape->n_layers);
	return fclose(file) == 0 || fail(path);
}

/* Header of all tensors, padded to 8 bytes; *data is the length of what must follow. */
static inline char *make_header(
	const struct shape *shape, enum m2_dtype dtype, size_t *length, uint64_t *data)
{
	static const char *const spelled[] = {
		[M2_DTYPE_F32] = "F32", [M2_DTYPE_F16] = "F16", [M2_DTYPE_BF16] = "BF16"};
	const struct m2_model_desc desc = describe(shape);
	char *text = NULL;
	FILE *out = open_memstream(&text, length);
	*data = 0;
	for (int layer = -1; out != NULL && layer < desc.n_layers; layer++)
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			char name[64];
			int64_t dims[2];
			const int n = m2_tensor_wanted_shape(&desc, which, dims);
			if (n == 0 || (which <= M2_W_HEAD) != (layer < 0))
				continue;
			const uint64_t bytes =
				m2_weight_elements(&desc, which) * m2_dtype_bytes(dtype);
			m2_tensor_usual_name(layer, which, name, sizeof name);
			(void)fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld",
				*data == 0 ? "{" : ",", name, spelled[dtype], (long long)dims[0]);
			if (n == 2)
				(void)fprintf(out, "%s,%lld", which == M2_W_CONV ? ",1" : "",
					(long long)dims[1]);
			(void)fprintf(out, "],\"data_offsets\":[%llu,%llu]}",
				(unsigned long long)*data, (unsigned long long)(*data + bytes));
			*data += bytes;
		}
	if (out == NULL)
		return NULL;
	(void)fprintf(out, "}");
	while (ftell(out) % 8 != 0)
		(void)fputc(' ', out);
	(void)fclose(out);
	return text;
}

static inline bool write_all(int fd, const void *data, size_t bytes)
{
	const char *at = data;
	while (bytes > 0) {
		const ssize_t n = write(fd, at, bytes);
		if (n < 0)
			return fail("writing the checkpoint");
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

/* One table of random numbers over and over; written to the disk, so that nothing writes later. */
static inline bool write_tensors(int fd, const struct shape *shape, enum m2_dtype dtype)
{
	size_t length = 0;
	uint64_t data = 0, little = 0;
	char *header = make_header(shape, dtype, &length, &data);
	unsigned char *table = malloc(TABLE_BYTES);
	if (header == NULL || table == NULL)
		return fail("no memory for a header and a table");
	const size_t size = m2_dtype_bytes(dtype);
	for (uint32_t i = 0, x = 1; i < TABLE_BYTES / size; i++, x = x * 1664525u + 1013904223u) {
		const float value = ((float)(x >> 8) * 0x1p-23f - 1.0f) * 0.06f;
		m2_dtype_from_f32(table + i * size, dtype, &value, 1);
	}
	for (int i = 0; i < 8; i++)
		((unsigned char *)&little)[i] = (unsigned char)(length >> (8 * i));
	bool ok = write_all(fd, &little, 8) && write_all(fd, header, length);
	for (uint64_t at = 0; ok && at < data; at += TABLE_BYTES)
		ok = write_all(
			fd, table, data - at < TABLE_BYTES ? (size_t)(data - at) : TABLE_BYTES);
	if (ok && fdatasync(fd) != 0)
		ok = fail("writing the checkpoint");
	free(table);
	free(header);
	return ok;
}

#endif
