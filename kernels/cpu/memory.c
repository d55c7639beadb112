/* memory.c - regions, their cutting up, and the count of them.
 *
 * A large region is a mapping of its own: the kernel hands it out zeroed, page by page when it is
 * first touched, so nothing is cleared twice and each loader thread brings the pages it fills.  A
 * small one comes from the heap.  Under AddressSanitizer all do, for the heap has red zones.
 */
#include "kernels/cpu/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/num.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define M2_HEAP_ONLY 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define M2_HEAP_ONLY 1
#endif
#ifndef M2_HEAP_ONLY
#define M2_HEAP_ONLY 0
#endif

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

static bool is_mapped(size_t bytes)
{
	return !M2_HEAP_ONLY && bytes >= HUGE_PAGE;
}

static size_t page_size(void)
{
	const long size = sysconf(_SC_PAGESIZE);
	return size > 0 ? (size_t)size : 4096;
}

/* Anonymous memory that starts on a huge page's boundary; what is mapped too much goes back. */
static void *map(size_t bytes)
{
	size_t rounded, more;
	if (!m2_round_up_size(bytes, page_size(), &rounded) ||
		!m2_add_size(rounded, HUGE_PAGE, &more))
		return NULL;
	unsigned char *mapped =
		mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped == MAP_FAILED)
		return NULL;
	const size_t before = -(uintptr_t)mapped & (HUGE_PAGE - 1);
	if (before > 0)
		(void)munmap(mapped, before);
	if (before < HUGE_PAGE)
		(void)munmap(mapped + before + rounded, HUGE_PAGE - before);
	(void)madvise(mapped + before, rounded, MADV_HUGEPAGE); /* advice: may be refused */
	return mapped + before;
}

static void *from_heap(size_t bytes)
{
	size_t rounded;
	if (!m2_round_up_size(bytes > 0 ? bytes : 1, M2_CPU_ALIGN, &rounded))
		return NULL;
	void *region = aligned_alloc(M2_CPU_ALIGN, rounded);
	if (region != NULL)
		memset(region, 0, bytes);
	return region;
}

void *m2_region_reserve(size_t bytes)
{
	void *region = is_mapped(bytes) ? map(bytes) : from_heap(bytes);
	if (region != NULL)
		atomic_fetch_add(&total, bytes);
	return region;
}

void m2_region_touch(void *part, size_t bytes)
{
	const size_t page = page_size();
	unsigned char *at = part;
	/* One access that reads and writes: a read alone would be given a shared page of zeros. */
	for (size_t i = 0; i < bytes; i += page - ((uintptr_t)(at + i) & (page - 1)))
		(void)__atomic_fetch_or(&at[i], 0, __ATOMIC_RELAXED);
}

void *m2_region_create(size_t bytes)
{
	void *region = m2_region_reserve(bytes);
	if (region != NULL)
		m2_region_touch(region, bytes);
	return region;
}

void m2_region_destroy(void *region, size_t bytes)
{
	if (region == NULL)
		return;
	size_t rounded = 0;
	if (!is_mapped(bytes))
		free(region);
	else if (m2_round_up_size(bytes, page_size(), &rounded))
		(void)munmap(region, rounded);
	atomic_fetch_sub(&total, bytes);
}

uint64_t m2_region_total(void)
{
	return atomic_load(&total);
}
