/* wire.c - the tables of ops.def and fields.def, and look-ups in them. */
#include "common/wire.h"

#include <stddef.h>
#include <string.h>

static const struct {
	const char *name;
	enum m2_endpoint endpoint;
} ops[M2_OP_COUNT] = {
	[M2_OP_NONE] = {"", M2_ENDPOINT_CONTROL},
#define M2_OP(name, text, where, doc) [M2_OP_##name] = {text, M2_ENDPOINT_##where},
#include "common/ops.def"
#undef M2_OP
};

const char *m2_op_name(enum m2_op op)
{
	return (unsigned)op < M2_OP_COUNT ? ops[op].name : "";
}

enum m2_op m2_op_from_name(const char *name)
{
	for (int i = 1; i < M2_OP_COUNT; i++)
		if (strcmp(ops[i].name, name) == 0)
			return (enum m2_op)i;
	return M2_OP_NONE;
}

enum m2_endpoint m2_op_endpoint(enum m2_op op)
{
	return (unsigned)op < M2_OP_COUNT ? ops[op].endpoint : M2_ENDPOINT_CONTROL;
}

#define ALL UINT32_MAX
static const struct m2_field fields[] = {
#define M2_FIELD(name, type, min, max, ops, doc) {#name, M2_FIELD_##type, min, max, ops, doc},
#include "common/fields.def"
#undef M2_FIELD
};

const struct m2_field *m2_wire_fields(int *count)
{
	*count = (int)(sizeof fields / sizeof fields[0]);
	return fields;
}

const struct m2_field *m2_wire_field(const char *name)
{
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
		if (strcmp(fields[i].name, name) == 0)
			return &fields[i];
	return NULL;
}
