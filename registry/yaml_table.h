/* yaml_table.h - YAML files checked by a table of keys: the engine behind variants and the daemon's
 * configuration.
 *
 * A table row (struct m2_key) says where a key stands in the file, what it may hold and where in a
 * record it goes.  The same rows read a file, give a record its defaults, print a record back and
 * generate a reference.  One level of nesting: "slots" or "access.users".
 *
 * What is accepted is a small, unambiguous part of YAML: one document, a mapping, scalars, flat lists,
 * and lists of flat mappings.  Refused with "FILE:LINE:COLUMN: KEY: why": unknown keys (naming the nearest known one),
 * keys given twice, wrong types (a quoted "5" is a string, a plain 5 is an integer), values out of
 * range, null, entries given twice in a list, anchors, aliases, tags, further documents, nesting
 * beyond the table's, control characters.  What is no YAML or no UTF-8 is M2_EFORMAT, all else
 * M2_EINVAL; a text that is too long is M2_ELIMIT.
 *
 * Threads: no shared state.  Nothing blocks but m2_yaml_file_read.
 */
#ifndef M2_REGISTRY_YAML_TABLE_H
#define M2_REGISTRY_YAML_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum m2_key_type {
	M2_KEY_STRING,   /* char[size]: one line of text */
	M2_KEY_PATH,     /* char[size]: made absolute */
	M2_KEY_NAME,     /* char[size]: M2_NAME_PATTERN */
	M2_KEY_ID,       /* char[size]: name or number of a user or group; lists only */
	M2_KEY_BOOL,     /* bool */
	M2_KEY_INT,      /* int32_t or int64_t, by size */
	M2_KEY_FLOAT,    /* float */
	M2_KEY_BYTES,    /* int64_t: 4096, 64K, 512M, 80G, 2T (powers of 1024) */
	M2_KEY_DURATION, /* int32_t or int64_t, seconds: 30s, 5m, 2h, 1d */
	M2_KEY_WORD,     /* one of `words`: an enum (its value) or a char[size] (the word) */
	M2_KEY_HOOK,     /* whatever `hook` reads */
	M2_KEY_RECORD    /* lists only: each entry a mapping, read by the table `entries` */
};

/* A word that a key takes besides, or (M2_KEY_WORD) instead of, other values.  Ends with NULL.
 * For a list the value goes into the count ("eos" instead of a list); for a path the word is kept
 * as it is; for numbers it stands for the value. */
struct m2_word {
	const char *text;
	int32_t value;
};

/* For a key that does not fit one field.  parse gets a NUL-terminated text and returns false when it
 * is not of the form; print writes what parse reads. */
struct m2_key_hook {
	const char *form; /* "auto, cpu or cuda:N" */
	bool (*parse)(const char *text, void *record);
	void (*print)(const void *record, char *out, size_t size);
};

struct m2_key {
	const char *path; /* "slots", "access.users" */
	enum m2_key_type type;
	bool required;  /* then `fallback` is only the reference's example */
	bool as_string; /* M2_KEY_WORD into a char array */
	double min;     /* of the value (seconds, bytes); of the length for strings */
	double max;
	const struct m2_word *words;
	const struct m2_key_hook *hook;
	const struct m2_yaml_table *entries;
	const char *fallback; /* the default, as it would stand in a file; "[]" for a list */
	const char *doc;
	size_t offset;       /* of the field in the record; of the first entry of a list */
	size_t size;         /* bytes of the field; of one entry of a list */
	size_t count_offset; /* lists: of the int32_t count */
	int32_t max_items;   /* lists: entries that fit; 0: no list */
};

enum { M2_YAML_MAX_KEYS = 64 };

/* Where a key's value stands; line 0: the key is not in the file. */
struct m2_yaml_place {
	int32_t line;
	int32_t column;
};

struct m2_yaml_table {
	const struct m2_key *keys;
	int count; /* <= M2_YAML_MAX_KEYS */
};

/* The destination of a row in the .def tables; `record` is the struct type. */
#define M2_KEY_FIELD(record, field)                                                                \
	.offset = offsetof(record, field), .size = sizeof(((record *)0)->field)
#define M2_KEY_ENTRIES(record, field, n)                                                           \
	.offset = offsetof(record, field), .size = sizeof(((record *)0)->field[0]),                \
	.count_offset = offsetof(record, n),                                                       \
	.max_items = (int32_t)(sizeof(((record *)0)->field) / sizeof(((record *)0)->field[0]))

/* Every key at its default, what the table does not know untouched; required keys are empty. */
void m2_yaml_table_defaults(const struct m2_yaml_table *table, void *record);

/* Read text into record, which holds its defaults already; on an error its content is undefined.
 * max_bytes: limit of the text.  base_dir: what relative paths are taken from, NULL: refused.
 * places: [count], or NULL. */
enum m2_err m2_yaml_table_read(const struct m2_yaml_table *table, const char *text, size_t length,
	size_t max_bytes, const char *source, const char *base_dir, void *record,
	struct m2_yaml_place *places, struct m2_why *why);

/* Refuse a value for a reason the table does not know: "SOURCE:LINE:COLUMN: PATH: ...". */
enum m2_err m2_yaml_refuse(struct m2_why *why, const char *source, struct m2_yaml_place place,
	const char *path, const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* The index of a key in the table; the key must be there. */
int m2_yaml_table_find(const struct m2_yaml_table *table, const char *path);

/* YAML of a record that reads back to an equal one: malloc'd, NULL without memory.  all = false
 * leaves out optional keys at their defaults. */
char *m2_yaml_table_print(const struct m2_yaml_table *table, const void *record, bool all);

/* Every key with its doc, form, range and default, after the lines of `head` (each "# ...\n"):
 * malloc'd.  commented: the keys are commented out ("#key: value"), docs are "# text". */
char *m2_yaml_table_reference(const struct m2_yaml_table *table, const char *head, bool commented);

/* A regular file of at most max_bytes: malloc'd, NUL-terminated.  Does not wait on a FIFO.
 * ENOENT, EIO, EFORMAT (not a regular file), ELIMIT, ENOMEM.  follow: a symbolic link is followed,
 * otherwise refused. */
enum m2_err m2_yaml_file_read(const char *path, size_t max_bytes, bool follow, char **text,
	size_t *length, struct m2_why *why);

/* The absolute directory of a file: lexically for an absolute path, with the working directory for a
 * relative one.  ENOENT, EIO, ELIMIT (does not fit out). */
enum m2_err m2_yaml_file_directory(const char *path, char *out, size_t size, struct m2_why *why);

#endif
