/* tokenizer_pieces.h - a tokenizer from lists of pieces, as SentencePiece and GGUF files give them.
 *
 * Internal to the room.  Threads: no shared state.
 */
#ifndef M2_MODEL_TOKENIZER_PIECES_H
#define M2_MODEL_TOKENIZER_PIECES_H

#include "model/tokenizer.h"

/* Kinds by SentencePiece's numbers, which are GGUF's too. */
enum m2_piece_kind {
	M2_PIECE_NORMAL = 1,
	M2_PIECE_UNKNOWN = 2,
	M2_PIECE_CONTROL = 3,
	M2_PIECE_USER_DEFINED = 4,
	M2_PIECE_UNUSED = 5,
	M2_PIECE_BYTE = 6
};

struct m2_piece {
	const char *text; /* not NUL-terminated, valid UTF-8 */
	size_t length;
	float score;
	enum m2_piece_kind kind;
};

struct m2_pieces {
	const char *what;              /* the file, for sentences */
	const char *kind;              /* for m2_tokenizer_kind: copied */
	const struct m2_piece *pieces; /* by id; borrowed for the call */
	size_t count;
	/* byte-level (GGUF model "gpt2"): merges in order of rank, "a b" each; pieces are spelled with
	 * stand-ins.  NULL: SentencePiece's form, merges by score. */
	const struct m2_piece *merges;
	size_t n_merges;
	bool add_dummy_prefix; /* SentencePiece: a space in front of the text */
	bool remove_extra_whitespaces;
	bool whitespace_suffix; /* that space goes behind the text */
	bool keep_spaces;       /* pieces are spelled with plain spaces */
	bool unigram;           /* scores are logarithms of probabilities, nothing merges */
	const void *charsmap;   /* precompiled_charsmap; NULL: none */
	size_t charsmap_length;
	bool nfkc; /* without a charsmap: normaliser name nfkc or nmt_nfkc; identity: false */
	bool nfc;  /* byte-level: NFC before the cut into words, as GPT-NeoX asks for */
	bool add_bos, add_eos; /* what M2_ENCODE_TEMPLATE adds */
	int32_t bos, eos, unk; /* -1: none */
};

enum m2_err m2_tokenizer_from_pieces(
	const struct m2_pieces *pieces, struct m2_tokenizer **out, struct m2_why *why);

#endif
