/* yaml_table.c - a YAML document against a table of keys, on libyaml's event parser.
 *
 * Events rather than libyaml's document tree: they carry the place of every value, they show anchors
 * and tags before anything is built from them, and the first thing that is too deep or unknown ends
 * the reading, so a hostile file costs no more than its own length (which is limited).
 * libyaml would guess UTF-16 from a byte order mark and stop at a NUL; both are dealt with before it
 * sees the text.
 */
#include "registry/yaml_table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <yaml.h>

#include "common/utf8.h"
#include "registry/yaml_value.h"

struct reader {
	yaml_parser_t parser;
	yaml_event_t event; /* the current one */
	const struct m2_yaml_table *table;
	const char *source;
	const char *base_dir;
	char *record;
	bool seen[M2_YAML_MAX_KEYS];         /* the key */
	bool seen_section[M2_YAML_MAX_KEYS]; /* the section, at the index of its first key */
	struct m2_yaml_place places[M2_YAML_MAX_KEYS];
	struct m2_why *why;
};

/* ---- refusals ---------------------------------------------------------------------------------- */

/* The end of a long path: the sentence must have room for the reason. */
static const char *source_tail(const char *source)
{
	const size_t length = strlen(source);
	if (length <= 160)
		return source;
	const char *tail = source + length - 160;
	while (((unsigned char)*tail & 0xc0) == 0x80)
		tail++;
	return tail;
}

enum m2_err m2_yaml_refuse(struct m2_why *why, const char *source, struct m2_yaml_place place,
	const char *path, const char *fmt, ...)
{
	char reason[320];
	const char *tail = source_tail(source);
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(reason, sizeof reason, fmt, args);
	va_end(args);
	return m2_fail_field(M2_EINVAL, why, path, "%s%s:%d:%d: %s%s%s",
		tail != source ? "..." : "", tail, place.line, place.column, path,
		path[0] != '\0' ? ": " : "", reason);
}

static struct m2_yaml_place place_of(yaml_mark_t mark)
{
	return (struct m2_yaml_place){(int32_t)mark.line + 1, (int32_t)mark.column + 1};
}

#define REFUSE(r, path, ...)                                                                       \
	m2_yaml_refuse((r)->why, (r)->source, place_of((r)->event.start_mark), path, __VA_ARGS__)

/* Line and column of a byte: what precedes it is valid UTF-8. */
static struct m2_yaml_place place_of_byte(const char *text, size_t at)
{
	struct m2_yaml_place place = {1, 1};
	for (size_t i = 0; i < at; i++) {
		if (text[i] == '\n') {
			place.line++;
			place.column = 1;
		} else if (((unsigned char)text[i] & 0xc0) != 0x80) {
			place.column++;
		}
	}
	return place;
}

static enum m2_err not_yaml(
	struct m2_why *why, const char *source, struct m2_yaml_place place, const char *problem)
{
	(void)m2_yaml_refuse(why, source, place, "", "not YAML: %s", problem);
	return M2_EFORMAT;
}

static enum m2_err check_bytes(
	const char *text, size_t length, size_t max_bytes, const char *source, struct m2_why *why)
{
	if (length > max_bytes)
		return m2_fail(M2_ELIMIT, why, "%s: has %zu bytes, more than %zu",
			source_tail(source), length, max_bytes);
	for (size_t i = 0; i < length;) {
		uint32_t code;
		const int n = m2_utf8_decode((const unsigned char *)text + i, length - i, &code);
		if (n <= 0)
			return not_yaml(why, source, place_of_byte(text, i), "not valid UTF-8");
		if (code == 0)
			return not_yaml(why, source, place_of_byte(text, i), "a NUL byte");
		i += (size_t)n;
	}
	return M2_OK;
}

static enum m2_err parser_failed(struct reader *r)
{
	const yaml_parser_t *p = &r->parser;
	const char *problem = p->problem != NULL ? p->problem : "unknown problem";
	if (p->error == YAML_MEMORY_ERROR)
		return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", source_tail(r->source));
	if (p->error == YAML_READER_ERROR) /* has an offset and no mark */
		return not_yaml(r->why, r->source,
			place_of_byte((const char *)p->input.string.start, p->problem_offset),
			problem);
	return not_yaml(r->why, r->source, place_of(p->problem_mark), problem);
}

/* ---- events ------------------------------------------------------------------------------------ */

/* The next event, without what no file may contain.  path: of the key that is being read. */
static enum m2_err next(struct reader *r, const char *path)
{
	yaml_event_delete(&r->event); /* zeroes it */
	if (yaml_parser_parse(&r->parser, &r->event) == 0)
		return parser_failed(r);
	const yaml_char_t *anchor = NULL;
	const yaml_char_t *tag = NULL;
	switch (r->event.type) {
	case YAML_ALIAS_EVENT:
		return REFUSE(r, path, "YAML aliases (*name) are not taken");
	case YAML_SCALAR_EVENT:
		anchor = r->event.data.scalar.anchor;
		tag = r->event.data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = r->event.data.sequence_start.anchor;
		tag = r->event.data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = r->event.data.mapping_start.anchor;
		tag = r->event.data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor != NULL)
		return REFUSE(r, path, "YAML anchors (&name) are not taken");
	if (tag != NULL)
		return REFUSE(r, path, "YAML tags (!name) are not taken");
	return M2_OK;
}

static struct m2_yaml_scalar scalar_of(const yaml_event_t *event)
{
	const yaml_scalar_style_t style = event->data.scalar.style;
	return (struct m2_yaml_scalar){.text = (const char *)event->data.scalar.value,
		.length = event->data.scalar.length,
		.plain = style == YAML_PLAIN_SCALAR_STYLE,
		.block = style == YAML_LITERAL_SCALAR_STYLE || style == YAML_FOLDED_SCALAR_STYLE};
}

/* ---- values --------------------------------------------------------------------------- */

static enum m2_err unknown_key(struct reader *r, const char *section)
{
	char path[65];
	const struct m2_yaml_scalar key = scalar_of(&r->event);
	const int n = snprintf(
		path, sizeof path, "%s%s%s", section, section[0] != '\0' ? "." : "", key.text);
	if (n < 0 || n >= (int)sizeof path || strlen(key.text) != key.length ||
		!m2_utf8_valid(path, (size_t)n))
		return REFUSE(r, section, "an unknown key");
	const char *like = m2_yaml_nearest(r->table, path);
	if (like != NULL)
		return REFUSE(r, path, "unknown key; did you mean %s?", like);
	return REFUSE(r, path, "unknown key");
}

static enum m2_err read_mapping(struct reader *r, const char *section);

/* The event begins a mapping that is one entry of a list: read as a small document of its own. */
static enum m2_err read_record(struct reader *r, const struct m2_key *key, char *at)
{
	const struct m2_yaml_place begin = place_of(r->event.start_mark);
	struct reader outer =
		*r; /* the parser does not move: only what describes the table is put back */
	if (r->event.type != YAML_MAPPING_START_EVENT)
		return REFUSE(r, key->path, "wants a list of mappings, [{name: a, ...}, ...]");
	r->table = key->entries;
	r->record = at;
	memset(r->seen, 0, sizeof r->seen);
	memset(r->seen_section, 0, sizeof r->seen_section);
	m2_yaml_table_defaults(r->table, at);
	enum m2_err err = read_mapping(r, "");
	for (int i = 0; i < r->table->count && err == M2_OK; i++)
		if (r->table->keys[i].required && !r->seen[i])
			err = m2_yaml_refuse(r->why, r->source, begin, r->table->keys[i].path,
				"is required and not given");
	r->table = outer.table;
	r->record = outer.record;
	memcpy(r->seen, outer.seen, sizeof r->seen);
	memcpy(r->seen_section, outer.seen_section, sizeof r->seen_section);
	memcpy(r->places, outer.places, sizeof r->places);
	return err;
}

static enum m2_err read_entry(struct reader *r, const struct m2_key *key, int32_t index)
{
	struct m2_yaml_reason reason;
	char *first = r->record + key->offset;
	char *at = first + (size_t)index * key->size;
	if (index == key->max_items)
		return REFUSE(r, key->path, "more than %d entries", key->max_items);
	if (key->type == M2_KEY_RECORD) {
		const enum m2_err err = read_record(r, key, at);
		if (err != M2_OK)
			return err;
	} else if (r->event.type != YAML_SCALAR_EVENT) {
		return REFUSE(r, key->path, "a list or mapping inside the list");
	} else {
		const struct m2_yaml_scalar scalar = scalar_of(&r->event);
		if (!m2_yaml_value_set(key, &scalar, r->base_dir, r->record, at, &reason))
			return REFUSE(r, key->path, "entry %d %s", index + 1, reason.text);
	}
	for (int32_t i = 0; i < index; i++)
		if (memcmp(first + (size_t)i * key->size, at, key->size) == 0)
			return REFUSE(
				r, key->path, "entry %d is the same as entry %d", index + 1, i + 1);
	return M2_OK;
}

static enum m2_err read_list(struct reader *r, const struct m2_key *key)
{
	int32_t count = 0;
	enum m2_err err = M2_OK;
	if (r->event.type == YAML_SCALAR_EVENT) {
		const struct m2_yaml_scalar scalar = scalar_of(&r->event);
		if (scalar.plain && m2_yaml_kind(scalar.text, scalar.length) == M2_YAML_NULL)
			return REFUSE(
				r, key->path, "has no value; leave it out to get the default");
		if (strlen(scalar.text) != scalar.length || !m2_yaml_word(key, scalar.text, &count))
			return REFUSE(r, key->path, "wants a list, [a, b], not %.40s", scalar.text);
	} else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
		for (;;) {
			err = next(r, key->path);
			if (err != M2_OK)
				return err;
			if (r->event.type == YAML_SEQUENCE_END_EVENT)
				break;
			err = read_entry(r, key, count);
			if (err != M2_OK)
				return err;
			count++;
		}
	} else {
		return REFUSE(r, key->path, "wants a list, [a, b], not a mapping");
	}
	memcpy(r->record + key->count_offset, &count, sizeof count);
	return M2_OK;
}

static enum m2_err read_value(struct reader *r, int index)
{
	const struct m2_key *key = &r->table->keys[index];
	struct m2_yaml_reason reason;
	if (r->seen[index])
		return REFUSE(r, key->path, "given twice; first in line %d", r->places[index].line);
	r->seen[index] = true;
	enum m2_err err = next(r, key->path);
	if (err != M2_OK)
		return err;
	r->places[index] = place_of(r->event.start_mark);
	if (key->max_items > 0)
		return read_list(r, key);
	if (r->event.type != YAML_SCALAR_EVENT) {
		char form[160];
		m2_yaml_value_form(form, sizeof form, key);
		return REFUSE(r, key->path, "wants %s, not a %s", form,
			r->event.type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping");
	}
	const struct m2_yaml_scalar scalar = scalar_of(&r->event);
	if (!m2_yaml_value_set(
		    key, &scalar, r->base_dir, r->record, r->record + key->offset, &reason))
		return REFUSE(r, key->path, "%s", reason.text);
	return M2_OK;
}

/* ---- mappings ---------------------------------------------------------------------------------- */

/* The event is the key `name` of a section whose first row is `first`. */
static enum m2_err read_section(struct reader *r, int first)
{
	char name[64];
	const char *path = r->table->keys[first].path;
	(void)snprintf(name, sizeof name, "%.*s", (int)strcspn(path, "."), path);
	if (r->seen_section[first])
		return REFUSE(r, name, "given twice");
	r->seen_section[first] = true;
	enum m2_err err = next(r, name);
	if (err != M2_OK)
		return err;
	if (r->event.type != YAML_MAPPING_START_EVENT)
		return REFUSE(r, name, "wants a mapping of keys; leave it out to get the defaults");
	return read_mapping(r, name);
}

/* After MAPPING_START, up to and with its end.  section: "" at the top. */
static enum m2_err read_mapping(struct reader *r, const char *section)
{
	for (;;) {
		enum m2_err err = next(r, section);
		if (err != M2_OK)
			return err;
		if (r->event.type == YAML_MAPPING_END_EVENT)
			return M2_OK;
		if (r->event.type != YAML_SCALAR_EVENT)
			return REFUSE(r, section, "a key must be a word, not a list or mapping");
		const struct m2_yaml_scalar key = scalar_of(&r->event);
		const int index = m2_yaml_find(r->table, section, &key, false);
		const int first =
			section[0] == '\0' ? m2_yaml_find(r->table, section, &key, true) : -1;
		if (index >= 0)
			err = read_value(r, index);
		else if (first >= 0)
			err = read_section(r, first);
		else
			err = unknown_key(r, section);
		if (err != M2_OK)
			return err;
	}
}

static enum m2_err read_document(struct reader *r, struct m2_yaml_place *root)
{
	enum m2_err err = next(r, ""); /* stream start */
	if (err == M2_OK)
		err = next(r, "");
	if (err != M2_OK || r->event.type == YAML_STREAM_END_EVENT)
		return err; /* nothing but comments: every key at its default */
	if (r->event.data.document_start.tag_directives.start !=
		r->event.data.document_start.tag_directives.end)
		return REFUSE(r, "", "YAML tag directives are not taken");
	err = next(r, "");
	if (err != M2_OK)
		return err;
	*root = place_of(r->event.start_mark);
	if (r->event.type == YAML_MAPPING_START_EVENT) {
		err = read_mapping(r, "");
	} else {
		/* "---" and nothing else is as empty as no document */
		const struct m2_yaml_scalar s = scalar_of(&r->event);
		if (r->event.type != YAML_SCALAR_EVENT || !s.plain || s.length != 0)
			return REFUSE(r, "", "wants a mapping, lines of \"key: value\"");
	}
	if (err == M2_OK)
		err = next(r, ""); /* document end */
	if (err == M2_OK)
		err = next(r, "");
	if (err == M2_OK && r->event.type != YAML_STREAM_END_EVENT)
		return REFUSE(r, "", "a second document; one file holds one");
	return err;
}

enum m2_err m2_yaml_table_read(const struct m2_yaml_table *table, const char *text, size_t length,
	size_t max_bytes, const char *source, const char *base_dir, void *record,
	struct m2_yaml_place *places, struct m2_why *why)
{
	assert(table->count <= M2_YAML_MAX_KEYS);
	struct reader r = {.table = table,
		.source = source,
		.base_dir = base_dir,
		.record = record,
		.why = why};
	struct m2_yaml_place root = {1, 1};
	enum m2_err err = check_bytes(text, length, max_bytes, source, why);
	if (err != M2_OK)
		return err;
	if (yaml_parser_initialize(&r.parser) == 0)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", source_tail(source));
	/* libyaml counts a byte order mark as a column, and then finds no directive in the first */
	const size_t mark = length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text + mark, length - mark);
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	err = read_document(&r, &root);
	yaml_event_delete(&r.event);
	yaml_parser_delete(&r.parser);
	for (int i = 0; i < table->count && err == M2_OK; i++)
		if (table->keys[i].required && !r.seen[i])
			err = m2_yaml_refuse(why, source, root, table->keys[i].path,
				"is required and not given");
	if (places != NULL)
		memcpy(places, r.places, (size_t)table->count * sizeof places[0]);
	return err;
}
