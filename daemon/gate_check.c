/* gate_check.c - see gate_check.h.
 *
 * common/json.h's getters are laxer than the wire: they take "inf" and {"__float__": ...}, which checkpoints
 * contain.  Here a number is a JSON number and nothing else.
 */
#include "daemon/gate_check.h"

#include <string.h>

#include "common/json.h"
#include "registry/variant.h"

static enum m2_err wrong_type(const struct m2_field *f, const char *wanted, struct m2_why *why)
{
	return m2_fail_field(M2_EINVAL, why, f->name, "%s is not %s", f->name, wanted);
}

static enum m2_err check_number(
	const struct m2_field *f, struct json_object *value, struct m2_why *why)
{
	double d;
	int64_t n;
	const bool numeric = json_object_is_type(value, json_type_int) ||
			     json_object_is_type(value, json_type_double);
	if (f->type == M2_FIELD_INT || f->type == M2_FIELD_INTS) {
		if (!numeric || !m2_json_as_int(value, &n))
			return wrong_type(f, "an integer", why);
		d = (double)n;
	} else {
		if (!numeric || !m2_json_as_double(value, &d))
			return wrong_type(f, "a number", why);
	}
	if (!(d >= f->min && d <= f->max)) /* NaN too */
		return m2_fail_field(M2_EINVAL, why, f->name, "%s is %.16g, outside %.16g..%.16g",
			f->name, d, f->min, f->max);
	return M2_OK;
}

static enum m2_err check_string(
	const struct m2_field *f, struct json_object *value, struct m2_why *why)
{
	if (!json_object_is_type(value, json_type_string))
		return wrong_type(f, "a string", why);
	const char *text = json_object_get_string(value);
	const size_t length = (size_t)json_object_get_string_len(value);
	if (memchr(text, '\0', length) != NULL)
		return wrong_type(f, "free of NUL characters", why);
	if ((double)length < f->min || (double)length > f->max)
		return m2_fail_field(M2_EINVAL, why, f->name, "%s has %zu bytes, outside %g..%g",
			f->name, length, f->min, f->max);
	if (f->type == M2_FIELD_NAME && !m2_variant_name_valid(text))
		return m2_fail_field(M2_EINVAL, why, f->name,
			"%s is no name: lower-case letters, digits, '.', '_' and '-' only",
			f->name);
	return M2_OK;
}

static enum m2_err check_pair(
	const struct m2_field *f, struct json_object *pair, struct m2_why *why)
{
	int64_t id;
	if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2)
		return wrong_type(f, "an array of [id, number]", why);
	if (!json_object_is_type(json_object_array_get_idx(pair, 0), json_type_int) ||
		!m2_json_as_int(json_object_array_get_idx(pair, 0), &id) || id < 0 || id > 16777215)
		return m2_fail_field(
			M2_EINVAL, why, f->name, "%s holds an id that is no token", f->name);
	return check_number(f, json_object_array_get_idx(pair, 1), why);
}

static enum m2_err check_array(
	const struct m2_field *f, struct json_object *value, size_t max_items, struct m2_why *why)
{
	if (!json_object_is_type(value, json_type_array))
		return wrong_type(f, "an array", why);
	const size_t count = json_object_array_length(value);
	if (count > max_items)
		return m2_fail_field(M2_ELIMIT, why, f->name, "%s has %zu entries, more than %zu",
			f->name, count, max_items);
	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(value, i);
		const enum m2_err err = f->type == M2_FIELD_INTS      ? check_number(f, item, why)
					: f->type == M2_FIELD_STRINGS ? check_string(f, item, why)
								      : check_pair(f, item, why);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

enum m2_err m2_gate_check_value(
	const struct m2_field *f, struct json_object *value, struct m2_why *why)
{
	switch (f->type) {
	case M2_FIELD_INT:
	case M2_FIELD_FLOAT:
		return check_number(f, value, why);
	case M2_FIELD_BOOL:
		return json_object_is_type(value, json_type_boolean)
			       ? M2_OK
			       : wrong_type(f, "true or false", why);
	case M2_FIELD_STRING:
	case M2_FIELD_NAME:
		return check_string(f, value, why);
	case M2_FIELD_INTS:
		return check_array(f, value, M2_LIMIT_STOP_TOKENS, why);
	case M2_FIELD_STRINGS:
		return check_array(f, value, M2_LIMIT_STOP_STRINGS, why);
	case M2_FIELD_PAIRS:
		return check_array(f, value, M2_LIMIT_LOGIT_BIAS, why);
	}
	return wrong_type(f, "of a known type", why);
}
