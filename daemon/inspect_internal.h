/* inspect_internal.h - what an inspection found; for inspect*.c only. */
#ifndef M2_DAEMON_INSPECT_INTERNAL_H
#define M2_DAEMON_INSPECT_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/dtype.h"
#include "daemon/options.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"

enum { M2_INSPECT_WARNINGS = 16, M2_INSPECT_WARNING_BYTES = 320 };

/* What one variant of it would take on the cpu, with the given slots and everything else at its default. */
struct m2_inspect_plan {
	int32_t slots;
	struct m2_footprint footprint;
};

struct m2_inspection {
	const struct m2_inspect_options *options;
	/* refused: why, and what one may do about it */
	enum m2_err err;
	struct m2_why why;
	const char *hint;

	struct m2_checkpoint *checkpoint; /* NULL: it could not be opened; nothing below is known */
	struct m2_model_config config;
	uint64_t elements[M2_DTYPE_F64 + 1]; /* by stored dtype */
	uint64_t ssm_bytes;                  /* of one sequence, f32 */
	uint64_t conv_bytes;
	uint64_t weights_stored; /* resident bytes, if kept as stored ...; 0: the backend refuses */
	uint64_t weights_f32;
	uint64_t weights_bf16;
	struct m2_inspect_plan plans[2];

	struct m2_tokenizer *tokenizer; /* NULL: none */
	const char *template_name;      /* NULL: none */

	int n_warnings;
	char warnings[M2_INSPECT_WARNINGS][M2_INSPECT_WARNING_BYTES];
};

static inline uint64_t m2_inspect_total(const struct m2_footprint *f)
{
	return f->weights + f->state + f->workspace;
}

void m2_inspect_print_text(const struct m2_inspection *i, FILE *out);
void m2_inspect_print_json(const struct m2_inspection *i, FILE *out);
/* A variant file; an error if the options make none. */
enum m2_err m2_inspect_print_yaml(const struct m2_inspection *i, FILE *out, struct m2_why *why);

#endif
