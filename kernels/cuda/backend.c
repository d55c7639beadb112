/* backend.c - the CUDA backend behind the boundary of kernels/backend.h: device and slots.
 *
 * One thread owns the device (the worker's step thread); loads run beside it on a stream of their own.
 * An error of the device is M2_EDEVICE and final: a poisoned context cannot be healed inside a process.
 */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/model.h"

enum m2_err m2_cuda_failed(cudaError_t error, const char *what, struct m2_why *why)
{
	return m2_fail(M2_EDEVICE, why, "cuda: %s: %s (%s)", what, cudaGetErrorString(error),
		cudaGetErrorName(error));
}

/* ---- device --------------------------------------------------------------------------------- */

static enum m2_err check_device(int32_t ordinal, struct m2_why *why)
{
	int count = 0;
	const cudaError_t error = cudaGetDeviceCount(&count);
	if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver)
		return m2_fail_field(M2_EUNSUPPORTED, why, "device",
			"cuda:%d: %s: is the NVIDIA driver loaded, and may user id see "
			"/dev/nvidia*?",
			(int)ordinal, cudaGetErrorString(error));
	if (error != cudaSuccess)
		return m2_cuda_failed(error, "looking for devices", why);
	if (ordinal < 0 || ordinal >= count)
		return m2_fail_field(M2_EUNSUPPORTED, why, "device",
			"cuda:%d: there %s %d CUDA device%s here", (int)ordinal,
			count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
	return M2_OK;
}

static cudaError_t make_streams(struct m2_device *d)
{
	cudaError_t error = cudaStreamCreateWithFlags(&d->steps, cudaStreamNonBlocking);
	if (error == cudaSuccess)
		error = cudaStreamCreateWithFlags(&d->loads, cudaStreamNonBlocking);
	for (int i = 0; i < M2_CUDA_PIECES && error == cudaSuccess; i++) {
		error = cudaMallocHost(&d->host_piece[i], M2_CUDA_PIECE);
		if (error == cudaSuccess)
			error = cudaMalloc(&d->piece[i], M2_CUDA_PIECE);
		if (error == cudaSuccess)
			error = cudaEventCreateWithFlags(&d->piece_done[i], cudaEventDisableTiming);
	}
	return error;
}

static void device_close(struct m2_device **device)
{
	struct m2_device *d = *device;
	*device = NULL;
	if (d == NULL)
		return;
	for (int i = 0; i < M2_CUDA_PIECES; i++) {
		if (d->piece_done[i] != NULL)
			(void)cudaEventDestroy(d->piece_done[i]);
		(void)cudaFree(d->piece[i]);
		(void)cudaFreeHost(d->host_piece[i]);
	}
	if (d->loads != NULL)
		(void)cudaStreamDestroy(d->loads);
	if (d->steps != NULL)
		(void)cudaStreamDestroy(d->steps);
	(void)pthread_mutex_destroy(&d->load_lock);
	free(d);
}

static enum m2_err device_open(
	const struct m2_device_options *options, struct m2_device **out, struct m2_why *why)
{
	struct cudaDeviceProp properties;
	*out = NULL;
	enum m2_err err = check_device(options->ordinal, why);
	if (err != M2_OK)
		return err;
	cudaError_t error = cudaSetDevice(options->ordinal);
	if (error == cudaSuccess)
		error = cudaGetDeviceProperties(&properties, options->ordinal);
	if (error != cudaSuccess)
		return m2_cuda_failed(error, "opening the device", why);
	if (properties.major < 8)
		return m2_fail_field(M2_EUNSUPPORTED, why, "device",
			"cuda:%d is a %.60s of compute capability %d.%d; 8.0 (Ampere) is needed",
			(int)options->ordinal, properties.name, properties.major, properties.minor);
	struct m2_device *d = calloc(1, sizeof *d);
	if (d == NULL || pthread_mutex_init(&d->load_lock, NULL) != 0) {
		free(d);
		return m2_fail(M2_ENOMEM, why, "no memory for a device");
	}
	d->ordinal = options->ordinal;
	(void)snprintf(d->name, sizeof d->name, "%.63s", properties.name);
	error = make_streams(d);
	if (error != cudaSuccess) {
		err = m2_cuda_failed(error, "making streams and buffers", why);
		device_close(&d);
		return err;
	}
	*out = d;
	return M2_OK;
}

static void device_info(struct m2_device *device, struct m2_device_info *out)
{
	size_t free_bytes = 0, total = 0;
	memset(out, 0, sizeof *out);
	(void)snprintf(out->name, sizeof out->name, "%s", device->name);
	(void)snprintf(out->path, sizeof out->path, "cuda:%d", (int)device->ordinal);
	(void)cudaSetDevice(device->ordinal);
	if (cudaMemGetInfo(&free_bytes, &total) == cudaSuccess) {
		out->memory_total = total;
		out->memory_free = free_bytes;
	}
}

/* What the driver's module makes, or lets a virtual machine's guest see. */
static bool present(void)
{
	return access("/dev/nvidiactl", F_OK) == 0 || access("/dev/nvidia0", F_OK) == 0 ||
	       access("/dev/dxg", F_OK) == 0;
}

static void describe(struct m2_model *model, char *out, size_t size)
{
	(void)snprintf(out, size, "%s",
		model->tuned ? "tuned: fused decode, chunked prompts on tensor cores, graphs"
			     : "plain kernels, token by token, graphs");
}

/* ---- slots ---------------------------------------------------------------------------------- */

static size_t state_bytes(const struct m2_model *m)
{
	return m->slot_floats * sizeof(float);
}

/* A copy or a fill on the steps' stream, waited for. */
static enum m2_err finish(struct m2_model *m, cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		error = cudaStreamSynchronize(m->device->steps);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, what, NULL);
}

static enum m2_err slot_reset(struct m2_model *model, int32_t slot)
{
	model->position[slot] = 0;
	model->picked[slot] = false;
	/* the next step runs behind it on the same stream: no need to wait */
	const cudaError_t error = cudaMemsetAsync(
		m2_cuda_slot(model, slot), 0, state_bytes(model), model->device->steps);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "clearing a slot", NULL);
}

static enum m2_err slot_copy(struct m2_model *model, int32_t dst, int32_t src)
{
	if (dst == src)
		return M2_OK;
	model->position[dst] = model->position[src];
	model->picked[dst] = false;
	const cudaError_t error =
		cudaMemcpyAsync(m2_cuda_slot(model, dst), m2_cuda_slot(model, src),
			state_bytes(model), cudaMemcpyDeviceToDevice, model->device->steps);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "copying a slot", NULL);
}

/* The saved bytes are the state and then where it stands. */
static enum m2_err slot_save(struct m2_model *model, int32_t slot, void *dst)
{
	memcpy((char *)dst + state_bytes(model), &model->position[slot], sizeof(int64_t));
	return finish(model,
		cudaMemcpyAsync(dst, m2_cuda_slot(model, slot), state_bytes(model),
			cudaMemcpyDeviceToHost, model->device->steps),
		"saving a slot");
}

static enum m2_err slot_restore(struct m2_model *model, int32_t slot, const void *src)
{
	memcpy(&model->position[slot], (const char *)src + state_bytes(model), sizeof(int64_t));
	model->picked[slot] = false;
	return finish(model,
		cudaMemcpyAsync(m2_cuda_slot(model, slot), src, state_bytes(model),
			cudaMemcpyHostToDevice, model->device->steps),
		"restoring a slot");
}

/* The ring's last K-1 columns, oldest first. */
static void export_ring(const struct m2_model *m, int64_t position, const float *ring, float *conv)
{
	const size_t channels = (size_t)m2_desc_conv_channels(&m->desc);
	const int64_t taps = m->desc.conv_kernel;
	for (int64_t j = 0; j < taps - 1; j++) {
		const int64_t column = (position - (taps - 1) + j + taps) % taps;
		memcpy(conv + (size_t)j * channels, ring + (size_t)column * channels,
			channels * sizeof(float));
	}
}

/* What the `held` tokens of a window would add to a layer's state, as replay.cuh folds it, for one head. */
static void fold_head(
	const struct m2_model_desc *d, const float *held, int32_t h, int32_t n_held, float *state)
{
	const size_t n = (size_t)d->state_size, width = (size_t)d->head_dim;
	const size_t most = M2_CUDA_WINDOW - 1, group = (size_t)(h / (d->n_heads / d->n_groups));
	const float *x = held + (size_t)h * most * width;
	const float *b = held + (size_t)m2_desc_d_ssm(d) * most + group * most * n;
	const float *steps = held + ((size_t)m2_desc_d_ssm(d) + (size_t)d->n_groups * n) * most +
			     (size_t)h * M2_CUDA_WINDOW * 2;
	float weights[M2_CUDA_WINDOW], all = 1.0f;
	for (int32_t j = 0; j < n_held; j++) {
		weights[j] = steps[2 * j];
		all *= steps[2 * j + 1];
		for (int32_t i = 0; i < j; i++)
			weights[i] *= steps[2 * j + 1];
	}
	for (size_t i = 0; i < width * n; i++) {
		float sum = all * state[i];
		for (int32_t j = 0; j < n_held; j++)
			sum = fmaf(weights[j] * x[(size_t)j * width + i / n],
				b[(size_t)j * n + i % n], sum);
		state[i] = sum;
	}
}

/* The state of layer i after all of the slot's tokens. */
static void export_ssm(
	const struct m2_model *m, int64_t position, const float *slot, size_t i, float *ssm)
{
	const size_t layers = (size_t)m->desc.n_layers;
	const float *state = slot + layers * m->ring_floats + i * m->ssm_floats;
	const float *held = slot + layers * (m->ring_floats + m->ssm_floats) + i * m->held_floats;
	const size_t head = (size_t)m->desc.head_dim * (size_t)m->desc.state_size;
	const int32_t n_held = m->tuned ? (int32_t)(position % M2_CUDA_WINDOW) : 0;
	memcpy(ssm, state, m->ssm_floats * sizeof(float));
	for (int32_t h = 0; h < m->desc.n_heads && n_held > 0; h++)
		fold_head(&m->desc, held, h, n_held, ssm + (size_t)h * head);
}

static enum m2_err slot_export(struct m2_model *model, int32_t slot, float *conv, float *ssm)
{
	const size_t layers = (size_t)model->desc.n_layers;
	const size_t kept =
		(size_t)(model->desc.conv_kernel - 1) * (size_t)m2_desc_conv_channels(&model->desc);
	char *host = malloc(state_bytes(model) + sizeof(int64_t));
	if (host == NULL)
		return M2_ENOMEM;
	const enum m2_err err = slot_save(model, slot, host);
	const float *state = (const float *)(const void *)host;
	for (size_t i = 0; i < layers && err == M2_OK; i++) {
		if (conv != NULL)
			export_ring(model, model->position[slot], state + i * model->ring_floats,
				conv + i * kept);
		if (ssm != NULL)
			export_ssm(model, model->position[slot], state, i,
				ssm + i * model->ssm_floats);
	}
	free(host);
	return err;
}

/* ---- what the device can do ------------------------------------------------------------------ */

static enum m2_err device_measure(struct m2_device *device, double *bytes_per_second,
	double *operations_per_second, struct m2_why *why)
{
	const size_t bytes = (size_t)1 << 31;
	void *memory = NULL;
	cudaError_t error = cudaSetDevice(device->ordinal);
	if (error == cudaSuccess)
		error = cudaMalloc(&memory, bytes);
	if (error == cudaSuccess)
		error = cudaMemsetAsync(memory, 0, bytes, device->steps);
	if (error == cudaSuccess)
		error = m2_cuda_measure_reading(device->steps, memory, bytes, bytes_per_second);
	if (error == cudaSuccess)
		error = m2_cuda_measure_products(device->steps, memory, operations_per_second);
	(void)cudaFree(memory);
	if (error == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError(); /* not sticky: the device is well */
		return m2_fail(
			M2_ENOMEM, why, "measuring takes %zu bytes of the device's memory", bytes);
	}
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "measuring the device", why);
}

extern const struct m2_backend m2_cuda_backend;
__attribute__((visibility("default"))) const struct m2_backend m2_cuda_backend = {
	.bytes = sizeof(struct m2_backend),
	.name = "cuda",
	.owns_memory = true,
	.present = present,
	.open = device_open,
	.close = device_close,
	.info = device_info,
	.plan = m2_cuda_plan,
	.load = m2_cuda_load,
	.unload = m2_cuda_unload,
	.describe = describe,
	.park = m2_cuda_park,
	.unpark = m2_cuda_unpark,
	.step = m2_cuda_step,
	.step_begin = m2_cuda_step_begin,
	.step_wait = m2_cuda_step_wait,
	.slot_reset = slot_reset,
	.slot_copy = slot_copy,
	.slot_save = slot_save,
	.slot_restore = slot_restore,
	.slot_export = slot_export,
	.poison = m2_cuda_poison,
	.measure = device_measure,
};
