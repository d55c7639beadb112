/* tokenizer_vocab.c - the tokens and merges of a tokenizer.json.
 *
 * Only what is JSON about them: what tokens mean and which contradict each other is tokenizer_build.c's,
 * the pipeline around them tokenizer_stages.c's and tokenizer_decoder.c's.
 */
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "model/tokenizer_load.h"

/* ---- tokens ---- */

/* Ids of the vocabulary are checked here, so that put_vocab may trust them. */
static enum m2_err reserve(struct m2_tokenizer_load *l)
{
	int64_t max_id = -1;
	size_t count = l->t->n_added;
	json_object_object_foreach(l->vocab, text, value)
	{
		int64_t id;
		if (!m2_json_as_int(value, &id) || id < 0 || id > M2_MAX_TOKEN_ID)
			return m2_fail_field(M2_EFORMAT, l->why, "vocab",
				"%s: the id of \"%.64s\" is not an integer in 0..%d", l->what, text,
				M2_MAX_TOKEN_ID);
		max_id = id > max_id ? id : max_id;
		count++;
	}
	for (size_t i = 0; i < l->t->n_added; i++)
		max_id = l->t->added[i].id > max_id ? l->t->added[i].id : max_id;
	return m2_load_reserve(l, max_id, count);
}

static enum m2_err put_vocab(struct m2_tokenizer_load *l)
{
	json_object_object_foreach(l->vocab, text, value)
	{
		int64_t id = 0;
		(void)m2_json_as_int(value, &id);
		const enum m2_err err = m2_load_put(l, id, text, strlen(text), "vocab");
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

static enum m2_err read_added(
	struct m2_tokenizer_load *l, struct json_object *item, struct m2_added_token *a)
{
	int64_t id = -1;
	const char *text = NULL;
	size_t length = 0;
	const struct {
		const char *key;
		bool *at;
	} flags[] = {{"special", &a->special}, {"normalized", &a->normalized},
		{"single_word", &a->single_word}, {"lstrip", &a->lstrip}, {"rstrip", &a->rstrip}};
	enum m2_err err = m2_json_get_int(item, "id", 0, M2_MAX_TOKEN_ID, &id, NULL, l->why);
	if (err == M2_OK)
		err = m2_json_get_string(
			item, "content", M2_MAX_ADDED_BYTES, &text, &length, NULL, l->why);
	if (err == M2_OK && (id < 0 || length == 0))
		err = m2_fail_field(M2_EFORMAT, l->why, "added_tokens",
			"%s: an added token lacks its id or its content", l->what);
	for (size_t i = 0; i < sizeof flags / sizeof *flags && err == M2_OK; i++)
		err = m2_json_get_bool(item, flags[i].key, flags[i].at, NULL, l->why);
	if (err != M2_OK)
		return err;
	a->id = (int32_t)id;
	a->length = length;
	a->text = malloc(length + 1);
	if (a->text == NULL)
		return m2_load_no_memory(l);
	memcpy(a->text, text, length + 1);
	return M2_OK;
}

static enum m2_err read_all_added(struct m2_tokenizer_load *l, struct json_object *root)
{
	struct json_object *list;
	enum m2_err err =
		m2_json_get_array(root, "added_tokens", M2_MAX_ADDED, &list, NULL, l->why);
	if (err != M2_OK || list == NULL)
		return err;
	const size_t count = json_object_array_length(list);
	l->t->added = calloc(count + 1, sizeof *l->t->added);
	if (l->t->added == NULL)
		return m2_load_no_memory(l);
	for (size_t i = 0; i < count && err == M2_OK; i++) {
		err = read_added(l, json_object_array_get_idx(list, i), &l->t->added[i]);
		l->t->n_added += l->t->added[i].text != NULL;
	}
	return err;
}

/* ---- merges ---- */

struct merge {
	const char *left, *right;
	size_t n, m;
};

/* ["a", "b"], or "a b" in older files. */
static enum m2_err read_merge(const struct m2_tokenizer_load *l, struct json_object *item,
	size_t index, struct merge *out)
{
	*out = (struct merge){.n = 0};
	if (json_object_is_type(item, json_type_string)) {
		const char *text = json_object_get_string(item);
		const size_t length = (size_t)json_object_get_string_len(item);
		const char *space = strchr(text, ' ');
		if (space != NULL && strchr(space + 1, ' ') == NULL && strlen(text) == length)
			*out = (struct merge){text, space + 1, (size_t)(space - text),
				length - (size_t)(space + 1 - text)};
	} else if (json_object_is_type(item, json_type_array) &&
		   json_object_array_length(item) == 2) {
		struct json_object *x = json_object_array_get_idx(item, 0);
		struct json_object *y = json_object_array_get_idx(item, 1);
		if (json_object_is_type(x, json_type_string) &&
			json_object_is_type(y, json_type_string))
			*out = (struct merge){json_object_get_string(x), json_object_get_string(y),
				(size_t)json_object_get_string_len(x),
				(size_t)json_object_get_string_len(y)};
	}
	if (out->n == 0 || out->m == 0 || out->n > M2_MAX_TOKEN_BYTES ||
		out->m > M2_MAX_TOKEN_BYTES)
		return m2_fail_field(M2_EFORMAT, l->why, "merges",
			"%s: merge %zu is not a pair of tokens", l->what, index);
	return M2_OK;
}

static enum m2_err read_merges(struct m2_tokenizer_load *l, struct json_object *model)
{
	struct json_object *merges;
	enum m2_err err =
		m2_json_get_array(model, "merges", M2_MAX_TOKEN_ID, &merges, NULL, l->why);
	if (err == M2_OK && merges == NULL)
		err = m2_fail_field(
			M2_EFORMAT, l->why, "merges", "%s: model.merges is missing", l->what);
	if (err != M2_OK)
		return err;
	const size_t count = json_object_array_length(merges);
	err = m2_bpe_init(&l->t->bpe, count, l->why);
	for (size_t i = 0; i < count && err == M2_OK; i++) {
		struct merge merge;
		err = read_merge(l, json_object_array_get_idx(merges, i), i, &merge);
		if (err == M2_OK)
			err = m2_load_merge(l, merge.left, merge.n, merge.right, merge.m, i);
	}
	return err;
}

/* ---- the model ---- */

/* Keys of the model that must be absent, null, false, zero or empty. */
static enum m2_err refuse_features(const struct m2_tokenizer_load *l, struct json_object *model)
{
	static const char *const features[] = {
		"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
	for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
		struct json_object *value = m2_load_get(model, features[i]);
		const bool set = json_object_is_type(value, json_type_string)
					 ? json_object_get_string_len(value) > 0
					 : json_object_get_double(value) != 0.0 ||
						   json_object_get_boolean(value);
		if (value != NULL && set)
			return m2_fail_field(M2_EUNSUPPORTED, l->why, features[i],
				"%s: model.%s is set, which is not supported", l->what,
				features[i]);
	}
	return M2_OK;
}

static enum m2_err find_model(
	struct m2_tokenizer_load *l, struct json_object *root, struct json_object **model)
{
	const char *type =
		"BPE"; /* files from before the key was written are BPE by their merges */
	enum m2_err err = m2_json_get_object(root, "model", model, NULL, l->why);
	if (err == M2_OK && *model == NULL && m2_load_get(root, "config") != NULL &&
		m2_load_get(root, "vocab") != NULL)
		return m2_fail_field(M2_EUNSUPPORTED, l->why, "model",
			"%s: a tekken file (config and vocab), which is not supported", l->what);
	if (err == M2_OK && *model == NULL)
		err = m2_fail_field(M2_EFORMAT, l->why, "model", "%s: it has no model", l->what);
	if (err == M2_OK)
		err = m2_json_get_string(*model, "type", 64, &type, NULL, NULL, l->why);
	if (err == M2_OK && strcmp(type, "BPE") != 0)
		err = m2_fail_field(M2_EUNSUPPORTED, l->why, "model",
			"%s: the model is \"%s\"; only BPE is supported", l->what, type);
	if (err == M2_OK)
		err = m2_json_get_object(*model, "vocab", &l->vocab, NULL, l->why);
	if (err == M2_OK && l->vocab == NULL)
		err = m2_fail_field(
			M2_EFORMAT, l->why, "vocab", "%s: model.vocab is missing", l->what);
	return err == M2_OK ? refuse_features(l, *model) : err;
}

static enum m2_err read_unknown(struct m2_tokenizer_load *l, struct json_object *model)
{
	struct m2_tokenizer *t = l->t;
	const char *text = NULL;
	size_t length = 0;
	const enum m2_err err = m2_json_get_string(
		model, "unk_token", M2_MAX_ADDED_BYTES, &text, &length, NULL, l->why);
	if (err == M2_OK && text != NULL)
		t->unk = m2_word_find(t, (const unsigned char *)text, length);
	/* bytes are always known, so only characters can be unknown */
	if (err == M2_OK && text != NULL && t->unk < 0 && t->symbols != M2_SYMBOLS_BYTES)
		return m2_fail_field(M2_EFORMAT, l->why, "unk_token",
			"%s: model.unk_token \"%.64s\" is not in the vocabulary", l->what, text);
	return err;
}

enum m2_err m2_load_vocab(struct m2_tokenizer_load *l, struct json_object *root)
{
	struct m2_tokenizer *t = l->t;
	struct json_object *model;
	enum m2_err err = find_model(l, root, &model);
	const struct {
		const char *key;
		bool *at;
	} flags[] = {{"ignore_merges", &t->ignore_merges}, {"byte_fallback", &t->byte_fallback},
		{"fuse_unk", &t->fuse_unk}};
	for (size_t i = 0; i < sizeof flags / sizeof *flags && err == M2_OK; i++)
		err = m2_json_get_bool(model, flags[i].key, flags[i].at, NULL, l->why);
	if (err == M2_OK)
		err = read_all_added(l, root);
	if (err == M2_OK)
		err = reserve(l);
	if (err == M2_OK)
		err = put_vocab(l);
	if (err == M2_OK)
		err = m2_load_put_added(l);
	if (err == M2_OK)
		err = read_unknown(l, model);
	if (err == M2_OK) {
		m2_load_byte_ids(l);
		err = read_merges(l, model);
	}
	return err;
}
