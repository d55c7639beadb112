/* pytorch_zip.c - what the entries of a PyTorch file are called, and libzip's opinion of them.
 *
 * libzip comes second: it keeps every extra field of every local header in memory and trusts counts, so
 * a file of a few megabytes could make it take gigabytes; behind our own bounds it cannot.  It then
 * compares headers more closely than we do, and every entry's name and size with ours.
 */
#include "model/pytorch_zip.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zip.h>

static const char pickle_name[] = "data.pkl";

/* ---- names ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(
		(*(struct m2_zip_entry *const *)a)->name, (*(struct m2_zip_entry *const *)b)->name);
}

static enum m2_err sort_names(struct m2_pytorch_zip *z, struct m2_why *why)
{
	const size_t count = z->directory.count;
	z->by_name = malloc((count + 1) * sizeof *z->by_name);
	if (z->by_name == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", z->what);
	for (size_t i = 0; i < count; i++)
		z->by_name[i] = &z->directory.entries[i];
	qsort(z->by_name, count, sizeof *z->by_name, by_name);
	for (size_t i = 1; i < count; i++)
		if (strcmp(z->by_name[i - 1]->name, z->by_name[i]->name) == 0)
			return m2_fail(M2_EFORMAT, why,
				"%s: two entries have the same name, %.200s", z->what,
				z->by_name[i]->name);
	return M2_OK;
}

/* All names begin with one directory, and data.pkl lies in it and nowhere else. */
static enum m2_err check_prefix(struct m2_pytorch_zip *z, struct m2_why *why)
{
	const struct m2_zip_directory *d = &z->directory;
	const char *slash = d->count > 0 ? strchr(d->entries[0].name, '/') : NULL;
	size_t pickles = 0;
	if (slash == NULL)
		return m2_fail(M2_EFORMAT, why,
			"%s is a zip, but not one of PyTorch: its entries lie in no directory",
			z->what);
	z->prefix_length = (size_t)(slash - d->entries[0].name) + 1;
	for (size_t i = 0; i < d->count; i++) {
		const char *name = d->entries[i].name;
		const char *last = strrchr(name, '/');
		if (strncmp(name, d->entries[0].name, z->prefix_length) != 0)
			return m2_fail(M2_EFORMAT, why, "%s: %.180s does not lie in %.*s", z->what,
				name, (int)z->prefix_length, d->entries[0].name);
		pickles += strcmp(last + 1, pickle_name) == 0;
	}
	if (pickles > 1)
		return m2_fail(M2_EFORMAT, why, "%s holds more than one %s", z->what, pickle_name);
	if (m2_pytorch_zip_find(z, pickle_name, strlen(pickle_name)) == NULL)
		return m2_fail(M2_EFORMAT, why, "%s is a zip, but not one of PyTorch: no %.*s%s",
			z->what, (int)z->prefix_length, d->entries[0].name, pickle_name);
	return M2_OK;
}

const struct m2_zip_entry *m2_pytorch_zip_find(
	const struct m2_pytorch_zip *zip, const char *name, size_t length)
{
	size_t low = 0;
	size_t high = zip->directory.count;
	while (low < high) {
		const size_t middle = low + (high - low) / 2;
		const char *other = zip->by_name[middle]->name + zip->prefix_length;
		int order = strncmp(other, name, length);
		if (order == 0 && other[length] != '\0')
			order = 1;
		if (order == 0)
			return zip->by_name[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/* ---- libzip ---- */

static enum m2_err refused_by_libzip(
	const struct m2_pytorch_zip *z, zip_error_t *error, struct m2_why *why)
{
	const int code = zip_error_code_zip(error);
	const enum m2_err err = code == ZIP_ER_MEMORY                        ? M2_ENOMEM
				: code == ZIP_ER_READ || code == ZIP_ER_SEEK ? M2_EIO
									     : M2_EFORMAT;
	return m2_fail(err, why, "%s: libzip refuses it: %s", z->what, zip_error_strerror(error));
}

/* libzip reads through a stream of its own. */
static enum m2_err open_archive(struct m2_pytorch_zip *z, int fd, struct m2_why *why)
{
	zip_error_t error;
	const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	FILE *stream = copy >= 0 ? fdopen(copy, "rb") : NULL;
	if (stream == NULL) {
		if (copy >= 0)
			close(copy);
		return m2_fail(M2_EIO, why, "%s: no file descriptor is left", z->what);
	}
	zip_error_init(&error);
	zip_source_t *source = zip_source_filep_create(stream, 0, -1, &error);
	if (source == NULL)
		fclose(stream);
	else if ((z->archive = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error)) ==
		 NULL)
		zip_source_free(source); /* closes the stream */
	const enum m2_err err = z->archive == NULL ? refused_by_libzip(z, &error, why) : M2_OK;
	zip_error_fini(&error);
	return err;
}

/* What libzip read is what we read. */
static enum m2_err compare_entries(const struct m2_pytorch_zip *z, struct m2_why *why)
{
	const struct m2_zip_directory *d = &z->directory;
	bool same = zip_get_num_entries(z->archive, 0) == (zip_int64_t)d->count;
	for (size_t i = 0; i < d->count && same; i++) {
		const zip_uint64_t wanted = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
					    ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
		const struct m2_zip_entry *e = &d->entries[i];
		zip_stat_t st;
		same = zip_stat_index(z->archive, i, ZIP_FL_ENC_RAW, &st) == 0 &&
		       (st.valid & wanted) == wanted && strcmp(st.name, e->name) == 0 &&
		       st.size == e->bytes && st.comp_size == e->bytes &&
		       st.comp_method == ZIP_CM_STORE && st.encryption_method == ZIP_EM_NONE;
	}
	return same ? M2_OK
		    : m2_fail(M2_EFORMAT, why, "%s: libzip reads other entries than we do",
			      z->what);
}

enum m2_err m2_pytorch_zip_content(const struct m2_pytorch_zip *zip,
	const struct m2_zip_entry *entry, size_t max_bytes, char **out, struct m2_why *why)
{
	const zip_uint64_t index = (zip_uint64_t)(entry - zip->directory.entries);
	if (entry->bytes > max_bytes)
		return m2_fail(M2_ELIMIT, why, "%s: %.200s has %llu bytes, more than %zu",
			zip->what, entry->name, (unsigned long long)entry->bytes, max_bytes);
	char *content = malloc((size_t)entry->bytes + 1);
	zip_file_t *file = content != NULL ? zip_fopen_index(zip->archive, index, 0) : NULL;
	bool whole =
		file != NULL && zip_fread(file, content, entry->bytes) == (zip_int64_t)entry->bytes;
	char behind; /* libzip compares the CRC when it meets the end */
	whole = whole && zip_fread(file, &behind, 1) == 0;
	if (file != NULL)
		(void)zip_fclose(file);
	if (whole) {
		content[entry->bytes] = '\0';
		*out = content;
		return M2_OK;
	}
	free(content);
	if (content == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", zip->what);
	return m2_fail(M2_EFORMAT, why, "%s: %.200s is damaged: its bytes are not those of its CRC",
		zip->what, entry->name);
}

enum m2_err m2_pytorch_zip_open(int fd, uint64_t file_bytes, const char *what,
	struct m2_pytorch_zip *out, struct m2_why *why)
{
	*out = (struct m2_pytorch_zip){.what = what};
	enum m2_err err = m2_zip_directory_read(fd, file_bytes, what, &out->directory, why);
	if (err == M2_OK)
		err = sort_names(out, why);
	if (err == M2_OK)
		err = open_archive(out, fd, why);
	if (err == M2_OK)
		err = compare_entries(out, why);
	if (err == M2_OK)
		err = check_prefix(out, why);
	if (err != M2_OK)
		m2_pytorch_zip_finish(out);
	return err;
}

void m2_pytorch_zip_finish(struct m2_pytorch_zip *zip)
{
	if (zip->archive != NULL)
		zip_discard(zip->archive);
	free(zip->by_name);
	m2_zip_directory_finish(&zip->directory);
	*zip = (struct m2_pytorch_zip){.what = NULL};
}
