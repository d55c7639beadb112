/* yaml_value.h - one scalar of a YAML file into one field of a record.
 *
 * The part of the table engine (yaml_table.h) that knows types; yaml_table.c knows the
 * document, yaml_print.c the way back.
 * A refusal here is the bare reason ("is 0, outside 1..4096"); the caller adds where.
 * Threads: no shared state.  Nothing blocks.
 */
#ifndef M2_REGISTRY_YAML_VALUE_H
#define M2_REGISTRY_YAML_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry/yaml_table.h"

/* A scalar as the file has it: text is NUL-terminated at length and may hold further NULs. */
struct m2_yaml_scalar {
	const char *text;
	size_t length;
	bool plain; /* no quotes, no block */
	bool block; /* | or >: its last line breaks do not count */
};

enum m2_yaml_kind {
	M2_YAML_TEXT,
	M2_YAML_NULL,
	M2_YAML_TRUE,
	M2_YAML_FALSE,
	M2_YAML_INT,
	M2_YAML_NUMBER
};

/* What a plain scalar is under YAML 1.2's core schema, without its octal, hexadecimal, infinite and
 * "~"-like extras: those that remain here are TEXT and refused where a number is wanted. */
enum m2_yaml_kind m2_yaml_kind(const char *text, size_t length);

struct m2_yaml_reason {
	char text[256];
};

/* Check the scalar against the row and put it at `at` (the field, or a list's entry).  record: for
 * hooks.  false: reason says why. */
bool m2_yaml_value_set(const struct m2_key *key, const struct m2_yaml_scalar *scalar,
	const char *base_dir, void *record, void *at, struct m2_yaml_reason *reason);

/* A word of the row: true and its value. */
bool m2_yaml_word(const struct m2_key *key, const char *text, int32_t *value);

/* The letters that multiply a number. */
struct m2_yaml_units {
	char letters[5];
	int64_t factors[4];
	bool required; /* a bare number is refused */
};
extern const struct m2_yaml_units m2_yaml_byte_units;
extern const struct m2_yaml_units m2_yaml_time_units;

/* What the row takes, for people: "an integer, 1..4096", "f32, f16 or bf16".  For a list: of one entry. */
void m2_yaml_value_form(char *out, size_t size, const struct m2_key *key);

/* The row of section.key ("" for no section), or with is_section the first row inside the section
 * `key`; -1: none. */
int m2_yaml_find(const struct m2_yaml_table *table, const char *section,
	const struct m2_yaml_scalar *key, bool is_section);

/* The known key that looks most like it, NULL when none does.  A key that is only in the wrong
 * section looks very much like it.  path: at most 64 bytes. */
const char *m2_yaml_nearest(const struct m2_yaml_table *table, const char *path);

#endif
