/* fill.c - weights from their source to their places on the device, piece by piece.
 *
 * Two pinned pieces take turns: while one is on its way over the bus and being packed there, the other
 * is read.  So the host never holds more than two pieces, however large a tensor is.
 */
#include <string.h>

#include "kernels/cuda/model.h"

struct fill {
	struct m2_model *m;
	const struct m2_weight_source *source;
	const struct m2_load_options *options;
	struct m2_why *why;
	uint64_t done;
	int turn;
};

static bool of_model(enum m2_weight which)
{
	return which == M2_W_EMBEDDING || which == M2_W_FINAL_NORM || which == M2_W_HEAD;
}

/* Where a weight goes: a matrix, or a vector of floats. */
static const struct m2_cuda_matrix *matrix_of(
	const struct m2_model *m, const struct m2_cuda_layer *layer, enum m2_weight which)
{
	switch (which) {
	case M2_W_EMBEDDING:
		return &m->embedding;
	case M2_W_HEAD:
		return &m->head;
	case M2_W_IN_PROJ:
		return &layer->in_proj;
	case M2_W_OUT_PROJ:
		return &layer->out_proj;
	default:
		return NULL;
	}
}

static float *vector_of(
	const struct m2_model *m, const struct m2_cuda_layer *layer, enum m2_weight which)
{
	switch (which) {
	case M2_W_FINAL_NORM:
		return m->final_norm;
	case M2_W_NORM:
		return layer->norm;
	case M2_W_IN_BIAS:
		return layer->in_bias;
	case M2_W_CONV:
		return layer->conv;
	case M2_W_CONV_BIAS:
		return layer->conv_bias;
	case M2_W_DT_BIAS:
		return layer->dt_bias;
	case M2_W_A_LOG:
		return layer->a;
	case M2_W_D:
		return layer->d;
	case M2_W_GATED_NORM:
		return layer->gated_norm;
	default:
		return layer->out_bias;
	}
}

/* Elements [first, first + count) of a weight: read, sent, put in place. */
static enum m2_err fill_piece(
	struct fill *f, int32_t index, enum m2_weight which, size_t first, size_t count)
{
	struct m2_device *d = f->m->device;
	const struct m2_cuda_layer *layer = index < 0 ? NULL : &f->m->layers[index];
	const struct m2_cuda_matrix *matrix = matrix_of(f->m, layer, which);
	const enum m2_dtype stored = f->source->dtype(f->source->ctx, index, which);
	const size_t bytes = count * m2_dtype_bytes(stored);
	const int turn = f->turn;
	f->turn = (f->turn + 1) % M2_CUDA_PIECES;
	cudaError_t error = cudaEventSynchronize(d->piece_done[turn]);
	if (error != cudaSuccess)
		return m2_cuda_failed(error, "loading", f->why);
	const enum m2_err err = f->source->read(
		f->source->ctx, index, which, first, count, d->host_piece[turn], f->why);
	if (err != M2_OK)
		return err;
	error = cudaMemcpyAsync(
		d->piece[turn], d->host_piece[turn], bytes, cudaMemcpyHostToDevice, d->loads);
	if (error == cudaSuccess)
		error = matrix != NULL
				? m2_cuda_pack(
					  d->loads, matrix, d->piece[turn], stored, first, count)
				: m2_cuda_widen(d->loads, vector_of(f->m, layer, which) + first,
					  d->piece[turn], stored, count);
	if (error == cudaSuccess)
		error = cudaEventRecord(d->piece_done[turn], d->loads);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "loading", f->why);
}

static enum m2_err fill_weight(struct fill *f, int32_t index, enum m2_weight which)
{
	const size_t n = m2_weight_elements(&f->m->desc, which);
	const size_t piece =
		M2_CUDA_PIECE / m2_dtype_bytes(f->source->dtype(f->source->ctx, index, which));
	const struct m2_cuda_layer *layer = index < 0 ? NULL : &f->m->layers[index];
	const struct m2_cuda_matrix *matrix = matrix_of(f->m, layer, which);
	const size_t size = matrix != NULL ? m2_dtype_bytes(matrix->dtype) : sizeof(float);
	for (size_t first = 0; first < n; first += piece) {
		const size_t count = n - first < piece ? n - first : piece;
		const enum m2_err err = fill_piece(f, index, which, first, count);
		if (err != M2_OK)
			return err;
		f->done += count * size;
		if (f->options->progress != NULL)
			f->options->progress(
				f->options->progress_ctx, f->done, f->m->footprint.weights);
	}
	if (which == M2_W_A_LOG) {
		const cudaError_t error = m2_cuda_fill_a(
			f->m->device->loads, layer->a, f->m->desc.n_heads, f->m->desc.a_given);
		if (error != cudaSuccess)
			return m2_cuda_failed(error, "loading", f->why);
	}
	return M2_OK;
}

enum m2_err m2_cuda_fill(struct m2_model *model, const struct m2_weight_source *source,
	const struct m2_load_options *options, struct m2_why *why)
{
	struct fill f = {.m = model, .source = source, .options = options, .why = why};
	enum m2_err err = M2_OK;
	for (int32_t index = -1; index < model->desc.n_layers && err == M2_OK; index++) {
		for (int w = 0; w < M2_W_COUNT && err == M2_OK; w++) {
			const enum m2_weight which = (enum m2_weight)w;
			if (m2_weight_elements(&model->desc, which) > 0 &&
				of_model(which) == (index < 0))
				err = fill_weight(&f, index, which);
		}
	}
	/* even after a failure: nothing may still be reading the pieces */
	const cudaError_t error = cudaStreamSynchronize(model->device->loads);
	if (err == M2_OK && error != cudaSuccess)
		return m2_cuda_failed(error, "loading", why);
	if (err == M2_OK && options->progress != NULL)
		options->progress(
			options->progress_ctx, model->footprint.weights, model->footprint.weights);
	return err;
}
