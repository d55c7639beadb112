/* gguf_tokens.h - the list of tokens of a GGUF file: which of its entries are tokens at all.
 *
 * Internal to the room.  Converters fill the list up to the rows of the embedding with entries spelled
 * [PAD50277] and so on: no tokens, and not to be found in a text.  Threads: no shared state.
 */
#ifndef M2_MODEL_GGUF_TOKENS_H
#define M2_MODEL_GGUF_TOKENS_H

#include "model/gguf_keys.h"
#include "model/tokenizer_pieces.h"

/* tokenizer.ggml.tokens without the fillers at its end.  *count 0: the file has none. */
enum m2_err m2_gguf_count_tokens(const struct m2_gguf *gguf, size_t *count, struct m2_why *why);

/* The first count of them, by id: *pieces malloc'd, the caller frees; their texts belong to gguf and
 * are valid UTF-8, none is a filler of another kind than UNUSED.  Scores are those of the file, or 0. */
enum m2_err m2_gguf_read_tokens(
	const struct m2_gguf *gguf, size_t count, struct m2_piece **pieces, struct m2_why *why);

/* tokenizer.ggml.merges in the same form; kind is NORMAL.  *count 0: the file has none. */
enum m2_err m2_gguf_read_merges(
	const struct m2_gguf *gguf, struct m2_piece **merges, size_t *count, struct m2_why *why);

#endif
