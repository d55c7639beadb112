/* gguf_config.c - the keys of a GGUF file and the shapes of its tensors, as one checked description.
 *
 * What the keys cannot say - biases, the gated norm, a tied head, D per channel, the rows of the
 * vocabulary - the tensors do.  What the format cannot express has the value that llama.cpp computes
 * with: no MLP inside the mixer, gate before norm, no clamp of dt.
 */
#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_keys.h"
#include "model/gguf_tokens.h"

enum { MAX_WIDTH = 1 << 22, MAX_ROWS = 1 << 24, MAX_TYPES_SAID = 6 };

struct said {
	int64_t hidden, layers, conv, inner, state, heads, groups;
	double eps;
};

static const struct key_row {
	const char *key;
	size_t at; /* in struct said */
	int64_t min, max;
} rows[] = {
	{"mamba2.embedding_length", offsetof(struct said, hidden), 1, 65536},
	{"mamba2.block_count", offsetof(struct said, layers), 1, 1024},
	{"mamba2.ssm.conv_kernel", offsetof(struct said, conv), 1, 16},
	{"mamba2.ssm.inner_size", offsetof(struct said, inner), 1, MAX_WIDTH},
	{"mamba2.ssm.state_size", offsetof(struct said, state), 1, 1024},
	{"mamba2.ssm.time_step_rank", offsetof(struct said, heads), 1, 4096},
	{"mamba2.ssm.group_count", offsetof(struct said, groups), 1, 4096},
};
static const char eps_key[] = "mamba2.attention.layer_norm_rms_epsilon";

/* Keys that are zero in a pure Mamba-2 model, per model or per layer, and what another value shows. */
static const struct zero_row {
	const char *key;
	const char *shows;
} zeros[] = {
	{"mamba2.attention.head_count", "attention layers"},
	{"mamba2.attention.head_count_kv", "attention layers"},
	{"mamba2.feed_forward_length", "MLP blocks"},
	{"mamba2.expert_count", "mixtures of experts"},
};

/* Architectures by llama.cpp's names that people may take for Mamba-2. */
static const struct family_row {
	const char *architecture;
	const char *family;
} families[] = {
	{"mamba", "Mamba-1, whose mixer is another one"},
	{"jamba", "Jamba, a hybrid of Mamba-1 and attention"},
	{"nemotron_h", "Nemotron-H, a hybrid with attention and MLP layers"},
	{"nemotron_h_moe", "Nemotron-H, a hybrid with attention and MoE layers"},
	{"granitehybrid", "Granite 4 or Bamba, hybrids with attention and MLP layers"},
	{"falcon-h1", "Falcon-H1, a hybrid with attention beside each mixer"},
	{"plamo2", "PLaMo-2, a hybrid with attention layers"},
	{"zamba2", "Zamba2, a hybrid with shared attention blocks"},
};

/* ---- what it is ---- */

static enum m2_err check_architecture(const struct m2_gguf *g, struct m2_why *why)
{
	static const char key[] = "general.architecture";
	const char *text = NULL;
	size_t length = 0;
	char name[64];
	const enum m2_err err = m2_gguf_get_string(g, key, &text, &length, NULL, why);
	if (err != M2_OK)
		return err;
	if (text == NULL)
		return m2_fail_field(M2_EINVAL, why, key, "%s lacks %s", g->what, key);
	(void)snprintf(name, sizeof name, "%.*s", length < 63 ? (int)length : 63, text);
	if (length == strlen(name) && strcmp(name, "mamba2") == 0)
		return M2_OK;
	for (size_t i = 0; i < sizeof families / sizeof *families; i++)
		if (strcmp(name, families[i].architecture) == 0)
			return m2_fail_field(M2_EUNSUPPORTED, why, key,
				"%s: %s is \"%s\": this is %s", g->what, key, name,
				families[i].family);
	return m2_fail_field(
		M2_EUNSUPPORTED, why, key, "%s: %s is \"%s\", not \"mamba2\"", g->what, key, name);
}

static enum m2_err check_zero(
	const struct m2_gguf *g, const struct zero_row *row, struct m2_why *why)
{
	const struct m2_gguf_key *key = m2_gguf_find(g, row->key);
	int64_t value = 0;
	if (key == NULL)
		return M2_OK;
	if (key->type == M2_GGUF_ARRAY && m2_gguf_is_integer(key->element)) {
		for (uint64_t i = 0; i < key->count && value == 0; i++)
			value = m2_gguf_element_int(g, key, i);
	} else {
		const enum m2_err err =
			m2_gguf_get_int(g, row->key, INT64_MIN, INT64_MAX, &value, NULL, why);
		if (err != M2_OK)
			return err;
	}
	if (value != 0)
		return m2_fail_field(M2_EUNSUPPORTED, why, row->key,
			"%s: %s is %lld: a hybrid with %s", g->what, row->key, (long long)value,
			row->shows);
	return M2_OK;
}

/* One part of several has not all tensors, and says so in a key. */
static enum m2_err check_split(const struct m2_gguf *g, struct m2_why *why)
{
	int64_t parts = 0;
	const enum m2_err err = m2_gguf_get_int(g, "split.count", 0, INT64_MAX, &parts, NULL, why);
	if (err == M2_OK && parts > 1)
		return m2_fail_field(M2_EUNSUPPORTED, why, "split.count",
			"%s is one of %lld parts of a split GGUF file; merge them with "
			"llama-gguf-split --merge",
			g->what, (long long)parts);
	return err;
}

/* Every quantised type by its name, once. */
static enum m2_err check_types(
	const struct m2_gguf *g, const struct m2_tensor_file *tensors, struct m2_why *why)
{
	const char *said[MAX_TYPES_SAID];
	char words[128] = "";
	size_t n_said = 0;
	size_t count = 0;
	const struct m2_tensor *first = NULL;
	for (size_t i = 0; i < tensors->count; i++) {
		const struct m2_tensor *t = &tensors->tensors[i];
		if (t->dtype != M2_DTYPE_NONE)
			continue;
		first = first != NULL ? first : t;
		count++;
		size_t k = 0;
		while (k < n_said && strcmp(said[k], t->dtype_name) != 0)
			k++;
		if (k < n_said || n_said == MAX_TYPES_SAID)
			continue;
		const size_t at = strlen(words);
		(void)snprintf(
			words + at, sizeof words - at, "%s%s", at > 0 ? ", " : "", t->dtype_name);
		said[n_said++] = t->dtype_name;
	}
	if (count == 0)
		return M2_OK;
	return m2_fail(M2_EUNSUPPORTED, why,
		"%s: %zu tensors have types that cannot be run (%s; %.64s is the first); F32, F16 "
		"and BF16 can: convert the model with --outtype f16",
		g->what, count, words, first->name);
}

/* ---- what it says ---- */

static enum m2_err read_keys(const struct m2_gguf *g, struct said *said, struct m2_why *why)
{
	bool found = false;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		int64_t n = 0;
		const enum m2_err err =
			m2_gguf_get_int(g, rows[i].key, rows[i].min, rows[i].max, &n, &found, why);
		if (err != M2_OK)
			return err;
		if (!found)
			return m2_fail_field(
				M2_EINVAL, why, rows[i].key, "%s lacks %s", g->what, rows[i].key);
		memcpy((char *)said + rows[i].at, &n, sizeof n);
	}
	const enum m2_err err = m2_gguf_get_number(g, eps_key, &said->eps, &found, why);
	if (err == M2_OK && !found)
		return m2_fail_field(M2_EINVAL, why, eps_key, "%s lacks %s", g->what, eps_key);
	if (err == M2_OK && !(said->eps >= 1e-30 && said->eps < 1))
		return m2_fail_field(M2_EINVAL, why, eps_key,
			"%s: %s is %g, it must lie between 0 and 1", g->what, eps_key, said->eps);
	return err;
}

static enum m2_err check_widths(const struct m2_gguf *g, const struct said *s, struct m2_why *why)
{
	if (s->inner % s->heads != 0)
		return m2_fail_field(M2_EINVAL, why, "mamba2.ssm.inner_size",
			"%s: mamba2.ssm.inner_size is %lld, no multiple of the heads "
			"(mamba2.ssm.time_step_rank), %lld",
			g->what, (long long)s->inner, (long long)s->heads);
	if (s->heads % s->groups != 0)
		return m2_fail_field(M2_EINVAL, why, "mamba2.ssm.group_count",
			"%s: mamba2.ssm.group_count is %lld, it must divide the heads "
			"(mamba2.ssm.time_step_rank), %lld",
			g->what, (long long)s->groups, (long long)s->heads);
	/* the file says the groups twice, and a wrong number of them gives a wrong model that runs */
	if (g->norm_rows < 0)
		return m2_fail(M2_EFORMAT, why,
			"%s: the ssm_norm tensors differ in their rows from layer to layer",
			g->what);
	if (g->norm_rows != 0 && g->norm_rows != s->groups)
		return m2_fail_field(M2_EFORMAT, why, "mamba2.ssm.group_count",
			"%s: mamba2.ssm.group_count is %lld, but the rows of the ssm_norm tensors "
			"are %lld",
			g->what, (long long)s->groups, (long long)g->norm_rows);
	return M2_OK;
}

/* ---- what the tensors say ---- */

static bool any_ends_with(const struct m2_tensor_file *tensors, const char *end)
{
	const size_t n = strlen(end);
	for (size_t i = 0; i < tensors->count; i++) {
		const char *name = tensors->tensors[i].name;
		const size_t length = strlen(name);
		if (length > n && strcmp(name + length - n, end) == 0)
			return true;
	}
	return false;
}

static enum m2_err describe(const struct m2_gguf *g, const struct m2_tensor_file *tensors,
	const struct said *s, int32_t norm_groups, struct m2_model_desc *m, struct m2_why *why)
{
	const struct m2_tensor *embedding =
		m2_tensor_file_find(tensors, "backbone.embedding.weight");
	const struct m2_tensor *d = m2_tensor_file_find(tensors, "backbone.layers.0.mixer.D");
	if (embedding == NULL)
		return m2_fail(
			M2_EFORMAT, why, "%s: the tensor token_embd.weight is missing", g->what);
	if (embedding->n_dims != 2 || embedding->shape[1] != s->hidden ||
		embedding->shape[0] > MAX_ROWS)
		return m2_fail_field(M2_EFORMAT, why, "mamba2.embedding_length",
			"%s: token_embd.weight has %d dimensions, %lld rows of %lld, and "
			"mamba2.embedding_length is %lld",
			g->what, embedding->n_dims,
			embedding->n_dims < 2 ? 1LL : (long long)embedding->shape[0],
			(long long)embedding->shape[embedding->n_dims - 1], (long long)s->hidden);
	*m = (struct m2_model_desc){
		.hidden_size = (int32_t)s->hidden,
		.n_layers = (int32_t)s->layers,
		.vocab_rows = (int32_t)embedding->shape[0],
		.n_heads = (int32_t)s->heads,
		.head_dim = (int32_t)(s->inner / s->heads),
		.state_size = (int32_t)s->state,
		.n_groups = (int32_t)s->groups,
		.conv_kernel = (int32_t)s->conv,
		.norm_groups = norm_groups > 0 ? norm_groups : (int32_t)s->groups,
		.tied_head = m2_tensor_file_find(tensors, "lm_head.weight") == NULL,
		.proj_bias = any_ends_with(tensors, ".mixer.in_proj.bias") ||
			     any_ends_with(tensors, ".mixer.out_proj.bias"),
		.conv_bias = any_ends_with(tensors, ".mixer.conv1d.bias"),
		.gated_norm = any_ends_with(tensors, ".mixer.norm.weight"),
		.a_given = true,
		.norm_eps = (float)s->eps,
		.dt_max = INFINITY,
	};
	m->d_per_channel =
		d != NULL && s->inner != s->heads && d->n_dims == 1 && d->shape[0] == s->inner;
	return m2_model_desc_check(m, why);
}

/* ---- tokens ---- */

static enum m2_err read_id(
	const struct m2_gguf *g, const char *key, int32_t limit, int32_t *out, struct m2_why *why)
{
	int64_t id = -1;
	const enum m2_err err = m2_gguf_get_int(g, key, -1, INT64_MAX, &id, NULL, why);
	if (err == M2_OK && id >= limit)
		return m2_fail_field(M2_EINVAL, why, key, "%s: %s is %lld, but there are %d tokens",
			g->what, key, (long long)id, limit);
	*out = (int32_t)id;
	return err;
}

/* Whatever ends a text, a turn or a message ends a generation. */
static enum m2_err read_tokens(
	const struct m2_gguf *g, struct m2_model_config *config, struct m2_why *why)
{
	static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
		"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
	size_t count = 0;
	enum m2_err err = m2_gguf_count_tokens(g, &count, why);
	if (err == M2_OK && count > (size_t)config->desc.vocab_rows)
		err = m2_fail_field(M2_EFORMAT, why, "tokenizer.ggml.tokens",
			"%s: %zu tokens, and token_embd.weight has %d rows", g->what, count,
			config->desc.vocab_rows);
	if (err != M2_OK)
		return err;
	config->vocab_size = count > 0 ? (int32_t)count : config->desc.vocab_rows;
	err = read_id(
		g, "tokenizer.ggml.bos_token_id", config->vocab_size, &config->bos_token_id, why);
	/* padding may name one of the fillers */
	if (err == M2_OK)
		err = read_id(g, "tokenizer.ggml.padding_token_id", config->desc.vocab_rows,
			&config->pad_token_id, why);
	for (size_t i = 0; i < sizeof ends / sizeof *ends && err == M2_OK; i++) {
		int32_t id = -1;
		err = read_id(g, ends[i], config->vocab_size, &id, why);
		bool known = id < 0;
		for (int32_t k = 0; k < config->n_eos && !known; k++)
			known = config->eos_token_ids[k] == id;
		if (err == M2_OK && !known)
			config->eos_token_ids[config->n_eos++] = id;
	}
	return err;
}

enum m2_err m2_gguf_config(const struct m2_gguf *gguf, const struct m2_tensor_file *tensors,
	int32_t norm_groups, struct m2_model_config *out, struct m2_why *why)
{
	assert(norm_groups >= 0);
	struct m2_model_config config = {.dialect = M2_DIALECT_GGUF};
	struct said said = {.hidden = 0};
	enum m2_err err = check_architecture(gguf, why);
	if (err == M2_OK)
		err = check_split(gguf, why);
	for (size_t i = 0; i < sizeof zeros / sizeof *zeros && err == M2_OK; i++)
		err = check_zero(gguf, &zeros[i], why);
	if (err == M2_OK)
		err = read_keys(gguf, &said, why);
	if (err == M2_OK)
		err = check_widths(gguf, &said, why);
	if (err == M2_OK)
		err = check_types(gguf, tensors, why);
	if (err == M2_OK)
		err = describe(gguf, tensors, &said, norm_groups, &config.desc, why);
	if (err == M2_OK)
		err = read_tokens(gguf, &config, why);
	if (err == M2_OK)
		*out = config;
	return err;
}
