/* config.h - config.json of a Mamba-2 checkpoint, in whatever dialect, to one checked description.
 *
 * Dialects: fla, transformers, mamba_ssm, Mistral's params.json and the pure case of OuteAI's
 * (detected by their key sets); GGUF files carry their own (model/gguf.h).  Hybrids, Mamba-1, Mamba-3 and
 * quantised checkpoints are refused by name with the key that shows it (M2_EUNSUPPORTED).  Nothing is
 * taken from a library's defaults that the tensors could contradict: m2_checkpoint_open compares every
 * shape.  Source of the facts: mamba_ssm's, fla's and transformers' configuration classes.
 *
 * Threads: no shared state.
 */
#ifndef M2_MODEL_CONFIG_H
#define M2_MODEL_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "kernels/backend.h"

enum m2_dialect {
	M2_DIALECT_FLA,
	M2_DIALECT_TRANSFORMERS,
	M2_DIALECT_MAMBA_SSM,
	M2_DIALECT_MISTRAL,
	M2_DIALECT_OUTEAI,
	M2_DIALECT_GGUF
};

const char *m2_dialect_name(enum m2_dialect dialect);

struct m2_model_config {
	enum m2_dialect dialect;
	struct m2_model_desc desc;
	int32_t vocab_size; /* tokens that exist; rows vocab_size..desc.vocab_rows-1 are padding */
	int32_t chunk_size; /* as the file says; informative */
	int32_t bos_token_id; /* -1: none */
	int32_t pad_token_id; /* -1: none */
	int32_t n_eos;        /* eos token ids; generation_config.json's take precedence */
	int32_t eos_token_ids[16];
	/* Where the file is known to be wrong and another value was taken: sentences for people, static
	 * (inspect shows them). */
	int32_t n_corrections;
	const char *corrections[4];
};

/* text: config.json or params.json.  norm_groups: the variant's override, 0 for the dialect's own
 * (= n_groups).  Errors: EFORMAT (no JSON), EINVAL (a field), EUNSUPPORTED. */
enum m2_err m2_model_config_parse(const char *text, size_t length, int32_t norm_groups,
	struct m2_model_config *out, struct m2_why *why);

/* eos_token_id (number or array) of generation_config.json, if it has one.  A file that repeats what was
 * corrected in config changes nothing; nor does one that is refused (as above). */
enum m2_err m2_model_config_generation(
	const char *text, size_t length, struct m2_model_config *config, struct m2_why *why);

#endif
