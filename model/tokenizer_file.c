/* tokenizer_file.c - a tokenizer.json, checked and taken in.
 *
 * The format is a description of a pipeline with many kinds of parts.  Those of BPE's two families are
 * understood; any other is refused by the name of its kind, because a tokenizer that is nearly right
 * gives a model that is quietly wrong.  `truncation` and `padding` concern batches of a training
 * library and are ignored.
 */
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "model/tokenizer_load.h"

enum { MAX_FILE_BYTES = 32 << 20, MAX_DEPTH = 12, MAX_STRING = 4096, MAX_PARTS = 64 };

struct json_object *m2_load_get(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;
	return json_object_is_type(object, json_type_object) &&
			       json_object_object_get_ex(object, key, &value)
		       ? value
		       : NULL;
}

enum m2_err m2_load_unsupported(
	const struct m2_tokenizer_load *l, const char *stage, const char *type)
{
	return m2_fail_field(M2_EUNSUPPORTED, l->why, stage, "%s: the %s \"%s\" is not supported",
		l->what, stage, type);
}

enum m2_err m2_load_parts(struct m2_tokenizer_load *l, struct json_object *part, const char *stage,
	const char *list, m2_part_fn *take, void *context)
{
	const char *type = NULL;
	if (part == NULL)
		return M2_OK;
	enum m2_err err = m2_json_get_string(part, "type", 64, &type, NULL, NULL, l->why);
	if (err != M2_OK)
		return err;
	if (type == NULL)
		return m2_fail_field(
			M2_EFORMAT, l->why, stage, "%s: the %s has no type", l->what, stage);
	if (strcmp(type, "Sequence") != 0)
		return take(l, part, type, context);
	struct json_object *parts;
	err = m2_json_get_array(part, list, MAX_PARTS, &parts, NULL, l->why);
	for (size_t i = 0; err == M2_OK && parts != NULL && i < json_object_array_length(parts);
		i++)
		err = m2_load_parts(
			l, json_object_array_get_idx(parts, i), stage, list, take, context);
	return err;
}

enum m2_err m2_load_string(struct m2_tokenizer_load *l, struct json_object *part, const char *key,
	const char *stage, char **out, size_t *length)
{
	const char *text = NULL;
	const enum m2_err err =
		m2_json_get_string(part, key, MAX_STRING, &text, length, NULL, l->why);
	if (err != M2_OK)
		return err;
	if (text == NULL || *length == 0)
		return m2_fail_field(
			M2_EFORMAT, l->why, stage, "%s: the %s lacks its %s", l->what, stage, key);
	*out = malloc(*length + 1);
	if (*out == NULL)
		return m2_load_no_memory(l);
	memcpy(*out, text, *length + 1);
	return M2_OK;
}

enum m2_err m2_load_pattern(struct m2_tokenizer_load *l, struct json_object *part,
	const char *stage, char **out, size_t *length, const struct m2_pattern **pattern)
{
	struct json_object *either = m2_load_get(part, "pattern");
	const char *regex = NULL;
	size_t regex_length = 0;
	*pattern = NULL;
	if (json_object_is_type(either, json_type_object) && m2_load_get(either, "Regex") == NULL)
		return m2_load_string(l, either, "String", stage, out, length);
	if (!json_object_is_type(either, json_type_object))
		return m2_fail_field(
			M2_EFORMAT, l->why, stage, "%s: the %s lacks its pattern", l->what, stage);
	const enum m2_err err = m2_json_get_string(
		either, "Regex", MAX_STRING, &regex, &regex_length, NULL, l->why);
	if (err != M2_OK)
		return err;
	*pattern = m2_pattern_find(regex, regex_length);
	if (*pattern == NULL)
		return m2_fail_field(M2_EUNSUPPORTED, l->why, stage,
			"%s: the %s has a pattern that is not known: %.200s", l->what, stage,
			regex);
	return M2_OK;
}

static enum m2_err name_kind(struct m2_tokenizer_load *l)
{
	const struct m2_tokenizer *t = l->t;
	l->t->kind = strdup(t->symbols == M2_SYMBOLS_BYTES ? "byte-level BPE, tokenizer.json"
			    : t->byte_fallback ? "BPE with byte fallback, tokenizer.json"
					       : "BPE, tokenizer.json");
	return l->t->kind != NULL ? M2_OK : m2_load_no_memory(l);
}

static enum m2_err read_all(struct m2_tokenizer_load *l, struct json_object *root)
{
	/* what a symbol is comes first: the vocabulary is read accordingly */
	enum m2_err (*const readers[])(struct m2_tokenizer_load *, struct json_object *) = {
		m2_load_pre_tokenizer, m2_load_normalizer, m2_load_vocab, m2_load_template,
		m2_load_decoder};
	enum m2_err err = M2_OK;
	for (size_t i = 0; i < sizeof readers / sizeof *readers && err == M2_OK; i++)
		err = readers[i](l, root);
	if (err == M2_OK)
		err = m2_load_finish(l);
	return err == M2_OK ? name_kind(l) : err;
}

/* The getters know the key, not the file. */
static enum m2_err name_file(enum m2_err err, const char *what, struct m2_why *why)
{
	if (err != M2_EINVAL || why == NULL)
		return err == M2_EINVAL ? M2_EFORMAT : err;
	const struct m2_why inner = *why;
	return m2_fail_field(M2_EFORMAT, why, inner.field, "%s: %s", what, inner.text);
}

enum m2_err m2_tokenizer_parse(const char *json, size_t length, const char *what,
	struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_tokenizer_load l = {.what = what, .why = why};
	struct json_object *root;
	if (length > MAX_FILE_BYTES)
		return m2_fail(M2_ELIMIT, why, "%s has %zu bytes, more than %d", what, length,
			MAX_FILE_BYTES);
	enum m2_err err = m2_json_parse(json, length, MAX_DEPTH, what, &root, why);
	if (err != M2_OK)
		return err;
	l.t = calloc(1, sizeof *l.t);
	if (l.t == NULL) {
		err = m2_load_no_memory(&l);
	} else if (!json_object_is_type(root, json_type_object)) {
		err = m2_fail(M2_EFORMAT, why, "%s: not an object", what);
	} else {
		l.t->bos = l.t->eos = l.t->unk = -1;
		err = read_all(&l, root);
	}
	json_object_put(root);
	if (err != M2_OK) {
		m2_tokenizer_close(&l.t);
		return name_file(err, what, why);
	}
	l.t->bos = l.t->n_before > 0 ? l.t->before[0] : -1;
	l.t->eos = l.t->n_after > 0 ? l.t->after[l.t->n_after - 1] : -1;
	*out = l.t;
	return M2_OK;
}
