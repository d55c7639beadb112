/* variant.c - the table of variant_keys.def, and what it cannot say: checks between keys.
 *
 * Everything about reading, ranges, printing and the reference is the table engine's
 * (yaml_table.h); this file has the words, the device's form and the names' pattern.
 */
#include "registry/variant.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/sha256.h"
#include "registry/yaml_table.h"

static bool device_parse(const char *text, void *record)
{
	struct m2_variant *v = record;
	int32_t ordinal = 0;
	enum m2_device_kind kind = M2_DEVICE_CUDA;
	if (strcmp(text, "auto") == 0) {
		kind = M2_DEVICE_AUTO;
	} else if (strcmp(text, "cpu") == 0) {
		kind = M2_DEVICE_CPU;
	} else {
		if (strncmp(text, "cuda:", 5) != 0)
			return false;
		const char *digits = text + 5;
		const size_t n = strspn(digits, "0123456789");
		if (n < 1 || n > 2 || digits[n] != '\0' || (n == 2 && digits[0] == '0'))
			return false;
		ordinal = n == 1 ? digits[0] - '0' : (digits[0] - '0') * 10 + digits[1] - '0';
		if (ordinal > 63)
			return false;
	}
	v->device = kind;
	v->device_ordinal = ordinal;
	return true;
}

static void device_print(const void *record, char *out, size_t size)
{
	const struct m2_variant *v = record;
	if (v->device == M2_DEVICE_CUDA)
		(void)snprintf(out, size, "cuda:%d", v->device_ordinal);
	else
		(void)snprintf(out, size, "%s", v->device == M2_DEVICE_CPU ? "cpu" : "auto");
}

static const struct m2_key_hook device_hook = {
	"auto, cpu or cuda:N (N in 0..63)", device_parse, device_print};
static const struct m2_word tokenizer_words[] = {{"", 0}, {"none", 0}, {NULL, 0}};
static const struct m2_word weights_words[] = {{"stored", M2_DTYPE_NONE}, {"f32", M2_DTYPE_F32},
	{"f16", M2_DTYPE_F16}, {"bf16", M2_DTYPE_BF16}, {"int8", M2_DTYPE_INT8}, {NULL, 0}};
static const struct m2_word state_words[] = {{"f32", M2_DTYPE_F32}, {NULL, 0}};
static const struct m2_word forever_words[] = {{"forever", -1}, {NULL, 0}};
static const struct m2_word stop_words[] = {{"eos", -1}, {NULL, 0}};

static const struct m2_key keys[] = {
#define M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_)                                  \
	.path = path_, .type = M2_KEY_##type_, .min = min_, .max = max_, .words = words_,          \
	.fallback = fallback_, .doc = doc_
#define M2_REQUIRED(path_, type_, field_, min_, max_, example_, doc_)                              \
	{M2_ROW(path_, type_, min_, max_, NULL, example_, doc_), .required = true,                 \
		M2_KEY_FIELD(struct m2_variant, field_)},
#define M2_KEY(path_, type_, field_, min_, max_, words_, fallback_, doc_)                          \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_FIELD(struct m2_variant, field_)},
#define M2_HOOK(path_, hook_, field_, fallback_, doc_)                                             \
	{M2_ROW(path_, HOOK, 0, 0, NULL, fallback_, doc_), .hook = &hook_,                         \
		M2_KEY_FIELD(struct m2_variant, field_)},
#define M2_LIST(path_, type_, field_, count_, min_, max_, words_, fallback_, doc_)                 \
	{M2_ROW(path_, type_, min_, max_, words_, fallback_, doc_),                                \
		M2_KEY_ENTRIES(struct m2_variant, field_, count_)},
#include "registry/variant_keys.def"
#undef M2_ROW
#undef M2_REQUIRED
#undef M2_KEY
#undef M2_HOOK
#undef M2_LIST
};

static const struct m2_yaml_table table = {keys, (int)(sizeof keys / sizeof keys[0])};

void m2_variant_init(struct m2_variant *v)
{
	memset(v, 0, sizeof *v); /* padding too: equal records are equal bytes */
	m2_yaml_table_defaults(&table, v);
}

bool m2_variant_name_valid(const char *name)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	static const char rest[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	const size_t length = strnlen(name, M2_LIMIT_NAME_BYTES + 1);
	return length >= 1 && length <= M2_LIMIT_NAME_BYTES && strchr(first, name[0]) != NULL &&
	       strspn(name, rest) == length;
}

enum m2_err m2_variant_parse(const char *text, size_t length, const char *source,
	const char *base_dir, struct m2_variant *out, struct m2_why *why)
{
	struct m2_yaml_place places[sizeof keys / sizeof keys[0]];
	m2_variant_init(out);
	const enum m2_err err = m2_yaml_table_read(&table, text, length,
		M2_LIMIT_VARIANT_YAML_BYTES, source, base_dir, out, places, why);
	if (err != M2_OK)
		return err;
	for (int i = 0; i < out->n_aliases; i++)
		if (strcmp(out->aliases[i], out->name) == 0)
			return m2_yaml_refuse(why, source,
				places[m2_yaml_table_find(&table, "aliases")], "aliases",
				"entry %d is the variant's own name", i + 1);
	return M2_OK;
}

enum m2_err m2_variant_read(
	const char *path, struct m2_variant *out, char **text, size_t *length, struct m2_why *why)
{
	char directory[M2_LIMIT_PATH_BYTES + 1];
	char *bytes = NULL;
	size_t n = 0;
	enum m2_err err = m2_yaml_file_directory(path, directory, sizeof directory, why);
	if (err == M2_OK)
		err = m2_yaml_file_read(path, M2_LIMIT_VARIANT_YAML_BYTES, true, &bytes, &n, why);
	if (err == M2_OK)
		err = m2_variant_parse(bytes, n, path, directory, out, why);
	if (err != M2_OK || text == NULL) {
		free(bytes);
		return err;
	}
	*text = bytes;
	*length = n;
	return M2_OK;
}

char *m2_variant_print(const struct m2_variant *v, bool all)
{
	return m2_yaml_table_print(&table, v, all);
}

char *m2_variant_reference(void)
{
	return m2_yaml_table_reference(&table,
		"# reference.yaml - every key of a variant file, with its default.\n"
		"#\n"
		"# Generated from registry/variant_keys.def; do not edit.  A variant needs name "
		"and\n"
		"# checkpoint; every other key may be left out.  Register a file with\n"
		"#   mamba2ctl register FILE\n"
		"# or put it into a directory of variants (variant_dirs in mamba2d.yaml).\n",
		false);
}

void m2_variant_checksum(const char *text, size_t length, char out[65])
{
	/* without memory the checksum stays empty, and the schema refuses it */
	(void)m2_sha256_hex(text, length, out);
}
