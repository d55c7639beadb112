/* dialect.h - which family a config.json is of, and which families are refused by name.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_DIALECT_H
#define M2_MODEL_DIALECT_H

#include <json-c/json.h>

#include "model/config.h"

/* Decide from the keys that are there (semantics report, 1.5).  Errors: EUNSUPPORTED for a family that
 * is understood and not run, EINVAL for a file that contradicts itself or is none of ours. */
enum m2_err m2_dialect_detect(struct json_object *config, enum m2_dialect *out, struct m2_why *why);

#endif
