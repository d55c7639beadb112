/* real.h - the number the definition computes with, and how its two compilations keep apart.
 *
 * Every source of kernels/ref says m2_real, and M2_REF(name) for each of its external names.
 * ref64.c defines M2_REF_F64 and includes them all once more.
 */
#ifndef M2_KERNELS_REF_REAL_H
#define M2_KERNELS_REF_REAL_H

#include <math.h>

#ifdef M2_REF_F64
typedef double m2_real;
#define M2_REF(name) m2_ref64_##name
#define M2_REF_NAME  "ref64"
#define real_exp     exp
#define real_log1p   log1p
#define real_sqrt    sqrt
#else
typedef float m2_real;
#define M2_REF(name) m2_ref_##name
#define M2_REF_NAME  "ref"
#define real_exp     expf
#define real_log1p   log1pf
#define real_sqrt    sqrtf
#endif

#endif
