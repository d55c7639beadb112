/* dialect.c - telling Mamba-2 from its relatives.
 *
 * "model_type": "mamba2" is written by transformers, by fla and by a hybrid's own code, and hybrids
 * share layer names with pure models; so the decision rests on sets of keys, and a relative is
 * refused with the key that gives it away - a wrong guess would load and talk nonsense.
 * The keys' values are config.c's business.
 */
#include "model/dialect.h"

#include <stdbool.h>
#include <string.h>

const char *m2_dialect_name(enum m2_dialect dialect)
{
	switch (dialect) {
	case M2_DIALECT_FLA:
		return "fla";
	case M2_DIALECT_TRANSFORMERS:
		return "transformers";
	case M2_DIALECT_MAMBA_SSM:
		return "mamba_ssm";
	case M2_DIALECT_MISTRAL:
		return "mistral";
	case M2_DIALECT_OUTEAI:
		return "outeai";
	case M2_DIALECT_GGUF:
		return "gguf";
	}
	return "unknown";
}

/* Families with a model_type of their own.  Longer tables of facts: semantics report, 7.2. */
static const struct family {
	const char *model_type;
	const char *words;
} families[] = {
	{"bamba", "Bamba, a hybrid with attention and MLP layers"},
	{"nemotron_h", "Nemotron-H, a hybrid with attention, MLP and expert layers"},
	{"zamba", "Zamba, a hybrid with shared attention blocks"},
	{"zamba2", "Zamba2, a hybrid with shared attention blocks"},
	{"granitemoehybrid", "Granite 4 hybrid, with attention, MLP and expert layers"},
	{"falcon_h1", "Falcon-H1, a hybrid with attention beside the SSM in every layer"},
	{"falcon_mamba", "Falcon Mamba, a Mamba-1 model"},
	{"plamo2", "PLaMo 2, a hybrid with sliding-window attention"},
	{"jamba", "Jamba, a hybrid of Mamba-1 and attention"},
	{"mamba", "a Mamba-1 model"},
	{"mamba3", "a Mamba-3 model"},
	{"llamba", "Llamba, whose mixer is not Mamba-2's"},
	{"rwkv", "an RWKV model"},
	{"rwkv7", "an RWKV model"},
};

/* Keys that only a relative has.  LISTED: a list or string of layer kinds, harmless when every layer
 * is Mamba; FILLED: harmless when empty, zero, false or null. */
enum sign { SIGN_PRESENT, SIGN_FILLED, SIGN_LISTED };
static const struct tell {
	const char *key;
	enum sign sign;
	const char *words;
} tells[] = {
	{"mamba2_num_heads", SIGN_PRESENT, "the OuteAI/vasqu dialect of Mamba-2 hybrids"},
	{"mamba2_head_dim", SIGN_PRESENT, "the OuteAI/vasqu dialect of Mamba-2 hybrids"},
	{"attn_layer_idx", SIGN_FILLED, "a hybrid with attention layers"},
	{"attention_layers_idx", SIGN_FILLED, "a hybrid with attention layers"},
	{"attn_layer_indices", SIGN_FILLED, "a hybrid with attention layers"},
	{"hybrid_layer_ids", SIGN_FILLED, "a hybrid with attention layers"},
	{"d_intermediate", SIGN_FILLED, "a model with MLP blocks between its mixers"},
	{"layers_block_type", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"layer_types", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"hybrid_override_pattern", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"quantization", SIGN_FILLED, "a quantised checkpoint"},
	{"quantization_config", SIGN_FILLED, "a quantised checkpoint"},
};

/* Present and not null. */
static struct json_object *get(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;
	return json_object_object_get_ex(object, key, &value) ? value : NULL;
}

static bool is_filled(struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_array:
		return json_object_array_length(value) > 0;
	case json_type_object:
		return json_object_object_length(value) > 0;
	case json_type_string:
		return json_object_get_string_len(value) > 0;
	case json_type_int:
	case json_type_double:
		return json_object_get_double(value) != 0.0;
	default:
		return json_object_get_boolean(value) != 0;
	}
}

static bool is_mamba_word(const char *word)
{
	return strcmp(word, "mamba") == 0 || strcmp(word, "mamba2") == 0;
}

/* ["mamba", "mamba", ...] or "MMMM". */
static bool lists_other_layers(struct json_object *value)
{
	if (json_object_is_type(value, json_type_string)) {
		const char *text = json_object_get_string(value);
		return text[strspn(text, "M")] != '\0';
	}
	if (!json_object_is_type(value, json_type_array))
		return true;
	for (size_t i = 0; i < json_object_array_length(value); i++) {
		struct json_object *kind = json_object_array_get_idx(value, i);
		if (!json_object_is_type(kind, json_type_string) ||
			!is_mamba_word(json_object_get_string(kind)))
			return true;
	}
	return false;
}

static enum m2_err refuse_relatives(struct json_object *config, struct m2_why *why)
{
	for (size_t i = 0; i < sizeof tells / sizeof *tells; i++) {
		struct json_object *value = get(config, tells[i].key);
		if (value == NULL || (tells[i].sign == SIGN_FILLED && !is_filled(value)) ||
			(tells[i].sign == SIGN_LISTED && !lists_other_layers(value)))
			continue;
		return m2_fail_field(M2_EUNSUPPORTED, why, tells[i].key,
			"config.json has %s: this is %s, which is not supported", tells[i].key,
			tells[i].words);
	}
	return M2_OK;
}

static const char *first_present(struct json_object *config, const char *const *keys)
{
	for (; *keys != NULL; keys++)
		if (get(config, *keys) != NULL)
			return *keys;
	return NULL;
}

static const char *string_of(struct json_object *config, const char *key)
{
	struct json_object *value = get(config, key);
	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static bool names_our_architecture(struct json_object *config)
{
	struct json_object *list = get(config, "architectures");
	if (!json_object_is_type(list, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *name = json_object_array_get_idx(list, i);
		if (json_object_is_type(name, json_type_string) &&
			strcmp(json_object_get_string(name), "Mamba2ForCausalLM") == 0)
			return true;
	}
	return false;
}

static enum m2_err refuse_model_type(const char *model_type, struct m2_why *why)
{
	if (model_type == NULL)
		return m2_fail_field(M2_EINVAL, why, "model_type",
			"config.json has no model_type and no ssm_cfg: it does not say that it "
			"describes a Mamba-2 model");
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		if (strcmp(families[i].model_type, model_type) == 0)
			return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
				"model_type is \"%s\": this is %s, which is not supported",
				model_type, families[i].words);
	return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
		"model_type is \"%.64s\", not \"mamba2\"", model_type);
}

/* The two that share model_type "mamba2" differ in key names alone. */
static enum m2_err tell_fla_from_transformers(
	struct json_object *config, enum m2_dialect *out, struct m2_why *why)
{
	static const char *const fla[] = {"norm_eps", "rmsnorm", "dt_limit", "D_has_hdim",
		"A_init_range", "fuse_norm", "fuse_cross_entropy", NULL};
	static const char *const transformers[] = {
		"layer_norm_epsilon", "time_step_limit", "rms_norm", "time_step_rank", NULL};
	const char *a = first_present(config, fla);
	const char *b = first_present(config, transformers);
	if (a != NULL && b != NULL)
		return m2_fail_field(M2_EINVAL, why, a,
			"config.json has fla's key %s and transformers' key %s: it is ambiguous", a,
			b);
	if (a == NULL && b == NULL)
		return m2_fail_field(M2_EINVAL, why, "layer_norm_epsilon",
			"config.json has neither norm_eps (fla) nor layer_norm_epsilon "
			"(transformers): its dialect cannot be told");
	*out = a != NULL ? M2_DIALECT_FLA : M2_DIALECT_TRANSFORMERS;
	return M2_OK;
}

enum m2_err m2_dialect_detect(struct json_object *config, enum m2_dialect *out, struct m2_why *why)
{
	struct json_object *ssm = get(config, "ssm_cfg");
	const bool is_mamba_ssm =
		json_object_is_type(ssm, json_type_object) ||
		(get(config, "d_model") != NULL && get(config, "n_layer") != NULL);
	if (is_mamba_ssm) {
		const char *layer = ssm == NULL ? NULL : string_of(ssm, "layer");
		if (layer == NULL || strcmp(layer, "Mamba2") != 0)
			return m2_fail_field(M2_EUNSUPPORTED, why, "ssm_cfg.layer",
				"ssm_cfg.layer is \"%.32s\"%s, not \"Mamba2\"",
				layer == NULL ? "Mamba1" : layer,
				layer == NULL ? " (the default)" : "");
		*out = M2_DIALECT_MAMBA_SSM;
		return refuse_relatives(config, why);
	}
	if (get(config, "dim") != NULL && get(config, "n_layers") != NULL)
		return m2_fail_field(M2_EUNSUPPORTED, why, "dim",
			"the keys dim and n_layers show Mistral's params.json dialect, which is "
			"not "
			"supported");
	const enum m2_err err = refuse_relatives(config, why);
	if (err != M2_OK)
		return err;
	const char *model_type = string_of(config, "model_type");
	const bool ours = model_type != NULL ? strcmp(model_type, "mamba2") == 0
					     : names_our_architecture(config);
	if (!ours)
		return refuse_model_type(model_type, why);
	return tell_fla_from_transformers(config, out, why);
}
