/* ref.h - the definition as a backend, in single and in double precision.
 *
 * Same source, compiled twice: "ref" computes and stores in f32, "ref64" in f64 (weights are
 * rounded to the dtype that the load asks for first, in both).  Token by token, one thread, plain
 * loops; slow on purpose.  Logits and exported states are f32 in both.
 */
#ifndef M2_KERNELS_REF_REF_H
#define M2_KERNELS_REF_REF_H

#include "kernels/backend.h"

extern const struct m2_backend m2_ref_backend;
extern const struct m2_backend m2_ref64_backend;

#endif
