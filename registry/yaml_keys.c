/* yaml_keys.c - keys by name in a table, the one that was probably meant, and the defaults.
 *
 * Knows the table and no document.
 */
#include "registry/yaml_table.h"

#include <assert.h>
#include <string.h>

#include "registry/yaml_value.h"

/* Edits (insert, delete, replace) that make a of b; both at most 64 bytes. */
static int distance(const char *a, const char *b)
{
	int row[66];
	const int n = (int)strlen(b);
	for (int j = 0; j <= n; j++)
		row[j] = j;
	for (int i = 0; a[i] != '\0'; i++) {
		int diagonal = row[0];
		row[0] = i + 1;
		for (int j = 0; j < n; j++) {
			int best = diagonal + (a[i] != b[j]);
			diagonal = row[j + 1];
			best = best < diagonal + 1 ? best : diagonal + 1;
			row[j + 1] = best < row[j] + 1 ? best : row[j] + 1;
		}
	}
	return row[n];
}

const char *m2_yaml_nearest(const struct m2_yaml_table *table, const char *path)
{
	const char *dot = strrchr(path, '.');
	const char *leaf = dot != NULL ? dot + 1 : path;
	const char *found = NULL;
	int best = (int)strlen(leaf) / 3 + 1;
	for (int i = 0; i < table->count; i++) {
		const char *known = table->keys[i].path;
		const char *known_dot = strrchr(known, '.');
		const int whole = distance(path, known);
		const int last = distance(leaf, known_dot != NULL ? known_dot + 1 : known);
		const int d = whole < last ? whole : last;
		if (d < best) {
			best = d;
			found = known;
		}
	}
	return found;
}

int m2_yaml_find(const struct m2_yaml_table *table, const char *section,
	const struct m2_yaml_scalar *key, bool is_section)
{
	const size_t prefix = strlen(section);
	if (strlen(key->text) != key->length || strchr(key->text, '.') != NULL)
		return -1;
	for (int i = 0; i < table->count; i++) {
		const char *path = table->keys[i].path;
		if (prefix > 0) {
			if (strncmp(path, section, prefix) != 0 || path[prefix] != '.')
				continue;
			path += prefix + 1;
		}
		if (strncmp(path, key->text, key->length) == 0 &&
			path[key->length] == (is_section ? '.' : '\0'))
			return i;
	}
	return -1;
}

int m2_yaml_table_find(const struct m2_yaml_table *table, const char *path)
{
	int i = 0;
	while (i < table->count && strcmp(table->keys[i].path, path) != 0)
		i++;
	assert(i < table->count);
	return i;
}

void m2_yaml_table_defaults(const struct m2_yaml_table *table, void *record)
{
	for (int i = 0; i < table->count; i++) {
		const struct m2_key *key = &table->keys[i];
		char *at = (char *)record + key->offset;
		struct m2_yaml_reason reason = {""};
		const struct m2_yaml_scalar scalar = {
			.text = key->fallback, .length = strlen(key->fallback), .plain = true};
		/* the fallback "" stands quoted in a file */
		const struct m2_yaml_scalar empty = {.text = "", .length = 0};
		int32_t count = 0;
		if (key->max_items > 0) {
			memset(at, 0, key->size * (size_t)key->max_items);
			(void)m2_yaml_word(key, key->fallback, &count);
			memcpy((char *)record + key->count_offset, &count, sizeof count);
			continue;
		}
		memset(at, 0, key->size);
		if (key->required)
			continue;
		const bool quoted = strcmp(key->fallback, "\"\"") == 0;
		const bool taken =
			m2_yaml_value_set(key, quoted ? &empty : &scalar, "/", record, at, &reason);
		assert(taken); /* the tables are checked by every test that makes a record */
		(void)taken;
	}
}
