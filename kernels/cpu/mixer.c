/* mixer.c - the phases of a layer between its two projections.
 *
 * Convolution (threads share the channels), the C.B products of whole chunks (shared by all heads
 * of a group), the heads, and the gate with its norm (threads share the tokens).  Those of replayed
 * tokens are so little work that each thread makes what its heads need.
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
		m->device->kernels->dt(m->dt + at,
			m->in_out + (size_t)t * m->in_stride + parts_of(&m->desc).dt,
			layer->dt_bias, m->desc.dt_min, m->desc.dt_max, m->desc.n_heads);
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

/* Some heads of an item. */
struct some_heads {
	const struct m2_cpu_layer *layer;
	int32_t index; /* of the layer */
	int32_t item;
	int32_t first;
	int32_t end;
};

/* What comes behind head `head`: that of the next item behind the last; the last one's own behind that. */
static const float *next_head(struct m2_model *m, const struct some_heads *some, int32_t head)
{
	const int32_t n = m->desc.n_heads;
	if (head + 1 == n && some->item + 1 < m->n_items)
		return m2_cpu_head(m, m->items[some->item + 1].slot, some->index, 0);
	return m2_cpu_head(
		m, m->items[some->item].slot, some->index, head + 1 < n ? head + 1 : head);
}

/* Tokens of one piece of the ring, in rows `row` on of the buffers and `ring` on of the ring. */
static void replay_piece(struct m2_model *m, const struct some_heads *some, int32_t row,
	int32_t ring, int32_t tokens, struct m2_cpu_thread *own)
{
	const struct m2_cpu_kernels *k = m->device->kernels;
	const int32_t slot = m->items[some->item].slot;
	const int32_t per_group = m->desc.n_heads / m->desc.n_groups;
	for (int32_t h = some->first; h < some->end; h++) {
		const int32_t group = h / per_group;
		struct m2_head_span span =
			span_of(m, some->layer, h, m2_cpu_head(m, slot, some->index, h), row);
		if (own->cb_row != row || own->cb_group != group)
			k->replay_cb(own->cb, own->bt, m2_cpu_ring(m, slot, some->index, group),
				&span, ring, tokens);
		own->cb_row = row;
		own->cb_group = group;
		span.cb = own->cb;
		span.bt = own->bt;
		span.ask = next_head(m, some, h);
		k->replay(&span, &own->head, ring, tokens);
	}
}

/* `tokens` tokens from row `row` of the buffers and `ring` of the ring on: cut where the ring ends. */
static void replay_run(struct m2_model *m, const struct some_heads *some, int32_t row, int32_t ring,
	int32_t tokens, struct m2_cpu_thread *own)
{
	while (tokens > 0) {
		const int32_t n = tokens < M2_RING - ring ? tokens : M2_RING - ring;
		replay_piece(m, some, row, ring, n, own);
		row += n;
		tokens -= n;
		ring = 0;
	}
}

/* Chunk after chunk: what all heads of a group read of it is then still in the cache. */
static void heads_of_item(
	struct m2_model *m, const struct some_heads *some, struct m2_cpu_thread *own)
{
	const struct m2_cpu_item *it = &m->items[some->item];
	const int32_t per_group = m->desc.n_heads / m->desc.n_groups;
	const int32_t tail = it->lead + it->chunks * M2_CHUNK;
	replay_run(m, some, it->first, it->ring, it->lead, own);
	for (int32_t c = 0; c < it->chunks; c++) {
		for (int32_t h = some->first; h < some->end; h++) {
			struct m2_head_span span =
				span_of(m, some->layer, h, m2_cpu_head(m, it->slot, some->index, h),
					it->first + it->lead + c * M2_CHUNK);
			span.cb = cb_of(m, it->first_chunk + c, h / per_group);
			m->device->kernels->chunk(&span, &own->head);
		}
	}
	replay_run(m, some, it->first + tail, 0, it->tokens - tail, own);
}

/* Part i is head i % n_heads of item i / n_heads: a long prompt beside single tokens is shared by all
 * threads, and a step of single tokens walks straight through each state. */
static void heads(
	struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index, int32_t thread)
{
	const int32_t n = m->desc.n_heads;
	struct m2_cpu_thread *own = &m->threads[thread];
	struct m2_cpu_taking taking =
		m2_cpu_begin(m, thread, n * m->n_items, m->all.tokens > m->n_items ? HEADS : 1);
	int32_t first, end;
	own->cb_row = -1;
	while (m2_cpu_take(m, thread, &taking, &first, &end)) {
		while (first < end) {
			const int32_t item = first / n, head = first % n;
			const int32_t more = end - first < n - head ? end - first : n - head;
			const struct some_heads some = {layer, index, item, head, head + more};
			heads_of_item(m, &some, own);
			first += more;
		}
	}
}

/* The last of `tokens` tokens from row `row` of the buffers and `ring` of the ring on leave their B. */
static void keep_run(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index,
	int32_t slot, int32_t row, int32_t ring, int32_t tokens)
{
	const int32_t N = m->desc.state_size, heads = m->desc.n_heads / m->desc.n_groups;
	for (int32_t group = 0; group < m->desc.n_groups; group++) {
		const struct m2_head_span span = span_of(m, layer, group * heads, NULL, row);
		float *columns = m2_cpu_ring(m, slot, index, group);
		for (int32_t t = tokens < M2_RING ? 0 : tokens - M2_RING; t < tokens; t++)
			for (int32_t n = 0; n < N; n++)
				columns[n * M2_RING + (ring + t) % M2_RING] =
					span.b[(size_t)t * span.stride + (size_t)n];
	}
}

/* Once all heads have read their rings: the new B into them. */
static void keep_all(
	struct m2_model *m, const struct m2_cpu_layer *layer, int32_t index, int32_t thread)
{
	int32_t first, end;
	m2_cpu_share(m, thread, m->n_items, &first, &end);
	for (int32_t i = first; i < end; i++) {
		const struct m2_cpu_item *it = &m->items[i];
		const int32_t tail = it->lead + it->chunks * M2_CHUNK;
		keep_run(m, layer, index, it->slot, it->first, it->ring, it->lead);
		keep_run(m, layer, index, it->slot, it->first + tail, 0, it->tokens - tail);
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
	keep_all(model, layer, index, thread);
	float *packed = m2_cpu_packed(model, &model->all, thread);
	m2_cpu_inputs(model, &model->all, thread, &first, &end);
	for (int32_t t = first; t < end; t++) {
		float *row = model->threads[thread].row;
		gate_token(model, layer, t, row);
		m2_cpu_pack(packed, &model->all, t, row, m2_desc_out_cols(&model->desc));
	}
	m2_cpu_inputs_done(model, &model->all);
}
