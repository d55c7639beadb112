/* backend.c - which backends there are, and steps in halves on those that know only whole ones.
 *
 * The CUDA backend is another shared object, opened on the first ask and then kept: a host without a
 * GPU never maps the driver.  Nothing here falls back: a device that is asked for and absent is an
 * error.
 */
#include "kernels/backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

static const char cuda_object[] = "libmamba2-cuda.so";
static const char cuda_symbol[] = "m2_cuda_backend";

static pthread_mutex_t cuda_lock = PTHREAD_MUTEX_INITIALIZER;
static void *cuda_handle; /* under cuda_lock; kept for the life of the process */

/* Open `relative` as seen from the program's own directory.  Found through /proc and not through
 * argv[0], which the one who starts the program may set to anything. */
static void *open_beside_program(const char *relative)
{
	char path[PATH_MAX];
	const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
	if (n <= 0 || n >= (ssize_t)sizeof path)
		return NULL;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	if (slash == NULL)
		return NULL;
	const size_t room = sizeof path - (size_t)(slash + 1 - path);
	const int written = snprintf(slash + 1, room, "%s%s", relative, cuda_object);
	if (written < 0 || (size_t)written >= room || access(path, R_OK) != 0)
		return NULL;
	return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

/* Called with cuda_lock held.  dlerror is read at once: it belongs to the last attempt. */
static enum m2_err open_cuda(struct m2_why *why)
{
	static const char *const places[] = {"", "../lib/mamba2d/"};
	for (size_t i = 0; cuda_handle == NULL && i < sizeof places / sizeof places[0]; i++) {
		(void)dlerror();
		cuda_handle = open_beside_program(places[i]);
		const char *reason = cuda_handle == NULL ? dlerror() : NULL;
		if (reason != NULL)
			return m2_fail(M2_EUNSUPPORTED, why,
				"the CUDA backend is installed and cannot be opened: %s", reason);
	}
	if (cuda_handle == NULL)
		cuda_handle = dlopen(cuda_object, RTLD_NOW | RTLD_LOCAL);
	if (cuda_handle == NULL) {
		const char *reason = dlerror();
		return m2_fail(M2_EUNSUPPORTED, why, "the CUDA backend is not installed here: %s",
			reason != NULL ? reason : cuda_object);
	}
	return M2_OK;
}

static enum m2_err find_cuda(const struct m2_backend **out, struct m2_why *why)
{
	(void)pthread_mutex_lock(&cuda_lock);
	enum m2_err err = cuda_handle != NULL ? M2_OK : open_cuda(why);
	const struct m2_backend *backend = NULL;
	if (err == M2_OK)
		backend = dlsym(cuda_handle, cuda_symbol);
	if (err == M2_OK && (backend == NULL || backend->bytes != sizeof *backend))
		err = m2_fail(M2_EUNSUPPORTED, why,
			"the CUDA backend that is installed here (%s) is of another version",
			cuda_object);
	(void)pthread_mutex_unlock(&cuda_lock);
	if (err == M2_OK)
		*out = backend;
	return err;
}

enum m2_err m2_backend_find(const char *name, const struct m2_backend **out, struct m2_why *why)
{
	static const struct m2_backend *const built_in[] = {
		&m2_cpu_backend, &m2_ref_backend, &m2_ref64_backend};

	for (size_t i = 0; i < sizeof built_in / sizeof built_in[0]; i++) {
		if (strcmp(built_in[i]->name, name) == 0) {
			*out = built_in[i];
			return M2_OK;
		}
	}
	if (strcmp(name, "cuda") == 0)
		return find_cuda(out, why);
	return m2_fail_field(M2_EUNSUPPORTED, why, "device",
		"there is no backend named \"%s\"; there are cpu, cuda, ref and ref64", name);
}

/* ---- steps in halves, where the backend has none ------------------------------------------------- */

enum m2_err m2_backend_step_begin(const struct m2_backend *backend, struct m2_model *model,
	const struct m2_work *items, int32_t count, struct m2_why *why)
{
	return backend->step_begin != NULL ? backend->step_begin(model, items, count, why)
					   : backend->step(model, items, count, why);
}

enum m2_err m2_backend_step_wait(
	const struct m2_backend *backend, struct m2_model *model, struct m2_why *why)
{
	return backend->step_wait != NULL ? backend->step_wait(model, why) : M2_OK;
}
