/* ref64.c - the definition once more, in double precision: what tests hold everything against. */
#define M2_REF_F64

#include "kernels/ref/ref.h"

/* One translation unit of all the sources: their m2_real is double here. */
#include "kernels/ref/conv.c"
#include "kernels/ref/linear.c"
#include "kernels/ref/norm.c"
#include "kernels/ref/ssm.c"
#include "kernels/ref/forward.c"
#include "kernels/ref/model.c"
#include "kernels/ref/backend.c"
