/* gate_check.h - one value of a request's header against its row of common/fields.def.
 * Threads: any.  Nothing blocks. */
#ifndef M2_DAEMON_GATE_CHECK_H
#define M2_DAEMON_GATE_CHECK_H

#include <json-c/json.h>

#include "common/err.h"
#include "common/wire.h"

/* Type, range, length, entries.  EINVAL or, for too many entries, ELIMIT; both name the field. */
enum m2_err m2_gate_check_value(
	const struct m2_field *field, struct json_object *value, struct m2_why *why);

#endif
