/* header.h - building the JSON header of one request, checked by the same table as the daemon's.
 *
 * Errors stick: after the first one the later calls do nothing, and m2_header_end returns it with the
 * field's name, so that a caller writes its fields one below the other and checks once.
 *
 * Threads: one builder, one thread.
 */
#ifndef M2_CLIENT_HEADER_H
#define M2_CLIENT_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/wire.h"

struct json_object;

struct m2_header {
	struct json_object *object;
	enum m2_err err;
	struct m2_why why;
};

void m2_header_begin(struct m2_header *h, enum m2_op op);

/* Each refuses what fields.def refuses: M2_EINVAL, or M2_ELIMIT for too many entries. */
void m2_header_int(struct m2_header *h, const char *field, int64_t value);
void m2_header_float(struct m2_header *h, const char *field, float value);
void m2_header_true(struct m2_header *h, const char *field, bool value);       /* false: left out */
void m2_header_text(struct m2_header *h, const char *field, const char *text); /* NULL: missing */
void m2_header_form(struct m2_header *h, int form); /* enum mamba2_form as the field "input" */
void m2_header_ints(
	struct m2_header *h, const char *field, const int32_t *values, size_t count, size_t most);
void m2_header_texts(struct m2_header *h, const char *field, const char *const *texts, size_t count,
	size_t most);

struct mamba2_logit_bias;
void m2_header_pairs(struct m2_header *h, const char *field, const struct mamba2_logit_bias *pairs,
	size_t count, size_t most);

/* Add id and key, and give the text: malloc'd.  Releases the builder whatever happens. */
enum m2_err m2_header_end(struct m2_header *h, uint64_t id, const char *key, char **text,
	size_t *bytes, struct m2_why *why);

#endif
