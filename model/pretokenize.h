/* pretokenize.h - the patterns by which tokenizers cut text into words, each as a scanner.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_PRETOKENIZE_H
#define M2_MODEL_PRETOKENIZE_H

#include <stddef.h>

/* Where the match of the pattern that begins at text[at] ends; at < length, valid UTF-8, at on a
 * character.  Every character is in some match, so end > at, and the next match begins there. */
typedef size_t m2_scan_fn(const char *text, size_t length, size_t at);

struct m2_pattern {
	const char *name;
	const char *text; /* exactly as files write it */
	m2_scan_fn *scan;
};

/* GPT-2's (GPT-NeoX's too), which ByteLevel uses by itself. */
size_t m2_gpt2_next(const char *text, size_t length, size_t at);

/* The patterns that are known; ended by a NULL name. */
extern const struct m2_pattern m2_patterns[];

/* The one that is written so, NULL for none. */
const struct m2_pattern *m2_pattern_find(const char *text, size_t length);

#endif
