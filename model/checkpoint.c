/* checkpoint.c - a checkpoint on the disk: which files it is made of, and what they say.
 *
 * The containers are shards.c's, which tensor is which weight is checkpoint_places.c's; here the config
 * is found, both are held against each other, and the result is handed out as a source of weights.
 *
 * F64 tensors are accepted and handed out as F32: a backend never sees them.
 */
#include "model/checkpoint.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/checkpoint_places.h"
#include "model/file.h"

enum { MAX_CONFIG_BYTES = 1 << 20 };

struct m2_checkpoint {
	struct m2_model_config config;
	struct m2_shards shards;
	struct m2_place *places; /* [1 + L][M2_W_COUNT] */
	uint64_t parameters;
	uint64_t bytes;
	uint64_t elements[M2_DTYPE_F64 + 1];
	char **files; /* [n_files] full paths of all that was read; owned */
	size_t n_files;
	char container[64];
};

static const struct m2_place *place_of(void *checkpoint, int layer, enum m2_weight which)
{
	struct m2_checkpoint *c = checkpoint;
	return m2_place_of(c->places, layer, which);
}

/* Note that a file was read.  directory NULL: name is its path. */
static enum m2_err add_file(
	struct m2_checkpoint *c, const char *directory, const char *name, struct m2_why *why)
{
	char **files = realloc(c->files, (c->n_files + 1) * sizeof *files);
	char *path = NULL;
	if (files != NULL)
		c->files = files;
	if (files == NULL || asprintf(&path, "%s%s%s", directory != NULL ? directory : "",
				     directory != NULL ? "/" : "", name) < 0)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", name);
	c->files[c->n_files++] = path;
	return M2_OK;
}

/* ---- the config ---- */

static bool is_there(int dirfd, const char *name)
{
	return faccessat(dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A small file of the directory, noted; errors name its whole path. */
static enum m2_err read_small(struct m2_checkpoint *c, int dirfd, const char *directory,
	const char *name, char **text, size_t *length, struct m2_why *why)
{
	const enum m2_err err = add_file(c, directory, name, why);
	if (err != M2_OK)
		return err;
	return m2_file_read(
		dirfd, name, c->files[c->n_files - 1], MAX_CONFIG_BYTES, text, length, why);
}

/* config.json, else params.json (a Mistral packaging may hold both, which agree where it matters). */
static enum m2_err read_config(struct m2_checkpoint *c, int dirfd, const char *directory,
	int32_t norm_groups, struct m2_why *why)
{
	const bool mistral = !is_there(dirfd, "config.json") && is_there(dirfd, "params.json");
	const char *name = mistral ? "params.json" : "config.json";
	char *text;
	size_t length;
	enum m2_err err = read_small(c, dirfd, directory, name, &text, &length, why);
	if (err != M2_OK)
		return err;
	if (is_there(dirfd, "mamba_config.json"))
		err = m2_fail(M2_EUNSUPPORTED, why,
			"%s holds mamba_config.json: this is MambaInLlama, whose mixer is not "
			"Mamba-2's",
			directory);
	else
		err = m2_fail_within(
			m2_model_config_parse(text, length, norm_groups, &c->config, why), why,
			name);
	free(text);
	return err;
}

static enum m2_err read_generation(
	struct m2_checkpoint *c, int dirfd, const char *directory, struct m2_why *why)
{
	static const char name[] = "generation_config.json";
	char *text;
	size_t length;
	if (!is_there(dirfd, name))
		return M2_OK;
	enum m2_err err = read_small(c, dirfd, directory, name, &text, &length, why);
	if (err != M2_OK)
		return err;
	err = m2_fail_within(m2_model_config_generation(text, length, &c->config, why), why, name);
	free(text);
	return err;
}

/* ---- opening ---- */

/* What a GGUF file says of itself is all that counts. */
static enum m2_err config_of_gguf(struct m2_checkpoint *c, int32_t norm_groups, struct m2_why *why)
{
	return m2_gguf_config(c->shards.gguf, c->shards.files[0], norm_groups, &c->config, why);
}

static enum m2_err open_parts(struct m2_checkpoint *c, int dirfd, const char *directory,
	int32_t norm_groups, struct m2_why *why)
{
	struct m2_shards_choice choice;
	enum m2_err err = m2_shards_choose(dirfd, directory, &choice, why);
	if (err != M2_OK)
		return err;
	if (choice.container == M2_CONTAINER_GGUF) {
		err = m2_shards_open(dirfd, directory, &choice, &c->shards, why);
		return err != M2_OK ? err : config_of_gguf(c, norm_groups, why);
	}
	/* the config first: it names a family that is refused, whatever its tensors are in */
	err = read_config(c, dirfd, directory, norm_groups, why);
	if (err == M2_OK)
		err = read_generation(c, dirfd, directory, why);
	if (err != M2_OK)
		return err;
	if (choice.container == M2_CONTAINER_NONE)
		return m2_fail(M2_ENOENT, why,
			"%s holds a config and no weights: none of model.safetensors, "
			"consolidated.safetensors, pytorch_model.bin, their indexes, and no *.gguf",
			directory);
	return m2_shards_open(dirfd, directory, &choice, &c->shards, why);
}

static bool is_gguf_path(const char *path)
{
	static const char end[] = ".gguf";
	struct stat st;
	const size_t n = strlen(path);
	return n >= sizeof end && strcmp(path + n - (sizeof end - 1), end) == 0 &&
	       stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* A directory, or one GGUF file; *directory is where the names of c->shards.read are, NULL: nowhere. */
static enum m2_err open_path(struct m2_checkpoint *c, const char *path, int32_t norm_groups,
	const char **directory, struct m2_why *why)
{
	*directory = NULL;
	if (is_gguf_path(path)) {
		const enum m2_err err = m2_shards_open_gguf(path, &c->shards, why);
		return err != M2_OK ? err : config_of_gguf(c, norm_groups, why);
	}
	*directory = path;
	const int dirfd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC); /* x is enough */
	if (dirfd < 0)
		return m2_path_explain(path, errno, why);
	const enum m2_err err = open_parts(c, dirfd, path, norm_groups, why);
	close(dirfd);
	return err;
}

static void count_facts(struct m2_checkpoint *c)
{
	static const char *const words[] = {[M2_CONTAINER_NONE] = "none",
		[M2_CONTAINER_SAFETENSORS] = "safetensors",
		[M2_CONTAINER_PYTORCH] = "pytorch",
		[M2_CONTAINER_GGUF] = "gguf"};
	const size_t n = (size_t)(c->config.desc.n_layers + 1) * M2_W_COUNT;
	for (size_t i = 0; i < n; i++) {
		const struct m2_tensor *t = c->places[i].tensor;
		if (t == NULL)
			continue;
		const uint64_t elements = t->bytes / m2_dtype_bytes(t->dtype);
		c->bytes += t->bytes;
		c->parameters += elements;
		c->elements[t->dtype] += elements;
	}
	const char *word = words[c->shards.container];
	if (c->shards.n_files == 1)
		(void)snprintf(c->container, sizeof c->container, "%s", word);
	else
		(void)snprintf(c->container, sizeof c->container, "%s, %zu shards", word,
			c->shards.n_files);
}

enum m2_err m2_checkpoint_open(
	const char *path, int32_t norm_groups, struct m2_checkpoint **out, struct m2_why *why)
{
	const char *directory;
	struct m2_checkpoint *c = calloc(1, sizeof *c);
	if (c == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", path);
	enum m2_err err = open_path(c, path, norm_groups, &directory, why);
	for (size_t i = 0; i < c->shards.n_read && err == M2_OK; i++)
		err = add_file(c, directory, c->shards.read[i], why);
	if (err == M2_OK)
		err = m2_places_fill(&c->config, &c->shards, &c->places, why);
	if (err != M2_OK) {
		m2_checkpoint_close(&c);
		return err;
	}
	count_facts(c);
	*out = c;
	return M2_OK;
}

void m2_checkpoint_close(struct m2_checkpoint **checkpoint)
{
	struct m2_checkpoint *c = *checkpoint;
	if (c == NULL)
		return;
	m2_shards_finish(&c->shards);
	for (size_t i = 0; i < c->n_files; i++)
		free(c->files[i]);
	free(c->files);
	free(c->places);
	free(c);
	*checkpoint = NULL;
}

/* ---- what is in it ---- */

const struct m2_model_config *m2_checkpoint_config(const struct m2_checkpoint *checkpoint)
{
	return &checkpoint->config;
}

uint64_t m2_checkpoint_parameters(const struct m2_checkpoint *checkpoint)
{
	return checkpoint->parameters;
}

uint64_t m2_checkpoint_bytes(const struct m2_checkpoint *checkpoint)
{
	return checkpoint->bytes;
}

void m2_checkpoint_elements(
	const struct m2_checkpoint *checkpoint, uint64_t elements[M2_DTYPE_F64 + 1])
{
	memcpy(elements, checkpoint->elements, sizeof checkpoint->elements);
}

const char *m2_checkpoint_container(const struct m2_checkpoint *checkpoint)
{
	return checkpoint->container;
}

size_t m2_checkpoint_n_files(const struct m2_checkpoint *checkpoint)
{
	return checkpoint->n_files;
}

const char *m2_checkpoint_file(const struct m2_checkpoint *checkpoint, size_t index)
{
	assert(index < checkpoint->n_files);
	return checkpoint->files[index];
}

static enum m2_dtype source_dtype(void *ctx, int layer, enum m2_weight which)
{
	const struct m2_place *place = place_of(ctx, layer, which);
	if (place->tensor == NULL)
		return M2_DTYPE_NONE;
	return place->tensor->dtype == M2_DTYPE_F64 ? M2_DTYPE_F32 : place->tensor->dtype;
}

/* F64 elements, narrowed by way of a buffer of bounded size. */
static enum m2_err read_narrowed(
	const struct m2_place *place, size_t first, size_t count, float *dst, struct m2_why *why)
{
	double wide[512];
	while (count > 0) {
		const size_t n = count < 512 ? count : 512;
		const enum m2_err err = m2_tensor_file_read(place->file, place->tensor,
			first * sizeof *wide, wide, n * sizeof *wide, why);
		if (err != M2_OK)
			return err;
		m2_dtype_to_f32(dst, wide, M2_DTYPE_F64, n);
		first += n;
		dst += n;
		count -= n;
	}
	return M2_OK;
}

static enum m2_err source_read(void *ctx, int layer, enum m2_weight which, size_t first,
	size_t count, void *dst, struct m2_why *why)
{
	const struct m2_place *place = place_of(ctx, layer, which);
	assert(place->tensor != NULL);
	if (place->tensor->dtype == M2_DTYPE_F64)
		return read_narrowed(place, first, count, dst, why);
	const size_t size = m2_dtype_bytes(place->tensor->dtype);
	return m2_tensor_file_read(
		place->file, place->tensor, (uint64_t)first * size, dst, count * size, why);
}

struct m2_weight_source m2_checkpoint_source(struct m2_checkpoint *checkpoint)
{
	return (struct m2_weight_source){
		.ctx = checkpoint, .dtype = source_dtype, .read = source_read};
}
