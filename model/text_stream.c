/* text_stream.c - ids to text.
 *
 * A token is bytes, and a character may span tokens, so a stream keeps an unfinished character back
 * until it is whole or cannot become so.  All at once is the same stream, flushed; streaming and
 * decoding can therefore not disagree.
 */
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/tokenizer_parts.h"

static const char replacement[3] = {'\xef', '\xbf', '\xbd'}; /* U+FFFD */

struct m2_text_stream m2_text_stream_after(const struct m2_tokenizer *tokenizer, int32_t last)
{
	return (struct m2_text_stream){
		.continues = last >= 0 && !m2_tokenizer_is_special(tokenizer, last)};
}

/* One byte can end a character, or prove what was held invalid and begin another. */
static size_t push_byte(struct m2_text_stream *stream, unsigned char byte, char *out)
{
	size_t written = 0;
	stream->held[stream->n_held++] = byte;
	while (stream->n_held > 0) {
		uint32_t code;
		const int n = m2_utf8_decode(stream->held, stream->n_held, &code);
		if (n == 0)
			break;
		/* bytes that are tokens are replaced one by one */
		const size_t used = (size_t)(n > 0 ? n : stream->in_bytes ? 1 : -n);
		const size_t size = n > 0 ? used : sizeof replacement;
		memcpy(out + written, n > 0 ? (const char *)stream->held : replacement, size);
		written += size;
		stream->n_held = (uint8_t)(stream->n_held - used);
		memmove(stream->held, stream->held + used, stream->n_held);
	}
	return written;
}

size_t m2_text_stream_flush(struct m2_text_stream *stream, char *out)
{
	/* what is held is the beginning of one character: one invalid part, or so many bytes */
	const size_t parts = stream->in_bytes || stream->n_held == 0 ? stream->n_held : 1;
	for (size_t i = 0; i < parts; i++)
		memcpy(out + i * sizeof replacement, replacement, sizeof replacement);
	stream->n_held = 0;
	return parts * sizeof replacement;
}

/* What a token emits here: as one at the beginning of a text, or as any. */
static const struct m2_span *span_of(
	struct m2_text_stream *stream, const struct m2_tokenizer *t, const struct m2_token *token)
{
	if (t->beginning == M2_BEGINNING_PLAIN || stream->begun || stream->continues)
		return &token->text;
	const struct m2_span *span = &token->first;
	stream->begun = t->beginning == M2_BEGINNING_TOKEN || span->length > 0 ||
			(t->beginning == M2_BEGINNING_PIECE && token->text.length > 0);
	return span;
}

static size_t push_token(struct m2_text_stream *stream, const struct m2_tokenizer *t,
	const struct m2_token *token, char *out)
{
	size_t written = 0;
	if (token->byte) {
		const unsigned char byte = t->bytes[token->text.at];
		stream->in_bytes = true;
		stream->begun |= t->beginning != M2_BEGINNING_PLAIN;
		return push_byte(stream, byte, out);
	}
	const struct m2_span *span = span_of(stream, t, token);
	if (!t->byte_level) {
		written = m2_text_stream_flush(stream, out); /* a run of bytes ends here */
		stream->in_bytes = false;
		memcpy(out + written, m2_span_bytes(t, span), span->length);
		return written + span->length;
	}
	for (size_t i = 0; i < span->length; i++)
		written += push_byte(stream, m2_span_bytes(t, span)[i], out + written);
	return written;
}

/* Spaces at the beginning of the whole text, as many as the file's Strip takes. */
static size_t strip(
	struct m2_text_stream *stream, const struct m2_tokenizer *t, char *out, size_t written)
{
	size_t n = 0;
	if (stream->stripped == t->strip || stream->continues)
		return written;
	while (n < written && out[n] == ' ' && stream->stripped < t->strip) {
		stream->stripped++;
		n++;
	}
	if (n < written) /* no beginning any more */
		stream->stripped = t->strip;
	memmove(out, out + n, written - n);
	return written - n;
}

size_t m2_text_stream_push(struct m2_text_stream *stream, const struct m2_tokenizer *tokenizer,
	int32_t id, bool skip_special, char *out)
{
	const struct m2_tokenizer *t = tokenizer;
	if (id < 0 || id >= t->size || !t->tokens[id].exists)
		return 0;
	const struct m2_token *token = &t->tokens[id];
	if (skip_special && token->special) {
		/* to SentencePiece a control token ends a run of bytes; the reference library for
		 * tokenizer.json does not see it */
		return t->symbols >= M2_SYMBOLS_PIECES ? m2_text_stream_flush(stream, out) : 0;
	}
	return strip(stream, t, out, push_token(stream, t, token, out));
}

enum m2_err m2_tokenizer_decode(const struct m2_tokenizer *tokenizer, const int32_t *ids,
	size_t count, bool skip_special, char **text, size_t *length, struct m2_why *why)
{
	struct m2_text_stream stream = {.n_held = 0};
	const size_t slack = tokenizer->max_text + 16;
	size_t cap = 4 * count + slack;
	size_t n = 0;
	char *out = malloc(cap);
	for (size_t i = 0; i < count && out != NULL; i++) {
		if (ids[i] < 0 || ids[i] >= tokenizer->size) {
			free(out);
			return m2_fail_field(M2_EINVAL, why, "tokens",
				"token %zu is %d, outside 0..%d", i, ids[i], tokenizer->size - 1);
		}
		if (cap - n < slack) {
			cap = 2 * cap + slack;
			char *grown = realloc(out, cap);
			if (grown == NULL)
				free(out);
			out = grown;
		}
		if (out != NULL)
			n += m2_text_stream_push(&stream, tokenizer, ids[i], skip_special, out + n);
	}
	if (out == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for the text of %zu tokens", count);
	n += m2_text_stream_flush(&stream, out + n);
	out[n] = '\0';
	*text = out;
	*length = n;
	return M2_OK;
}
