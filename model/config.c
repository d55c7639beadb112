/* config.c - the values of config.json, by one table of keys for all dialects.
 *
 * Each dialect spells the same quantity differently; the table says how, within which bounds, and
 * what an absent key means.  A quantity that no tensor could confirm (groups, state size and the like
 * in the two dialects whose libraries default to one particular model) must be written down: their
 * defaults are never taken.  Which dialect it is was decided by dialect.c.
 */
#include "model/config.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/json.h"
#include "model/dialect.h"

enum { MAX_CONFIG_DEPTH = 16, MAX_TOKENS = 1 << 24, MAX_WIDTH = 1 << 22 };

/* What a file says, before it is made a description. */
struct said {
	int64_t hidden, layers, vocab, vocab_multiple, heads, head_dim, state, groups, conv, d_ssm;
	int64_t chunk, bos, pad;
	double expand, eps;
	bool proj_bias, conv_bias, gated_norm, norm_before_gate, d_per_channel, tied, rms_blocks;
};

enum kind { KIND_INT, KIND_NUMBER, KIND_BOOL };
enum { NEEDED = 1, IN_SSM_CFG = 2 };

/* One quantity in one dialect.  `otherwise` is its value where the file is silent; NEEDED: an error. */
struct key_row {
	const char *key;
	enum kind kind;
	size_t at; /* offset in struct said */
	double min, max, otherwise;
	unsigned flags;
};

#define INT(key, field, min, max, otherwise, flags)                                                \
	{                                                                                          \
		key, KIND_INT, offsetof(struct said, field), min, max, otherwise, flags            \
	}
#define NUMBER(key, field, min, max, otherwise, flags)                                             \
	{                                                                                          \
		key, KIND_NUMBER, offsetof(struct said, field), min, max, otherwise, flags         \
	}
#define BOOL(key, field, otherwise, flags)                                                         \
	{                                                                                          \
		key, KIND_BOOL, offsetof(struct said, field), 0, 1, otherwise, flags               \
	}

static const struct key_row fla_keys[] = {
	INT("hidden_size", hidden, 1, 65536, 0, NEEDED),
	INT("num_hidden_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, MAX_TOKENS, 0, NEEDED),
	INT("head_dim", head_dim, 1, 1024, 0, NEEDED),
	INT("state_size", state, 1, 1024, 0, NEEDED),
	INT("n_groups", groups, 1, 4096, 0, NEEDED),
	INT("conv_kernel", conv, 1, 16, 4, 0),
	INT("chunk_size", chunk, 1, MAX_TOKENS, 256, 0),
	INT("bos_token_id", bos, -1, MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, MAX_TOKENS, -1, 0),
	NUMBER("expand", expand, 1e-3, 64, 2, 0),
	NUMBER("norm_eps", eps, 1e-30, 0.99, 1e-5, 0),
	BOOL("use_bias", proj_bias, 0, 0),
	BOOL("use_conv_bias", conv_bias, 1, 0),
	BOOL("rmsnorm", gated_norm, 1, 0),
	BOOL("norm_before_gate", norm_before_gate, 0, 0),
	BOOL("D_has_hdim", d_per_channel, 0, 0),
	BOOL("tie_word_embeddings", tied, 0, 0),
};

/* norm_before_gate and rms_norm occur in such files and are ignored by the library: so here. */
static const struct key_row transformers_keys[] = {
	INT("hidden_size", hidden, 1, 65536, 0, NEEDED),
	INT("num_hidden_layers", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, MAX_TOKENS, 0, NEEDED),
	INT("num_heads", heads, 1, 4096, 0, NEEDED),
	INT("head_dim", head_dim, 1, 1024, 0, NEEDED),
	INT("state_size", state, 1, 1024, 0, NEEDED),
	INT("n_groups", groups, 1, 4096, 0, NEEDED),
	INT("conv_kernel", conv, 1, 16, 4, 0),
	INT("chunk_size", chunk, 1, MAX_TOKENS, 256, 0),
	INT("bos_token_id", bos, -1, MAX_TOKENS, -1, 0),
	INT("pad_token_id", pad, -1, MAX_TOKENS, -1, 0),
	NUMBER("expand", expand, 1e-3, 64, 2, 0),
	NUMBER("layer_norm_epsilon", eps, 1e-30, 0.99, 1e-5, 0),
	BOOL("use_bias", proj_bias, 0, 0),
	BOOL("use_conv_bias", conv_bias, 1, 0),
	BOOL("tie_word_embeddings", tied, 0, 0),
};

/* mamba_ssm's files leave out what has its default, so here defaults are part of the format. */
static const struct key_row mamba_ssm_keys[] = {
	INT("d_model", hidden, 1, 65536, 0, NEEDED),
	INT("n_layer", layers, 1, 1024, 0, NEEDED),
	INT("vocab_size", vocab, 1, MAX_TOKENS, 0, NEEDED),
	INT("pad_vocab_size_multiple", vocab_multiple, 1, 65536, 8, 0),
	BOOL("rms_norm", rms_blocks, 1, 0),
	BOOL("tie_embeddings", tied, 1, 0),
	INT("headdim", head_dim, 1, 1024, 64, IN_SSM_CFG),
	INT("d_state", state, 1, 1024, 128, IN_SSM_CFG),
	INT("ngroups", groups, 1, 4096, 1, IN_SSM_CFG),
	INT("d_conv", conv, 1, 16, 4, IN_SSM_CFG),
	INT("d_ssm", d_ssm, 1, MAX_WIDTH, 0, IN_SSM_CFG),
	INT("chunk_size", chunk, 1, MAX_TOKENS, 256, IN_SSM_CFG),
	NUMBER("expand", expand, 1e-3, 64, 2, IN_SSM_CFG),
	BOOL("bias", proj_bias, 0, IN_SSM_CFG),
	BOOL("conv_bias", conv_bias, 1, IN_SSM_CFG),
	BOOL("rmsnorm", gated_norm, 1, IN_SSM_CFG),
	BOOL("norm_before_gate", norm_before_gate, 0, IN_SSM_CFG),
	BOOL("D_has_hdim", d_per_channel, 0, IN_SSM_CFG),
};

#define ROWS(table) table, sizeof table / sizeof *(table)
static const struct dialect_row {
	const struct key_row *keys;
	size_t n_keys;
	const char *dt_limit; /* [lowest, highest] of the step */
	bool dt_limit_in_ssm_cfg;
} dialects[] = {
	[M2_DIALECT_FLA] = {ROWS(fla_keys), "dt_limit", false},
	[M2_DIALECT_TRANSFORMERS] = {ROWS(transformers_keys), "time_step_limit", false},
	[M2_DIALECT_MAMBA_SSM] = {ROWS(mamba_ssm_keys), "dt_limit", true},
};

static enum m2_err read_key(struct json_object *object, const struct key_row *row,
	struct said *said, struct m2_why *why)
{
	char *at = (char *)said + row->at;
	bool found = false;
	enum m2_err err = M2_OK;
	switch (row->kind) {
	case KIND_INT: {
		int64_t n = (int64_t)row->otherwise;
		err = m2_json_get_int(
			object, row->key, (int64_t)row->min, (int64_t)row->max, &n, &found, why);
		memcpy(at, &n, sizeof n);
		break;
	}
	case KIND_NUMBER: {
		double x = row->otherwise;
		err = m2_json_get_double(object, row->key, row->min, row->max, &x, &found, why);
		memcpy(at, &x, sizeof x);
		break;
	}
	case KIND_BOOL: {
		bool b = row->otherwise != 0.0;
		err = m2_json_get_bool(object, row->key, &b, &found, why);
		memcpy(at, &b, sizeof b);
		break;
	}
	}
	if (err == M2_OK && !found && (row->flags & NEEDED))
		return m2_fail_field(M2_EINVAL, why, row->key,
			"config.json lacks %s; the library's default is not assumed", row->key);
	return err;
}

/* The clamp of dt: an array of two numbers, the second often Infinity. */
static enum m2_err read_dt_limit(
	struct json_object *object, const char *key, struct m2_model_desc *desc, struct m2_why *why)
{
	struct json_object *array;
	double lo;
	double hi;
	desc->dt_min = 0.0f;
	desc->dt_max = INFINITY;
	const enum m2_err err = m2_json_get_array(object, key, 2, &array, NULL, why);
	if (err != M2_OK || array == NULL)
		return err;
	if (json_object_array_length(array) != 2 ||
		!m2_json_as_double(json_object_array_get_idx(array, 0), &lo) ||
		!m2_json_as_double(json_object_array_get_idx(array, 1), &hi))
		return m2_fail_field(M2_EINVAL, why, key, "%s is not a pair of numbers", key);
	if (!(lo >= 0.0 && lo <= hi && isfinite(lo)))
		return m2_fail_field(M2_EINVAL, why, key,
			"%s is [%g, %g]; 0 <= first <= second is needed", key, lo, hi);
	desc->dt_min = (float)lo;
	desc->dt_max = (float)hi;
	return M2_OK;
}

/* hidden_act: the one activation that exists in the wild. */
static enum m2_err check_activation(struct json_object *config, struct m2_why *why)
{
	const char *name = "silu";
	const enum m2_err err =
		m2_json_get_string(config, "hidden_act", 64, &name, NULL, NULL, why);
	if (err == M2_OK && strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)
		return m2_fail_field(M2_EUNSUPPORTED, why, "hidden_act",
			"hidden_act is \"%s\"; only silu is supported", name);
	return err;
}

/* Widths that follow from each other; every factor is bounded, so nothing here overflows. */
static enum m2_err derive_widths(enum m2_dialect dialect, const struct said *s, int64_t *heads,
	int64_t *d_mlp, struct m2_why *why)
{
	const double product = floor(s->expand * (double)s->hidden);
	if (product < 1 || product > MAX_WIDTH)
		return m2_fail_field(M2_EINVAL, why, "expand",
			"expand %g times hidden size %lld is %g, outside 1..%d", s->expand,
			(long long)s->hidden, product, MAX_WIDTH);
	const int64_t inner = (int64_t)product;
	const int64_t d_ssm = s->d_ssm > 0 ? s->d_ssm : inner;
	if (d_ssm > inner)
		return m2_fail_field(M2_EINVAL, why, "d_ssm",
			"ssm_cfg.d_ssm is %lld, more than the inner width %lld", (long long)d_ssm,
			(long long)inner);
	if (d_ssm % s->head_dim != 0)
		return m2_fail_field(M2_EINVAL, why, "head_dim",
			"the inner width %lld is no multiple of the head dimension %lld",
			(long long)d_ssm, (long long)s->head_dim);
	*heads = d_ssm / s->head_dim;
	*d_mlp = inner - d_ssm;
	/* fla recomputes the heads and drops its key; transformers believes its key and fails later */
	if (dialect == M2_DIALECT_TRANSFORMERS && s->heads != *heads)
		return m2_fail_field(M2_EINVAL, why, "num_heads",
			"num_heads is %lld, but expand * hidden_size / head_dim is %lld",
			(long long)s->heads, (long long)*heads);
	if (*heads > 4096)
		return m2_fail_field(M2_EINVAL, why, "head_dim", "%lld heads, more than 4096",
			(long long)*heads);
	if (s->groups > *heads || *heads % s->groups != 0)
		return m2_fail_field(M2_EINVAL, why, "n_groups",
			"%lld groups do not divide %lld heads", (long long)s->groups,
			(long long)*heads);
	return M2_OK;
}

static enum m2_err check_token(
	const char *key, int64_t id, int32_t vocab, int32_t *out, struct m2_why *why)
{
	if (id >= vocab)
		return m2_fail_field(M2_EINVAL, why, key, "%s is %lld, but there are %d tokens",
			key, (long long)id, vocab);
	*out = (int32_t)id;
	return M2_OK;
}

/* eos_token_id: a number, an array of numbers, or nothing. */
static enum m2_err read_eos(
	struct json_object *object, struct m2_model_config *config, struct m2_why *why)
{
	enum { MAX_EOS = sizeof config->eos_token_ids / sizeof *config->eos_token_ids };
	struct json_object *value = NULL;
	if (!json_object_object_get_ex(object, "eos_token_id", &value) || value == NULL)
		return M2_OK;
	const bool many = json_object_is_type(value, json_type_array);
	const size_t count = many ? json_object_array_length(value) : 1;
	if (count > MAX_EOS)
		return m2_fail_field(M2_EINVAL, why, "eos_token_id",
			"eos_token_id has %zu entries, more than %d", count, (int)MAX_EOS);
	int32_t n = 0;
	for (size_t i = 0; i < count; i++) {
		int64_t id;
		if (!m2_json_as_int(many ? json_object_array_get_idx(value, i) : value, &id))
			return m2_fail_field(M2_EINVAL, why, "eos_token_id",
				"eos_token_id is not an integer or an array of them");
		if (id < 0)
			continue;
		const enum m2_err err = check_token(
			"eos_token_id", id, config->vocab_size, &config->eos_token_ids[n], why);
		if (err != M2_OK)
			return err;
		n++;
	}
	config->n_eos = n;
	return M2_OK;
}

static enum m2_err fill_config(
	const struct said *s, int32_t norm_groups, struct m2_model_config *out, struct m2_why *why)
{
	int64_t heads = 0;
	int64_t d_mlp = 0;
	enum m2_err err = derive_widths(out->dialect, s, &heads, &d_mlp, why);
	if (err != M2_OK)
		return err;
	if (!s->rms_blocks)
		return m2_fail_field(M2_EUNSUPPORTED, why, "rms_norm",
			"rms_norm is false: LayerNorm blocks are not supported");
	const int64_t rows =
		(s->vocab + s->vocab_multiple - 1) / s->vocab_multiple * s->vocab_multiple;
	struct m2_model_desc *d = &out->desc;
	d->hidden_size = (int32_t)s->hidden;
	d->n_layers = (int32_t)s->layers;
	d->vocab_rows = (int32_t)rows;
	d->n_heads = (int32_t)heads;
	d->head_dim = (int32_t)s->head_dim;
	d->state_size = (int32_t)s->state;
	d->n_groups = (int32_t)s->groups;
	d->conv_kernel = (int32_t)s->conv;
	d->d_mlp = (int32_t)d_mlp;
	d->norm_groups = norm_groups > 0 ? norm_groups : (int32_t)s->groups;
	d->tied_head = s->tied;
	d->proj_bias = s->proj_bias;
	d->conv_bias = s->conv_bias;
	d->gated_norm = s->gated_norm;
	d->norm_before_gate = s->norm_before_gate;
	d->d_per_channel = s->d_per_channel;
	d->norm_eps = (float)s->eps;
	out->vocab_size = (int32_t)s->vocab;
	out->chunk_size = (int32_t)s->chunk;
	err = check_token("bos_token_id", s->bos, out->vocab_size, &out->bos_token_id, why);
	if (err == M2_OK)
		err = check_token("pad_token_id", s->pad, out->vocab_size, &out->pad_token_id, why);
	return err != M2_OK ? err : m2_model_desc_check(d, why);
}

static enum m2_err read_config(struct json_object *json, int32_t norm_groups,
	struct m2_model_config *out, struct m2_why *why)
{
	if (!json_object_is_type(json, json_type_object))
		return m2_fail(M2_EFORMAT, why, "config.json is not an object");
	enum m2_err err = m2_dialect_detect(json, &out->dialect, why);
	if (err != M2_OK)
		return err;
	const struct dialect_row *dialect = &dialects[out->dialect];
	struct json_object *ssm = NULL;
	err = m2_json_get_object(json, "ssm_cfg", &ssm, NULL, why);

	/* what a dialect cannot say has one value only */
	struct said said = {.vocab_multiple = 1,
		.eps = 1e-5,
		.gated_norm = true,
		.rms_blocks = true,
		.bos = -1,
		.pad = -1};
	for (size_t i = 0; i < dialect->n_keys && err == M2_OK; i++) {
		const struct key_row *row = &dialect->keys[i];
		err = read_key(row->flags & IN_SSM_CFG ? ssm : json, row, &said, why);
	}
	if (err == M2_OK)
		err = read_dt_limit(dialect->dt_limit_in_ssm_cfg ? ssm : json, dialect->dt_limit,
			&out->desc, why);
	if (err == M2_OK)
		err = check_activation(json, why);
	if (err == M2_OK)
		err = fill_config(&said, norm_groups, out, why);
	return err != M2_OK ? err : read_eos(json, out, why);
}

enum m2_err m2_model_config_parse(const char *text, size_t length, int32_t norm_groups,
	struct m2_model_config *out, struct m2_why *why)
{
	assert(norm_groups >= 0);
	struct m2_model_config config = {.bos_token_id = -1, .pad_token_id = -1};
	struct json_object *json;
	enum m2_err err = m2_json_parse(text, length, MAX_CONFIG_DEPTH, "config.json", &json, why);
	if (err != M2_OK)
		return err;
	err = read_config(json, norm_groups, &config, why);
	json_object_put(json);
	if (err == M2_OK)
		*out = config;
	return err;
}

enum m2_err m2_model_config_generation(
	const char *text, size_t length, struct m2_model_config *config, struct m2_why *why)
{
	struct json_object *json;
	enum m2_err err =
		m2_json_parse(text, length, MAX_CONFIG_DEPTH, "generation_config.json", &json, why);
	if (err != M2_OK)
		return err;
	if (!json_object_is_type(json, json_type_object))
		err = m2_fail(M2_EFORMAT, why, "generation_config.json is not an object");
	else
		err = read_eos(json, config, why);
	json_object_put(json);
	return err;
}
