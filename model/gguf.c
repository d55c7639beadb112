/* gguf.c - opening a GGUF file: its header read once, its keys and tensors handed out.
 *
 * The header is kept in memory as it was read; keys and tokens are looked up in it.  Nothing is mapped.
 */
#include "model/gguf.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/file.h"
#include "model/gguf_bytes.h"
#include "model/gguf_keys.h"
#include "model/gguf_tensors.h"

enum { DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 65536 };

/* Magic and version.  A file in the other byte order has its version's low half empty. */
static enum m2_err check_version(struct m2_gguf_bytes *b)
{
	uint32_t version = 0;
	enum m2_err err = m2_gguf_bytes_need(b, 4);
	if (err == M2_OK && memcmp(b->data, "GGUF", 4) != 0)
		err = m2_fail(M2_EFORMAT, b->why, "%s does not begin with GGUF: not a GGUF file",
			b->what);
	if (err != M2_OK)
		return err;
	b->at = 4;
	err = m2_gguf_bytes_u32(b, &version);
	if (err != M2_OK)
		return err;
	if (version != 0 && (version & 0xffff) == 0)
		return m2_fail(M2_EUNSUPPORTED, b->why,
			"%s is a big-endian GGUF file; little-endian ones are supported", b->what);
	if (version != 2 && version != 3)
		return m2_fail(M2_EUNSUPPORTED, b->why,
			"%s is of GGUF version %u; 2 and 3 are supported", b->what, version);
	return M2_OK;
}

static enum m2_err find_alignment(const struct m2_gguf *g, uint32_t *out, struct m2_why *why)
{
	static const char name[] = "general.alignment";
	int64_t n = DEFAULT_ALIGNMENT;
	const enum m2_err err = m2_gguf_get_int(g, name, 1, MAX_ALIGNMENT, &n, NULL, why);
	if (err == M2_OK && (n & (n - 1)) != 0)
		return m2_fail_field(M2_EINVAL, why, name, "%s: %s is %lld, no power of two",
			g->what, name, (long long)n);
	*out = (uint32_t)n;
	return err;
}

/* The whole header.  g->data is borrowed from b until it is kept. */
static enum m2_err read_header(
	struct m2_gguf_bytes *b, struct m2_gguf *g, struct m2_tensor_file *f, struct m2_why *why)
{
	uint64_t n_tensors = 0;
	uint64_t n_keys = 0;
	uint32_t alignment = 0;
	enum m2_err err = check_version(b);
	if (err == M2_OK)
		err = m2_gguf_bytes_u64(b, &n_tensors);
	if (err == M2_OK)
		err = m2_gguf_bytes_u64(b, &n_keys);
	if (err == M2_OK)
		err = m2_gguf_keys_read(g, b, n_keys, why);
	if (err != M2_OK)
		return err;
	const size_t keys_end = b->at;
	g->data = b->data;
	err = find_alignment(g, &alignment, why);
	g->data = NULL;
	if (err == M2_OK)
		err = m2_gguf_tensors_read(b, n_tensors, alignment, f, &g->norm_rows, why);
	if (err != M2_OK)
		return err;
	/* what lies behind the keys is not needed any more */
	unsigned char *less = realloc(b->data, keys_end);
	g->data = less != NULL ? less : b->data;
	b->data = NULL;
	return M2_OK;
}

static enum m2_err read_all(struct m2_gguf_bytes *b, struct m2_gguf **out,
	struct m2_tensor_file **tensors, struct m2_why *why)
{
	struct m2_tensor_file *f = m2_tensor_file_create(b->what);
	struct m2_gguf *g = calloc(1, sizeof *g);
	enum m2_err err = M2_OK;
	if (f == NULL || g == NULL || (g->what = strdup(b->what)) == NULL)
		err = m2_fail(M2_ENOMEM, why, "%s: out of memory", b->what);
	if (err == M2_OK)
		err = read_header(b, g, f, why);
	if (err != M2_OK || tensors == NULL)
		m2_tensor_file_close(&f);
	if (err != M2_OK) {
		m2_gguf_close(&g);
		return err;
	}
	if (tensors != NULL)
		*tensors = f;
	*out = g;
	return M2_OK;
}

enum m2_err m2_gguf_parse(const void *bytes, size_t length, uint64_t file_bytes, const char *what,
	struct m2_gguf **out, struct m2_tensor_file **tensors, struct m2_why *why)
{
	struct m2_gguf_bytes b = {.fd = -1, .file_bytes = file_bytes, .what = what, .why = why};
	b.have = length < M2_GGUF_MAX_HEADER ? length : M2_GGUF_MAX_HEADER;
	b.cap = b.have;
	b.data = malloc(b.have + 1);
	if (b.data == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	if (b.have > 0)
		memcpy(b.data, bytes, b.have);
	const enum m2_err err = read_all(&b, out, tensors, why);
	m2_gguf_bytes_finish(&b);
	return err;
}

enum m2_err m2_gguf_open(int dirfd, const char *name, struct m2_gguf **out,
	struct m2_tensor_file **tensors, struct m2_why *why)
{
	struct m2_gguf_bytes b = {.what = name, .why = why};
	struct stat st;
	enum m2_err err = m2_file_open(dirfd, name, name, &b.fd, why);
	if (err != M2_OK)
		return err;
	if (fstat(b.fd, &st) != 0)
		err = m2_fail(M2_EIO, why, "%s: its size cannot be read", name);
	b.file_bytes = err == M2_OK ? (uint64_t)st.st_size : 0;
	if (err == M2_OK)
		err = read_all(&b, out, tensors, why);
	m2_gguf_bytes_finish(&b);
	if (err == M2_OK && tensors != NULL)
		(*tensors)->fd = b.fd;
	else
		close(b.fd);
	return err;
}

void m2_gguf_close(struct m2_gguf **gguf)
{
	struct m2_gguf *g = *gguf;
	if (g == NULL)
		return;
	free(g->what);
	free(g->data);
	free(g->keys);
	free(g);
	*gguf = NULL;
}
