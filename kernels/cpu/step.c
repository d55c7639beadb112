/* step.c - one step: all items' tokens through all layers, on all threads.
 *
 * The tokens of all items form one batch of rows, so a weight is read from memory once per step.
 * Every thread walks the same sequence of phases; in a phase each has its own part of the output
 * (tokens of a norm, rows of a matrix, channels, heads) and a barrier ends it.  Nobody adds into
 * what another has written, so the bits do not depend on the number of threads.
 */
#include "kernels/cpu/project.h"

#include <assert.h>
#include <string.h>

#include "kernels/pick.h"

/* ---- what is to be done --------------------------------------------------------------------- */

static struct m2_cpu_tiles tiles_of(int32_t tokens)
{
	/* Evenly: 13 tokens are 7 and 6, not 12 and 1. */
	const int32_t tiles = (tokens + M2_TILE - 1) / M2_TILE;
	return (struct m2_cpu_tiles){
		.tokens = tokens, .size = tiles > 0 ? (tokens + tiles - 1) / tiles : 1};
}

static void plan_item(
	struct m2_model *m, const struct m2_work *work, struct m2_cpu_item *item, int32_t first)
{
	const int32_t n = work->n_tokens;
	const int32_t into_chunk = (int32_t)(work->position % M2_CHUNK);
	struct m2_cpu_slot_head *head = m2_cpu_slot_head(m, work->slot);
	int32_t lead = into_chunk == 0 ? 0 : M2_CHUNK - into_chunk;
	lead = lead < n && m->chunked ? lead : n;
	*item = (struct m2_cpu_item){
		.slot = work->slot,
		.first = first,
		.tokens = n,
		.ring = into_chunk % M2_RING,
		.lead = lead,
		.chunks = (n - lead) / M2_CHUNK,
		.first_chunk = m->n_chunks,
	};
	assert(head->row == item->ring);
	head->row = (item->ring + n) % M2_RING;
	for (int32_t c = 0; c < item->chunks; c++)
		m->chunk_first[m->n_chunks++] = first + lead + c * M2_CHUNK;
}

static void plan_step(struct m2_model *m, const struct m2_work *works, int32_t count)
{
	int32_t rows = 0, wanted = 0;
	m->n_items = count;
	m->n_chunks = 0;
	m->n_choices = 0;
	for (int32_t i = 0; i < count; i++) {
		const struct m2_work *work = &works[i];
		assert(work->slot >= 0 && work->slot < m->slots && work->n_tokens >= 1);
		assert(work->n_tokens <= m->max_tokens - rows);
		plan_item(m, work, &m->items[i], rows);
		for (int32_t t = 0; t < work->n_tokens; t++) {
			const int32_t token =
				work->from_pick ? m->picked[work->slot] - 1 : work->tokens[t];
			assert(token >= 0 && token < m->desc.vocab_rows);
			m->tokens[rows + t] = token;
			if (t < work->logits_first)
				continue;
			m->wanted[wanted] = rows + t;
			m->wanted_out[wanted++] = work->logits + (size_t)(t - work->logits_first) *
									 (size_t)m->desc.vocab_rows;
		}
		rows += work->n_tokens;
		assert(!work->from_pick || work->n_tokens == 1);
		m->picked[work->slot] = 0;
		if (work->pick == NULL)
			continue;
		if (work->logits_first >= work->n_tokens) {
			m->wanted[wanted] = rows - 1;
			m->wanted_out[wanted++] =
				m->pick_rows + (size_t)i * (size_t)m->desc.vocab_rows;
		}
		m->choices[m->n_choices++] =
			(struct m2_cpu_choice){.work = work, .row = m->wanted_out[wanted - 1]};
	}
	m->all = tiles_of(rows);
	m->asked = tiles_of(wanted);
}

/* ---- sinks ---------------------------------------------------------------------------------- */

static void to_in_out(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile)
{
	for (int32_t t = 0; t < tokens; t++, tile += M2_TILE_ROWS) {
		float *to = m->in_out + (size_t)(token + t) * m->in_stride + row;
		memcpy(to, tile, (size_t)rows * sizeof(float));
		for (int32_t r = 0; layer->in_bias != NULL && r < rows; r++)
			to[r] += layer->in_bias[row + r];
	}
}

static void to_residual(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile)
{
	for (int32_t t = 0; t < tokens; t++, tile += M2_TILE_ROWS) {
		float *to = m->residual + (size_t)(token + t) * (size_t)m->desc.hidden_size + row;
		m->device->kernels->add(
			to, tile, layer->out_bias != NULL ? layer->out_bias + row : NULL, rows);
	}
}

static void to_logits(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile)
{
	(void)layer;
	for (int32_t t = 0; t < tokens; t++, tile += M2_TILE_ROWS)
		memcpy(m->wanted_out[token + t] + row, tile, (size_t)rows * sizeof(float));
}

/* ---- the phases ----------------------------------------------------------------------------- */

static void embed(struct m2_model *m, int32_t thread)
{
	int32_t first, end;
	m2_cpu_share(m, thread, m->all.tokens, &first, &end);
	for (int32_t t = first; t < end; t++)
		m2_matrix_gather(&m->embedding, m->tokens[t],
			m->residual + (size_t)t * (size_t)m->desc.hidden_size);
}

/* Norm of the residual, into the input of a product.  rows NULL: all of them. */
static void normalise(struct m2_model *m, int32_t thread, const float *weight,
	const struct m2_cpu_tiles *tiles, const int32_t *rows)
{
	const int32_t d = m->desc.hidden_size;
	float *row = m->threads[thread].row, *packed = m2_cpu_packed(m, tiles, thread);
	int32_t first, end;
	m2_cpu_inputs(m, tiles, thread, &first, &end);
	for (int32_t t = first; t < end; t++) {
		const size_t from = (size_t)(rows != NULL ? rows[t] : t);
		m->device->kernels->rms_norm(
			row, m->residual + from * (size_t)d, weight, d, 1, m->desc.norm_eps);
		m2_cpu_pack(packed, tiles, t, row, d);
	}
	m2_cpu_inputs_done(m, tiles);
}

/* The picks: each row of logits by one thread. */
static void choose(struct m2_model *m, int32_t thread)
{
	int32_t first, end;
	m2_cpu_share(m, thread, m->n_choices, &first, &end);
	for (int32_t i = first; i < end; i++) {
		const struct m2_work *work = m->choices[i].work;
		m2_pick_row(m->choices[i].row, m2_pick_limit(work, m->desc.vocab_rows), work->pick);
		m->picked[work->slot] = work->pick->token + 1;
	}
}

static void run(void *ctx, int32_t thread)
{
	struct m2_model *m = ctx;
	struct m2_pool *pool = m->device->pool;

	embed(m, thread);
	m2_pool_barrier(pool);
	for (int32_t i = 0; i < m->desc.n_layers; i++) {
		const struct m2_cpu_layer *layer = &m->layers[i];
		const bool last = i + 1 == m->desc.n_layers;
		normalise(m, thread, layer->norm, &m->all, NULL);
		m2_cpu_project(
			m, thread, &layer->in_proj, &layer->dt_proj, &m->all, layer, to_in_out);
		m2_pool_barrier(pool);
		m2_cpu_mix(m, layer, i, thread);
		m2_cpu_project(m, thread, &layer->out_proj, NULL, &m->all, layer, to_residual);
		m2_cpu_ask(m, thread, last ? &m->head : &layer[1].in_proj, &m->all);
		m2_pool_barrier(pool);
	}
	if (m->asked.tokens == 0)
		return;
	normalise(m, thread, m->final_norm, &m->asked, m->wanted);
	m2_cpu_project(m, thread, &m->head, NULL, &m->asked, NULL, to_logits);
	if (m->n_choices == 0)
		return;
	m2_pool_barrier(pool);
	choose(m, thread);
}

enum m2_err m2_cpu_step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	(void)why;
	assert(count >= 0 && count <= model->max_items);
	if (count == 0)
		return M2_OK;
	plan_step(model, items, count);
	m2_pool_run(model->device->pool, run, model);
	return M2_OK;
}
