/* published_configs.h - the config files of the published pure checkpoints, and what follows from them.
 *
 * The texts are the files' own keys and values (read on the repositories' pages; of the five sizes of one
 * family, whose files differ in numbers only, one text with parameters).  rows, channels and the
 * parameters in millions are the table of the semantics report, 4.2; those of the other models are
 * computed from the sizes of the published files.  Header only: tests are one file each.
 */
#ifndef M2_TESTS_UNIT_PUBLISHED_CONFIGS_H
#define M2_TESTS_UNIT_PUBLISHED_CONFIGS_H

#include "model/config.h"

#define SSM_TEXT(d, layers, vocab, ssm, fp32, tied)                                                \
	"{\"d_model\": " d ", \"d_intermediate\": 0, \"n_layer\": " layers                         \
	", \"vocab_size\": " vocab ", \"ssm_cfg\": {\"layer\": \"Mamba2\"" ssm                     \
	"}, \"attn_layer_idx\": [], "                                                              \
	"\"attn_cfg\": {}, \"rms_norm\": true, \"residual_in_fp32\": " fp32                        \
	", \"fused_add_norm\": true, \"pad_vocab_size_multiple\": 16, \"tie_embeddings\": " tied   \
	"}"
#define STATE_SPACES(d, layers) SSM_TEXT(#d, #layers, "50277", "", "true", "true")

/* AntonV's conversions: no architectures, no torch_dtype */
#define ANTONV_HF(d, layers, heads)                                                                \
	"{\"bos_token_id\": 0, \"chunk_size\": 256, \"conv_kernel\": 4, \"eos_token_id\": 0, "     \
	"\"expand\": 2, \"head_dim\": 64, \"hidden_act\": \"silu\", \"hidden_size\": " #d          \
	", \"initializer_range\": 0.1, \"layer_norm_epsilon\": 1e-05, \"model_type\": "            \
	"\"mamba2\", "                                                                             \
	"\"n_groups\": 1, \"num_heads\": " #heads ", \"num_hidden_layers\": " #layers              \
	", \"pad_token_id\": 0, \"rescale_prenorm_residual\": false, \"residual_in_fp32\": true, " \
	"\"rms_norm\": true, \"state_size\": 128, \"tie_word_embeddings\": true, "                 \
	"\"time_step_floor\": 0.0001, \"time_step_limit\": [0.0, Infinity], \"time_step_max\": "   \
	"0.1, \"time_step_min\": 0.001, \"time_step_rank\": 256, \"transformers_version\": "       \
	"\"4.45.0.dev0\", \"use_bias\": false, \"use_cache\": true, \"use_conv_bias\": true, "     \
	"\"vocab_size\": 50288}"

/* AntonV's earlier ones, by vasqu's code: no n_groups */
#define ANTONV_AV(d, layers, heads, inner)                                                         \
	"{\"A_initializer_range\": [1, 16], \"bos_token_id\": 0, \"chunk_size\": 256, "            \
	"\"conv_initializer_range\": null, \"conv_kernel\": 4, \"emb_initializer_range\": 0.02, "  \
	"\"eos_token_id\": 0, \"expand\": 2, \"head_dim\": 64, \"hidden_act\": \"silu\", "         \
	"\"hidden_size\": " #d ", \"intermediate_size\": " #inner                                  \
	", \"layer_norm_epsilon\": 1e-05, \"model_type\": \"mamba2\", \"num_heads\": " #heads      \
	", \"num_hidden_layers\": " #layers ", \"output_last_ssm_states\": false, "                \
	"\"pad_token_id\": 0, \"rescale_prenorm_residual\": false, \"residual_in_fp32\": true, "   \
	"\"state_size\": 128, \"tie_embedding_weights\": true, \"tie_embeddings\": true, "         \
	"\"time_step_floor\": 0.0001, \"time_step_limit\": [0.0, Infinity], \"time_step_max\": "   \
	"0.1, \"time_step_min\": 0.001, \"transformers_version\": \"4.42.0.dev0\", \"use_bias\": " \
	"false, \"use_cache\": true, \"use_conv_bias\": true, \"use_triton_kernels\": true, "      \
	"\"vocab_size\": 50288}"

/* Codestral's conversion and what was copied from it; `more` ends with a comma */
#define CODESTRAL_HF(d, layers, heads, p, n, g, expand, inner, more)                               \
	"{\"_name_or_path\": \"codestral-hf-good/\", \"architectures\": [\"Mamba2ForCausalLM\"], " \
	"\"bos_token_id\": 0, \"chunk_size\": 256, \"conv_kernel\": 4, \"eos_token_id\": 0, "      \
	"\"expand\": " #expand ", \"head_dim\": " #p ", \"hidden_act\": \"silu\", "                \
	"\"hidden_size\": " #d ", \"initializer_range\": 0.1, \"intermediate_size\": " #inner      \
	", \"layer_norm_epsilon\": 1e-05, \"model_type\": \"mamba2\", \"n_groups\": " #g           \
	", \"norm_before_gate\": true, \"num_heads\": " #heads ", \"num_hidden_layers\": " #layers \
	", \"pad_token_id\": 0, \"rescale_prenorm_residual\": false, \"residual_in_fp32\": true, " \
	"\"state_size\": " #n ", " more "\"time_step_floor\": 0.0001, "                            \
	"\"time_step_init_scheme\": \"random\", \"time_step_limit\": [0.0, Infinity], "            \
	"\"time_step_max\": 0.1, \"time_step_min\": 0.001, \"time_step_rank\": 256, "              \
	"\"time_step_scale\": 1.0, \"torch_dtype\": \"bfloat16\", \"use_bias\": false, "           \
	"\"use_cache\": true, \"use_conv_bias\": true, \"vocab_size\": 32768}"

#define WHIFF                                                                                      \
	"{\"architectures\": [\"Mamba2ForCausalLM\"], \"bos_token_id\": 6, \"chunk_size\": 256, "  \
	"\"conv_kernel\": 4, \"dtype\": \"float32\", \"eos_token_id\": 6, \"expand\": 1.5, "       \
	"\"head_dim\": 64, \"hidden_act\": \"silu\", \"hidden_size\": 512, "                       \
	"\"initializer_range\": 0.1, \"layer_norm_epsilon\": 1e-05, \"model_type\": \"mamba2\", "  \
	"\"n_groups\": 2, \"num_heads\": 12, \"num_hidden_layers\": 9, \"pad_token_id\": 7, "      \
	"\"rescale_prenorm_residual\": false, \"residual_in_fp32\": true, \"rms_norm\": true, "    \
	"\"state_size\": 64, \"tie_word_embeddings\": false, \"time_step_floor\": 0.0001, "        \
	"\"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}], \"time_step_max\": 0.1, "      \
	"\"time_step_min\": 0.001, \"time_step_rank\": 32, \"transformers_version\": \"5.3.0\", "  \
	"\"use_bias\": false, \"use_cache\": false, \"use_conv_bias\": true, \"vocab_size\": "     \
	"8192}"

#define PARAMS_JSON                                                                                \
	"{\"dim\": 4096, \"n_layers\": 64, \"vocab_size\": 32768, \"n_groups\": 8, "               \
	"\"rms_norm\": true, \"residual_in_fp32\": true, \"fused_add_norm\": true, "               \
	"\"pad_vocab_size_multiple\": 1, \"tie_embeddings\": false, \"model_type\": \"mamba\"}"

#define BLUULUU                                                                                    \
	"{\"attn_cfg\": {}, \"attn_layer_idx\": [], \"d_intermediate\": 0, \"d_model\": 2048, "    \
	"\"fused_add_norm\": true, \"model_type\": \"mamba\", \"n_layer\": 48, "                   \
	"\"pad_vocab_size_multiple\": 16, \"residual_in_fp32\": true, \"rms_norm\": true, "        \
	"\"ssm_cfg\": {\"layer\": \"Mamba2\"}, \"tie_embeddings\": true, "                         \
	"\"transformers_version\": \"4.50.0.dev0\", \"use_cache\": true, \"vocab_size\": 50277}"

/* NVIDIA's as Quamba's converter writes it */
#define NVIDIA_8B                                                                                  \
	"{\"d_model\": 4096, \"d_intermediate\": 0, \"n_layer\": 56, \"vocab_size\": 256000, "     \
	"\"ssm_cfg\": {\"layer\": \"Mamba2\", \"ngroups\": 8, \"chunk_size\": 128}, "              \
	"\"attn_layer_idx\": [], \"attn_cfg\": {}, \"rms_norm\": true, \"residual_in_fp32\": "     \
	"true, \"fused_add_norm\": true, \"pad_vocab_size_multiple\": 128, "                       \
	"\"tie_embeddings\": false}"

#define FLA_DEFAULT                                                                                \
	"{\"model_type\": \"mamba2\", \"architectures\": [\"Mamba2ForCausalLM\"], \"head_dim\": "  \
	"64, \"vocab_size\": 32000, \"hidden_size\": 2048, \"state_size\": 128, "                  \
	"\"num_hidden_layers\": 48, \"norm_eps\": 1e-05, \"pad_token_id\": 0, \"bos_token_id\": "  \
	"1, \"eos_token_id\": 2, \"expand\": 2, \"conv_kernel\": 4, \"n_groups\": 1, "             \
	"\"use_bias\": false, \"use_conv_bias\": true, \"conv_init\": null, \"A_init_range\": "    \
	"[1, "                                                                                     \
	"16], \"D_has_hdim\": false, \"hidden_act\": \"silu\", \"initializer_range\": 0.02, "      \
	"\"residual_in_fp32\": true, \"dt_min\": 0.001, \"dt_max\": 0.1, \"dt_init_floor\": "      \
	"0.0001, \"dt_limit\": [0.0, Infinity], \"rescale_prenorm_residual\": true, "              \
	"\"use_cache\": true, \"rmsnorm\": true, \"norm_before_gate\": false, \"chunk_size\": "    \
	"256, "                                                                                    \
	"\"fuse_norm\": true, \"fuse_cross_entropy\": true, \"fuse_linear_cross_entropy\": "       \
	"false, "                                                                                  \
	"\"use_l2warp\": false, \"num_heads\": 64, \"tie_word_embeddings\": false}"

static const struct published {
	const char *repository; /* as in configs/zoo */
	enum m2_dialect dialect;
	int32_t rows, channels, vocab_rows;
	double millions;       /* of parameters */
	int32_t bos, pad, eos; /* as used; eos -1: none */
	int32_t n_corrections;
	const char *text;
} published[] = {
	{"state-spaces/mamba2-130m", M2_DIALECT_MAMBA_SSM, 3352, 1792, 50288, 129.0, -1, -1, 0, 1,
		STATE_SPACES(768, 24)},
	{"state-spaces/mamba2-370m", M2_DIALECT_MAMBA_SSM, 4384, 2304, 50288, 368.3, -1, -1, 0, 1,
		STATE_SPACES(1024, 48)},
	{"state-spaces/mamba2-780m", M2_DIALECT_MAMBA_SSM, 6448, 3328, 50288, 780.2, -1, -1, 0, 1,
		STATE_SPACES(1536, 48)},
	{"state-spaces/mamba2-1.3b", M2_DIALECT_MAMBA_SSM, 8512, 4352, 50288, 1343.8, -1, -1, 0, 1,
		STATE_SPACES(2048, 48)},
	{"state-spaces/mamba2-2.7b", M2_DIALECT_MAMBA_SSM, 10576, 5376, 50288, 2702.6, -1, -1, 0, 1,
		STATE_SPACES(2560, 64)},
	{"AntonV/mamba2-130m-hf", M2_DIALECT_TRANSFORMERS, 3352, 1792, 50288, 129.0, 0, 0, 0, 0,
		ANTONV_HF(768, 24, 24)},
	{"AntonV/mamba2-370m-hf", M2_DIALECT_TRANSFORMERS, 4384, 2304, 50288, 368.3, 0, 0, 0, 0,
		ANTONV_HF(1024, 48, 32)},
	{"AntonV/mamba2-780m-hf", M2_DIALECT_TRANSFORMERS, 6448, 3328, 50288, 780.2, 0, 0, 0, 0,
		ANTONV_HF(1536, 48, 48)},
	{"AntonV/mamba2-1.3b-hf", M2_DIALECT_TRANSFORMERS, 8512, 4352, 50288, 1343.8, 0, 0, 0, 0,
		ANTONV_HF(2048, 48, 64)},
	{"AntonV/mamba2-2.7b-hf", M2_DIALECT_TRANSFORMERS, 10576, 5376, 50288, 2702.6, 0, 0, 0, 0,
		ANTONV_HF(2560, 64, 80)},
	{"AntonV/mamba2-130m-av", M2_DIALECT_OUTEAI, 3352, 1792, 50288, 129.0, 0, 0, 0, 0,
		ANTONV_AV(768, 24, 24, 1536)},
	{"AntonV/mamba2-370m-av", M2_DIALECT_OUTEAI, 4384, 2304, 50288, 368.3, 0, 0, 0, 0,
		ANTONV_AV(1024, 48, 32, 2048)},
	{"AntonV/mamba2-780m-av", M2_DIALECT_OUTEAI, 6448, 3328, 50288, 780.2, 0, 0, 0, 0,
		ANTONV_AV(1536, 48, 48, 3072)},
	{"AntonV/mamba2-2.7b-av", M2_DIALECT_OUTEAI, 10576, 5376, 50288, 2702.6, 0, 0, 0, 0,
		ANTONV_AV(2560, 64, 80, 5120)},
	/* MLX keeps the config that it converts; the files themselves were not seen */
	{"mlx-community/mamba2-780m", M2_DIALECT_TRANSFORMERS, 6448, 3328, 50288, 780.2, 0, 0, 0, 0,
		ANTONV_HF(1536, 48, 48)},
	{"mlx-community/mamba2-2.7b", M2_DIALECT_TRANSFORMERS, 10576, 5376, 50288, 2702.6, 0, 0, 0,
		0, ANTONV_HF(2560, 64, 80)},
	{"mistralai/Mamba-Codestral-7B-v0.1", M2_DIALECT_TRANSFORMERS, 18560, 10240, 32768, 7285.4,
		1, -1, 2, 2,
		CODESTRAL_HF(4096, 64, 128, 64, 128, 8, 2, 8192,
			"\"rms_norm\": true, \"tie_word_embeddings\": false, ")},
	{"mlx-community/Mamba-Codestral-7B-v0.1", M2_DIALECT_TRANSFORMERS, 18560, 10240, 32768,
		7285.4, 1, -1, 2, 2,
		CODESTRAL_HF(4096, 64, 128, 64, 128, 8, 2, 8192,
			"\"rms_norm\": true, \"tie_word_embeddings\": false, ")},
	/* an early conversion, one revision of which does not say whether the head is tied */
	{"Molbap/code2", M2_DIALECT_TRANSFORMERS, 18560, 10240, 32768, 7285.4, 1, -1, 2, 2,
		CODESTRAL_HF(4096, 64, 128, 64, 128, 8, 2, 8192, "")},
	{"mistralai/Mamba-Codestral-7B-v0.1 (consolidated)", M2_DIALECT_MISTRAL, 18560, 10240,
		32768, 7285.4, 1, -1, 2, 1, PARAMS_JSON},
	{"LDES777/ft_2_codestral_merged", M2_DIALECT_MISTRAL, 18560, 10240, 32768, 7285.4, 1, -1, 2,
		1, PARAMS_JSON},
	{"yujiepan/mamba-codestral-7b-not-hf", M2_DIALECT_MAMBA_SSM, 18560, 10240, 32768, 7285.4, 1,
		-1, 2, 1, SSM_TEXT("4096", "64", "32768", ", \"ngroups\": 8", "true", "false")},
	{"nvidia/mamba2-8b-3t-4k", M2_DIALECT_MAMBA_SSM, 18560, 10240, 256000, 8237.0, -1, -1, -1,
		0, NVIDIA_8B},
	{"rwitz2/mamba2-700m-c1.1", M2_DIALECT_MAMBA_SSM, 6448, 3328, 50288, 780.2, -1, -1, 0, 1,
		SSM_TEXT("1536", "48", "50277", "", "false", "true")},
	/* 3.53 GB in f32 */
	{"lightonai/ArabicWeb24-ablation-model-v1", M2_DIALECT_MAMBA_SSM, 9544, 4864, 64000, 882.4,
		-1, -1, -1, 0, SSM_TEXT("2304", "18", "64000", "", "true", "false")},
	{"lightonai/ArabicWeb24-ablation-model-v5", M2_DIALECT_MAMBA_SSM, 9544, 4864, 64000, 882.4,
		-1, -1, -1, 0, SSM_TEXT("2304", "18", "64000", "", "true", "false")},
	{"bluuluu/Qwen2.5-1.5B-Open-R1-Distill", M2_DIALECT_MAMBA_SSM, 8512, 4352, 50288, 1343.8,
		-1, -1, 0, 1, BLUULUU},
	{"brunopio/mamba2-370m", M2_DIALECT_MAMBA_SSM, 4384, 2304, 50288, 368.3, -1, -1, 0, 1,
		STATE_SPACES(1024, 48)},
	{"limloop/whiff-mamba2-20M-v2", M2_DIALECT_TRANSFORMERS, 1804, 1024, 8192, 20.3, 6, 7, 6, 0,
		WHIFF},
	/* 1.06 MB in bf16 with its header and index */
	{"yujiepan/mamba2-tiny-random", M2_DIALECT_TRANSFORMERS, 104, 64, 32768, 0.5, 1, -1, 2, 2,
		CODESTRAL_HF(8, 2, 8, 4, 8, 2, 4, 32,
			"\"rms_norm\": true, \"tie_word_embeddings\": false, ")},
	{"fla's default", M2_DIALECT_FLA, 8512, 4352, 32000, 1371.8, 1, 0, 2, 0, FLA_DEFAULT},
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

static inline uint64_t published_parameters(const struct m2_model_desc *desc)
{
	uint64_t total = 0;
	for (int w = 0; w < M2_W_COUNT; w++) {
		const bool of_model = w == M2_W_EMBEDDING || w == M2_W_FINAL_NORM || w == M2_W_HEAD;
		total += (uint64_t)m2_weight_elements(desc, (enum m2_weight)w) *
			 (of_model ? 1 : (uint64_t)desc->n_layers);
	}
	return total;
}

#endif
