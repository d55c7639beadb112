/* tensor_file.c - what all formats share once they know where their tensors lie. */
#include "model/tensor_file.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/file.h"

struct m2_tensor_file *m2_tensor_file_create(const char *what)
{
	struct m2_tensor_file *file = calloc(1, sizeof *file);
	if (file == NULL || (file->what = strdup(what)) == NULL) {
		free(file);
		return NULL;
	}
	file->fd = -1;
	return file;
}

void m2_tensor_file_close(struct m2_tensor_file **file)
{
	struct m2_tensor_file *f = *file;
	if (f == NULL)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->tensors);
	free(f->names);
	free(f->what);
	free(f);
	*file = NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct m2_tensor *)a)->name, ((const struct m2_tensor *)b)->name);
}

enum m2_err m2_tensor_file_sort(struct m2_tensor_file *file, struct m2_why *why)
{
	if (file->count > 0)
		qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
	for (size_t i = 1; i < file->count; i++)
		if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0)
			return m2_fail(M2_EFORMAT, why, "%s: the tensor %.200s is described twice",
				file->what, file->tensors[i].name);
	return M2_OK;
}

const struct m2_tensor *m2_tensor_file_find(const struct m2_tensor_file *file, const char *name)
{
	const struct m2_tensor key = {.name = name};
	if (file->count == 0)
		return NULL;
	return bsearch(&key, file->tensors, file->count, sizeof key, by_name);
}

enum m2_err m2_tensor_file_read(const struct m2_tensor_file *file, const struct m2_tensor *tensor,
	uint64_t offset, void *dst, size_t bytes, struct m2_why *why)
{
	assert(file->fd >= 0);
	assert(offset <= tensor->bytes && bytes <= tensor->bytes - offset);
	return m2_file_read_at(file->fd, dst, bytes, tensor->begin + offset, file->what, why);
}
