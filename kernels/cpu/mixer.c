/* mixer.c - the phases of a layer between its two projections.
 *
 * Convolution (threads share the channels), the C.B products of whole chunks (shared by all heads
 * of a group), the heads, and the gate with its norm (threads share the tokens).
 */
#include "kernels/cpu/project.h"
#include "kernels/cpu/share.h"

#include <string.h>

enum { HEADS = 4 }; /* of a prompt's, that a thread takes at a time */

/* Where the parts of a row of in_out begin. */
struct parts {
	int32_t x0, z, xbc, dt;
};

static struct parts parts_of(const struct m2_model_desc *m)
{
	const int32_t z = 2 * m->d_mlp, xbc = z + m2_desc_d_ssm(m);
	return (struct parts){
		.x0 = m->d_mlp, .z = z, .xbc = xbc, .dt = xbc + m2_desc_conv_channels(m)};
}

/* ---- convolution and dt --------------------------------------------------------------------- */

/* Channels [first, first + n) of one item, and of its window. */
static void convolve(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index,
	const struct m2_cpu_item *item, int32_t first, int32_t n)
{
	const int32_t taps = m->desc.conv_kernel, kept = taps - 1;
	const size_t stride = (size_t)m->channel_stride;
	float *window = m2_cpu_conv_state(m, item->slot, index) + first;
	const float *raw =
		m->in_out + (size_t)item->first * m->in_stride + parts_of(&m->desc).xbc + first;
	const float *bias = layer->conv_bias != NULL ? layer->conv_bias + first : NULL;

	for (int32_t t = 0; t < item->tokens; t++) {
		const float *tap[16];
		for (int32_t j = 0; j < taps; j++) {
			const int32_t from = t - kept + j;
			tap[j] = from < 0 ? window + (size_t)(from + kept) * stride
					  : raw + (size_t)from * m->in_stride;
		}
		m->device->kernels->conv(m->xbc + (size_t)(item->first + t) * stride + first, tap,
			layer->conv + first, stride, bias, taps, n);
	}
	/* Ascending: a short span moves the window's own columns down. */
	for (int32_t j = 0; j < kept; j++) {
		const int32_t from = item->tokens - kept + j;
		memcpy(window + (size_t)j * stride,
			from < 0 ? window + (size_t)(from + kept) * stride
				 : raw + (size_t)from * m->in_stride,
			(size_t)n * sizeof(float));
	}
}

static void convolve_all(
	struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index, int32_t thread)
{
	const int32_t channels = m2_desc_conv_channels(&m->desc);
	int32_t first, end;
	m2_cpu_share(m, thread, m->channel_stride / 16, &first, &end);
	first *= 16;
	end = end * 16 < channels ? end * 16 : channels;
	for (int32_t i = 0; i < m->n_items && first < end; i++)
		convolve(m, layer, index, &m->items[i], first, end - first);

	m2_cpu_share(m, thread, m->all.tokens, &first, &end);
	for (int32_t t = first; t < end; t++) {
		const size_t at = (size_t)t * (size_t)m->desc.n_heads;
		m->device->kernels->dt(m->dt + at, m->decay + at,
			m->in_out + (size_t)t * m->in_stride + parts_of(&m->desc).dt,
			layer->dt_bias, layer->a, m->desc.dt_min, m->desc.dt_max, m->desc.n_heads);
	}
}

/* ---- state space ---------------------------------------------------------------------------- */

/* One head from row `row` of the buffers on. */
static struct m2_head_span span_of(struct m2_model *m, const struct m2_cpu_layer *layer,
	int32_t head, float *state, int32_t row)
{
	const struct m2_model_desc *desc = &m->desc;
	const int32_t group = head / (desc->n_heads / desc->n_groups);
	const int32_t d_ssm = m2_desc_d_ssm(desc), P = desc->head_dim, N = desc->state_size;
	const float *xbc = m->xbc + (size_t)row * (size_t)m->channel_stride;
	const size_t dt = (size_t)row * (size_t)desc->n_heads + (size_t)head;

	return (struct m2_head_span){
		.state = state,
		.x = xbc + head * P,
		.b = xbc + d_ssm + group * N,
		.c = xbc + d_ssm + (desc->n_groups + group) * N,
		.stride = (size_t)m->channel_stride,
		.dt = m->dt + dt,
		.decay = m->decay + dt,
		.dt_stride = (size_t)desc->n_heads,
		.a = layer->a[head],
		.d = layer->d + (desc->d_per_channel ? head * P : head),
		.d_per_channel = desc->d_per_channel,
		.y = m->y + (size_t)row * (size_t)d_ssm + head * P,
		.y_stride = (size_t)d_ssm,
		.head_dim = P,
		.padded_dim = m->padded_dim,
		.state_size = N,
	};
}

static float *cb_of(struct m2_model *m, int32_t chunk, int32_t group)
{
	return m->cb +
	       ((size_t)chunk * (size_t)m->desc.n_groups + (size_t)group) * M2_CHUNK * M2_CHUNK;
}

static void chunks_cb(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t thread)
{
	const int32_t groups = m->desc.n_groups, heads = m->desc.n_heads / groups;
	int32_t first, end;
	m2_cpu_share(m, thread, (int64_t)m->n_chunks * groups, &first, &end);
	for (int32_t i = first; i < end; i++) {
		const int32_t chunk = i / groups, group = i % groups;
		const struct m2_head_span span =
			span_of(m, layer, group * heads, NULL, m->chunk_first[chunk]);
		m->device->kernels->chunk_cb(
			cb_of(m, chunk, group), &span, &m->threads[thread].head);
	}
}

/* Rows [row, row + tokens) by the recurrence. */
static void recur(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t head, float *state,
	const float *ask, int32_t row, int32_t tokens, const struct m2_head_scratch *scratch)
{
	for (int32_t done = 0; done < tokens; done += M2_CHUNK) {
		struct m2_head_span span = span_of(m, layer, head, state, row + done);
		span.ask = ask;
		m->device->kernels->recurrence(
			&span, scratch, tokens - done < M2_CHUNK ? tokens - done : M2_CHUNK);
	}
}

/* Head `head` of an item, and of the next item behind the last; the last one's own behind that. */
static float *state_of(struct m2_model *m, int32_t index, int32_t item, int32_t head)
{
	const int32_t n = m->desc.n_heads;
	if (head == n && item + 1 < m->n_items)
		return m2_cpu_ssm_state(m, m->items[item + 1].slot, index);
	head = head < n ? head : n - 1;
	return m2_cpu_ssm_state(m, m->items[item].slot, index) +
	       (size_t)head * (size_t)m->desc.state_size * (size_t)m->padded_dim;
}

/* Heads [first, end) of an item.  Chunk after chunk: what all heads of a group read of it is then
 * still in the cache. */
static void heads_of_item(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index,
	int32_t item, int32_t first, int32_t end, const struct m2_head_scratch *scratch)
{
	const struct m2_cpu_item *it = &m->items[item];
	const int32_t per_group = m->desc.n_heads / m->desc.n_groups;
	const int32_t tail = it->lead + it->chunks * M2_CHUNK;
	for (int32_t h = first; h < end && it->lead > 0; h++)
		recur(m, layer, h, state_of(m, index, item, h), state_of(m, index, item, h + 1),
			it->first, it->lead, scratch);
	for (int32_t c = 0; c < it->chunks; c++) {
		for (int32_t h = first; h < end; h++) {
			struct m2_head_span span = span_of(m, layer, h, state_of(m, index, item, h),
				it->first + it->lead + c * M2_CHUNK);
			span.cb = cb_of(m, it->first_chunk + c, h / per_group);
			m->device->kernels->chunk(&span, scratch);
		}
	}
	for (int32_t h = first; h < end && tail < it->tokens; h++)
		recur(m, layer, h, state_of(m, index, item, h), state_of(m, index, item, h + 1),
			it->first + tail, it->tokens - tail, scratch);
}

/* Part i is head i % n_heads of item i / n_heads: a long prompt beside single tokens is shared by all
 * threads, and a step of single tokens walks straight through each state. */
static void heads(
	struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index, int32_t thread)
{
	const int32_t n = m->desc.n_heads;
	struct m2_cpu_taking taking =
		m2_cpu_begin(m, thread, n * m->n_items, m->n_chunks > 0 ? HEADS : 1);
	int32_t first, end;
	while (m2_cpu_take(m, thread, &taking, &first, &end)) {
		while (first < end) {
			const int32_t item = first / n, head = first % n;
			const int32_t more = end - first < n - head ? end - first : n - head;
			heads_of_item(
				m, layer, index, item, head, head + more, &m->threads[thread].head);
			first += more;
		}
	}
}

/* ---- gate ----------------------------------------------------------------------------------- */

static void gate_token(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t t, float *row)
{
	const struct m2_model_desc *desc = &m->desc;
	const struct m2_cpu_kernels *k = m->device->kernels;
	const struct parts at = parts_of(desc);
	const int32_t d_ssm = m2_desc_d_ssm(desc);
	const float *in = m->in_out + (size_t)t * m->in_stride;
	const float *y = m->y + (size_t)t * (size_t)d_ssm;
	float *out = row + desc->d_mlp;

	if (desc->d_mlp > 0)
		k->gate(row, in + at.x0, in, desc->d_mlp);
	if (desc->gated_norm && desc->norm_before_gate) {
		k->rms_norm(out, y, layer->gated_norm, d_ssm, desc->norm_groups, desc->norm_eps);
		k->gate(out, out, in + at.z, d_ssm);
		return;
	}
	k->gate(out, y, in + at.z, d_ssm);
	if (desc->gated_norm)
		k->rms_norm(out, out, layer->gated_norm, d_ssm, desc->norm_groups, desc->norm_eps);
}

void m2_cpu_mix(
	struct m2_model *model, const struct m2_cpu_layer *layer, int32_t index, int32_t thread)
{
	struct m2_pool *pool = model->device->pool;
	int32_t first, end;

	convolve_all(model, layer, index, thread);
	m2_pool_barrier(pool);
	if (model->n_chunks > 0) {
		chunks_cb(model, layer, thread);
		m2_pool_barrier(pool);
	}
	heads(model, layer, index, thread);
	m2_cpu_ask(model, thread, &layer->out_proj, &model->all);
	m2_pool_barrier(pool);
	float *packed = m2_cpu_packed(model, &model->all, thread);
	m2_cpu_inputs(model, &model->all, thread, &first, &end);
	for (int32_t t = first; t < end; t++) {
		float *row = model->threads[thread].row;
		gate_token(model, layer, t, row);
		m2_cpu_pack(packed, &model->all, t, row, m2_desc_out_cols(&model->desc));
	}
	m2_cpu_inputs_done(model, &model->all);
}
