/* utf8.h - one strict UTF-8 decoder for the whole program (RFC 3629: no surrogates, no overlongs).
 * No state, any thread. */
#ifndef M2_COMMON_UTF8_H
#define M2_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode one scalar value at p[0..n), n >= 1.
 * > 0: its length (1..4), *code filled.  0: the bytes so far are a valid beginning, more are needed.
 * < 0: invalid; -result is the length of the maximal invalid part (1..3), which a lossy decoder
 * replaces by one U+FFFD (Unicode 15, section 3.9, "substitution of maximal subparts"). */
int m2_utf8_decode(const unsigned char *p, size_t n, uint32_t *code);

/* Encode; returns the length 1..4 (0 for a value that is no scalar value). */
int m2_utf8_encode(uint32_t code, unsigned char out[4]);

bool m2_utf8_valid(const char *text, size_t length);

#endif
