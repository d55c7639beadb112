/* logits_file.c - one f32 matrix as a safetensors file.
 *
 * Layout: u64 little-endian length of the header, the header (JSON, padded with spaces to a multiple of
 * 8), the rows.  It appears under its name only when it is complete.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/num.h"

static bool write_rows(FILE *out, const float *data, size_t count)
{
#if __BYTE_ORDER == __LITTLE_ENDIAN
	return fwrite(data, sizeof *data, count, out) == count;
#else
	for (size_t i = 0; i < count; i++) {
		uint32_t bits;
		memcpy(&bits, &data[i], sizeof bits);
		bits = htole32(bits);
		if (fwrite(&bits, sizeof bits, 1, out) != 1)
			return false;
	}
	return true;
#endif
}

static bool write_all(
	FILE *out, const char *name, const float *data, size_t rows, size_t columns, size_t count)
{
	char header[256];
	int length = snprintf(header, sizeof header,
		"{\"%s\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}", name,
		rows, columns, count * sizeof *data);
	if (length < 0 || (size_t)length > sizeof header - 8)
		return false;
	while (length % 8 != 0)
		header[length++] = ' ';
	const uint64_t size = htole64((uint64_t)length);
	return fwrite(&size, sizeof size, 1, out) == 1 &&
	       fwrite(header, 1, (size_t)length, out) == (size_t)length &&
	       write_rows(out, data, count) && fflush(out) == 0;
}

int ctl_write_safetensors(
	const char *path, const char *name, const float *data, size_t rows, size_t columns)
{
	size_t count;
	size_t bytes;
	char *temporary = NULL;
	if (!m2_mul_size(rows, columns, &count) || !m2_mul_size(count, sizeof *data, &bytes) ||
		asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return ctl_say(CTL_FAILED, "%s: out of memory (no_memory)", path);
	const int fd = mkstemp(temporary);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "wb");
	bool good = out != NULL && write_all(out, name, data, rows, columns, count);
	if (good) { /* mkstemp makes it private; the result has the mode a new file has */
		const mode_t mask = umask(0);
		(void)umask(mask);
		good = fchmod(fd, 0666 & ~mask) == 0;
	}
	if (out != NULL)
		good = fclose(out) == 0 && good;
	else if (fd >= 0)
		(void)close(fd);
	good = good && rename(temporary, path) == 0;
	const int status =
		good ? CTL_OK : ctl_say(CTL_FAILED, "%s: %s (io)", path, strerror(errno));
	if (!good && fd >= 0)
		(void)unlink(temporary);
	free(temporary);
	return status;
}
