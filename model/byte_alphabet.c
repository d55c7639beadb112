/* byte_alphabet.c - the alphabet is computed, not listed: a table of 256 could hold a typo. */
#include "model/byte_alphabet.h"

#include <stdbool.h>

#include "common/utf8.h"

enum { FIRST_MOVED = 0x100, N_MOVED = 68 };

static bool stands_for_itself(uint32_t c)
{
	return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

int m2_byte_of_stand_in(uint32_t code)
{
	if (stands_for_itself(code))
		return (int)code;
	if (code < FIRST_MOVED || code >= FIRST_MOVED + N_MOVED)
		return -1;
	const uint32_t i = code - FIRST_MOVED; /* moved bytes: 0x00..0x20, 0x7f..0xa0, 0xad */
	return (int)(i <= 0x20 ? i : i < N_MOVED - 1 ? i - 0x21 + 0x7f : 0xad);
}

uint32_t m2_stand_in_of_byte(unsigned char byte)
{
	if (stands_for_itself(byte))
		return byte;
	return FIRST_MOVED + (byte <= 0x20          ? byte
				     : byte == 0xad ? (uint32_t)N_MOVED - 1
						    : (uint32_t)byte - 0x7f + 0x21);
}

ptrdiff_t m2_bytes_of_stand_ins(const char *text, size_t length, unsigned char *out)
{
	ptrdiff_t n = 0;
	for (size_t at = 0; at < length;) {
		uint32_t code = 0;
		const int size =
			m2_utf8_decode((const unsigned char *)text + at, length - at, &code);
		const int byte = size > 0 ? m2_byte_of_stand_in(code) : -1;
		if (byte < 0)
			return -1;
		out[n++] = (unsigned char)byte;
		at += (size_t)size;
	}
	return n;
}
