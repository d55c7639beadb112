/* sentencepiece.h - a SentencePiece .model (a protobuf ModelProto) as lists of pieces.
 *
 * Internal to the room.  Source: sentencepiece_model.proto; model/sentencepiece.proto has the fields that
 * matter here.  Threads: no shared state.
 */
#ifndef M2_MODEL_SENTENCEPIECE_H
#define M2_MODEL_SENTENCEPIECE_H

#include "model/tokenizer_pieces.h"

struct m2_sentencepiece {
	struct m2_pieces
		pieces; /* what m2_tokenizer_from_pieces takes; add_bos and add_eos are false */
	void *message;  /* owns what the pieces point to */
	struct m2_piece *list;
	size_t budget; /* bytes that the protobuf reader may still allocate */
};

/* Read and check; `what` is borrowed.  The reader allocates at most 256 MiB whatever the bytes say.
 * Errors: EFORMAT, EUNSUPPORTED (models other than BPE and unigram), ELIMIT, ENOMEM. */
enum m2_err m2_sentencepiece_read(struct m2_sentencepiece *out, const void *bytes, size_t length,
	const char *what, struct m2_why *why);
void m2_sentencepiece_finish(struct m2_sentencepiece *model); /* safe on zeroed memory */

#endif
