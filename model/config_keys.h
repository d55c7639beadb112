/* config_keys.h - what a config file says, by one table of keys for all dialects.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_CONFIG_KEYS_H
#define M2_MODEL_CONFIG_KEYS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "model/config.h"

enum { M2_CONFIG_MAX_TOKENS = 1 << 24, M2_CONFIG_MAX_WIDTH = 1 << 22 };

/* A file's words, each within its bounds, before they are held against each other. */
struct m2_said {
	int64_t hidden, layers, vocab, vocab_multiple, heads, head_dim, state, groups, conv, d_ssm;
	int64_t chunk, bos, pad; /* bos, pad: -1 is none */
	double expand, eps;
	double dt_min, dt_max;
	bool proj_bias, conv_bias, gated_norm, norm_before_gate, d_per_channel, tied, rms_blocks;
	/* written in the file, and without any effect in the library whose dialect it is */
	bool idle_norm_before_gate, idle_rms_norm;
};

/* Errors: EINVAL (a key is missing, of a wrong type, out of bounds, or given in two spellings). */
enum m2_err m2_config_read_keys(struct json_object *config, enum m2_dialect dialect,
	struct m2_said *said, struct m2_why *why);

#endif
