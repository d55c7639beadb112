/* tokenizer_template.c - the post-processor of a tokenizer.json: what goes around a text.
 *
 * Only the template of a single text is taken; templates of conversations are template.c's and have
 * nothing to do with this.
 */
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "model/tokenizer_load.h"

enum { MAX_TEMPLATE = 64 };

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

static enum m2_err read_template(struct m2_tokenizer_load *l, struct json_object *part)
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

static enum m2_err take(
	struct m2_tokenizer_load *l, struct json_object *part, const char *type, void *context)
{
	(void)context;
	if (strcmp(type, "ByteLevel") == 0) /* as a post-processor it moves offsets only */
		return M2_OK;
	if (strcmp(type, "TemplateProcessing") == 0)
		return read_template(l, part);
	return m2_load_unsupported(l, "post_processor", type);
}

enum m2_err m2_load_template(struct m2_tokenizer_load *l, struct json_object *root)
{
	return m2_load_parts(
		l, m2_load_get(root, "post_processor"), "post_processor", "processors", take, NULL);
}
