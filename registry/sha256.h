/* sha256.h - SHA-256 (FIPS 180-4) of texts and of files, by OpenSSL's libcrypto.
 *
 * libcrypto because it uses the processor's SHA instructions: a checkpoint of 14 GB is hashed at the
 * speed of a disk, ten times faster than portable C.  It is here and not in common/, so that the
 * client library does not link it.  No configuration file of the host is read for it.
 *
 * Threads: no shared state after the first call; a stream belongs to one thread at a time.  Nothing
 * blocks.  Failure means that libcrypto had no memory.
 */
#ifndef M2_REGISTRY_SHA256_H
#define M2_REGISTRY_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { M2_SHA256_BYTES = 32, M2_SHA256_HEX = 65 };

struct m2_sha256; /* opaque: a message that comes in parts */

/* NULL: no memory. */
struct m2_sha256 *m2_sha256_create(void);
void m2_sha256_destroy(struct m2_sha256 **stream);

/* Any number of parts, of any length. */
bool m2_sha256_update(struct m2_sha256 *stream, const void *data, size_t length);

/* The digest of all parts as 64 lower-case hex digits and NUL; the stream begins anew. */
bool m2_sha256_end(struct m2_sha256 *stream, char hex[M2_SHA256_HEX]);

/* Of a whole buffer.  false leaves hex empty. */
bool m2_sha256_hex(const void *data, size_t length, char hex[M2_SHA256_HEX]);

#endif
