/* fake_cuda.c - a device named "cuda" that is the processor, and fails, hangs and lies on a test's word.
 *
 * It is found as the real one is, as libmamba2-cuda.so beside the program, and runs steps ahead as that does
 * (tests/unit/late_backend.h).  "auto" passes it by unless the rule `present` is set.  What it does beyond the cpu
 * backend that it wraps is told by page.h's rules in the file "device": errors are numbers of enum m2_err, or
 * HANG.  At the first step of every sequence it looks whether the slot's state is zero, and counts it
 * under `clean` or `dirty`: nothing of one user may be there when the next one's begins.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/system/faults/page.h"
#include "tests/unit/late_backend.h"

__attribute__((visibility("default"))) extern struct m2_backend m2_cuda_backend;

static struct rule *rules;
static const struct m2_backend *cpu;
static _Atomic uint64_t used; /* bytes, by what is loaded and not parked */

/* A model of the processor, and what is needed to do without it for a while: parked, it is unloaded there, and its
 * weights are this copy of them, which is read when it is loaded. */
struct m2_model {
	struct m2_model *own; /* the processor's; NULL: parked */
	struct m2_device *device;
	struct m2_model_desc desc;
	struct m2_load_options options;
	struct kept {
		enum m2_dtype dtype;
		char *bytes;
	} * weights; /* [n_layers + 1][M2_W_COUNT], the model's own first */
	struct m2_footprint footprint;
	/* buffers to look into slots with; by the thread that owns the device */
	float *conv, *ssm;
	size_t n_conv, n_ssm;
};

__attribute__((constructor)) static void find_page(void)
{
	char path[512];
	const char *directory = getenv("M2_FAULTS");
	(void)snprintf(path, sizeof path, "%s/device", directory != NULL ? directory : "");
	const int fd = open(path, O_RDWR | O_CLOEXEC);
	void *page = fd < 0 ? MAP_FAILED
			    : mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE,
				      MAP_SHARED, fd, 0);
	if (fd >= 0)
		(void)close(fd);
	if (page != MAP_FAILED)
		rules = page;
	if (m2_backend_find("cpu", &cpu, NULL) != M2_OK)
		return;
	/* what is not overridden below is the processor's */
	const struct m2_backend mine = m2_cuda_backend;
	m2_cuda_backend = *cpu;
	m2_cuda_backend.bytes = mine.bytes;
	m2_cuda_backend.name = mine.name;
	m2_cuda_backend.open = mine.open;
	m2_cuda_backend.info = mine.info;
	m2_cuda_backend.load = mine.load;
	m2_cuda_backend.unload = mine.unload;
	m2_cuda_backend.park = mine.park;
	m2_cuda_backend.unpark = mine.unpark;
	m2_cuda_backend.step = mine.step;
	m2_cuda_backend.step_begin = mine.step_begin;
	m2_cuda_backend.step_wait = mine.step_wait;
	m2_cuda_backend.owns_memory = mine.owns_memory;
	m2_cuda_backend.present = mine.present;
	m2_cuda_backend.describe = mine.describe;
	m2_cuda_backend.slot_reset = mine.slot_reset;
	m2_cuda_backend.slot_copy = mine.slot_copy;
	m2_cuda_backend.slot_save = mine.slot_save;
	m2_cuda_backend.slot_restore = mine.slot_restore;
	m2_cuda_backend.slot_export = mine.slot_export;
	m2_cuda_backend.poison = NULL;
}

static enum m2_err fail_if(enum rule_number which, const char *what, struct m2_why *why)
{
	const int error = rule_fires(rules, which);
	while (error == HANG) /* until the process is killed */
		(void)poll(NULL, 0, -1);
	if (error == 0)
		return M2_OK;
	return m2_fail(m2_err_from_number(error), why, "the pretended device fails at %s", what);
}

static enum m2_err open_device(
	const struct m2_device_options *options, struct m2_device **out, struct m2_why *why)
{
	struct m2_device_options own = *options;
	own.ordinal = 0;
	own.threads = 1;
	const enum m2_err err = fail_if(RULE_open_device, "open", why);
	return err != M2_OK ? err : cpu->open(&own, out, why);
}

static void info(struct m2_device *device, struct m2_device_info *out)
{
	cpu->info(device, out);
	(void)snprintf(out->name, sizeof out->name, "pretended");
	out->memory_total = UINT64_C(4) << 30;
	const uint64_t taken = atomic_load(&used), room = UINT64_C(3) << 30;
	out->memory_free = taken < room ? room - taken : 1;
	const int mib = rule_fires(rules, RULE_memory_free);
	if (mib > 0)
		out->memory_free = (uint64_t)mib << 20;
}

/* ---- weights, kept ------------------------------------------------------------------------------ */

static struct kept *kept_of(const struct m2_model *m, int layer, enum m2_weight which)
{
	return &m->weights[(layer + 1) * M2_W_COUNT + (int)which];
}

static enum m2_dtype kept_dtype(void *ctx, int layer, enum m2_weight which)
{
	return kept_of(ctx, layer, which)->dtype;
}

static enum m2_err kept_read(void *ctx, int layer, enum m2_weight which, size_t first, size_t count,
	void *dst, struct m2_why *why)
{
	const struct kept *k = kept_of(ctx, layer, which);
	const size_t size = m2_dtype_bytes(k->dtype);
	(void)why;
	memcpy(dst, k->bytes + first * size, count * size);
	return M2_OK;
}

static bool of_model(int which)
{
	return which == M2_W_EMBEDDING || which == M2_W_FINAL_NORM || which == M2_W_HEAD;
}

static enum m2_err keep_one(struct m2_model *m, const struct m2_weight_source *source, int layer,
	enum m2_weight which, struct m2_why *why)
{
	struct kept *k = kept_of(m, layer, which);
	const size_t n = m2_weight_elements(&m->desc, which);
	if (n == 0 || of_model((int)which) != (layer < 0))
		return M2_OK;
	k->dtype = source->dtype(source->ctx, layer, which);
	k->bytes = malloc(n * m2_dtype_bytes(k->dtype));
	if (k->bytes == NULL)
		return m2_fail(M2_ENOMEM, why, "the pretended device has no memory for weights");
	return source->read(source->ctx, layer, which, 0, n, k->bytes, why);
}

static enum m2_err keep(
	struct m2_model *m, const struct m2_weight_source *source, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	for (int layer = -1; layer < m->desc.n_layers; layer++)
		for (int which = 0; which < M2_W_COUNT && err == M2_OK; which++)
			err = keep_one(m, source, layer, (enum m2_weight)which, why);
	return err;
}

/* ---- models ------------------------------------------------------------------------------------- */

static uint64_t taken_by(const struct m2_model *m)
{
	return m->footprint.weights + m->footprint.state + m->footprint.workspace;
}

static void unload_own(struct m2_model *m)
{
	if (m->own == NULL)
		return;
	cpu->unload(&m->own);
	(void)atomic_fetch_sub(&used, taken_by(m));
}

static void destroy(struct m2_model *m)
{
	const int n = m->weights != NULL ? (m->desc.n_layers + 1) * M2_W_COUNT : 0;
	for (int i = 0; i < n; i++)
		free(m->weights[i].bytes);
	unload_own(m);
	free(m->weights);
	free(m->conv);
	free(m->ssm);
	free(m);
}

static enum m2_err load_own(struct m2_model *m, struct m2_why *why)
{
	const struct m2_weight_source source = {.ctx = m, .dtype = kept_dtype, .read = kept_read};
	const enum m2_err err = cpu->load(m->device, &m->desc, &source, &m->options, &m->own, why);
	if (err == M2_OK)
		(void)atomic_fetch_add(&used, taken_by(m));
	return err;
}

static enum m2_err load(struct m2_device *device, const struct m2_model_desc *desc,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why)
{
	enum m2_err err = fail_if(RULE_load, "load", why);
	if (err != M2_OK)
		return err;
	struct m2_model *m = calloc(1, sizeof *m);
	if (m == NULL)
		return m2_fail(M2_ENOMEM, why, "the pretended device has no memory for a model");
	m->device = device;
	m->desc = *desc;
	m->options = *options;
	m->weights = calloc((size_t)(desc->n_layers + 1) * M2_W_COUNT, sizeof *m->weights);
	m->n_conv = (size_t)desc->n_layers * (size_t)(desc->conv_kernel - 1) *
		    (size_t)m2_desc_conv_channels(desc);
	m->n_ssm = (size_t)desc->n_layers * (size_t)m2_desc_d_ssm(desc) * (size_t)desc->state_size;
	m->conv = calloc(m->n_conv + 1, sizeof(float));
	m->ssm = calloc(m->n_ssm + 1, sizeof(float));
	if (m->weights == NULL || m->conv == NULL || m->ssm == NULL)
		err = m2_fail(M2_ENOMEM, why, "the pretended device has no memory for a model");
	if (err == M2_OK)
		err = cpu->plan(device, desc, source, options, &m->footprint, why);
	if (err == M2_OK)
		err = keep(m, source, why);
	if (err == M2_OK)
		err = load_own(m, why);
	m->options.progress = NULL; /* whoever it told is gone after this */
	if (err != M2_OK)
		destroy(m);
	else
		*out = m;
	return err;
}

static void unload(struct m2_model **model)
{
	(void)fail_if(RULE_unload, "unload", NULL);
	destroy(*model);
	*model = NULL;
}

static bool present(void)
{
	return rule_fires(rules, RULE_present) != 0;
}

static void describe(struct m2_model *model, char *out, size_t size)
{
	(void)model;
	(void)snprintf(out, size, "pretended, a step ahead");
}

static enum m2_err park(struct m2_model *m, uint64_t *host_bytes, struct m2_why *why)
{
	const enum m2_err err = fail_if(RULE_park, "park", why);
	if (err != M2_OK)
		return err;
	unload_own(m);
	*host_bytes = m->footprint.weights;
	return M2_OK;
}

static enum m2_err unpark(struct m2_model *m, struct m2_why *why)
{
	const enum m2_err err = fail_if(RULE_unpark, "unpark", why);
	return err != M2_OK ? err : load_own(m, why);
}

/* ---- steps and slots ---------------------------------------------------------------------------- */

static bool is_zero(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (x[i] != 0)
			return false;
	return true;
}

static void look_into(struct m2_model *m, int32_t slot)
{
	if (rules == NULL)
		return;
	const bool seen = cpu->slot_export(m->own, slot, m->conv, m->ssm) == M2_OK;
	const bool zero = seen && is_zero(m->conv, m->n_conv) && is_zero(m->ssm, m->n_ssm);
	(void)atomic_fetch_add(&rules[zero ? RULE_clean : RULE_dirty].fired, 1);
}

static enum m2_err step(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	bool first = false;
	for (int32_t i = 0; i < count; i++) {
		if (items[i].position != 0)
			continue;
		first = true;
		look_into(model, items[i].slot);
	}
	enum m2_err err = first ? fail_if(RULE_first_step, "a first step", why) : M2_OK;
	if (err == M2_OK)
		err = fail_if(RULE_step, "a step", why);
	return err != M2_OK ? err : cpu->step(model->own, items, count, why);
}

static enum m2_err step_begin(
	struct m2_model *model, const struct m2_work *items, int32_t count, struct m2_why *why)
{
	static const struct m2_backend whole = {.step = step};
	late_inner = &whole;
	late_row_bytes = (size_t)model->desc.vocab_rows * sizeof(float);
	return late_begin(model, items, count, why);
}

static enum m2_err slot_reset(struct m2_model *model, int32_t slot)
{
	const enum m2_err err = fail_if(RULE_reset, "reset", NULL);
	return err != M2_OK ? err : cpu->slot_reset(model->own, slot);
}

static enum m2_err slot_copy(struct m2_model *model, int32_t dst, int32_t src)
{
	return cpu->slot_copy(model->own, dst, src);
}

static enum m2_err slot_save(struct m2_model *model, int32_t slot, void *dst)
{
	const enum m2_err err = fail_if(RULE_save, "save", NULL);
	return err != M2_OK ? err : cpu->slot_save(model->own, slot, dst);
}

static enum m2_err slot_restore(struct m2_model *model, int32_t slot, const void *src)
{
	const enum m2_err err = fail_if(RULE_restore, "restore", NULL);
	return err != M2_OK ? err : cpu->slot_restore(model->own, slot, src);
}

static enum m2_err slot_export(struct m2_model *model, int32_t slot, float *conv, float *ssm)
{
	return cpu->slot_export(model->own, slot, conv, ssm);
}

struct m2_backend m2_cuda_backend = {
	.bytes = sizeof(struct m2_backend),
	.name = "cuda",
	.open = open_device,
	.info = info,
	.load = load,
	.unload = unload,
	.park = park,
	.unpark = unpark,
	.step = step,
	.step_begin = step_begin,
	.step_wait = late_wait,
	.owns_memory = true,
	.present = present,
	.describe = describe,
	.slot_reset = slot_reset,
	.slot_copy = slot_copy,
	.slot_save = slot_save,
	.slot_restore = slot_restore,
	.slot_export = slot_export,
};
