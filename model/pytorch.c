/* pytorch.c - from the entries of a PyTorch file and the records of its pickle to tensors.
 *
 * Nothing can be larger in memory than in the file: entries are stored, never compressed, and tensors
 * stay where they are until they are read.  The CRC of the pickle is checked, those of the weights are
 * not: that is a second reading of the whole file, which the registry's checksums are for.
 */
#include "model/pytorch.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file.h"
#include "model/pytorch_pickle.h"
#include "model/pytorch_zip.h"

enum { MAX_PICKLE_BYTES = 16 << 20, MAX_BYTE_ORDER = 16, HEAD_BYTES = 512, TAR_MAGIC_AT = 257 };

/* ---- what is not a zip ---- */

/* The first bytes of what people have instead, so that they are told. */
static enum m2_err check_kind(int fd, uint64_t file_bytes, const char *what, struct m2_why *why)
{
	/* protocol 2, and the long integer 0x1950a86a20f9469cfc6c */
	static const unsigned char legacy[] = {
		0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
	static const char pointer[] = "version https://git-lfs";
	unsigned char head[HEAD_BYTES] = {0};
	const size_t n = file_bytes < HEAD_BYTES ? (size_t)file_bytes : (size_t)HEAD_BYTES;
	const enum m2_err err = m2_file_read_at(fd, head, n, 0, what, why);
	if (err != M2_OK || memcmp(head, "PK", 2) == 0)
		return err;
	if (memcmp(head, legacy, sizeof legacy) == 0)
		return m2_fail(M2_EUNSUPPORTED, why,
			"%s is a bare pickle, as torch.save wrote before version 1.6: only the zip "
			"that it writes today is read",
			what);
	if (memcmp(head + TAR_MAGIC_AT, "ustar", 5) == 0)
		return m2_fail(M2_EUNSUPPORTED, why,
			"%s is a tar, as torch.save wrote in its first versions: only the zip that "
			"it writes today is read",
			what);
	if (memcmp(head, pointer, sizeof pointer - 1) == 0)
		return m2_fail(M2_EFORMAT, why,
			"%s is a pointer of Git LFS, not the file that it stands for", what);
	return m2_fail(M2_EFORMAT, why, "%s is no zip, and so no file of torch.save", what);
}

/* ---- tensors ---- */

/* A dimension of one element is never stepped over: its stride may be anything. */
static bool is_row_major(const struct m2_pickle_tensor *t, uint64_t elements)
{
	int64_t step = 1;
	for (int i = t->n_dims - 1; i >= 0 && elements > 0; i--) {
		if (t->shape[i] != 1 && t->stride[i] != step)
			return false;
		step *= t->shape[i]; /* at most `elements` */
	}
	return true;
}

/* One tensor against its storage and the storage against its entry. */
static enum m2_err place_tensor(const struct m2_pytorch_zip *zip, const struct m2_pickle_tensor *t,
	struct m2_tensor *out, struct m2_why *why)
{
	static const char folder[] = "data/";
	char path[sizeof folder + 20];
	memcpy(path, folder, sizeof folder - 1);
	memcpy(path + sizeof folder - 1, t->key, t->key_length);
	const size_t path_length = sizeof folder - 1 + t->key_length;
	const struct m2_zip_entry *entry = m2_pytorch_zip_find(zip, path, path_length);
	if (entry == NULL)
		return m2_fail(M2_EFORMAT, why, "%s: the storage of %.200s, %.*s, is not there",
			zip->what, out->name, (int)path_length, path);
	uint64_t elements = 1;
	uint64_t end;
	for (int i = 0; i < t->n_dims; i++)
		if (__builtin_mul_overflow(elements, (uint64_t)t->shape[i], &elements) ||
			elements > INT64_MAX)
			return m2_fail(M2_EFORMAT, why, "%s: the size of %.200s overflows",
				zip->what, out->name);
	if (t->numel > entry->bytes / t->bytes)
		return m2_fail(M2_EFORMAT, why,
			"%s: the storage of %.200s is said to have %llu elements of %u bytes, "
			"%.60s "
			"has %llu bytes",
			zip->what, out->name, (unsigned long long)t->numel, t->bytes, entry->name,
			(unsigned long long)entry->bytes);
	if (!is_row_major(t, elements))
		return m2_fail(M2_EUNSUPPORTED, why,
			"%s: the strides of %.200s are not row-major: save it with .contiguous()",
			zip->what, out->name);
	if (__builtin_add_overflow(t->offset, elements, &end) || end > t->numel)
		return m2_fail(M2_EFORMAT, why,
			"%s: %.200s takes %llu elements from element %llu of a storage of %llu",
			zip->what, out->name, (unsigned long long)elements,
			(unsigned long long)t->offset, (unsigned long long)t->numel);
	out->dtype = t->dtype;
	memcpy(out->dtype_name, t->storage, strlen(t->storage) + 1);
	out->n_dims = t->n_dims;
	memcpy(out->shape, t->shape, sizeof out->shape);
	out->begin = entry->begin + t->offset * t->bytes;
	out->bytes = elements * t->bytes;
	return M2_OK;
}

/* One storage has one type and one size, however often it is named. */
static int by_key(const void *a, const void *b)
{
	const struct m2_pickle_tensor *x = *(struct m2_pickle_tensor *const *)a;
	const struct m2_pickle_tensor *y = *(struct m2_pickle_tensor *const *)b;
	if (x->key_length != y->key_length)
		return x->key_length < y->key_length ? -1 : 1;
	return memcmp(x->key, y->key, x->key_length);
}

static enum m2_err check_storages(
	const char *what, const struct m2_pickle *pickle, struct m2_why *why)
{
	const struct m2_pickle_tensor **sorted = malloc((pickle->count + 1) * sizeof *sorted);
	if (sorted == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	for (size_t i = 0; i < pickle->count; i++)
		sorted[i] = &pickle->tensors[i];
	qsort(sorted, pickle->count, sizeof *sorted, by_key);
	enum m2_err err = M2_OK;
	for (size_t i = 1; i < pickle->count && err == M2_OK; i++) {
		const struct m2_pickle_tensor *x = sorted[i - 1];
		const struct m2_pickle_tensor *y = sorted[i];
		if (by_key(&x, &y) == 0 && (x->storage != y->storage || x->numel != y->numel))
			err = m2_fail(M2_EFORMAT, why,
				"%s: storage %.*s is described twice, differently", what,
				(int)x->key_length, x->key);
	}
	free(sorted);
	return err;
}

/* The pickle's tensors into the file, names copied out of the pickle. */
static enum m2_err fill(struct m2_tensor_file *file, const struct m2_pytorch_zip *zip,
	const struct m2_pickle *pickle, struct m2_why *why)
{
	size_t n_names = 1;
	for (size_t i = 0; i < pickle->count; i++)
		n_names += pickle->tensors[i].name_length + 1;
	file->names = malloc(n_names);
	file->tensors = calloc(pickle->count + 1, sizeof *file->tensors);
	if (file->names == NULL || file->tensors == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", zip->what);
	char *name = file->names;
	for (size_t i = 0; i < pickle->count; i++) {
		const struct m2_pickle_tensor *t = &pickle->tensors[i];
		memcpy(name, t->name, t->name_length);
		name[t->name_length] = '\0';
		file->tensors[i].name = name;
		const enum m2_err err = place_tensor(zip, t, &file->tensors[i], why);
		if (err != M2_OK)
			return err;
		name += t->name_length + 1;
		file->count++;
	}
	return m2_tensor_file_sort(file, why);
}

/* ---- the file ---- */

/* Files before torch 2.1 have no such entry and are little-endian. */
static enum m2_err check_byte_order(const struct m2_pytorch_zip *zip, struct m2_why *why)
{
	static const char name[] = "byteorder";
	static const char little[] = "little";
	const struct m2_zip_entry *entry = m2_pytorch_zip_find(zip, name, sizeof name - 1);
	char *order;
	if (entry == NULL)
		return M2_OK;
	enum m2_err err = m2_pytorch_zip_content(zip, entry, MAX_BYTE_ORDER, &order, why);
	if (err != M2_OK)
		return err;
	if (entry->bytes != sizeof little - 1 || memcmp(order, little, sizeof little - 1) != 0)
		err = m2_fail(M2_EUNSUPPORTED, why,
			"%s: its byteorder is not \"little\": it was saved on a machine of another "
			"byte order",
			zip->what);
	free(order);
	return err;
}

static enum m2_err read_tensors(
	const struct m2_pytorch_zip *zip, struct m2_tensor_file *file, struct m2_why *why)
{
	static const char name[] = "data.pkl";
	const struct m2_zip_entry *entry = m2_pytorch_zip_find(zip, name, sizeof name - 1);
	struct m2_pickle pickle;
	char *bytes;
	enum m2_err err = m2_pytorch_zip_content(zip, entry, MAX_PICKLE_BYTES, &bytes, why);
	if (err != M2_OK)
		return err;
	err = m2_pickle_read(bytes, (size_t)entry->bytes, zip->what, &pickle, why);
	if (err == M2_OK)
		err = check_storages(zip->what, &pickle, why);
	if (err == M2_OK)
		err = fill(file, zip, &pickle, why);
	m2_pickle_finish(&pickle); /* its strings lie in bytes */
	free(bytes);
	return err;
}

static enum m2_err read_file(struct m2_tensor_file *file, struct m2_why *why)
{
	struct m2_pytorch_zip zip;
	struct stat st;
	if (fstat(file->fd, &st) != 0)
		return m2_fail(M2_EIO, why, "%s: its size cannot be read", file->what);
	const uint64_t bytes = (uint64_t)st.st_size;
	enum m2_err err = check_kind(file->fd, bytes, file->what, why);
	if (err == M2_OK)
		err = m2_pytorch_zip_open(file->fd, bytes, file->what, &zip, why);
	if (err != M2_OK)
		return err;
	err = check_byte_order(&zip, why);
	if (err == M2_OK)
		err = read_tensors(&zip, file, why);
	m2_pytorch_zip_finish(&zip);
	return err;
}

enum m2_err m2_pytorch_open(
	int dirfd, const char *name, struct m2_tensor_file **out, struct m2_why *why)
{
	int fd;
	enum m2_err err = m2_file_open(dirfd, name, name, &fd, why);
	if (err != M2_OK)
		return err;
	struct m2_tensor_file *file = m2_tensor_file_create(name);
	if (file == NULL) {
		close(fd);
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", name);
	}
	file->fd = fd;
	err = read_file(file, why);
	if (err != M2_OK)
		m2_tensor_file_close(&file);
	else
		*out = file;
	return err;
}
