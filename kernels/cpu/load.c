/* load.c - the layout of a model in its three regions, and its making and its end.
 *
 * lay_out runs twice, on paper and in memory, so that a plan cannot differ from a load.  What then
 * fills the weights is load_weights.c.
 */
#include "kernels/cpu/load.h"

#include <string.h>

#include "common/num.h"

enum {
	WEIGHTS,
	STATE,
	WORKSPACE,
	REGIONS,
	MOST_WIDE =
		6144, /* columns of a panel that is widened: 768 KB, which stay in the second cache */
};

/* ---- layout --------------------------------------------------------------------------------- */

static int32_t round_up(int32_t n, int32_t to)
{
	return (n + to - 1) / to * to;
}

static struct m2_matrix rows_take(
	struct m2_carve *carve, enum m2_dtype dtype, int32_t rows, int32_t cols)
{
	struct m2_matrix m = {.dtype = dtype, .rows = rows, .cols = cols};
	m.data = m2_carve_take(carve, m2_matrix_bytes(&m), 1);
	return m;
}

static struct m2_matrix matrix_take(struct m2_carve *carve, const struct m2_model_desc *desc,
	enum m2_weight which, enum m2_dtype dtype, int32_t cols)
{
	const size_t rows = m2_weight_elements(desc, which) / (size_t)cols;
	return rows_take(carve, dtype, (int32_t)rows, cols);
}

static float *vector_take(
	struct m2_carve *carve, const struct m2_model_desc *desc, enum m2_weight which)
{
	const size_t n = m2_weight_elements(desc, which);
	return n > 0 ? m2_carve_take(carve, n, sizeof(float)) : NULL;
}

static enum m2_dtype resident(const struct m2_weight_source *source, enum m2_dtype asked,
	int32_t layer, enum m2_weight which)
{
	if (asked != M2_DTYPE_NONE)
		return asked;
	const enum m2_dtype stored = source->dtype(source->ctx, layer, which);
	return stored == M2_DTYPE_F64 ? M2_DTYPE_F32 : stored;
}

/* In 8 bits all but the rows of dt, which stay as stored: dt is exponentiated, and they are few. */
static void lay_out_in_proj(struct m2_cpu_layer *layer, struct m2_carve *carve,
	const struct m2_model_desc *desc, const struct m2_weight_source *source,
	enum m2_dtype asked, int32_t i)
{
	const int32_t dt_rows = asked == M2_DTYPE_INT8 ? desc->n_heads : 0;
	const int32_t rows = m2_desc_in_rows(desc) - dt_rows;
	const enum m2_dtype dtype = resident(source, asked, i, M2_W_IN_PROJ);
	layer->in_proj = rows_take(carve, dtype, rows, desc->hidden_size);
	layer->dt_proj = rows_take(carve, resident(source, M2_DTYPE_NONE, i, M2_W_IN_PROJ), dt_rows,
		desc->hidden_size);
}

static void lay_out_weights(struct m2_model *m, struct m2_carve *carve,
	const struct m2_weight_source *source, enum m2_dtype asked)
{
	const struct m2_model_desc *desc = &m->desc;
	const int32_t d = desc->hidden_size;

	m->embedding = matrix_take(
		carve, desc, M2_W_EMBEDDING, resident(source, asked, -1, M2_W_EMBEDDING), d);
	m->head = desc->tied_head ? m->embedding
				  : matrix_take(carve, desc, M2_W_HEAD,
					    resident(source, asked, -1, M2_W_HEAD), d);
	m->final_norm = vector_take(carve, desc, M2_W_FINAL_NORM);
	for (int32_t i = 0; i < desc->n_layers; i++) {
		struct m2_cpu_layer on_paper;
		struct m2_cpu_layer *layer = m->layers != NULL ? &m->layers[i] : &on_paper;
		lay_out_in_proj(layer, carve, desc, source, asked, i);
		layer->out_proj = matrix_take(carve, desc, M2_W_OUT_PROJ,
			resident(source, asked, i, M2_W_OUT_PROJ), m2_desc_out_cols(desc));
		layer->norm = vector_take(carve, desc, M2_W_NORM);
		layer->in_bias = vector_take(carve, desc, M2_W_IN_BIAS);
		layer->conv = m2_carve_take(carve,
			(size_t)desc->conv_kernel * (size_t)m->channel_stride, sizeof(float));
		layer->conv_bias = vector_take(carve, desc, M2_W_CONV_BIAS);
		layer->dt_bias = vector_take(carve, desc, M2_W_DT_BIAS);
		layer->a = vector_take(carve, desc, M2_W_A_LOG);
		layer->d = vector_take(carve, desc, M2_W_D);
		layer->gated_norm = vector_take(carve, desc, M2_W_GATED_NORM);
		layer->out_bias = vector_take(carve, desc, M2_W_OUT_BIAS);
	}
}

static void lay_out_threads(struct m2_model *m, struct m2_carve *carve, size_t widest)
{
	const size_t head_floats = (size_t)M2_CHUNK * (size_t)m->padded_dim;
	for (int32_t i = 0; i < m->device->threads; i++) {
		struct m2_cpu_thread on_paper;
		struct m2_cpu_thread *t = m->threads != NULL ? &m->threads[i] : &on_paper;
		t->tile = m2_carve_take(carve, M2_TILE * M2_TILE_ROWS, sizeof(float));
		t->row = m2_carve_take(carve, widest, sizeof(float));
		t->wide = NULL;
		if (widest <= MOST_WIDE)
			t->wide = m2_carve_take(carve, widest, M2_PANEL * sizeof(float));
		t->packed = m2_carve_take(carve, M2_FEW, widest * sizeof(float));
		t->head.x = m2_carve_take(carve, head_floats, sizeof(float));
		t->head.y = m2_carve_take(carve, head_floats, sizeof(float));
		t->head.mixed = m2_carve_take(carve, M2_CHUNK * M2_CHUNK, sizeof(float));
		t->head.bt =
			m2_carve_take(carve, M2_CHUNK * (size_t)m->desc.state_size, sizeof(float));
		t->cb = m2_carve_take(carve, M2_RING * M2_RING, sizeof(float));
		t->bt = m2_carve_take(carve, M2_RING * (size_t)m->desc.state_size, sizeof(float));
	}
}

/* The struct itself, then what steers a step, then the buffers. */
static void lay_out_workspace(struct m2_model *m, struct m2_carve *carve)
{
	const struct m2_model_desc *desc = &m->desc;
	const size_t tokens = (size_t)m->max_tokens, chunks = tokens / M2_CHUNK;
	const size_t d = (size_t)desc->hidden_size, heads = (size_t)desc->n_heads;
	const size_t out_cols = (size_t)m2_desc_out_cols(desc);
	const size_t widest = d > out_cols ? d : out_cols;

	(void)m2_carve_take(carve, 1, sizeof *m);
	m->layers = m2_carve_take(carve, (size_t)desc->n_layers, sizeof *m->layers);
	m->threads = m2_carve_take(carve, (size_t)m->device->threads, sizeof *m->threads);
	m->items = m2_carve_take(carve, (size_t)m->max_items, sizeof *m->items);
	m->tokens = m2_carve_take(carve, tokens, sizeof *m->tokens);
	m->chunk_first = m2_carve_take(carve, chunks, sizeof *m->chunk_first);
	m->wanted = m2_carve_take(carve, tokens, sizeof *m->wanted);
	m->wanted_out = m2_carve_take(carve, tokens, sizeof *m->wanted_out);
	m->choices = m2_carve_take(carve, (size_t)m->max_items, sizeof *m->choices);
	m->picked = m2_carve_take(carve, (size_t)m->slots, sizeof *m->picked);

	const size_t before = carve->used;
	m->buffers = carve->base != NULL ? carve->base + before : NULL;
	m->in_stride = (size_t)round_up(m2_desc_in_rows(desc), 16);
	m->residual = m2_carve_take(carve, tokens, d * sizeof(float));
	m->packed = m2_carve_take(carve, tokens, widest * sizeof(float));
	m->in_out = m2_carve_take(carve, tokens, m->in_stride * sizeof(float));
	m->xbc = m2_carve_take(carve, tokens, (size_t)m->channel_stride * sizeof(float));
	m->dt = m2_carve_take(carve, tokens, heads * sizeof(float));
	m->y = m2_carve_take(carve, tokens, (size_t)m2_desc_d_ssm(desc) * sizeof(float));
	m->cb = m2_carve_take(carve, chunks * (size_t)desc->n_groups,
		(size_t)M2_CHUNK * M2_CHUNK * sizeof(float));
	m->pick_rows = m2_carve_take(
		carve, (size_t)m->max_items, (size_t)desc->vocab_rows * sizeof(float));
	lay_out_threads(m, carve, widest);
	m->buffer_bytes = carve->used - before;
}

static void lay_out_state(struct m2_model *m, struct m2_carve *carve)
{
	const size_t layers = (size_t)m->desc.n_layers;
	m->conv_floats = (size_t)(m->desc.conv_kernel - 1) * (size_t)m->channel_stride;
	m->head_floats = m2_head_floats(m->desc.state_size, m->padded_dim);
	m->ssm_floats = (size_t)m->desc.n_heads * m->head_floats +
			(size_t)m->desc.n_groups * (size_t)m->desc.state_size * M2_RING;
	m->slot_floats = sizeof(struct m2_cpu_slot_head) / sizeof(float) +
			 layers * (m->conv_floats + m->ssm_floats);
	m->state = m2_carve_take(carve, (size_t)m->slots, m->slot_floats * sizeof(float));
}

/* See m2_footprint: of the convolution all columns but the oldest move down; the state is read, and
 * written once in M2_RING positions; of what stands beside it half the rows are read and one is written,
 * but all lines of B, whose positions lie side by side. */
static uint64_t step_bytes(const struct m2_model *m)
{
	const uint64_t N = (uint64_t)m->desc.state_size, Pp = (uint64_t)m->padded_dim;
	const uint64_t row = Pp * sizeof(float) + sizeof(double);
	const uint64_t head =
		N * Pp * sizeof(float) / M2_RING * (M2_RING + 1) + row * (M2_RING + 1) / 2;
	const uint64_t ring = N * M2_RING * sizeof(float);
	return (uint64_t)m->desc.n_layers *
	       (2 * m->conv_floats * sizeof(float) + (uint64_t)m->desc.n_heads * head +
		       2 * (uint64_t)m->desc.n_groups * ring);
}

/* Everything about the model but the contents; on paper if the regions are not there yet. */
static bool lay_out(struct m2_model *m, const struct m2_weight_source *source,
	const struct m2_load_options *options)
{
	struct m2_carve carve[REGIONS];
	for (int i = 0; i < REGIONS; i++)
		carve[i] = (struct m2_carve){.base = m->regions[i]};
	m->padded_dim = round_up(m->desc.head_dim, M2_HEAD_ALIGN);
	m->channel_stride = round_up(m2_desc_conv_channels(&m->desc), 16);
	lay_out_workspace(m, &carve[WORKSPACE]);
	lay_out_state(m, &carve[STATE]);
	lay_out_weights(m, &carve[WEIGHTS], source, options->weights);
	m->footprint = (struct m2_footprint){
		.weights = carve[WEIGHTS].used,
		.state = carve[STATE].used,
		.workspace = carve[WORKSPACE].used,
		.per_slot = m->slot_floats * sizeof(float),
		.per_step = step_bytes(m),
	};
	return !carve[WEIGHTS].overflow && !carve[STATE].overflow && !carve[WORKSPACE].overflow;
}

/* ---- plan ----------------------------------------------------------------------------------- */

static enum m2_err check_source(
	const struct m2_model_desc *desc, const struct m2_weight_source *source, struct m2_why *why)
{
	for (int32_t layer = -1; layer < desc->n_layers; layer++) {
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			if (m2_weight_elements(desc, which) == 0 ||
				m2_weight_of_model(which) != (layer < 0))
				continue;
			if (m2_dtype_bytes(source->dtype(source->ctx, layer, which)) == 0)
				return m2_fail(M2_EFORMAT, why, "weight %d of layer %d is missing",
					w, layer);
		}
	}
	return M2_OK;
}

static enum m2_err check_options(const struct m2_load_options *options, struct m2_why *why)
{
	if (options->weights == M2_DTYPE_F64)
		return m2_fail_field(M2_EUNSUPPORTED, why, "weights",
			"the cpu backend keeps weights as f32, f16, bf16 or int8, not as f64");
	if (options->state != M2_DTYPE_F32 && options->state != M2_DTYPE_NONE)
		return m2_fail_field(M2_EUNSUPPORTED, why, "state",
			"the cpu backend keeps the state as f32, not as %s",
			m2_dtype_name(options->state));
	if (options->slots < 1)
		return m2_fail_field(M2_EINVAL, why, "slots", "slots is %d, at least 1 is needed",
			options->slots);
	if (options->max_tokens < 1 || options->max_items < 1)
		return m2_fail_field(M2_EINVAL, why, "max_tokens",
			"a step of %d items and %d tokens holds nothing", options->max_items,
			options->max_tokens);
	return M2_OK;
}

static enum m2_err plan(struct m2_model *paper, struct m2_device *device,
	const struct m2_model_desc *desc, const struct m2_weight_source *source,
	const struct m2_load_options *options, struct m2_why *why)
{
	enum m2_err err = check_options(options, why);
	if (err == M2_OK)
		err = check_source(desc, source, why);
	if (err != M2_OK)
		return err;
	*paper = (struct m2_model){
		.desc = *desc,
		.device = device,
		.slots = options->slots,
		.max_tokens = options->max_tokens,
		.max_items = options->max_items,
		.chunked = true,
	};
	if (!lay_out(paper, source, options))
		return m2_fail(M2_ELIMIT, why, "the model's bytes do not fit 64 bits");
	return M2_OK;
}

enum m2_err m2_cpu_plan(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why)
{
	struct m2_model paper;
	enum m2_err err = plan(&paper, device, desc, source, options, why);
	if (err == M2_OK)
		*out = paper.footprint;
	return err;
}

/* ---- load ----------------------------------------------------------------------------------- */

static void destroy_regions(void *const *regions, const struct m2_footprint *footprint)
{
	m2_region_destroy(regions[WEIGHTS], footprint->weights);
	m2_region_destroy(regions[STATE], footprint->state);
	m2_region_destroy(regions[WORKSPACE], footprint->workspace);
}

enum m2_err m2_cpu_load(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why)
{
	struct m2_model paper;
	*out = NULL;
	enum m2_err err = plan(&paper, device, desc, source, options, why);
	if (err != M2_OK)
		return err;
	const struct m2_footprint f = paper.footprint;
	/* The loader threads bring the pages of the large ones. */
	paper.regions[WEIGHTS] = m2_region_reserve(f.weights);
	paper.regions[STATE] = m2_region_reserve(f.state);
	paper.regions[WORKSPACE] = m2_region_create(f.workspace);
	for (int i = 0; i < REGIONS; i++) {
		if (paper.regions[i] == NULL) {
			destroy_regions(paper.regions, &f);
			return m2_fail(M2_ENOMEM, why,
				"no memory for %llu bytes of weights, %llu of state and %llu of "
				"workspace",
				(unsigned long long)f.weights, (unsigned long long)f.state,
				(unsigned long long)f.workspace);
		}
	}
	struct m2_model *model = paper.regions[WORKSPACE];
	*model = paper;
	(void)lay_out(model, source, options);
	const struct m2_cpu_loading loading = m2_cpu_loading_usual(device);
	err = m2_cpu_load_weights(model, source, options, &loading, why);
	if (err != M2_OK)
		m2_cpu_unload(&model);
	*out = model;
	return err;
}

void m2_cpu_unload(struct m2_model **model)
{
	struct m2_model *gone = *model;
	*model = NULL;
	if (gone == NULL)
		return;
	/* Copies: the model itself lies in one of the regions. */
	void *regions[REGIONS];
	memcpy(regions, gone->regions, sizeof regions);
	const struct m2_footprint footprint = gone->footprint;
	destroy_regions(regions, &footprint);
}

void m2_cpu_poison(struct m2_model *model)
{
	memset(model->buffers, 0xff, model->buffer_bytes);
}
