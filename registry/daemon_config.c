/* daemon_config.c - the table of daemon_keys.def behind the daemon's configuration. */
#include "registry/daemon_config.h"

#include <stdlib.h>
#include <string.h>

#include "registry/yaml_table.h"

static const struct m2_word level_words[] = {
	{"error", 0}, {"warn", 0}, {"info", 0}, {"debug", 0}, {NULL, 0}};
static const struct m2_word isa_words[] = {
	{"auto", 0}, {"portable", 0}, {"avx2", 0}, {"avx512", 0}, {NULL, 0}};

static const struct m2_key keys[] = {
#define M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_)                                  \
	.path = path_, .type = M2_KEY_##type_, .min = min_, .max = max_, .words = words_,          \
	.fallback = fallback_, .doc = doc_
#define M2_KEY(path_, type_, field_, min_, max_, words_, fallback_, doc_)                          \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_FIELD(struct m2_daemon_config, field_)},
#define M2_CHOICE(path_, field_, words_, fallback_, doc_)                                          \
	{M2_ROW(path_, WORD, 0, 0, words_, fallback_, doc_), .as_string = true,                    \
		M2_KEY_FIELD(struct m2_daemon_config, field_)},
#define M2_LIST(path_, type_, field_, count_, min_, max_, words_, fallback_, doc_)                 \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_ENTRIES(struct m2_daemon_config, field_, count_)},
#include "registry/daemon_keys.def"
#undef M2_ROW
#undef M2_KEY
#undef M2_CHOICE
#undef M2_LIST
};

static const struct m2_yaml_table table = {keys, (int)(sizeof keys / sizeof keys[0])};

void m2_daemon_config_init(struct m2_daemon_config *c)
{
	memset(c, 0, sizeof *c);
	m2_yaml_table_defaults(&table, c);
}

static enum m2_err parse(const char *text, size_t length, const char *source, const char *base_dir,
	struct m2_daemon_config *out, struct m2_why *why)
{
	m2_daemon_config_init(out);
	return m2_yaml_table_read(&table, text, length, M2_LIMIT_VARIANT_YAML_BYTES, source,
		base_dir, out, NULL, why);
}

enum m2_err m2_daemon_config_parse(const char *text, size_t length, const char *source,
	struct m2_daemon_config *out, struct m2_why *why)
{
	return parse(text, length, source, NULL, out, why);
}

enum m2_err m2_daemon_config_read(
	const char *path, struct m2_daemon_config *out, struct m2_why *why)
{
	char directory[M2_LIMIT_PATH_BYTES + 1];
	char *text = NULL;
	size_t length = 0;
	enum m2_err err = m2_yaml_file_directory(path, directory, sizeof directory, why);
	if (err == M2_OK)
		err = m2_yaml_file_read(
			path, M2_LIMIT_VARIANT_YAML_BYTES, true, &text, &length, why);
	if (err == M2_OK)
		err = parse(text, length, path, directory, out, why);
	free(text);
	return err;
}

char *m2_daemon_config_reference(void)
{
	return m2_yaml_table_reference(&table,
		"# mamba2d.yaml - the daemon's configuration, every key at its default.\n"
		"#\n"
		"# Generated from registry/daemon_keys.def.  Remove the # before a key (and before "
		"its\n"
		"# section) to change it.  What is wrong is refused at start with line and column; "
		"on\n"
		"# SIGHUP a wrong file changes nothing.\n",
		true);
}
