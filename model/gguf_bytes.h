/* gguf_bytes.h - the front part of a GGUF file, brought into memory as far as it is read.
 *
 * Internal to the room.  Keys, tokens and tensor descriptions have no length of their own: where they
 * end is known once they are read.  So the window grows while it is read, from a file by pread(2) in
 * pieces, up to a limit; what was read stays where it is, addressed by offsets since the memory moves.
 * Blocks on the disk.  Threads: one at a time.
 */
#ifndef M2_MODEL_GGUF_BYTES_H
#define M2_MODEL_GGUF_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Real headers are up to some 20 MB: a vocabulary of 256,000 tokens with its merges. */
enum { M2_GGUF_MAX_HEADER = 64 << 20 };

struct m2_gguf_bytes {
	int fd;              /* borrowed; -1: data is all there is to read */
	uint64_t file_bytes; /* of the whole file */
	unsigned char *data; /* [have], owned */
	size_t have;
	size_t cap;
	size_t at; /* the next byte to take */
	const char *what;
	struct m2_why *why;
};

void m2_gguf_bytes_finish(struct m2_gguf_bytes *bytes); /* safe on zeroed memory */

/* Make n bytes from `at` readable in data.  EFORMAT: the file ends before; ELIMIT: the header is longer
 * than a header may be; EIO, ENOMEM. */
enum m2_err m2_gguf_bytes_need(struct m2_gguf_bytes *bytes, uint64_t n);

/* Take the next number, little-endian. */
enum m2_err m2_gguf_bytes_u32(struct m2_gguf_bytes *bytes, uint32_t *out);
enum m2_err m2_gguf_bytes_u64(struct m2_gguf_bytes *bytes, uint64_t *out);

/* Take a string: its length, then its bytes, which begin at *at and are not NUL-terminated.  Longer
 * than max: ELIMIT, saying what it is the text of. */
enum m2_err m2_gguf_bytes_string(
	struct m2_gguf_bytes *bytes, uint64_t max, const char *noun, size_t *at, size_t *length);

static inline uint32_t m2_gguf_u32(const unsigned char *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t m2_gguf_u64(const unsigned char *p)
{
	return m2_gguf_u32(p) | (uint64_t)m2_gguf_u32(p + 4) << 32;
}

#endif
