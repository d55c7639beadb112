/* tokenizer_symbols.c - a word into symbols, merged, into ids.
 *
 * The three forms differ in what a symbol is and in when a character without a token falls back to its
 * bytes: the reference library's BPE does it before merging, SentencePiece after (so that two
 * characters that are no pieces may still be one together).
 */
#include <string.h>

#include "common/utf8.h"
#include "model/tokenizer_encode.h"

/* Symbols that are no tokens: no pair has them. */
enum {
	FROZEN = 1 << 30, /* | id: a user-defined piece, which merges with nothing */
	UNKNOWN = 1 << 29 /* | code point: in no piece at all */
};

static enum m2_err no_token(const struct m2_encoder *e, const unsigned char *p, size_t n)
{
	if (n == 1)
		return m2_fail(M2_EINVAL, e->why,
			"the tokenizer has no token for the byte 0x%02x of the text", p[0]);
	return m2_fail(M2_EINVAL, e->why, "the tokenizer has no token for \"%.*s\"", (int)n,
		(const char *)p);
}

static enum m2_err push_merged(struct m2_encoder *e, size_t n)
{
	enum m2_err err = M2_OK;
	if (n == 0)
		return M2_OK;
	m2_bpe_merge(&e->t->bpe, &e->scratch, n);
	for (int32_t i = 0; i >= 0 && err == M2_OK; i = e->scratch.symbols[i].next)
		err = m2_encoder_push(e, e->scratch.symbols[i].id);
	return err;
}

/* ---- bytes ---- */

static enum m2_err encode_bytes(struct m2_encoder *e, const unsigned char *word, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		e->scratch.symbols[i].id = e->t->byte_ids[word[i]];
		if (e->scratch.symbols[i].id < 0)
			return no_token(e, word + i, 1);
	}
	return push_merged(e, length);
}

/* Does a space begin here, in front of which no merge reaches?  What is before it can then be merged by
 * itself: small heaps instead of one as long as the text. */
static bool may_cut(const struct m2_tokenizer *t, const unsigned char *word, size_t at, size_t size)
{
	return t->marks_begin && size == 3 && at >= 3 && memcmp(word + at, M2_SPACE_MARK, 3) == 0 &&
	       memcmp(word + at - 3, M2_SPACE_MARK, 3) != 0;
}

/* ---- characters ---- */

/* The bytes' tokens of a character, all or none. */
static size_t fall_back(struct m2_encoder *e, const unsigned char *p, size_t n, size_t at)
{
	if (!e->t->byte_fallback)
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (e->t->byte_ids[p[i]] < 0)
			return 0;
		e->scratch.symbols[at + i].id = e->t->byte_ids[p[i]];
	}
	return n;
}

/* The reference library holds an unknown token back, to join the next to it, and lets it go only at a
 * character that it knows: bytes of one that fell back get in front of it. */
static enum m2_err encode_chars(struct m2_encoder *e, const unsigned char *word, size_t length)
{
	const struct m2_tokenizer *t = e->t;
	size_t n = 0;
	bool held = false;
	enum m2_err err = M2_OK;
	for (size_t at = 0; at < length && err == M2_OK;) {
		uint32_t code;
		const size_t size = (size_t)m2_utf8_decode(word + at, length - at, &code);
		const int32_t id = m2_word_find(t, word + at, size);
		if (id >= 0) {
			if (held)
				e->scratch.symbols[n++].id = t->unk;
			held = false;
			if (may_cut(t, word, at, size)) {
				err = push_merged(e, n);
				n = 0;
			}
			e->scratch.symbols[n++].id = id;
		} else {
			const size_t bytes = fall_back(e, word + at, size, n);
			if (bytes == 0 && t->unk < 0)
				return no_token(e, word + at, size);
			if (bytes == 0 && held && !t->fuse_unk)
				e->scratch.symbols[n++].id = t->unk;
			held |= bytes == 0;
			n += bytes;
		}
		at += size;
	}
	if (held)
		e->scratch.symbols[n++].id = t->unk;
	return err == M2_OK ? push_merged(e, n) : err;
}

/* ---- SentencePiece's ---- */

enum m2_err m2_encode_unknown(
	struct m2_encoder *e, const unsigned char *text, size_t length, bool *in_run)
{
	const struct m2_tokenizer *t = e->t;
	enum m2_err err = M2_OK;
	if (t->byte_fallback) {
		for (size_t i = 0; i < length && err == M2_OK; i++)
			err = m2_encoder_push(e, t->byte_ids[text[i]]);
		return err;
	}
	if (t->unk < 0)
		return no_token(e, text, length);
	if (!*in_run)
		err = m2_encoder_push(e, t->unk);
	*in_run = true;
	return err;
}

/* A symbol after merging.  Unused pieces come apart again, into the pair that was last found to make
 * them: each part is shorter, and pieces are short, so the recursion is shallow. */
static enum m2_err push_piece(struct m2_encoder *e, int32_t id, bool *in_run)
{
	const struct m2_tokenizer *t = e->t;
	unsigned char bytes[4];
	if (id >= FROZEN || (id < t->size && !t->tokens[id].unused)) {
		*in_run = false;
		return m2_encoder_push(e, id & (UNKNOWN - 1));
	}
	if (id >= UNKNOWN)
		return m2_encode_unknown(
			e, bytes, (size_t)m2_utf8_encode((uint32_t)(id - UNKNOWN), bytes), in_run);
	const int32_t *parts = id < t->size ? e->scratch.made_of[id] : NULL;
	if (parts == NULL || parts[0] < 0)
		return m2_encode_unknown(e, m2_span_bytes(t, &t->tokens[id].spelled),
			t->tokens[id].spelled.length, in_run);
	const int32_t right = parts[1];
	const enum m2_err err = push_piece(e, parts[0], in_run);
	return err == M2_OK ? push_piece(e, right, in_run) : err;
}

static enum m2_err push_pieces(struct m2_encoder *e, size_t n, bool *in_run)
{
	enum m2_err err = M2_OK;
	if (n == 0)
		return M2_OK;
	m2_bpe_merge(&e->t->bpe, &e->scratch, n);
	for (int32_t i = 0; i >= 0 && err == M2_OK; i = e->scratch.symbols[i].next)
		err = push_piece(e, e->scratch.symbols[i].id, in_run);
	return err;
}

static enum m2_err encode_pieces(struct m2_encoder *e, const unsigned char *word, size_t length)
{
	const struct m2_tokenizer *t = e->t;
	enum m2_err err = M2_OK;
	bool in_run = false;
	size_t n = 0;
	for (size_t at = 0; at < length && err == M2_OK;) {
		const struct m2_added_token *defined =
			m2_added_set_prefix(&t->spm.defined, (const char *)word + at, length - at);
		if (defined != NULL) {
			e->scratch.symbols[n++].id = FROZEN | defined->id;
			at += defined->length;
			continue;
		}
		uint32_t code = 0;
		const size_t size = (size_t)m2_utf8_decode(word + at, length - at, &code);
		const int32_t id = m2_word_find(t, word + at, size);
		if (may_cut(t, word, at, size)) {
			err = push_pieces(e, n, &in_run);
			n = 0;
		}
		e->scratch.symbols[n++].id = id >= 0 ? id : UNKNOWN | (int32_t)code;
		at += size;
	}
	return err == M2_OK ? push_pieces(e, n, &in_run) : err;
}

enum m2_err m2_encode_word(struct m2_encoder *e, const char *text, size_t length)
{
	const unsigned char *word = (const unsigned char *)text;
	const struct m2_tokenizer *t = e->t;
	if (t->ignore_merges) {
		const int32_t id = m2_word_find(t, word, length);
		if (id >= 0)
			return m2_encoder_push(e, id);
	}
	if (t->symbols == M2_SYMBOLS_UNIGRAM)
		return m2_encode_unigram(e, text, length);
	/* an unknown token may be pending behind the last byte */
	const enum m2_err err = m2_bpe_reserve(&e->scratch, length + 1, e->why);
	if (err != M2_OK)
		return err;
	return t->symbols == M2_SYMBOLS_BYTES   ? encode_bytes(e, word, length)
	       : t->symbols == M2_SYMBOLS_CHARS ? encode_chars(e, word, length)
						: encode_pieces(e, word, length);
}
