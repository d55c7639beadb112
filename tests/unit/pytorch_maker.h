/* pytorch_maker.h - small files as torch.save writes them, for the tests that then bend them.
 *
 * Entries are stored, aligned to 64 bytes by an extra field, with the sizes behind the data and in the
 * directory, as PyTorch's writer does.  A test changes bytes at the places that the maker remembers.
 * Header only: several test programs share it, and tests are one file each.
 */
#ifndef M2_TESTS_UNIT_PYTORCH_MAKER_H
#define M2_TESTS_UNIT_PYTORCH_MAKER_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes that grow. */
struct bytes {
	unsigned char *at;
	size_t n, capacity;
};

static inline void put(struct bytes *b, const void *data, size_t n)
{
	if (b->n + n > b->capacity) {
		b->capacity = 2 * (b->n + n);
		b->at = realloc(b->at, b->capacity);
		assert_non_null(b->at);
	}
	if (n > 0)
		memcpy(b->at + b->n, data, n);
	b->n += n;
}

static inline void put_text(struct bytes *b, const char *text)
{
	put(b, text, strlen(text));
}

/* n bytes, the lowest first. */
static inline void set_number(unsigned char *at, int n, uint64_t value)
{
	for (int i = 0; i < n; i++)
		at[i] = (unsigned char)(value >> (8 * i));
}

static inline void put_number(struct bytes *b, int n, uint64_t value)
{
	unsigned char raw[8];
	set_number(raw, n, value);
	put(b, raw, (size_t)n);
}

/* ---- pickles ---- */

static inline void put_string(struct bytes *p, const char *text)
{
	put_text(p, "X");
	put_number(p, 4, strlen(text));
	put_text(p, text);
}

static inline void put_int(struct bytes *p, uint64_t value)
{
	put(p, "\x8a\x08", 2);
	put_number(p, 8, value);
}

static inline void begin_dict(struct bytes *p)
{
	put(p, "\x80\x02}(", 4);
}

static inline void end_dict(struct bytes *p)
{
	put_text(p, "u.");
}

/* A tensor of a storage; sizes and strides end with -1. */
struct tensor_of {
	const char *storage; /* "FloatStorage" */
	const char *key;
	uint64_t numel, offset;
	int64_t size[10], stride[10];
};

static inline void put_dims(struct bytes *p, const int64_t *dims)
{
	put_text(p, "(");
	for (; *dims != -1; dims++)
		put_int(p, (uint64_t)*dims);
	put_text(p, "t");
}

static inline void put_tensor(struct bytes *p, const char *name, const struct tensor_of *t)
{
	put_string(p, name);
	put_text(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
	put_string(p, "storage");
	put_text(p, "ctorch\n");
	put_text(p, t->storage);
	put_text(p, "\n");
	put_string(p, t->key);
	put_string(p, "cpu");
	put_int(p, t->numel);
	put_text(p, "tQ");
	put_int(p, t->offset);
	put_dims(p, t->size);
	put_dims(p, t->stride);
	put(p, "\x89", 1);
	put_text(p, "ccollections\nOrderedDict\n)RtR");
}

/* ---- zips ---- */

struct zip_maker {
	struct bytes file;
	struct bytes directory;
	unsigned count;
	size_t local; /* of the last entry: its local header in file */
	size_t entry; /* and its entry in directory */
	size_t data;  /* and its bytes in file */
};

static inline uint32_t crc_of(const unsigned char *p, size_t n)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

/* Signature to extra length of a local header; an entry of the directory has the same fields. */
static inline void put_header(struct bytes *b, uint32_t crc, size_t size, size_t name, size_t extra)
{
	put_number(b, 2, 0);      /* version needed */
	put_number(b, 2, 0x0808); /* sizes behind the data, names in UTF-8 */
	put_number(b, 2, 0);      /* stored */
	put_number(b, 4, 0);      /* time and date */
	put_number(b, 4, crc);
	put_number(b, 4, size);
	put_number(b, 4, size);
	put_number(b, 2, name);
	put_number(b, 2, extra);
}

static inline void add_entry(struct zip_maker *z, const char *name, const void *data, size_t size)
{
	const size_t n = strlen(name);
	const size_t padding = 63 - (z->file.n + 30 + n + 4 + 63) % 64;
	z->local = z->file.n;
	z->entry = z->directory.n;
	put_text(&z->file, "PK\3\4");
	put_header(&z->file, 0, 0, n, padding + 4);
	put_text(&z->file, name);
	put_text(&z->file, "FB");
	put_number(&z->file, 2, padding);
	for (size_t i = 0; i < padding; i++)
		put_text(&z->file, "Z");
	z->data = z->file.n;
	put(&z->file, data, size);
	const uint32_t crc = crc_of(z->file.at + z->data, size);
	put_text(&z->file, "PK\7\10");
	put_number(&z->file, 4, crc);
	put_number(&z->file, 4, size);
	put_number(&z->file, 4, size);

	put_text(&z->directory, "PK\1\2");
	put_number(&z->directory, 2, 0); /* version made by */
	put_header(&z->directory, crc, size, n, 0);
	put_number(&z->directory, 2, 0); /* comment */
	put_number(&z->directory, 2, 0); /* disk */
	put_number(&z->directory, 2, 0);
	put_number(&z->directory, 4, 0); /* attributes */
	put_number(&z->directory, 4, z->local);
	put_text(&z->directory, name);
	z->count++;
}

static inline void put_end(struct zip_maker *z, size_t begin)
{
	put_text(&z->file, "PK\5\6");
	put_number(&z->file, 4, 0);
	put_number(&z->file, 2, z->count);
	put_number(&z->file, 2, z->count);
	put_number(&z->file, 4, z->directory.n);
	put_number(&z->file, 4, begin);
	put_number(&z->file, 2, 0);
}

/* Directory and end record; the file is then z->file. */
static inline void end_zip(struct zip_maker *z)
{
	const size_t begin = z->file.n;
	put(&z->file, z->directory.at, z->directory.n);
	put_end(z, begin);
}

static inline void free_zip(struct zip_maker *z)
{
	free(z->file.at);
	free(z->directory.at);
	*z = (struct zip_maker){.count = 0};
}

#endif
