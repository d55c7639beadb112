/* tokenizer_normalize.h - the normalizers of a tokenizer.json.
 *
 * Internal to the room.  Steps are immutable once read; threads may share them.
 */
#ifndef M2_MODEL_TOKENIZER_NORMALIZE_H
#define M2_MODEL_TOKENIZER_NORMALIZE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "model/unicode.h"

enum m2_norm_kind {
	M2_NORM_FORM,    /* Unicode normalisation: form */
	M2_NORM_LOWER,   /* lower case */
	M2_NORM_PREPEND, /* `to` in front of a text that is not empty */
	M2_NORM_REPLACE, /* every `from` by `to` */
	M2_NORM_STRIP    /* white space at the ends: left, right */
};

struct m2_norm_step {
	enum m2_norm_kind kind;
	enum m2_unicode_form form;
	char *from; /* owned */
	size_t from_length;
	char *to; /* owned */
	size_t to_length;
	bool left, right;
};

void m2_norm_finish(struct m2_norm_step *steps, size_t count); /* what they own, not the array */

/* All steps in turn.  *out is malloc'd (the caller frees), or NULL when nothing changed.  A result of
 * more than 2^30 bytes is M2_ELIMIT.  *moved (if not NULL): the first characters went, so that the text
 * does not begin any more where it did. */
enum m2_err m2_normalize(const struct m2_norm_step *steps, size_t count, const char *text,
	size_t length, char **out, size_t *out_length, bool *moved, struct m2_why *why);

/* The first place of `what` (not empty) in a text, NULL for none.  Looks no further than that place. */
const char *m2_find_text(const char *text, size_t length, const char *what, size_t what_length);

/* Every non-overlapping `from` (not empty), leftmost first, by `to`; malloc'd, or NULL when there is none. */
enum m2_err m2_replace_all(const char *text, size_t length, const char *from, size_t from_length,
	const char *to, size_t to_length, char **out, size_t *out_length, struct m2_why *why);

#endif
