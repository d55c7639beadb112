/* tokenizer_load.h - a tokenizer under construction: what the readers of its files share.
 *
 * Internal to the room.  Order of use: reserve, put all tokens, added tokens, symbols, merges, texts,
 * finish.  On an error the half-made tokenizer is closed by the reader.
 */
#ifndef M2_MODEL_TOKENIZER_LOAD_H
#define M2_MODEL_TOKENIZER_LOAD_H

#include <json-c/json.h>

#include "model/tokenizer_parts.h"

enum {
	M2_MAX_TOKEN_ID = (1 << 24) - 1,
	M2_MAX_TOKEN_BYTES = 1 << 16,
	M2_MAX_ADDED = 1 << 16,
	M2_MAX_ADDED_BYTES = 512
};

struct m2_tokenizer_load {
	struct m2_tokenizer *t;
	const char *what; /* the file, for sentences */
	struct m2_why *why;
	struct json_object *vocab; /* of a tokenizer.json, borrowed */
	bool has_template;
};

/* ---- tokenizer_build.c ---- */

/* M2_ENOMEM in words. */
enum m2_err m2_load_no_memory(const struct m2_tokenizer_load *l);

/* Room for ids 0..max_id, of which `count` have tokens: a file that is nearly all holes only wants our
 * memory and is refused. */
enum m2_err m2_load_reserve(struct m2_tokenizer_load *l, int64_t max_id, size_t count);

/* Bytes that stay: *out is where. */
enum m2_err m2_load_bytes(
	struct m2_tokenizer_load *l, const void *bytes, size_t length, struct m2_span *out);

/* A token of the vocabulary, found by its spelling from now on.  Refused: an id or a spelling that is
 * there already, an empty or too long spelling. */
enum m2_err m2_load_put(struct m2_tokenizer_load *l, int64_t id, const char *text, size_t length,
	const char *field);

/* A spelling without an id of its own: it gets one behind `size`.  At most 2^22. */
enum m2_err m2_load_put_nameless(
	struct m2_tokenizer_load *l, const unsigned char *text, size_t length);

/* t->added, t->n_added, in any order: each names a token of the vocabulary or an id that is free. */
enum m2_err m2_load_put_added(struct m2_tokenizer_load *l);

/* left + right by their spellings; rank: their place in the list. */
enum m2_err m2_load_merge(struct m2_tokenizer_load *l, const char *left, size_t n,
	const char *right, size_t m, size_t rank);

/* t->byte_ids from stand-ins (M2_SYMBOLS_BYTES) or from <0x00>.. */
void m2_load_byte_ids(struct m2_tokenizer_load *l);

/* What decoding emits for every token: text and first, by one function per token. */
typedef enum m2_err m2_text_of_fn(
	struct m2_tokenizer_load *l, struct m2_token *token, const void *context);
enum m2_err m2_load_texts(struct m2_tokenizer_load *l, m2_text_of_fn *text_of, const void *context);

/* Spellings as encoding compares them, the sets of added tokens, bounds. */
enum m2_err m2_load_finish(struct m2_tokenizer_load *l);

/* ---- of a tokenizer.json ---- */

/* The value under key of an object, NULL when there is none or it is null. */
struct json_object *m2_load_get(struct json_object *object, const char *key);

/* Take each part of a Sequence, or the one part; an absent one is none.  `list` is the key of a Sequence's
 * parts.  The file's depth bounds the recursion. */
typedef enum m2_err m2_part_fn(
	struct m2_tokenizer_load *l, struct json_object *part, const char *type, void *context);
enum m2_err m2_load_parts(struct m2_tokenizer_load *l, struct json_object *part, const char *stage,
	const char *list, m2_part_fn *take, void *context);
/* M2_EUNSUPPORTED, naming the kind. */
enum m2_err m2_load_unsupported(
	const struct m2_tokenizer_load *l, const char *stage, const char *type);
/* Copy a string of a part: at most 4096 bytes, EFORMAT where it is missing or empty. */
enum m2_err m2_load_string(struct m2_tokenizer_load *l, struct json_object *part, const char *key,
	const char *stage, char **out, size_t *length);
/* {"String": "..."}: copied like that; {"Regex": "..."}: *pattern instead, if it is known. */
enum m2_err m2_load_pattern(struct m2_tokenizer_load *l, struct json_object *part,
	const char *stage, char **out, size_t *length, const struct m2_pattern **pattern);

/* tokenizer_vocab.c: added tokens, vocabulary, merges.  The pre-tokenizer has been read. */
enum m2_err m2_load_vocab(struct m2_tokenizer_load *l, struct json_object *root);
/* tokenizer_stages.c */
enum m2_err m2_load_normalizer(struct m2_tokenizer_load *l, struct json_object *root);
enum m2_err m2_load_pre_tokenizer(struct m2_tokenizer_load *l, struct json_object *root);
/* tokenizer_template.c */
enum m2_err m2_load_template(struct m2_tokenizer_load *l, struct json_object *root);
/* tokenizer_decoder.c: the texts of all tokens */
enum m2_err m2_load_decoder(struct m2_tokenizer_load *l, struct json_object *root);

#endif
