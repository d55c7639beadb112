/* test_model_gguf_config.c - keys and tensors of a GGUF file give the description that a model has, and
 * what contradicts itself or is no pure Mamba-2 is refused by the key that shows it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/gguf_maker.h"

/* ---- helpers ---- */

static void expect(enum m2_err err, enum m2_err wanted, const struct m2_why *why, const char *word)
{
	if (err != wanted || strstr(why->text, word) == NULL)
		print_error("wanted \"%s\", gave %s: %s\n", word, m2_err_code(err), why->text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why->text, word));
	assert_non_null(strstr(why->text, "x.gguf"));
}

/* The configuration of a maker's file, which is freed. */
static enum m2_err configure(
	struct gguf_maker *m, int32_t norm_groups, struct m2_model_config *out, struct m2_why *why)
{
	struct m2_gguf *g = NULL;
	struct m2_tensor_file *f = NULL;
	struct bytes file = finish_gguf(m);
	enum m2_err err = m2_gguf_parse(file.at, file.n, file.n, "x.gguf", &g, &f, why);
	if (err != M2_OK)
		print_error("%s\n", why->text);
	assert_int_equal(err, M2_OK);
	free(file.at); /* nothing may point into it */
	free_gguf(m);
	err = m2_gguf_config(g, f, norm_groups, out, why);
	m2_tensor_file_close(&f);
	m2_gguf_close(&g);
	return err;
}

static void refuse_config(struct gguf_maker *m, enum m2_err wanted, const char *word)
{
	struct m2_model_config config;
	struct m2_why why = {.text = ""};
	expect(configure(m, 0, &config, &why), wanted, &why, word);
}

static struct m2_model_config configured(struct gguf_maker *m, int32_t norm_groups)
{
	struct m2_model_config config;
	struct m2_why why = {.text = ""};
	const enum m2_err err = configure(m, norm_groups, &config, &why);
	if (err != M2_OK)
		print_error("%s\n", why.text);
	assert_int_equal(err, M2_OK);
	return config;
}

/* ---- the configuration ---- */

static void the_description_is_that_of_keys_and_tensors(void **state)
{
	(void)state;
	struct gguf_maker m = tiny_gguf();
	struct m2_model_config c = configured(&m, 0);
	assert_int_equal(c.dialect, M2_DIALECT_GGUF);
	assert_int_equal(c.desc.hidden_size, T_D);
	assert_int_equal(c.desc.n_layers, T_L);
	assert_int_equal(c.desc.vocab_rows, T_V);
	assert_int_equal(c.desc.n_heads, T_H);
	assert_int_equal(c.desc.head_dim, T_P);
	assert_int_equal(c.desc.state_size, T_N);
	assert_int_equal(c.desc.n_groups, T_G);
	assert_int_equal(c.desc.norm_groups, T_G);
	assert_int_equal(c.desc.conv_kernel, T_K);
	assert_int_equal(c.desc.d_mlp, 0);
	assert_true(c.desc.a_given);
	assert_true(c.desc.conv_bias);
	assert_true(c.desc.gated_norm);
	assert_false(c.desc.tied_head);
	assert_false(c.desc.proj_bias);
	assert_false(c.desc.norm_before_gate);
	assert_false(c.desc.d_per_channel);
	assert_true(c.desc.norm_eps == 1e-5f);
	assert_true(c.desc.dt_min == 0.0f && isinf(c.desc.dt_max));
	assert_int_equal(c.vocab_size, T_V);
	assert_int_equal(c.bos_token_id, -1);
	assert_int_equal(c.pad_token_id, -1);
	assert_int_equal(c.n_eos, 0);

	m = tiny_gguf();
	c = configured(&m, 1);
	assert_int_equal(c.desc.norm_groups, 1);
	assert_int_equal(c.desc.n_groups, T_G);

	m = start_gguf();
	m.skip_tensor = "output.weight";
	tiny_keys(&m);
	tiny_tensors(&m);
	assert_true(configured(&m, 0).desc.tied_head);

	m = tiny_gguf();
	tensor(&m, "blk.0.ssm_in.bias", T_R, 0);
	assert_true(configured(&m, 0).desc.proj_bias);

	m = start_gguf();
	tiny_keys(&m);
	m.skip_tensor = "blk.0.ssm_d";
	tiny_tensors(&m);
	m.skip_tensor = NULL;
	tensor(&m, "blk.0.ssm_d", 1, T_DS);
	assert_true(configured(&m, 0).desc.d_per_channel);

	/* no conv bias, no gated norm: nothing but two tensors */
	m = start_gguf();
	tiny_keys(&m);
	tensor(&m, "token_embd.weight", T_D, T_V);
	c = configured(&m, 0);
	assert_false(c.desc.conv_bias);
	assert_false(c.desc.gated_norm);
}

static void any_width_of_integer_will_do(void **state)
{
	(void)state;
	const struct {
		uint32_t type;
		unsigned size;
	} types[] = {{M2_GGUF_U8, 1}, {M2_GGUF_I8, 1}, {M2_GGUF_U16, 2}, {M2_GGUF_I16, 2},
		{M2_GGUF_I32, 4}, {M2_GGUF_U64, 8}, {M2_GGUF_I64, 8}};
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		struct gguf_maker m = start_gguf();
		m.skip_key = "mamba2.block_count";
		tiny_keys(&m);
		m.skip_key = NULL;
		(void)begin_key(&m, "mamba2.block_count", types[i].type);
		put_number(&m.keys, T_L, types[i].size);
		tiny_tensors(&m);
		assert_int_equal(configured(&m, 0).desc.n_layers, T_L);
	}
}

/* The tiny model with one integer key changed. */
static struct gguf_maker with_key(const char *key, uint32_t value)
{
	struct gguf_maker m = start_gguf();
	m.skip_key = key;
	tiny_keys(&m);
	m.skip_key = NULL;
	key_u32(&m, key, value);
	tiny_tensors(&m);
	return m;
}

static void every_key_is_needed_and_bounded(void **state)
{
	(void)state;
	static const char *const keys[] = {"mamba2.embedding_length", "mamba2.block_count",
		"mamba2.ssm.conv_kernel", "mamba2.ssm.inner_size", "mamba2.ssm.state_size",
		"mamba2.ssm.time_step_rank", "mamba2.ssm.group_count",
		"mamba2.attention.layer_norm_rms_epsilon", "general.architecture"};
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		struct gguf_maker m = start_gguf();
		char words[96];
		m.skip_key = keys[i];
		tiny_keys(&m);
		tiny_tensors(&m);
		(void)snprintf(words, sizeof words, "lacks %s", keys[i]);
		refuse_config(&m, M2_EINVAL, words);
	}
	for (size_t i = 0; i < 7; i++) {
		struct gguf_maker m = with_key(keys[i], 0);
		refuse_config(&m, M2_EINVAL, keys[i]);
		m = with_key(keys[i], UINT32_MAX);
		refuse_config(&m, M2_EINVAL, keys[i]);
	}
	struct gguf_maker m = with_key("mamba2.attention.layer_norm_rms_epsilon", 1);
	refuse_config(&m, M2_EINVAL, "between 0 and 1");
	m = with_key("general.architecture", 1);
	refuse_config(&m, M2_EINVAL, "of type u32, not a string");
	m = start_gguf();
	m.skip_key = "mamba2.block_count";
	tiny_keys(&m);
	m.skip_key = NULL;
	key_f32(&m, "mamba2.block_count", 2);
	tiny_tensors(&m);
	refuse_config(&m, M2_EINVAL, "mamba2.block_count is of type f32, not an integer");
	m = start_gguf();
	m.skip_key = "mamba2.attention.layer_norm_rms_epsilon";
	tiny_keys(&m);
	m.skip_key = NULL;
	key_f32(&m, "mamba2.attention.layer_norm_rms_epsilon", NAN);
	tiny_tensors(&m);
	refuse_config(&m, M2_EINVAL, "not finite");
}

static void widths_must_agree(void **state)
{
	(void)state;
	struct gguf_maker m = with_key("mamba2.ssm.inner_size", 18);
	refuse_config(&m, M2_EINVAL, "no multiple of the heads");
	m = with_key("mamba2.ssm.group_count", 3);
	refuse_config(&m, M2_EINVAL, "must divide the heads");
	/* the tensors of the gated norm know better */
	m = with_key("mamba2.ssm.group_count", 1);
	refuse_config(&m, M2_EFORMAT, "the rows of the ssm_norm tensors are 2");
	m = start_gguf();
	tiny_keys(&m);
	m.skip_tensor = "blk.1.ssm_norm.weight";
	tiny_tensors(&m);
	m.skip_tensor = NULL;
	tensor(&m, "blk.1.ssm_norm.weight", T_DS, 0);
	refuse_config(&m, M2_EFORMAT, "the ssm_norm tensors differ");
	m = with_key("mamba2.embedding_length", 9);
	refuse_config(&m, M2_EFORMAT, "12 rows of 8, and mamba2.embedding_length is 9");
	m = start_gguf();
	m.skip_tensor = "token_embd.weight";
	tiny_keys(&m);
	tiny_tensors(&m);
	refuse_config(&m, M2_EFORMAT, "token_embd.weight is missing");
	m = start_gguf();
	m.skip_tensor = "token_embd.weight";
	tiny_keys(&m);
	tiny_tensors(&m);
	m.skip_tensor = NULL;
	tensor(&m, "token_embd.weight", T_D, 0);
	refuse_config(&m, M2_EFORMAT, "token_embd.weight has 1 dimensions");
}

static void other_families_are_refused_by_name(void **state)
{
	(void)state;
	static const struct {
		const char *architecture, *words;
	} rows[] = {{"mamba", "Mamba-1"}, {"nemotron_h", "Nemotron-H"},
		{"granitehybrid", "Granite 4 or Bamba"}, {"falcon-h1", "Falcon-H1"},
		{"jamba", "Jamba"}, {"plamo2", "PLaMo-2"}, {"llama", "\"llama\", not \"mamba2\""},
		{"mamba22", "\"mamba22\""}};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct gguf_maker m = start_gguf();
		key_text(&m, "general.architecture", rows[i].architecture);
		refuse_config(&m, M2_EUNSUPPORTED, rows[i].words);
	}
	struct gguf_maker m = with_key("mamba2.feed_forward_length", 1);
	refuse_config(&m, M2_EUNSUPPORTED, "a hybrid with MLP blocks");
	m = with_key("mamba2.attention.head_count", 8);
	refuse_config(&m, M2_EUNSUPPORTED, "head_count is 8: a hybrid with attention layers");
	const int32_t per_layer[T_L] = {0, 4};
	m = start_gguf();
	m.skip_key = "mamba2.attention.head_count";
	tiny_keys(&m);
	m.skip_key = NULL;
	key_i32s(&m, "mamba2.attention.head_count", per_layer, T_L);
	refuse_config(&m, M2_EUNSUPPORTED, "head_count is 4: a hybrid with attention layers");
	const int32_t none[T_L] = {0, 0};
	m = start_gguf();
	m.skip_key = "mamba2.attention.head_count";
	tiny_keys(&m);
	m.skip_key = NULL;
	key_i32s(&m, "mamba2.attention.head_count", none, T_L);
	tiny_tensors(&m);
	(void)configured(&m, 0);
	m = tiny_gguf();
	key_u32(&m, "split.count", 3);
	refuse_config(&m, M2_EUNSUPPORTED, "one of 3 parts");
}

static void quantised_types_are_named(void **state)
{
	(void)state;
	const uint64_t ne[2] = {256, 1};
	const struct {
		uint32_t type;
		size_t bytes;
		const char *name;
	} types[] = {{2, 144, "Q4_0"}, {8, 272, "Q8_0"}, {12, 144, "Q4_K"}, {14, 210, "Q6_K"},
		{20, 144, "IQ4_NL"}, {26, 1024, "I32"}, {39, 136, "MXFP4"}};
	static const unsigned char data[1024] = {0};
	struct gguf_maker all = tiny_gguf();
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		struct gguf_maker m = tiny_gguf();
		char name[32];
		describe(&m, "blk.0.ssm_in.bias", 2, ne, types[i].type, m.data.n);
		add_data(&m, data, types[i].bytes);
		tensor(&m, "behind", 1, 0); /* its place shows the bytes that were assumed */
		refuse_config(&m, M2_EUNSUPPORTED, types[i].name);
		(void)snprintf(name, sizeof name, "t%zu", i);
		describe(&all, name, 2, ne, types[i].type, all.data.n);
		add_data(&all, data, types[i].bytes);
	}
	refuse_config(
		&all, M2_EUNSUPPORTED, "7 tensors have types that cannot be run (Q4_0, Q8_0, Q4_K");
}

/* ---- tokens ---- */

static void fillers_are_no_tokens(void **state)
{
	(void)state;
	static const char *const tokens[T_V] = {"a", "b", "[PAD2]", "c", "[PADx]", "[PAD]", "d",
		"e", "f", "[PAD9]", "[PAD10]", "[PAD11]"};
	struct gguf_maker m = tiny_gguf();
	key_texts(&m, "tokenizer.ggml.tokens", tokens, T_V);
	key_u32(&m, "tokenizer.ggml.bos_token_id", 1);
	key_u32(&m, "tokenizer.ggml.eos_token_id", 8);
	key_u32(&m, "tokenizer.ggml.eot_token_id", 3);
	key_u32(&m, "tokenizer.ggml.eom_token_id", 8);
	key_u32(&m, "tokenizer.ggml.padding_token_id", 11);
	const struct m2_model_config c = configured(&m, 0);
	assert_int_equal(c.vocab_size, 9);
	assert_int_equal(c.desc.vocab_rows, T_V);
	assert_int_equal(c.bos_token_id, 1);
	assert_int_equal(c.pad_token_id, 11);
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos_token_ids[0], 8);
	assert_int_equal(c.eos_token_ids[1], 3);

	m = tiny_gguf();
	key_texts(&m, "tokenizer.ggml.tokens", tokens, T_V);
	key_u32(&m, "tokenizer.ggml.eos_token_id", 9);
	refuse_config(&m, M2_EINVAL, "eos_token_id is 9, but there are 9 tokens");
	m = tiny_gguf();
	key_u32(&m, "tokenizer.ggml.padding_token_id", T_V);
	refuse_config(&m, M2_EINVAL, "padding_token_id is 12");
	m = tiny_gguf();
	key_texts(&m, "tokenizer.ggml.tokens", tokens + 9, 3);
	refuse_config(&m, M2_EINVAL, "has no token");
	m = tiny_gguf();
	key_u32(&m, "tokenizer.ggml.tokens", 3);
	refuse_config(&m, M2_EINVAL, "not an array");
	const int32_t numbers[1] = {1};
	m = tiny_gguf();
	key_i32s(&m, "tokenizer.ggml.tokens", numbers, 1);
	refuse_config(&m, M2_EINVAL, "no array of strings");
	static const char *const many[T_V + 1] = {
		"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"};
	m = tiny_gguf();
	key_texts(&m, "tokenizer.ggml.tokens", many, T_V + 1);
	refuse_config(&m, M2_EFORMAT, "13 tokens, and token_embd.weight has 12 rows");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_description_is_that_of_keys_and_tensors),
		cmocka_unit_test(any_width_of_integer_will_do),
		cmocka_unit_test(every_key_is_needed_and_bounded),
		cmocka_unit_test(widths_must_agree),
		cmocka_unit_test(other_families_are_refused_by_name),
		cmocka_unit_test(quantised_types_are_named),
		cmocka_unit_test(fillers_are_no_tokens),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
