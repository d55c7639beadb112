/* step.c - one step: all items' tokens through all layers, on all threads.
 *
 * The tokens of all items form one batch of rows, so a weight is read from memory once per step.
 * Every thread walks the same sequence of phases; in a phase each has its own part of the output
 * (tokens of a norm, rows of a matrix, channels, heads) and a barrier ends it.  Nobody adds into
 * what another has written, so the bits do not depend on the number of threads.
 */
#include "kernels/cpu/model.h"

#include <assert.h>
#include <string.h>

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
	int32_t lead = into_chunk == 0 ? 0 : M2_CHUNK - into_chunk;
	lead = lead < n && m->chunked ? lead : n;
	*item = (struct m2_cpu_item){
		.slot = work->slot,
		.first = first,
		.tokens = n,
		.lead = lead,
		.chunks = (n - lead) / M2_CHUNK,
		.first_chunk = m->n_chunks,
	};
	for (int32_t c = 0; c < item->chunks; c++)
		m->chunk_first[m->n_chunks++] = first + lead + c * M2_CHUNK;
}

static void plan_step(struct m2_model *m, const struct m2_work *works, int32_t count)
{
	int32_t rows = 0, wanted = 0;
	m->n_items = count;
	m->n_chunks = 0;
	for (int32_t i = 0; i < count; i++) {
		const struct m2_work *work = &works[i];
		assert(work->slot >= 0 && work->slot < m->slots && work->n_tokens >= 1);
		assert(work->n_tokens <= m->max_tokens - rows);
		plan_item(m, work, &m->items[i], rows);
		for (int32_t t = 0; t < work->n_tokens; t++) {
			assert(work->tokens[t] >= 0 && work->tokens[t] < m->desc.vocab_rows);
			m->tokens[rows + t] = work->tokens[t];
			if (t < work->logits_first)
				continue;
			m->wanted[wanted] = rows + t;
			m->wanted_out[wanted++] = work->logits + (size_t)(t - work->logits_first) *
									 (size_t)m->desc.vocab_rows;
		}
		rows += work->n_tokens;
	}
	m->all = tiles_of(rows);
	m->asked = tiles_of(wanted);
}

/* ---- products ------------------------------------------------------------------------------- */

/* Where a tile of a product goes: rows [row, row + rows) of tokens [token, token + tokens), from
 * tile[t * M2_TILE_ROWS + r]. */
typedef void sink_fn(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile);

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
		for (int32_t r = 0; r < rows; r++)
			to[r] += layer->out_bias != NULL ? tile[r] + layer->out_bias[row + r]
							 : tile[r];
	}
}

static void to_logits(struct m2_model *m, const struct m2_cpu_layer *layer, int32_t row,
	int32_t rows, int32_t token, int32_t tokens, const float *tile)
{
	(void)layer;
	for (int32_t t = 0; t < tokens; t++, tile += M2_TILE_ROWS)
		memcpy(m->wanted_out[token + t] + row, tile, (size_t)rows * sizeof(float));
}

/* This thread's panels of matrix . packed: each is read from memory once, for all tokens. */
static void project(struct m2_model *m, int32_t thread, const struct m2_matrix *matrix,
	const struct m2_cpu_tiles *tiles, const struct m2_cpu_layer *layer, sink_fn *sink)
{
	const size_t panel_bytes = m2_matrix_panel_bytes(matrix);
	float *tile = m->threads[thread].tile;
	int32_t first, end;
	m2_cpu_share(m, thread, (int64_t)m2_matrix_panels(matrix), &first, &end);
	for (int32_t panel = first; panel < end; panel += M2_TILE_PANELS) {
		const int32_t panels = end - panel < M2_TILE_PANELS ? end - panel : M2_TILE_PANELS;
		const int32_t row = panel * M2_PANEL, left = matrix->rows - row;
		const int32_t rows = left < panels * M2_PANEL ? left : panels * M2_PANEL;
		const unsigned char *w =
			(const unsigned char *)matrix->data + (size_t)panel * panel_bytes;
		for (int32_t t = 0; t < tiles->tokens; t += tiles->size) {
			const int32_t tokens =
				tiles->tokens - t < tiles->size ? tiles->tokens - t : tiles->size;
			m->device->kernels->product(matrix->dtype, w, panels, (size_t)matrix->cols,
				m->packed + (size_t)t * (size_t)matrix->cols, tokens, tile);
			sink(m, layer, row, rows, t, tokens, tile);
		}
	}
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
	float *row = m->threads[thread].row;
	int32_t first, end;
	m2_cpu_share(m, thread, tiles->tokens, &first, &end);
	for (int32_t t = first; t < end; t++) {
		const size_t from = (size_t)(rows != NULL ? rows[t] : t);
		m->device->kernels->rms_norm(
			row, m->residual + from * (size_t)d, weight, d, 1, m->desc.norm_eps);
		m2_cpu_pack(m, tiles, t, row, d);
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
		normalise(m, thread, layer->norm, &m->all, NULL);
		m2_pool_barrier(pool);
		project(m, thread, &layer->in_proj, &m->all, layer, to_in_out);
		m2_pool_barrier(pool);
		m2_cpu_mix(m, layer, i, thread);
		m2_pool_barrier(pool);
		project(m, thread, &layer->out_proj, &m->all, layer, to_residual);
		m2_pool_barrier(pool);
	}
	if (m->asked.tokens == 0)
		return;
	normalise(m, thread, m->final_norm, &m->asked, m->wanted);
	m2_pool_barrier(pool);
	project(m, thread, &m->head, &m->asked, NULL, to_logits);
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
