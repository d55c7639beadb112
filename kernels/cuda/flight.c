/* flight.c - steps on their way: what the host keeps of one from begin to wait.
 *
 * Two steps may be queued; each has pinned memory of its own for its orders and for what comes back, so
 * that the host writes the next step's while the device still reads the last one's.  The device writes
 * picks into pinned memory itself; logits are copied, and an event behind it all says when they are there.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/model.h"

static size_t row_floats(const struct m2_model *m)
{
	return (size_t)m->desc.vocab_rows;
}

static cudaError_t flight_create(const struct m2_model *m, struct m2_cuda_flight *f)
{
	const size_t items = (size_t)m2_cuda_graph_items(m->max_items);
	char *orders = NULL;
	f->picks_to = calloc(items, sizeof(struct m2_pick *));
	f->logits_to = calloc((size_t)m->host_rows, sizeof(float *));
	if (f->picks_to == NULL || f->logits_to == NULL)
		return cudaErrorMemoryAllocation;
	cudaError_t error = cudaMallocHost((void **)&orders, m->orders_bytes);
	if (error == cudaSuccess) {
		size_t bytes = 0;
		memset(orders, 0, m->orders_bytes); /* token 0 in rows that no item fills */
		f->orders = m2_cuda_orders_at(m, orders, &bytes);
		assert(bytes == m->orders_bytes);
		error = cudaMallocHost((void **)&f->picks, items * sizeof *f->picks);
	}
	if (error == cudaSuccess)
		error = cudaMallocHost(
			(void **)&f->logits, (size_t)m->host_rows * row_floats(m) * sizeof(float));
	if (error == cudaSuccess)
		error = cudaEventCreateWithFlags(&f->done, cudaEventDisableTiming);
	return error;
}

cudaError_t m2_cuda_flights_create(struct m2_model *model)
{
	cudaError_t error = cudaSuccess;
	for (int i = 0; i < M2_STEPS_IN_FLIGHT && error == cudaSuccess; i++)
		error = flight_create(model, &model->flights[i]);
	return error;
}

void m2_cuda_flights_destroy(struct m2_model *model)
{
	for (int i = 0; i < M2_STEPS_IN_FLIGHT; i++) {
		struct m2_cuda_flight *f = &model->flights[i];
		if (f->done != NULL) {
			(void)cudaEventSynchronize(f->done);
			(void)cudaEventDestroy(f->done);
		}
		(void)cudaFreeHost(f->orders.count);
		(void)cudaFreeHost(f->picks);
		(void)cudaFreeHost(f->logits);
		free(f->picks_to);
		free(f->logits_to);
		*f = (struct m2_cuda_flight){.items = 0};
	}
}

/* From pinned memory to the caller's. */
static void take_logits(const struct m2_model *m, struct m2_cuda_flight *f)
{
	for (int32_t i = 0; i < f->logits_sent; i++)
		memcpy(f->logits_to[i], f->logits + (size_t)i * row_floats(m),
			row_floats(m) * sizeof(float));
	f->logits_sent = 0;
}

cudaError_t m2_cuda_flight_send(
	struct m2_model *model, struct m2_cuda_flight *flight, const float *row, float *to)
{
	const cudaStream_t stream = model->device->steps;
	if (flight->logits_sent == model->host_rows) {
		const cudaError_t error = cudaStreamSynchronize(stream);
		if (error != cudaSuccess)
			return error;
		take_logits(model, flight);
	}
	const int32_t at = flight->logits_sent++;
	flight->logits_to[at] = to;
	return cudaMemcpyAsync(flight->logits + (size_t)at * row_floats(model), row,
		row_floats(model) * sizeof(float), cudaMemcpyDeviceToHost, stream);
}

enum m2_err m2_cuda_step_wait(struct m2_model *model, struct m2_why *why)
{
	assert(model->begun != model->waited);
	model->waited++;
	struct m2_cuda_flight *flight = &model->flights[model->waited % M2_STEPS_IN_FLIGHT];
	const cudaError_t error = cudaEventSynchronize(flight->done);
	if (error != cudaSuccess)
		return m2_cuda_failed(error, "a step", why);
	for (int32_t i = 0; i < flight->items; i++)
		if (flight->picks_to[i] != NULL)
			*flight->picks_to[i] = flight->picks[i];
	take_logits(model, flight);
	return M2_OK;
}

enum m2_err m2_cuda_step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	assert(model->begun == model->waited);
	if (count == 0)
		return M2_OK;
	const enum m2_err err = m2_cuda_step_begin(model, items, count, why);
	return err == M2_OK ? m2_cuda_step_wait(model, why) : err;
}
