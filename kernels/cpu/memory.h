/* memory.h - the few large regions a model lives in, and how they are cut up.
 *
 * A region is laid out twice by the same code: once on paper (base NULL), which gives its size to
 * the byte and is what plan reports, and once in memory.  So the plan cannot differ from the load.
 */
#ifndef M2_KERNELS_CPU_MEMORY_H
#define M2_KERNELS_CPU_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every piece starts on a cache line. */
enum { M2_CPU_ALIGN = 64 };

struct m2_carve {
	unsigned char *base; /* NULL: on paper */
	size_t used;         /* bytes so far, a multiple of M2_CPU_ALIGN */
	bool overflow;       /* a size did not fit; sticky, the other fields mean nothing then */
};

/* The next piece, of count elements of `size` bytes.  NULL on paper. */
void *m2_carve_take(struct m2_carve *carve, size_t count, size_t size);

/* A region of exactly `bytes` bytes, cache-line aligned, all zero; large ones ask the kernel for
 * huge pages.  NULL when there is no memory.  bytes 0 gives a region that may not be touched.
 * reserve leaves it to the first touch to bring the pages of a large region: by the thread that
 * touches, and without a pass over memory that is written anyway.  create has brought them. */
void *m2_region_reserve(size_t bytes);
void *m2_region_create(size_t bytes);
void m2_region_destroy(void *region, size_t bytes);

/* Bring the pages of a part of a region; what stands in them stays.  Any thread, but no other
 * thread may be writing to the same part. */
void m2_region_touch(void *part, size_t bytes);

/* Bytes of all regions alive in this process; for the tests that hold load against plan. */
uint64_t m2_region_total(void);

#endif
