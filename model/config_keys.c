/* config_keys.c - the tables: how each dialect spells a quantity, its bounds, and what silence means.
 *
 * A quantity that no tensor could confirm (groups, state size and the like in the two dialects whose
 * libraries default to one particular model) must be written down: their defaults are never taken.
 * mamba_ssm's files, params.json and OuteAI's leave out what has its default, so there the defaults are
 * part of the format.  Which dialect a file is of was decided by dialect.c.
 *
 * Sources: the configuration classes of mamba_ssm, transformers, fla, mistral-inference and vasqu's
 * mamba2-torch.
 */
#include "model/config_keys.h"

#include <math.h>
#include <string.h>

#include "common/json.h"

enum kind { KIND_INT, KIND_NUMBER, KIND_BOOL };
enum { NEEDED = 1, IN_SSM_CFG = 2 };

/* One quantity in one dialect.  `otherwise` is its value where the file is silent; NEEDED: an error. */
struct key_row {
	const char *key;
	const char *also; /* a second spelling, or NULL; both at once are refused */
	enum kind kind;
	size_t at; /* offset in struct m2_said */
	double min, max, otherwise;
	unsigned flags;
};

#define ROW(key, also, kind, field, ...)                                                           \
	{                                                                                          \
		key, also, kind, offsetof(struct m2_said, field), __VA_ARGS__                      \
	}
#define INT(key, field, min, max, otherwise, flags)                                                \
	ROW(key, NULL, KIND_INT, field, min, max, otherwise, flags)
#define INT2(key, also, field, min, max, otherwise, flags)                                         \
	ROW(key, also, KIND_INT, field, min, max, otherwise, flags)
#define NUMBER(key, field, min, max, otherwise, flags)                                             \
	ROW(key, NULL, KIND_NUMBER, field, min, max, otherwise, flags)
#define NUMBER2(key, also, field, min, max, otherwise, flags)                                      \
	ROW(key, also, KIND_NUMBER, field, min, max, otherwise, flags)
#define BOOL(key, field, otherwise, flags) ROW(key, NULL, KIND_BOOL, field, 0, 1, otherwise, flags)
#define BOOL2(key, also, field, otherwise, flags)                                                  \
	ROW(key, also, KIND_BOOL, field, 0, 1, otherwise, flags)

/* Earlier versions of fla spelled the epsilon, the clamp or both as transformers does, and wrote their
 * fuse_* keys beside them, by which dialect.c knows them. */
static const struct key_row fla_keys[] = {
	INT("hidden_size", hidden, 1, 65536, 0, NEEDED),
	INT("num_hidden_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, M2_CONFIG_MAX_TOKENS, 0, NEEDED),
	INT("head_dim", head_dim, 1, 1024, 0, NEEDED),
	INT("state_size", state, 1, 1024, 0, NEEDED),
	INT("n_groups", groups, 1, 4096, 0, NEEDED),
	INT("conv_kernel", conv, 1, 16, 4, 0),
	INT("chunk_size", chunk, 1, M2_CONFIG_MAX_TOKENS, 256, 0),
	INT("bos_token_id", bos, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	NUMBER("expand", expand, 1e-3, 64, 2, 0),
	NUMBER2("norm_eps", "layer_norm_epsilon", eps, 1e-30, 0.99, 1e-5, 0),
	BOOL("use_bias", proj_bias, 0, 0),
	BOOL("use_conv_bias", conv_bias, 1, 0),
	BOOL("rmsnorm", gated_norm, 1, 0),
	BOOL("rms_norm", idle_rms_norm, 1, 0),
	BOOL("norm_before_gate", norm_before_gate, 0, 0),
	BOOL("D_has_hdim", d_per_channel, 0, 0),
	BOOL("tie_word_embeddings", tied, 0, 0),
};

static const struct key_row transformers_keys[] = {
	INT("hidden_size", hidden, 1, 65536, 0, NEEDED),
	INT("num_hidden_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, M2_CONFIG_MAX_TOKENS, 0, NEEDED),
	INT("num_heads", heads, 1, 4096, 0, NEEDED),
	INT("head_dim", head_dim, 1, 1024, 0, NEEDED),
	INT("state_size", state, 1, 1024, 0, NEEDED),
	INT("n_groups", groups, 1, 4096, 0, NEEDED),
	INT("conv_kernel", conv, 1, 16, 4, 0),
	INT("chunk_size", chunk, 1, M2_CONFIG_MAX_TOKENS, 256, 0),
	INT("bos_token_id", bos, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	NUMBER("expand", expand, 1e-3, 64, 2, 0),
	NUMBER("layer_norm_epsilon", eps, 1e-30, 0.99, 1e-5, 0),
	BOOL("use_bias", proj_bias, 0, 0),
	BOOL("use_conv_bias", conv_bias, 1, 0),
	BOOL("norm_before_gate", idle_norm_before_gate, 0, 0),
	BOOL("rms_norm", idle_rms_norm, 1, 0),
	BOOL("tie_word_embeddings", tied, 0, 0),
};

static const struct key_row mamba_ssm_keys[] = {
	INT("d_model", hidden, 1, 65536, 0, NEEDED),
	INT("n_layer", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, M2_CONFIG_MAX_TOKENS, 0, NEEDED),
	INT("pad_vocab_size_multiple", vocab_multiple, 1, 65536, 8, 0),
	INT("bos_token_id", bos, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	BOOL("rms_norm", rms_blocks, 1, 0),
	BOOL("tie_embeddings", tied, 1, 0),
	INT("headdim", head_dim, 1, 1024, 64, IN_SSM_CFG),
	INT("d_state", state, 1, 1024, 128, IN_SSM_CFG),
	INT("ngroups", groups, 1, 4096, 1, IN_SSM_CFG),
	INT("d_conv", conv, 1, 16, 4, IN_SSM_CFG),
	INT("d_ssm", d_ssm, 1, M2_CONFIG_MAX_WIDTH, 0, IN_SSM_CFG),
	INT("chunk_size", chunk, 1, M2_CONFIG_MAX_TOKENS, 256, IN_SSM_CFG),
	NUMBER("expand", expand, 1e-3, 64, 2, IN_SSM_CFG),
	BOOL("bias", proj_bias, 0, IN_SSM_CFG),
	BOOL("conv_bias", conv_bias, 1, IN_SSM_CFG),
	BOOL("rmsnorm", gated_norm, 1, IN_SSM_CFG),
	BOOL("norm_before_gate", norm_before_gate, 0, IN_SSM_CFG),
	BOOL("D_has_hdim", d_per_channel, 0, IN_SSM_CFG),
};

/* mistral-inference hands these to mamba_ssm; everything else has mamba_ssm's default (`silent`). */
static const struct key_row mistral_keys[] = {
	INT("dim", hidden, 1, 65536, 0, NEEDED),
	INT("n_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, M2_CONFIG_MAX_TOKENS, 0, NEEDED),
	INT("n_groups", groups, 1, 4096, 0, NEEDED),
	INT("pad_vocab_size_multiple", vocab_multiple, 1, 65536, 1, 0),
	BOOL("rms_norm", rms_blocks, 1, 0),
	BOOL("tie_embeddings", tied, 0, 0),
};

/* vasqu's code, alone (AntonV's mamba2-*-av) and as OuteAI extended it.  It has no groups, recomputes
 * the heads, and gates before it norms. */
static const struct key_row outeai_keys[] = {
	INT("hidden_size", hidden, 1, 65536, 0, NEEDED),
	INT("num_hidden_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, M2_CONFIG_MAX_TOKENS, 0, NEEDED),
	INT("state_size", state, 1, 1024, 0, NEEDED),
	INT2("mamba2_head_dim", "head_dim", head_dim, 1, 1024, 0, NEEDED),
	INT2("mamba2_conv_kernel", "conv_kernel", conv, 1, 16, 4, 0),
	INT("n_groups", groups, 1, 1, 1, 0),
	INT("chunk_size", chunk, 1, M2_CONFIG_MAX_TOKENS, 256, 0),
	INT("bos_token_id", bos, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, M2_CONFIG_MAX_TOKENS, -1, 0),
	NUMBER("expand", expand, 1e-3, 64, 2, 0),
	NUMBER("layer_norm_epsilon", eps, 1e-30, 0.99, 1e-5, 0),
	BOOL2("use_mamba2_bias", "use_bias", proj_bias, 0, 0),
	BOOL("use_conv_bias", conv_bias, 1, 0),
	BOOL("tie_embedding_weights", tied, 1, 0),
};

#define ROWS(table) table, sizeof table / sizeof *(table)
/* what a dialect cannot say has one value only */
#define SILENT                                                                                     \
	.vocab_multiple = 1, .eps = 1e-5, .gated_norm = true, .rms_blocks = true, .bos = -1,       \
	.pad = -1, .dt_max = INFINITY, .idle_rms_norm = true

static const struct dialect_row {
	const struct key_row *keys;
	size_t n_keys;
	const char *dt_limit; /* [lowest, highest] of the step; NULL: there is none */
	const char *dt_limit_also;
	bool dt_limit_in_ssm_cfg;
	struct m2_said silent;
} dialects[] = {
	[M2_DIALECT_FLA] = {ROWS(fla_keys), "dt_limit", "time_step_limit", false, {SILENT}},
	[M2_DIALECT_TRANSFORMERS] = {ROWS(transformers_keys), "time_step_limit", NULL, false,
		{SILENT}},
	[M2_DIALECT_MAMBA_SSM] = {ROWS(mamba_ssm_keys), "dt_limit", NULL, true, {SILENT}},
	[M2_DIALECT_MISTRAL] = {ROWS(mistral_keys), NULL, NULL, false,
		{SILENT, .head_dim = 64, .state = 128, .conv = 4, .chunk = 256, .expand = 2,
			.conv_bias = true}},
	[M2_DIALECT_OUTEAI] = {ROWS(outeai_keys), "time_step_limit", NULL, false, {SILENT}},
};

static bool is_given(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;
	return key != NULL && json_object_is_type(object, json_type_object) &&
	       json_object_object_get_ex(object, key, &value) && value != NULL;
}

/* The spelling that the file uses; `key` where it uses none. */
static enum m2_err pick_spelling(struct json_object *object, const char *key, const char *also,
	const char **out, struct m2_why *why)
{
	*out = is_given(object, also) ? also : key;
	if (*out == also && is_given(object, key))
		return m2_fail_field(M2_EINVAL, why, key,
			"the config has %s and %s, two spellings of one quantity: it is ambiguous",
			key, also);
	return M2_OK;
}

static enum m2_err read_value(struct json_object *object, const char *key,
	const struct key_row *row, char *at, bool *found, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	switch (row->kind) {
	case KIND_INT: {
		int64_t n = (int64_t)row->otherwise;
		err = m2_json_get_int(
			object, key, (int64_t)row->min, (int64_t)row->max, &n, found, why);
		memcpy(at, &n, sizeof n);
		break;
	}
	case KIND_NUMBER: {
		double x = row->otherwise;
		err = m2_json_get_double(object, key, row->min, row->max, &x, found, why);
		memcpy(at, &x, sizeof x);
		break;
	}
	case KIND_BOOL: {
		bool b = row->otherwise != 0.0;
		err = m2_json_get_bool(object, key, &b, found, why);
		memcpy(at, &b, sizeof b);
		break;
	}
	}
	return err;
}

static enum m2_err read_key(struct json_object *object, const struct key_row *row,
	struct m2_said *said, struct m2_why *why)
{
	bool found = false;
	const char *key;
	enum m2_err err = pick_spelling(object, row->key, row->also, &key, why);
	if (err == M2_OK)
		err = read_value(object, key, row, (char *)said + row->at, &found, why);
	if (err == M2_OK && !found && (row->flags & NEEDED))
		return m2_fail_field(M2_EINVAL, why, row->key,
			"the config lacks %s; the library's default is not assumed", row->key);
	return err;
}

/* The clamp of dt: an array of two numbers, the second often Infinity. */
static enum m2_err read_dt_limit(struct json_object *object, const struct dialect_row *dialect,
	struct m2_said *said, struct m2_why *why)
{
	struct json_object *array = NULL;
	const char *key;
	double lo;
	double hi;
	if (dialect->dt_limit == NULL)
		return M2_OK;
	enum m2_err err =
		pick_spelling(object, dialect->dt_limit, dialect->dt_limit_also, &key, why);
	if (err == M2_OK)
		err = m2_json_get_array(object, key, 2, &array, NULL, why);
	if (err != M2_OK || array == NULL)
		return err;
	if (json_object_array_length(array) != 2 ||
		!m2_json_as_double(json_object_array_get_idx(array, 0), &lo) ||
		!m2_json_as_double(json_object_array_get_idx(array, 1), &hi))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not a pair of numbers", key);
	if (!(lo >= 0.0 && lo <= hi && isfinite(lo)))
		return m2_fail_field(M2_EINVAL, why, key,
			"%s is [%g, %g]; 0 <= first <= second is needed", key, lo, hi);
	said->dt_min = lo;
	said->dt_max = hi;
	return M2_OK;
}

enum m2_err m2_config_read_keys(struct json_object *config, enum m2_dialect dialect,
	struct m2_said *said, struct m2_why *why)
{
	const struct dialect_row *row = &dialects[dialect];
	struct json_object *ssm = NULL;
	*said = row->silent;
	enum m2_err err = m2_json_get_object(config, "ssm_cfg", &ssm, NULL, why);
	for (size_t i = 0; i < row->n_keys && err == M2_OK; i++)
		err = read_key(
			row->keys[i].flags & IN_SSM_CFG ? ssm : config, &row->keys[i], said, why);
	if (err == M2_OK)
		err = read_dt_limit(row->dt_limit_in_ssm_cfg ? ssm : config, row, said, why);
	return err;
}
