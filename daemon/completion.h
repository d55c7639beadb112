/* completion.h - the text of one completion: bytes from tokens, and the strings that end it.
 *
 * Text grows in a buffer of the caller (results memory).  Bytes are matched against the stop strings
 * as whole characters become final; what could still be the beginning of a stop string is held back,
 * so that nothing is ever published that a later match would take away.
 *
 * Which match: the one whose last byte comes first in the text; of several that end at the same byte
 * the longest (it begins first); of equal strings the one with the lower index.  The text ends before it.
 *
 * Threads: a m2_stops is immutable after init; a m2_completion belongs to one thread.  push and end
 * neither allocate nor lock.
 */
#ifndef M2_DAEMON_COMPLETION_H
#define M2_DAEMON_COMPLETION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "model/tokenizer.h"

/* The stop strings of a request, with the failure function of Knuth, Morris and Pratt (1977) of each. */
struct m2_stops {
	uint32_t n;
	uint16_t length[M2_LIMIT_STOP_STRINGS];
	uint32_t at
		[M2_LIMIT_STOP_STRINGS]; /* where string and failure function begin in bytes, failure */
	unsigned char *bytes;
	uint16_t *failure; /* longest border of the first i + 1 bytes */
};

/* bytes: the strings one after the other, length[i] >= 1 each; copied.  n = 0 allocates nothing. */
enum m2_err m2_stops_init(struct m2_stops *stops, const void *bytes, const uint16_t *length,
	uint32_t n, struct m2_why *why);
void m2_stops_finish(struct m2_stops *stops);

struct m2_completion {
	char *text; /* [capacity], caller's */
	size_t capacity;
	size_t written; /* bytes that are final characters, what is held back included */
	size_t shown;   /* bytes that may be published; never falls */
	int32_t stop;   /* index of the stop string that matched, -1: none */
	bool overflow; /* more text than capacity: a defect of whoever sized it; the excess is dropped */
	struct m2_text_stream stream;
	uint16_t matched
		[M2_LIMIT_STOP_STRINGS]; /* bytes of each stop string that the text ends with */
};

void m2_completion_init(struct m2_completion *c, char *text, size_t capacity);

/* One more token.  scratch: m2_tokenizer_max_text() + 9 bytes.  Specials have no text.
 * Returns true when a stop string is complete: shown is final, and nothing may be pushed any more. */
bool m2_completion_push(struct m2_completion *c, const struct m2_stops *stops,
	const struct m2_tokenizer *tokenizer, int32_t id, char *scratch);

/* Bytes that are final characters already: what push does behind the tokenizer. */
bool m2_completion_append(
	struct m2_completion *c, const struct m2_stops *stops, const char *bytes, size_t length);

/* The completion ends without a match: an incomplete character becomes U+FFFD (and is not matched:
 * the model did not write it), and everything is shown. */
void m2_completion_end(struct m2_completion *c);

#endif
