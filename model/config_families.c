/* config_families.c - which files look like Mamba-2's and are not.
 *
 * Hybrids share layer names, and some the model_type, with pure models: what is not recognised here
 * would load until a tensor does not fit, or run and talk nonsense.  Two tables: families that have a
 * model_type of their own, and keys that give a relative away under any model_type.
 * Facts: semantics report, 1.7 and 7.2.
 */
#include "model/config_families.h"

#include <stdbool.h>
#include <string.h>

/* key: shows it best in that family's files; NULL: the model_type says all. */
static const struct family {
	const char *model_type;
	const char *words;
	const char *key;
} families[] = {
	{"bamba", "Bamba, a hybrid with attention layers and an MLP in every block",
		"attn_layer_indices"},
	{"nemotron_h", "Nemotron-H, a hybrid with attention, MLP and expert layers",
		"hybrid_override_pattern"},
	{"zamba", "Zamba, a hybrid of Mamba-1 and shared attention blocks", "attn_layer_period"},
	{"zamba2", "Zamba2, a hybrid with shared attention blocks", "hybrid_layer_ids"},
	{"granitemoehybrid", "Granite 4 hybrid, with attention, MLP and expert layers",
		"layer_types"},
	{"falcon_h1", "Falcon-H1, a hybrid with attention beside the SSM in every layer",
		"ssm_multipliers"},
	{"plamo2", "PLaMo 2, a hybrid with sliding-window attention and norms on dt, B and C",
		"mamba_step"},
	{"jamba", "Jamba, a hybrid of Mamba-1 and attention", "attn_layer_period"},
	{"hymba", "Hymba, a hybrid with attention beside the SSM in every layer", NULL},
	{"falcon_mamba", "Falcon Mamba, a Mamba-1 model", NULL},
	{"mamba3", "a Mamba-3 model", NULL},
	{"llamba", "Llamba, whose mixer is not Mamba-2's and has an MLP behind it", "mlp_cfg"},
	{"recurrent_gemma", "RecurrentGemma, whose recurrence is not Mamba-2's", NULL},
	{"rwkv", "an RWKV model", NULL},
	{"rwkv5", "an RWKV model", NULL},
	{"rwkv6", "an RWKV model", NULL},
	{"rwkv7", "an RWKV model", NULL},
};

/* LISTED: a list or string of layer kinds, harmless when every layer is Mamba.  FILLED: harmless when
 * empty, zero, false or null.  PRESENT: never harmless. */
enum sign { SIGN_PRESENT, SIGN_FILLED, SIGN_LISTED };
static const struct tell {
	const char *key;
	enum sign sign;
	const char *words;
} tells[] = {
	{"d_xb", SIGN_PRESENT, "MambaInLlama, whose mixer is not Mamba-2's"},
	{"attn_layer_idx", SIGN_FILLED,
		"a model with attention layers, such as mamba2attn and transformerpp"},
	{"attention_layers_idx", SIGN_FILLED, "OuteAI's hybrid with attention layers, Mamba2Attn"},
	{"mlp_intermediate_size", SIGN_FILLED, "OuteAI's hybrid with MLP blocks"},
	{"attn_layer_indices", SIGN_FILLED, "a hybrid with attention layers"},
	{"attn_layers", SIGN_FILLED, "a hybrid with attention layers"},
	{"hybrid_layer_ids", SIGN_FILLED, "a hybrid with attention layers"},
	{"hybrid_attention_ratio", SIGN_FILLED, "a hybrid with attention layers, as Megatron's"},
	{"hybrid_mlp_ratio", SIGN_FILLED, "a hybrid with MLP layers, as Megatron's"},
	{"d_intermediate", SIGN_FILLED, "a model with MLP blocks between its mixers"},
	{"layers_block_type", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"layer_types", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"hybrid_override_pattern", SIGN_LISTED, "a hybrid with layers that are not Mamba-2"},
	{"quantization", SIGN_FILLED, "a checkpoint quantised by MLX"},
	{"quantization_config", SIGN_FILLED, "a quantised checkpoint"},
};

struct json_object *m2_config_get(struct json_object *config, const char *key)
{
	struct json_object *value = NULL;
	return json_object_object_get_ex(config, key, &value) ? value : NULL;
}

const char *m2_config_string(struct json_object *config, const char *key)
{
	struct json_object *value = m2_config_get(config, key);
	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
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

enum m2_err m2_config_refuse_family(struct json_object *config, struct m2_why *why)
{
	const char *model_type = m2_config_string(config, "model_type");
	for (size_t i = 0; model_type != NULL && i < sizeof families / sizeof *families; i++) {
		const struct family *f = &families[i];
		if (strcmp(f->model_type, model_type) != 0)
			continue;
		if (f->key != NULL && m2_config_get(config, f->key) != NULL)
			return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
				"model_type is \"%s\" and there is %s: this is %s, which is not "
				"supported",
				f->model_type, f->key, f->words);
		return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
			"model_type is \"%s\": this is %s, which is not supported", f->model_type,
			f->words);
	}
	return M2_OK;
}

enum m2_err m2_config_refuse_tells(struct json_object *config, struct m2_why *why)
{
	for (size_t i = 0; i < sizeof tells / sizeof *tells; i++) {
		const struct tell *tell = &tells[i];
		struct json_object *value = m2_config_get(config, tell->key);
		if (value == NULL || (tell->sign == SIGN_FILLED && !is_filled(value)) ||
			(tell->sign == SIGN_LISTED && !lists_other_layers(value)))
			continue;
		const char *method = json_object_is_type(value, json_type_object)
					     ? m2_config_string(value, "quant_method")
					     : NULL;
		return m2_fail_field(M2_EUNSUPPORTED, why, tell->key,
			"the config has %s: this is %s%s%.32s%s, which is not supported", tell->key,
			tell->words, method != NULL ? " (" : "", method != NULL ? method : "",
			method != NULL ? ")" : "");
	}
	return M2_OK;
}

enum m2_err m2_config_refuse_layer(struct json_object *ssm_cfg, struct m2_why *why)
{
	const char *layer = m2_config_string(ssm_cfg, "layer");
	if (layer != NULL && strcmp(layer, "Mamba2") == 0)
		return M2_OK;
	if (layer == NULL)
		return m2_fail_field(M2_EUNSUPPORTED, why, "ssm_cfg.layer",
			"ssm_cfg.layer is absent, which means Mamba1: this is a Mamba-1 model, "
			"which is not supported");
	return m2_fail_field(M2_EUNSUPPORTED, why, "ssm_cfg.layer",
		"ssm_cfg.layer is \"%.32s\", not \"Mamba2\": this is %s, which is not supported",
		layer,
		strcmp(layer, "Mamba1") == 0   ? "a Mamba-1 model"
		: strcmp(layer, "Mamba3") == 0 ? "a Mamba-3 model"
					       : "another mixer");
}

enum m2_err m2_config_refuse_model_type(struct json_object *config, struct m2_why *why)
{
	const char *model_type = m2_config_string(config, "model_type");
	if (model_type == NULL)
		return m2_fail_field(M2_EINVAL, why, "model_type",
			"the config has no model_type and no ssm_cfg: it does not say that it "
			"describes a Mamba-2 model");
	if (strcmp(model_type, "mamba") == 0)
		return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
			"model_type is \"mamba\" without an ssm_cfg: this is a Mamba-1 model, "
			"which "
			"is not supported");
	return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
		"model_type is \"%.64s\", not \"mamba2\"", model_type);
}
