/* pretokenize.h - GPT-2's pattern, which cuts text into the words that BPE works on.
 * Internal to the room.  Threads: no shared state. */
#ifndef M2_MODEL_PRETOKENIZE_H
#define M2_MODEL_PRETOKENIZE_H

#include <stddef.h>

/* The pattern, for the test that holds the scanner against PCRE2. */
#define M2_GPT2_PATTERN                                                                            \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Where the match of the pattern that begins at text[at] ends; at < length, valid UTF-8, at on a
 * character.  Every character is in some match, so end > at, and the next match begins there. */
size_t m2_gpt2_next(const char *text, size_t length, size_t at);

#endif
