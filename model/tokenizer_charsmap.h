/* tokenizer_charsmap.h - SentencePiece's normaliser: its map of characters, and what it does to spaces.
 *
 * Internal to the room.  Source: normalizer.cc of SentencePiece 0.2; the map is a Darts double array
 * (32-bit units) from byte strings to offsets of NUL-terminated texts.  Immutable once filled.
 */
#ifndef M2_MODEL_TOKENIZER_CHARSMAP_H
#define M2_MODEL_TOKENIZER_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "model/added_tokens.h"

/* How SentencePiece's family spells a space: U+2581. */
#define M2_SPACE_MARK "\xe2\x96\x81"

struct m2_spm_norm {
	uint32_t *units; /* NULL: characters stay as they are */
	size_t n_units;
	char *texts; /* valid UTF-8, ends with a NUL */
	size_t n_texts;
	struct m2_added_set defined; /* user-defined pieces: left alone */
	bool nfkc;                   /* NFKC first, where only the name of a map is known */
	bool dummy_prefix;           /* a space in front of the text */
	bool dummy_suffix;           /* behind it instead */
	bool squeeze;                /* runs of spaces become one, those at the ends vanish */
	bool keep_spaces;            /* spaces are not spelled U+2581 */
};

/* A precompiled_charsmap as files carry it; empty: no map.  Errors: EFORMAT, ENOMEM. */
enum m2_err m2_charsmap_read(struct m2_spm_norm *norm, const void *bytes, size_t length,
	const char *what, struct m2_why *why);
void m2_spm_norm_finish(struct m2_spm_norm *norm); /* safe on zeroed memory */

/* text is valid UTF-8; *out is malloc'd, the caller frees.  Errors: ELIMIT, ENOMEM. */
enum m2_err m2_spm_normalize(const struct m2_spm_norm *norm, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why);

#endif
