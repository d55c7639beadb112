/* test_model_published.c - every published pure checkpoint's config is what the tables say, and every
 * relative's is refused by its name. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "tests/unit/published_configs.h"

static struct m2_model_config accept(const char *name, const char *text)
{
	struct m2_model_config config;
	struct m2_why why = {"", ""};
	if (m2_model_config_parse(text, strlen(text), 0, &config, &why) != M2_OK)
		fail_msg("%s: %s", name, why.text);
	return config;
}

static void every_published_config_is_what_the_tables_say(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_PUBLISHED; i++) {
		const struct published *p = &published[i];
		const struct m2_model_config c = accept(p->repository, p->text);
		const double millions = (double)published_parameters(&c.desc) / 1e6;
		print_message("# %s: %s, %.1f M parameters\n", p->repository,
			m2_dialect_name(c.dialect), millions);
		assert_int_equal(c.dialect, p->dialect);
		assert_int_equal(m2_desc_in_rows(&c.desc), p->rows);
		assert_int_equal(m2_desc_conv_channels(&c.desc), p->channels);
		assert_int_equal(c.desc.vocab_rows, p->vocab_rows);
		assert_true(fabs(millions - p->millions) <= 0.05);
		assert_int_equal(c.bos_token_id, p->bos);
		assert_int_equal(c.pad_token_id, p->pad);
		assert_int_equal(c.n_eos, p->eos < 0 ? 0 : 1);
		if (p->eos >= 0)
			assert_int_equal(c.eos_token_ids[0], p->eos);
		assert_int_equal(c.n_corrections, p->n_corrections);
		for (int32_t k = 0; k < c.n_corrections; k++)
			assert_true(strlen(c.corrections[k]) > 40);
		/* what none of them has, whatever its file says */
		assert_false(c.desc.norm_before_gate || c.desc.d_per_channel || c.desc.proj_bias);
		assert_true(c.desc.gated_norm && c.desc.conv_bias && c.desc.d_mlp == 0);
		assert_true(c.desc.dt_min == 0.0f && isinf(c.desc.dt_max));
		assert_true(c.desc.norm_eps == 1e-5f);
		assert_int_equal(c.desc.norm_groups, c.desc.n_groups);
	}
}

static void codestral_has_the_number_of_parameters_that_its_publisher_gives(void **state)
{
	(void)state;
	const struct m2_model_config c = accept("params.json", PARAMS_JSON);
	assert_true(published_parameters(&c.desc) == 7285403648);
	assert_false(c.desc.tied_head);
	assert_int_equal(c.desc.n_groups, 8);
	assert_int_equal(c.chunk_size, 256);
}

/* ---- corrections ------------------------------------------------------------------------------ */

static bool corrected(const struct m2_model_config *c, const char *word)
{
	for (int32_t i = 0; i < c->n_corrections; i++)
		if (strstr(c->corrections[i], word) != NULL)
			return true;
	return false;
}

#define CODESTRAL(ids, gate)                                                                       \
	"{\"model_type\": \"mamba2\", \"hidden_size\": 4096, \"num_hidden_layers\": 64, "          \
	"\"vocab_size\": 32768, \"num_heads\": 128, \"head_dim\": 64, \"state_size\": 128, "       \
	"\"n_groups\": 8, \"layer_norm_epsilon\": 1e-05" ids gate "}"
#define ZEROS ", \"bos_token_id\": 0, \"eos_token_id\": 0, \"pad_token_id\": 0"

static void codestrals_lies_are_known_by_shape_and_values(void **state)
{
	(void)state;
	struct m2_model_config c = accept("both", CODESTRAL(ZEROS, ", \"norm_before_gate\": true"));
	assert_int_equal(c.n_corrections, 2);
	assert_true(corrected(&c, "norm_before_gate") && corrected(&c, "1, 2 and none"));
	c = accept("ids alone", CODESTRAL(ZEROS, ", \"norm_before_gate\": false"));
	assert_int_equal(c.n_corrections, 1);
	assert_int_equal(c.eos_token_ids[0], 2);
	/* a fine-tune that says what is true is believed */
	c = accept("true ids", CODESTRAL(", \"bos_token_id\": 1, \"eos_token_id\": 2", ""));
	assert_int_equal(c.n_corrections, 0);
	c = accept("other ids", CODESTRAL(", \"bos_token_id\": 0, \"eos_token_id\": 7", ""));
	assert_int_equal(c.n_corrections, 0);
	assert_int_equal(c.eos_token_ids[0], 7);
	/* zeros are right in GPT-NeoX's vocabulary */
	c = accept("NeoX", ANTONV_HF(768, 24, 24));
	assert_int_equal(c.n_corrections, 0);
}

static void a_generation_config_that_repeats_the_lie_is_not_believed(void **state)
{
	(void)state;
	static const char same[] = "{\"_from_model_config\": true, \"bos_token_id\": 0, "
				   "\"eos_token_id\": 0, \"pad_token_id\": 0}";
	static const char other[] = "{\"eos_token_id\": [2, 5]}";
	struct m2_why why;
	struct m2_model_config c = accept("Codestral", CODESTRAL(ZEROS, ""));
	assert_int_equal(m2_model_config_generation(same, strlen(same), &c, &why), M2_OK);
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_token_ids[0], 2);
	assert_int_equal(m2_model_config_generation(other, strlen(other), &c, &why), M2_OK);
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos_token_ids[1], 5);
	/* elsewhere 0 is what the file says */
	c = accept("whiff", WHIFF);
	assert_int_equal(m2_model_config_generation(same, strlen(same), &c, &why), M2_OK);
	assert_int_equal(c.eos_token_ids[0], 0);
}

/* ---- fla through the years -------------------------------------------------------------------- */

#define FLA_SHAPE                                                                                  \
	"{\"model_type\": \"mamba2\", \"hidden_size\": 64, \"num_hidden_layers\": 2, "             \
	"\"vocab_size\": 100, \"head_dim\": 16, \"state_size\": 32, \"n_groups\": 2, "             \
	"\"num_heads\": 8"

static void earlier_versions_of_fla_are_known_by_their_own_keys(void **state)
{
	(void)state;
	/* 2024: transformers' names, one key of fla's */
	struct m2_model_config c = accept("2024", FLA_SHAPE
		", \"layer_norm_epsilon\": 1e-06, \"time_step_limit\": [0.1, 0.2], "
		"\"time_step_rank\": 4, \"rms_norm\": true, \"fuse_cross_entropy\": true}");
	assert_int_equal(c.dialect, M2_DIALECT_FLA);
	assert_true(c.desc.norm_eps == 1e-6f && c.desc.dt_min == 0.1f && c.desc.dt_max == 0.2f);
	/* 2025: half of them */
	c = accept("2025",
		FLA_SHAPE ", \"norm_eps\": 1e-06, \"time_step_limit\": [0.0, Infinity], "
			  "\"time_step_rank\": 4, "
			  "\"rms_norm\": true, \"fuse_norm\": true, \"use_l2warp\": false}");
	assert_int_equal(c.dialect, M2_DIALECT_FLA);
	assert_int_equal(c.n_corrections, 0);
	/* the key that only fla honours, in a file that is fla's */
	c = accept("gate", FLA_SHAPE ", \"layer_norm_epsilon\": 1e-05, \"fuse_norm\": true, "
				     "\"norm_before_gate\": true}");
	assert_true(c.desc.norm_before_gate);
	assert_int_equal(c.n_corrections, 0);
}

static void the_fla_of_august_2024_is_read_as_transformers_and_says_so(void **state)
{
	(void)state;
	struct m2_model_config c = accept("2024-08",
		FLA_SHAPE ", \"layer_norm_epsilon\": 1e-05, \"norm_before_gate\": true}");
	assert_int_equal(c.dialect, M2_DIALECT_TRANSFORMERS);
	assert_false(c.desc.norm_before_gate);
	assert_true(corrected(&c, "rename layer_norm_epsilon to norm_eps"));
	/* and following that advice gives the other reading */
	c = accept("renamed", FLA_SHAPE ", \"norm_eps\": 1e-05, \"norm_before_gate\": true, "
					"\"rms_norm\": true, \"time_step_rank\": 4, "
					"\"time_step_limit\": [0.0, Infinity]}");
	assert_int_equal(c.dialect, M2_DIALECT_FLA);
	assert_true(c.desc.norm_before_gate);
	c = accept("rms_norm", FLA_SHAPE ", \"layer_norm_epsilon\": 1e-05, \"rms_norm\": false}");
	assert_true(corrected(&c, "rms_norm") && c.desc.gated_norm);
}

/* ---- relatives -------------------------------------------------------------------------------- */

#define SSM_HEAD(d, layers)                                                                        \
	"{\"d_model\": " #d ", \"n_layer\": " #layers ", \"vocab_size\": 50277, "
#define OUTEAI(layers, mlp)                                                                        \
	"{\"architectures\": [\"Mamba2ForCausalLM\"], \"attention_conv_kernel\": 4, "              \
	"\"attention_head_dim\": 128, \"attention_layers_idx\": " layers                           \
	", \"bos_token_id\": 1, \"chunk_size\": 256, \"eos_token_id\": 2, \"expand\": 2, "         \
	"\"hidden_act\": \"silu\", \"hidden_size\": 1024, \"intermediate_size\": 2048, "           \
	"\"layer_norm_epsilon\": 1e-05, \"mamba2_conv_kernel\": 4, \"mamba2_head_dim\": 64, "      \
	"\"mamba2_num_heads\": 32, \"mlp_intermediate_size\": " mlp                                \
	", \"mlp_padding_size\": 128, \"model_type\": \"mamba2\", \"num_attention_heads\": 16, "   \
	"\"num_hidden_layers\": 30, \"num_key_value_heads\": 16, \"pad_token_id\": 2, "            \
	"\"rope_emb_dim\": 64, \"state_size\": 128, \"tie_embedding_weights\": true, "             \
	"\"time_step_limit\": [0.0, Infinity], \"use_conv_bias\": true, \"use_mamba2_bias\": "     \
	"false, \"vocab_size\": 32000}"
#define QUANTISED(key) CODESTRAL(ZEROS, ", " key)

static void outeais_dialect_runs_where_it_is_pure(void **state)
{
	(void)state;
	const struct m2_model_config c = accept("pure", OUTEAI("[]", "0"));
	assert_int_equal(c.dialect, M2_DIALECT_OUTEAI);
	assert_int_equal(m2_desc_in_rows(&c.desc), 4384);
	assert_int_equal(m2_desc_conv_channels(&c.desc), 2304);
	assert_true(c.desc.tied_head);
	assert_int_equal(c.desc.n_groups, 1);
	assert_int_equal(c.pad_token_id, 2);
}

static const struct relative {
	const char *name, *field, *word, *text;
} relatives[] = {
	{"state-spaces/mamba2attn-2.7b", "attn_layer_idx", "mamba2attn",
		SSM_HEAD(
			2560, 64) "\"d_intermediate\": 0, \"ssm_cfg\": {\"layer\": \"Mamba2\"}, "
				  "\"attn_layer_idx\": [9, 18, 27, 36, 45, 56], \"attn_cfg\": "
				  "{\"causal\": true, \"d_conv\": 4, \"head_dim\": 128, "
				  "\"num_heads\": 30, \"rotary_emb_dim\": 64}, \"rms_norm\": true, "
				  "\"pad_vocab_size_multiple\": 16, \"tie_embeddings\": true}"},
	{"state-spaces/transformerpp-2.7b", "attn_layer_idx", "transformerpp",
		SSM_HEAD(2560, 32) "\"d_intermediate\": 6912, \"ssm_cfg\": {}, \"attn_layer_idx\": "
				   "[0, 1, 2, 3], \"attn_cfg\": {\"causal\": true, \"head_dim\": "
				   "80, \"num_heads\": 32, \"rotary_emb_dim\": 40}}"},
	{"mamba_ssm with MLPs", "d_intermediate", "MLP",
		SSM_HEAD(
			2560, 64) "\"d_intermediate\": 6912, \"ssm_cfg\": {\"layer\": \"Mamba2\"}, "
				  "\"attn_layer_idx\": []}"},
	{"state-spaces/mamba-2.8b", "ssm_cfg.layer", "Mamba-1",
		SSM_HEAD(2560,
			64) "\"ssm_cfg\": {}, \"rms_norm\": true, \"residual_in_fp32\": true, "
			    "\"fused_add_norm\": true, \"pad_vocab_size_multiple\": 8}"},
	{"mamba_ssm's Mamba-3", "ssm_cfg.layer", "Mamba-3",
		SSM_HEAD(2048, 24) "\"ssm_cfg\": {\"layer\": \"Mamba3\", \"d_state\": 128}}"},
	{"LayerNorm blocks", "rms_norm", "LayerNorm",
		SSM_HEAD(768, 24) "\"ssm_cfg\": {\"layer\": \"Mamba2\"}, \"rms_norm\": false}"},
	{"state-spaces/mamba-130m-hf", "model_type", "Mamba-1",
		"{\"architectures\": [\"MambaForCausalLM\"], \"conv_kernel\": 4, \"expand\": 2, "
		"\"hidden_size\": 768, \"layer_norm_epsilon\": 1e-05, \"model_type\": \"mamba\", "
		"\"num_hidden_layers\": 24, \"rms_norm\": true, \"state_size\": 16, "
		"\"time_step_rank\": 48, \"vocab_size\": 50280}"},
	{"tiiuae/falcon-mamba-7b", "model_type", "Falcon Mamba",
		"{\"architectures\": [\"FalconMambaForCausalLM\"], \"hidden_size\": 4096, "
		"\"model_type\": \"falcon_mamba\", \"num_hidden_layers\": 64, \"state_size\": 16}"},
	{"a Mamba-3 of transformers", "model_type", "Mamba-3",
		"{\"model_type\": \"mamba3\", \"hidden_size\": 2048, \"num_hidden_layers\": 24}"},
	{"OuteAI/Lite-Oute-2-Mamba2Attn-250M-Base", "attention_layers_idx", "OuteAI",
		OUTEAI("[6, 12, 18, 24]", "0")},
	{"OuteAI's code with MLPs", "mlp_intermediate_size", "MLP", OUTEAI("[]", "4096")},
	{"nvidia/mamba2-hybrid-8b, as Megatron says it", "hybrid_attention_ratio", "attention",
		"{\"model_type\": \"mamba2\", \"hidden_size\": 4096, \"num_hidden_layers\": 56, "
		"\"hybrid_attention_ratio\": 0.08, \"hybrid_mlp_ratio\": 0.5}"},
	{"ibm-ai-platform/Bamba-9B", "model_type", "Bamba",
		"{\"architectures\": [\"BambaForCausalLM\"], \"attn_layer_indices\": [9, 18, 27], "
		"\"attn_rotary_emb\": 64, \"hidden_size\": 4096, \"intermediate_size\": 14336, "
		"\"mamba_d_conv\": 4, \"mamba_d_head\": 64, \"mamba_d_state\": 128, "
		"\"mamba_expand\": "
		"2, \"mamba_n_groups\": 1, \"mamba_n_heads\": 128, \"model_type\": \"bamba\", "
		"\"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"vocab_size\": 128256}"},
	{"nvidia/Nemotron-H-8B-Base-8K", "model_type", "Nemotron-H",
		"{\"architectures\": [\"NemotronHForCausalLM\"], \"hidden_size\": 4096, "
		"\"hybrid_override_pattern\": \"M-M-M-M*-M-M-M-M-M*\", \"mamba_head_dim\": 64, "
		"\"mamba_num_heads\": 128, \"model_type\": \"nemotron_h\", \"n_groups\": 8, "
		"\"num_hidden_layers\": 52, \"ssm_state_size\": 128, \"vocab_size\": 131072}"},
	{"Zyphra/Zamba2-2.7B", "model_type", "Zamba2",
		"{\"architectures\": [\"Zamba2ForCausalLM\"], \"hidden_size\": 2560, "
		"\"hybrid_layer_ids\": [6, 12, 18, 24, 30, 36, 42, 47, 51], \"mamba_d_state\": 64, "
		"\"model_type\": \"zamba2\", \"num_hidden_layers\": 54, \"num_mem_blocks\": 2, "
		"\"vocab_size\": 32000}"},
	{"ibm-granite/granite-4.0-h-micro", "model_type", "Granite",
		"{\"architectures\": [\"GraniteMoeHybridForCausalLM\"], \"hidden_size\": 2048, "
		"\"layer_types\": [\"mamba\", \"mamba\", \"attention\"], \"mamba_n_heads\": 64, "
		"\"model_type\": \"granitemoehybrid\", \"num_hidden_layers\": 40}"},
	{"tiiuae/Falcon-H1-0.5B-Base", "model_type", "Falcon-H1",
		"{\"architectures\": [\"FalconH1ForCausalLM\"], \"hidden_size\": 1024, "
		"\"mamba_d_ssm\": 1536, \"mamba_rms_norm\": false, \"model_type\": \"falcon_h1\", "
		"\"num_hidden_layers\": 36, \"ssm_multipliers\": [0.35, 0.25, 0.35, 0.5, 0.35]}"},
	{"pfnet/plamo-2-1b", "model_type", "PLaMo",
		"{\"architectures\": [\"Plamo2ForCausalLM\"], \"hidden_size\": 2048, "
		"\"mamba_d_state\": 64, \"mamba_step\": 2, \"model_type\": \"plamo2\", "
		"\"num_hidden_layers\": 16, \"vocab_size\": 100000}"},
	{"ai21labs/Jamba-v0.1", "model_type", "Jamba",
		"{\"architectures\": [\"JambaForCausalLM\"], \"attn_layer_offset\": 4, "
		"\"attn_layer_period\": 8, \"hidden_size\": 4096, \"model_type\": \"jamba\", "
		"\"num_experts\": 16, \"num_hidden_layers\": 32}"},
	{"cartesia-ai/Llamba-3B", "model_type", "Llamba",
		"{\"model_type\": \"llamba\", \"vocab_size\": 128256, \"tie_embeddings\": true, "
		"\"pad_vocab_size_multiple\": 8, \"lm_head_bias\": false, \"d_model\": 3072, "
		"\"n_layer\": 28, \"resid_dropout\": 0.0, \"norm_epsilon\": 1e-5, \"mlp_cfg\": "
		"{\"intermediate_size\": 8192, \"bias\": false, \"act_fn\": \"silu\"}, "
		"\"ssm_cfg\": "
		"{\"d_state\": 64, \"n_v_heads\": 32, \"n_qk_heads\": 32, \"expand\": 1, "
		"\"chunk_size\": 128, \"activation\": \"identity\", \"bias\": false}}"},
	{"JunxiongWang/Llama3.1-Mamba-8B-distill, mamba_config.json", "d_xb", "MambaInLlama",
		"{\"d_model\": 4096, \"ssm_cfg\": {\"expand\": 1}, \"rms_norm_eps\": 1e-05, "
		"\"vocab_size\": null, \"d_inner\": null, \"d_xb\": 1024, \"intermediate_size\": "
		"14336, \"hidden_act\": \"silu\", \"n_layer\": 32, \"attn_layers\": [1, 3, 5]}"},
	{"mlx-community/Mamba-Codestral-7B-v0.1-4bit", "quantization", "MLX",
		QUANTISED("\"quantization\": {\"group_size\": 64, \"bits\": 4}, "
			  "\"quantization_config\": {\"group_size\": 64, \"bits\": 4}")},
	{"a GPTQ checkpoint", "quantization_config", "(gptq)",
		QUANTISED("\"quantization_config\": {\"bits\": 4, \"group_size\": 128, "
			  "\"quant_method\": \"gptq\"}")},
	{"an AWQ checkpoint", "quantization_config", "(awq)",
		QUANTISED("\"quantization_config\": {\"bits\": 4, \"quant_method\": \"awq\", "
			  "\"version\": \"gemm\"}")},
	{"another activation", "hidden_act", "gelu", CODESTRAL("", ", \"hidden_act\": \"gelu\"")},
	{"a hybrid under our model_type", "layers_block_type", "not Mamba-2",
		CODESTRAL("", ", \"layers_block_type\": [\"mamba\", \"hybrid\"]")},
	{"mistralai/Mistral-7B-v0.1, params.json", "n_heads", "transformer",
		"{\"dim\": 4096, \"n_layers\": 32, \"head_dim\": 128, \"hidden_dim\": 14336, "
		"\"n_heads\": 32, \"n_kv_heads\": 8, \"norm_eps\": 1e-05, \"vocab_size\": 32000}"},
	{"a Llama", "model_type", "not \"mamba2\"",
		"{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 4096, "
		"\"model_type\": "
		"\"llama\", \"num_hidden_layers\": 32, \"layer_types\": [\"full_attention\"]}"},
};

static void every_relative_is_refused_by_name_and_key(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof relatives / sizeof *relatives; i++) {
		const struct relative *r = &relatives[i];
		struct m2_model_config config;
		struct m2_why why = {"", ""};
		const enum m2_err err =
			m2_model_config_parse(r->text, strlen(r->text), 0, &config, &why);
		print_message("# %s: %s\n", r->name, why.text);
		if (err != M2_EUNSUPPORTED || strcmp(why.field, r->field) != 0 ||
			strstr(why.text, r->word) == NULL)
			fail_msg("%s gave %s, field %s: %s", r->name, m2_err_code(err), why.field,
				why.text);
		/* the key that shows it stands in the sentence */
		const char *dot = strrchr(r->field, '.');
		assert_non_null(strstr(why.text, dot == NULL ? r->field : dot + 1));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_published_config_is_what_the_tables_say),
		cmocka_unit_test(codestral_has_the_number_of_parameters_that_its_publisher_gives),
		cmocka_unit_test(codestrals_lies_are_known_by_shape_and_values),
		cmocka_unit_test(a_generation_config_that_repeats_the_lie_is_not_believed),
		cmocka_unit_test(earlier_versions_of_fla_are_known_by_their_own_keys),
		cmocka_unit_test(the_fla_of_august_2024_is_read_as_transformers_and_says_so),
		cmocka_unit_test(outeais_dialect_runs_where_it_is_pure),
		cmocka_unit_test(every_relative_is_refused_by_name_and_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
