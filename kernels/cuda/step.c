/* step.c - one step: all items' tokens through all layers, as a sequence of kernels on one stream.
 *
 * The tokens of all items form one batch of rows, so a weight is read once per step.  What is to be done
 * travels to the device in one copy; logits come back in blocks of rows through pinned memory.
 */
#include <assert.h>
#include <string.h>

#include "kernels/cuda/model.h"

struct plan {
	int32_t items;
	int32_t rows;
	int32_t wanted;
	bool one; /* every item is a single token */
};

static struct plan plan_step(struct m2_model *m, const struct m2_work *works, int32_t count)
{
	const struct m2_cuda_orders *o = &m->on_host;
	struct plan p = {.items = count, .one = true};
	*o->count = count;
	for (int32_t i = 0; i < count; i++) {
		const struct m2_work *work = &works[i];
		const int32_t n = work->n_tokens;
		assert(work->slot >= 0 && work->slot < m->slots && n >= 1);
		assert(n <= m->max_tokens - p.rows);
		assert(m->position[work->slot] == work->position);
		o->items[i] = (struct m2_cuda_item){
			.slot = work->slot,
			.first = p.rows,
			.tokens = n,
			.lead = n,
			.into_ring = (int32_t)(work->position % m->desc.conv_kernel),
		};
		m->position[work->slot] += n;
		for (int32_t t = 0; t < n; t++) {
			assert(work->tokens[t] >= 0 && work->tokens[t] < m->desc.vocab_rows);
			o->tokens[p.rows + t] = work->tokens[t];
			o->row_item[p.rows + t] = i;
			if (t >= work->logits_first)
				o->wanted[p.wanted++] = p.rows + t;
		}
		p.rows += n;
		p.one = p.one && n == 1;
	}
	return p;
}

#define TRY(call)                                                                                  \
	do {                                                                                       \
		const cudaError_t try_error = (call);                                              \
		if (try_error != cudaSuccess)                                                      \
			return try_error;                                                          \
	} while (0)

static const struct m2_cuda_graph *graph_for(const struct m2_model *m, const struct plan *p)
{
	for (int32_t i = 0; p->one && i < m->n_graphs; i++)
		if (m->graphs[i].items >= p->items)
			return &m->graphs[i];
	return NULL;
}

static cudaError_t layers_step(struct m2_model *m, const struct plan *p)
{
	const struct m2_cuda_graph *graph = graph_for(m, p);
	if (graph != NULL)
		return cudaGraphLaunch(graph->exec, m->device->steps);
	return m2_cuda_layers(m, m->device->steps, p->items, p->rows, p->one);
}

/* Logits of wanted rows [first, first + n) to pinned memory. */
static cudaError_t logits_step(struct m2_model *m, int32_t first, int32_t n)
{
	const cudaStream_t stream = m->device->steps;
	const size_t row_bytes = (size_t)m->desc.vocab_rows * sizeof(float);
	const struct m2_cuda_output out = {.to = m->logits, .stride = m->desc.vocab_rows};
	TRY(m2_cuda_head(m, stream, m->on_device.wanted + first, n, &out));
	TRY(cudaMemcpyAsync(
		m->host_logits, m->logits, (size_t)n * row_bytes, cudaMemcpyDeviceToHost, stream));
	return cudaStreamSynchronize(stream);
}

/* Where logits go, row after row in the order of `wanted`. */
struct place {
	int32_t item;
	int32_t row;
};

static float *next_place(const struct m2_model *m, const struct m2_work *works, struct place *at)
{
	while (at->row == works[at->item].n_tokens - works[at->item].logits_first)
		*at = (struct place){.item = at->item + 1};
	return works[at->item].logits + (size_t)at->row++ * (size_t)m->desc.vocab_rows;
}

enum m2_err m2_cuda_step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	assert(count >= 0 && count <= model->max_items);
	if (count == 0)
		return M2_OK;
	const size_t row_bytes = (size_t)model->desc.vocab_rows * sizeof(float);
	const struct plan p = plan_step(model, items, count);
	struct place at = {.item = 0};
	cudaError_t error = layers_step(model, &p);
	for (int32_t first = 0; first < p.wanted && error == cudaSuccess;
		first += model->logits_rows) {
		const int32_t left = p.wanted - first;
		const int32_t n = left < model->logits_rows ? left : model->logits_rows;
		error = logits_step(model, first, n);
		for (int32_t i = 0; i < n && error == cudaSuccess; i++)
			memcpy(next_place(model, items, &at),
				(const char *)model->host_logits + (size_t)i * row_bytes,
				row_bytes);
	}
	if (error == cudaSuccess)
		error = cudaStreamSynchronize(model->device->steps);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "a step", why);
}

void m2_cuda_poison(struct m2_model *model)
{
	(void)cudaMemsetAsync(model->buffers, 0xff, model->buffer_bytes,
		model->device->steps); /* NaN everywhere */
}
