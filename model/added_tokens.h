/* added_tokens.h - tokens that are split out of the text before anything else looks at it.
 *
 * Internal to the room.  A set is immutable once made; threads may share it.
 */
#ifndef M2_MODEL_ADDED_TOKENS_H
#define M2_MODEL_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

struct m2_added_token {
	char *text; /* owned by whoever holds the array */
	size_t length;
	int32_t id;
	bool special;
	bool normalized;  /* looked for in normalised text, else in the raw text */
	bool single_word; /* not next to a word character */
	bool lstrip;      /* takes the white space in front of it */
	bool rstrip;      /* takes the white space behind it */
};

/* Those tokens that one pass looks for. */
struct m2_added_set {
	const struct m2_added_token **tokens; /* sorted by text */
	size_t count;
	bool first_byte[256];
};

/* The tokens with this `normalized`, with or without the special ones.  Points into tokens. */
enum m2_err m2_added_set_init(struct m2_added_set *set, const struct m2_added_token *tokens,
	size_t count, bool normalized, bool specials, struct m2_why *why);
void m2_added_set_finish(struct m2_added_set *set); /* safe on zeroed memory */

/* The next match at or behind `from`: leftmost, longest.  [*start, *end) is what it takes out of the
 * text, white space included.  NULL: none. */
const struct m2_added_token *m2_added_set_find(const struct m2_added_set *set, const char *text,
	size_t length, size_t from, size_t *start, size_t *end);

/* The longest token that the text begins with, NULL for none. */
const struct m2_added_token *m2_added_set_prefix(
	const struct m2_added_set *set, const char *text, size_t length);

#endif
