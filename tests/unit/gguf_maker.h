/* gguf_maker.h - GGUF files composed in memory from keys and tensors, for the tests of the reader.
 *
 * Each part appends bytes as the format wants them, and a test that breaks one rule changes one part.
 * Header only: tests are one file each.
 */
#ifndef M2_TESTS_UNIT_GGUF_MAKER_H
#define M2_TESTS_UNIT_GGUF_MAKER_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf.h"
#include "model/gguf_keys.h"

struct bytes {
	unsigned char *at;
	size_t n;
	size_t cap;
};

struct gguf_maker {
	uint32_t version;
	uint32_t alignment;
	struct bytes keys, infos, data;
	uint64_t n_keys, n_tensors;
	const char *skip_key; /* key or tensor that is left out when its turn comes; NULL: none */
	const char *skip_tensor;
};

static inline void put(struct bytes *b, const void *bytes, size_t n)
{
	if (n >= b->cap - b->n) {
		b->cap = 2 * b->cap + n + 1;
		b->at = realloc(b->at, b->cap);
		assert_non_null(b->at);
	}
	if (n > 0)
		memcpy(b->at + b->n, bytes, n);
	b->n += n;
}

static inline void put_number(struct bytes *b, uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++) {
		const unsigned char byte = (unsigned char)(value >> (8 * i));
		put(b, &byte, 1);
	}
}

static inline void put_text(struct bytes *b, const char *text)
{
	put_number(b, strlen(text), 8);
	put(b, text, strlen(text));
}

static inline uint32_t float_bits(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	return bits;
}

static inline struct gguf_maker start_gguf(void)
{
	return (struct gguf_maker){.version = 3, .alignment = 32};
}

static inline void free_gguf(struct gguf_maker *m)
{
	free(m->keys.at);
	free(m->infos.at);
	free(m->data.at);
}

/* ---- keys ---- */

/* Name and type of a key; false: it is to be left out. */
static inline bool begin_key(struct gguf_maker *m, const char *name, uint32_t type)
{
	if (m->skip_key != NULL && strcmp(m->skip_key, name) == 0)
		return false;
	put_text(&m->keys, name);
	put_number(&m->keys, type, 4);
	m->n_keys++;
	return true;
}

static inline void key_u32(struct gguf_maker *m, const char *name, uint32_t value)
{
	if (begin_key(m, name, M2_GGUF_U32))
		put_number(&m->keys, value, 4);
}

static inline void key_f32(struct gguf_maker *m, const char *name, float value)
{
	if (begin_key(m, name, M2_GGUF_F32))
		put_number(&m->keys, float_bits(value), 4);
}

static inline void key_bool(struct gguf_maker *m, const char *name, unsigned value)
{
	if (begin_key(m, name, M2_GGUF_BOOL))
		put_number(&m->keys, value, 1);
}

static inline void key_text(struct gguf_maker *m, const char *name, const char *text)
{
	if (begin_key(m, name, M2_GGUF_STRING))
		put_text(&m->keys, text);
}

static inline bool begin_array(
	struct gguf_maker *m, const char *name, uint32_t element, uint64_t count)
{
	if (!begin_key(m, name, M2_GGUF_ARRAY))
		return false;
	put_number(&m->keys, element, 4);
	put_number(&m->keys, count, 8);
	return true;
}

static inline void key_texts(
	struct gguf_maker *m, const char *name, const char *const *texts, size_t n)
{
	if (!begin_array(m, name, M2_GGUF_STRING, n))
		return;
	for (size_t i = 0; i < n; i++)
		put_text(&m->keys, texts[i]);
}

static inline void key_i32s(struct gguf_maker *m, const char *name, const int32_t *values, size_t n)
{
	if (!begin_array(m, name, M2_GGUF_I32, n))
		return;
	for (size_t i = 0; i < n; i++)
		put_number(&m->keys, (uint32_t)values[i], 4);
}

static inline void key_f32s(struct gguf_maker *m, const char *name, const float *values, size_t n)
{
	if (!begin_array(m, name, M2_GGUF_F32, n))
		return;
	for (size_t i = 0; i < n; i++)
		put_number(&m->keys, float_bits(values[i]), 4);
}

/* ---- tensors ---- */

/* A description; ne is innermost first. */
static inline void describe(struct gguf_maker *m, const char *name, uint32_t n_dims,
	const uint64_t *ne, uint32_t type, uint64_t offset)
{
	put_text(&m->infos, name);
	put_number(&m->infos, n_dims, 4);
	for (uint32_t i = 0; i < n_dims; i++)
		put_number(&m->infos, ne[i], 8);
	put_number(&m->infos, type, 4);
	put_number(&m->infos, offset, 8);
	m->n_tensors++;
}

/* Bytes of data, padded. */
static inline void add_data(struct gguf_maker *m, const void *bytes, size_t n)
{
	put(&m->data, bytes, n);
	while (m->data.n % m->alignment != 0)
		put(&m->data, "", 1);
}

/* The value of element i of the tensor of this name: something that tells all apart. */
static inline float element_of(const char *name, size_t i)
{
	uint32_t hash = 2166136261u;
	for (const char *p = name; *p != '\0'; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	return (float)(hash % 97) - 48.0f + (float)i / 64.0f;
}

/* A whole F32 tensor of ne[0] x ne[1]; ne[1] = 0: one dimension. */
static inline void tensor(struct gguf_maker *m, const char *name, uint64_t ne0, uint64_t ne1)
{
	if (m->skip_tensor != NULL && strcmp(m->skip_tensor, name) == 0)
		return;
	const uint64_t ne[2] = {ne0, ne1};
	const size_t n = (size_t)(ne1 > 0 ? ne0 * ne1 : ne0);
	float *values = malloc(n * sizeof *values);
	assert_non_null(values);
	for (size_t i = 0; i < n; i++)
		values[i] = element_of(name, i);
	describe(m, name, ne1 > 0 ? 2 : 1, ne, 0, m->data.n);
	add_data(m, values, n * sizeof *values);
	free(values);
}

/* ---- the file ---- */

static inline struct bytes finish_gguf(const struct gguf_maker *m)
{
	struct bytes file = {.n = 0};
	put(&file, "GGUF", 4);
	put_number(&file, m->version, 4);
	put_number(&file, m->n_tensors, 8);
	put_number(&file, m->n_keys, 8);
	put(&file, m->keys.at, m->keys.n);
	put(&file, m->infos.at, m->infos.n);
	while (file.n % m->alignment != 0)
		put(&file, "", 1);
	put(&file, m->data.at, m->data.n);
	return file;
}

/* Letters of the tiny model: two layers, two groups. */
enum { T_D = 8, T_L = 2, T_V = 12, T_H = 4, T_P = 4, T_N = 4, T_G = 2, T_K = 4 };
enum { T_DS = T_H * T_P, T_C = T_DS + 2 * T_G * T_N, T_R = T_DS + T_C + T_H };

static inline void tiny_keys(struct gguf_maker *m)
{
	key_text(m, "general.architecture", "mamba2");
	key_text(m, "general.name", "tiny");
	key_u32(m, "mamba2.context_length", 1048576);
	key_u32(m, "mamba2.embedding_length", T_D);
	key_u32(m, "mamba2.feed_forward_length", 0);
	key_u32(m, "mamba2.attention.head_count", 0);
	key_u32(m, "mamba2.block_count", T_L);
	key_u32(m, "mamba2.ssm.conv_kernel", T_K);
	key_u32(m, "mamba2.ssm.inner_size", T_DS);
	key_u32(m, "mamba2.ssm.state_size", T_N);
	key_u32(m, "mamba2.ssm.time_step_rank", T_H);
	key_u32(m, "mamba2.ssm.group_count", T_G);
	key_f32(m, "mamba2.attention.layer_norm_rms_epsilon", 1e-5f);
	key_u32(m, "general.file_type", 0);
}

static inline void tiny_tensors(struct gguf_maker *m)
{
	tensor(m, "token_embd.weight", T_D, T_V);
	tensor(m, "output_norm.weight", T_D, 0);
	tensor(m, "output.weight", T_D, T_V);
	for (int layer = 0; layer < T_L; layer++) {
		const struct {
			const char *name;
			uint64_t ne0, ne1;
		} parts[] = {
			{"attn_norm.weight", T_D, 0},
			{"ssm_in.weight", T_D, T_R},
			{"ssm_conv1d.weight", T_K, T_C},
			{"ssm_conv1d.bias", T_C, 0},
			{"ssm_dt.bias", T_H, 0},
			{"ssm_a", 1, T_H},
			{"ssm_d", 1, T_H},
			{"ssm_norm.weight", T_DS / T_G, T_G},
			{"ssm_out.weight", T_DS, T_D},
		};
		for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
			char name[64];
			(void)snprintf(name, sizeof name, "blk.%d.%s", layer, parts[i].name);
			tensor(m, name, parts[i].ne0, parts[i].ne1);
		}
	}
}

static inline struct gguf_maker tiny_gguf(void)
{
	struct gguf_maker m = start_gguf();
	tiny_keys(&m);
	tiny_tensors(&m);
	return m;
}

#endif
