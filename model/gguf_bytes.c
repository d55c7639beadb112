/* gguf_bytes.c - the growing window: never more memory than file, never more than the limit. */
#include "model/gguf_bytes.h"

#include <stdlib.h>

#include "model/file.h"

enum { FIRST_BYTES = 1 << 16 };

void m2_gguf_bytes_finish(struct m2_gguf_bytes *bytes)
{
	free(bytes->data);
	bytes->data = NULL;
	bytes->have = 0;
	bytes->cap = 0;
}

/* Twice what there is, or what is asked for, but no more than the file has. */
static enum m2_err read_on(struct m2_gguf_bytes *b, uint64_t end)
{
	uint64_t wanted = b->have == 0 ? FIRST_BYTES : 2 * (uint64_t)b->have;
	if (wanted < end)
		wanted = end;
	if (wanted > M2_GGUF_MAX_HEADER)
		wanted = M2_GGUF_MAX_HEADER;
	if (wanted > b->file_bytes)
		wanted = b->file_bytes;
	unsigned char *grown = realloc(b->data, (size_t)wanted);
	if (grown == NULL)
		return m2_fail(M2_ENOMEM, b->why, "%s: no memory for a header of %llu bytes",
			b->what, (unsigned long long)wanted);
	b->data = grown;
	b->cap = (size_t)wanted;
	const enum m2_err err = m2_file_read_at(
		b->fd, b->data + b->have, b->cap - b->have, b->have, b->what, b->why);
	if (err == M2_OK)
		b->have = b->cap;
	return err;
}

enum m2_err m2_gguf_bytes_need(struct m2_gguf_bytes *b, uint64_t n)
{
	if (n <= b->have - b->at)
		return M2_OK;
	const uint64_t there = b->fd < 0 ? b->have : b->file_bytes;
	if (n > there - b->at)
		return m2_fail(M2_EFORMAT, b->why,
			"%s: %llu bytes are described at byte %zu, the file has %llu: it is cut "
			"short",
			b->what, (unsigned long long)n, b->at, (unsigned long long)there);
	if (n > M2_GGUF_MAX_HEADER - b->at)
		return m2_fail(M2_ELIMIT, b->why, "%s: its keys take more than %d MiB", b->what,
			M2_GGUF_MAX_HEADER >> 20);
	return read_on(b, b->at + n);
}

enum m2_err m2_gguf_bytes_u32(struct m2_gguf_bytes *b, uint32_t *out)
{
	const enum m2_err err = m2_gguf_bytes_need(b, 4);
	if (err != M2_OK)
		return err;
	*out = m2_gguf_u32(b->data + b->at);
	b->at += 4;
	return M2_OK;
}

enum m2_err m2_gguf_bytes_u64(struct m2_gguf_bytes *b, uint64_t *out)
{
	const enum m2_err err = m2_gguf_bytes_need(b, 8);
	if (err != M2_OK)
		return err;
	*out = m2_gguf_u64(b->data + b->at);
	b->at += 8;
	return M2_OK;
}

enum m2_err m2_gguf_bytes_string(
	struct m2_gguf_bytes *b, uint64_t max, const char *noun, size_t *at, size_t *length)
{
	uint64_t n = 0;
	enum m2_err err = m2_gguf_bytes_u64(b, &n);
	if (err == M2_OK && n > max)
		err = m2_fail(M2_ELIMIT, b->why,
			"%s: %s at byte %zu has %llu bytes, more than %llu", b->what, noun, b->at,
			(unsigned long long)n, (unsigned long long)max);
	if (err == M2_OK)
		err = m2_gguf_bytes_need(b, n);
	if (err != M2_OK)
		return err;
	*at = b->at;
	*length = (size_t)n;
	b->at += (size_t)n;
	return M2_OK;
}
