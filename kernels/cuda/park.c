/* park.c - a model's memory on the device: addresses that stay, and memory behind them that can be given back.
 *
 * Every pointer into a model - in its layers, its orders, its captured graphs, its maps for the copy engine -
 * is an address that is reserved once, at load.  Parking copies the weights to pinned host memory and takes
 * the memory away from behind all three regions; coming back puts memory there again.  So nothing else here
 * knows of it, and what comes back is the same model at the same place.
 *
 * The driver's functions for that are asked for by name, as the runtime has none of its own and this object
 * needs no library of CUDA's.  A driver or device without them gives memory as cudaMalloc does: all runs,
 * but nothing can be parked.
 */
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <string.h>

#include "common/num.h"
#include "kernels/cuda/model.h"

struct driver {
	__typeof__(&cuDeviceGet) device;
	__typeof__(&cuDeviceGetAttribute) attribute;
	__typeof__(&cuMemGetAllocationGranularity) granularity;
	__typeof__(&cuMemAddressReserve) reserve;
	__typeof__(&cuMemAddressFree) give_back;
	__typeof__(&cuMemCreate) create;
	__typeof__(&cuMemRelease) release;
	__typeof__(&cuMemMap) map;
	__typeof__(&cuMemUnmap) unmap;
	__typeof__(&cuMemSetAccess) access;
};

/* function: the address of a pointer to one. */
static bool find(const char *name, void *function)
{
	void *found = NULL;
	enum cudaDriverEntryPointQueryResult result;
	if (cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result) !=
			cudaSuccess ||
		result != cudaDriverEntryPointSuccess || found == NULL) {
		(void)cudaGetLastError(); /* not sticky */
		return false;
	}
	memcpy(function, &found, sizeof found);
	return true;
}

/* false: this driver or device cannot. */
static bool driver_of(const struct m2_device *device, struct driver *d)
{
	CUdevice handle;
	int supported = 0;
	return find("cuDeviceGet", &d->device) && find("cuDeviceGetAttribute", &d->attribute) &&
	       find("cuMemGetAllocationGranularity", &d->granularity) &&
	       find("cuMemAddressReserve", &d->reserve) &&
	       find("cuMemAddressFree", &d->give_back) && find("cuMemCreate", &d->create) &&
	       find("cuMemRelease", &d->release) && find("cuMemMap", &d->map) &&
	       find("cuMemUnmap", &d->unmap) && find("cuMemSetAccess", &d->access) &&
	       d->device(&handle, device->ordinal) == CUDA_SUCCESS &&
	       d->attribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
		       handle) == CUDA_SUCCESS &&
	       supported != 0;
}

static enum m2_err failed(CUresult result, const char *what, size_t bytes, struct m2_why *why)
{
	if (result == CUDA_ERROR_OUT_OF_MEMORY)
		return m2_fail(M2_ENOMEM, why, "the device has no %zu bytes", bytes);
	return m2_fail(M2_EDEVICE, why, "cuda: %s: the driver's error %d", what, (int)result);
}

static CUmemAllocationProp kind_of(const struct m2_device *device)
{
	return (CUmemAllocationProp){
		.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device->ordinal},
	};
}

/* ---- one region --------------------------------------------------------------------------------- */

static CUdeviceptr address(const struct m2_model *m, int region)
{
	return (CUdeviceptr)(uintptr_t)m->regions[region];
}

/* Memory behind reserved addresses. */
static enum m2_err back(struct m2_model *m, const struct driver *d, int region, struct m2_why *why)
{
	const size_t bytes = m->reserved[region];
	const CUmemAllocationProp kind = kind_of(m->device);
	const CUmemAccessDesc access = {
		.location = kind.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle memory;
	CUresult result = d->create(&memory, bytes, &kind, 0);
	if (result != CUDA_SUCCESS)
		return failed(result, "taking memory", bytes, why);
	result = d->map(address(m, region), bytes, 0, memory, 0);
	(void)d->release(memory); /* it lives as long as it is mapped */
	if (result != CUDA_SUCCESS)
		return failed(result, "mapping memory", bytes, why);
	m->backed[region] = true;
	result = d->access(address(m, region), bytes, &access, 1);
	return result == CUDA_SUCCESS ? M2_OK : failed(result, "opening memory", bytes, why);
}

static void unback(struct m2_model *m, const struct driver *d, int region)
{
	if (m->backed[region])
		(void)d->unmap(address(m, region), m->reserved[region]);
	m->backed[region] = false;
}

static enum m2_err take_plain(struct m2_model *m, int region, size_t bytes, struct m2_why *why)
{
	const cudaError_t error = cudaMalloc((void **)&m->regions[region], bytes);
	if (error == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError(); /* not sticky: the device is well */
		return m2_fail(M2_ENOMEM, why, "the device has no %zu bytes in one piece", bytes);
	}
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "allocating a model", why);
}

enum m2_err m2_cuda_region_take(struct m2_model *m, int region, uint64_t bytes, struct m2_why *why)
{
	struct driver d;
	size_t granularity = 0, whole;
	CUdeviceptr at = 0;
	const CUmemAllocationProp kind = kind_of(m->device);
	if (!driver_of(m->device, &d) ||
		d.granularity(&granularity, &kind, CU_MEM_ALLOC_GRANULARITY_MINIMUM) !=
			CUDA_SUCCESS ||
		granularity == 0 || !m2_round_up_size((size_t)bytes, granularity, &whole) ||
		whole == 0)
		return take_plain(m, region, (size_t)bytes, why);
	const CUresult result = d.reserve(&at, whole, 0, 0, 0);
	if (result != CUDA_SUCCESS)
		return failed(result, "reserving addresses", whole, why);
	m->regions[region] = (char *)(uintptr_t)at;
	m->reserved[region] = whole;
	return back(m, &d, region, why);
}

/* What is queued for a model's memory is done before it goes away; cudaFree would wait by itself. */
static cudaError_t wait_for_all(const struct m2_model *m)
{
	const cudaError_t error = cudaStreamSynchronize(m->device->steps);
	const cudaError_t other = cudaStreamSynchronize(m->device->loads);
	return error != cudaSuccess ? error : other;
}

void m2_cuda_regions_free(struct m2_model *m)
{
	struct driver d;
	const bool can = driver_of(m->device, &d);
	(void)wait_for_all(m);
	for (int i = 0; i < M2_CUDA_REGIONS; i++) {
		if (m->reserved[i] == 0) {
			(void)cudaFree(m->regions[i]);
		} else if (can) {
			unback(m, &d, i);
			(void)d.give_back(address(m, i), m->reserved[i]);
		}
		m->regions[i] = NULL;
		m->reserved[i] = 0;
	}
	(void)cudaFreeHost(m->parked);
	m->parked = NULL;
}

/* ---- a model ------------------------------------------------------------------------------------ */

static enum m2_err copy_out(struct m2_model *m, struct m2_why *why)
{
	const size_t bytes = (size_t)m->footprint.weights;
	cudaError_t error = cudaMallocHost(&m->parked, bytes);
	if (error == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError(); /* not sticky: the device is well */
		return m2_fail(
			M2_ENOMEM, why, "the host has no %zu bytes that can be pinned", bytes);
	}
	if (error == cudaSuccess)
		error = cudaMemcpyAsync(m->parked, m->regions[M2_CUDA_WEIGHTS], bytes,
			cudaMemcpyDeviceToHost, m->device->loads);
	if (error == cudaSuccess)
		error = wait_for_all(m);
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "parking weights", why);
}

enum m2_err m2_cuda_park(struct m2_model *m, uint64_t *host_bytes, struct m2_why *why)
{
	struct driver d;
	(void)cudaSetDevice(m->device->ordinal);
	for (int i = 0; i < M2_CUDA_REGIONS; i++)
		if (m->reserved[i] == 0)
			return m2_fail(M2_EUNSUPPORTED, why,
				"this driver gives no memory that can be taken from behind its "
				"addresses");
	if (!driver_of(m->device, &d))
		return m2_fail(M2_EDEVICE, why, "cuda: the driver has gone");
	(void)pthread_mutex_lock(&m->device->load_lock);
	const enum m2_err err = copy_out(m, why);
	if (err == M2_OK) {
		for (int i = 0; i < M2_CUDA_REGIONS; i++)
			unback(m, &d, i);
		*host_bytes = m->footprint.weights;
	} else {
		(void)cudaFreeHost(m->parked);
		m->parked = NULL;
	}
	(void)pthread_mutex_unlock(&m->device->load_lock);
	return err;
}

/* State and workspace as after a load; the weights as they were. */
static enum m2_err copy_in(struct m2_model *m, struct m2_why *why)
{
	const cudaStream_t stream = m->device->loads;
	cudaError_t error = cudaMemcpyAsync(m->regions[M2_CUDA_WEIGHTS], m->parked,
		(size_t)m->footprint.weights, cudaMemcpyHostToDevice, stream);
	for (int i = M2_CUDA_WEIGHTS + 1; i < M2_CUDA_REGIONS && error == cudaSuccess; i++)
		error = cudaMemsetAsync(m->regions[i], 0, m->reserved[i], stream);
	if (error == cudaSuccess)
		error = cudaStreamSynchronize(stream);
	for (int32_t slot = 0; slot < m->slots; slot++) {
		m->position[slot] = 0;
		m->picked[slot] = false;
	}
	return error == cudaSuccess ? M2_OK : m2_cuda_failed(error, "bringing weights back", why);
}

enum m2_err m2_cuda_unpark(struct m2_model *m, struct m2_why *why)
{
	struct driver d;
	enum m2_err err = M2_OK;
	(void)cudaSetDevice(m->device->ordinal);
	if (!driver_of(m->device, &d))
		return m2_fail(M2_EDEVICE, why, "cuda: the driver has gone");
	(void)pthread_mutex_lock(&m->device->load_lock);
	for (int i = 0; i < M2_CUDA_REGIONS && err == M2_OK; i++)
		err = back(m, &d, i, why);
	if (err == M2_OK)
		err = copy_in(m, why);
	for (int i = 0; i < M2_CUDA_REGIONS && err != M2_OK; i++)
		unback(m, &d, i);
	if (err == M2_OK) {
		(void)cudaFreeHost(m->parked);
		m->parked = NULL;
	}
	(void)pthread_mutex_unlock(&m->device->load_lock);
	return err;
}
