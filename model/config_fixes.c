/* config_fixes.c - the table of known lies, one row per lie with the reason (semantics report, 3).
 *
 * The vocabularies behind the rows: Mistral's v3 has 32768 pieces, <unk> 0, <s> 1, </s> 2 and no padding;
 * GPT-NeoX's has 50277 tokens, of which 0 is <|endoftext|>, and nothing is put before a prompt.
 */
#include "model/config_fixes.h"

#include <assert.h>

enum { MISTRAL_V3 = 32768, NEOX_FIRST = 50277, NEOX_ROWS = 50288 };

static bool has_codestral_shape(const struct m2_model_desc *d)
{
	return d->hidden_size == 4096 && d->n_layers == 64 && d->n_groups == 8;
}

static bool all_ids_are_zero(const struct m2_model_config *c)
{
	return c->bos_token_id == 0 && c->pad_token_id == 0 && c->n_eos == 1 &&
	       c->eos_token_ids[0] == 0;
}

static bool names_no_ids(const struct m2_model_config *c)
{
	return c->bos_token_id < 0 && c->n_eos == 0;
}

/* Codestral's config.json, and every file that was copied from it. */
static bool writes_norm_before_gate(const struct m2_said *s, const struct m2_model_config *c)
{
	(void)c;
	return s->idle_norm_before_gate;
}

static bool writes_no_rms_norm(const struct m2_said *s, const struct m2_model_config *c)
{
	(void)c;
	return !s->idle_rms_norm;
}

static bool has_codestral_ids(const struct m2_said *s, const struct m2_model_config *c)
{
	return c->dialect == M2_DIALECT_TRANSFORMERS && c->vocab_size == MISTRAL_V3 &&
	       all_ids_are_zero(c) && (s->idle_norm_before_gate || has_codestral_shape(&c->desc));
}

static bool is_params_json(const struct m2_said *s, const struct m2_model_config *c)
{
	(void)s;
	return c->dialect == M2_DIALECT_MISTRAL && c->vocab_size == MISTRAL_V3;
}

static bool is_codestral_of_mamba_ssm(const struct m2_said *s, const struct m2_model_config *c)
{
	(void)s;
	return c->dialect == M2_DIALECT_MAMBA_SSM && c->vocab_size == MISTRAL_V3 &&
	       names_no_ids(c) && has_codestral_shape(&c->desc);
}

static bool is_neox_of_mamba_ssm(const struct m2_said *s, const struct m2_model_config *c)
{
	(void)s;
	return c->dialect == M2_DIALECT_MAMBA_SSM && c->vocab_size >= NEOX_FIRST &&
	       c->vocab_size <= NEOX_ROWS && names_no_ids(c);
}

/* What a row makes of the ids; NONE: the values were right already, the sentence says so. */
enum ids { IDS_NONE, IDS_MISTRAL, IDS_NEOX };

static const struct fix {
	bool (*applies)(const struct m2_said *said, const struct m2_model_config *config);
	enum ids ids;
	const char *sentence;
} fixes[] = {
	/* transformers' code gates before it norms whatever the key says, and so was Codestral trained
	 * (mistral-inference runs mamba_ssm with its default, false). */
	{writes_norm_before_gate, IDS_NONE,
		"norm_before_gate is true in the file and taken as false: transformers ignores the "
		"key, and Codestral, from whose file it is copied, was trained with the gate "
		"first. "
		"If fla trained this model in August 2024 and means it, rename layer_norm_epsilon "
		"to "
		"norm_eps"},
	{writes_no_rms_norm, IDS_NONE,
		"rms_norm is false in the file and without effect: the library that writes this "
		"key always has RMS norms"},
	/* The conversion wrote the ids of GPT-NeoX's vocabulary; mistral-common has 1, 2 and none. */
	{has_codestral_ids, IDS_MISTRAL,
		"bos, eos and pad are 0, 0 and 0 in the file and taken as 1, 2 and none: they are "
		"those of Mistral's v3 vocabulary, in which 0 is <unk>"},
	{is_params_json, IDS_MISTRAL,
		"params.json names no ids; bos 1 and eos 2 are those of Mistral's v3 vocabulary"},
	{is_codestral_of_mamba_ssm, IDS_MISTRAL,
		"the file names no ids; its shape is Codestral's, and bos 1 and eos 2 are those of "
		"Mistral's v3 vocabulary"},
	{is_neox_of_mamba_ssm, IDS_NEOX,
		"the file names no ids; its vocabulary has the size of GPT-NeoX's, in which eos is "
		"0 and nothing precedes a prompt"},
};

static void set_ids(struct m2_model_config *config, enum ids ids)
{
	if (ids == IDS_NONE)
		return;
	config->bos_token_id = ids == IDS_MISTRAL ? 1 : -1;
	config->pad_token_id = -1;
	config->n_eos = 1;
	config->eos_token_ids[0] = ids == IDS_MISTRAL ? 2 : 0;
}

void m2_config_fix(const struct m2_said *said, struct m2_model_config *config)
{
	enum { MAX = sizeof config->corrections / sizeof *config->corrections };
	/* each row sees the file's own values */
	const struct m2_model_config file = *config;
	for (size_t i = 0; i < sizeof fixes / sizeof *fixes; i++) {
		if (!fixes[i].applies(said, &file))
			continue;
		assert(config->n_corrections < MAX); /* the rows about ids exclude each other */
		config->corrections[config->n_corrections++] = fixes[i].sentence;
		set_ids(config, fixes[i].ids);
	}
}

bool m2_config_generation_repeats(
	const struct m2_model_config *config, const struct m2_model_config *generation)
{
	for (int32_t k = 0; k < config->n_corrections; k++)
		for (size_t i = 0; i < sizeof fixes / sizeof *fixes; i++)
			if (config->corrections[k] == fixes[i].sentence &&
				fixes[i].ids == IDS_MISTRAL && generation->n_eos == 1 &&
				generation->eos_token_ids[0] == 0)
				return true;
	return false;
}
