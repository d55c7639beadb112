/* yaml_print.c - records back into YAML, and the references generated from a table.
 *
 * What is printed is always read back to the same value: floats take the shortest digits that do,
 * text is quoted unless it consists of harmless characters.  A value is at its default when it
 * prints as the table's default does, so that there is no second copy of the defaults.
 */
#include "registry/yaml_table.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "registry/variant.h"
#include "registry/yaml_value.h"

/* ---- printing ---------------------------------------------------------------------------------- */

/* Text that no YAML reader takes for anything else stays plain. */
static bool plain_is_safe(const char *text)
{
	static const char harmless[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		"_./-";
	const bool letter =
		(text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z');
	return (letter || text[0] == '/') && text[strspn(text, harmless)] == '\0' &&
	       m2_yaml_kind(text, strlen(text)) == M2_YAML_TEXT;
}

static void print_text(FILE *out, const char *text)
{
	if (plain_is_safe(text)) {
		(void)fputs(text, out);
		return;
	}
	(void)fputc('"', out);
	const size_t length = strlen(text);
	for (size_t i = 0; i < length;) {
		uint32_t code = 0;
		const int n = m2_utf8_decode((const unsigned char *)text + i, length - i, &code);
		if (n <= 0)
			break; /* a record holds valid UTF-8 only */
		if (code == '"' || code == '\\')
			(void)fprintf(out, "\\%c", (int)code);
		else if (code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 ||
			 code == 0x2029 || code == 0xfeff || code == 0xfffe || code == 0xffff)
			(void)fprintf(
				out, "\\u%04x", (unsigned)code); /* no reader takes these raw */
		else
			(void)fwrite(text + i, 1, (size_t)n, out);
		i += (size_t)n;
	}
	(void)fputc('"', out);
}

static void print_float(FILE *out, float value)
{
	char text[32];
	for (int digits = 6; digits <= 9; digits++) {
		(void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
		if (strtof(text, NULL) == value)
			break;
	}
	(void)fputs(text, out);
}

static int64_t load_integer(const struct m2_key *key, const void *at)
{
	int64_t n;
	int32_t narrow;
	if (key->size == sizeof n) {
		memcpy(&n, at, sizeof n);
		return n;
	}
	memcpy(&narrow, at, sizeof narrow);
	return narrow;
}

/* With the largest unit that divides it, so that 300 seconds read "5m". */
static void print_unit(FILE *out, int64_t n, const struct m2_yaml_units *units)
{
	int best = units->required ? 0 : -1;
	for (int i = 0; i < 4; i++)
		if (n != 0 && n % units->factors[i] == 0)
			best = i;
	if (best < 0)
		(void)fprintf(out, "%" PRId64, n);
	else
		(void)fprintf(out, "%" PRId64 "%c", n / units->factors[best], units->letters[best]);
}

static bool print_word(FILE *out, const struct m2_key *key, int64_t value)
{
	for (const struct m2_word *w = key->words; w != NULL && w->text != NULL; w++)
		if (w->value == value) {
			print_text(out, w->text);
			return true;
		}
	return false;
}

static char *render(const struct m2_key *key, const void *record);

/* One entry of a list of mappings: what is required, and what is not at its default. */
static void print_record(FILE *out, const struct m2_yaml_table *table, const void *record)
{
	const char *join = "{";
	for (int i = 0; i < table->count; i++) {
		const struct m2_key *key = &table->keys[i];
		char *value = render(key, record);
		if (value != NULL && (key->required || strcmp(value, key->fallback) != 0)) {
			(void)fprintf(out, "%s%s: %s", join, key->path, value);
			join = ", ";
		}
		free(value);
	}
	(void)fputc('}', out);
}

static void print_value(FILE *out, const struct m2_key *key, const void *record, const void *at)
{
	char text[64];
	float f;
	bool b;
	switch (key->type) {
	case M2_KEY_STRING:
	case M2_KEY_NAME:
	case M2_KEY_ID:
	case M2_KEY_PATH:
		print_text(out, at);
		break;
	case M2_KEY_BOOL:
		memcpy(&b, at, sizeof b);
		(void)fputs(b ? "true" : "false", out);
		break;
	case M2_KEY_INT:
	case M2_KEY_BYTES:
	case M2_KEY_DURATION: {
		const int64_t n = load_integer(key, at);
		if (print_word(out, key, n))
			break;
		if (key->type == M2_KEY_INT)
			(void)fprintf(out, "%" PRId64, n);
		else if (key->type == M2_KEY_BYTES)
			print_unit(out, n, &m2_yaml_byte_units);
		else
			print_unit(out, n, &m2_yaml_time_units);
		break;
	}
	case M2_KEY_FLOAT:
		memcpy(&f, at, sizeof f);
		print_float(out, f);
		break;
	case M2_KEY_WORD:
		if (key->as_string)
			print_text(out, at);
		else
			(void)print_word(out, key, load_integer(key, at));
		break;
	case M2_KEY_HOOK:
		key->hook->print(record, text, sizeof text);
		(void)fputs(text, out);
		break;
	case M2_KEY_RECORD:
		print_record(out, key->entries, at);
		break;
	}
}

/* ---- forms ------------------------------------------------------------------------------------- */

static void append(char *out, size_t size, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void append(char *out, size_t size, const char *fmt, ...)
{
	const size_t used = strlen(out);
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(out + used, size - used, fmt, args);
	va_end(args);
}

static void append_words(char *out, size_t size, const struct m2_key *key, bool first)
{
	for (const struct m2_word *w = key->words; w != NULL && w->text != NULL; w++) {
		const char *join = first ? "" : w[1].text == NULL ? " or " : ", ";
		append(out, size, "%s%s", join, w->text[0] == '\0' ? "\"\"" : w->text);
		first = false;
	}
}

static void append_amount(char *out, size_t size, const struct m2_key *key, double amount)
{
	char *text = NULL;
	size_t length;
	FILE *f = open_memstream(&text, &length);
	if (f != NULL) {
		if (key->type == M2_KEY_BYTES)
			print_unit(f, (int64_t)amount, &m2_yaml_byte_units);
		else
			print_unit(f, (int64_t)amount, &m2_yaml_time_units);
		(void)fclose(f);
	}
	append(out, size, "%s", text != NULL ? text : "?");
	free(text);
}

void m2_yaml_value_form(char *out, size_t size, const struct m2_key *key)
{
	out[0] = '\0';
	switch (key->type) {
	case M2_KEY_STRING:
		append(out, size, "text of at most %zu bytes", key->size - 1);
		break;
	case M2_KEY_PATH:
		append(out, size, "a path");
		break;
	case M2_KEY_NAME:
		append(out, size, "a name (%s)", M2_NAME_PATTERN);
		break;
	case M2_KEY_ID:
		append(out, size, "a name or a numeric id of at most %zu bytes", key->size - 1);
		break;
	case M2_KEY_BOOL:
		append(out, size, "true or false");
		break;
	case M2_KEY_INT:
	case M2_KEY_FLOAT:
		append(out, size, "%s, %.10g..%.10g",
			key->type == M2_KEY_INT ? "an integer" : "a number", key->min, key->max);
		break;
	case M2_KEY_BYTES:
	case M2_KEY_DURATION:
		append(out, size, "%s, ",
			key->type == M2_KEY_BYTES ? "bytes (K, M, G, T: powers of 1024)"
						  : "a time (30s, 5m, 2h, 1d)");
		append_amount(out, size, key, key->min);
		append(out, size, "..");
		append_amount(out, size, key, key->max);
		break;
	case M2_KEY_WORD:
		break;
	case M2_KEY_HOOK:
		append(out, size, "%s", key->hook->form);
		break;
	case M2_KEY_RECORD:
		append(out, size, "a mapping of ");
		for (int i = 0; i < key->entries->count; i++)
			append(out, size, "%s%s", i == 0 ? "" : ", ", key->entries->keys[i].path);
		break;
	}
	if (key->max_items == 0) /* the words of a list stand instead of it */
		append_words(out, size, key, key->type == M2_KEY_WORD);
}

/* ---- tables ------------------------------------------------------------------------------------ */

static void print_list(FILE *out, const struct m2_key *key, const char *record)
{
	int32_t count;
	memcpy(&count, record + key->count_offset, sizeof count);
	if (count < 0) {
		(void)print_word(out, key, count);
		return;
	}
	(void)fputc('[', out);
	for (int32_t i = 0; i < count; i++) {
		if (i > 0)
			(void)fputs(", ", out);
		print_value(out, key, record, record + key->offset + (size_t)i * key->size);
	}
	(void)fputc(']', out);
}

/* The value as it stands in a file: malloc'd, NULL without memory. */
static char *render(const struct m2_key *key, const void *record)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	if (out == NULL)
		return NULL;
	if (key->max_items > 0)
		print_list(out, key, record);
	else
		print_value(out, key, record, (const char *)record + key->offset);
	const bool failed = ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}

/* "defaults" of "defaults.top_p" is its first bytes; 0 for a key without a section. */
static size_t section_length(const struct m2_key *key)
{
	const char *dot = strchr(key->path, '.');
	return dot == NULL ? 0 : (size_t)(dot - key->path);
}

static bool same_section(const struct m2_key *a, const struct m2_key *b)
{
	const size_t n = section_length(a);
	return b != NULL && n == section_length(b) && memcmp(a->path, b->path, n) == 0;
}

/* The key's line, after its section's where that changes.  mark: "" or "#". */
static void print_key(FILE *out, const struct m2_key *key, const char *value, const char *mark)
{
	const size_t section = section_length(key);
	if (section == 0)
		(void)fprintf(out, "%s%s: %s\n", mark, key->path, value);
	else
		(void)fprintf(out, "%s  %s: %s\n", mark, key->path + section + 1, value);
}

char *m2_yaml_table_print(const struct m2_yaml_table *table, const void *record, bool all)
{
	char *text = NULL;
	size_t length;
	const struct m2_key *last = NULL; /* printed */
	FILE *out = open_memstream(&text, &length);
	if (out == NULL)
		return NULL;
	bool failed = false;
	for (int i = 0; i < table->count && !failed; i++) {
		const struct m2_key *key = &table->keys[i];
		char *value = render(key, record);
		failed = value == NULL;
		if (!failed && (all || key->required || strcmp(value, key->fallback) != 0)) {
			if (section_length(key) > 0 && !same_section(key, last))
				(void)fprintf(out, "%.*s:\n", (int)section_length(key), key->path);
			print_key(out, key, value, "");
			last = key;
		}
		free(value);
	}
	failed = failed || ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}

/* text in comment lines of at most 100 columns. */
static void print_wrapped(FILE *out, const char *indent, const char *text)
{
	const size_t width = 100 - strlen(indent) - 2;
	while (*text != '\0') {
		size_t n = strlen(text);
		if (n > width) {
			n = width;
			while (n > 0 && text[n] != ' ')
				n--;
			if (n == 0)
				n = strcspn(text, " ");
		}
		(void)fprintf(out, "%s# %.*s\n", indent, (int)n, text);
		text += n;
		text += strspn(text, " ");
	}
}

static void print_doc(FILE *out, const struct m2_key *key, const char *indent)
{
	char form[256];
	char line[512];
	m2_yaml_value_form(form, sizeof form, key);
	print_wrapped(out, indent, key->doc);
	line[0] = '\0';
	if (key->max_items > 0) {
		append(line, sizeof line, "A list of at most %d, each %s", key->max_items, form);
		for (const struct m2_word *w = key->words; w != NULL && w->text != NULL; w++)
			append(line, sizeof line, "; or %s", w->text);
	} else {
		append(line, sizeof line, "Takes %s", form);
	}
	append(line, sizeof line, key->required ? ". Required." : ".");
	print_wrapped(out, indent, line);
}

char *m2_yaml_table_reference(const struct m2_yaml_table *table, const char *head, bool commented)
{
	char *text = NULL;
	size_t length;
	const char *mark = commented ? "#" : "";
	FILE *out = open_memstream(&text, &length);
	if (out == NULL)
		return NULL;
	(void)fputs(head, out);
	for (int i = 0; i < table->count; i++) {
		const struct m2_key *key = &table->keys[i];
		const bool nested = section_length(key) > 0;
		(void)fputc('\n', out);
		if (nested && (i == 0 || !same_section(key, key - 1)))
			(void)fprintf(out, "%s%.*s:\n", mark, (int)section_length(key), key->path);
		print_doc(out, key, nested && !commented ? "  " : "");
		print_key(out, key, key->fallback, mark);
	}
	const bool failed = ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}
