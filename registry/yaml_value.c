/* yaml_value.c - scalars into typed fields.
 *
 * Strict where YAML is famous for surprises: a plain 010 (8 or 10?), yes/no, 0x10 and 1_000 are not
 * numbers or booleans here, a number where text is wanted must be quoted, and "~/x" is not a path.
 */
#include "registry/yaml_value.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "registry/variant.h"

/* ---- kinds of plain scalars -------------------------------------------------------------------- */

static const char *skip_digits(const char *p)
{
	while (*p >= '0' && *p <= '9')
		p++;
	return p;
}

static enum m2_yaml_kind number_kind(const char *p)
{
	if (*p == '-' || *p == '+')
		p++;
	if (strcmp(p, ".inf") == 0 || strcmp(p, ".nan") == 0)
		return M2_YAML_NUMBER;
	if (p[0] == '0' && (p[1] == 'x' || p[1] == 'o') && p[2] != '\0')
		return M2_YAML_INT; /* refused as one, but not taken for text either */
	const char *end = skip_digits(p);
	size_t digits = (size_t)(end - p);
	enum m2_yaml_kind kind = M2_YAML_INT;
	if (*end == '.') {
		kind = M2_YAML_NUMBER;
		p = end + 1;
		end = skip_digits(p);
		digits += (size_t)(end - p);
	}
	if (digits == 0)
		return M2_YAML_TEXT;
	if (*end == 'e' || *end == 'E') {
		kind = M2_YAML_NUMBER;
		p = end + 1;
		if (*p == '-' || *p == '+')
			p++;
		end = skip_digits(p);
		if (end == p)
			return M2_YAML_TEXT;
	}
	return *end == '\0' ? kind : M2_YAML_TEXT;
}

enum m2_yaml_kind m2_yaml_kind(const char *text, size_t length)
{
	static const struct {
		const char *text;
		enum m2_yaml_kind kind;
	} fixed[] = {
		{"", M2_YAML_NULL},
		{"~", M2_YAML_NULL},
		{"null", M2_YAML_NULL},
		{"Null", M2_YAML_NULL},
		{"NULL", M2_YAML_NULL},
		{"true", M2_YAML_TRUE},
		{"True", M2_YAML_TRUE},
		{"TRUE", M2_YAML_TRUE},
		{"false", M2_YAML_FALSE},
		{"False", M2_YAML_FALSE},
		{"FALSE", M2_YAML_FALSE},
	};
	if (strlen(text) != length)
		return M2_YAML_TEXT;
	for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
		if (strcmp(text, fixed[i].text) == 0)
			return fixed[i].kind;
	return number_kind(text);
}

/* ---- reasons ----------------------------------------------------------------------------------- */

static bool refuse(struct m2_yaml_reason *reason, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static bool refuse(struct m2_yaml_reason *reason, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(reason->text, sizeof reason->text, fmt, args);
	va_end(args);
	return false;
}

/* "wants an integer, 1..4096, not the string "5"": every wrong type and every wrong range. */
static bool unwanted(const struct m2_key *key, const struct m2_yaml_scalar *scalar,
	struct m2_yaml_reason *reason)
{
	char form[160];
	m2_yaml_value_form(form, sizeof form, key);
	size_t shown = strnlen(scalar->text, scalar->length);
	const char *more = "";
	if (shown > 40) {
		shown = 40;
		more = "...";
		/* do not cut a character in two */
		while (shown > 0 && ((unsigned char)scalar->text[shown] & 0xc0) == 0x80)
			shown--;
	}
	if (scalar->plain)
		return refuse(reason, "wants %s, not %.*s%s", form, (int)shown, scalar->text, more);
	return refuse(reason, "wants %s, not the string \"%.*s%s\"", form, (int)shown, scalar->text,
		more);
}

/* ---- numbers ----------------------------------------------------------------------------------- */

/* Decimal digits with an optional minus, no leading zeros, the rest of the text at *end. */
static bool read_int(const char *text, int64_t *out, const char **end)
{
	const char *digits = text + (*text == '-');
	const char *stop = skip_digits(digits);
	if (stop == digits || (digits[0] == '0' && stop - digits > 1))
		return false;
	errno = 0;
	const long long n = strtoll(text, NULL, 10);
	if (errno != 0)
		return false;
	*out = n;
	*end = stop;
	return true;
}

const struct m2_yaml_units m2_yaml_byte_units = {
	"KMGT", {INT64_C(1) << 10, INT64_C(1) << 20, INT64_C(1) << 30, INT64_C(1) << 40}, false};
const struct m2_yaml_units m2_yaml_time_units = {"smhd", {1, 60, 3600, 86400}, true};

static bool read_unit(const char *text, const struct m2_yaml_units *units, int64_t *out)
{
	const char *end;
	int64_t n;
	if (!read_int(text, &n, &end))
		return false;
	if (*end == '\0') {
		*out = n;
		return !units->required;
	}
	const char *unit = strchr(units->letters, *end);
	return unit != NULL && end[1] == '\0' &&
	       !__builtin_mul_overflow(n, units->factors[unit - units->letters], out);
}

static bool parse_integer(const struct m2_key *key, const struct m2_yaml_scalar *scalar, int64_t *n)
{
	const char *end;
	if (!scalar->plain || strlen(scalar->text) != scalar->length)
		return false;
	switch (key->type) {
	case M2_KEY_INT:
		return m2_yaml_kind(scalar->text, scalar->length) == M2_YAML_INT &&
		       read_int(scalar->text, n, &end) && *end == '\0';
	case M2_KEY_BYTES:
		return read_unit(scalar->text, &m2_yaml_byte_units, n);
	case M2_KEY_DURATION:
		return read_unit(scalar->text, &m2_yaml_time_units, n);
	default:
		return false;
	}
}

static void store_integer(const struct m2_key *key, int64_t n, void *at)
{
	const int32_t narrow = (int32_t)n;
	assert(key->size == sizeof n || (key->size == sizeof narrow && narrow == n));
	memcpy(at, key->size == sizeof n ? (const void *)&n : (const void *)&narrow, key->size);
}

static bool set_integer(const struct m2_key *key, const struct m2_yaml_scalar *scalar, void *at,
	struct m2_yaml_reason *reason)
{
	int32_t word;
	int64_t n;
	if (m2_yaml_word(key, scalar->text, &word)) {
		store_integer(key, word, at);
		return true;
	}
	if (!parse_integer(key, scalar, &n) || (double)n < key->min || (double)n > key->max)
		return unwanted(key, scalar, reason);
	store_integer(key, n, at);
	return true;
}

static bool set_float(const struct m2_key *key, const struct m2_yaml_scalar *scalar, void *at,
	struct m2_yaml_reason *reason)
{
	const enum m2_yaml_kind kind = m2_yaml_kind(scalar->text, scalar->length);
	if (!scalar->plain || (kind != M2_YAML_INT && kind != M2_YAML_NUMBER))
		return unwanted(key, scalar, reason);
	char *end;
	const double d = strtod(scalar->text, &end);
	/* hexadecimal passes strtod and not the kind's digits; NaN fails the comparison */
	if (*end != '\0' || strpbrk(scalar->text, "xX") != NULL ||
		!(d >= key->min && d <= key->max))
		return unwanted(key, scalar, reason);
	const float f = (float)d;
	memcpy(at, &f, sizeof f);
	return true;
}

static bool set_bool(const struct m2_key *key, const struct m2_yaml_scalar *scalar, void *at,
	struct m2_yaml_reason *reason)
{
	const enum m2_yaml_kind kind = m2_yaml_kind(scalar->text, scalar->length);
	if (!scalar->plain || (kind != M2_YAML_TRUE && kind != M2_YAML_FALSE))
		return unwanted(key, scalar, reason);
	const bool b = kind == M2_YAML_TRUE;
	memcpy(at, &b, sizeof b);
	return true;
}

/* ---- text -------------------------------------------------------------------------------------- */

/* One line, no control characters (a terminal or a log must not be driven by them), fitting. */
static bool check_text(
	const struct m2_key *key, const char *text, size_t length, struct m2_yaml_reason *reason)
{
	const unsigned char *p = (const unsigned char *)text;
	for (size_t i = 0; i < length;) {
		uint32_t code;
		const int n = m2_utf8_decode(p + i, length - i, &code);
		if (n <= 0)
			return refuse(reason, "is not valid UTF-8");
		if (code == '\n')
			return refuse(reason, "wants one line of text (a block needs >-)");
		if (code < 0x20 || (code >= 0x7f && code < 0xa0))
			return refuse(reason, "holds the control character U+%04X", (unsigned)code);
		i += (size_t)n;
	}
	if (length >= key->size)
		return refuse(reason, "has %zu bytes, more than %zu", length, key->size - 1);
	if ((double)length < key->min)
		return refuse(reason, "is empty");
	return true;
}

static bool set_text(const struct m2_key *key, const struct m2_yaml_scalar *scalar, void *at,
	struct m2_yaml_reason *reason)
{
	size_t length = scalar->length;
	while (scalar->block && length > 0 && scalar->text[length - 1] == '\n')
		length--;
	const enum m2_yaml_kind kind = m2_yaml_kind(scalar->text, scalar->length);
	const bool id = key->type == M2_KEY_ID;
	if (scalar->plain && kind != M2_YAML_TEXT && !(id && kind == M2_YAML_INT))
		return refuse(reason, "wants text; %.40s is %s unless it is quoted", scalar->text,
			kind >= M2_YAML_INT ? "a number" : "a truth value");
	if (!check_text(key, scalar->text, length, reason))
		return false;
	char *out = at;
	memset(out, 0, key->size);
	memcpy(out, scalar->text, length);
	if (key->type == M2_KEY_NAME && !m2_variant_name_valid(out))
		return unwanted(key, scalar, reason);
	if (id && strpbrk(out, ":, \t") != NULL)
		return unwanted(key, scalar, reason);
	return true;
}

static bool set_path(const struct m2_key *key, const struct m2_yaml_scalar *scalar,
	const char *base_dir, void *at, struct m2_yaml_reason *reason)
{
	int32_t word;
	char *out = at;
	if (!set_text(key, scalar, at, reason))
		return false;
	if (out[0] == '/' || m2_yaml_word(key, out, &word))
		return true;
	if (out[0] == '~')
		return refuse(reason, "~ is not expanded: write the path in full");
	if (base_dir == NULL || base_dir[0] != '/')
		return refuse(reason,
			"is a relative path, and no file's directory is known: write it in full");
	const char *rest = out;
	while (rest[0] == '.' && rest[1] == '/')
		for (rest += 2; *rest == '/';)
			rest++;
	if (strcmp(rest, ".") == 0)
		rest = "";
	size_t base = strlen(base_dir);
	while (base > 1 && base_dir[base - 1] == '/')
		base--;
	const size_t tail = strlen(rest);
	const bool slash = tail > 0 && base > 1;
	if (base + slash + tail >= key->size)
		return refuse(reason, "has %zu bytes with its directory, more than %zu",
			base + slash + tail, key->size - 1);
	memmove(out + base + slash, rest, tail);
	memset(out + base + slash + tail, 0, key->size - base - slash - tail);
	memcpy(out, base_dir, base);
	if (slash)
		out[base] = '/';
	return true;
}

/* ---- words and hooks --------------------------------------------------------------------------- */

bool m2_yaml_word(const struct m2_key *key, const char *text, int32_t *value)
{
	for (const struct m2_word *w = key->words; w != NULL && w->text != NULL; w++)
		if (strcmp(w->text, text) == 0) {
			*value = w->value;
			return true;
		}
	return false;
}

static bool set_word(const struct m2_key *key, const struct m2_yaml_scalar *scalar, void *at,
	struct m2_yaml_reason *reason)
{
	int32_t value;
	if (strlen(scalar->text) != scalar->length || !m2_yaml_word(key, scalar->text, &value))
		return unwanted(key, scalar, reason);
	if (key->as_string) {
		assert(scalar->length < key->size);
		memset(at, 0, key->size);
		memcpy(at, scalar->text, scalar->length);
	} else {
		assert(key->size == sizeof value);
		memcpy(at, &value, sizeof value);
	}
	return true;
}

bool m2_yaml_value_set(const struct m2_key *key, const struct m2_yaml_scalar *scalar,
	const char *base_dir, void *record, void *at, struct m2_yaml_reason *reason)
{
	if (scalar->plain && m2_yaml_kind(scalar->text, scalar->length) == M2_YAML_NULL)
		return refuse(reason, "has no value; leave it out to get the default");
	switch (key->type) {
	case M2_KEY_STRING:
	case M2_KEY_NAME:
	case M2_KEY_ID:
		return set_text(key, scalar, at, reason);
	case M2_KEY_PATH:
		return set_path(key, scalar, base_dir, at, reason);
	case M2_KEY_BOOL:
		return set_bool(key, scalar, at, reason);
	case M2_KEY_INT:
	case M2_KEY_BYTES:
	case M2_KEY_DURATION:
		return set_integer(key, scalar, at, reason);
	case M2_KEY_FLOAT:
		return set_float(key, scalar, at, reason);
	case M2_KEY_WORD:
		return set_word(key, scalar, at, reason);
	case M2_KEY_RECORD:
		break; /* not a scalar: yaml_table.c reads it */
	case M2_KEY_HOOK:
		return (strlen(scalar->text) == scalar->length &&
			       key->hook->parse(scalar->text, record)) ||
		       unwanted(key, scalar, reason);
	}
	assert(false);
	return false;
}
