/* model.c - loading and unloading in the definition's backend.
 *
 * Each weight is one array of m2_real, in the shape it is described in.  A weight that is to be
 * resident as bf16, f16 or int8 is rounded to that first, so that the definition computes with the
 * very numbers that the fast backends have.
 */
#include "kernels/ref/model.h"

#include <stdlib.h>
#include <string.h>

#include "common/num.h"

static bool is_large(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_HEAD || which == M2_W_IN_PROJ ||
	       which == M2_W_OUT_PROJ;
}

static bool of_model(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_FINAL_NORM || which == M2_W_HEAD;
}

static size_t work_elements(const struct m2_model_desc *m)
{
	return 3 * (size_t)m->hidden_size + (size_t)m2_desc_in_rows(m) +
	       (size_t)m2_desc_conv_channels(m) + (size_t)m2_desc_out_cols(m) +
	       (size_t)m->vocab_rows;
}

static size_t pointer_bytes(const struct m2_model_desc *m)
{
	return ((size_t)m->n_layers + 1) * M2_W_COUNT * sizeof(m2_real *);
}

static size_t conv_elements(const struct m2_model_desc *m)
{
	return (size_t)(m->conv_kernel - 1) * (size_t)m2_desc_conv_channels(m);
}

static size_t ssm_elements(const struct m2_model_desc *m)
{
	return (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size;
}

enum m2_err M2_REF(plan)(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why)
{
	(void)device;
	(void)source;
	if (options->state != M2_DTYPE_F32 && options->state != M2_DTYPE_NONE)
		return m2_fail_field(M2_EUNSUPPORTED, why, "state",
			"the reference backend keeps no %s state", m2_dtype_name(options->state));
	size_t weights = 0, per_slot = 0, state = 0;
	bool fits = true;
	for (int w = 0; w < M2_W_COUNT; w++) {
		const size_t n = m2_weight_elements(desc, (enum m2_weight)w);
		const size_t copies = of_model((enum m2_weight)w) ? 1 : (size_t)desc->n_layers;
		fits = fits && m2_add_mul_size(&weights, n * sizeof(m2_real), copies);
	}
	fits = fits && m2_mul_size(conv_elements(desc) + ssm_elements(desc),
			       (size_t)desc->n_layers * sizeof(m2_real), &per_slot);
	fits = fits && m2_mul_size(per_slot, (size_t)options->slots, &state);
	if (!fits)
		return m2_fail(M2_ELIMIT, why, "the model's bytes do not fit 64 bits");
	out->weights = weights;
	out->state = state;
	out->per_slot = per_slot;
	out->per_step = 2 * per_slot;
	out->workspace = sizeof(struct m2_model) + pointer_bytes(desc) +
			 work_elements(desc) * sizeof(m2_real) +
			 (size_t)desc->vocab_rows * sizeof(float) +
			 (size_t)options->slots * sizeof(int32_t);
	return M2_OK;
}

static void widen(
	m2_real *dst, const void *src, enum m2_dtype stored, enum m2_dtype resident, size_t n)
{
	const unsigned char *bytes = src;
	for (size_t i = 0; i < n; i++) {
		float value;
		if (stored == M2_DTYPE_F64 && resident == M2_DTYPE_NONE) {
			double wide; /* f64 is never resident elsewhere: the definition rounds too */
			memcpy(&wide, bytes + 8 * i, 8);
			dst[i] = (m2_real)(float)wide;
			continue;
		}
		m2_dtype_to_f32(&value, bytes + m2_dtype_bytes(stored) * i, stored, 1);
		if (resident != M2_DTYPE_NONE) {
			unsigned char rounded[8];
			m2_dtype_from_f32(rounded, resident, &value, 1);
			m2_dtype_to_f32(&value, rounded, resident, 1);
		}
		dst[i] = (m2_real)value;
	}
}

/* Rows of widened f32 values to what m2_int8_scale and its like make of them. */
static void quantise(m2_real *rows, size_t count, size_t cols, float *row, int8_t *whole)
{
	for (size_t r = 0; r < count; r++, rows += cols) {
		for (size_t i = 0; i < cols; i++)
			row[i] = (float)rows[i];
		const float scale = m2_int8_scale(row, cols);
		m2_int8_from_f32(whole, row, scale, cols);
		for (size_t i = 0; i < cols; i++)
			rows[i] = (m2_real)whole[i] * (m2_real)scale;
	}
}

/* A large weight as it is in 8 bits: all rows but those of dt. */
static enum m2_err quantise_weight(
	const struct m2_model_desc *desc, enum m2_weight which, m2_real *weight, struct m2_why *why)
{
	const size_t cols =
		which == M2_W_OUT_PROJ ? (size_t)m2_desc_out_cols(desc) : (size_t)desc->hidden_size;
	size_t rows = m2_weight_elements(desc, which) / cols;
	float *row = malloc(cols * sizeof *row);
	int8_t *whole = malloc(cols);
	if (which == M2_W_IN_PROJ)
		rows -= (size_t)desc->n_heads;
	const bool there = row != NULL && whole != NULL;
	if (there)
		quantise(weight, rows, cols, row, whole);
	free(row);
	free(whole);
	return there ? M2_OK : m2_fail(M2_ENOMEM, why, "no memory for a row of %zu", cols);
}

static enum m2_err load_weight(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, int32_t layer, enum m2_weight which,
	struct m2_why *why)
{
	const size_t n = m2_weight_elements(&model->desc, which);
	const enum m2_dtype stored = source->dtype(source->ctx, layer, which);
	const size_t bytes = n * m2_dtype_bytes(stored);
	const size_t row = layer < 0 ? (size_t)model->desc.n_layers : (size_t)layer;

	if (bytes == 0)
		return m2_fail(M2_EFORMAT, why, "weight %d of layer %d is missing", (int)which,
			(int)layer);
	m2_real *dst = malloc(n * sizeof *dst);
	void *scratch = malloc(bytes);
	model->weights[row * M2_W_COUNT + which] = dst;
	enum m2_err err =
		dst == NULL || scratch == NULL
			? m2_fail(M2_ENOMEM, why, "no memory for a weight of %zu bytes", bytes)
			: source->read(source->ctx, layer, which, 0, n, scratch, why);
	const bool whole = is_large(which) && options->weights == M2_DTYPE_INT8;
	if (err == M2_OK)
		widen(dst, scratch, stored,
			is_large(which) && !whole ? options->weights : M2_DTYPE_NONE, n);
	if (err == M2_OK && whole)
		err = quantise_weight(&model->desc, which, dst, why);
	free(scratch);
	return err;
}

static enum m2_err load_weights(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, uint64_t total, struct m2_why *why)
{
	uint64_t done = 0;
	for (int32_t layer = -1; layer < model->desc.n_layers; layer++) {
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			const size_t n = m2_weight_elements(&model->desc, which);
			if (n == 0 || of_model(which) != (layer < 0))
				continue;
			enum m2_err err = load_weight(model, source, options, layer, which, why);
			if (err != M2_OK)
				return err;
			done += n * sizeof(m2_real);
			if (options->progress != NULL)
				options->progress(options->progress_ctx, done, total);
		}
	}
	return M2_OK;
}

static bool allocate(struct m2_model *model, const struct m2_footprint *footprint)
{
	const struct m2_model_desc *m = &model->desc;
	model->weights = calloc(1, pointer_bytes(m));
	model->states = calloc(1, footprint->state > 0 ? footprint->state : 1);
	model->buffers = calloc(work_elements(m), sizeof(m2_real));
	model->row = calloc((size_t)m->vocab_rows, sizeof(float));
	model->picks = calloc((size_t)model->slots, sizeof(int32_t));
	if (model->weights == NULL || model->states == NULL || model->buffers == NULL ||
		model->row == NULL || model->picks == NULL)
		return false;
	for (int32_t i = 0; i < model->slots; i++)
		model->picks[i] = -1;
	struct M2_REF(work) *work = &model->work;
	work->residual = model->buffers;
	work->normed = work->residual + m->hidden_size;
	work->out = work->normed + m->hidden_size;
	work->zxbcdt = work->out + m->hidden_size;
	work->xbc = work->zxbcdt + m2_desc_in_rows(m);
	work->mixed = work->xbc + m2_desc_conv_channels(m);
	work->logits = work->mixed + m2_desc_out_cols(m);
	return true;
}

enum m2_err M2_REF(load)(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why)
{
	struct m2_footprint footprint;
	enum m2_err err = M2_REF(plan)(device, desc, source, options, &footprint, why);
	if (err != M2_OK)
		return err;
	struct m2_model *model = calloc(1, sizeof *model);
	if (model == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a model");
	model->desc = *desc;
	model->slots = options->slots;
	model->conv_elements = conv_elements(desc);
	model->ssm_elements = ssm_elements(desc);
	if (allocate(model, &footprint))
		err = load_weights(model, source, options, footprint.weights, why);
	else
		err = m2_fail(M2_ENOMEM, why, "no memory for %llu bytes of states",
			(unsigned long long)footprint.state);
	if (err != M2_OK)
		M2_REF(unload)(&model);
	*out = model;
	return err;
}

void M2_REF(unload)(struct m2_model **model)
{
	struct m2_model *gone = *model;
	*model = NULL;
	if (gone == NULL)
		return;
	const size_t rows = (size_t)gone->desc.n_layers + 1;
	for (size_t i = 0; gone->weights != NULL && i < rows * M2_W_COUNT; i++)
		free(gone->weights[i]);
	free(gone->weights);
	free(gone->states);
	free(gone->buffers);
	free(gone->row);
	free(gone->picks);
	free(gone);
}
