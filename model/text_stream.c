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

int32_t m2_tokenizer_size(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->size;
}

const unsigned char *m2_tokenizer_bytes(
	const struct m2_tokenizer *tokenizer, int32_t id, size_t *length)
{
	if (id < 0 || id >= tokenizer->size) {
		*length = 0;
		return tokenizer->bytes;
	}
	*length = tokenizer->tokens[id].length;
	return tokenizer->bytes + tokenizer->tokens[id].at;
}

bool m2_tokenizer_is_special(const struct m2_tokenizer *tokenizer, int32_t id)
{
	return id >= 0 && id < tokenizer->size && tokenizer->tokens[id].special;
}

size_t m2_tokenizer_max_text(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->max_text;
}

size_t m2_text_stream_push(struct m2_text_stream *stream, const struct m2_tokenizer *tokenizer,
	int32_t id, bool skip_special, char *out)
{
	size_t length;
	size_t written = 0;
	const unsigned char *bytes = m2_tokenizer_bytes(tokenizer, id, &length);
	if (skip_special && m2_tokenizer_is_special(tokenizer, id))
		return 0;
	for (size_t i = 0; i < length; i++) {
		stream->held[stream->n_held++] = bytes[i];
		/* one byte can end a character, or prove what was held invalid and begin another */
		while (stream->n_held > 0) {
			uint32_t code;
			const int n = m2_utf8_decode(stream->held, stream->n_held, &code);
			if (n == 0)
				break;
			const size_t used = (size_t)(n > 0 ? n : -n);
			const size_t size = n > 0 ? used : sizeof replacement;
			memcpy(out + written, n > 0 ? (const char *)stream->held : replacement,
				size);
			written += size;
			stream->n_held = (uint8_t)(stream->n_held - used);
			memmove(stream->held, stream->held + used, stream->n_held);
		}
	}
	return written;
}

size_t m2_text_stream_flush(struct m2_text_stream *stream, char *out)
{
	/* what is held is the beginning of one character: one invalid part */
	if (stream->n_held == 0)
		return 0;
	memcpy(out, replacement, sizeof replacement);
	stream->n_held = 0;
	return sizeof replacement;
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
