/* config.c - from the words of a config file to one checked description.
 *
 * dialect.c decides whose file it is, config_keys.c reads its words, config_fixes.c corrects what is
 * known to be wrong; here the words are held against each other and become a description.
 */
#include "model/config.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/json.h"
#include "model/config_fixes.h"
#include "model/config_keys.h"
#include "model/dialect.h"

enum { MAX_CONFIG_DEPTH = 16 };

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
static enum m2_err derive_widths(enum m2_dialect dialect, const struct m2_said *s, int64_t *heads,
	int64_t *d_mlp, struct m2_why *why)
{
	const double product = floor(s->expand * (double)s->hidden);
	if (product < 1 || product > M2_CONFIG_MAX_WIDTH)
		return m2_fail_field(M2_EINVAL, why, "expand",
			"expand %g times hidden size %lld is %g, outside 1..%d", s->expand,
			(long long)s->hidden, product, M2_CONFIG_MAX_WIDTH);
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

/* An id of the padding's rows is as wrong as one beyond them: no text ever gives it, and a stop that
 * nothing gives is none.  file: for the sentence. */
static enum m2_err check_token(const char *file, const char *key, int64_t id,
	const struct m2_model_config *config, int32_t *out, struct m2_why *why)
{
	const int32_t rows = config->desc.vocab_rows;
	if (id >= config->vocab_size && id < rows)
		return m2_fail_field(M2_EINVAL, why, key,
			"%s: %s is %lld, but there are %d tokens; the rows up to %d are padding",
			file, key, (long long)id, config->vocab_size, rows);
	if (id >= config->vocab_size)
		return m2_fail_field(M2_EINVAL, why, key, "%s: %s is %lld, but there are %d tokens",
			file, key, (long long)id, config->vocab_size);
	*out = id < 0 ? -1 : (int32_t)id;
	return M2_OK;
}

/* eos_token_id: a number, an array of numbers, or nothing. */
static enum m2_err read_eos(const char *file, struct json_object *object,
	struct m2_model_config *config, struct m2_why *why)
{
	enum { MAX_EOS = sizeof config->eos_token_ids / sizeof *config->eos_token_ids };
	struct json_object *value = NULL;
	if (!json_object_object_get_ex(object, "eos_token_id", &value) || value == NULL)
		return M2_OK;
	const bool many = json_object_is_type(value, json_type_array);
	const size_t count = many ? json_object_array_length(value) : 1;
	if (count > MAX_EOS)
		return m2_fail_field(M2_EINVAL, why, "eos_token_id",
			"%s: eos_token_id has %zu entries, more than %d", file, count,
			(int)MAX_EOS);
	int32_t n = 0;
	for (size_t i = 0; i < count; i++) {
		int64_t id;
		if (!m2_json_as_int(many ? json_object_array_get_idx(value, i) : value, &id))
			return m2_fail_field(M2_EINVAL, why, "eos_token_id",
				"%s: eos_token_id is not an integer or an array of them", file);
		const enum m2_err err = check_token(
			file, "eos_token_id", id, config, &config->eos_token_ids[n], why);
		if (err != M2_OK)
			return err;
		n += id >= 0;
	}
	config->n_eos = n;
	return M2_OK;
}

static enum m2_err fill_config(const struct m2_said *s, int32_t norm_groups,
	struct m2_model_config *out, struct m2_why *why)
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
	d->dt_min = (float)s->dt_min;
	d->dt_max = (float)s->dt_max;
	out->vocab_size = (int32_t)s->vocab;
	out->chunk_size = (int32_t)s->chunk;
	return m2_model_desc_check(d, why);
}

static enum m2_err read_tokens(struct json_object *json, const struct m2_said *s,
	struct m2_model_config *out, struct m2_why *why)
{
	static const char file[] = "config.json";
	enum m2_err err = check_token(file, "bos_token_id", s->bos, out, &out->bos_token_id, why);
	if (err == M2_OK)
		err = check_token(file, "pad_token_id", s->pad, out, &out->pad_token_id, why);
	return err != M2_OK ? err : read_eos(file, json, out, why);
}

static enum m2_err read_config(struct json_object *json, int32_t norm_groups,
	struct m2_model_config *out, struct m2_why *why)
{
	struct m2_said said;
	if (!json_object_is_type(json, json_type_object))
		return m2_fail(M2_EFORMAT, why, "config.json is not an object");
	enum m2_err err = m2_dialect_detect(json, &out->dialect, why);
	if (err == M2_OK)
		err = m2_config_read_keys(json, out->dialect, &said, why);
	if (err == M2_OK)
		err = check_activation(json, why);
	if (err == M2_OK)
		err = fill_config(&said, norm_groups, out, why);
	if (err == M2_OK)
		err = read_tokens(json, &said, out, why);
	if (err == M2_OK)
		m2_config_fix(&said, out);
	return err;
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

/* A file that is wrong changes nothing, nor does one that repeats what was corrected. */
static enum m2_err read_generation(
	struct json_object *json, struct m2_model_config *config, struct m2_why *why)
{
	struct m2_model_config generation = *config;
	const enum m2_err err = read_eos("generation_config.json", json, &generation, why);
	if (err == M2_OK && !m2_config_generation_repeats(config, &generation))
		*config = generation;
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
		err = read_generation(json, config, why);
	json_object_put(json);
	return err;
}
