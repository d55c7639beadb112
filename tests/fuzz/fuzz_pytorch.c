/* fuzz_pytorch.c - a hostile pytorch_model.bin, container and all: refused with a sentence, or tensors
 * that can be read.  The file lies in memory; pickles alone have a target of their own. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/pytorch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
	if (!holds)
		abort();
}

static void check(const struct m2_tensor_file *file, uint64_t size)
{
	struct m2_why why;
	for (size_t i = 0; i < file->count; i++) {
		const struct m2_tensor *t = &file->tensors[i];
		unsigned char last;
		require(m2_tensor_file_find(file, t->name) == t);
		require(t->begin <= size && t->bytes <= size - t->begin);
		if (t->bytes > 0)
			require(m2_tensor_file_read(file, t, t->bytes - 1, &last, 1, &why) ==
				M2_OK);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_tensor_file *file = NULL;
	struct m2_why why = {.text = ""};
	char path[64];
	const int fd = memfd_create("fuzz", MFD_CLOEXEC);
	require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (m2_pytorch_open(-1, path, &file, &why) == M2_OK)
		check(file, size);
	else
		require(file == NULL && why.text[0] != '\0');
	m2_tensor_file_close(&file);
	close(fd);
	return 0;
}
