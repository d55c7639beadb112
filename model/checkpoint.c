/* checkpoint.c - config and tensors of a directory, held against each other.
 *
 * A config that lies about a shape, a tensor that is silently ignored or one that is missing all give
 * a model that runs and talks nonsense; so every tensor must be known and wanted, every wanted one
 * there, and every shape equal, before a backend sees anything.
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
#include <unistd.h>

#include "model/file.h"
#include "model/shards.h"
#include "model/tensor_names.h"

enum { MAX_CONFIG_BYTES = 1 << 20, COMPARE_BYTES = 1 << 20, MAX_NAMES_SAID = 4 };

/* Where a weight lies; file NULL: the model has none of it. */
struct place {
	const struct m2_tensor_file *file;
	const struct m2_tensor *tensor;
};

struct m2_checkpoint {
	struct m2_model_config config;
	struct m2_shards shards;
	struct place *places; /* [1 + L][M2_W_COUNT]; row 0 holds the model's own */
	uint64_t parameters;
	uint64_t bytes;
	char container[64];
};

static struct place *place_of(const struct m2_checkpoint *c, int layer, enum m2_weight which)
{
	return &c->places[(size_t)(layer + 1) * M2_W_COUNT + which];
}

/* ---- opening ---- */

static enum m2_err read_configs(int dirfd, const char *directory, int32_t norm_groups,
	struct m2_model_config *config, struct m2_why *why)
{
	static const char generation[] = "generation_config.json";
	char *text;
	size_t length;
	char *path;
	if (asprintf(&path, "%s/config.json", directory) < 0)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", directory);
	enum m2_err err =
		m2_file_read(dirfd, "config.json", path, MAX_CONFIG_BYTES, &text, &length, why);
	free(path);
	if (err == M2_ENOENT && faccessat(dirfd, "params.json", F_OK, 0) == 0)
		return m2_fail(M2_EUNSUPPORTED, why,
			"%s holds params.json, Mistral's dialect, which is not supported, and no "
			"config.json",
			directory);
	if (err != M2_OK)
		return err;
	if (faccessat(dirfd, "mamba_config.json", F_OK, 0) == 0)
		err = m2_fail(M2_EUNSUPPORTED, why,
			"%s holds mamba_config.json: this is MambaInLlama, whose mixer is not "
			"Mamba-2's",
			directory);
	else
		err = m2_model_config_parse(text, length, norm_groups, config, why);
	free(text);
	if (err != M2_OK || faccessat(dirfd, generation, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
		return err;
	err = m2_file_read(dirfd, generation, generation, MAX_CONFIG_BYTES, &text, &length, why);
	if (err != M2_OK)
		return err;
	err = m2_model_config_generation(text, length, config, why);
	free(text);
	return err;
}

/* "[256, 1, 4]" */
static const char *shape_words(char *out, size_t size, const int64_t *shape, int n)
{
	size_t at = 0;
	out[0] = '\0';
	for (int i = 0; i < n && at < size; i++) {
		const int w = snprintf(
			out + at, size - at, "%s%lld", i == 0 ? "[" : ", ", (long long)shape[i]);
		at += w > 0 ? (size_t)w : 0;
	}
	if (at < size)
		(void)snprintf(out + at, size - at, n == 0 ? "[]" : "]");
	return out;
}

/* A convolution's weight has an axis of length 1 in front of the taps or behind them; in row-major
 * order it lies the same way with and without it. */
static bool shape_fits(
	const struct m2_tensor *t, enum m2_weight which, const int64_t *wanted, int n)
{
	int64_t got[M2_TENSOR_DIMS];
	int dims = t->n_dims;
	memcpy(got, t->shape, sizeof got);
	if (which == M2_W_CONV && dims == 3 && (got[1] == 1 || got[2] == 1)) {
		if (got[1] == 1)
			got[1] = got[2];
		dims = 2;
	}
	if (dims != n)
		return false;
	for (int i = 0; i < n; i++)
		if (got[i] != wanted[i])
			return false;
	return true;
}

static enum m2_err check_tensor(const struct m2_checkpoint *c, const struct m2_tensor *t, int layer,
	enum m2_weight which, struct m2_why *why)
{
	char got_words[128];
	char wanted_words[64];
	int64_t wanted[2];
	const int32_t layers = c->config.desc.n_layers;
	if (layer >= layers)
		return m2_fail(M2_EFORMAT, why,
			"%.200s: a tensor of layer %d, the config says %d layers", t->name, layer,
			layers);
	const int n = m2_tensor_wanted_shape(&c->config.desc, which, wanted);
	if (n == 0) /* a head beside a tied one is the caller's business */
		return m2_fail(M2_EFORMAT, why,
			"%.200s is there, but the config says that there is none", t->name);
	if (!shape_fits(t, which, wanted, n))
		return m2_fail(M2_EFORMAT, why, "%.200s has shape %s, the config asks for %s",
			t->name, shape_words(got_words, sizeof got_words, t->shape, t->n_dims),
			shape_words(wanted_words, sizeof wanted_words, wanted, n));
	if (t->dtype == M2_DTYPE_NONE)
		return m2_fail(M2_EUNSUPPORTED, why,
			"%.200s has dtype %s; F32, F16, BF16 and F64 are supported", t->name,
			t->dtype_name);
	return M2_OK;
}

/* Two tensors hold the same bytes. */
static enum m2_err check_equal(const struct place *a, const struct place *b, struct m2_why *why)
{
	const uint64_t bytes = a->tensor->bytes;
	bool same = bytes == b->tensor->bytes && a->tensor->dtype == b->tensor->dtype;
	char *buffer = malloc(2 * (size_t)COMPARE_BYTES);
	if (buffer == NULL)
		return m2_fail(M2_ENOMEM, why, "%.200s: out of memory", a->tensor->name);
	enum m2_err err = M2_OK;
	for (uint64_t at = 0; at < bytes && same && err == M2_OK;) {
		const uint64_t n = bytes - at < COMPARE_BYTES ? bytes - at : COMPARE_BYTES;
		err = m2_tensor_file_read(a->file, a->tensor, at, buffer, (size_t)n, why);
		if (err == M2_OK)
			err = m2_tensor_file_read(
				b->file, b->tensor, at, buffer + COMPARE_BYTES, (size_t)n, why);
		same = err == M2_OK && memcmp(buffer, buffer + COMPARE_BYTES, (size_t)n) == 0;
		at += n;
	}
	free(buffer);
	if (err == M2_OK && !same)
		return m2_fail(M2_EFORMAT, why,
			"the config says that the head is tied to the embedding, but %.150s "
			"differs "
			"from %.150s",
			b->tensor->name, a->tensor->name);
	return err;
}

/* Put every tensor of one file where it belongs; unknown names are counted and the first said. */
static enum m2_err place_tensors(struct m2_checkpoint *c, const struct m2_tensor_file *file,
	size_t *n_unknown, char *unknown, size_t unknown_size, struct m2_why *why)
{
	for (size_t i = 0; i < file->count; i++) {
		const struct m2_tensor *t = &file->tensors[i];
		int layer;
		enum m2_weight which;
		const enum m2_tensor_role role = m2_tensor_role_of(t->name, &layer, &which);
		if (role == M2_TENSOR_UNKNOWN && (*n_unknown)++ < MAX_NAMES_SAID) {
			const size_t at = strlen(unknown);
			(void)snprintf(unknown + at, unknown_size - at, "%s%.70s",
				at > 0 ? ", " : "", t->name);
		}
		if (role != M2_TENSOR_WEIGHT)
			continue;
		const bool tied_head = which == M2_W_HEAD && c->config.desc.tied_head;
		const enum m2_err err = tied_head ? M2_OK : check_tensor(c, t, layer, which, why);
		if (err != M2_OK)
			return err;
		struct place *place = place_of(c, layer, which);
		if (place->tensor != NULL)
			return m2_fail(M2_EFORMAT, why, "%.180s and %.180s are the same weight",
				place->tensor->name, t->name);
		*place = (struct place){.file = file, .tensor = t};
	}
	return M2_OK;
}

static enum m2_err check_complete(struct m2_checkpoint *c, struct m2_why *why)
{
	char missing[320] = "";
	size_t n_missing = 0;
	for (int layer = -1; layer < c->config.desc.n_layers; layer++)
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			const bool own = which <= M2_W_HEAD;
			int64_t shape[2];
			if (own != (layer < 0) || place_of(c, layer, which)->tensor != NULL ||
				m2_tensor_wanted_shape(&c->config.desc, which, shape) == 0)
				continue;
			if (n_missing++ < MAX_NAMES_SAID) {
				char name[64];
				const size_t at = strlen(missing);
				m2_tensor_usual_name(layer, which, name, sizeof name);
				(void)snprintf(missing + at, sizeof missing - at, "%s%s",
					at > 0 ? ", " : "", name);
			}
		}
	if (n_missing > 0)
		return m2_fail(M2_EFORMAT, why, "%zu tensors are missing: %s%s", n_missing, missing,
			n_missing > MAX_NAMES_SAID ? ", ..." : "");
	return M2_OK;
}

/* A head that a tied model carries along must be the embedding, and is then forgotten. */
static enum m2_err drop_tied_head(struct m2_checkpoint *c, struct m2_why *why)
{
	struct place *head = place_of(c, -1, M2_W_HEAD);
	if (!c->config.desc.tied_head || head->tensor == NULL)
		return M2_OK;
	const enum m2_err err = check_equal(place_of(c, -1, M2_W_EMBEDDING), head, why);
	*head = (struct place){.file = NULL};
	return err;
}

static enum m2_err place_all(struct m2_checkpoint *c, struct m2_why *why)
{
	char unknown[320] = "";
	size_t n_unknown = 0;
	c->places = calloc((size_t)(c->config.desc.n_layers + 1) * M2_W_COUNT, sizeof *c->places);
	if (c->places == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for the tensors' table");
	for (size_t k = 0; k < c->shards.n_files; k++) {
		const enum m2_err err = place_tensors(
			c, c->shards.files[k], &n_unknown, unknown, sizeof unknown, why);
		if (err != M2_OK)
			return err;
	}
	if (n_unknown > 0)
		return m2_fail(M2_EUNSUPPORTED, why, "%zu tensors are not of a Mamba-2 model: %s%s",
			n_unknown, unknown, n_unknown > MAX_NAMES_SAID ? ", ..." : "");
	enum m2_err err = check_complete(c, why);
	if (err == M2_OK)
		err = drop_tied_head(c, why);
	return err;
}

static void count_facts(struct m2_checkpoint *c)
{
	const size_t n = (size_t)(c->config.desc.n_layers + 1) * M2_W_COUNT;
	for (size_t i = 0; i < n; i++) {
		const struct m2_tensor *t = c->places[i].tensor;
		if (t == NULL)
			continue;
		c->bytes += t->bytes;
		c->parameters += t->bytes / m2_dtype_bytes(t->dtype);
	}
	if (c->shards.n_files == 1)
		(void)snprintf(c->container, sizeof c->container, "safetensors");
	else
		(void)snprintf(c->container, sizeof c->container, "safetensors, %zu shards",
			c->shards.n_files);
}

enum m2_err m2_checkpoint_open(
	const char *directory, int32_t norm_groups, struct m2_checkpoint **out, struct m2_why *why)
{
	const int dirfd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC); /* x is enough */
	if (dirfd < 0)
		return m2_path_explain(directory, errno, why);
	struct m2_checkpoint *c = calloc(1, sizeof *c);
	enum m2_err err = c != NULL ? read_configs(dirfd, directory, norm_groups, &c->config, why)
				    : m2_fail(M2_ENOMEM, why, "%s: out of memory", directory);
	if (err == M2_OK)
		err = m2_shards_open(dirfd, directory, &c->shards, why);
	close(dirfd);
	if (err == M2_OK)
		err = place_all(c, why);
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

const char *m2_checkpoint_container(const struct m2_checkpoint *checkpoint)
{
	return checkpoint->container;
}

static enum m2_dtype source_dtype(void *ctx, int layer, enum m2_weight which)
{
	const struct place *place = place_of(ctx, layer, which);
	if (place->tensor == NULL)
		return M2_DTYPE_NONE;
	return place->tensor->dtype == M2_DTYPE_F64 ? M2_DTYPE_F32 : place->tensor->dtype;
}

/* F64 elements, narrowed by way of a buffer of bounded size. */
static enum m2_err read_narrowed(
	const struct place *place, size_t first, size_t count, float *dst, struct m2_why *why)
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
	const struct place *place = place_of(ctx, layer, which);
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
