/* tokenizer_load.h - what the two readers of a tokenizer.json share.
 *
 * Internal to the room: tokenizer_file.c reads the pipeline, tokenizer_vocab.c the vocabulary.
 */
#ifndef M2_MODEL_TOKENIZER_LOAD_H
#define M2_MODEL_TOKENIZER_LOAD_H

#include <json-c/json.h>

#include "model/tokenizer_parts.h"

struct m2_tokenizer_load {
	struct m2_tokenizer *t;
	const char *what; /* the file, for sentences */
	struct m2_why *why;
	struct json_object *vocab; /* borrowed */
	size_t n_bytes;            /* of t->bytes in use */
	bool has_pre_tokenizer;
	bool has_decoder;
	bool has_template;
};

/* The value under key of an object, NULL when there is none or it is null. */
struct json_object *m2_load_get(struct json_object *object, const char *key);

/* M2_ENOMEM in words. */
enum m2_err m2_load_no_memory(const struct m2_tokenizer_load *l);

/* model and added_tokens: tokens, bytes, merges, whole words. */
enum m2_err m2_load_vocab(struct m2_tokenizer_load *l, struct json_object *root);

#endif
