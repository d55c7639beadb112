/* wire.h - names and numbers of the ZeroMQ messages between clients and the daemon.
 *
 * The prose, with examples byte by byte, is common/PROTOCOL.md.  In short: a client's DEALER socket
 * connects to ipc://RUNTIME/client.sock (or control.sock) and sends messages of one or two frames: a
 * JSON header (fields.def) and, for some requests, a payload.  Answers have the same form; each
 * carries the request's "id" and "key" and an "event".  Any number of requests may be under way.
 *
 *   event       after                          carries
 *   accepted    generate, score                request, segment (absolute path; absent with messages), bytes
 *   tokens      generate with messages         request, sequence, first, tokens[], text, logprobs[]
 *   progress    load, verify                   done, total (bytes), what
 *   finished    generate, score: the last one  request, sequences[], timings
 *   result      everything else: the last one  per request; tokenize: payload int32[]; detokenize: payload text
 *   error       any: the last one              error {code, number, field, message}
 */
#ifndef M2_COMMON_WIRE_H
#define M2_COMMON_WIRE_H

#include <stdint.h>

#include "common/limits.h"

#define M2_WIRE_VERSION 1

enum m2_op {
	M2_OP_NONE = 0,
#define M2_OP(name, text, endpoint, doc) M2_OP_##name,
#include "common/ops.def"
#undef M2_OP
	M2_OP_COUNT
};

#define M2_OP_BIT(name) (UINT32_C(1) << M2_OP_##name)

enum m2_endpoint { M2_ENDPOINT_CLIENT = 0, M2_ENDPOINT_CONTROL = 1 };

#define M2_SOCKET_CLIENT  "client.sock"
#define M2_SOCKET_CONTROL "control.sock"

const char *m2_op_name(enum m2_op op);        /* "" for an unknown number */
enum m2_op m2_op_from_name(const char *name); /* M2_OP_NONE if there is no such */
enum m2_endpoint m2_op_endpoint(enum m2_op op);

enum m2_field_type {
	M2_FIELD_INT,
	M2_FIELD_FLOAT,
	M2_FIELD_BOOL,
	M2_FIELD_STRING,
	M2_FIELD_NAME,
	M2_FIELD_INTS,
	M2_FIELD_STRINGS,
	M2_FIELD_PAIRS
};

struct m2_field {
	const char *name;
	enum m2_field_type type;
	double min;
	double max;
	uint32_t ops; /* bit per enum m2_op */
	const char *doc;
};

/* The table of fields.def. */
const struct m2_field *m2_wire_fields(int *count);

/* The range of one field, for code that checks values from elsewhere (variant files, the client). */
const struct m2_field *m2_wire_field(const char *name);

#endif
