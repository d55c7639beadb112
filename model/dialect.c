/* dialect.c - telling Mamba-2's own dialects from each other.
 *
 * "model_type": "mamba2" is written by transformers, by fla and by a hybrid's own code, and mamba_ssm
 * writes none; so the decision rests on sets of keys.  Relatives are refused first, by
 * config_families.c; the keys' values are config_keys.c's business.
 *
 * fla and transformers differ in key names alone.  Earlier versions of fla used transformers' names for
 * the epsilon, the clamp and rms_norm, with keys of their own beside them (fuse_norm,
 * fuse_cross_entropy), so one key of fla's own decides.  The first files of August 2024 had none: they cannot be told from
 * Codestral's and are read as transformers' - right for every published file; the correction about
 * norm_before_gate says what to rename if it is wrong.
 */
#include "model/dialect.h"

#include <stdbool.h>
#include <string.h>

#include "model/config_families.h"

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

static bool has(struct json_object *config, const char *key)
{
	return m2_config_get(config, key) != NULL;
}

static bool has_any(struct json_object *config, const char *const *keys)
{
	for (; *keys != NULL; keys++)
		if (has(config, *keys))
			return true;
	return false;
}

static bool names_our_architecture(struct json_object *config)
{
	struct json_object *list = m2_config_get(config, "architectures");
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

/* params.json of mistral-inference, also found renamed to config.json. */
static enum m2_err check_params(struct json_object *config, struct m2_why *why)
{
	const char *sign = has(config, "n_heads") ? "n_heads" : "hidden_dim";
	if (!has(config, sign))
		return M2_OK;
	return m2_fail_field(M2_EUNSUPPORTED, why, sign,
		"the file has dim, n_layers and %s: this is the params.json of a transformer, "
		"which "
		"is not supported",
		sign);
}

/* The three that share model_type "mamba2". */
static enum m2_err tell_apart(struct json_object *config, enum m2_dialect *out, struct m2_why *why)
{
	static const char *const outeai[] = {
		"mamba2_num_heads", "mamba2_head_dim", "tie_embedding_weights", NULL};
	static const char *const fla[] = {"norm_eps", "rmsnorm", "dt_limit", "D_has_hdim",
		"A_init_range", "fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy",
		"use_l2warp", NULL};
	static const char *const transformers[] = {
		"layer_norm_epsilon", "time_step_limit", "rms_norm", "time_step_rank", NULL};
	*out = has_any(config, outeai) ? M2_DIALECT_OUTEAI
	       : has_any(config, fla)  ? M2_DIALECT_FLA
				       : M2_DIALECT_TRANSFORMERS;
	if (*out == M2_DIALECT_TRANSFORMERS && !has_any(config, transformers))
		return m2_fail_field(M2_EINVAL, why, "layer_norm_epsilon",
			"the config has neither norm_eps (fla) nor layer_norm_epsilon "
			"(transformers): its dialect cannot be told");
	return M2_OK;
}

enum m2_err m2_dialect_detect(struct json_object *config, enum m2_dialect *out, struct m2_why *why)
{
	struct json_object *ssm = m2_config_get(config, "ssm_cfg");
	const char *model_type = m2_config_string(config, "model_type");
	const bool of_mamba_ssm = json_object_is_type(ssm, json_type_object) ||
				  (has(config, "d_model") && has(config, "n_layer"));
	const bool of_mistral = has(config, "dim") && has(config, "n_layers");
	const bool ours = model_type != NULL ? strcmp(model_type, "mamba2") == 0
					     : names_our_architecture(config);
	enum m2_err err = m2_config_refuse_family(config, why);
	/* a stranger is not called a hybrid for the layers that it lists */
	if (err == M2_OK && !of_mamba_ssm && !of_mistral && !ours)
		return m2_config_refuse_model_type(config, why);
	if (err == M2_OK)
		err = m2_config_refuse_tells(config, why);
	if (err != M2_OK)
		return err;
	if (of_mamba_ssm) {
		*out = M2_DIALECT_MAMBA_SSM;
		return m2_config_refuse_layer(ssm, why);
	}
	if (of_mistral) {
		*out = M2_DIALECT_MISTRAL;
		return check_params(config, why);
	}
	return tell_apart(config, out, why);
}
