/* byte_alphabet.h - GPT-2's printable stand-ins for the 256 bytes.
 *
 * Internal to the room.  0x21..0x7E, 0xA1..0xAC and 0xAE..0xFF stand for themselves; the other 68
 * bytes, in order, are U+0100 and up.  Threads: no shared state.
 */
#ifndef M2_MODEL_BYTE_ALPHABET_H
#define M2_MODEL_BYTE_ALPHABET_H

#include <stddef.h>
#include <stdint.h>

/* The byte that a character stands for, -1 if it is no stand-in. */
int m2_byte_of_stand_in(uint32_t code);

/* The stand-in of a byte. */
uint32_t m2_stand_in_of_byte(unsigned char byte);

/* Bytes of a spelling in stand-ins (valid UTF-8) into out (length bytes always suffice).  Returns
 * their number, or -1 if some character is no stand-in. */
ptrdiff_t m2_bytes_of_stand_ins(const char *text, size_t length, unsigned char *out);

#endif
