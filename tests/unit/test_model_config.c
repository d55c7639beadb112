/* test_model_config.c - the dialects, what they leave out, and every refusal by name.
 * The published files themselves: test_model_published.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

#define FLA_SHAPE                                                                                  \
	"\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"vocab_size\":100," \
	"\"head_dim\":16,\"state_size\":32,\"n_groups\":2"
#define FLA FLA_SHAPE ",\"norm_eps\":1e-5"
#define HF  FLA_SHAPE ",\"num_heads\":8,\"layer_norm_epsilon\":1e-5"
#define HF_NARROW                                                                                  \
	"\"model_type\":\"mamba2\",\"hidden_size\":65536,\"num_hidden_layers\":2,"                 \
	"\"vocab_size\":100,\"head_dim\":1,\"state_size\":32,\"n_groups\":2,\"norm_eps\":1e-5"
#define SSM                                                                                        \
	"\"d_model\":64,\"n_layer\":2,\"vocab_size\":100,\"ssm_cfg\":{\"layer\":\"Mamba2\","       \
	"\"headdim\":16,\"d_state\":32}"

static enum m2_err parse(const char *text, struct m2_model_config *config, struct m2_why *why)
{
	*why = (struct m2_why){.text = ""};
	return m2_model_config_parse(text, strlen(text), 0, config, why);
}

static struct m2_model_config accept(const char *text)
{
	struct m2_model_config config;
	struct m2_why why;
	const enum m2_err err = parse(text, &config, &why);
	if (err != M2_OK)
		print_error("%s\n  gave %s\n", text, why.text);
	assert_int_equal(err, M2_OK);
	return config;
}

static void refuse(const char *text, enum m2_err wanted, const char *field, const char *word)
{
	struct m2_model_config config;
	struct m2_why why;
	const enum m2_err err = parse(text, &config, &why);
	if (err != wanted || strcmp(why.field, field) != 0 || strstr(why.text, word) == NULL)
		print_error("%s\n  gave %s, field %s: %s\n", text, m2_err_code(err), why.field,
			why.text);
	assert_int_equal(err, wanted);
	assert_string_equal(why.field, field);
	assert_non_null(strstr(why.text, word));
}

static void fla_is_known_by_its_keys(void **state)
{
	(void)state;
	const struct m2_model_config c = accept(
		"{" FLA
		",\"norm_before_gate\":true,\"D_has_hdim\":true,\"use_bias\":true,\"rmsnorm\":true,"
		"\"dt_limit\":[0.001,0.1],\"num_heads\":999,\"tie_word_embeddings\":true,"
		"\"eos_token_id\":2,\"bos_token_id\":null,\"pad_token_id\":0}");
	assert_int_equal(c.dialect, M2_DIALECT_FLA);
	assert_string_equal(m2_dialect_name(c.dialect), "fla");
	assert_int_equal(c.desc.n_heads, 8); /* its num_heads is recomputed, as fla does */
	assert_int_equal(c.desc.norm_groups, 2);
	assert_int_equal(c.desc.conv_kernel, 4);
	assert_true(c.desc.norm_before_gate && c.desc.d_per_channel && c.desc.proj_bias);
	assert_true(c.desc.tied_head && c.desc.conv_bias && c.desc.gated_norm);
	assert_true(c.desc.dt_min == 0.001f && c.desc.dt_max == 0.1f);
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_token_ids[0], 2);
	assert_int_equal(c.bos_token_id, -1);
	assert_int_equal(c.pad_token_id, 0);
}

static void transformers_is_known_by_its_keys(void **state)
{
	(void)state;
	const struct m2_model_config c = accept(
		"{" HF
		",\"norm_before_gate\":true,\"time_step_limit\":[0.0,{\"__float__\":\"Infinity\"}],"
		"\"rms_norm\":false,\"eos_token_id\":[1,2,3]}");
	assert_int_equal(c.dialect, M2_DIALECT_TRANSFORMERS);
	/* both keys occur in published files and are ignored by the library */
	assert_false(c.desc.norm_before_gate);
	assert_true(c.desc.gated_norm);
	assert_true(isinf(c.desc.dt_max));
	assert_int_equal(c.n_eos, 3);
	assert_int_equal(c.eos_token_ids[2], 3);
	assert_int_equal(c.bos_token_id, -1);
}

static void mamba_ssm_takes_its_defaults(void **state)
{
	(void)state;
	const struct m2_model_config c = accept("{\"d_model\":64,\"n_layer\":3,\"vocab_size\":"
						"50277,\"ssm_cfg\":{\"layer\":\"Mamba2\"},"
						"\"attn_layer_idx\":[],\"attn_cfg\":{},\"d_"
						"intermediate\":0,\"model_type\":\"mamba\","
						"\"pad_vocab_size_multiple\":16}");
	assert_int_equal(c.dialect, M2_DIALECT_MAMBA_SSM);
	assert_int_equal(c.desc.vocab_rows, 50288);
	assert_int_equal(c.vocab_size, 50277);
	assert_int_equal(c.desc.n_heads, 2);
	assert_int_equal(c.desc.head_dim, 64);
	assert_int_equal(c.desc.state_size, 128);
	assert_int_equal(c.desc.n_groups, 1);
	assert_true(c.desc.tied_head);
	assert_int_equal(c.desc.d_mlp, 0);
	/* the size of GPT-NeoX's vocabulary, and no ids: its own */
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_token_ids[0], 0);
	assert_int_equal(c.n_corrections, 1);
}

static void mamba_ssm_splits_off_the_mlp(void **state)
{
	(void)state;
	const struct m2_model_config c = accept(
		"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":128,\"ssm_cfg\":{\"layer\":"
		"\"Mamba2\","
		"\"headdim\":16,\"d_ssm\":96,\"dt_limit\":[0,Infinity]},\"tie_embeddings\":false}");
	assert_int_equal(c.desc.d_mlp, 32);
	assert_int_equal(c.desc.n_heads, 6);
	assert_false(c.desc.tied_head);
}

static void numbers_are_read_in_every_spelling_in_use(void **state)
{
	(void)state;
	assert_int_equal(accept("{" FLA ",\"expand\":2.0}").desc.n_heads, 8);
	assert_int_equal(accept("{" FLA ",\"expand\":1.5}").desc.n_heads, 6);
	assert_int_equal(accept("{" FLA ",\"conv_kernel\":3.0}").desc.conv_kernel, 3);
	assert_int_equal(accept("{" FLA ",\"conv_kernel\":null}").desc.conv_kernel, 4);
	assert_true(isinf(accept("{" FLA ",\"dt_limit\":null}").desc.dt_max));
	assert_true(isinf(accept("{" FLA ",\"dt_limit\":[0,\"inf\"]}").desc.dt_max));
	assert_int_equal(accept("{" FLA ",\"hidden_act\":\"swish\"}").desc.n_layers, 2);
	assert_int_equal(
		accept("{" FLA ",\"layer_types\":[\"mamba\",\"mamba2\"]}").desc.n_layers, 2);
	assert_int_equal(accept("{" FLA ",\"quantization_config\":null}").desc.n_layers, 2);
	assert_int_equal(accept("{" FLA ",\"pad_token_id\":-1}").pad_token_id, -1);
}

static void a_shape_that_no_tensor_confirms_is_never_assumed(void **state)
{
	static const char *const keys[] = {"hidden_size", "num_hidden_layers", "vocab_size",
		"head_dim", "state_size", "n_groups", "num_heads"};
	(void)state;
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		char text[512] = "{" HF "}";
		char key[32];
		(void)snprintf(key, sizeof key, "\"%s\"", keys[i]);
		char *at = strstr(text, key);
		assert_non_null(at);
		at[1] = '_'; /* another key now */
		refuse(text, M2_EINVAL, keys[i], "is not assumed");
	}
}

static void a_file_that_contradicts_itself_is_refused(void **state)
{
	(void)state;
	refuse("{" FLA ",\"layer_norm_epsilon\":1e-5}", M2_EINVAL, "norm_eps", "ambiguous");
	refuse("{" FLA ",\"dt_limit\":[0,1],\"time_step_limit\":[0,1]}", M2_EINVAL, "dt_limit",
		"ambiguous");
	refuse("{" HF ",\"mamba2_head_dim\":16}", M2_EINVAL, "mamba2_head_dim", "ambiguous");
	refuse("{" FLA_SHAPE "}", M2_EINVAL, "layer_norm_epsilon", "cannot be told");
	refuse("{" HF ",\"expand\":4}", M2_EINVAL, "num_heads", "16");
	refuse("{" FLA ",\"expand\":0.3}", M2_EINVAL, "head_dim", "no multiple");
	refuse("{" FLA ",\"n_groups\":3}", M2_EFORMAT, "", "twice");
	/* the same key in other letters, and where json-c alone would see a key */
	refuse("{" FLA ",\"n_groups\\u0000\":3}", M2_EFORMAT, "", "NUL");
	refuse("{" FLA ",\"n\\u005fgroups\":3}", M2_EFORMAT, "", "escapes");
	refuse("{" FLA ",\"\\u00e9\":3,\"\xc3\xa9\":3}", M2_EFORMAT, "", "twice");
	refuse("{" FLA ",'n_groups':3}", M2_EFORMAT, "", "unexpected");
	refuse("{" SSM ",\"vocab_size\":100}", M2_EFORMAT, "", "twice");
	refuse("{}", M2_EINVAL, "model_type", "does not say");
	refuse("[]", M2_EFORMAT, "", "not an object");
	refuse("{", M2_EFORMAT, "", "config.json");
}

/* A copy of `text` in which the value of a key is another. */
static const char *with(const char *text, const char *key, const char *value)
{
	static char out[1024];
	char quoted[64];
	(void)snprintf(quoted, sizeof quoted, "\"%s\":", key);
	const char *at = strstr(text, quoted);
	assert_non_null(at);
	const char *begin = at + strlen(quoted);
	const size_t skip = strcspn(begin, ",}");
	(void)snprintf(out, sizeof out, "%.*s%s%s", (int)(begin - text), text, value, begin + skip);
	return out;
}

#define PADDED                                                                                     \
	"\"d_model\":64,\"n_layer\":2,\"vocab_size\":100,\"pad_vocab_size_multiple\":16,"          \
	"\"ssm_cfg\":{\"layer\":\"Mamba2\"}"

static void an_id_of_the_padding_is_an_error_that_says_so(void **state)
{
	static const char eos[] = "{\"eos_token_id\":[1,111]}";
	struct m2_model_config c = accept("{" PADDED ",\"eos_token_id\":99,\"pad_token_id\":-1}");
	struct m2_why why;
	(void)state;
	assert_int_equal(c.desc.vocab_rows, 112);
	refuse("{" PADDED ",\"eos_token_id\":100}", M2_EINVAL, "eos_token_id", "are padding");
	refuse("{" PADDED ",\"bos_token_id\":111}", M2_EINVAL, "bos_token_id", "are padding");
	refuse("{" PADDED ",\"pad_token_id\":112}", M2_EINVAL, "pad_token_id", "are 100 tokens");
	assert_int_equal(m2_model_config_generation(eos, strlen(eos), &c, &why), M2_EINVAL);
	assert_non_null(strstr(why.text, "generation_config.json: eos_token_id is 111"));
	/* and the file that was refused has changed nothing */
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_token_ids[0], 99);
}

static void params_json_takes_mamba_ssms_defaults(void **state)
{
	(void)state;
	const struct m2_model_config c = accept("{\"dim\":256,\"n_layers\":2,\"vocab_size\":100,"
						"\"n_groups\":4}");
	assert_int_equal(c.dialect, M2_DIALECT_MISTRAL);
	assert_int_equal(c.desc.n_heads, 8);
	assert_int_equal(c.desc.head_dim, 64);
	assert_int_equal(c.desc.state_size, 128);
	assert_int_equal(c.desc.conv_kernel, 4);
	assert_int_equal(c.desc.vocab_rows, 100);
	assert_true(c.desc.conv_bias && c.desc.gated_norm && isinf(c.desc.dt_max));
	assert_false(c.desc.tied_head || c.desc.proj_bias || c.desc.norm_before_gate);
	assert_int_equal(c.n_eos, 0); /* another vocabulary than Mistral's */
	refuse("{\"dim\":256,\"n_layers\":2,\"vocab_size\":100}", M2_EINVAL, "n_groups",
		"not assumed");
	refuse("{\"dim\":256,\"n_layers\":2,\"vocab_size\":100,\"n_groups\":4,"
	       "\"rms_norm\":false}",
		M2_EUNSUPPORTED, "rms_norm", "LayerNorm");
}

static void every_bound_holds(void **state)
{
	static const struct {
		const char *key, *value;
	} bad[] = {{"hidden_size", "0"}, {"hidden_size", "65537"}, {"hidden_size", "64.5"},
		{"hidden_size", "\"64\""}, {"hidden_size", "99999999999999999999"},
		{"num_hidden_layers", "0"}, {"num_hidden_layers", "1025"}, {"vocab_size", "0"},
		{"vocab_size", "16777217"}, {"head_dim", "0"}, {"head_dim", "1025"},
		{"state_size", "0"}, {"state_size", "1025"}, {"n_groups", "0"}, {"n_groups", "3"},
		{"n_groups", "16"}, {"norm_eps", "0"}, {"norm_eps", "1"}, {"norm_eps", "NaN"},
		{"norm_eps", "-1e-5"}, {"norm_eps", "\"x\""}};
	static const struct {
		const char *text, *field;
	} more[] = {
		{"{" FLA ",\"conv_kernel\":0}", "conv_kernel"},
		{"{" FLA ",\"conv_kernel\":17}", "conv_kernel"},
		{"{" FLA ",\"expand\":65}", "expand"},
		{"{" FLA ",\"expand\":Infinity}", "expand"},
		{"{" FLA ",\"expand\":-1}", "expand"},
		{"{" FLA ",\"dt_limit\":[0.1,0.01]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":[-0.1,1]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":[0,NaN]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":[Infinity,Infinity]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":[0]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":[0,1,2]}", "dt_limit"},
		{"{" FLA ",\"dt_limit\":0.1}", "dt_limit"},
		{"{" FLA ",\"use_bias\":1}", "use_bias"},
		{"{" FLA ",\"eos_token_id\":100}", "eos_token_id"},
		{"{" FLA ",\"eos_token_id\":\"x\"}", "eos_token_id"},
		{"{" FLA ",\"eos_token_id\":[1,null]}", "eos_token_id"},
		{"{" FLA ",\"eos_token_id\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "eos_token_id"},
		{"{" FLA ",\"bos_token_id\":100}", "bos_token_id"},
		{"{\"d_model\":64,\"n_layer\":2,\"vocab_size\":100,\"ssm_cfg\":{\"layer\":"
		 "\"Mamba2\",\"d_ssm\":256}}",
			"d_ssm"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		refuse(with("{" FLA "}", bad[i].key, bad[i].value), M2_EINVAL, bad[i].key, "");
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		refuse(more[i].text, M2_EINVAL, more[i].field, "");
	refuse("{" HF_NARROW "}", M2_EINVAL, "head_dim", "4096");
}

static void relatives_are_refused_by_name(void **state)
{
	static const struct {
		const char *text, *field, *word;
	} relatives[] = {
		{"{\"d_model\":64,\"n_layer\":2,\"ssm_cfg\":{}}", "ssm_cfg.layer", "Mamba1"},
		{"{\"d_model\":64,\"n_layer\":2}", "ssm_cfg.layer", "Mamba1"},
		{"{\"ssm_cfg\":{\"layer\":\"Mamba3\"}}", "ssm_cfg.layer", "Mamba3"},
		{"{" SSM ",\"attn_layer_idx\":[9,18]}", "attn_layer_idx", "attention"},
		{"{" SSM ",\"d_intermediate\":128}", "d_intermediate", "MLP"},
		{"{" SSM ",\"rms_norm\":false}", "rms_norm", "LayerNorm"},
		{"{\"dim\":4096,\"n_layers\":64,\"hidden_dim\":8}", "hidden_dim", "transformer"},
		{"{" HF ",\"attention_layers_idx\":[1]}", "attention_layers_idx", "hybrid"},
		{"{" HF ",\"layer_types\":[\"mamba\",\"attention\"]}", "layer_types", "hybrid"},
		{"{" HF ",\"layers_block_type\":[1]}", "layers_block_type", "hybrid"},
		{"{" HF ",\"hybrid_override_pattern\":\"M-M*\"}", "hybrid_override_pattern",
			"hybrid"},
		{"{" HF ",\"quantization\":{\"bits\":4}}", "quantization", "quantised"},
		{"{" HF ",\"quantization_config\":{\"bits\":4}}", "quantization_config",
			"quantised"},
		{"{\"model_type\":\"mamba\",\"hidden_size\":64}", "model_type", "Mamba-1"},
		{"{\"model_type\":\"falcon_mamba\"}", "model_type", "Falcon"},
		{"{\"model_type\":\"bamba\"}", "model_type", "Bamba"},
		{"{\"model_type\":\"zamba2\"}", "model_type", "Zamba2"},
		{"{\"model_type\":\"nemotron_h\"}", "model_type", "Nemotron"},
		{"{\"model_type\":\"granitemoehybrid\"}", "model_type", "Granite"},
		{"{\"model_type\":\"falcon_h1\"}", "model_type", "Falcon-H1"},
		{"{\"model_type\":\"plamo2\"}", "model_type", "PLaMo"},
		{"{\"model_type\":\"llama\"}", "model_type", "llama"},
		{"{" HF ",\"hidden_act\":\"gelu\"}", "hidden_act", "gelu"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof relatives / sizeof *relatives; i++)
		refuse(relatives[i].text, M2_EUNSUPPORTED, relatives[i].field, relatives[i].word);
}

static void norm_groups_can_be_overridden(void **state)
{
	struct m2_model_config config;
	struct m2_why why;
	static const char text[] = "{" HF "}";
	(void)state;
	assert_int_equal(m2_model_config_parse(text, strlen(text), 1, &config, &why), M2_OK);
	assert_int_equal(config.desc.norm_groups, 1);
	assert_int_equal(config.desc.n_groups, 2);
	assert_int_equal(m2_model_config_parse(text, strlen(text), 3, &config, &why), M2_EINVAL);
	assert_string_equal(why.field, "norm_groups");
}

static void generation_config_takes_precedence(void **state)
{
	struct m2_model_config c = accept("{" FLA ",\"eos_token_id\":2}");
	struct m2_why why;
	static const char none[] = "{\"do_sample\":true}";
	static const char two[] = "{\"eos_token_id\":[5,6]}";
	static const char bad[] = "{\"eos_token_id\":1000}";
	(void)state;
	assert_int_equal(m2_model_config_generation(none, strlen(none), &c, &why), M2_OK);
	assert_int_equal(c.n_eos, 1);
	assert_int_equal(c.eos_token_ids[0], 2);
	assert_int_equal(m2_model_config_generation(two, strlen(two), &c, &why), M2_OK);
	assert_int_equal(c.n_eos, 2);
	assert_int_equal(c.eos_token_ids[1], 6);
	assert_int_equal(m2_model_config_generation(bad, strlen(bad), &c, &why), M2_EINVAL);
	assert_int_equal(m2_model_config_generation("[]", 2, &c, &why), M2_EFORMAT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fla_is_known_by_its_keys),
		cmocka_unit_test(transformers_is_known_by_its_keys),
		cmocka_unit_test(mamba_ssm_takes_its_defaults),
		cmocka_unit_test(mamba_ssm_splits_off_the_mlp),
		cmocka_unit_test(numbers_are_read_in_every_spelling_in_use),
		cmocka_unit_test(a_shape_that_no_tensor_confirms_is_never_assumed),
		cmocka_unit_test(a_file_that_contradicts_itself_is_refused),
		cmocka_unit_test(an_id_of_the_padding_is_an_error_that_says_so),
		cmocka_unit_test(params_json_takes_mamba_ssms_defaults),
		cmocka_unit_test(every_bound_holds),
		cmocka_unit_test(relatives_are_refused_by_name),
		cmocka_unit_test(norm_groups_can_be_overridden),
		cmocka_unit_test(generation_config_takes_precedence),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
