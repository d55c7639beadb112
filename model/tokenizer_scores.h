/* tokenizer_scores.h - what the scores of pieces say.  Internal to the room. */
#ifndef M2_MODEL_TOKENIZER_SCORES_H
#define M2_MODEL_TOKENIZER_SCORES_H

#include "model/tokenizer_load.h"
#include "model/tokenizer_pieces.h"

enum { M2_MAX_PIECE_BYTES = 512 };

/* May a piece of this kind come of a merge? */
bool m2_piece_merges(enum m2_piece_kind kind);

/* SentencePiece's BPE: t->bpe.  The pieces are in t->tokens, those that merge in the table of words. */
enum m2_err m2_load_merges_by_score(struct m2_tokenizer_load *l, const struct m2_pieces *p);

/* Its unigram model: t->scores. */
enum m2_err m2_load_scores(struct m2_tokenizer_load *l, const struct m2_pieces *p);

#endif
