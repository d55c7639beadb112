/* tokenizer_vocab.c - the tokens and merges of a tokenizer.json.
 *
 * Every id has one meaning, every merge joins tokens that exist into one that exists, and no merge can
 * produce a control token: what a text encodes to is then decided by the text alone.  The pipeline
 * around it is tokenizer_file.c's.
 */
#include "model/tokenizer_load.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/utf8.h"
#include "model/byte_alphabet.h"

enum {
	MAX_ID = (1 << 24) - 1,
	MAX_TOKEN_BYTES = 1 << 16,
	MAX_ADDED = 1 << 16,
	MAX_ADDED_BYTES = 512,
};

/* ---- tokens ---- */

/* Remember the bytes of an id; the arena was sized beforehand. */
static void put_token(
	struct m2_tokenizer_load *l, int64_t id, const char *text, size_t length, bool spelt)
{
	struct m2_token *token = &l->t->tokens[id];
	unsigned char *at = l->t->bytes + l->n_bytes;
	ptrdiff_t n = spelt ? m2_bytes_of_stand_ins(text, length, at) : -1;
	token->in_bytes = n >= 0;
	if (n < 0) { /* no stand-ins: its text is meant */
		memcpy(at, text, length);
		n = (ptrdiff_t)length;
	}
	token->exists = true;
	token->at = (uint32_t)l->n_bytes;
	token->length = (uint32_t)n;
	l->n_bytes += (size_t)n;
}

static enum m2_err measure_vocab(
	const struct m2_tokenizer_load *l, int64_t *max_id, size_t *bytes, size_t *count)
{
	json_object_object_foreach(l->vocab, text, value)
	{
		int64_t id;
		const size_t length = strlen(text);
		if (!m2_json_as_int(value, &id) || id < 0 || id > MAX_ID)
			return m2_fail_field(M2_EFORMAT, l->why, "vocab",
				"%s: the id of \"%.64s\" is not an integer in 0..%d", l->what, text,
				MAX_ID);
		if (length == 0 || length > MAX_TOKEN_BYTES)
			return m2_fail_field(M2_EFORMAT, l->why, "vocab",
				"%s: the token with id %lld has %zu bytes, outside 1..%d", l->what,
				(long long)id, length, MAX_TOKEN_BYTES);
		*max_id = id > *max_id ? id : *max_id;
		*bytes += length;
		(*count)++;
	}
	return M2_OK;
}

/* Room for every token of the vocabulary and every added one. */
static enum m2_err reserve_tokens(struct m2_tokenizer_load *l)
{
	int64_t max_id = -1;
	size_t bytes = 0;
	size_t count = l->t->n_added;
	const enum m2_err err = measure_vocab(l, &max_id, &bytes, &count);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < l->t->n_added; i++) {
		if (l->t->added[i].id > max_id)
			max_id = l->t->added[i].id;
		bytes += l->t->added[i].length;
	}
	/* holes are legal; a file that is nearly all holes only wants our memory */
	if (max_id < 0 || (uint64_t)max_id > 8 * (uint64_t)count + 4096)
		return m2_fail_field(M2_EFORMAT, l->why, "vocab",
			"%s: %zu tokens, and the largest id is %lld", l->what, count,
			(long long)max_id);
	l->t->size = (int32_t)max_id + 1;
	l->t->tokens = calloc((size_t)l->t->size, sizeof *l->t->tokens);
	l->t->bytes = malloc(bytes + 1);
	return l->t->tokens != NULL && l->t->bytes != NULL ? M2_OK : m2_load_no_memory(l);
}

static enum m2_err put_vocab(struct m2_tokenizer_load *l)
{
	json_object_object_foreach(l->vocab, text, value)
	{
		int64_t id = 0;
		(void)m2_json_as_int(value, &id);
		if (l->t->tokens[id].exists)
			return m2_fail_field(M2_EFORMAT, l->why, "vocab",
				"%s: \"%.64s\" has the id %lld of another token", l->what, text,
				(long long)id);
		put_token(l, id, text, strlen(text), true);
	}
	return M2_OK;
}

/* The id that the vocabulary gives this spelling, -1 for none. */
static int32_t vocab_id(const struct m2_tokenizer_load *l, const char *text)
{
	int64_t id = -1;
	struct json_object *value = m2_load_get(l->vocab, text);
	return value != NULL && m2_json_as_int(value, &id) ? (int32_t)id : -1;
}

/* An added token either names one of the vocabulary, or an id that is free. */
static enum m2_err put_added(struct m2_tokenizer_load *l)
{
	for (size_t i = 0; i < l->t->n_added; i++) {
		const struct m2_added_token *a = &l->t->added[i];
		struct m2_token *token = &l->t->tokens[a->id];
		const int32_t known = vocab_id(l, a->text);
		if (known >= 0 ? known != a->id : token->exists)
			return m2_fail_field(M2_EFORMAT, l->why, "added_tokens",
				"%s: the added token \"%.64s\" has id %d, which %s", l->what,
				a->text, a->id,
				known >= 0 ? "differs from its id in the vocabulary"
					   : "belongs to another token");
		/* its text is meant literally, even where it could be read as stand-ins */
		put_token(l, a->id, a->text, a->length, false);
		token->special = a->special;
		token->in_bytes = false;
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
	enum m2_err err = m2_json_get_int(item, "id", 0, MAX_ID, &id, NULL, l->why);
	if (err == M2_OK)
		err = m2_json_get_string(
			item, "content", MAX_ADDED_BYTES, &text, &length, NULL, l->why);
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

static int by_id(const void *a, const void *b)
{
	const struct m2_added_token *x = a;
	const struct m2_added_token *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static enum m2_err read_all_added(struct m2_tokenizer_load *l, struct json_object *root)
{
	struct json_object *list;
	enum m2_err err = m2_json_get_array(root, "added_tokens", MAX_ADDED, &list, NULL, l->why);
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
	if (err != M2_OK)
		return err;
	qsort(l->t->added, count, sizeof *l->t->added, by_id);
	for (size_t i = 1; i < count; i++)
		if (l->t->added[i].id == l->t->added[i - 1].id)
			return m2_fail_field(M2_EFORMAT, l->why, "added_tokens",
				"%s: the id %d is added twice", l->what, l->t->added[i].id);
	return M2_OK;
}

/* ---- the model ---- */

/* Two parts of a merge: ["a", "b"], or "a b" in older files. */
static enum m2_err split_merge(const struct m2_tokenizer_load *l, struct json_object *item,
	size_t index, char *joined, const char **left, const char **right)
{
	const char *a = NULL;
	const char *b = NULL;
	size_t n = 0;
	size_t m = 0;
	if (json_object_is_type(item, json_type_string)) {
		const char *text = json_object_get_string(item);
		const size_t length = (size_t)json_object_get_string_len(item);
		const char *space = strchr(text, ' ');
		if (space != NULL && strchr(space + 1, ' ') == NULL && strlen(text) == length) {
			a = text;
			n = (size_t)(space - text);
			b = space + 1;
			m = strlen(b);
		}
	} else if (json_object_is_type(item, json_type_array) &&
		   json_object_array_length(item) == 2) {
		struct json_object *x = json_object_array_get_idx(item, 0);
		struct json_object *y = json_object_array_get_idx(item, 1);
		if (json_object_is_type(x, json_type_string) &&
			json_object_is_type(y, json_type_string)) {
			a = json_object_get_string(x);
			n = strlen(a);
			b = json_object_get_string(y);
			m = strlen(b);
		}
	}
	if (n == 0 || m == 0 || n > MAX_TOKEN_BYTES || m > MAX_TOKEN_BYTES)
		return m2_fail_field(M2_EFORMAT, l->why, "merges",
			"%s: merge %zu is not a pair of tokens", l->what, index);
	/* joined: "left\0right\0leftright\0" */
	memcpy(joined, a, n);
	joined[n] = '\0';
	memcpy(joined + n + 1, b, m + 1);
	*left = joined;
	*right = joined + n + 1;
	return M2_OK;
}

static enum m2_err put_merge(struct m2_tokenizer_load *l, struct json_object *item, size_t index,
	char *buffer, char *whole)
{
	const char *left = "";
	const char *right = "";
	const enum m2_err err = split_merge(l, item, index, buffer, &left, &right);
	if (err != M2_OK)
		return err;
	const size_t n = strlen(left);
	memcpy(whole, left, n);
	memcpy(whole + n, right, strlen(right) + 1);
	const int32_t a = vocab_id(l, left);
	const int32_t b = vocab_id(l, right);
	const int32_t c = vocab_id(l, whole);
	if (a < 0 || b < 0 || c < 0)
		return m2_fail_field(M2_EFORMAT, l->why, "merges",
			"%s: merge %zu: \"%.64s\" is not in the vocabulary", l->what, index,
			a < 0   ? left
			: b < 0 ? right
				: whole);
	/* no text may grow into a control token: those are put there by name only */
	if (!l->t->tokens[c].special)
		m2_bpe_add(&l->t->bpe, a, b, (uint32_t)index, c);
	return M2_OK;
}

static enum m2_err read_merges(struct m2_tokenizer_load *l, struct json_object *model)
{
	struct json_object *merges;
	enum m2_err err = m2_json_get_array(model, "merges", MAX_ID, &merges, NULL, l->why);
	if (err == M2_OK && merges == NULL)
		err = m2_fail_field(
			M2_EFORMAT, l->why, "merges", "%s: model.merges is missing", l->what);
	if (err != M2_OK)
		return err;
	const size_t count = json_object_array_length(merges);
	err = m2_bpe_init(&l->t->bpe, count, l->why);
	if (err != M2_OK)
		return err;
	for (unsigned byte = 0; byte < 256; byte++) {
		char text[5] = {0};
		(void)m2_utf8_encode(
			m2_stand_in_of_byte((unsigned char)byte), (unsigned char *)text);
		l->t->bpe.byte_ids[byte] = vocab_id(l, text);
	}
	char *buffer = malloc(2 * ((size_t)2 * MAX_TOKEN_BYTES + 2));
	if (buffer == NULL)
		return m2_load_no_memory(l);
	for (size_t i = 0; i < count && err == M2_OK; i++)
		err = put_merge(l, json_object_array_get_idx(merges, i), i, buffer,
			buffer + 2 * MAX_TOKEN_BYTES + 2);
	free(buffer);
	return err;
}

/* Whole words first: a table from bytes to ids. */
static enum m2_err make_words(struct m2_tokenizer_load *l)
{
	struct m2_tokenizer *t = l->t;
	t->n_word_slots = 16;
	while (t->n_word_slots < 2 * (size_t)t->size)
		t->n_word_slots *= 2;
	t->words = calloc(t->n_word_slots, sizeof *t->words);
	if (t->words == NULL)
		return m2_load_no_memory(l);
	for (int32_t id = 0; id < t->size; id++) {
		const struct m2_token *token = &t->tokens[id];
		if (!token->in_bytes || token->special)
			continue;
		const size_t slot = m2_tokenizer_word_slot(
			t, t->words, t->n_word_slots, t->bytes + token->at, token->length);
		if (t->words[slot] == 0)
			t->words[slot] = id + 1;
	}
	return M2_OK;
}

/* Keys of the model that must be absent, null, false, zero or empty. */
static enum m2_err refuse_features(const struct m2_tokenizer_load *l, struct json_object *model)
{
	static const char *const features[] = {
		"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"};
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

static enum m2_err find_vocab(
	struct m2_tokenizer_load *l, struct json_object *root, struct json_object **model)
{
	const char *type =
		"BPE"; /* files from before the key was written are BPE by their merges */
	enum m2_err err = m2_json_get_object(root, "model", model, NULL, l->why);
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

enum m2_err m2_load_vocab(struct m2_tokenizer_load *l, struct json_object *root)
{
	struct json_object *model;
	bool ignore_merges = false;
	enum m2_err err = find_vocab(l, root, &model);
	if (err == M2_OK)
		err = m2_json_get_bool(model, "ignore_merges", &ignore_merges, NULL, l->why);
	if (err == M2_OK)
		err = read_all_added(l, root);
	if (err == M2_OK)
		err = reserve_tokens(l);
	if (err == M2_OK)
		err = put_vocab(l);
	if (err == M2_OK)
		err = put_added(l);
	if (err == M2_OK)
		err = read_merges(l, model);
	if (err == M2_OK && ignore_merges)
		err = make_words(l);
	return err;
}
