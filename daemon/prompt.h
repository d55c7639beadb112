/* prompt.h - a prompt that is more than a text: the JSON of a conversation or of a gap, to token ids.
 *
 * The JSON comes from a client and is bounded before it is parsed; every refusal names the member that is
 * at fault (common/PROTOCOL.md, Payloads).  How the parts become one list of ids is model/template.h's.
 * Threads: any.  Nothing blocks.
 */
#ifndef M2_DAEMON_PROMPT_H
#define M2_DAEMON_PROMPT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "model/tokenizer.h"

enum m2_prompt_form {
	M2_PROMPT_CHAT, /* [{"role", "content"} ...] */
	M2_PROMPT_FILL  /* {"prefix", "suffix"} */
};

/* json: [length], valid UTF-8.  name: of the variant, for sentences.  *ids is malloc'd, caller frees.
 * M2_EUNSUPPORTED: the tokenizer has no template; M2_EINVAL: not that JSON, or turns out of order;
 * M2_ELIMIT: too many turns or ids; M2_ENOMEM. */
enum m2_err m2_prompt_encode(const char *json, size_t length, enum m2_prompt_form form,
	const struct m2_tokenizer *tokenizer, const char *name, size_t max_ids, int32_t **ids,
	size_t *count, struct m2_why *why);

#endif
