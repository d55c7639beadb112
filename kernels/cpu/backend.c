/* backend.c - the cpu backend behind the boundary of kernels/backend.h: device and slots.
 *
 * The instruction set is chosen once, when the device is opened, by what the processor and the
 * system say they can do; a forced one that is missing is refused.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "common/host.h"
#include "kernels/cpu/model.h"

/* ---- device --------------------------------------------------------------------------------- */

static bool has_nothing_special(void)
{
	return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
	unsigned a, b, c, d;
	const bool half = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
	return half && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") &&
	       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("avx512dq");
}
#endif

/* Best first. */
static const struct {
	const struct m2_cpu_kernels *kernels;
	bool (*runs_here)(void);
} sets[] = {
#if defined(__x86_64__)
	{&m2_cpu_kernels_avx512, has_avx512},
	{&m2_cpu_kernels_avx2, has_avx2},
#endif
	{&m2_cpu_kernels_portable, has_nothing_special},
};

static enum m2_err choose(const char *isa, const struct m2_cpu_kernels **out, struct m2_why *why)
{
	const bool any = isa == NULL || strcmp(isa, "auto") == 0;
	for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
		if (!any && strcmp(isa, sets[i].kernels->name) != 0)
			continue;
		if (sets[i].runs_here()) {
			*out = sets[i].kernels;
			return M2_OK;
		}
		if (!any)
			return m2_fail_field(M2_EUNSUPPORTED, why, "isa",
				"this processor or system does not offer %s", isa);
	}
	return m2_fail_field(M2_EUNSUPPORTED, why, "isa",
		"there are no kernels for \"%s\"; there are auto, portable, avx2 and avx512", isa);
}

/* Processors this process may run on, which a cpuset may have made fewer than are online. */
static int32_t processors(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0)
		return CPU_COUNT(&set);
	const long online = sysconf(_SC_NPROCESSORS_ONLN);
	return online > 0 ? (int32_t)online : 1;
}

static enum m2_err device_open(
	const struct m2_device_options *options, struct m2_device **out, struct m2_why *why)
{
	int32_t threads = options->threads == 0 ? processors() : options->threads;
	if (options->threads == 0 && threads > 256)
		threads = 256;
	*out = NULL;
	if (options->ordinal != 0)
		return m2_fail_field(M2_EUNSUPPORTED, why, "device",
			"there is one cpu device, number 0, not %d", options->ordinal);
	if (threads < 1 || threads > 256)
		return m2_fail_field(
			M2_EINVAL, why, "threads", "threads is %d, it must be 0 to 256", threads);
	const struct m2_cpu_kernels *kernels = NULL;
	enum m2_err err = choose(options->isa, &kernels, why);
	if (err != M2_OK)
		return err;
	struct m2_device *device = calloc(1, sizeof *device);
	if (device == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a device");
	device->kernels = kernels;
	device->threads = threads;
	err = m2_pool_create(threads, &device->pool, why);
	if (err != M2_OK) {
		free(device);
		return err;
	}
	*out = device;
	return M2_OK;
}

static void device_close(struct m2_device **device)
{
	struct m2_device *gone = *device;
	*device = NULL;
	if (gone == NULL)
		return;
	m2_pool_destroy(&gone->pool);
	free(gone);
}

static void device_info(struct m2_device *device, struct m2_device_info *out)
{
	memset(out, 0, sizeof *out);
	(void)snprintf(out->name, sizeof out->name, "cpu");
	(void)snprintf(out->path, sizeof out->path, "%s, %d thread%s", device->kernels->name,
		device->threads, device->threads == 1 ? "" : "s");
	out->memory_total = m2_host_memory();
	out->memory_free = m2_host_available();
}

static void describe(struct m2_model *model, char *out, size_t size)
{
	const struct m2_matrix *m = &model->layers[0].in_proj;
	(void)snprintf(out, size, "%s kernels, %s in panels of %d rows, %s prompts",
		model->device->kernels->name, m2_dtype_name(m->dtype), M2_PANEL,
		model->chunked ? "chunked" : "recurrent");
}

/* ---- slots ---------------------------------------------------------------------------------- */

static enum m2_err slot_reset(struct m2_model *model, int32_t slot)
{
	model->picked[slot] = 0;
	memset(m2_cpu_slot(model, slot), 0, model->footprint.per_slot);
	return M2_OK;
}

static enum m2_err slot_copy(struct m2_model *model, int32_t dst, int32_t src)
{
	model->picked[dst] = 0;
	memmove(m2_cpu_slot(model, dst), m2_cpu_slot(model, src), model->footprint.per_slot);
	return M2_OK;
}

static enum m2_err slot_save(struct m2_model *model, int32_t slot, void *dst)
{
	memcpy(dst, m2_cpu_slot(model, slot), model->footprint.per_slot);
	return M2_OK;
}

static enum m2_err slot_restore(struct m2_model *model, int32_t slot, const void *src)
{
	model->picked[slot] = 0;
	memcpy(m2_cpu_slot(model, slot), src, model->footprint.per_slot);
	return M2_OK;
}

/* The state of a head after the `rows` positions in its ring, as replay would write it but in double,
 * from [N][Pp] to [P, N]. */
static void export_head(
	const struct m2_model *model, const float *head, const float *ring, int32_t rows, float *to)
{
	const int32_t P = model->desc.head_dim, N = model->desc.state_size;
	const int32_t Pp = model->padded_dim;
	const float *u = m2_head_u(head, N, Pp);
	const double *sums = m2_head_sums(head, N, Pp);
	const double last = rows > 0 ? sums[rows - 1] : 0.0;
	double left[M2_RING];
	for (int32_t j = 0; j < rows; j++)
		left[j] = exp(last - sums[j]);
	for (int32_t p = 0; p < P; p++) {
		for (int32_t n = 0; n < N; n++) {
			double sum = exp(last) * (double)head[n * Pp + p];
			for (int32_t j = 0; j < rows; j++)
				sum += left[j] * (double)ring[n * M2_RING + j] *
				       (double)u[j * Pp + p];
			*to++ = (float)sum;
		}
	}
}

static void export_layer(const struct m2_model *model, int32_t slot, int32_t layer, float *to)
{
	const int32_t per_group = model->desc.n_heads / model->desc.n_groups;
	const int32_t rows = m2_cpu_slot_head(model, slot)->row;
	const size_t size = (size_t)model->desc.head_dim * (size_t)model->desc.state_size;
	for (int32_t h = 0; h < model->desc.n_heads; h++, to += size)
		export_head(model, m2_cpu_head(model, slot, layer, h),
			m2_cpu_ring(model, slot, layer, h / per_group), rows, to);
}

static enum m2_err slot_export(struct m2_model *model, int32_t slot, float *conv, float *ssm)
{
	const size_t channels = (size_t)m2_desc_conv_channels(&model->desc);
	const size_t kept = (size_t)model->desc.conv_kernel - 1;
	const size_t ssm_size =
		(size_t)m2_desc_d_ssm(&model->desc) * (size_t)model->desc.state_size;

	for (int32_t layer = 0; layer < model->desc.n_layers; layer++) {
		const float *window = m2_cpu_conv_state(model, slot, layer);
		for (size_t j = 0; conv != NULL && j < kept; j++, conv += channels)
			memcpy(conv, window + j * (size_t)model->channel_stride,
				channels * sizeof(float));
		if (ssm != NULL)
			export_layer(model, slot, layer, ssm + (size_t)layer * ssm_size);
	}
	return M2_OK;
}

const struct m2_backend m2_cpu_backend = {
	.name = "cpu",
	.open = device_open,
	.close = device_close,
	.info = device_info,
	.plan = m2_cpu_plan,
	.load = m2_cpu_load,
	.unload = m2_cpu_unload,
	.describe = describe,
	.step = m2_cpu_step,
	.slot_reset = slot_reset,
	.slot_copy = slot_copy,
	.slot_save = slot_save,
	.slot_restore = slot_restore,
	.slot_export = slot_export,
	.poison = m2_cpu_poison,
};
