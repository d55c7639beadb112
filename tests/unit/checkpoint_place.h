/* checkpoint_place.h - a directory with a tiny checkpoint in it, for the tests that then bend it.
 *
 * The checkpoint (d 8, 1 layer, H 2, P 8, N 4, G 1, K 4, V 16) is a list of tensors.  Every value of a
 * tensor is the number of its place in the list, so that a read shows whose bytes it got.
 * Header only: two test programs share it, and tests are one file each.
 */
#ifndef M2_TESTS_UNIT_CHECKPOINT_PLACE_H
#define M2_TESTS_UNIT_CHECKPOINT_PLACE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint.h"

struct tensor {
	const char *name, *dtype, *shape;
	size_t elements;
};

/* in_proj rows: 2*16 + 2*4 + 2 = 42; conv channels 16 + 8 = 24 */
static const struct tensor usual[] = {
	{"backbone.embeddings.weight", "F32", "[16,8]", 128},
	{"backbone.norm_f.weight", "F32", "[8]", 8},
	{"lm_head.weight", "F32", "[16,8]", 128},
	{"backbone.layers.0.norm.weight", "F32", "[8]", 8},
	{"backbone.layers.0.mixer.in_proj.weight", "F32", "[42,8]", 336},
	{"backbone.layers.0.mixer.conv1d.weight", "F32", "[24,1,4]", 96},
	{"backbone.layers.0.mixer.conv1d.bias", "F32", "[24]", 24},
	{"backbone.layers.0.mixer.dt_bias", "F32", "[2]", 2},
	{"backbone.layers.0.mixer.A_log", "F32", "[2]", 2},
	{"backbone.layers.0.mixer.D", "F32", "[2]", 2},
	{"backbone.layers.0.mixer.norm.weight", "F32", "[16]", 16},
	{"backbone.layers.0.mixer.out_proj.weight", "F32", "[8,16]", 128},
};
enum { N_USUAL = sizeof usual / sizeof *usual, HEAD = 2, CONV = 5, A_LOG = 8, MAX_LIST = 16 };

#define CONFIG                                                                                     \
	"\"model_type\":\"mamba2\",\"hidden_size\":8,\"num_hidden_layers\":1,\"vocab_size\":16,"   \
	"\"head_dim\":8,\"state_size\":4,\"n_groups\":1,\"norm_eps\":1e-5,\"eos_token_id\":1"

/* One directory and what is to be written into it. */
struct place {
	char path[4096];
	struct tensor list[MAX_LIST];
	size_t n;
};

static inline void use_usual(struct place *p)
{
	for (size_t i = 0; i < N_USUAL; i++)
		p->list[i] = usual[i];
	p->n = N_USUAL;
}

static inline int make_place(void **state)
{
	const char *base = getenv("TMPDIR");
	struct place *p = calloc(1, sizeof *p);
	if (p == NULL)
		return -1;
	(void)snprintf(
		p->path, sizeof p->path, "%s/m2-checkpoint-XXXXXX", base != NULL ? base : "/tmp");
	use_usual(p);
	*state = p;
	return mkdtemp(p->path) != NULL ? 0 : -1;
}

static inline int remove_place(void **state)
{
	struct place *p = *state;
	DIR *listing = opendir(p->path);
	const struct dirent *entry;
	while (listing != NULL && (entry = readdir(listing)) != NULL)
		(void)unlinkat(dirfd(listing), entry->d_name, 0); /* "." and ".." stay */
	if (listing != NULL)
		closedir(listing);
	const int result = rmdir(p->path);
	free(p);
	return result;
}

static inline FILE *create(const struct place *p, const char *name)
{
	char path[4200];
	(void)snprintf(path, sizeof path, "%s/%s", p->path, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	return file;
}

static inline void write_text(const struct place *p, const char *name, const char *text)
{
	FILE *file = create(p, name);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static inline void write_value(FILE *file, const char *dtype, size_t value)
{
	const double wide = (double)value;
	const float single = (float)value;
	const uint16_t half =
		strcmp(dtype, "BF16") == 0 ? m2_bf16_from_f32(single) : m2_f16_from_f32(single);
	const void *bytes = strcmp(dtype, "F64") == 0   ? (const void *)&wide
			    : strcmp(dtype, "F32") == 0 ? (const void *)&single
							: (const void *)&half;
	const size_t size = strcmp(dtype, "F64") == 0 ? 8 : strcmp(dtype, "F32") == 0 ? 4 : 2;
	assert_int_equal(fwrite(bytes, size, 1, file), 1);
}

static inline size_t bytes_of(const struct tensor *t)
{
	return t->elements * (strcmp(t->dtype, "F64") == 0          ? 8
				     : strcmp(t->dtype, "F32") == 0 ? 4
								    : 2);
}

/* Tensors [from, to) of the list as one file. */
static inline void write_shard(const struct place *p, const char *name, size_t from, size_t to)
{
	char *json = NULL;
	size_t length = 0;
	size_t at = 0;
	FILE *out = open_memstream(&json, &length);
	assert_non_null(out);
	for (size_t i = from; i < to; i++) {
		const struct tensor *t = &p->list[i];
		(void)fprintf(out,
			"%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
			i == from ? "{" : ",", t->name, t->dtype, t->shape, at, at + bytes_of(t));
		at += bytes_of(t);
	}
	(void)fprintf(out, "}");
	(void)fclose(out);
	FILE *file = create(p, name);
	for (int i = 0; i < 8; i++)
		assert_true(fputc((int)(length >> (8 * i) & 0xff), file) >= 0);
	assert_int_equal(fwrite(json, 1, length, file), length);
	free(json);
	for (size_t i = from; i < to; i++)
		for (size_t k = 0; k < p->list[i].elements; k++)
			write_value(file, p->list[i].dtype, i);
	assert_int_equal(fclose(file), 0);
}

static inline void write_all(const struct place *p, const char *config)
{
	write_text(p, "config.json", config);
	write_shard(p, "model.safetensors", 0, p->n);
}

static inline enum m2_err try_open(
	const struct place *p, struct m2_checkpoint **c, struct m2_why *why)
{
	*why = (struct m2_why){.text = ""};
	*c = NULL;
	return m2_checkpoint_open(p->path, 0, c, why);
}

static inline struct m2_checkpoint *accept(const struct place *p)
{
	struct m2_checkpoint *c;
	struct m2_why why;
	if (try_open(p, &c, &why) != M2_OK)
		fail_msg("%s", why.text);
	return c;
}

static inline void refuse(const struct place *p, enum m2_err wanted, const char *word)
{
	struct m2_checkpoint *c;
	struct m2_why why;
	const enum m2_err err = try_open(p, &c, &why);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("gave %s: %s\n", m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why.text, word));
	assert_null(c);
}

/* The weight's first element as a number, through the source. */
static inline float first_of(struct m2_checkpoint *c, int layer, enum m2_weight which)
{
	const struct m2_weight_source s = m2_checkpoint_source(c);
	const enum m2_dtype dtype = s.dtype(s.ctx, layer, which);
	const size_t n = m2_weight_elements(&m2_checkpoint_config(c)->desc, which);
	const size_t bytes = n * m2_dtype_bytes(dtype);
	struct m2_why why;
	float value;
	unsigned char *data = malloc(bytes + 1);
	assert_non_null(data);
	assert_int_equal(s.read(s.ctx, layer, which, 0, n, data, &why), M2_OK);
	m2_dtype_to_f32(&value, data, dtype, 1);
	free(data);
	return value;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_place, remove_place)

#endif
