/* test_model_containers.c - the same checkpoint in every container, which one is taken where several
 * lie together, and what was read. */
#include "tests/unit/checkpoint_place.h"
#include "tests/unit/pytorch_maker.h"

/* ---- pytorch_model.bin ---- */

static const struct {
	const char *dtype, *storage;
} storages[] = {{"F32", "FloatStorage"}, {"F16", "HalfStorage"}, {"BF16", "BFloat16Storage"},
	{"F64", "DoubleStorage"}};

/* "[42,8]" to sizes and row-major strides. */
static void read_shape(const char *text, struct tensor_of *t)
{
	int n = 0;
	char *end;
	for (const char *at = text; *at != ']'; at = end, n++)
		t->size[n] = strtoll(at + 1, &end, 10);
	t->size[n] = t->stride[n] = -1;
	int64_t step = 1;
	for (int i = n - 1; i >= 0; i--) {
		t->stride[i] = step;
		step *= t->size[i];
	}
}

/* Tensors [from, to) of the list as a file of torch.save; tensor `alias` (or -1) has no storage of its
 * own and shares that of the tensor `from`. */
static void write_bin(const struct place *p, const char *name, size_t from, size_t to, int alias)
{
	struct zip_maker z = {.count = 0};
	struct bytes pickle = {.n = 0};
	char key[32];
	begin_dict(&pickle);
	for (size_t i = from; i < to; i++) {
		struct tensor_of t = {.numel = p->list[i].elements, .key = key};
		(void)snprintf(key, sizeof key, "%zu", (int)i == alias ? from : i);
		for (size_t k = 0; k < sizeof storages / sizeof *storages; k++)
			if (strcmp(p->list[i].dtype, storages[k].dtype) == 0)
				t.storage = storages[k].storage;
		read_shape(p->list[i].shape, &t);
		put_tensor(&pickle, p->list[i].name, &t);
	}
	end_dict(&pickle);
	add_entry(&z, "pytorch_model/data.pkl", pickle.at, pickle.n);
	for (size_t i = from; i < to; i++) {
		char *data = NULL;
		size_t size = 0;
		if ((int)i == alias)
			continue;
		FILE *values = open_memstream(&data, &size);
		assert_non_null(values);
		for (size_t k = 0; k < p->list[i].elements; k++)
			write_value(values, p->list[i].dtype, i);
		(void)fclose(values);
		(void)snprintf(key, sizeof key, "pytorch_model/data/%zu", i);
		add_entry(&z, key, data, size);
		free(data);
	}
	end_zip(&z);
	FILE *file = create(p, name);
	assert_int_equal(fwrite(z.file.at, 1, z.file.n, file), z.file.n);
	assert_int_equal(fclose(file), 0);
	free(pickle.at);
	free_zip(&z);
}

/* Tensors [0, middle) in file a, the others in file b. */
static void write_index(
	const struct place *p, const char *name, size_t middle, const char *a, const char *b)
{
	FILE *file = create(p, name);
	(void)fprintf(file, "{\"weight_map\":{");
	for (size_t i = 0; i < p->n; i++)
		(void)fprintf(file, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", p->list[i].name,
			i < middle ? a : b);
	(void)fprintf(file, "}}");
	assert_int_equal(fclose(file), 0);
}

static void remove_file(const struct place *p, const char *name)
{
	char path[4200];
	(void)snprintf(path, sizeof path, "%s/%s", p->path, name);
	assert_int_equal(unlink(path), 0);
}

/* The names, in order, are those of the files that were read. */
static void expect_files(const struct place *p, const struct m2_checkpoint *c, ...)
{
	va_list names;
	size_t i = 0;
	va_start(names, c);
	for (const char *name; (name = va_arg(names, const char *)) != NULL; i++) {
		char path[4200];
		(void)snprintf(path, sizeof path, "%s/%s", p->path, name);
		assert_true(i < m2_checkpoint_n_files(c));
		assert_string_equal(m2_checkpoint_file(c, i), path);
	}
	va_end(names);
	assert_int_equal(m2_checkpoint_n_files(c), i);
}

static void every_value_is(struct m2_checkpoint *c)
{
	static const struct {
		int layer;
		enum m2_weight which;
	} order[N_USUAL] = {{-1, M2_W_EMBEDDING}, {-1, M2_W_FINAL_NORM}, {-1, M2_W_HEAD},
		{0, M2_W_NORM}, {0, M2_W_IN_PROJ}, {0, M2_W_CONV}, {0, M2_W_CONV_BIAS},
		{0, M2_W_DT_BIAS}, {0, M2_W_A_LOG}, {0, M2_W_D}, {0, M2_W_GATED_NORM},
		{0, M2_W_OUT_PROJ}};
	for (size_t i = 0; i < N_USUAL; i++)
		assert_true(first_of(c, order[i].layer, order[i].which) == (float)i);
}

/* ---- tests ---- */

static void a_pytorch_file_is_read(void **state)
{
	struct place *p = *state;
	write_text(p, "config.json", "{" CONFIG "}");
	write_text(p, "generation_config.json", "{\"eos_token_id\":[3,4]}");
	write_bin(p, "pytorch_model.bin", 0, p->n, -1);
	struct m2_checkpoint *c = accept(p);
	assert_string_equal(m2_checkpoint_container(c), "pytorch");
	assert_int_equal(m2_checkpoint_parameters(c), 878);
	assert_int_equal(m2_checkpoint_bytes(c), 878 * 4);
	expect_files(p, c, "config.json", "generation_config.json", "pytorch_model.bin", NULL);
	every_value_is(c);
	m2_checkpoint_close(&c);
}

static void types_may_be_mixed_in_every_container(void **state)
{
	static const char *const dtypes[] = {"F16", "F32", "BF16", "F64"};
	struct place *p = *state;
	uint64_t wanted[4] = {0};
	for (size_t i = 0; i < p->n; i++) {
		p->list[i].dtype = dtypes[i % 4];
		wanted[i % 4] += p->list[i].elements;
	}
	write_text(p, "config.json", "{" CONFIG "}");
	for (int bin = 1; bin >= 0; bin--) {
		uint64_t elements[M2_DTYPE_F64 + 1];
		if (bin)
			write_bin(p, "pytorch_model.bin", 0, p->n, -1);
		else
			write_shard(p, "model.safetensors", 0, p->n);
		struct m2_checkpoint *c = accept(p);
		assert_string_equal(m2_checkpoint_container(c), bin ? "pytorch" : "safetensors");
		every_value_is(c);
		m2_checkpoint_elements(c, elements);
		assert_int_equal(elements[M2_DTYPE_NONE], 0);
		assert_int_equal(elements[M2_DTYPE_F16], wanted[0]);
		assert_int_equal(elements[M2_DTYPE_F32], wanted[1]);
		assert_int_equal(elements[M2_DTYPE_BF16], wanted[2]);
		assert_int_equal(elements[M2_DTYPE_F64], wanted[3]);
		assert_int_equal(m2_checkpoint_parameters(c), 878);
		assert_int_equal(m2_checkpoint_bytes(c),
			2 * wanted[0] + 4 * wanted[1] + 2 * wanted[2] + 8 * wanted[3]);
		m2_checkpoint_close(&c);
	}
}

/* The directory holds all of them; each is removed when it has been taken. */
static void containers_are_taken_in_one_order_and_never_mixed(void **state)
{
	static const struct {
		const char *file, *container;
	} order[] = {{"model.safetensors.index.json", "safetensors, 2 shards"},
		{"model.safetensors", "safetensors"}, {"consolidated.safetensors", "safetensors"},
		{"pytorch_model.bin.index.json", "pytorch, 2 shards"},
		{"pytorch_model.bin", "pytorch"}};
	struct place *p = *state;
	write_text(p, "config.json", "{" CONFIG "}");
	write_text(p, "params.json", "not read where there is a config.json");
	write_index(p, order[0].file, 4, "a.safetensors", "b.safetensors");
	write_index(p, order[3].file, 7, "a.bin", "b.bin");
	for (size_t k = 1; k <= 4; k++)
		write_text(p, order[k == 3 ? 4 : k].file, "not read");
	write_text(p, "model.gguf", "not read");
	write_shard(p, "a.safetensors", 0, 4);
	write_shard(p, "b.safetensors", 4, p->n);
	for (size_t k = 0; k < 5; k++) {
		if (k == 1 || k == 2)
			write_shard(p, order[k].file, 0, p->n);
		if (k == 3) {
			write_bin(p, "a.bin", 0, 7, -1);
			write_bin(p, "b.bin", 7, p->n, -1);
		}
		if (k == 4)
			write_bin(p, order[k].file, 0, p->n, -1);
		struct m2_checkpoint *c = accept(p);
		assert_string_equal(m2_checkpoint_container(c), order[k].container);
		if (k == 0)
			expect_files(p, c, "config.json", order[0].file, "a.safetensors",
				"b.safetensors", NULL);
		else if (k == 3)
			expect_files(p, c, "config.json", order[3].file, "a.bin", "b.bin", NULL);
		else
			expect_files(p, c, "config.json", order[k].file, NULL);
		every_value_is(c);
		m2_checkpoint_close(&c);
		remove_file(p, order[k].file);
	}
	remove_file(p, "model.gguf");
	refuse(p, M2_ENOENT, "holds a config and no weights");
}

static void a_pytorch_index_has_the_rules_of_any_index(void **state)
{
	struct place *p = *state;
	write_text(p, "config.json", "{" CONFIG "}");
	write_index(p, "pytorch_model.bin.index.json", 6, "a.bin", "b.bin");
	write_bin(p, "a.bin", 0, 6, -1);
	refuse(p, M2_ENOENT, "b.bin does not exist");
	write_bin(p, "b.bin", 5, p->n, -1);
	refuse(p, M2_EFORMAT, "conv1d.weight, which pytorch_model.bin.index.json lists in a.bin");
	write_bin(p, "b.bin", 7, p->n, -1);
	refuse(p, M2_EFORMAT,
		"pytorch_model.bin.index.json lists backbone.layers.0.mixer.conv1d.bias");
	refuse(p, M2_EFORMAT, "does not hold it");
	p->list[11].name = "other";
	write_bin(p, "b.bin", 6, p->n, -1);
	refuse(p, M2_EFORMAT, "which pytorch_model.bin.index.json does not list");
	write_shard(p, "b.bin", 6, p->n);
	refuse(p, M2_EFORMAT, "b.bin is no zip");
	write_text(p, "pytorch_model.bin.index.json", "{\"weight_map\":{\"t\":\"../x.bin\"}}");
	refuse(p, M2_EFORMAT, "pytorch_model.bin.index.json: t is said to be in \"../x.bin\"");
	write_text(p, "pytorch_model.bin.index.json", "{}");
	refuse(p, M2_EFORMAT, "pytorch_model.bin.index.json has no weight_map");
}

/* As state-spaces' files have it: the head is a second name of the embedding's storage. */
static void a_head_on_the_embeddings_storage_is_the_embedding(void **state)
{
	static const char tied[] = "{" CONFIG ",\"tie_word_embeddings\":true}";
	struct place *p = *state;
	write_text(p, "config.json", tied);
	write_bin(p, "pytorch_model.bin", 0, p->n, HEAD);
	struct m2_checkpoint *c = accept(p);
	const struct m2_weight_source s = m2_checkpoint_source(c);
	assert_int_equal(s.dtype(s.ctx, -1, M2_W_HEAD), M2_DTYPE_NONE);
	assert_int_equal(m2_checkpoint_parameters(c), 878 - 128);
	m2_checkpoint_close(&c);
	/* where the config says untied, it is a head of its own, with the same values */
	write_text(p, "config.json", "{" CONFIG "}");
	c = accept(p);
	assert_true(first_of(c, -1, M2_W_HEAD) == 0.0f);
	assert_int_equal(m2_checkpoint_parameters(c), 878);
	m2_checkpoint_close(&c);
	write_text(p, "config.json", tied);
	write_bin(p, "pytorch_model.bin", 0, p->n, -1);
	refuse(p, M2_EFORMAT, "lm_head.weight differs from backbone.embeddings.weight");
}

static void what_torch_saves_beside_weights_is_refused_by_name(void **state)
{
	struct place *p = *state;
	write_text(p, "config.json", "{" CONFIG "}");
	p->list[p->n++] = (struct tensor){"optimizer.step", "F32", "[1]", 1};
	write_bin(p, "pytorch_model.bin", 0, p->n, -1);
	refuse(p, M2_EUNSUPPORTED, "optimizer.step");
	struct zip_maker z = {.count = 0};
	add_entry(&z, "a/data.pkl", "\x80\x02}U\x05modelK\1s.", 14);
	end_zip(&z);
	FILE *file = create(p, "pytorch_model.bin");
	assert_int_equal(fwrite(z.file.at, 1, z.file.n, file), z.file.n);
	assert_int_equal(fclose(file), 0);
	free_zip(&z);
	refuse(p, M2_EUNSUPPORTED, "\"model\" is an integer, not a tensor");
}

/* Mistral's packaging: params.json, consolidated.safetensors, names with one prefix more.  d 32, one
 * head of 64 channels, N 128 (the dialect's own): 385 rows of in_proj, 320 channels. */
static void a_mistral_packaging_is_read(void **state)
{
	static const struct tensor mistral[] = {
		{"model.backbone.embedding.weight", "BF16", "[16,32]", 512},
		{"model.backbone.norm_f.weight", "BF16", "[32]", 32},
		{"model.lm_head.weight", "BF16", "[16,32]", 512},
		{"model.backbone.layers.0.norm.weight", "BF16", "[32]", 32},
		{"model.backbone.layers.0.mixer.in_proj.weight", "BF16", "[385,32]", 12320},
		{"model.backbone.layers.0.mixer.conv1d.weight", "BF16", "[320,1,4]", 1280},
		{"model.backbone.layers.0.mixer.conv1d.bias", "BF16", "[320]", 320},
		{"model.backbone.layers.0.mixer.dt_bias", "BF16", "[1]", 1},
		{"model.backbone.layers.0.mixer.A_log", "BF16", "[1]", 1},
		{"model.backbone.layers.0.mixer.D", "BF16", "[1]", 1},
		{"model.backbone.layers.0.mixer.norm.weight", "BF16", "[64]", 64},
		{"model.backbone.layers.0.mixer.out_proj.weight", "BF16", "[32,64]", 2048},
	};
	struct place *p = *state;
	for (size_t i = 0; i < N_USUAL; i++)
		p->list[i] = mistral[i];
	write_text(p, "params.json",
		"{\"dim\":32,\"n_layers\":1,\"vocab_size\":16,\"n_groups\":1,\"rms_norm\":true,"
		"\"residual_in_fp32\":true,\"fused_add_norm\":true,\"pad_vocab_size_multiple\":1,"
		"\"tie_embeddings\":false,\"model_type\":\"mamba\"}");
	refuse(p, M2_ENOENT, "holds a config and no weights");
	write_shard(p, "consolidated.safetensors", 0, p->n);
	struct m2_checkpoint *c = accept(p);
	assert_int_equal(m2_checkpoint_config(c)->dialect, M2_DIALECT_MISTRAL);
	assert_string_equal(m2_checkpoint_container(c), "safetensors");
	expect_files(p, c, "params.json", "consolidated.safetensors", NULL);
	every_value_is(c);
	m2_checkpoint_close(&c);
}

static void one_gguf_file_is_taken_and_of_two_none(void **state)
{
	struct place *p = *state;
	char path[4200];
	struct m2_checkpoint *c = NULL;
	struct m2_why why = {.text = ""};
	/* its own description counts, so what this config says does not matter */
	write_text(p, "config.json", "{}");
	write_text(p, "model.gguf", "no GGUF file");
	refuse(p, M2_EFORMAT, "model.gguf");
	(void)snprintf(path, sizeof path, "%s/model.gguf", p->path);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_EFORMAT);
	assert_non_null(strstr(why.text, path));
	write_text(p, "other.gguf", "no GGUF file");
	refuse(p, M2_EINVAL, "holds more than one GGUF file");
	refuse(p, M2_EINVAL, "name the file, not the directory");
	(void)snprintf(path, sizeof path, "%s/none.gguf", p->path);
	assert_int_equal(m2_checkpoint_open(path, 0, &c, &why), M2_ENOENT);
	assert_non_null(strstr(why.text, "none.gguf does not exist"));
	assert_null(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_pytorch_file_is_read),
		TEST(types_may_be_mixed_in_every_container),
		TEST(containers_are_taken_in_one_order_and_never_mixed),
		TEST(a_pytorch_index_has_the_rules_of_any_index),
		TEST(a_head_on_the_embeddings_storage_is_the_embedding),
		TEST(what_torch_saves_beside_weights_is_refused_by_name),
		TEST(a_mistral_packaging_is_read),
		TEST(one_gguf_file_is_taken_and_of_two_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
