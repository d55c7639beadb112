/* memory.c - regions, their cutting up, and the count of them. */
#include "kernels/cpu/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/num.h"

enum { HUGE_PAGE = 2 << 20 };

static atomic_ullong total;

void *m2_carve_take(struct m2_carve *carve, size_t count, size_t size)
{
	size_t bytes;
	void *piece = carve->base != NULL ? carve->base + carve->used : NULL;
	if (!m2_mul_size(count, size, &bytes) || !m2_round_up_size(bytes, M2_CPU_ALIGN, &bytes) ||
		!m2_add_size(carve->used, bytes, &carve->used))
		carve->overflow = true;
	return piece;
}

void *m2_region_create(size_t bytes)
{
	const bool large = bytes >= HUGE_PAGE;
	const size_t align = large ? HUGE_PAGE : M2_CPU_ALIGN;
	size_t rounded;
	if (!m2_round_up_size(bytes > 0 ? bytes : 1, align, &rounded))
		return NULL;
	void *region = aligned_alloc(align, rounded);
	if (region == NULL)
		return NULL;
	if (large)
		(void)madvise(region, rounded, MADV_HUGEPAGE); /* advice: may be refused */
	memset(region, 0, bytes);
	atomic_fetch_add(&total, bytes);
	return region;
}

void m2_region_destroy(void *region, size_t bytes)
{
	if (region == NULL)
		return;
	free(region);
	atomic_fetch_sub(&total, bytes);
}

uint64_t m2_region_total(void)
{
	return atomic_load(&total);
}
