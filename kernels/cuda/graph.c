/* graph.c - steps of single tokens as CUDA graphs, made at load: a step is then one launch.
 *
 * What differs from step to step (items, tokens, how many there are) lies in the orders, which the graph
 * itself fetches from the host's pinned memory, from one of two places by turns; so one graph serves every
 * step of up to its number of items, and two of them may be queued.  It goes to the end: layers, logits of
 * every row, picks.  Rows that no item fills compute on some token and touch no state.
 */
#include "kernels/cuda/model.h"

static const int32_t sizes[] = {
	1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, M2_CUDA_GRAPH_ITEMS};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };
_Static_assert((int)N_SIZES <= (int)M2_CUDA_GRAPHS, "each size has a graph");

int32_t m2_cuda_graph_items(int32_t items)
{
	for (int i = 0; i < N_SIZES; i++)
		if (sizes[i] >= items)
			return sizes[i];
	return items; /* more than any graph holds: such steps are launched kernel by kernel */
}

/* Number of 32-bit words from the first of the orders to `at`. */
static int32_t word_of(const struct m2_cuda_orders *o, const void *at)
{
	return (int32_t)((const int32_t *)at - o->count);
}

/* What of the orders a step of single tokens needs. */
static cudaError_t take_orders(const struct m2_model *m, cudaStream_t stream, int32_t items)
{
	const struct m2_cuda_orders *o = &m->on_device;
	const int32_t item_words = (int32_t)(sizeof *o->items / sizeof(int32_t));
	const int32_t pick_words = (int32_t)(sizeof *o->picks / sizeof(int32_t));
	const struct m2_cuda_order_words words = {
		.from = {m->flights[0].orders.count, m->flights[1].orders.count},
		.to = o->count,
		.step = 1,
		.parts = {{0, 2}, {word_of(o, o->items), items * item_words},
			{word_of(o, o->tokens), items}, {word_of(o, o->picks), items * pick_words}},
	};
	return m2_cuda_take_orders(stream, &words);
}

/* The step, onto a stream. */
static cudaError_t enqueue(struct m2_model *m, cudaStream_t stream, int32_t items)
{
	const struct m2_cuda_output logits = {.to = m->logits, .stride = m->desc.vocab_rows};
	cudaError_t error = take_orders(m, stream, items);
	if (error == cudaSuccess)
		error = m2_cuda_layers(m, stream, items, items, true);
	if (error == cudaSuccess)
		error = m2_cuda_head(m, stream, NULL, items, &logits);
	if (error == cudaSuccess)
		error = m2_cuda_pick_rows(m, stream, 0, items);
	return error;
}

static cudaError_t capture(struct m2_model *m, int32_t items, cudaGraphExec_t *exec)
{
	const cudaStream_t stream = m->device->loads; /* another model may be stepping */
	cudaGraph_t graph = NULL;
	cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
	if (error != cudaSuccess)
		return error;
	error = enqueue(m, stream, items);
	const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
	if (error == cudaSuccess)
		error = ended;
	if (error == cudaSuccess)
		error = cudaGraphInstantiate(exec, graph, 0);
	if (graph != NULL)
		(void)cudaGraphDestroy(graph);
	return error;
}

enum m2_err m2_cuda_graphs_create(struct m2_model *model, struct m2_why *why)
{
	const int32_t most = m2_cuda_graph_items(model->max_items);
	for (int i = 0; i < N_SIZES && sizes[i] <= most; i++) {
		struct m2_cuda_graph *g = &model->graphs[model->n_graphs];
		const cudaError_t error = capture(model, sizes[i], &g->exec);
		if (error != cudaSuccess)
			return m2_cuda_failed(error, "capturing a step", why);
		g->items = sizes[i];
		model->n_graphs++;
	}
	return M2_OK;
}

void m2_cuda_graphs_destroy(struct m2_model *model)
{
	while (model->n_graphs > 0)
		(void)cudaGraphExecDestroy(model->graphs[--model->n_graphs].exec);
}
