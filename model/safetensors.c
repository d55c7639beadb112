/* safetensors.c - an open safetensors file: where its tensors lie, and their bytes.
 *
 * Tensors must tile the data exactly: no hole can hide a payload, no overlap can make one tensor
 * another's alias, and a truncated download is seen before anything is loaded.  The JSON itself is
 * read by safetensors_header.c; types and values of tensors are the checkpoint's business.
 */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file.h"
#include "model/safetensors_header.h"

enum { MAX_HEADER_BYTES = 100000000 };

static int by_place(const void *a, const void *b)
{
	const struct m2_tensor *x = a;
	const struct m2_tensor *y = b;
	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* No hole, no overlap, nothing behind the last.  Empty tensors lie on a boundary. */
static enum m2_err check_layout(struct m2_tensor_file *f, uint64_t data_bytes, struct m2_why *why)
{
	uint64_t end = 0;
	if (f->count > 0)
		qsort(f->tensors, f->count, sizeof *f->tensors, by_place);
	for (size_t i = 0; i < f->count; i++) {
		const struct m2_tensor *t = &f->tensors[i];
		if (t->begin != end)
			return m2_fail(M2_EFORMAT, why,
				"%s: the data of %.200s begins at %llu, the data before it ends at "
				"%llu",
				f->what, t->name, (unsigned long long)t->begin,
				(unsigned long long)end);
		end += t->bytes;
	}
	if (end != data_bytes)
		return m2_fail(M2_EFORMAT, why,
			"%s: the header describes %llu bytes of data, the file has %llu", f->what,
			(unsigned long long)end, (unsigned long long)data_bytes);
	return m2_tensor_file_sort(f, why);
}

enum m2_err m2_safetensors_parse_header(const char *json, size_t length, uint64_t data_bytes,
	const char *what, struct m2_tensor_file **out, struct m2_why *why)
{
	struct m2_tensor_file *f = m2_tensor_file_create(what);
	if (f == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	enum m2_err err = m2_safetensors_header_read(
		json, length, what, &f->tensors, &f->count, &f->names, why);
	if (err == M2_OK)
		err = check_layout(f, data_bytes, why);
	if (err != M2_OK) {
		m2_tensor_file_close(&f);
		return err;
	}
	for (size_t i = 0; i < f->count; i++)
		f->tensors[i].begin += 8 + (uint64_t)length;
	*out = f;
	return M2_OK;
}

/* The header of an open file of file_bytes bytes. */
static enum m2_err read_header(int fd, uint64_t file_bytes, const char *what,
	struct m2_tensor_file **out, struct m2_why *why)
{
	unsigned char raw[8];
	if (file_bytes < sizeof raw)
		return m2_fail(M2_EFORMAT, why, "%s has %llu bytes, too few for a safetensors file",
			what, (unsigned long long)file_bytes);
	enum m2_err err = m2_file_read_at(fd, raw, sizeof raw, 0, what, why);
	if (err != M2_OK)
		return err;
	uint64_t length = 0;
	for (int i = 7; i >= 0; i--)
		length = length << 8 | raw[i];
	if (length > MAX_HEADER_BYTES)
		return m2_fail(M2_EFORMAT, why,
			"%s: a header of %llu bytes, more than %d: not a safetensors file", what,
			(unsigned long long)length, MAX_HEADER_BYTES);
	if (length > file_bytes - sizeof raw)
		return m2_fail(M2_EFORMAT, why,
			"%s: a header of %llu bytes in a file of %llu: the file is cut short", what,
			(unsigned long long)length, (unsigned long long)file_bytes);
	char *json = malloc((size_t)length + 1);
	if (json == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: no memory for a header of %llu bytes", what,
			(unsigned long long)length);
	err = m2_file_read_at(fd, json, (size_t)length, sizeof raw, what, why);
	if (err == M2_OK)
		err = m2_safetensors_parse_header(
			json, (size_t)length, file_bytes - sizeof raw - length, what, out, why);
	free(json);
	return err;
}

enum m2_err m2_safetensors_open(
	int dirfd, const char *name, struct m2_tensor_file **out, struct m2_why *why)
{
	int fd;
	enum m2_err err = m2_file_open(dirfd, name, name, &fd, why);
	if (err != M2_OK)
		return err;
	struct stat st;
	if (fstat(fd, &st) != 0)
		err = m2_fail(M2_EIO, why, "%s: its size cannot be read", name);
	else
		err = read_header(fd, (uint64_t)st.st_size, name, out, why);
	if (err != M2_OK) {
		close(fd);
		return err;
	}
	(*out)->fd = fd;
	return M2_OK;
}
