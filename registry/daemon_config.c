/* daemon_config.c - the table of daemon_keys.def behind the daemon's configuration. */
#include "registry/daemon_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/yaml_table.h"

#define BUDGET_MAX (UINT64_C(1) << 50)

static const struct m2_word level_words[] = {
	{"error", 0}, {"warn", 0}, {"info", 0}, {"debug", 0}, {NULL, 0}};
static const struct m2_word isa_words[] = {
	{"auto", 0}, {"portable", 0}, {"avx2", 0}, {"avx512", 0}, {NULL, 0}};

static const struct m2_word default_words[] = {{"default", M2_USER_DEFAULT}, {NULL, 0}};
static const struct m2_word paused_words[] = {{"as_slots", -1}, {NULL, 0}};

struct budget {
	char device[M2_CONFIG_BUDGET_BYTES];
	uint64_t bytes; /* 0: a share */
	uint64_t percent;
};

/* "BYTES" or "SHARE%". */
static bool read_amount(const char *text, struct budget *out)
{
	static const char letters[] = "KMGT";
	char *end;
	memset(out, 0, sizeof *out);
	if (strspn(text, "0123456789") == 0 || strlen(text) > 17)
		return false;
	const uint64_t n = strtoull(text, &end, 10); /* 17 digits at most: it fits */
	if (*end == '%') {
		out->percent = n;
		return n <= 100 && end[1] == '\0';
	}
	const char *letter = *end != '\0' ? strchr(letters, *end) : NULL;
	const int shift = letter != NULL ? 10 * (int)(letter - letters + 1) : 0;
	out->bytes = n << shift;
	return (letter == NULL ? *end == '\0' : end[1] == '\0') && n <= BUDGET_MAX >> shift;
}

/* Kept as it is written. */
static bool parse_amount(const char *text, void *record)
{
	struct m2_daemon_config *c = record;
	struct budget amount;
	if (!read_amount(text, &amount))
		return false;
	(void)snprintf(c->parked, sizeof c->parked, "%s", text);
	return true;
}

static void print_amount(const void *record, char *out, size_t size)
{
	const struct m2_daemon_config *c = record;
	(void)snprintf(out, size, "%s", c->parked);
}

static const struct m2_key_hook amount_hook = {
	.form = "bytes or a share of the host's memory (64G, 25%, 0)",
	.parse = parse_amount,
	.print = print_amount,
};

static const struct m2_key user_keys[] = {
#define M2_USER(needed_, path_, type_, field_, min_, max_, words_, fallback_, doc_)                \
	{.path = path_,                                                                            \
		.type = M2_KEY_##type_,                                                            \
		.required = needed_,                                                               \
		.min = min_,                                                                       \
		.max = max_,                                                                       \
		.words = words_,                                                                   \
		.fallback = fallback_,                                                             \
		.doc = doc_,                                                                       \
		M2_KEY_FIELD(struct m2_user_limits, field_)},
#define M2_KEY(...)      M2_USER(false, __VA_ARGS__)
#define M2_REQUIRED(...) M2_USER(true, __VA_ARGS__)
#include "registry/user_keys.def"
#undef M2_USER
#undef M2_KEY
#undef M2_REQUIRED
};

static const struct m2_yaml_table user_table = {
	user_keys, (int)(sizeof user_keys / sizeof user_keys[0])};

static const struct m2_key keys[] = {
#define M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_)                                  \
	.path = path_, .type = M2_KEY_##type_, .min = min_, .max = max_, .words = words_,          \
	.fallback = fallback_, .doc = doc_
#define M2_KEY(path_, type_, field_, min_, max_, words_, fallback_, doc_)                          \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_FIELD(struct m2_daemon_config, field_)},
#define M2_HOOK(path_, hook_, field_, fallback_, doc_)                                             \
	{M2_ROW(path_, HOOK, 0, 0, NULL, fallback_, doc_), .hook = &(hook_),                       \
		M2_KEY_FIELD(struct m2_daemon_config, field_)},
#define M2_CHOICE(path_, field_, words_, fallback_, doc_)                                          \
	{M2_ROW(path_, WORD, 0, 0, words_, fallback_, doc_), .as_string = true,                    \
		M2_KEY_FIELD(struct m2_daemon_config, field_)},
#define M2_LIST(path_, type_, field_, count_, min_, max_, words_, fallback_, doc_)                 \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_ENTRIES(struct m2_daemon_config, field_, count_)},
#define M2_RECORDS(path_, field_, count_, table_, doc_)                                            \
	{M2_ROW(path_, RECORD, 0, 0, NULL, "[]", doc_), .entries = &(table_),                      \
		M2_KEY_ENTRIES(struct m2_daemon_config, field_, count_)},
#include "registry/daemon_keys.def"
#undef M2_ROW
#undef M2_KEY
#undef M2_HOOK
#undef M2_CHOICE
#undef M2_LIST
#undef M2_RECORDS
};

static const struct m2_yaml_table table = {keys, (int)(sizeof keys / sizeof keys[0])};

void m2_daemon_config_init(struct m2_daemon_config *c)
{
	memset(c, 0, sizeof *c);
	m2_yaml_table_defaults(&table, c);
}

/* ---- budgets ------------------------------------------------------------------------------------ */

/* "cpu", "cuda" or "cuda:N", as variants name devices. */
static bool device_known(const char *name)
{
	if (strcmp(name, "cpu") == 0 || strcmp(name, "cuda") == 0)
		return true;
	const char *digits = name + 5;
	if (strncmp(name, "cuda:", 5) != 0)
		return false;
	const size_t n = strspn(digits, "0123456789");
	return n >= 1 && n <= 2 && digits[n] == '\0' && (n == 1 || digits[0] != '0') &&
	       strtol(digits, NULL, 10) <= 63;
}

static uint64_t amount_of(const struct budget *b, uint64_t total)
{
	return b->percent == 0 ? b->bytes
			       : total / 100 * b->percent + total % 100 * b->percent / 100;
}

/* "DEVICE=BYTES" or "DEVICE=SHARE%". */
static bool read_budget(const char *text, struct budget *out)
{
	const char *equals = strchr(text, '=');
	if (equals == NULL || (size_t)(equals - text) >= sizeof out->device ||
		!read_amount(equals + 1, out) || (out->bytes == 0 && out->percent == 0))
		return false;
	memcpy(out->device, text, (size_t)(equals - text));
	return device_known(out->device);
}

static enum m2_err check_budgets(const struct m2_daemon_config *c, const char *source,
	const struct m2_yaml_place *places, struct m2_why *why)
{
	static const char path[] = "memory.budgets";
	const struct m2_yaml_place place = places[m2_yaml_table_find(&table, path)];
	for (int32_t i = 0; i < c->n_budgets; i++) {
		struct budget one, other;
		if (!read_budget(c->budgets[i], &one))
			return m2_yaml_refuse(why, source, place, path,
				"wants DEVICE=BYTES or DEVICE=SHARE%% (cpu=8G, cuda:0=80%%, "
				"cuda=60%%), not %s",
				c->budgets[i]);
		for (int32_t k = 0; k < i; k++)
			if (read_budget(c->budgets[k], &other) &&
				strcmp(one.device, other.device) == 0)
				return m2_yaml_refuse(
					why, source, place, path, "%s has two budgets", one.device);
		if (strcmp(one.device, "cpu") == 0 && c->memory_budget_bytes > 0)
			return m2_yaml_refuse(why, source, place, path,
				"cpu has another in cpu.memory_budget: remove that one");
	}
	return M2_OK;
}

uint64_t m2_daemon_config_budget(
	const struct m2_daemon_config *c, const char *device, uint64_t memory_total)
{
	const struct budget none = {.bytes = 0};
	struct budget found = none;
	if (strcmp(device, "cpu") == 0)
		found.bytes = (uint64_t)c->memory_budget_bytes;
	for (int32_t i = 0; i < c->n_budgets; i++) {
		struct budget one;
		if (!read_budget(c->budgets[i], &one))
			continue;
		const bool exact = strcmp(one.device, device) == 0;
		const bool any = strcmp(one.device, "cuda") == 0 &&
				 strncmp(device, "cuda:", 5) == 0 && found.device[0] == '\0';
		if (exact || any)
			found = one;
		if (exact)
			break;
	}
	return amount_of(&found, memory_total);
}

uint64_t m2_daemon_config_parked(const struct m2_daemon_config *c, uint64_t memory_total)
{
	struct budget parked;
	return read_amount(c->parked, &parked) ? amount_of(&parked, memory_total) : 0;
}

/* ---- users -------------------------------------------------------------------------------------- */

static enum m2_err check_users(const struct m2_daemon_config *c, const char *source,
	const struct m2_yaml_place *places, struct m2_why *why)
{
	static const char path[] = "users";
	const struct m2_yaml_place place = places[m2_yaml_table_find(&table, path)];
	for (int32_t i = 0; i < c->n_users; i++) {
		const char *name = c->users[i].name;
		if (name[name[0] == '@'] == '\0' || strpbrk(name + 1, "@ \t:,/") != NULL)
			return m2_yaml_refuse(why, source, place, path,
				"entry %d wants name: a user, a number or \"@group\", not \"%s\"",
				i + 1, name);
		for (int32_t k = 0; k < i; k++)
			if (strcmp(name, c->users[k].name) == 0)
				return m2_yaml_refuse(
					why, source, place, path, "%s has two entries", name);
	}
	return M2_OK;
}

/* ---- reading ------------------------------------------------------------------------------------ */

static enum m2_err parse(const char *text, size_t length, const char *source, const char *base_dir,
	struct m2_daemon_config *out, struct m2_why *why)
{
	struct m2_yaml_place places[sizeof keys / sizeof keys[0]];
	m2_daemon_config_init(out);
	enum m2_err err = m2_yaml_table_read(&table, text, length, M2_LIMIT_VARIANT_YAML_BYTES,
		source, base_dir, out, places, why);
	if (err == M2_OK)
		err = check_budgets(out, source, places, why);
	return err == M2_OK ? check_users(out, source, places, why) : err;
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
