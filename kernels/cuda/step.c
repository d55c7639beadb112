/* step.c - one step: all items' tokens through all layers, as a sequence of kernels on one stream.
 *
 * The tokens of all items form one batch of rows, so a weight is read once per step.  What is to be done
 * travels to the device in one piece: a graph fetches it itself, otherwise it is copied.  Picks come back
 * by themselves, logits row after row through pinned memory (flight.c).
 */
#include <assert.h>

#include "kernels/cuda/model.h"

struct plan {
	const struct m2_work *works;
	int32_t items;
	int32_t rows;
	int32_t wanted;                    /* rows whose logits are made, */
	int32_t to_host;                   /* of which so many go to the host, the first of them */
	int32_t picks;                     /* items that want one */
	bool one;                          /* every item is a single token */
	const struct m2_cuda_graph *graph; /* NULL: kernel by kernel */
};

/* Into tiles, chunks and what goes by the recurrence; `number` is the item's. */
static void plan_span(
	struct m2_model *m, const struct m2_cuda_orders *o, int32_t number, int64_t position)
{
	struct m2_cuda_item *item = &o->items[number];
	struct m2_cuda_spans *s = &m->spans;
	const int32_t into_chunk = (int32_t)(position % M2_CHUNK), n = item->tokens;
	const int32_t to_next = into_chunk == 0 ? 0 : M2_CHUNK - into_chunk;
	item->lead = m->tuned && to_next <= n - M2_CHUNK ? to_next : n;
	item->chunks = (n - item->lead) / M2_CHUNK;
	item->first_chunk = s->chunks;
	for (int32_t first = 0; first < n; first += M2_CUDA_TILE)
		o->tiles[s->tiles++] = (struct m2_cuda_tile){.item = number, .first = first};
	for (int32_t c = 0; c < item->chunks; c++)
		o->chunk_rows[s->chunks++] = item->first + item->lead + c * M2_CHUNK;
	if (item->lead > 0)
		o->leads[s->leads++] = number;
	if (item->into_window > 0 && item->into_window + item->lead > M2_CUDA_WINDOW)
		s->crossed = true;
	if (item->chunks > 0)
		o->chunked[s->chunked++] = number;
	if (item->lead + item->chunks * M2_CHUNK < n)
		o->tails[s->tails++] = number;
}

/* One item's tokens, from row p->rows on. */
static void plan_item(struct m2_model *m, const struct m2_cuda_orders *o, struct plan *p, int32_t i)
{
	const struct m2_work *work = &p->works[i];
	const int32_t n = work->n_tokens;
	assert(work->slot >= 0 && work->slot < m->slots && n >= 1);
	assert(n <= m->max_tokens - p->rows);
	assert(m->position[work->slot] == work->position);
	assert(!work->from_pick || (n == 1 && m->picked[work->slot]));
	o->items[i] = (struct m2_cuda_item){
		.slot = work->slot,
		.first = p->rows,
		.tokens = n,
		.into_ring = (int32_t)(work->position % m->desc.conv_kernel),
		.into_window = (int32_t)(work->position % M2_CUDA_WINDOW),
	};
	plan_span(m, o, i, work->position);
	m->position[work->slot] += n;
	m->picked[work->slot] = work->pick != NULL;
	for (int32_t t = 0; t < n; t++) {
		const int32_t token = work->from_pick ? -1 - work->slot : work->tokens[t];
		assert(work->from_pick || (token >= 0 && token < m->desc.vocab_rows));
		o->tokens[p->rows + t] = token;
		o->row_item[p->rows + t] = i;
	}
	p->rows += n;
	p->picks += work->pick != NULL;
	p->one = p->one && n == 1;
}

static struct m2_cuda_pick_order pick_order(
	const struct m2_model *m, const struct plan *p, int32_t i)
{
	const struct m2_work *work = &p->works[i];
	const int32_t limit = work->pick_limit > 0 ? work->pick_limit : m->desc.vocab_rows;
	assert(limit <= m->desc.vocab_rows);
	return (struct m2_cuda_pick_order){
		.slot = work->pick != NULL ? work->slot : -1, .limit = limit, .item = i};
}

/* Kernel by kernel: the rows that go to the host first, then those that are only picked from. */
static void plan_wanted(const struct m2_model *m, const struct m2_cuda_orders *o, struct plan *p)
{
	for (int32_t i = 0; i < p->items; i++) {
		const int32_t n = p->works[i].n_tokens;
		for (int32_t t = p->works[i].logits_first; t < n; t++) {
			o->picks[p->wanted] = (struct m2_cuda_pick_order){.slot = -1};
			if (t == n - 1)
				o->picks[p->wanted] = pick_order(m, p, i);
			o->wanted[p->wanted++] = o->items[i].first + t;
		}
	}
	p->to_host = p->wanted;
	for (int32_t i = 0; i < p->items; i++) {
		const int32_t n = p->works[i].n_tokens;
		if (p->works[i].pick == NULL || p->works[i].logits_first < n)
			continue;
		o->picks[p->wanted] = pick_order(m, p, i);
		o->wanted[p->wanted++] = o->items[i].first + n - 1;
	}
}

/* A graph makes the logits of all its rows, item i in row i; what nobody fills is not picked from. */
static void plan_graph(const struct m2_model *m, const struct m2_cuda_orders *o, struct plan *p)
{
	for (int32_t i = 0; i < p->graph->items; i++)
		o->picks[i] = i < p->items ? pick_order(m, p, i)
					   : (struct m2_cuda_pick_order){.slot = -1};
}

static const struct m2_cuda_graph *graph_for(const struct m2_model *m, const struct plan *p)
{
	for (int32_t i = 0; p->one && p->items > 0 && i < m->n_graphs; i++)
		if (m->graphs[i].items >= p->items)
			return &m->graphs[i];
	return NULL;
}

static struct plan plan_step(struct m2_model *m, struct m2_cuda_flight *flight,
	const struct m2_work *works, int32_t count)
{
	const struct m2_cuda_orders *o = &flight->orders;
	struct plan p = {.works = works, .items = count, .one = true};
	m->spans = (struct m2_cuda_spans){.items = count};
	o->count[0] = count;
	o->count[1] = (int32_t)m->begun;
	for (int32_t i = 0; i < count; i++) {
		plan_item(m, o, &p, i);
		flight->picks_to[i] = works[i].pick;
	}
	m->spans.rows = p.rows;
	flight->items = count;
	p.graph = graph_for(m, &p);
	if (p.graph != NULL)
		plan_graph(m, o, &p);
	else
		plan_wanted(m, o, &p);
	return p;
}

#define TRY(call)                                                                                  \
	do {                                                                                       \
		const cudaError_t try_error = (call);                                              \
		if (try_error != cudaSuccess)                                                      \
			return try_error;                                                          \
	} while (0)

static const float *logits_row(const struct m2_model *m, int32_t row)
{
	return m->logits + (size_t)row * (size_t)m->desc.vocab_rows;
}

static cudaError_t run_graph(
	struct m2_model *m, struct m2_cuda_flight *flight, const struct plan *p)
{
	TRY(cudaGraphLaunch(p->graph->exec, m->device->steps));
	for (int32_t i = 0; i < p->items; i++)
		if (p->works[i].logits_first < 1)
			TRY(m2_cuda_flight_send(m, flight, logits_row(m, i), p->works[i].logits));
	return cudaSuccess;
}

/* The caller's rows of logits one after another, in the order of plan_wanted. */
struct place {
	int32_t item;
	int32_t row;
};

static float *next_place(const struct m2_model *m, const struct m2_work *works, struct place *at)
{
	while (at->row >= works[at->item].n_tokens - works[at->item].logits_first)
		*at = (struct place){.item = at->item + 1};
	return works[at->item].logits + (size_t)at->row++ * (size_t)m->desc.vocab_rows;
}

/* How many of the wanted rows from `first` on make the next block. */
static int32_t block_rows(const struct m2_model *m, const struct plan *p, int32_t first)
{
	const int32_t most = p->to_host - first > m->host_rows ? m->host_rows : m->logits_rows;
	return p->wanted - first < most ? p->wanted - first : most;
}

static cudaError_t run_head(struct m2_model *m, struct m2_cuda_flight *flight, const struct plan *p)
{
	const struct m2_cuda_output out = {.to = m->logits, .stride = m->desc.vocab_rows};
	struct place at = {.item = 0};
	for (int32_t first = 0, n = 0; first < p->wanted; first += n) {
		n = block_rows(m, p, first);
		TRY(m2_cuda_head(m, m->device->steps, m->on_device.wanted + first, n, &out));
		if (p->picks > 0)
			TRY(m2_cuda_pick_rows(m, m->device->steps, first, n));
		for (int32_t i = 0; i < n && first + i < p->to_host; i++)
			TRY(m2_cuda_flight_send(
				m, flight, logits_row(m, i), next_place(m, p->works, &at)));
	}
	return cudaSuccess;
}

static cudaError_t run_kernels(
	struct m2_model *m, struct m2_cuda_flight *flight, const struct plan *p)
{
	const cudaStream_t stream = m->device->steps;
	TRY(cudaMemcpyAsync(m->on_device.count, flight->orders.count, m->orders_bytes,
		cudaMemcpyHostToDevice, stream));
	if (p->rows == 0)
		return cudaSuccess;
	TRY(m2_cuda_layers(m, stream, p->items, p->rows, p->one));
	return run_head(m, flight, p);
}

enum m2_err m2_cuda_step_begin(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	assert(count >= 0 && count <= model->max_items);
	assert(model->begun - model->waited < (uint32_t)M2_STEPS_IN_FLIGHT);
	model->begun++;
	struct m2_cuda_flight *flight = &model->flights[model->begun % M2_STEPS_IN_FLIGHT];
	const struct plan p = plan_step(model, flight, items, count);
	cudaError_t error =
		p.graph != NULL ? run_graph(model, flight, &p) : run_kernels(model, flight, &p);
	if (error == cudaSuccess)
		error = cudaEventRecord(flight->done, model->device->steps);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "a step", why);
}

void m2_cuda_poison(struct m2_model *model)
{
	(void)cudaMemsetAsync(model->buffers, 0xff, model->buffer_bytes,
		model->device->steps); /* NaN everywhere */
}
