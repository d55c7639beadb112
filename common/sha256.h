/* sha256.h - SHA-256 (FIPS 180-4) of a whole buffer, for checksums of what was registered.
 *
 * Not for secrets: nothing here resists side channels.  None of the libraries the program links
 * offers the function publicly, and OpenSSL for one digest would be heavy.
 * No state, any thread, never fails, does not block.
 */
#ifndef M2_COMMON_SHA256_H
#define M2_COMMON_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { M2_SHA256_BYTES = 32, M2_SHA256_HEX = 65 };

void m2_sha256(const void *data, size_t length, uint8_t digest[M2_SHA256_BYTES]);

/* The digest as 64 lower-case hex digits and NUL. */
void m2_sha256_hex(const void *data, size_t length, char hex[M2_SHA256_HEX]);

#endif
