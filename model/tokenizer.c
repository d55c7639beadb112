/* tokenizer.c - text to ids.
 *
 * The order is the reference library's: raw added tokens, NFC, normalised added tokens, words, bytes,
 * merges.  Runs of spaces of GPT-NeoX are added tokens, so code that skips the third step gets every
 * indented line wrong.  Reading the file is tokenizer_file.c's work, decoding text_stream.c's.
 */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/pretokenize.h"
#include "model/tokenizer_parts.h"
#include "model/unicode.h"

/* Text beyond this cannot be indexed by the merge's 32-bit positions. */
enum { MAX_TEXT = 1 << 30 };

struct encoder {
	const struct m2_tokenizer *t;
	struct m2_why *why;
	struct m2_bpe_scratch scratch;
	bool specials;
	int32_t *ids;
	size_t n;
	size_t cap;
	size_t max;
};

static enum m2_err push(struct encoder *e, int32_t id)
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

size_t m2_tokenizer_word_slot(const struct m2_tokenizer *t, const int32_t *words, size_t n_slots,
	const unsigned char *word, size_t length)
{
	uint64_t hash = 14695981039346656037u; /* FNV-1a */
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ word[i]) * 1099511628211u;
	size_t slot = (hash ^ hash >> 32) & (n_slots - 1);
	while (words[slot] != 0) {
		const struct m2_token *token = &t->tokens[words[slot] - 1];
		if (token->length == length && memcmp(t->bytes + token->at, word, length) == 0)
			break;
		slot = (slot + 1) & (n_slots - 1);
	}
	return slot;
}

int32_t m2_tokenizer_word(const struct m2_tokenizer *t, const unsigned char *word, size_t length)
{
	return t->words[m2_tokenizer_word_slot(t, t->words, t->n_word_slots, word, length)] - 1;
}

static enum m2_err encode_word(struct encoder *e, const char *text, size_t length)
{
	const unsigned char *word = (const unsigned char *)text;
	if (e->t->words != NULL) {
		const int32_t id = m2_tokenizer_word(e->t, word, length);
		if (id >= 0)
			return push(e, id);
	}
	enum m2_err err = m2_bpe_merge(&e->t->bpe, word, length, &e->scratch, e->why);
	for (int32_t i = 0; i >= 0 && err == M2_OK; i = e->scratch.next[i])
		err = push(e, e->scratch.ids[i]);
	return err;
}

/* Text without added tokens. */
static enum m2_err encode_plain(struct encoder *e, const char *text, size_t length)
{
	char *spaced = NULL;
	if (e->t->prefix_space && text[0] != ' ') {
		spaced = malloc(length + 1);
		if (spaced == NULL)
			return m2_fail(M2_ENOMEM, e->why, "out of memory for the text");
		spaced[0] = ' ';
		memcpy(spaced + 1, text, length);
		text = spaced;
		length++;
	}
	enum m2_err err = M2_OK;
	for (size_t at = 0; at < length && err == M2_OK;) {
		const size_t end = e->t->use_regex ? m2_gpt2_next(text, length, at) : length;
		err = encode_word(e, text + at, end - at);
		at = end;
	}
	free(spaced);
	return err;
}

static enum m2_err encode_raw(struct encoder *e, const char *text, size_t length);

/* Split at one set's tokens and hand on what lies between. */
static enum m2_err split(struct encoder *e, bool normalized, const char *text, size_t length)
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
			err = normalized ? encode_plain(e, text + at, start - at)
					 : encode_raw(e, text + at, start - at);
		if (err == M2_OK && t != NULL)
			err = push(e, t->id);
		at = end;
	}
	return err;
}

/* Text without raw added tokens: normalise, then the second pass. */
static enum m2_err encode_raw(struct encoder *e, const char *text, size_t length)
{
	char *normal = NULL;
	size_t normal_length = 0;
	enum m2_err err = M2_OK;
	if (e->t->nfc)
		err = m2_nfc(text, length, &normal, &normal_length, e->why);
	if (err == M2_OK)
		err = normal != NULL ? split(e, true, normal, normal_length)
				     : split(e, true, text, length);
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
	struct encoder *e, const char *text, size_t length, bool with_template)
{
	const struct m2_tokenizer *t = e->t;
	enum m2_err err = M2_OK;
	for (size_t i = 0; with_template && i < t->n_before && err == M2_OK; i++)
		err = push(e, t->before[i]);
	if (err == M2_OK)
		err = split(e, false, text, length);
	for (size_t i = 0; with_template && i < t->n_after && err == M2_OK; i++)
		err = push(e, t->after[i]);
	return err;
}

enum m2_err m2_tokenizer_encode(const struct m2_tokenizer *tokenizer, const char *text,
	size_t length, unsigned flags, size_t max_ids, int32_t **ids, size_t *count,
	struct m2_why *why)
{
	enum m2_err err = check_text(text, length, why);
	if (err != M2_OK)
		return err;
	struct encoder e = {.t = tokenizer,
		.why = why,
		.specials = (flags & M2_ENCODE_SPECIAL) != 0,
		.cap = length / 4 + 16,
		.max = max_ids};
	e.ids = malloc(e.cap * sizeof *e.ids);
	if (e.ids == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for the tokens");
	err = encode_all(&e, text, length, (flags & M2_ENCODE_TEMPLATE) != 0);
	m2_bpe_scratch_finish(&e.scratch);
	if (err != M2_OK) {
		free(e.ids);
		return err;
	}
	*ids = e.ids;
	*count = e.n;
	return M2_OK;
}

void m2_tokenizer_close(struct m2_tokenizer **tokenizer)
{
	struct m2_tokenizer *t = *tokenizer;
	if (t == NULL)
		return;
	for (size_t i = 0; i < t->n_added; i++)
		free(t->added[i].text);
	for (int i = 0; i < 4; i++)
		m2_added_set_finish(&t->sets[i / 2][i % 2]);
	m2_bpe_finish(&t->bpe);
	free(t->added);
	free(t->tokens);
	free(t->bytes);
	free(t->words);
	free(t->before);
	free(t->after);
	free(t);
	*tokenizer = NULL;
}
