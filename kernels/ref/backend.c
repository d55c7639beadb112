/* backend.c - the definition behind the boundary of kernels/backend.h.
 *
 * A step is a loop over items and their tokens; there is nothing to share between them, so a
 * sequence's numbers cannot depend on its company or its cuts.
 */
#include "kernels/ref/ref.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/pick.h"
#include "kernels/ref/model.h"

struct m2_device {
	int32_t ordinal;
};

static enum m2_err device_open(
	const struct m2_device_options *options, struct m2_device **out, struct m2_why *why)
{
	if (options->ordinal != 0)
		return m2_fail_field(M2_EUNSUPPORTED, why, "device",
			"there is one reference device, number 0, not %d", options->ordinal);
	*out = calloc(1, sizeof **out);
	return *out != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "no memory for a device");
}

static void device_close(struct m2_device **device)
{
	free(*device);
	*device = NULL;
}

static void device_info(struct m2_device *device, struct m2_device_info *out)
{
	(void)device;
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	memset(out, 0, sizeof *out);
	(void)snprintf(out->name, sizeof out->name, "%s", M2_REF_NAME);
	(void)snprintf(out->path, sizeof out->path, "plain loops, f%zu", 8 * sizeof(m2_real));
	out->memory_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * page;
	out->memory_free = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * page;
}

static void describe(struct m2_model *model, char *out, size_t size)
{
	(void)model;
	(void)snprintf(out, size, "the definition, token by token");
}

static enum m2_err step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	(void)why;
	const size_t vocab = (size_t)model->desc.vocab_rows;
	for (int32_t i = 0; i < count; i++) {
		const struct m2_work *item = &items[i];
		int32_t *last = &model->picks[item->slot];
		float *logits = NULL;
		assert(!item->from_pick || (item->n_tokens == 1 && *last >= 0));
		for (int32_t t = 0; t < item->n_tokens; t++) {
			if (t >= item->logits_first)
				logits = item->logits + (size_t)(t - item->logits_first) * vocab;
			else
				logits = item->pick != NULL && t == item->n_tokens - 1 ? model->row
										       : NULL;
			M2_REF(forward)
			(model, item->slot, item->from_pick ? *last : item->tokens[t], logits);
		}
		if (item->pick != NULL)
			m2_pick_row(
				logits, m2_pick_limit(item, model->desc.vocab_rows), item->pick);
		*last = item->pick != NULL ? item->pick->token : -1;
	}
	return M2_OK;
}

static enum m2_err slot_reset(struct m2_model *model, int32_t slot)
{
	model->picks[slot] = -1;
	memset(M2_REF(conv_state)(model, slot, 0), 0,
		M2_REF(slot_elements)(model) * sizeof(m2_real));
	return M2_OK;
}

static enum m2_err slot_copy(struct m2_model *model, int32_t dst, int32_t src)
{
	model->picks[dst] = -1;
	memmove(M2_REF(conv_state)(model, dst, 0), M2_REF(conv_state)(model, src, 0),
		M2_REF(slot_elements)(model) * sizeof(m2_real));
	return M2_OK;
}

static enum m2_err slot_save(struct m2_model *model, int32_t slot, void *dst)
{
	memcpy(dst, M2_REF(conv_state)(model, slot, 0),
		M2_REF(slot_elements)(model) * sizeof(m2_real));
	return M2_OK;
}

static enum m2_err slot_restore(struct m2_model *model, int32_t slot, const void *src)
{
	model->picks[slot] = -1;
	memcpy(M2_REF(conv_state)(model, slot, 0), src,
		M2_REF(slot_elements)(model) * sizeof(m2_real));
	return M2_OK;
}

static enum m2_err slot_export(struct m2_model *model, int32_t slot, float *conv, float *ssm)
{
	const size_t layers = (size_t)model->desc.n_layers;
	const m2_real *from_conv = M2_REF(conv_state)(model, slot, 0);
	const m2_real *from_ssm = M2_REF(ssm_state)(model, slot, 0);
	for (size_t i = 0; conv != NULL && i < layers * model->conv_elements; i++)
		conv[i] = (float)from_conv[i];
	for (size_t i = 0; ssm != NULL && i < layers * model->ssm_elements; i++)
		ssm[i] = (float)from_ssm[i];
	return M2_OK;
}

const struct m2_backend M2_REF(backend) = {
	.name = M2_REF_NAME,
	.open = device_open,
	.close = device_close,
	.info = device_info,
	.plan = M2_REF(plan),
	.load = M2_REF(load),
	.unload = M2_REF(unload),
	.describe = describe,
	.step = step,
	.slot_reset = slot_reset,
	.slot_copy = slot_copy,
	.slot_save = slot_save,
	.slot_restore = slot_restore,
	.slot_export = slot_export,
};
