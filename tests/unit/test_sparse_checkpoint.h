/* test_sparse_checkpoint.h - checkpoints of any size that take no room: a config, a safetensors header, and a
 * hole behind it in place of the numbers.
 *
 * Names and shapes are the published ones (state-spaces' and transformers' layouts), so that what opens such a
 * directory sees what it would see of the real one.  Header only: tests are one file each.
 */
#ifndef M2_TESTS_UNIT_TEST_SPARSE_CHECKPOINT_H
#define M2_TESTS_UNIT_TEST_SPARSE_CHECKPOINT_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/dtype.h"

struct sparse_shape {
	int d, layers, heads, head_dim, state, groups;
	int vocab; /* as the config says */
	int rows;  /* of the embedding */
	bool transformers;
	bool tied;
	enum m2_dtype matrices; /* and of everything but D, which is small_type */
	enum m2_dtype small_type;
};

struct sparse_file {
	FILE *header;
	uint64_t at;
	bool first;
};

static inline void sparse_tensor(
	struct sparse_file *f, enum m2_dtype type, const char *name, int n, long a, long b, long c)
{
	static const char *const types[] = {[M2_DTYPE_F32] = "F32",
		[M2_DTYPE_F16] = "F16",
		[M2_DTYPE_BF16] = "BF16",
		[M2_DTYPE_F64] = "F64"};
	const uint64_t bytes = (uint64_t)a * (uint64_t)(n > 1 ? b : 1) * (uint64_t)(n > 2 ? c : 1) *
			       m2_dtype_bytes(type);
	(void)fprintf(f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld", f->first ? "{" : ",",
		name, types[type], a);
	if (n > 1)
		(void)fprintf(f->header, ",%ld", b);
	if (n > 2)
		(void)fprintf(f->header, ",%ld", c);
	(void)fprintf(f->header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)f->at,
		(unsigned long long)(f->at + bytes));
	f->at += bytes;
	f->first = false;
}

static inline void sparse_layer(struct sparse_file *f, const struct sparse_shape *s, int layer)
{
	const long ds = (long)s->heads * s->head_dim;
	const long channels = ds + 2L * s->groups * s->state;
	const struct {
		const char *name;
		enum m2_dtype type;
		int n;
		long a, b, c;
	} rows[] = {{"norm.weight", s->matrices, 1, s->d, 0, 0},
		{"mixer.in_proj.weight", s->matrices, 2, ds + channels + s->heads, s->d, 0},
		{"mixer.conv1d.weight", s->matrices, 3, channels, 1, 4},
		{"mixer.conv1d.bias", s->matrices, 1, channels, 0, 0},
		{"mixer.dt_bias", s->matrices, 1, s->heads, 0, 0},
		{"mixer.A_log", s->matrices, 1, s->heads, 0, 0},
		{"mixer.D", s->small_type, 1, s->heads, 0, 0},
		{"mixer.norm.weight", s->matrices, 1, ds, 0, 0},
		{"mixer.out_proj.weight", s->matrices, 2, s->d, ds, 0}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char name[96];
		(void)snprintf(name, sizeof name, "backbone.layers.%d.%s", layer, rows[i].name);
		sparse_tensor(f, rows[i].type, name, rows[i].n, rows[i].a, rows[i].b, rows[i].c);
	}
}

static inline void sparse_write_file(const char *path, const char *text)
{
	FILE *out = fopen(path, "we");
	assert_non_null(out);
	assert_true(fputs(text, out) >= 0);
	assert_int_equal(fclose(out), 0);
}

static inline void sparse_config(const char *path, const struct sparse_shape *s)
{
	char text[1024];
	if (s->transformers)
		(void)snprintf(text, sizeof text,
			"{\"model_type\":\"mamba2\",\"hidden_size\":%d,\"num_hidden_layers\":%d,"
			"\"num_heads\":%d,\"head_dim\":%d,\"state_size\":%d,\"n_groups\":%d,"
			"\"vocab_size\":%d,\"expand\":%g,\"conv_kernel\":4,\"chunk_size\":256,"
			"\"layer_norm_epsilon\":1e-05,\"use_bias\":false,\"use_conv_bias\":true,"
			"\"rms_norm\":true,\"residual_in_fp32\":true,"
			"\"time_step_limit\":[0.0,Infinity],\"tie_word_embeddings\":%s,"
			"\"bos_token_id\":0,\"eos_token_id\":0,\"pad_token_id\":0}",
			s->d, s->layers, s->heads, s->head_dim, s->state, s->groups, s->vocab,
			(double)s->heads * s->head_dim / s->d, s->tied ? "true" : "false");
	else
		(void)snprintf(text, sizeof text,
			"{\"d_model\":%d,\"d_intermediate\":0,\"n_layer\":%d,\"vocab_size\":%d,"
			"\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":%d,\"headdim\":%d,"
			"\"ngroups\":%d},\"attn_layer_idx\":[],\"attn_cfg\":{},\"rms_norm\":true,"
			"\"residual_in_fp32\":true,\"fused_add_norm\":true,"
			"\"pad_vocab_size_multiple\":16,\"tie_embeddings\":%s}",
			s->d, s->layers, s->vocab, s->state, s->head_dim, s->groups,
			s->tied ? "true" : "false");
	sparse_write_file(path, text);
}

/* Write config.json and model.safetensors into a directory that exists. */
static inline void sparse_checkpoint(const char *directory, const struct sparse_shape *s)
{
	char path[1200];
	char *text = NULL;
	size_t length = 0;
	struct sparse_file f = {.first = true};
	(void)snprintf(path, sizeof path, "%s/config.json", directory);
	sparse_config(path, s);
	f.header = open_memstream(&text, &length);
	assert_non_null(f.header);
	sparse_tensor(&f, s->matrices,
		s->transformers ? "backbone.embeddings.weight" : "backbone.embedding.weight", 2,
		s->rows, s->d, 0);
	for (int layer = 0; layer < s->layers; layer++)
		sparse_layer(&f, s, layer);
	sparse_tensor(&f, s->matrices, "backbone.norm_f.weight", 1, s->d, 0, 0);
	if (!s->tied)
		sparse_tensor(&f, s->matrices, "lm_head.weight", 2, s->rows, s->d, 0);
	(void)fputc('}', f.header);
	assert_int_equal(fclose(f.header), 0);
	(void)snprintf(path, sizeof path, "%s/model.safetensors", directory);
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	const uint64_t n = length;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, &n, sizeof n), sizeof n); /* little-endian, as we are */
	assert_int_equal(write(fd, text, length), length);
	assert_int_equal(ftruncate(fd, (off_t)(sizeof n + length + f.at)), 0);
	(void)close(fd);
	free(text);
}

#endif
