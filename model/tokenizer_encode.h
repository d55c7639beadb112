/* tokenizer_encode.h - one encoding under way, shared by the files that do it.
 * Internal to the room; one thread. */
#ifndef M2_MODEL_TOKENIZER_ENCODE_H
#define M2_MODEL_TOKENIZER_ENCODE_H

#include "model/tokenizer_parts.h"

struct m2_encoder {
	const struct m2_tokenizer *t;
	struct m2_why *why;
	struct m2_bpe_scratch scratch;
	struct m2_unigram_step *steps; /* m2_encode_unigram's, reused */
	size_t cap_steps;
	bool specials;
	int32_t *ids;
	size_t n;
	size_t cap;
	size_t max;
};

/* One more id.  Errors: ELIMIT, ENOMEM. */
enum m2_err m2_encoder_push(struct m2_encoder *e, int32_t id);

/* A word that is not empty, as the tokenizer's symbols ask for. */
enum m2_err m2_encode_word(struct m2_encoder *e, const char *word, size_t length);

/* What has no token, SentencePiece's way: its bytes' tokens, or one unknown token for a whole run
 * (*in_run says whether the last thing pushed was one). */
enum m2_err m2_encode_unknown(
	struct m2_encoder *e, const unsigned char *text, size_t length, bool *in_run);

/* Unigram: the best way to cut the text into pieces. */
enum m2_err m2_encode_unigram(struct m2_encoder *e, const char *text, size_t length);
void m2_encoder_finish(struct m2_encoder *e);

#endif
