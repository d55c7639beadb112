/* tokenizer.c - text to ids.
 *
 * The order is the reference library's: raw added tokens, normalisation, normalised added tokens, words,
 * symbols, merges.  Runs of spaces of GPT-NeoX are added tokens, so code that skips the third step gets
 * every indented line wrong.  A SentencePiece model has the same order with one normaliser of its own;
 * what lies between two special tokens is a text by itself to it.  Reading the files is tokenizer_file.c's
 * and tokenizer_pieces.c's work, decoding text_stream.c's.
 */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/tokenizer_encode.h"

/* Text beyond this cannot be indexed by the merge's 32-bit positions. */
enum { MAX_TEXT = 1 << 30 };

enum m2_err m2_encoder_push(struct m2_encoder *e, int32_t id)
{
	if (e->n == e->max)
		return m2_fail(M2_ELIMIT, e->why, "the text has more than %zu tokens", e->max);
	if (e->n == e->cap) {
		const size_t cap = e->cap * 2;
		int32_t *grown = realloc(e->ids, cap * sizeof *grown);
		if (grown == NULL)
			return m2_fail(M2_ENOMEM, e->why, "out of memory for %zu tokens", cap);
		e->ids = grown;
		e->cap = cap;
	}
	e->ids[e->n++] = id;
	return M2_OK;
}

static enum m2_err take_word(void *context, const char *word, size_t length)
{
	return m2_encode_word(context, word, length);
}

/* Normalised text without added tokens.  first: it begins where the input does. */
static enum m2_err encode_plain(struct m2_encoder *e, const char *text, size_t length, bool first)
{
	return m2_cut(e->t->cuts, e->t->n_cuts, text, length, first, take_word, e, e->why);
}

static enum m2_err encode_raw(struct m2_encoder *e, const char *text, size_t length, bool first);

/* Split at one set's tokens and hand on what lies between. */
static enum m2_err split(
	struct m2_encoder *e, bool normalized, const char *text, size_t length, bool first)
{
	const struct m2_added_set *set = &e->t->sets[normalized][e->specials];
	enum m2_err err = M2_OK;
	size_t at = 0;
	while (at < length && err == M2_OK) {
		size_t start = length;
		size_t end = length;
		const struct m2_added_token *t =
			m2_added_set_find(set, text, length, at, &start, &end);
		if (start > at)
			err = normalized ? encode_plain(e, text + at, start - at, first && at == 0)
					 : encode_raw(e, text + at, start - at, first && at == 0);
		if (err == M2_OK && t != NULL)
			err = m2_encoder_push(e, t->id);
		at = end;
	}
	return err;
}

/* Text without raw added tokens: normalise, then the second pass. */
static enum m2_err encode_raw(struct m2_encoder *e, const char *text, size_t length, bool first)
{
	const struct m2_tokenizer *t = e->t;
	const bool spm = t->symbols == M2_SYMBOLS_PIECES || t->symbols == M2_SYMBOLS_UNIGRAM;
	char *normal = NULL;
	size_t normal_length = 0;
	bool moved = false;
	enum m2_err err =
		spm ? m2_spm_normalize(&t->spm, text, length, &normal, &normal_length, e->why)
		    : m2_normalize(t->norms, t->n_norms, text, length, &normal, &normal_length,
			      &moved, e->why);
	first &= !moved;
	if (err == M2_OK)
		err = normal != NULL ? split(e, true, normal, normal_length, first)
				     : split(e, true, text, length, first);
	free(normal);
	return err;
}

static enum m2_err check_text(const char *text, size_t length, struct m2_why *why)
{
	if (length > MAX_TEXT)
		return m2_fail(
			M2_ELIMIT, why, "a text of %zu bytes, more than %d", length, MAX_TEXT);
	for (size_t at = 0; at < length;) {
		uint32_t code;
		const int n = m2_utf8_decode((const unsigned char *)text + at, length - at, &code);
		if (n <= 0)
			return m2_fail_field(M2_EINVAL, why, "text",
				"the text is not valid UTF-8 at byte %zu", at);
		at += (size_t)n;
	}
	return M2_OK;
}

static enum m2_err encode_all(
	struct m2_encoder *e, const char *text, size_t length, bool with_template)
{
	const struct m2_tokenizer *t = e->t;
	enum m2_err err = M2_OK;
	for (size_t i = 0; with_template && i < t->n_before && err == M2_OK; i++)
		err = m2_encoder_push(e, t->before[i]);
	if (err == M2_OK)
		err = split(e, false, text, length, true);
	for (size_t i = 0; with_template && i < t->n_after && err == M2_OK; i++)
		err = m2_encoder_push(e, t->after[i]);
	return err;
}

/* Which pair made a piece is asked for where unused pieces have to come apart again. */
static enum m2_err prepare(struct m2_encoder *e)
{
	e->ids = malloc(e->cap * sizeof *e->ids);
	if (e->ids == NULL)
		return m2_fail(M2_ENOMEM, e->why, "out of memory for the tokens");
	if (!e->t->has_unused)
		return M2_OK;
	const size_t bytes = (size_t)e->t->n_tokens * sizeof *e->scratch.made_of;
	e->scratch.made_of = malloc(bytes);
	if (e->scratch.made_of == NULL)
		return m2_fail(M2_ENOMEM, e->why, "out of memory for the tokens");
	memset(e->scratch.made_of, 0xff, bytes); /* -1 */
	return M2_OK;
}

void m2_encoder_finish(struct m2_encoder *e)
{
	m2_bpe_scratch_finish(&e->scratch);
	free(e->scratch.made_of);
	free(e->steps);
}

enum m2_err m2_tokenizer_encode(const struct m2_tokenizer *tokenizer, const char *text,
	size_t length, unsigned flags, size_t max_ids, int32_t **ids, size_t *count,
	struct m2_why *why)
{
	enum m2_err err = check_text(text, length, why);
	if (err != M2_OK)
		return err;
	struct m2_encoder e = {.t = tokenizer,
		.why = why,
		.specials = (flags & M2_ENCODE_SPECIAL) != 0,
		.cap = length / 4 + 16,
		.max = max_ids};
	err = prepare(&e);
	if (err == M2_OK)
		err = encode_all(&e, text, length, (flags & M2_ENCODE_TEMPLATE) != 0);
	m2_encoder_finish(&e);
	if (err != M2_OK) {
		free(e.ids);
		return err;
	}
	*ids = e.ids;
	*count = e.n;
	return M2_OK;
}
