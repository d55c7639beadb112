/* page.h - the page by which a test makes a running process fail.
 *
 * A test makes a directory with one file per process ("supervisor", "gate", "worker.cpu", "worker.cuda") and
 * names it in M2_FAULTS.  Each is an array of struct rule, mapped by the process and by the test: what the
 * test writes takes effect with the next call.
 */
#ifndef M2_TESTS_FAULTS_PAGE_H
#define M2_TESTS_FAULTS_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum rule_number {
#define M2_FAULT(name)  RULE_##name,
#define M2_DEVICE(name) RULE_##name,
#include "tests/system/faults/rules.def"
#undef M2_FAULT
#undef M2_DEVICE
	RULES
};

struct rule {
	_Atomic int32_t
		skip; /* calls that pass before the first that fails; of realtime: seconds to add */
	_Atomic int32_t times; /* calls that fail after those; 0: none does */
	_Atomic int32_t error; /* errno, enum m2_err of a device, or HANG */
	_Atomic int32_t fired; /* how many have failed */
};

enum { HANG = -1 };

/* Does this call fail?  Its error then, else 0. */
static inline int rule_fires(struct rule *rules, enum rule_number which)
{
	if (rules == NULL || atomic_load_explicit(&rules[which].times, memory_order_relaxed) == 0)
		return 0;
	struct rule *r = &rules[which];
	if (atomic_fetch_sub(&r->skip, 1) > 0)
		return 0;
	if (atomic_fetch_sub(&r->times, 1) <= 0) { /* another thread had the last one */
		(void)atomic_fetch_add(&r->times, 1);
		return 0;
	}
	(void)atomic_fetch_add(&r->fired, 1);
	return atomic_load(&r->error);
}

#endif
