/* fake_cuda.c - a device named "cuda" that is the processor, and fails, hangs and lies on a test's word.
 *
 * It is found as the real one is, as libmamba2-cuda.so beside the program.  What it does beyond the cpu
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

__attribute__((visibility("default"))) extern struct m2_backend m2_cuda_backend;

static struct rule *rules;
static const struct m2_backend *cpu;

enum { MODELS = 64 };

/* Buffers to look into a model's slots with; by the thread that owns the device, and by loads. */
static struct look {
	_Atomic(struct m2_model *) model;
	float *conv, *ssm;
	size_t n_conv, n_ssm;
} looks[MODELS];

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
	m2_cuda_backend.name = mine.name;
	m2_cuda_backend.open = mine.open;
	m2_cuda_backend.info = mine.info;
	m2_cuda_backend.load = mine.load;
	m2_cuda_backend.unload = mine.unload;
	m2_cuda_backend.step = mine.step;
	m2_cuda_backend.slot_reset = mine.slot_reset;
	m2_cuda_backend.slot_save = mine.slot_save;
	m2_cuda_backend.slot_restore = mine.slot_restore;
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
	out->memory_free = UINT64_C(3) << 30;
	const int mib = rule_fires(rules, RULE_memory_free);
	if (mib > 0)
		out->memory_free = (uint64_t)mib << 20;
}

static enum m2_err load(struct m2_device *device, const struct m2_model_desc *m,
	const struct m2_weight_source *source, const struct m2_load_options *options,
	struct m2_model **out, struct m2_why *why)
{
	enum m2_err err = fail_if(RULE_load, "load", why);
	if (err == M2_OK)
		err = cpu->load(device, m, source, options, out, why);
	for (int i = 0; err == M2_OK && i < MODELS; i++) {
		struct look *l = &looks[i];
		if (atomic_load(&l->model) != NULL)
			continue;
		l->n_conv = (size_t)m->n_layers * (size_t)(m->conv_kernel - 1) *
			    (size_t)m2_desc_conv_channels(m);
		l->n_ssm = (size_t)m->n_layers * (size_t)m2_desc_d_ssm(m) * (size_t)m->state_size;
		l->conv = calloc(l->n_conv + 1, sizeof(float));
		l->ssm = calloc(l->n_ssm + 1, sizeof(float));
		atomic_store(&l->model, *out);
		break;
	}
	return err;
}

static struct look *look_of(const struct m2_model *model)
{
	for (int i = 0; i < MODELS; i++)
		if (atomic_load(&looks[i].model) == model)
			return &looks[i];
	return NULL;
}

static void unload(struct m2_model **model)
{
	struct look *l = look_of(*model);
	(void)fail_if(RULE_unload, "unload", NULL);
	if (l != NULL) {
		free(l->conv);
		free(l->ssm);
		atomic_store(&l->model, NULL);
	}
	cpu->unload(model);
}

static bool is_zero(const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (x[i] != 0)
			return false;
	return true;
}

static void look_into(struct m2_model *model, int32_t slot)
{
	struct look *l = look_of(model);
	if (rules == NULL || l == NULL || l->conv == NULL || l->ssm == NULL)
		return;
	const bool seen = cpu->slot_export(model, slot, l->conv, l->ssm) == M2_OK;
	const bool zero = seen && is_zero(l->conv, l->n_conv) && is_zero(l->ssm, l->n_ssm);
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
	return err != M2_OK ? err : cpu->step(model, items, count, why);
}

static enum m2_err slot_reset(struct m2_model *model, int32_t slot)
{
	const enum m2_err err = fail_if(RULE_reset, "reset", NULL);
	return err != M2_OK ? err : cpu->slot_reset(model, slot);
}

static enum m2_err slot_save(struct m2_model *model, int32_t slot, void *dst)
{
	const enum m2_err err = fail_if(RULE_save, "save", NULL);
	return err != M2_OK ? err : cpu->slot_save(model, slot, dst);
}

static enum m2_err slot_restore(struct m2_model *model, int32_t slot, const void *src)
{
	const enum m2_err err = fail_if(RULE_restore, "restore", NULL);
	return err != M2_OK ? err : cpu->slot_restore(model, slot, src);
}

struct m2_backend m2_cuda_backend = {
	.name = "cuda",
	.open = open_device,
	.info = info,
	.load = load,
	.unload = unload,
	.step = step,
	.slot_reset = slot_reset,
	.slot_save = slot_save,
	.slot_restore = slot_restore,
};
