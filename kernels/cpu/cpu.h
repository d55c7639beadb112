/* cpu.h - the vectorised, multi-threaded backend of the host processor. */
#ifndef M2_KERNELS_CPU_CPU_H
#define M2_KERNELS_CPU_CPU_H

#include "kernels/backend.h"

extern const struct m2_backend m2_cpu_backend;

#endif
