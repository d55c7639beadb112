/* utf8.c - the decoder follows table 3-7 of the Unicode standard byte by byte. */
#include "common/utf8.h"

int m2_utf8_decode(const unsigned char *p, size_t n, uint32_t *code)
{
	const unsigned char lead = p[0];
	if (lead < 0x80) {
		*code = lead;
		return 1;
	}
	if (lead < 0xc2 || lead > 0xf4)
		return -1;

	const int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
	unsigned char low = 0x80;
	unsigned char high = 0xbf;
	switch (lead) { /* the second byte's range excludes overlongs, surrogates, > U+10FFFF */
	case 0xe0:
		low = 0xa0;
		break;
	case 0xed:
		high = 0x9f;
		break;
	case 0xf0:
		low = 0x90;
		break;
	case 0xf4:
		high = 0x8f;
		break;
	default:
		break;
	}

	uint32_t value = length == 2 ? lead & 0x1fu : length == 3 ? lead & 0x0fu : lead & 0x07u;
	for (int i = 1; i < length; i++) {
		if ((size_t)i == n)
			return 0;
		if (p[i] < low || p[i] > high)
			return -i;
		value = value << 6 | (p[i] & 0x3fu);
		low = 0x80;
		high = 0xbf;
	}
	*code = value;
	return length;
}

int m2_utf8_encode(uint32_t code, unsigned char out[4])
{
	if (code < 0x80) {
		out[0] = (unsigned char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (unsigned char)(0xc0 | code >> 6);
		out[1] = (unsigned char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		if (code >= 0xd800 && code < 0xe000)
			return 0;
		out[0] = (unsigned char)(0xe0 | code >> 12);
		out[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (unsigned char)(0x80 | (code & 0x3f));
		return 3;
	}
	if (code > 0x10ffff)
		return 0;
	out[0] = (unsigned char)(0xf0 | code >> 18);
	out[1] = (unsigned char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (unsigned char)(0x80 | (code & 0x3f));
	return 4;
}

bool m2_utf8_valid(const char *text, size_t length)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t at = 0;
	while (at < length) {
		uint32_t code;
		const int n = m2_utf8_decode(p + at, length - at, &code);
		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}
