/* tokenizer_parts.h - what a loaded tokenizer is made of.
 *
 * Internal to the room: the readers of files fill it, tokenizer.c encodes with it, text_stream.c
 * decodes.  Immutable once loaded.
 */
#ifndef M2_MODEL_TOKENIZER_PARTS_H
#define M2_MODEL_TOKENIZER_PARTS_H

#include "model/added_tokens.h"
#include "model/bpe.h"
#include "model/tokenizer.h"
#include "model/tokenizer_charsmap.h"
#include "model/tokenizer_cut.h"
#include "model/tokenizer_normalize.h"

/* Where bytes lie in m2_tokenizer.bytes. */
struct m2_span {
	uint32_t at;
	uint32_t length;
};

struct m2_token {
	struct m2_span spelled; /* what encoding compares with the text */
	struct m2_span text;    /* what decoding emits */
	struct m2_span first;   /* the same where a text begins */
	bool exists;
	bool special;
	bool added;   /* its text is meant literally */
	bool matches; /* words and characters of a text may equal it */
	bool byte;    /* one byte of what has no token of its own */
	bool unused;  /* SentencePiece: taken apart again once merged */
};

/* What merging begins with. */
enum m2_symbols {
	M2_SYMBOLS_BYTES,  /* byte-level: a token per byte */
	M2_SYMBOLS_CHARS,  /* characters; one without a token becomes its bytes before merging */
	M2_SYMBOLS_PIECES, /* SentencePiece's: the same, but after merging */
	M2_SYMBOLS_UNIGRAM /* no merging: the best sum of scores */
};

/* What decoding does where a text begins. */
enum m2_beginning {
	M2_BEGINNING_PLAIN,
	M2_BEGINNING_TOKEN, /* the first token gives its `first` */
	M2_BEGINNING_PIECE, /* the first that gives text or loses a space does */
	M2_BEGINNING_PIECES /* all up to the first that gives text do */
};

struct m2_tokenizer {
	char *kind; /* for m2_tokenizer_kind */
	char *path; /* NULL: from memory */
	unsigned
		beside; /* bit i: the i-th file that may lie beside it was read (tokenizer_open.c) */
	int32_t bos, eos;

	struct m2_token
		*tokens; /* [size], by id; characters without an id of their own behind them */
	int32_t size;
	int32_t n_tokens; /* with those characters */
	int32_t cap_tokens;
	unsigned char *bytes;
	size_t n_bytes;
	size_t cap_bytes;
	int32_t *words; /* open addressing by spelling, id + 1, 0 empty: the tokens that match */
	size_t n_word_slots;
	size_t n_words;
	size_t max_text;

	struct m2_added_token *added;
	size_t n_added;
	struct m2_added_set sets[2][2]; /* [normalized][specials among them] */

	struct m2_norm_step *norms;
	size_t n_norms;
	struct m2_spm_norm spm;        /* for M2_SYMBOLS_PIECES and _UNIGRAM */
	struct m2_added_token *pieces; /* SentencePiece's user-defined ones, behind spm.defined */
	size_t n_pieces;
	struct m2_cut_step *cuts;
	size_t n_cuts;

	enum m2_symbols symbols;
	int32_t byte_ids
		[256]; /* -1: none.  BYTES: the symbol; else the token of a fallen back byte */
	bool byte_fallback;
	bool fuse_unk;
	bool ignore_merges;
	bool has_unused;
	bool marks_begin; /* in no token is there a space mark behind anything but another */
	int32_t unk;      /* -1: none */
	struct m2_bpe bpe;
	double *scores; /* UNIGRAM: [size] */
	float unk_score;

	bool byte_level; /* texts of tokens are bytes of characters that may span tokens */
	enum m2_beginning beginning;
	uint8_t strip; /* so many spaces are taken from where a text begins */

	int32_t *before; /* what the template puts in front of the text and behind it */
	size_t n_before;
	int32_t *after;
	size_t n_after;
};

/* What M2_ENCODE_TEMPLATE puts around a text: t->bos, t->eos, neither if they are -1. */
enum m2_err m2_tokenizer_set_ends(
	struct m2_tokenizer *t, bool add_bos, bool add_eos, struct m2_why *why);

/* Of a table of words: the hash of a spelling, built up byte by byte from 0. */
#define M2_WORD_FACTOR 0x100000001b3u
static inline uint64_t m2_word_hash(uint64_t hash, const unsigned char *word, size_t length)
{
	for (size_t i = 0; i < length; i++)
		hash = hash * M2_WORD_FACTOR + word[i] + 1;
	return hash;
}

/* The token that is spelled so, -1 for none. */
int32_t m2_word_find(const struct m2_tokenizer *t, const unsigned char *word, size_t length);
int32_t m2_word_find_hashed(
	const struct m2_tokenizer *t, uint64_t hash, const unsigned char *word, size_t length);
/* Make it known by its spelling, which no other token has.  Errors: ENOMEM. */
enum m2_err m2_word_add(struct m2_tokenizer *t, int32_t id, struct m2_why *why);
void m2_words_clear(struct m2_tokenizer *t);

static inline const unsigned char *m2_span_bytes(
	const struct m2_tokenizer *t, const struct m2_span *span)
{
	return t->bytes + span->at;
}

#endif
