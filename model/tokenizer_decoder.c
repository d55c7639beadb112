/* tokenizer_decoder.c - the decoder of a tokenizer.json, worked out for every token beforehand.
 *
 * The reference library runs the parts over the list of tokens of a text.  What they do to a token does
 * not depend on the others, but for the first one and for bytes, so it is done once, here, and
 * text_stream.c has only to put the results one after another:
 *   Replace, Metaspace, Strip   change each token;
 *   ByteFallback                makes <0xXX> a byte;
 *   ByteLevel                   reads stand-ins as bytes;
 *   Fuse                        joins all, so that a Strip behind it sees the text as a whole.
 * Other orders are refused.
 */
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer_load.h"

enum { MAX_STEPS = 16 };

enum step_kind { STEP_REPLACE, STEP_METASPACE, STEP_STRIP };

struct step {
	enum step_kind kind;
	char *from;
	size_t from_length;
	char *to;
	size_t to_length;
	int64_t start, stop;
	bool drops_at_first; /* Metaspace: its spaces vanish from the first token */
};

struct decoder {
	struct step steps[MAX_STEPS];
	size_t n_steps;
	bool byte_level, byte_fallback, fused;
	bool any;
};

static void finish(struct decoder *d)
{
	for (size_t i = 0; i < d->n_steps; i++) {
		free(d->steps[i].from);
		free(d->steps[i].to);
	}
}

/* ---- reading ---- */

static enum m2_err read_replace(
	struct m2_tokenizer_load *l, struct json_object *part, struct step *step)
{
	const struct m2_pattern *pattern;
	const char *to = NULL;
	step->kind = STEP_REPLACE;
	enum m2_err err =
		m2_load_pattern(l, part, "decoder", &step->from, &step->from_length, &pattern);
	if (err == M2_OK && pattern != NULL)
		err = m2_load_unsupported(l, "decoder", "Replace by a pattern");
	if (err == M2_OK)
		err = m2_json_get_string(
			part, "content", 4096, &to, &step->to_length, NULL, l->why);
	if (err != M2_OK)
		return err;
	step->to = strdup(to != NULL ? to : "");
	return step->to != NULL ? M2_OK : m2_load_no_memory(l);
}

static enum m2_err read_metaspace(
	struct m2_tokenizer_load *l, struct json_object *part, struct step *step)
{
	const char *scheme = "always";
	bool prefix = true;
	step->kind = STEP_METASPACE;
	enum m2_err err =
		m2_load_string(l, part, "replacement", "decoder", &step->from, &step->from_length);
	if (err == M2_OK)
		err = m2_json_get_bool(part, "add_prefix_space", &prefix, NULL, l->why);
	if (!prefix)
		scheme = "never";
	if (err == M2_OK)
		err = m2_json_get_string(part, "prepend_scheme", 64, &scheme, NULL, NULL, l->why);
	step->drops_at_first = strcmp(scheme, "never") != 0;
	return err;
}

static enum m2_err read_strip(
	struct m2_tokenizer_load *l, struct json_object *part, struct decoder *d, struct step *step)
{
	step->kind = STEP_STRIP;
	enum m2_err err =
		m2_load_string(l, part, "content", "decoder", &step->from, &step->from_length);
	if (err == M2_OK)
		err = m2_json_get_int(part, "start", 0, 255, &step->start, NULL, l->why);
	if (err == M2_OK)
		err = m2_json_get_int(part, "stop", 0, 255, &step->stop, NULL, l->why);
	if (err != M2_OK || !d->fused)
		return err;
	/* the end of a text is not known while it streams */
	if (step->stop != 0 || strcmp(step->from, " ") != 0 || l->t->strip != 0)
		return m2_load_unsupported(
			l, "decoder", "Strip of anything but spaces at the start behind Fuse");
	l->t->strip = (uint8_t)step->start;
	step->start = 0;
	return M2_OK;
}

static enum m2_err take(
	struct m2_tokenizer_load *l, struct json_object *part, const char *type, void *context)
{
	struct decoder *d = context;
	const bool strip = strcmp(type, "Strip") == 0;
	d->any = true;
	if (strcmp(type, "Fuse") == 0) {
		d->fused = true;
		return M2_OK;
	}
	if ((d->fused && !strip) || (!d->fused && (d->byte_level || d->byte_fallback)))
		return m2_fail_field(M2_EUNSUPPORTED, l->why, "decoder",
			"%s: the decoder \"%s\" behind %s is not supported", l->what, type,
			d->fused        ? "Fuse"
			: d->byte_level ? "ByteLevel"
					: "ByteFallback");
	if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "ByteFallback") == 0) {
		bool *flag = type[4] == 'L' ? &d->byte_level : &d->byte_fallback;
		*flag = true;
		return M2_OK;
	}
	if (d->n_steps == MAX_STEPS)
		return m2_fail_field(M2_ELIMIT, l->why, "decoder", "%s: more than %d decoders",
			l->what, MAX_STEPS);
	struct step *step = &d->steps[d->n_steps++];
	if (strip)
		return read_strip(l, part, d, step);
	if (strcmp(type, "Replace") == 0)
		return read_replace(l, part, step);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(l, part, step);
	return m2_load_unsupported(l, "decoder", type);
}

/* ---- the text of one token ---- */

struct text {
	char *at; /* owned */
	size_t length;
};

static void cut_ends(const struct step *s, struct text *text)
{
	const size_t n = s->from_length;
	size_t from = 0;
	for (int64_t i = 0; i < s->start && text->length - from >= n &&
			    memcmp(text->at + from, s->from, n) == 0;
		i++)
		from += n;
	for (int64_t i = 0; i < s->stop && text->length - from >= n &&
			    memcmp(text->at + text->length - n, s->from, n) == 0;
		i++)
		text->length -= n;
	text->length -= from;
	memmove(text->at, text->at + from, text->length);
}

static enum m2_err take_step(
	struct m2_tokenizer_load *l, const struct step *s, bool first, struct text *text)
{
	if (s->kind == STEP_STRIP) {
		cut_ends(s, text);
		return M2_OK;
	}
	const bool space = s->kind == STEP_METASPACE && !(first && s->drops_at_first);
	char *out;
	size_t length;
	const enum m2_err err = m2_replace_all(text->at, text->length, s->from, s->from_length,
		s->kind == STEP_REPLACE ? s->to : " ",
		s->kind == STEP_REPLACE ? s->to_length
		: space                 ? 1
					: 0,
		&out, &length, l->why);
	if (err == M2_OK && out != NULL) {
		free(text->at);
		*text = (struct text){out, length};
	}
	return err;
}

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* "<0xE2>": its byte, else -1. */
static int fallen_byte(const struct text *t)
{
	if (t->length != 6 || memcmp(t->at, "<0x", 3) != 0 || t->at[5] != '>' ||
		hex(t->at[3]) < 0 || hex(t->at[4]) < 0)
		return -1;
	return hex(t->at[3]) << 4 | hex(t->at[4]);
}

/* The bytes that a text stands for, if it does. */
static enum m2_err read_stand_ins(struct m2_tokenizer_load *l, struct text *text)
{
	unsigned char *bytes = malloc(text->length + 1);
	if (bytes == NULL)
		return m2_load_no_memory(l);
	const ptrdiff_t n = m2_bytes_of_stand_ins(text->at, text->length, bytes);
	if (n < 0) {
		free(bytes);
		return M2_OK;
	}
	free(text->at);
	*text = (struct text){(char *)bytes, (size_t)n};
	return M2_OK;
}

static enum m2_err emit(struct m2_tokenizer_load *l, const struct decoder *d,
	struct m2_token *token, bool first, struct m2_span *span)
{
	struct text text = {malloc(token->spelled.length + 1), token->spelled.length};
	enum m2_err err = M2_OK;
	if (text.at == NULL)
		return m2_load_no_memory(l);
	/* a copy: what the tokenizer holds moves when more is put there */
	memcpy(text.at, m2_span_bytes(l->t, &token->spelled), text.length);
	for (size_t i = 0; i < d->n_steps && err == M2_OK; i++)
		err = take_step(l, &d->steps[i], first, &text);
	const int byte = d->byte_fallback && err == M2_OK ? fallen_byte(&text) : -1;
	if (byte >= 0) {
		token->byte = true;
		text.at[0] = (char)byte;
		text.length = 1;
	} else if (d->byte_level && !token->added && err == M2_OK) {
		/* an added token's text is meant literally, even where it could be stand-ins */
		err = read_stand_ins(l, &text);
	}
	if (err == M2_OK)
		err = m2_load_bytes(l, text.at, text.length, span);
	free(text.at);
	return err;
}

static enum m2_err text_of(struct m2_tokenizer_load *l, struct m2_token *token, const void *context)
{
	const enum m2_err err = emit(l, context, token, false, &token->text);
	token->first = token->text;
	return err == M2_OK && l->t->beginning == M2_BEGINNING_TOKEN
		       ? emit(l, context, token, true, &token->first)
		       : err;
}

enum m2_err m2_load_decoder(struct m2_tokenizer_load *l, struct json_object *root)
{
	struct decoder d = {.n_steps = 0};
	enum m2_err err =
		m2_load_parts(l, m2_load_get(root, "decoder"), "decoder", "decoders", take, &d);
	if (err == M2_OK && !d.any)
		err = m2_fail_field(M2_EUNSUPPORTED, l->why, "decoder",
			"%s: it has no decoder, so that words would be joined by spaces", l->what);
	for (size_t i = 0; i < d.n_steps; i++)
		if (d.steps[i].drops_at_first)
			l->t->beginning = M2_BEGINNING_TOKEN;
	l->t->byte_level = d.byte_level;
	if (err == M2_OK)
		err = m2_load_texts(l, text_of, &d);
	finish(&d);
	return err;
}
