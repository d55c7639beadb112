/* tokenizer.h - text to token ids and back, from a checkpoint's own tokenizer files.
 *
 * Byte pair encoding in its two families: byte-level (GPT-2's form, as GPT-NeoX and the demo model use
 * it) and SentencePiece's (Metaspace and byte fallback, as Mistral and Llama use it), from
 * tokenizer.json, from a SentencePiece .model, or from the keys of a GGUF file.  Added tokens are split
 * out first, normalisation follows where the file asks for it, words are cut, and merges go by rank or
 * score with a heap over a linked list, so that the time is near-linear in the input whatever it holds.
 * A file that asks for anything else is refused by the name of the part (M2_EUNSUPPORTED).
 *
 * Threads: a loaded tokenizer is immutable and may be used from any number of threads.
 */
#ifndef M2_MODEL_TOKENIZER_H
#define M2_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct m2_tokenizer; /* opaque */

/* path: a tokenizer.json, a SentencePiece .model, a .gguf, or a directory that holds one of them.  In a
 * directory tokenizer.model.v3, tokenizer.model and *.model go before tokenizer.json (semantics report,
 * 6.3), unless tokenizer.json knows more ids.  tokenizer_config.json, special_tokens_map.json beside it
 * say which token ends a text. */
enum m2_err m2_tokenizer_open(const char *path, struct m2_tokenizer **out, struct m2_why *why);
enum m2_err m2_tokenizer_parse(const char *json, size_t length, const char *what,
	struct m2_tokenizer **out, struct m2_why *why);
void m2_tokenizer_close(struct m2_tokenizer **tokenizer);

/* A SentencePiece model in memory. */
enum m2_err m2_tokenizer_parse_spm(const void *bytes, size_t length, const char *what,
	struct m2_tokenizer **out, struct m2_why *why);

/* "byte-level BPE, tokenizer.json": for show and inspect. */
const char *m2_tokenizer_kind(const struct m2_tokenizer *tokenizer);

/* The file that it was read from; "" if from memory.  Lives as long as the tokenizer. */
const char *m2_tokenizer_path(const struct m2_tokenizer *tokenizer);

/* The i-th of the files beside it that said something about special tokens (special_tokens_map.json,
 * tokenizer_config.json): its path, as long as out has room.  false: there are not so many. */
bool m2_tokenizer_beside(const struct m2_tokenizer *tokenizer, size_t i, char *out, size_t size);

/* The ids that begin and end a text as the tokenizer's files say; -1: none. */
int32_t m2_tokenizer_bos(const struct m2_tokenizer *tokenizer);
int32_t m2_tokenizer_eos(const struct m2_tokenizer *tokenizer);

/* The id of a special (control) token by its exact text, -1 if there is none. */
int32_t m2_tokenizer_special(const struct m2_tokenizer *tokenizer, const char *text, size_t length);

/* Largest id + 1. */
int32_t m2_tokenizer_size(const struct m2_tokenizer *tokenizer);

enum m2_encode_flags {
	/* Special tokens written in the text become their ids; otherwise they are ordinary text, so
	 * that no user can forge a control token. */
	M2_ENCODE_SPECIAL = 1,
	/* Add what the file's post-processor adds (BOS and the like). */
	M2_ENCODE_TEMPLATE = 2,
};

/* text must be valid UTF-8 (else M2_EINVAL with the offset).  *ids is malloc'd, caller frees; never
 * NULL on success.  More than max_ids: M2_ELIMIT. */
enum m2_err m2_tokenizer_encode(const struct m2_tokenizer *tokenizer, const char *text,
	size_t length, unsigned flags, size_t max_ids, int32_t **ids, size_t *count,
	struct m2_why *why);

/* The bytes of one token: not text by itself (a character may span tokens).  Specials give their
 * text; an id that is a hole gives length 0.  The pointer lives as long as the tokenizer. */
const unsigned char *m2_tokenizer_bytes(
	const struct m2_tokenizer *tokenizer, int32_t id, size_t *length);
bool m2_tokenizer_is_special(const struct m2_tokenizer *tokenizer, int32_t id);

/* Most bytes of text that one more token can make a stream emit, over all ids: what results memory
 * must hold per token (invalid bytes become U+FFFD, 3 bytes each). */
size_t m2_tokenizer_max_text(const struct m2_tokenizer *tokenizer);

/* Streaming: whole UTF-8 characters only; at most 3 bytes are held back.  Lives by value, needs no
 * finish; zeroed is a fresh stream, whose text stands by itself: the space that SentencePiece's family
 * puts in front of every text is taken off it.  Where tokens go on with a text that ends in a word, that
 * space is meant: set `continues`, or let m2_text_stream_after decide. */
struct m2_text_stream {
	unsigned char held[4];
	uint8_t n_held;
	uint8_t stripped; /* spaces taken off so far */
	bool in_bytes;    /* what is held came as tokens of one byte */
	bool begun;       /* a token that begins a text has come */
	bool continues;   /* set before the first push: this is no beginning of a text */
};

/* A stream for what follows a prompt whose last token is `last` (-1: an empty prompt).  A special token
 * (an end of a turn, a beginning of a text) starts a text; anything else is gone on with. */
struct m2_text_stream m2_text_stream_after(const struct m2_tokenizer *tokenizer, int32_t last);

/* Append one token; writes at most m2_tokenizer_max_text() + 9 bytes to out, returns how many.
 * skip_special: specials emit nothing.  No allocation, no locks: fit for the step loop.
 * What is no valid UTF-8 becomes U+FFFD: one per maximal invalid part in byte-level files, one per byte
 * where bytes are tokens of their own (byte fallback), whole characters between them staying.  (There the
 * reference library gives a run of bytes up as a whole: a stream cannot take back what it gave.) */
size_t m2_text_stream_push(struct m2_text_stream *stream, const struct m2_tokenizer *tokenizer,
	int32_t id, bool skip_special, char *out);
/* What is held becomes U+FFFD: at most 9 bytes. */
size_t m2_text_stream_flush(struct m2_text_stream *stream, char *out);

/* All at once, what a fresh stream gives: malloc'd, NUL-terminated, caller frees. */
enum m2_err m2_tokenizer_decode(const struct m2_tokenizer *tokenizer, const int32_t *ids,
	size_t count, bool skip_special, char **text, size_t *length, struct m2_why *why);

#endif
