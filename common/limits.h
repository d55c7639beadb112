/* limits.h - the table of limits.def as constants. */
#ifndef M2_COMMON_LIMITS_H
#define M2_COMMON_LIMITS_H

enum m2_limit {
#define M2_LIMIT(name, value, unit, doc) M2_LIMIT_##name = (value),
#include "common/limits.def"
#undef M2_LIMIT
};

#endif
