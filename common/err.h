/* err.h - the one way a function in mamba2d says no.
 *
 * Every function that can fail returns enum m2_err; M2_OK is 0 and the only success value in the
 * program.  One human sentence travels beside it in struct m2_why, filled once, where the failure
 * is first understood; callers add nothing unless they know something the callee did not.
 * Bugs are not errors: they are assert()s.  A client's input never asserts.
 *
 * Threads: pure functions over caller-owned memory; safe anywhere.
 */
#ifndef M2_COMMON_ERR_H
#define M2_COMMON_ERR_H

enum m2_err {
#define M2_ERROR(name, number, code, advice) M2_##name = (number),
#include "common/errors.def"
#undef M2_ERROR
	M2_ERR_COUNT
};

/* The sentence, and the field it speaks of ("" when there is none).  Both always NUL-terminated. */
struct m2_why {
	char field[64];
	char text[448];
};

/* The stable code ("not_found"); "internal" for a number that is not in the table. */
const char *m2_err_code(enum m2_err err);

/* What the caller may do, one sentence from the table. */
const char *m2_err_advice(enum m2_err err);

/* Number to enum; M2_EINTERNAL for anything unknown.  For numbers that came from outside. */
enum m2_err m2_err_from_number(long number);

/* Code to enum, for what came over the wire; M2_EINTERNAL for anything unknown. */
enum m2_err m2_err_from_code(const char *code);

/* Fill `why` (may be NULL) and return `err`.  A sentence that does not fit ends in "...". */
enum m2_err m2_fail(enum m2_err err, struct m2_why *why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same, naming the field of the request or file that is at fault. */
enum m2_err m2_fail_field(enum m2_err err, struct m2_why *why, const char *field, const char *fmt,
	...) __attribute__((format(printf, 4, 5)));

/* Put "what: " in front of a sentence that does not name it yet: for what readers of parts, who do not
 * know the file, have said.  Returns err; M2_OK changes nothing. */
enum m2_err m2_fail_within(enum m2_err err, struct m2_why *why, const char *what);

#endif
