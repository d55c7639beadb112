/* unicode.h - the few properties of characters that tokenizers ask for, and normalisation.
 *
 * Internal to the room.  Threads: no shared state.
 */
#ifndef M2_MODEL_UNICODE_H
#define M2_MODEL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* \p{L}, \p{N}, \s (White_Space) and the rest, as the patterns of tokenizers mean them. */
enum m2_char_class { M2_CHAR_LETTER, M2_CHAR_NUMBER, M2_CHAR_SPACE, M2_CHAR_OTHER };

enum m2_char_class m2_char_class_of(uint32_t code);

/* \w: letters, marks, decimal and letter numbers, connectors. */
bool m2_char_is_word(uint32_t code);

/* The last character of text[0..length), length >= 1, valid UTF-8; *size its bytes. */
uint32_t m2_utf8_last(const char *text, size_t length, size_t *size);

/* What the patterns of newer tokenizers tell apart among letters: \p{Lu}\p{Lt}, \p{Ll}, and
 * \p{Lm}\p{Lo}\p{M}, which count as both. */
enum m2_char_case { M2_CASE_NONE, M2_CASE_UPPER, M2_CASE_LOWER, M2_CASE_BOTH };

enum m2_char_case m2_char_case_of(uint32_t code);

/* ASCII punctuation and symbols, and \p{P}. */
bool m2_char_is_punctuation(uint32_t code);

enum m2_unicode_form { M2_NFC, M2_NFD, M2_NFKC, M2_NFKD };

/* A Unicode normalisation form of valid UTF-8.  *out is malloc'd (caller frees), or NULL when the
 * text is seen at once to be in that form.  Linear in the length whatever it holds.  Errors: ENOMEM. */
enum m2_err m2_unicode_normalize(enum m2_unicode_form form, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why);

/* Each character's own lower case, without context (a final sigma stays as it is).  malloc'd. */
enum m2_err m2_unicode_lower(
	const char *text, size_t length, char **out, size_t *out_length, struct m2_why *why);

#endif
