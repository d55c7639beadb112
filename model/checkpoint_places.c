/* checkpoint_places.c - the tensors of the files held against a checked config.
 *
 * A config that lies about a shape, a tensor that is silently ignored or one that is missing all give
 * a model that runs and talks nonsense; so every tensor must be known and wanted, every wanted one
 * there, and every shape equal, before a backend sees anything.
 */
#include "model/checkpoint_places.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tensor_names.h"

enum { COMPARE_BYTES = 1 << 20, MAX_NAMES_SAID = 4 };

/* What is being filled, and the names that are not known. */
struct filling {
	const struct m2_model_config *config;
	struct m2_place *places;
	size_t n_unknown;
	char unknown[320];
};

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

static enum m2_err check_tensor(const struct m2_model_config *config, const struct m2_tensor *t,
	int layer, enum m2_weight which, struct m2_why *why)
{
	char got_words[128];
	char wanted_words[64];
	int64_t wanted[2];
	const int32_t layers = config->desc.n_layers;
	if (layer >= layers)
		return m2_fail(M2_EFORMAT, why,
			"%.200s: a tensor of layer %d, the config says %d layers", t->name, layer,
			layers);
	const int n = m2_tensor_wanted_shape(&config->desc, which, wanted);
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

/* Two tensors hold the same bytes; those that share them (state-spaces' files name one storage twice)
 * need not be read for it. */
static enum m2_err check_equal(
	const struct m2_place *a, const struct m2_place *b, struct m2_why *why)
{
	const uint64_t bytes = a->tensor->bytes;
	bool same = bytes == b->tensor->bytes && a->tensor->dtype == b->tensor->dtype;
	if (same && a->file == b->file && a->tensor->begin == b->tensor->begin)
		return M2_OK;
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
static enum m2_err place_tensors(
	struct filling *f, const struct m2_tensor_file *file, struct m2_why *why)
{
	for (size_t i = 0; i < file->count; i++) {
		const struct m2_tensor *t = &file->tensors[i];
		int layer;
		enum m2_weight which;
		const enum m2_tensor_role role = m2_tensor_role_of(t->name, &layer, &which);
		if (role == M2_TENSOR_UNKNOWN && f->n_unknown++ < MAX_NAMES_SAID) {
			const size_t at = strlen(f->unknown);
			(void)snprintf(f->unknown + at, sizeof f->unknown - at, "%s%.70s",
				at > 0 ? ", " : "", t->name);
		}
		if (role != M2_TENSOR_WEIGHT)
			continue;
		const bool tied_head = which == M2_W_HEAD && f->config->desc.tied_head;
		const enum m2_err err =
			tied_head ? M2_OK : check_tensor(f->config, t, layer, which, why);
		if (err != M2_OK)
			return err;
		struct m2_place *place = m2_place_of(f->places, layer, which);
		if (place->tensor != NULL)
			return m2_fail(M2_EFORMAT, why, "%.180s and %.180s are the same weight",
				place->tensor->name, t->name);
		*place = (struct m2_place){.file = file, .tensor = t};
	}
	return M2_OK;
}

static enum m2_err check_complete(const struct filling *f, struct m2_why *why)
{
	const struct m2_model_desc *desc = &f->config->desc;
	char missing[320] = "";
	size_t n_missing = 0;
	for (int layer = -1; layer < desc->n_layers; layer++)
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			const bool own = which <= M2_W_HEAD;
			int64_t shape[2];
			if (own != (layer < 0) ||
				m2_place_of(f->places, layer, which)->tensor != NULL ||
				m2_tensor_wanted_shape(desc, which, shape) == 0)
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
static enum m2_err drop_tied_head(const struct filling *f, struct m2_why *why)
{
	struct m2_place *head = m2_place_of(f->places, -1, M2_W_HEAD);
	if (!f->config->desc.tied_head || head->tensor == NULL)
		return M2_OK;
	const enum m2_err err = check_equal(m2_place_of(f->places, -1, M2_W_EMBEDDING), head, why);
	*head = (struct m2_place){.file = NULL};
	return err;
}

static enum m2_err fill(struct filling *f, const struct m2_shards *shards, struct m2_why *why)
{
	for (size_t k = 0; k < shards->n_files; k++) {
		const enum m2_err err = place_tensors(f, shards->files[k], why);
		if (err != M2_OK)
			return err;
	}
	if (f->n_unknown > 0)
		return m2_fail(M2_EUNSUPPORTED, why, "%zu tensors are not of a Mamba-2 model: %s%s",
			f->n_unknown, f->unknown, f->n_unknown > MAX_NAMES_SAID ? ", ..." : "");
	const enum m2_err err = check_complete(f, why);
	return err != M2_OK ? err : drop_tied_head(f, why);
}

enum m2_err m2_places_fill(const struct m2_model_config *config, const struct m2_shards *shards,
	struct m2_place **out, struct m2_why *why)
{
	struct filling f = {.config = config};
	f.places = calloc((size_t)(config->desc.n_layers + 1) * M2_W_COUNT, sizeof *f.places);
	if (f.places == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory for the tensors' table");
	const enum m2_err err = fill(&f, shards, why);
	if (err != M2_OK)
		free(f.places);
	else
		*out = f.places;
	return err;
}
