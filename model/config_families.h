/* config_families.h - the relatives of Mamba-2, refused by their names.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_CONFIG_FAMILIES_H
#define M2_MODEL_CONFIG_FAMILIES_H

#include <json-c/json.h>

#include "common/err.h"

/* The value under key; NULL when absent or null. */
struct json_object *m2_config_get(struct json_object *config, const char *key);
/* The string under key, or NULL. */
const char *m2_config_string(struct json_object *config, const char *key);

/* A model_type that is a relative's own, other than "mamba" (which copies of mamba_ssm's files carry
 * too).  The sentence names the family and, if the file has it, the key that makes the difference. */
enum m2_err m2_config_refuse_family(struct json_object *config, struct m2_why *why);

/* A key that only relatives and quantised files have, whatever the model_type. */
enum m2_err m2_config_refuse_tells(struct json_object *config, struct m2_why *why);

/* ssm_cfg.layer of mamba_ssm; absent means Mamba1. */
enum m2_err m2_config_refuse_layer(struct json_object *ssm_cfg, struct m2_why *why);

/* What is left: a model_type that is none of ours, or none at all. */
enum m2_err m2_config_refuse_model_type(struct json_object *config, struct m2_why *why);

#endif
