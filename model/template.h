/* template.h - conversations and gaps in code, as tokens.
 *
 * Instruct models were trained on control tokens between the parts of a text.  A template puts them in
 * as ids, never as text, so that what a user writes cannot forge them (semantics report, 6.3).  Which
 * template a tokenizer has follows from the control tokens it knows; today there is one, Mistral's v3
 * (Codestral): instruct, and fill-in-the-middle.
 *
 * Threads: no shared state.
 */
#ifndef M2_MODEL_TEMPLATE_H
#define M2_MODEL_TEMPLATE_H

#include "model/tokenizer.h"

/* "mistral-v3 instruct and fill-in-the-middle", or NULL: this tokenizer has no template. */
const char *m2_template_name(const struct m2_tokenizer *tokenizer);

enum m2_turn_role { M2_TURN_SYSTEM, M2_TURN_USER, M2_TURN_ASSISTANT };

struct m2_turn {
	enum m2_turn_role role;
	const char *text; /* UTF-8, not NUL-terminated */
	size_t length;
};

/* Turns in order: an optional system turn first, then user and assistant in alternation, ending with a
 * user turn (M2_EINVAL names the turn).  The ids are malloc'd, caller frees.  M2_EUNSUPPORTED: no template. */
enum m2_err m2_template_chat(const struct m2_tokenizer *tokenizer, const struct m2_turn *turns,
	size_t n_turns, size_t max_ids, int32_t **ids, size_t *count, struct m2_why *why);

/* What the model continues to fill the gap between prefix and suffix. */
enum m2_err m2_template_fill(const struct m2_tokenizer *tokenizer, const char *prefix,
	size_t prefix_length, const char *suffix, size_t suffix_length, size_t max_ids,
	int32_t **ids, size_t *count, struct m2_why *why);

#endif
