/* layers.c - the kernels of a step in order: embedding, layers, head.
 *
 * A tuned model (load.c) takes three kernels a layer for steps of single tokens: in_proj, the mixer,
 * out_proj, with both norms folded in; for spans the mixer is one to
 * five (mix.cu).  Any other model takes the definition's operators one by one (mixer.cu).
 */
#include "kernels/cuda/model.h"

#define TRY(call)                                                                                  \
	do {                                                                                       \
		const cudaError_t try_error = (call);                                              \
		if (try_error != cudaSuccess)                                                      \
			return try_error;                                                          \
	} while (0)

static struct m2_cuda_mixer mixer_of(
	const struct m2_model *m, const struct m2_cuda_layer *layer, int32_t index)
{
	const struct m2_model_desc *d = &m->desc;
	return (struct m2_cuda_mixer){
		.heads = d->n_heads,
		.head_dim = d->head_dim,
		.state_size = d->state_size,
		.groups = d->n_groups,
		.taps = d->conv_kernel,
		.d_mlp = d->d_mlp,
		.norm_groups = d->norm_groups,
		.channels = m2_desc_conv_channels(d),
		.d_ssm = m2_desc_d_ssm(d),
		.in_stride = m->in_stride,
		.out_cols = m2_desc_out_cols(d),
		.dt_min = d->dt_min,
		.dt_max = d->dt_max,
		.eps = d->norm_eps,
		.d_per_channel = d->d_per_channel,
		.gated_norm = d->gated_norm,
		.norm_before_gate = d->norm_before_gate,
		.conv = layer->conv,
		.conv_bias = layer->conv_bias,
		.dt_bias = layer->dt_bias,
		.a = layer->a,
		.d = layer->d,
		.gated_norm_weight = layer->gated_norm,
		.ring = m->state + (size_t)index * m->ring_floats,
		.ssm = m->state + (size_t)d->n_layers * m->ring_floats +
		       (size_t)index * m->ssm_floats,
		.held = m->state + (size_t)d->n_layers * (m->ring_floats + m->ssm_floats) +
			(size_t)index * m->held_floats,
		.slot_floats = m->slot_floats,
		.items = m->on_device.items,
		.row_item = m->on_device.row_item,
		.in_out = m->in_out,
		.xbc = m->xbc,
		.y = m->y,
		.squares = m->mixed_squares,
		.leads = m->on_device.leads,
		.tails = m->on_device.tails,
		.chunked = m->on_device.chunked,
		.chunk_rows = m->on_device.chunk_rows,
		.tiles = m->on_device.tiles,
		.chunk_steps = m->chunk_steps,
		.chunk_states = m->y,
	};
}

/* The residual as the input of in_proj or of the head. */
static struct m2_cuda_input residual_input(
	const struct m2_model *m, enum m2_dtype type, const int32_t *from)
{
	return (struct m2_cuda_input){
		.x = m->residual_input,
		.stride = m2_cuda_pad(m->desc.hidden_size),
		.from = from,
		.squares = m->residual_squares,
		.groups = 1,
		.parts = m->desc.hidden_size / 16,
		.width = m->desc.hidden_size,
		.eps = m->desc.norm_eps,
		.factor = 1.0f / m2_cuda_next_factor(type),
	};
}

/* The mixer's result as the input of out_proj. */
static struct m2_cuda_input mixed_input(const struct m2_model *m, const struct m2_cuda_layer *layer)
{
	return (struct m2_cuda_input){
		.x = m->mixed_input,
		.stride = m2_cuda_pad(m2_desc_out_cols(&m->desc)),
		.squares = m->mixed_squares,
		.groups = m->desc.norm_groups,
		.parts = m->desc.n_heads / m->desc.norm_groups,
		.width = m2_desc_d_ssm(&m->desc) / m->desc.norm_groups,
		.eps = m->desc.norm_eps,
		.factor = 1.0f / m2_cuda_next_factor(layer->out_proj.dtype),
	};
}

/* Where the residual goes after layer `index` (-1: the embedding), ready for what comes next. */
static struct m2_cuda_output residual_output(const struct m2_model *m, int32_t index)
{
	const bool last = index + 1 == m->desc.n_layers;
	const enum m2_dtype type = last ? m->head.dtype : m->layers[index + 1].in_proj.dtype;
	struct m2_cuda_output out = {.to = m->residual,
		.stride = m->desc.hidden_size,
		.bias = index >= 0 ? m->layers[index].out_bias : NULL,
		.add = index >= 0};
	if (!m->tuned)
		return out;
	out.squares = m->residual_squares;
	out.next = (struct m2_cuda_next){.to = m->residual_input,
		.type = type,
		.stride = m2_cuda_pad(m->desc.hidden_size),
		.weight = last ? m->final_norm : m->layers[index + 1].norm,
		.factor = m2_cuda_next_factor(type)};
	return out;
}

static cudaError_t tuned_layer(struct m2_model *m, cudaStream_t stream, int32_t index,
	int32_t items, int32_t rows, bool one)
{
	const struct m2_cuda_layer *layer = &m->layers[index];
	const struct m2_cuda_input from_residual = residual_input(m, layer->in_proj.dtype, NULL);
	const struct m2_cuda_input from_mixer = mixed_input(m, layer);
	const struct m2_cuda_output to_residual = residual_output(m, index);
	const struct m2_cuda_output to_mixer = {
		.to = m->in_out, .stride = m->in_stride, .bias = layer->in_bias};
	struct m2_cuda_mixer mixer = mixer_of(m, layer, index);
	mixer.next = (struct m2_cuda_next){.to = m->mixed_input,
		.type = layer->out_proj.dtype,
		.stride = from_mixer.stride,
		.weight = layer->gated_norm,
		.factor = m2_cuda_next_factor(layer->out_proj.dtype)};
	TRY(m2_cuda_product(stream, &layer->in_proj, &from_residual, rows, &to_mixer));
	if (one)
		TRY(m2_cuda_mix_one(stream, &mixer, m->on_device.count, items));
	else
		TRY(m2_cuda_mix_span(stream, &mixer, &m->spans));
	return m2_cuda_product(stream, &layer->out_proj, &from_mixer, rows, &to_residual);
}

static struct m2_cuda_input plain_input(const void *x, int32_t cols)
{
	return (struct m2_cuda_input){.x = x, .stride = m2_cuda_pad(cols), .groups = 1};
}

static cudaError_t plain_layer(
	struct m2_model *m, cudaStream_t stream, int32_t index, int32_t items, int32_t rows)
{
	const struct m2_cuda_layer *layer = &m->layers[index];
	const struct m2_cuda_mixer mixer = mixer_of(m, layer, index);
	const int32_t d = m->desc.hidden_size;
	const struct m2_cuda_input from_residual = plain_input(m->residual_input, d);
	const struct m2_cuda_input from_mixer =
		plain_input(m->mixed_input, m2_desc_out_cols(&m->desc));
	const struct m2_cuda_output to_mixer = {
		.to = m->in_out, .stride = m->in_stride, .bias = layer->in_bias};
	const struct m2_cuda_output to_residual = residual_output(m, index);
	TRY(m2_cuda_norm_rows(stream, m->residual, layer->norm, NULL, rows, d, m->desc.norm_eps,
		layer->in_proj.dtype, m->residual_input));
	TRY(m2_cuda_product(stream, &layer->in_proj, &from_residual, rows, &to_mixer));
	TRY(m2_cuda_convolve(stream, &mixer, items, rows));
	TRY(m2_cuda_recur(stream, &mixer, items));
	TRY(m2_cuda_gate(stream, &mixer, rows, layer->out_proj.dtype, m->mixed_input));
	return m2_cuda_product(stream, &layer->out_proj, &from_mixer, rows, &to_residual);
}

cudaError_t m2_cuda_layers(
	struct m2_model *model, cudaStream_t stream, int32_t items, int32_t rows, bool one)
{
	const struct m2_cuda_output embedded = residual_output(model, -1);
	TRY(m2_cuda_fault(stream, model->on_device.tokens, rows, model->desc.vocab_rows - 1));
	TRY(m2_cuda_embed(
		stream, &model->embedding, model->on_device.tokens, model->picks, rows, &embedded));
	for (int32_t i = 0; i < model->desc.n_layers; i++)
		TRY(model->tuned ? tuned_layer(model, stream, i, items, rows, one)
				 : plain_layer(model, stream, i, items, rows));
	return cudaSuccess;
}

cudaError_t m2_cuda_head(struct m2_model *model, cudaStream_t stream, const int32_t *wanted,
	int32_t n, const struct m2_cuda_output *out)
{
	const struct m2_cuda_input tuned = residual_input(model, model->head.dtype, wanted);
	const struct m2_cuda_input plain =
		plain_input(model->residual_input, model->desc.hidden_size);
	if (!model->tuned)
		TRY(m2_cuda_norm_rows(stream, model->residual, model->final_norm, wanted, n,
			model->desc.hidden_size, model->desc.norm_eps, model->head.dtype,
			model->residual_input));
	return m2_cuda_product(stream, &model->head, model->tuned ? &tuned : &plain, n, out);
}

cudaError_t m2_cuda_pick_rows(struct m2_model *model, cudaStream_t stream, int32_t first, int32_t n)
{
	const struct m2_cuda_picker picker = {
		.logits = model->logits,
		.vocab = model->desc.vocab_rows,
		.orders = model->on_device.picks + first,
		.parts = model->pick_parts,
		.last = model->picks,
		.step = model->on_device.count + 1,
		.results = {model->flights[0].picks, model->flights[1].picks},
	};
	return m2_cuda_pick(stream, &picker, n);
}
