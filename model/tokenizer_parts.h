/* tokenizer_parts.h - what a loaded tokenizer is made of.
 *
 * Internal to the room: tokenizer_file.c fills it, tokenizer.c encodes with it, text_stream.c decodes.
 * Immutable once loaded.
 */
#ifndef M2_MODEL_TOKENIZER_PARTS_H
#define M2_MODEL_TOKENIZER_PARTS_H

#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/tokenizer.h"

struct m2_token {
	uint32_t at; /* in m2_tokenizer.bytes */
	uint32_t length;
	bool exists;
	bool special;
	bool in_bytes; /* its spelling stands for bytes, so that a word can equal it */
};

struct m2_tokenizer {
	struct m2_token *tokens; /* [size], by id */
	int32_t size;
	unsigned char *bytes;
	size_t max_text;

	struct m2_added_token *added;
	size_t n_added;
	struct m2_added_set sets[2][2]; /* [normalized][specials among them] */

	bool nfc;
	bool prefix_space; /* each piece of text begins with a space, given one if need be */
	bool use_regex;
	struct m2_bpe bpe;
	int32_t *words; /* ignore_merges: open addressing, id + 1, 0 empty; else NULL */
	size_t n_word_slots;

	int32_t *before; /* what the template puts in front of the text and behind it */
	size_t n_before;
	int32_t *after;
	size_t n_after;
};

/* The id of a whole word under ignore_merges, -1 for none. */
int32_t m2_tokenizer_word(
	const struct m2_tokenizer *tokenizer, const unsigned char *word, size_t length);

/* The slot for these bytes in a table of words (n_slots a power of two). */
size_t m2_tokenizer_word_slot(const struct m2_tokenizer *tokenizer, const int32_t *words,
	size_t n_slots, const unsigned char *word, size_t length);

#endif
