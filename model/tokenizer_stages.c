/* tokenizer_stages.c - the normalizer and the pre-tokenizer of a tokenizer.json, as steps.
 *
 * ByteLevel as a pre-tokenizer makes the model one of bytes.  It must be the last step: behind it the
 * reference library has a text of stand-ins, which other steps would cut where nobody means it.
 */
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/utf8.h"
#include "model/tokenizer_load.h"

enum { MAX_STEPS = 16 };

/* ---- normalizers ---- */

static enum m2_err new_norm(struct m2_tokenizer_load *l, struct m2_norm_step **out)
{
	struct m2_tokenizer *t = l->t;
	if (t->norms == NULL)
		t->norms = calloc(MAX_STEPS, sizeof *t->norms);
	if (t->norms == NULL)
		return m2_load_no_memory(l);
	if (t->n_norms == MAX_STEPS)
		return m2_fail_field(M2_ELIMIT, l->why, "normalizer",
			"%s: more than %d normalizers", l->what, MAX_STEPS);
	*out = &t->norms[t->n_norms++];
	return M2_OK;
}

static enum m2_err read_replace(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_norm_step *step)
{
	const struct m2_pattern *pattern;
	const char *to = NULL;
	step->kind = M2_NORM_REPLACE;
	enum m2_err err =
		m2_load_pattern(l, part, "normalizer", &step->from, &step->from_length, &pattern);
	if (err == M2_OK && pattern != NULL)
		err = m2_fail_field(M2_EUNSUPPORTED, l->why, "normalizer",
			"%s: Replace by the pattern of %s is not supported", l->what,
			pattern->name);
	if (err == M2_OK)
		err = m2_json_get_string(
			part, "content", 4096, &to, &step->to_length, NULL, l->why);
	if (err != M2_OK)
		return err;
	step->to = strdup(to != NULL ? to : "");
	return step->to != NULL ? M2_OK : m2_load_no_memory(l);
}

static enum m2_err read_strip(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_norm_step *step)
{
	step->kind = M2_NORM_STRIP;
	step->left = step->right = true;
	const enum m2_err err = m2_json_get_bool(part, "strip_left", &step->left, NULL, l->why);
	return err == M2_OK ? m2_json_get_bool(part, "strip_right", &step->right, NULL, l->why)
			    : err;
}

static enum m2_err take_normalizer(
	struct m2_tokenizer_load *l, struct json_object *part, const char *type, void *context)
{
	static const struct {
		const char *type;
		enum m2_unicode_form form;
	} forms[] = {{"NFC", M2_NFC}, {"NFD", M2_NFD}, {"NFKC", M2_NFKC}, {"NFKD", M2_NFKD}};
	struct m2_norm_step *step = NULL;
	(void)context;
	const enum m2_err err = new_norm(l, &step);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
		if (strcmp(type, forms[i].type) == 0) {
			*step = (struct m2_norm_step){.kind = M2_NORM_FORM, .form = forms[i].form};
			return M2_OK;
		}
	if (strcmp(type, "Replace") == 0)
		return read_replace(l, part, step);
	if (strcmp(type, "Strip") == 0)
		return read_strip(l, part, step);
	step->kind = strcmp(type, "Prepend") == 0 ? M2_NORM_PREPEND : M2_NORM_LOWER;
	if (step->kind == M2_NORM_PREPEND)
		return m2_load_string(
			l, part, "prepend", "normalizer", &step->to, &step->to_length);
	return strcmp(type, "Lowercase") == 0 ? M2_OK : m2_load_unsupported(l, "normalizer", type);
}

enum m2_err m2_load_normalizer(struct m2_tokenizer_load *l, struct json_object *root)
{
	return m2_load_parts(l, m2_load_get(root, "normalizer"), "normalizer", "normalizers",
		take_normalizer, NULL);
}

/* ---- pre-tokenizers ---- */

static enum m2_err read_choice(struct m2_tokenizer_load *l, struct json_object *part,
	const char *key, const char *const *names, int count, int *out)
{
	const char *text = NULL;
	const enum m2_err err = m2_json_get_string(part, key, 64, &text, NULL, NULL, l->why);
	if (err != M2_OK || text == NULL)
		return err;
	for (int i = 0; i < count; i++)
		if (strcmp(text, names[i]) == 0) {
			*out = i;
			return M2_OK;
		}
	return m2_fail_field(M2_EUNSUPPORTED, l->why, "pre_tokenizer",
		"%s: the pre_tokenizer's %s \"%s\" is not supported", l->what, key, text);
}

/* The order is that of enum m2_cut_behaviour. */
static enum m2_err read_behaviour(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	static const char *const names[] = {
		"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
	int which = M2_CUT_ISOLATED;
	const enum m2_err err = read_choice(l, part, "behavior", names, 5, &which);
	step->behaviour = (enum m2_cut_behaviour)which;
	return err;
}

static enum m2_err read_byte_level(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	bool found;
	bool regex = true;
	step->kind = M2_CUT_BYTE_LEVEL;
	step->behaviour = M2_CUT_ISOLATED;
	l->t->symbols = M2_SYMBOLS_BYTES;
	enum m2_err err = m2_json_get_bool(part, "add_prefix_space", &step->prefix, &found, l->why);
	if (err == M2_OK && !found)
		err = m2_fail_field(M2_EFORMAT, l->why, "pre_tokenizer",
			"%s: ByteLevel lacks add_prefix_space", l->what);
	if (err == M2_OK)
		err = m2_json_get_bool(part, "use_regex", &regex, NULL, l->why);
	step->scan = regex ? m2_gpt2_next : NULL;
	return err;
}

/* prepend_scheme, or add_prefix_space in older files. */
static enum m2_err read_metaspace(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	static const char *const schemes[] = {"always", "first", "never"};
	int scheme = M2_PREPEND_ALWAYS;
	bool prefix = true;
	uint32_t code;
	step->kind = M2_CUT_METASPACE;
	step->behaviour = M2_CUT_MERGED_WITH_NEXT;
	step->split = true;
	enum m2_err err =
		m2_load_string(l, part, "replacement", "pre_tokenizer", &step->text, &step->length);
	if (err == M2_OK && m2_utf8_decode((const unsigned char *)step->text, step->length,
				    &code) != (int)step->length)
		err = m2_fail_field(M2_EFORMAT, l->why, "pre_tokenizer",
			"%s: Metaspace's replacement is not one character", l->what);
	if (err == M2_OK)
		err = m2_json_get_bool(part, "add_prefix_space", &prefix, NULL, l->why);
	if (!prefix)
		scheme = M2_PREPEND_NEVER;
	if (err == M2_OK)
		err = read_choice(l, part, "prepend_scheme", schemes, 3, &scheme);
	step->prepend = (enum m2_prepend)scheme;
	return err == M2_OK ? m2_json_get_bool(part, "split", &step->split, NULL, l->why) : err;
}

static enum m2_err read_split(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	const struct m2_pattern *pattern = NULL;
	enum m2_err err =
		m2_load_pattern(l, part, "pre_tokenizer", &step->text, &step->length, &pattern);
	step->kind = pattern != NULL ? M2_CUT_SCAN : M2_CUT_STRING;
	step->scan = pattern != NULL ? pattern->scan : NULL;
	if (err == M2_OK)
		err = read_behaviour(l, part, step);
	return err == M2_OK ? m2_json_get_bool(part, "invert", &step->invert, NULL, l->why) : err;
}

static bool is_number(unsigned code)
{
	return m2_char_class_of(code) == M2_CHAR_NUMBER;
}

static bool is_space(unsigned code)
{
	return m2_char_class_of(code) == M2_CHAR_SPACE;
}

static bool is_punctuation(unsigned code)
{
	return m2_char_is_punctuation(code);
}

static enum m2_err read_digits(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	bool individual = false;
	const enum m2_err err =
		m2_json_get_bool(part, "individual_digits", &individual, NULL, l->why);
	step->kind = M2_CUT_CLASS;
	step->is = is_number;
	step->behaviour = individual ? M2_CUT_ISOLATED : M2_CUT_CONTIGUOUS;
	return err;
}

static enum m2_err read_white_space(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	(void)l;
	(void)part;
	step->kind = M2_CUT_CLASS;
	step->is = is_space;
	step->behaviour = M2_CUT_REMOVED;
	return M2_OK;
}

static enum m2_err read_words(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	(void)l;
	(void)part;
	step->kind = M2_CUT_WORDS;
	step->behaviour = M2_CUT_REMOVED;
	step->invert = true;
	return M2_OK;
}

static enum m2_err read_punctuation(
	struct m2_tokenizer_load *l, struct json_object *part, struct m2_cut_step *step)
{
	step->kind = M2_CUT_CLASS;
	step->is = is_punctuation;
	return read_behaviour(l, part, step);
}

static enum m2_err take_pre_tokenizer(
	struct m2_tokenizer_load *l, struct json_object *part, const char *type, void *context)
{
	static const struct {
		const char *type;
		enum m2_err (*read)(
			struct m2_tokenizer_load *, struct json_object *, struct m2_cut_step *);
	} kinds[] = {{"ByteLevel", read_byte_level}, {"Metaspace", read_metaspace},
		{"Split", read_split}, {"Digits", read_digits},
		{"WhitespaceSplit", read_white_space}, {"Whitespace", read_words},
		{"Punctuation", read_punctuation}};
	struct m2_tokenizer *t = l->t;
	(void)context;
	if (t->symbols == M2_SYMBOLS_BYTES)
		return m2_fail_field(M2_EUNSUPPORTED, l->why, "pre_tokenizer",
			"%s: the pre_tokenizer \"%s\" behind ByteLevel is not supported", l->what,
			type);
	if (t->cuts == NULL)
		t->cuts = calloc(MAX_STEPS, sizeof *t->cuts);
	if (t->cuts == NULL)
		return m2_load_no_memory(l);
	if (t->n_cuts == MAX_STEPS)
		return m2_fail_field(M2_ELIMIT, l->why, "pre_tokenizer",
			"%s: more than %d pre-tokenizers", l->what, MAX_STEPS);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].type, type) == 0)
			return kinds[i].read(l, part, &t->cuts[t->n_cuts++]);
	return m2_load_unsupported(l, "pre_tokenizer", type);
}

enum m2_err m2_load_pre_tokenizer(struct m2_tokenizer_load *l, struct json_object *root)
{
	l->t->symbols = M2_SYMBOLS_CHARS;
	return m2_load_parts(l, m2_load_get(root, "pre_tokenizer"), "pre_tokenizer",
		"pretokenizers", take_pre_tokenizer, NULL);
}
