/* host.h - what the host's memory is and how much of it can be had.
 *
 * Threads: any.  May block for as long as the kernel takes to print a page of figures. */
#ifndef M2_COMMON_HOST_H
#define M2_COMMON_HOST_H

#include <stdint.h>

/* Bytes that the host has. */
uint64_t m2_host_memory(void);

/* Bytes that the kernel thinks can be had without swapping; 0 if it does not say. */
uint64_t m2_host_available(void);

#endif
