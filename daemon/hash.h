/* hash.h - SipHash-2-4 (Aumasson and Bernstein 2012) for tables whose keys strangers choose.
 *
 * Routing ids and request keys come from clients: with an unkeyed hash one of them could put all its keys
 * into one chain and make every look-up slow for everyone.  The key is random per process.
 * No state, any thread.
 */
#ifndef M2_DAEMON_HASH_H
#define M2_DAEMON_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct m2_hash_key {
	uint64_t k0, k1;
};

static inline uint64_t m2_hash_rotate(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static inline void m2_hash_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = m2_hash_rotate(v[1], 13) ^ v[0];
	v[0] = m2_hash_rotate(v[0], 32);
	v[2] += v[3];
	v[3] = m2_hash_rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = m2_hash_rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = m2_hash_rotate(v[1], 17) ^ v[2];
	v[2] = m2_hash_rotate(v[2], 32);
}

static inline uint64_t m2_hash_bytes(struct m2_hash_key key, const void *data, size_t length)
{
	uint64_t v[4] = {key.k0 ^ 0x736f6d6570736575u, key.k1 ^ 0x646f72616e646f6du,
		key.k0 ^ 0x6c7967656e657261u, key.k1 ^ 0x7465646279746573u};
	const unsigned char *p = data;
	uint64_t word = 0;
	size_t left = length;
	for (; left >= 8; left -= 8, p += 8) {
		memcpy(&word, p, 8);
		v[3] ^= word;
		m2_hash_round(v);
		m2_hash_round(v);
		v[0] ^= word;
	}
	word = (uint64_t)(length & 0xff) << 56;
	for (size_t i = 0; i < left; i++)
		word |= (uint64_t)p[i] << (8 * i);
	v[3] ^= word;
	m2_hash_round(v);
	m2_hash_round(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	for (int i = 0; i < 4; i++)
		m2_hash_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
