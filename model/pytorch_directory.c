/* pytorch_directory.c - end records, central directory and local headers of a zip (APPNOTE 6.3).
 *
 * A zip says everything twice, and a file that says two different things is read differently by two
 * readers.  So nothing is searched for: the end record is the last 22 bytes, the directory ends where
 * it begins, local headers repeat the directory, and nothing overlaps.  A library is asked for its
 * opinion as well (pytorch_zip.c), after this has bounded what it can be made to allocate.
 */
#include "model/pytorch_directory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/file.h"

enum {
	END_BYTES = 22,
	LOCATOR_BYTES = 20,
	END64_BYTES = 56,
	ENTRY_BYTES = 46,
	LOCAL_BYTES = 30,
	/* how far from the end libraries search for an end record */
	TAIL_BYTES = 65536 + END_BYTES + LOCATOR_BYTES,
	MAX_ENTRIES = 65535,
	MAX_DIRECTORY_BYTES = 32 << 20,
	MAX_NAME = 255,
	MAX_EXTRA_BYTES = 32 << 20, /* of all local headers together: alignment is made of it */
	FLAG_ENCRYPTED = 0x0001 | 0x0040 | 0x2000,
	ZIP64_EXTRA = 0x0001
};

static const uint32_t end_magic = 0x06054b50;
static const uint32_t locator_magic = 0x07064b50;
static const uint32_t end64_magic = 0x06064b50;
static const uint32_t entry_magic = 0x02014b50;
static const uint32_t local_magic = 0x04034b50;

struct reader {
	int fd;
	uint64_t file_bytes;
	const char *what;
	struct m2_why *why;
	uint64_t count; /* of entries, as the end record says */
	uint64_t begin; /* of the central directory */
	uint64_t bytes; /* of it */
	uint64_t extra; /* bytes of the extra fields of local headers so far */
};

static uint64_t number(const unsigned char *p, int bytes)
{
	uint64_t value = 0;
	for (int i = bytes - 1; i >= 0; i--)
		value = value << 8 | p[i];
	return value;
}

static uint16_t u16(const unsigned char *p)
{
	return (uint16_t)number(p, 2);
}

static uint32_t u32(const unsigned char *p)
{
	return (uint32_t)number(p, 4);
}

static uint64_t u64(const unsigned char *p)
{
	return number(p, 8);
}

/* ---- the end of the file ---- */

/* Another record in the tail that a library may take for the end record. */
static bool has_second_end(const unsigned char *tail, size_t length, uint64_t tail_begin)
{
	for (size_t at = 0; at + END_BYTES < length; at++) {
		const unsigned char *p = tail + at;
		if (p[0] != 'P' || u32(p) != end_magic)
			continue;
		const bool zip64 = at >= LOCATOR_BYTES && u32(p - LOCATOR_BYTES) == locator_magic;
		if (zip64 || (uint64_t)u32(p + 16) + u32(p + 12) == tail_begin + at)
			return true;
	}
	return false;
}

/* The zip64 end record that the locator in front of the end record points to. */
static enum m2_err read_end64(struct reader *r, const unsigned char *locator, uint64_t locator_at)
{
	unsigned char end[END64_BYTES];
	const uint64_t at = u64(locator + 8);
	if (at > locator_at || locator_at - at != END64_BYTES)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the zip64 end record does not lie in front of its locator", r->what);
	const enum m2_err err = m2_file_read_at(r->fd, end, sizeof end, at, r->what, r->why);
	if (err != M2_OK)
		return err;
	if (u32(end) != end64_magic || u64(end + 4) != END64_BYTES - 12)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: no zip64 end record where one is said to be", r->what);
	if (u32(locator + 4) != 0 || u32(locator + 16) > 1 || u32(end + 16) != 0 ||
		u32(end + 20) != 0 || u64(end + 24) != u64(end + 32))
		return m2_fail(M2_EFORMAT, r->why, "%s: an archive of more than one disk", r->what);
	r->count = u64(end + 32);
	r->bytes = u64(end + 40);
	r->begin = u64(end + 48);
	if (r->begin > at || at - r->begin != r->bytes)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the central directory does not end where the zip64 end record begins",
			r->what);
	return M2_OK;
}

static enum m2_err parse_end(struct reader *r, const unsigned char *tail, size_t length)
{
	const unsigned char *end = tail + length - END_BYTES;
	const uint64_t end_at = r->file_bytes - END_BYTES;
	if (u32(end) != end_magic || u16(end + 20) != 0)
		return m2_fail(M2_EFORMAT, r->why,
			"%s does not end with the end record of a zip: it is cut short, or "
			"something "
			"was added to it",
			r->what);
	if (has_second_end(tail, length, r->file_bytes - length))
		return m2_fail(M2_EFORMAT, r->why,
			"%s holds a second end record of a zip: two readers would read two "
			"archives",
			r->what);
	if (length >= END_BYTES + LOCATOR_BYTES && u32(end - LOCATOR_BYTES) == locator_magic)
		return read_end64(r, end - LOCATOR_BYTES, end_at - LOCATOR_BYTES);
	if (u16(end + 4) != 0 || u16(end + 6) != 0 || u16(end + 8) != u16(end + 10))
		return m2_fail(M2_EFORMAT, r->why, "%s: an archive of more than one disk", r->what);
	r->count = u16(end + 10);
	r->bytes = u32(end + 12);
	r->begin = u32(end + 16);
	if (r->begin > end_at || end_at - r->begin != r->bytes)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the central directory does not end where the end record begins",
			r->what);
	return M2_OK;
}

static enum m2_err read_end(struct reader *r)
{
	const size_t length =
		r->file_bytes < TAIL_BYTES ? (size_t)r->file_bytes : (size_t)TAIL_BYTES;
	if (length < END_BYTES)
		return m2_fail(
			M2_EFORMAT, r->why, "%s has %zu bytes, too few for a zip", r->what, length);
	unsigned char *tail = malloc(length);
	if (tail == NULL)
		return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", r->what);
	enum m2_err err =
		m2_file_read_at(r->fd, tail, length, r->file_bytes - length, r->what, r->why);
	if (err == M2_OK)
		err = parse_end(r, tail, length);
	free(tail);
	if (err != M2_OK)
		return err;
	if (r->count > MAX_ENTRIES || r->bytes > MAX_DIRECTORY_BYTES)
		return m2_fail(M2_ELIMIT, r->why,
			"%s: %llu entries in a directory of %llu bytes; %d entries and %d bytes "
			"are "
			"the limit",
			r->what, (unsigned long long)r->count, (unsigned long long)r->bytes,
			(int)MAX_ENTRIES, (int)MAX_DIRECTORY_BYTES);
	return M2_OK;
}

/* ---- the central directory ---- */

/* A name that can be said in a sentence and means one thing: no control characters, no "..", no
 * backslash, no empty part. */
static bool is_plain_name(const char *name, size_t length)
{
	if (length == 0 || length > MAX_NAME || !m2_utf8_valid(name, length))
		return false;
	size_t part = 0;
	for (size_t i = 0; i <= length; i++) {
		if (i < length && name[i] != '/') {
			if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '\\')
				return false;
			continue;
		}
		const size_t n = i - part;
		if (n == 0 || (n == 1 && name[part] == '.') ||
			(n == 2 && name[part] == '.' && name[part + 1] == '.'))
			return false;
		part = i + 1;
	}
	return true;
}

/* The 64-bit values behind those of sizes and offset that are all ones. */
static bool read_zip64(const unsigned char *extra, size_t length, uint64_t *values[3])
{
	size_t at = 0;
	while (at + 4 <= length) {
		const size_t size = u16(extra + at + 2);
		if (size > length - at - 4)
			return false;
		if (u16(extra + at) == ZIP64_EXTRA)
			break;
		at += 4 + size;
	}
	size_t left = at + 4 <= length ? u16(extra + at + 2) : 0;
	at += 4;
	for (int i = 0; i < 3; i++) {
		if (*values[i] != UINT32_MAX)
			continue;
		if (left < 8)
			return false;
		*values[i] = u64(extra + at);
		at += 8;
		left -= 8;
	}
	return true;
}

/* Facts of one entry of the central directory, its name copied to `name`. */
static enum m2_err parse_entry(
	struct reader *r, const unsigned char *p, char *name, struct m2_zip_entry *e)
{
	const size_t name_length = u16(p + 28);
	uint64_t packed = u32(p + 20);
	uint64_t bytes = u32(p + 24);
	uint64_t header = u32(p + 42);
	uint64_t *values[3] = {&bytes, &packed, &header};
	memcpy(name, p + ENTRY_BYTES, name_length);
	name[name_length] = '\0';
	if (!is_plain_name(name, name_length))
		return m2_fail(M2_EFORMAT, r->why,
			"%s: an entry whose name is not plain, at byte %llu of the directory",
			r->what, (unsigned long long)e->begin);
	if (u16(p + 8) & FLAG_ENCRYPTED)
		return m2_fail(M2_EUNSUPPORTED, r->why, "%s: %.200s is encrypted", r->what, name);
	if (u16(p + 10) != 0)
		return m2_fail(M2_EUNSUPPORTED, r->why,
			"%s: %.200s is compressed (method %u); torch.save stores", r->what, name,
			u16(p + 10));
	if (!read_zip64(p + ENTRY_BYTES + name_length, u16(p + 30), values) || u16(p + 34) != 0)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: %.200s: the directory's extra fields are inconsistent", r->what, name);
	if (packed != bytes)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: %.200s is stored, and is said to have %llu bytes and %llu", r->what,
			name, (unsigned long long)packed, (unsigned long long)bytes);
	*e = (struct m2_zip_entry){.name = name, .header = header, .bytes = bytes};
	return M2_OK;
}

static enum m2_err parse_directory(
	struct reader *r, const unsigned char *directory, struct m2_zip_directory *out)
{
	size_t at = 0;
	size_t n_names = 0;
	for (size_t i = 0; i < out->count; i++) {
		const unsigned char *p = directory + at;
		const size_t left = (size_t)r->bytes - at;
		const size_t size =
			left < ENTRY_BYTES || u32(p) != entry_magic
				? SIZE_MAX
				: (size_t)ENTRY_BYTES + u16(p + 28) + u16(p + 30) + u16(p + 32);
		if (size > left)
			return m2_fail(M2_EFORMAT, r->why,
				"%s: entry %zu of the directory is cut short or none", r->what, i);
		struct m2_zip_entry *e = &out->entries[i];
		e->begin = at; /* for a sentence about the name */
		const enum m2_err err = parse_entry(r, p, out->names + n_names, e);
		if (err != M2_OK)
			return err;
		n_names += strlen(e->name) + 1;
		at += size;
	}
	if (at != r->bytes)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the directory has %llu bytes, its %zu entries take %zu", r->what,
			(unsigned long long)r->bytes, out->count, at);
	return M2_OK;
}

/* ---- local headers ---- */

/* The local header repeats the name and says where the data begins.  Its sizes may be zero, with the
 * true ones behind the data: the directory is the authority. */
static enum m2_err read_local(struct reader *r, struct m2_zip_entry *e)
{
	unsigned char p[LOCAL_BYTES + MAX_NAME];
	const size_t name_length = strlen(e->name);
	const size_t length = LOCAL_BYTES + name_length;
	if (e->header > r->begin || r->begin - e->header < length)
		return m2_fail(M2_EFORMAT, r->why, "%s: %.200s is said to lie outside of the file",
			r->what, e->name);
	const enum m2_err err = m2_file_read_at(r->fd, p, length, e->header, r->what, r->why);
	if (err != M2_OK)
		return err;
	if (u32(p) != local_magic)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: no local header of %.200s where the directory says", r->what, e->name);
	if (u16(p + 26) != name_length || memcmp(p + LOCAL_BYTES, e->name, name_length) != 0)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the local header of %.200s has another name", r->what, e->name);
	if (u16(p + 8) != 0 || (u16(p + 6) & FLAG_ENCRYPTED))
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the local header of %.200s says compressed or encrypted, the "
			"directory "
			"does not",
			r->what, e->name);
	r->extra += u16(p + 28);
	e->begin = e->header + length + u16(p + 28);
	if (e->begin > r->begin || e->bytes > r->begin - e->begin)
		return m2_fail(M2_EFORMAT, r->why,
			"%s: the data of %.200s reaches beyond the directory's begin", r->what,
			e->name);
	if (r->extra > MAX_EXTRA_BYTES)
		return m2_fail(M2_ELIMIT, r->why, "%s: more than %d bytes of extra fields", r->what,
			(int)MAX_EXTRA_BYTES);
	return M2_OK;
}

static int by_header(const void *a, const void *b)
{
	const struct m2_zip_entry *x = *(struct m2_zip_entry *const *)a;
	const struct m2_zip_entry *y = *(struct m2_zip_entry *const *)b;
	return x->header < y->header ? -1 : x->header > y->header;
}

/* No entry's header or data lies in another's. */
static enum m2_err check_overlap(const struct reader *r, const struct m2_zip_directory *d)
{
	struct m2_zip_entry **sorted = malloc((d->count + 1) * sizeof *sorted);
	if (sorted == NULL)
		return m2_fail(M2_ENOMEM, r->why, "%s: out of memory", r->what);
	for (size_t i = 0; i < d->count; i++)
		sorted[i] = &d->entries[i];
	qsort(sorted, d->count, sizeof *sorted, by_header);
	enum m2_err err = M2_OK;
	for (size_t i = 1; i < d->count && err == M2_OK; i++)
		if (sorted[i]->header < sorted[i - 1]->begin + sorted[i - 1]->bytes)
			err = m2_fail(M2_EFORMAT, r->why, "%s: %.180s overlaps %.180s", r->what,
				sorted[i]->name, sorted[i - 1]->name);
	free(sorted);
	return err;
}

static enum m2_err read_entries(struct reader *r, struct m2_zip_directory *out)
{
	unsigned char *directory = malloc((size_t)r->bytes + 1);
	out->count = (size_t)r->count;
	out->entries = calloc(out->count + 1, sizeof *out->entries);
	/* names are part of the directory, and their NULs take the place of 46 bytes each */
	out->names = malloc((size_t)r->bytes + 1);
	enum m2_err err;
	if (directory == NULL || out->entries == NULL || out->names == NULL)
		err = m2_fail(M2_ENOMEM, r->why, "%s: out of memory", r->what);
	else
		err = m2_file_read_at(
			r->fd, directory, (size_t)r->bytes, r->begin, r->what, r->why);
	if (err == M2_OK)
		err = parse_directory(r, directory, out);
	free(directory);
	return err;
}

enum m2_err m2_zip_directory_read(int fd, uint64_t file_bytes, const char *what,
	struct m2_zip_directory *out, struct m2_why *why)
{
	struct reader r = {.fd = fd, .file_bytes = file_bytes, .what = what, .why = why};
	*out = (struct m2_zip_directory){.entries = NULL};
	enum m2_err err = read_end(&r);
	if (err == M2_OK)
		err = read_entries(&r, out);
	for (size_t i = 0; i < out->count && err == M2_OK; i++)
		err = read_local(&r, &out->entries[i]);
	if (err == M2_OK)
		err = check_overlap(&r, out);
	if (err != M2_OK)
		m2_zip_directory_finish(out);
	return err;
}

void m2_zip_directory_finish(struct m2_zip_directory *directory)
{
	free(directory->entries);
	free(directory->names);
	*directory = (struct m2_zip_directory){.entries = NULL};
}
