/* tokenizer_file.c - a tokenizer.json, checked and taken in.
 *
 * The format is a description of a pipeline with many kinds of parts.  Those of byte-level BPE are
 * understood; any other is refused by the name of its kind, because a tokenizer that is nearly right
 * gives a model that is quietly wrong.  `truncation` and `padding` concern batches of a training
 * library and are ignored.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/json.h"
#include "common/utf8.h"
#include "model/file.h"
#include "model/tokenizer_load.h"
#include "model/unicode.h"

enum { MAX_FILE_BYTES = 32 << 20, MAX_DEPTH = 12, MAX_TEMPLATE = 64 };

enum m2_err m2_load_no_memory(const struct m2_tokenizer_load *l)
{
	return m2_fail(M2_ENOMEM, l->why, "%s: out of memory", l->what);
}

struct json_object *m2_load_get(struct json_object *object, const char *key)
{
	struct json_object *value = NULL;
	return json_object_is_type(object, json_type_object) &&
			       json_object_object_get_ex(object, key, &value)
		       ? value
		       : NULL;
}

/* ---- the pipeline's parts ---- */

/* One kind of part that a stage understands. */
struct part_kind {
	const char *type;
	enum m2_err (*take)(struct m2_tokenizer_load *l, struct json_object *part);
};

struct stage {
	const char *key;  /* in the file */
	const char *list; /* of a Sequence */
	struct part_kind kinds[3];
};

static enum m2_err take_nfc(struct m2_tokenizer_load *l, struct json_object *part)
{
	(void)part;
	l->t->nfc = true;
	return M2_OK;
}

static enum m2_err take_byte_level(struct m2_tokenizer_load *l, struct json_object *part)
{
	bool found;
	if (l->has_pre_tokenizer)
		return m2_fail_field(M2_EUNSUPPORTED, l->why, "pre_tokenizer",
			"%s: two ByteLevel pre-tokenizers", l->what);
	l->has_pre_tokenizer = true;
	l->t->use_regex = true;
	enum m2_err err =
		m2_json_get_bool(part, "add_prefix_space", &l->t->prefix_space, &found, l->why);
	if (err == M2_OK && !found)
		err = m2_fail_field(M2_EFORMAT, l->why, "pre_tokenizer",
			"%s: ByteLevel lacks add_prefix_space", l->what);
	return err == M2_OK ? m2_json_get_bool(part, "use_regex", &l->t->use_regex, NULL, l->why)
			    : err;
}

static enum m2_err take_decoder(struct m2_tokenizer_load *l, struct json_object *part)
{
	(void)part;
	l->has_decoder = true;
	return M2_OK;
}

/* As a post-processor ByteLevel moves offsets only. */
static enum m2_err take_nothing(struct m2_tokenizer_load *l, struct json_object *part)
{
	(void)l;
	(void)part;
	return M2_OK;
}

/* The ids that special_tokens gives a name in the template. */
static enum m2_err template_ids(struct m2_tokenizer_load *l, struct json_object *special_tokens,
	struct json_object *item, int32_t *out, size_t *n)
{
	struct json_object *name = m2_load_get(item, "id");
	struct json_object *entry =
		json_object_is_type(name, json_type_string)
			? m2_load_get(special_tokens, json_object_get_string(name))
			: NULL;
	struct json_object *ids = m2_load_get(entry, "ids");
	if (!json_object_is_type(ids, json_type_array))
		return m2_fail_field(M2_EFORMAT, l->why, "post_processor",
			"%s: the template names a token that special_tokens does not define",
			l->what);
	for (size_t i = 0; i < json_object_array_length(ids); i++) {
		int64_t id;
		if (*n == MAX_TEMPLATE)
			return m2_fail_field(M2_ELIMIT, l->why, "post_processor",
				"%s: the template adds more than %d tokens", l->what, MAX_TEMPLATE);
		if (!m2_json_as_int(json_object_array_get_idx(ids, i), &id) || id < 0 ||
			id >= l->t->size)
			return m2_fail_field(M2_EFORMAT, l->why, "post_processor",
				"%s: the template has an id outside 0..%d", l->what,
				l->t->size - 1);
		out[(*n)++] = (int32_t)id;
	}
	return M2_OK;
}

static enum m2_err take_template(struct m2_tokenizer_load *l, struct json_object *part)
{
	struct m2_tokenizer *t = l->t;
	struct json_object *single = m2_load_get(part, "single");
	if (l->has_template)
		return m2_fail_field(
			M2_EUNSUPPORTED, l->why, "post_processor", "%s: two templates", l->what);
	l->has_template = true;
	t->before = calloc(MAX_TEMPLATE, sizeof *t->before);
	t->after = calloc(MAX_TEMPLATE, sizeof *t->after);
	if (t->before == NULL || t->after == NULL)
		return m2_load_no_memory(l);
	bool seen_text = false;
	const size_t count =
		json_object_is_type(single, json_type_array) ? json_object_array_length(single) : 0;
	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(single, i);
		struct json_object *special = m2_load_get(item, "SpecialToken");
		if (special == NULL && (seen_text || m2_load_get(item, "Sequence") == NULL))
			return m2_fail_field(M2_EUNSUPPORTED, l->why, "post_processor",
				"%s: the template holds something else than tokens around one "
				"text",
				l->what);
		seen_text |= special == NULL;
		if (special == NULL)
			continue;
		const enum m2_err err = template_ids(l, m2_load_get(part, "special_tokens"),
			special, seen_text ? t->after : t->before,
			seen_text ? &t->n_after : &t->n_before);
		if (err != M2_OK)
			return err;
	}
	return seen_text ? M2_OK
			 : m2_fail_field(M2_EFORMAT, l->why, "post_processor",
				   "%s: the template has no place for the text", l->what);
}

/* Normalised tokens are looked for in normalised text, so their own text is normalised too - for the
 * search only: decoding gives it as it is written. */
static enum m2_err make_sets(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	for (size_t i = 0; i < t->n_added && t->nfc; i++) {
		char *normal;
		size_t length;
		if (!t->added[i].normalized)
			continue;
		const enum m2_err err =
			m2_nfc(t->added[i].text, t->added[i].length, &normal, &length, l->why);
		if (err != M2_OK)
			return err;
		if (normal == NULL)
			continue;
		free(t->added[i].text);
		t->added[i].text = normal;
		t->added[i].length = length;
	}
	for (int normalized = 0; normalized < 2; normalized++)
		for (int specials = 0; specials < 2; specials++) {
			const enum m2_err err = m2_added_set_init(&t->sets[normalized][specials],
				t->added, t->n_added, normalized != 0, specials != 0, l->why);
			if (err != M2_OK)
				return err;
		}
	return M2_OK;
}

static const struct stage stages[] = {
	{"normalizer", "normalizers", {{"NFC", take_nfc}}},
	{"pre_tokenizer", "pretokenizers", {{"ByteLevel", take_byte_level}}},
	{"post_processor", "processors",
		{{"ByteLevel", take_nothing}, {"TemplateProcessing", take_template}}},
	{"decoder", "decoders", {{"ByteLevel", take_decoder}}},
};

/* A part, or a Sequence of parts; the file's depth bounds the recursion. */
static enum m2_err take_part(
	struct m2_tokenizer_load *l, const struct stage *stage, struct json_object *part)
{
	const char *type = NULL;
	if (part == NULL)
		return M2_OK;
	enum m2_err err = m2_json_get_string(part, "type", 64, &type, NULL, NULL, l->why);
	if (err != M2_OK)
		return err;
	if (type == NULL)
		return m2_fail_field(M2_EFORMAT, l->why, stage->key, "%s: the %s has no type",
			l->what, stage->key);
	if (strcmp(type, "Sequence") == 0) {
		struct json_object *list;
		err = m2_json_get_array(part, stage->list, 64, &list, NULL, l->why);
		for (size_t i = 0; list != NULL && i < json_object_array_length(list); i++) {
			err = take_part(l, stage, json_object_array_get_idx(list, i));
			if (err != M2_OK)
				break;
		}
		return err;
	}
	for (size_t i = 0; i < sizeof stage->kinds / sizeof *stage->kinds; i++)
		if (stage->kinds[i].type != NULL && strcmp(stage->kinds[i].type, type) == 0)
			return stage->kinds[i].take(l, part);
	return m2_fail_field(M2_EUNSUPPORTED, l->why, stage->key,
		"%s: the %s \"%s\" is not supported", l->what, stage->key, type);
}

static enum m2_err read_stages(struct m2_tokenizer_load *l, struct json_object *root)
{
	for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
		const enum m2_err err = take_part(l, &stages[i], m2_load_get(root, stages[i].key));
		if (err != M2_OK)
			return err;
	}
	if (!l->has_pre_tokenizer || !l->has_decoder)
		return m2_fail_field(M2_EUNSUPPORTED, l->why,
			l->has_pre_tokenizer ? "decoder" : "pre_tokenizer",
			"%s: no ByteLevel %s; only byte-level BPE is supported", l->what,
			l->has_pre_tokenizer ? "decoder" : "pre_tokenizer");
	return make_sets(l);
}

/* Most bytes a token can add to a stream: its own, with each invalid part as U+FFFD. */
static void measure_text(struct m2_tokenizer *t)
{
	for (int32_t id = 0; id < t->size; id++) {
		const unsigned char *p = t->bytes + t->tokens[id].at;
		size_t left = t->tokens[id].length;
		size_t text = 0;
		while (left > 0) {
			uint32_t code;
			const int n = m2_utf8_decode(p, left, &code);
			const size_t used = n > 0 ? (size_t)n : n < 0 ? (size_t)-n : left;
			text += n > 0 ? used : 3;
			p += used;
			left -= used;
		}
		if (text > t->max_text)
			t->max_text = text;
	}
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
	if (l.t == NULL)
		err = m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	else if (!json_object_is_type(root, json_type_object))
		err = m2_fail(M2_EFORMAT, why, "%s: not an object", what);
	else
		err = m2_load_vocab(&l, root);
	if (err == M2_OK)
		err = read_stages(&l, root);
	json_object_put(root);
	if (err != M2_OK) {
		m2_tokenizer_close(&l.t);
		return err;
	}
	measure_text(l.t);
	*out = l.t;
	return M2_OK;
}

enum m2_err m2_tokenizer_open(const char *path, struct m2_tokenizer **out, struct m2_why *why)
{
	struct stat st;
	char *inside = NULL;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
		asprintf(&inside, "%s/tokenizer.json", path) < 0)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", path);
	const char *file = inside != NULL ? inside : path;
	char *text;
	size_t length;
	enum m2_err err = m2_file_read(AT_FDCWD, file, file, MAX_FILE_BYTES, &text, &length, why);
	if (err == M2_OK) {
		err = m2_tokenizer_parse(text, length, file, out, why);
		free(text);
	}
	free(inside);
	return err;
}
