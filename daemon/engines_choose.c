/* engines_choose.c - which device a variant runs on, and with it which worker.
 *
 * A variant that names a device gets that one or an error.  Only "auto" looks further, and never behind the
 * back of somebody: the log says which device it is, and ps and show do.  No driver is touched here, by this
 * process: a look at the object that has the backend, and at the files of a driver, is all.
 */
#include "daemon/engines.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "kernels/backend.h"

enum { ORDINALS = 64 }; /* as a variant may name them */

static struct m2_engine *find(struct m2_supervisor *s, const char *device)
{
	M2_LIST_EACH(&s->workers, at)
	{
		struct m2_engine *w = M2_LIST_OF(at, struct m2_engine, link);
		if (strcmp(w->device, device) == 0)
			return w;
	}
	return NULL;
}

/* Is there anything to try? */
static bool may_have_cuda(const struct m2_supervisor *s)
{
	const struct m2_backend *cuda;
	struct m2_why why;
	if (strcmp(s->options->backend, "cpu") != 0)
		return false; /* what shall run was said at start */
	if (m2_backend_find("cuda", &cuda, &why) != M2_OK)
		return false;
	return cuda->present == NULL || cuda->present();
}

/* The CUDA device that is tried next, or known to open; negative: none. */
static int32_t choose_cuda(struct m2_supervisor *s)
{
	char device[16];
	for (int32_t i = 0; i < ORDINALS && may_have_cuda(s); i++) {
		(void)snprintf(device, sizeof device, "cuda:%d", i);
		const struct m2_engine *w = find(s, device);
		if (w == NULL || w->passed == M2_OK)
			return i;
		if (w->passed != M2_EDEVICE)
			break;
	}
	return -1;
}

enum m2_err m2_engine_for(struct m2_supervisor *s, const struct m2_variant *v,
	struct m2_engine **out, struct m2_why *why)
{
	const struct m2_backend *backend;
	char device[16] = "cpu";
	int32_t ordinal = v->device == M2_DEVICE_CUDA ? v->device_ordinal : -1;
	/* asked here, so that a host without it says so at once instead of restarting a worker */
	if (v->device == M2_DEVICE_CUDA) {
		const enum m2_err err = m2_backend_find("cuda", &backend, why);
		if (err != M2_OK)
			return err;
	}
	if (v->device == M2_DEVICE_AUTO)
		ordinal = choose_cuda(s);
	if (ordinal >= 0)
		(void)snprintf(device, sizeof device, "cuda:%d", ordinal);
	if (v->device == M2_DEVICE_AUTO)
		m2_info("%s: device auto is %s", v->name, device);
	struct m2_engine *w = find(s, device);
	const bool idle = w == NULL || w->rests;
	if (w == NULL)
		w = m2_engine_create(s, device, ordinal >= 0 ? "cuda" : s->options->backend,
			ordinal >= 0 ? ordinal : 0);
	if (w == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	if (idle)
		m2_engine_start(w);
	*out = w;
	return M2_OK;
}

void m2_engines_retry(struct m2_supervisor *s)
{
	M2_LIST_EACH(&s->workers, at)
	M2_LIST_OF(at, struct m2_engine, link)->passed = M2_OK;
}
