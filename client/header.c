/* header.c - fields into JSON, by the table of common/fields.def.
 *
 * A float is written with as few digits as give the same float back, because 0.01f written as the double
 * it is (0.00999999977...) would lie outside a range that begins at 0.01.  No function here looks at
 * the locale: the host program may have set one whose decimal sign is a comma.
 */
#include "client/header.h"

#include <json-c/json.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/mamba2.h"
#include "common/utf8.h"

void m2_header_begin(struct m2_header *h, enum m2_op op)
{
	*h = (struct m2_header){.object = json_object_new_object()};
	if (h->object == NULL)
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	m2_header_int(h, "v", M2_WIRE_VERSION);
	m2_header_text(h, "op", m2_op_name(op));
}

/* Give `value` to the object; a NULL value is a failed allocation. */
static void add(struct m2_header *h, const char *field, struct json_object *value)
{
	if (value == NULL || json_object_object_add(h->object, field, value) != 0) {
		json_object_put(value);
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	}
}

static bool in_range(struct m2_header *h, const char *field, double value)
{
	const struct m2_field *f = m2_wire_field(field);
	if (h->err != M2_OK)
		return false;
	if (!(value >= f->min && value <= f->max)) /* NaN fails too */
		h->err = m2_fail_field(M2_EINVAL, &h->why, field,
			"%s is %.9g, outside %.16g..%.16g", field, value, f->min, f->max);
	return h->err == M2_OK;
}

static bool few_enough(struct m2_header *h, const char *field, size_t count, size_t most)
{
	if (h->err == M2_OK && count > most)
		h->err = m2_fail_field(M2_ELIMIT, &h->why, field,
			"%s has %zu entries, the limit is %zu", field, count, most);
	return h->err == M2_OK;
}

void m2_header_int(struct m2_header *h, const char *field, int64_t value)
{
	if (in_range(h, field, (double)value))
		add(h, field, json_object_new_int64(value));
}

static struct json_object *shortest_float(float value)
{
	char text[32] = "";
	const locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
	if (plain == (locale_t)0)
		return NULL;
	const locale_t before = uselocale(plain);
	for (int digits = 6; digits <= 9; digits++) {
		(void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
		if (strtof(text, NULL) == value)
			break;
	}
	const double nearest = strtod(text, NULL);
	(void)uselocale(before);
	freelocale(plain);
	return json_object_new_double_s(nearest, text);
}

void m2_header_float(struct m2_header *h, const char *field, float value)
{
	if (h->err != M2_OK)
		return;
	struct json_object *number = shortest_float(value);
	if (number == NULL)
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	else if (in_range(h, field, json_object_get_double(number)))
		add(h, field, number);
	else
		json_object_put(number);
}

void m2_header_true(struct m2_header *h, const char *field, bool value)
{
	if (h->err == M2_OK && value)
		add(h, field, json_object_new_boolean(1));
}

/* A checked JSON string; NULL with h->err set when it is not one. */
static struct json_object *string_of(struct m2_header *h, const char *field, const char *text)
{
	const struct m2_field *f = m2_wire_field(field);
	if (text == NULL) {
		h->err = m2_fail_field(M2_EINVAL, &h->why, field, "%s is missing", field);
		return NULL;
	}
	const size_t bytes = strlen(text);
	if ((double)bytes < f->min || (double)bytes > f->max)
		h->err = m2_fail_field(M2_EINVAL, &h->why, field,
			"%s has %zu bytes, outside %.0f..%.0f", field, bytes, f->min, f->max);
	else if (!m2_utf8_valid(text, bytes))
		h->err = m2_fail_field(M2_EINVAL, &h->why, field, "%s is not UTF-8", field);
	if (h->err != M2_OK)
		return NULL;
	struct json_object *value = json_object_new_string_len(text, (int)bytes);
	if (value == NULL)
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	return value;
}

void m2_header_text(struct m2_header *h, const char *field, const char *text)
{
	if (h->err != M2_OK)
		return;
	struct json_object *value = string_of(h, field, text);
	if (value != NULL)
		add(h, field, value);
}

void m2_header_form(struct m2_header *h, int form)
{
	static const char *const words[] = {[MAMBA2_FORM_TEXT] = "text",
		[MAMBA2_FORM_CHAT] = "chat",
		[MAMBA2_FORM_FILL] = "fill"};
	if (form >= 0 && form < (int)(sizeof words / sizeof words[0]))
		m2_header_text(h, "input", words[form]);
	else if (h->err == M2_OK)
		h->err = m2_fail_field(
			M2_EINVAL, &h->why, "form", "%d is no form of a prompt", form);
}

/* Put into an array; as add(). */
static void append(struct m2_header *h, struct json_object *array, struct json_object *value)
{
	if (value == NULL || json_object_array_add(array, value) != 0) {
		json_object_put(value);
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	}
}

static struct json_object *new_array(struct m2_header *h)
{
	struct json_object *array = json_object_new_array();
	if (array == NULL)
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
	return array;
}

/* An array that is complete joins the object; one that is not is dropped. */
static void close_array(struct m2_header *h, const char *field, struct json_object *array)
{
	if (h->err == M2_OK)
		add(h, field, array);
	else
		json_object_put(array);
}

void m2_header_ints(
	struct m2_header *h, const char *field, const int32_t *values, size_t count, size_t most)
{
	if (!few_enough(h, field, count, most))
		return;
	struct json_object *array = new_array(h);
	for (size_t i = 0; i < count && in_range(h, field, values[i]); i++)
		append(h, array, json_object_new_int(values[i]));
	close_array(h, field, array);
}

void m2_header_texts(
	struct m2_header *h, const char *field, const char *const *texts, size_t count, size_t most)
{
	if (!few_enough(h, field, count, most))
		return;
	struct json_object *array = new_array(h);
	for (size_t i = 0; i < count && h->err == M2_OK; i++) {
		struct json_object *text = string_of(h, field, texts[i]);
		if (text != NULL)
			append(h, array, text);
	}
	close_array(h, field, array);
}

void m2_header_pairs(struct m2_header *h, const char *field, const struct mamba2_logit_bias *pairs,
	size_t count, size_t most)
{
	if (!few_enough(h, field, count, most))
		return;
	struct json_object *array = new_array(h);
	for (size_t i = 0; i < count && in_range(h, field, (double)pairs[i].bias); i++) {
		struct json_object *pair = new_array(h);
		if (pair == NULL)
			break;
		append(h, pair, json_object_new_int(pairs[i].id));
		append(h, pair, shortest_float(pairs[i].bias));
		append(h, array, pair);
	}
	close_array(h, field, array);
}

static enum m2_err copy_text(struct m2_header *h, char **text, size_t *bytes)
{
	size_t length = 0;
	const char *json = json_object_to_json_string_length(
		h->object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
	if (json == NULL)
		return m2_fail(M2_ENOMEM, &h->why, "out of memory");
	if (length > M2_LIMIT_HEADER_BYTES)
		return m2_fail(M2_ELIMIT, &h->why,
			"the request's header has %zu bytes, the limit is %d", length,
			M2_LIMIT_HEADER_BYTES);
	*text = malloc(length + 1);
	if (*text == NULL)
		return m2_fail(M2_ENOMEM, &h->why, "out of memory");
	memcpy(*text, json, length + 1);
	*bytes = length;
	return M2_OK;
}

enum m2_err m2_header_end(struct m2_header *h, uint64_t id, const char *key, char **text,
	size_t *bytes, struct m2_why *why)
{
	m2_header_int(h, "id", (int64_t)id);
	m2_header_text(h, "key", key);
	if (h->err == M2_OK)
		h->err = copy_text(h, text, bytes);
	if (why != NULL && h->err != M2_OK)
		*why = h->why;
	json_object_put(h->object);
	h->object = NULL;
	return h->err;
}
