/* load.c - the layout of a model in its three allocations, on paper and on the device.
 *
 * lay_out runs twice: with no memory, to say to the byte what a load takes, and with it.  A load that
 * does not fit is refused before anything is allocated.  fill.c brings the weights in.
 */
#include <stdlib.h>
#include <string.h>

#include "common/num.h"
#include "kernels/cuda/model.h"

enum { LOGITS_ROWS = 64, LOGITS_BYTES = 16 << 20 };

/* A run of memory that is cut into aligned pieces; base NULL: only counted. */
struct carve {
	char *base;
	size_t used;
	bool overflow;
};

static void *take(struct carve *c, size_t count, size_t size)
{
	size_t bytes;
	char *at = c->base != NULL ? c->base + c->used : NULL;
	if (!m2_mul_size(count, size, &bytes) || !m2_round_up_size(bytes, M2_CUDA_ALIGN, &bytes) ||
		!m2_add_size(c->used, bytes, &c->used))
		c->overflow = true;
	return at;
}

/* ---- layout --------------------------------------------------------------------------------- */

static struct m2_cuda_matrix take_matrix(struct carve *c, const struct m2_model_desc *desc,
	enum m2_weight which, enum m2_dtype dtype, int32_t cols)
{
	struct m2_cuda_matrix m = {.dtype = dtype, .cols = cols};
	m.rows = (int32_t)(m2_weight_elements(desc, which) / (size_t)cols);
	m.data = take(c, m2_cuda_matrix_bytes(&m), 1);
	return m;
}

static float *take_vector(struct carve *c, const struct m2_model_desc *desc, enum m2_weight which)
{
	const size_t n = m2_weight_elements(desc, which);
	return n > 0 ? take(c, n, sizeof(float)) : NULL;
}

static enum m2_dtype resident(const struct m2_weight_source *source, enum m2_dtype asked,
	int32_t layer, enum m2_weight which)
{
	return asked != M2_DTYPE_NONE ? asked : source->dtype(source->ctx, layer, which);
}

static void lay_out_weights(struct m2_model *m, struct carve *c,
	const struct m2_weight_source *source, enum m2_dtype asked)
{
	const struct m2_model_desc *desc = &m->desc;
	const int32_t d = desc->hidden_size;

	m->embedding = take_matrix(
		c, desc, M2_W_EMBEDDING, resident(source, asked, -1, M2_W_EMBEDDING), d);
	m->head = desc->tied_head ? m->embedding
				  : take_matrix(c, desc, M2_W_HEAD,
					    resident(source, asked, -1, M2_W_HEAD), d);
	m->final_norm = take_vector(c, desc, M2_W_FINAL_NORM);
	for (int32_t i = 0; i < desc->n_layers; i++) {
		struct m2_cuda_layer on_paper;
		struct m2_cuda_layer *layer = m->layers != NULL ? &m->layers[i] : &on_paper;
		layer->in_proj = take_matrix(
			c, desc, M2_W_IN_PROJ, resident(source, asked, i, M2_W_IN_PROJ), d);
		layer->out_proj = take_matrix(c, desc, M2_W_OUT_PROJ,
			resident(source, asked, i, M2_W_OUT_PROJ), m2_desc_out_cols(desc));
		layer->norm = take_vector(c, desc, M2_W_NORM);
		layer->in_bias = take_vector(c, desc, M2_W_IN_BIAS);
		layer->conv = take_vector(c, desc, M2_W_CONV);
		layer->conv_bias = take_vector(c, desc, M2_W_CONV_BIAS);
		layer->dt_bias = take_vector(c, desc, M2_W_DT_BIAS);
		layer->a = take_vector(c, desc, M2_W_A_LOG);
		layer->d = take_vector(c, desc, M2_W_D);
		layer->gated_norm = take_vector(c, desc, M2_W_GATED_NORM);
		layer->out_bias = take_vector(c, desc, M2_W_OUT_BIAS);
	}
}

static void lay_out_state(struct m2_model *m, struct carve *c)
{
	const struct m2_model_desc *desc = &m->desc;
	m->ring_floats = (size_t)desc->conv_kernel * (size_t)m2_desc_conv_channels(desc);
	m->ssm_floats = (size_t)m2_desc_d_ssm(desc) * (size_t)desc->state_size;
	m->held_floats = m->tuned ? m2_cuda_held_floats(desc->n_heads, m2_desc_d_ssm(desc),
					    desc->n_groups, desc->state_size)
				  : 0;
	/* slots begin aligned for whole vectors of floats */
	m->slot_floats = (size_t)desc->n_layers * (m->ring_floats + m->ssm_floats + m->held_floats);
	m->slot_floats = (m->slot_floats + 63) / 64 * 64;
	m->state = take(c, (size_t)m->slots, m->slot_floats * sizeof(float));
}

static struct m2_cuda_orders take_orders(const struct m2_model *m, struct carve *c)
{
	const size_t tokens = (size_t)m->rows, items = (size_t)m->max_items;
	struct m2_cuda_orders o;
	o.count = take(c, 2, sizeof *o.count);
	o.items = take(c, (size_t)m2_cuda_graph_items(m->max_items), sizeof *o.items);
	o.row_item = take(c, tokens, sizeof *o.row_item);
	o.tokens = take(c, tokens, sizeof *o.tokens);
	o.wanted = take(c, tokens, sizeof *o.wanted);
	o.picks = take(c, tokens, sizeof *o.picks);
	o.leads = take(c, items, sizeof *o.leads);
	o.tails = take(c, items, sizeof *o.tails);
	o.chunked = take(c, items, sizeof *o.chunked);
	o.chunk_rows = take(c, tokens / M2_CHUNK, sizeof *o.chunk_rows);
	o.tiles = take(c, tokens / M2_CUDA_TILE + items, sizeof *o.tiles);
	return o;
}

struct m2_cuda_orders m2_cuda_orders_at(const struct m2_model *model, char *base, size_t *bytes)
{
	struct carve c = {.base = base};
	const struct m2_cuda_orders orders = take_orders(model, &c);
	*bytes = c.used;
	return orders;
}

/* A graph makes all its logits at once; few travel to the host, and large ones not many at a time. */
static void size_logits(struct m2_model *m, int32_t most)
{
	const size_t fit = LOGITS_BYTES / ((size_t)m->desc.vocab_rows * sizeof(float));
	const int32_t in_graph = most < M2_CUDA_GRAPH_ITEMS ? most : M2_CUDA_GRAPH_ITEMS;
	m->logits_rows = m->max_tokens < LOGITS_ROWS ? m->max_tokens : LOGITS_ROWS;
	m->host_rows = fit < 1 ? 1 : fit < (size_t)m->logits_rows ? (int32_t)fit : m->logits_rows;
	m->logits_rows = in_graph > m->logits_rows ? in_graph : m->logits_rows;
}

static void lay_out_workspace(struct m2_model *m, struct carve *c)
{
	const struct m2_model_desc *desc = &m->desc;
	const int32_t most = m2_cuda_graph_items(m->max_items);
	m->rows = most > m->max_tokens ? most : m->max_tokens;
	const size_t tokens = (size_t)m->rows, d = (size_t)desc->hidden_size;

	const size_t begin = c->used;
	m->on_device = take_orders(m, c);
	m->orders_bytes = c->used - begin;
	m->picks = take(c, (size_t)m->slots, sizeof *m->picks);
	const size_t before = c->used;
	m->buffers = c->base != NULL ? c->base + before : NULL;
	m->in_stride = m2_cuda_pad(m2_desc_in_rows(desc));
	size_logits(m, most);
	m->residual_squares = take(c, tokens, (d + 15) / 16 * sizeof(float));
	m->mixed_squares = take(c, tokens, (size_t)desc->n_heads * sizeof(float));
	m->residual = take(c, tokens, d * sizeof(float));
	m->residual_input = take(c, tokens, (size_t)m2_cuda_pad(desc->hidden_size) * sizeof(float));
	m->mixed_input =
		take(c, tokens, (size_t)m2_cuda_pad(m2_desc_out_cols(desc)) * sizeof(float));
	m->in_out = take(c, tokens, (size_t)m->in_stride * sizeof(float));
	m->xbc = take(c, tokens, (size_t)m2_desc_conv_channels(desc) * sizeof(float));
	m->y = take(c, tokens, (size_t)m2_desc_d_ssm(desc) * sizeof(float));
	m->chunk_steps =
		take(c, tokens / M2_CHUNK, (size_t)desc->n_heads * M2_CUDA_STEPS * sizeof(float));
	m->logits = take(c, (size_t)m->logits_rows, (size_t)desc->vocab_rows * sizeof(float));
	m->pick_parts = take(c, (size_t)m->logits_rows, m2_cuda_pick_bytes(desc->vocab_rows));
	m->buffer_bytes = c->used - before;
}

/* What mix.cu and the folded norms take: 16-bit matrices, and groups of the gated norm that are whole
 * heads and whole runs of out_proj's columns. */
static bool is_tuned(
	const struct m2_model *m, const struct m2_weight_source *source, enum m2_dtype asked)
{
	const struct m2_model_desc *desc = &m->desc;
	const int32_t groups = desc->norm_groups;
	bool half = m->embedding.dtype != M2_DTYPE_F32 && m->head.dtype != M2_DTYPE_F32;
	for (int32_t i = 0; i < desc->n_layers; i++)
		half = half && resident(source, asked, i, M2_W_IN_PROJ) != M2_DTYPE_F32 &&
		       resident(source, asked, i, M2_W_OUT_PROJ) != M2_DTYPE_F32;
	return half && desc->head_dim == 64 && desc->state_size == 128 && desc->d_mlp == 0 &&
	       desc->hidden_size % 16 == 0 && desc->gated_norm && !desc->norm_before_gate &&
	       desc->n_heads % groups == 0 &&
	       (groups == 1 || ((groups == 2 || groups == 4 || groups == 8) &&
				       m2_desc_d_ssm(desc) / 16 % 8 == 0));
}

/* Everything about the model but the contents; on paper if the regions are not there yet. */
static bool lay_out(struct m2_model *m, const struct m2_weight_source *source, enum m2_dtype asked)
{
	struct carve c[M2_CUDA_REGIONS];
	for (int i = 0; i < M2_CUDA_REGIONS; i++)
		c[i] = (struct carve){.base = m->regions[i]};
	lay_out_weights(m, &c[M2_CUDA_WEIGHTS], source, asked);
	m->tuned = is_tuned(m, source, asked);
	lay_out_state(m, &c[M2_CUDA_STATE]);
	lay_out_workspace(m, &c[M2_CUDA_WORKSPACE]);
	m->footprint = (struct m2_footprint){
		.weights = c[M2_CUDA_WEIGHTS].used,
		.state = c[M2_CUDA_STATE].used,
		.workspace = c[M2_CUDA_WORKSPACE].used,
		.per_slot = m->slot_floats * sizeof(float) + sizeof(int64_t),
	};
	return !c[M2_CUDA_WEIGHTS].overflow && !c[M2_CUDA_STATE].overflow &&
	       !c[M2_CUDA_WORKSPACE].overflow;
}

/* ---- plan ----------------------------------------------------------------------------------- */

static bool of_model(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_FINAL_NORM || which == M2_W_HEAD;
}

static enum m2_err check_source(
	const struct m2_model_desc *desc, const struct m2_weight_source *source, struct m2_why *why)
{
	for (int32_t layer = -1; layer < desc->n_layers; layer++) {
		for (int w = 0; w < M2_W_COUNT; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			if (m2_weight_elements(desc, which) == 0 || of_model(which) != (layer < 0))
				continue;
			const enum m2_dtype dtype = source->dtype(source->ctx, layer, which);
			if (dtype != M2_DTYPE_F32 && dtype != M2_DTYPE_F16 &&
				dtype != M2_DTYPE_BF16)
				return m2_fail(M2_EFORMAT, why,
					"weight %d of layer %d is missing or of type %s", w,
					(int)layer, m2_dtype_name(dtype));
		}
	}
	return M2_OK;
}

static enum m2_err check_options(const struct m2_load_options *options, struct m2_why *why)
{
	if (options->weights == M2_DTYPE_F64 || options->weights == M2_DTYPE_INT8)
		return m2_fail_field(M2_EUNSUPPORTED, why, "weights",
			"the cuda backend keeps weights as f32, f16 or bf16, not as %s",
			m2_dtype_name(options->weights));
	if (options->state != M2_DTYPE_F32 && options->state != M2_DTYPE_NONE)
		return m2_fail_field(M2_EUNSUPPORTED, why, "state",
			"the cuda backend keeps the state as f32, not as %s",
			m2_dtype_name(options->state));
	if (options->slots < 1 || options->max_tokens < 1 || options->max_items < 1)
		return m2_fail_field(M2_EINVAL, why, "slots",
			"%d slots, steps of %d items and %d tokens: each must be at least 1",
			options->slots, options->max_items, options->max_tokens);
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
	};
	if (!lay_out(paper, source, options->weights))
		return m2_fail(M2_ELIMIT, why, "the model's bytes do not fit 64 bits");
	return M2_OK;
}

enum m2_err m2_cuda_plan(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_footprint *out, struct m2_why *why)
{
	struct m2_model paper;
	const enum m2_err err = plan(&paper, device, desc, source, options, why);
	if (err == M2_OK)
		*out = paper.footprint;
	return err;
}

/* ---- load ----------------------------------------------------------------------------------- */

static enum m2_err check_room(const struct m2_footprint *f, struct m2_why *why)
{
	size_t free_bytes = 0, total = 0;
	const uint64_t wanted = f->weights + f->state + f->workspace;
	const cudaError_t error = cudaMemGetInfo(&free_bytes, &total);
	if (error != cudaSuccess)
		return m2_cuda_failed(error, "asking for free memory", why);
	if (wanted > free_bytes)
		return m2_fail(M2_ENOMEM, why,
			"the device has %zu bytes free, the model takes %llu (weights %llu, state "
			"%llu, workspace %llu)",
			free_bytes, (unsigned long long)wanted, (unsigned long long)f->weights,
			(unsigned long long)f->state, (unsigned long long)f->workspace);
	return M2_OK;
}

static enum m2_err host_memory(struct m2_model *m, struct m2_why *why)
{
	m->layers = calloc((size_t)m->desc.n_layers, sizeof *m->layers);
	m->position = calloc((size_t)m->slots, sizeof *m->position);
	m->picked = calloc((size_t)m->slots, sizeof *m->picked);
	if (m->layers == NULL || m->position == NULL || m->picked == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for the tables of %d layers",
			(int)m->desc.n_layers);
	const cudaError_t error = m2_cuda_flights_create(m);
	if (error == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError(); /* not sticky: the device is well */
		return m2_fail(M2_ENOMEM, why, "no host memory can be pinned for a model's steps");
	}
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "pinning host memory", why);
}

static enum m2_err device_memory(struct m2_model *m, struct m2_why *why)
{
	const uint64_t bytes[M2_CUDA_REGIONS] = {
		m->footprint.weights, m->footprint.state, m->footprint.workspace};
	for (int i = 0; i < M2_CUDA_REGIONS; i++) {
		const enum m2_err err = m2_cuda_region_take(m, i, bytes[i], why);
		if (err != M2_OK)
			return err;
		const cudaError_t error =
			cudaMemsetAsync(m->regions[i], 0, (size_t)bytes[i], m->device->loads);
		if (error != cudaSuccess)
			return m2_cuda_failed(error, "clearing a model", why);
	}
	return M2_OK;
}

void m2_cuda_unload(struct m2_model **model)
{
	struct m2_model *m = *model;
	*model = NULL;
	if (m == NULL)
		return;
	(void)cudaSetDevice(m->device->ordinal);
	m2_cuda_flights_destroy(m); /* waits for what is in flight */
	m2_cuda_regions_free(m);
	m2_cuda_graphs_destroy(m);
	free(m->picked);
	free(m->position);
	free(m->layers);
	free(m);
}

enum m2_err m2_cuda_load(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why)
{
	struct m2_model paper;
	*out = NULL;
	(void)cudaSetDevice(device->ordinal);
	enum m2_err err = plan(&paper, device, desc, source, options, why);
	if (err == M2_OK)
		err = check_room(&paper.footprint, why);
	if (err != M2_OK)
		return err;
	struct m2_model *m = malloc(sizeof *m);
	if (m == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a model");
	*m = paper;
	(void)pthread_mutex_lock(&device->load_lock);
	err = host_memory(m, why);
	if (err == M2_OK)
		err = device_memory(m, why);
	if (err == M2_OK) {
		(void)lay_out(m, source, options->weights);
		err = m2_cuda_fill(m, source, options, why);
	}
	if (err == M2_OK && m->tuned)
		err = m2_cuda_graphs_create(m, why);
	(void)pthread_mutex_unlock(&device->load_lock);
	if (err != M2_OK) {
		m2_cuda_unload(&m);
		return err;
	}
	*out = m;
	return M2_OK;
}
