/* tokenizer_cut.h - the pre-tokenizers of a tokenizer.json: text into words, step by step.
 *
 * Internal to the room.  Steps are immutable once read; threads may share them.
 */
#ifndef M2_MODEL_TOKENIZER_CUT_H
#define M2_MODEL_TOKENIZER_CUT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"
#include "model/pretokenize.h"

enum m2_cut_kind {
	M2_CUT_BYTE_LEVEL, /* prefix; at each match of `scan`, if any */
	M2_CUT_METASPACE,  /* spaces become `text`; at each of those if `split` */
	M2_CUT_STRING,     /* at `text` */
	M2_CUT_SCAN,       /* at matches of `scan` */
	M2_CUT_CLASS,      /* at characters for which `is` holds */
	M2_CUT_WORDS       /* \w+|[^\w\s]+ are kept, white space is dropped */
};

/* What becomes of a match; the names are the reference library's. */
enum m2_cut_behaviour {
	M2_CUT_REMOVED,
	M2_CUT_ISOLATED,
	M2_CUT_MERGED_WITH_PREVIOUS,
	M2_CUT_MERGED_WITH_NEXT,
	M2_CUT_CONTIGUOUS
};

/* Metaspace: which texts are given a space in front. */
enum m2_prepend { M2_PREPEND_ALWAYS, M2_PREPEND_FIRST, M2_PREPEND_NEVER };

struct m2_cut_step {
	enum m2_cut_kind kind;
	enum m2_cut_behaviour behaviour;
	bool invert; /* what lies between the matches is the match */
	bool prefix; /* ByteLevel: a text begins with a space, given one if need be */
	bool split;
	enum m2_prepend prepend;
	char *text; /* owned, not empty where the kind needs it */
	size_t length;
	m2_scan_fn *scan; /* NULL: ByteLevel without its pattern */
	bool (*is)(unsigned code);
};

void m2_cut_finish(struct m2_cut_step *steps, size_t count); /* what they own, not the array */

typedef enum m2_err m2_word_fn(void *context, const char *word, size_t length);

/* Cut a text that is not empty and hand each word on, in order; stops at the first error.  first: the
 * text begins where the whole input does. */
enum m2_err m2_cut(const struct m2_cut_step *steps, size_t count, const char *text, size_t length,
	bool first, m2_word_fn *word, void *context, struct m2_why *why);

#endif
