/* tokenizer_cut.c - each step sees one piece and hands its parts to the next step at once.
 *
 * The reference library cuts everything by one step, then by the next; the steps know nothing of each
 * other's pieces, so the order of the words is the same, and nothing has to be kept.
 */
#include "model/tokenizer_cut.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/tokenizer_normalize.h"
#include "model/unicode.h"

struct cutting {
	const struct m2_cut_step *steps;
	size_t count;
	m2_word_fn *word;
	void *context;
	struct m2_why *why;
};

void m2_cut_finish(struct m2_cut_step *steps, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(steps[i].text);
		steps[i].text = NULL;
	}
}

static enum m2_err cut_by(
	const struct cutting *c, size_t step, const char *text, size_t length, bool first);

/* ---- matches ---- */

enum word_kind { WORD_SPACE, WORD_WORD, WORD_OTHER };

static enum word_kind word_kind_at(const char *text, size_t length, size_t at, size_t *next)
{
	uint32_t code = 0;
	*next = at + (size_t)m2_utf8_decode((const unsigned char *)text + at, length - at, &code);
	return m2_char_class_of(code) == M2_CHAR_SPACE ? WORD_SPACE
	       : m2_char_is_word(code)                 ? WORD_WORD
						       : WORD_OTHER;
}

static size_t word_run(const char *text, size_t length, size_t at, enum word_kind *kind)
{
	size_t end;
	*kind = word_kind_at(text, length, at, &end);
	while (end < length) {
		size_t next;
		if (word_kind_at(text, length, end, &next) != *kind)
			break;
		end = next;
	}
	return end;
}

/* The match or what lies between two matches that begins at `at`: where it ends, and which it is. */
static size_t part_end(
	const struct m2_cut_step *step, const char *text, size_t length, size_t at, bool *match)
{
	uint32_t code = 0;
	enum word_kind kind;
	size_t end = at;
	*match = true;
	switch (step->kind) {
	case M2_CUT_STRING:
	case M2_CUT_METASPACE: {
		const char *p = m2_find_text(text + at, length - at, step->text, step->length);
		*match = p == text + at;
		return *match ? at + step->length : p != NULL ? (size_t)(p - text) : length;
	}
	case M2_CUT_WORDS:
		end = word_run(text, length, at, &kind);
		*match = kind != WORD_SPACE;
		return end;
	case M2_CUT_CLASS:
		while (end < length) {
			const size_t n = (size_t)m2_utf8_decode(
				(const unsigned char *)text + end, length - end, &code);
			const bool is = step->is(code);
			if (is && end == at)
				return end + n;
			if (is)
				break;
			end += n;
		}
		*match = false;
		return end;
	case M2_CUT_BYTE_LEVEL:
	case M2_CUT_SCAN:
		return step->scan == NULL ? length : step->scan(text, length, at);
	}
	return length;
}

/* ---- what becomes of them ---- */

/* May the part that follows be joined to the one that is waiting? */
static bool joins(enum m2_cut_behaviour behaviour, bool waiting_match, bool match)
{
	switch (behaviour) {
	case M2_CUT_MERGED_WITH_PREVIOUS:
		return match && !waiting_match;
	case M2_CUT_MERGED_WITH_NEXT:
		return waiting_match && !match;
	case M2_CUT_CONTIGUOUS:
		return match == waiting_match;
	case M2_CUT_REMOVED:
	case M2_CUT_ISOLATED:
		break;
	}
	return false;
}

static enum m2_err split(
	const struct cutting *c, size_t step, const char *text, size_t length, bool first)
{
	const struct m2_cut_step *s = &c->steps[step];
	enum m2_err err = M2_OK;
	bool waiting_match = false;
	size_t from = 0; /* the part that waits for what follows */
	size_t to = 0;
	for (size_t at = 0; at < length && err == M2_OK;) {
		bool match;
		const size_t end = part_end(s, text, length, at, &match);
		match ^= s->invert;
		if (from == to || !joins(s->behaviour, waiting_match, match)) {
			if (from < to)
				err = cut_by(
					c, step + 1, text + from, to - from, first && from == 0);
			from = at;
		}
		to = end;
		if (match && s->behaviour == M2_CUT_REMOVED)
			from = to;
		waiting_match = match;
		at = end;
	}
	if (from < to && err == M2_OK)
		err = cut_by(c, step + 1, text + from, to - from, first && from == 0);
	return err;
}

/* ---- steps that change the text ---- */

static enum m2_err with_prefix(const struct cutting *c, size_t step, const char *prefix,
	size_t prefix_length, const char *text, size_t length, bool cut, bool first)
{
	char *longer = malloc(prefix_length + length);
	if (longer == NULL)
		return m2_fail(M2_ENOMEM, c->why, "out of memory for the text");
	memcpy(longer, prefix, prefix_length);
	memcpy(longer + prefix_length, text, length);
	length += prefix_length;
	const enum m2_err err = cut ? split(c, step, longer, length, first)
				    : cut_by(c, step + 1, longer, length, first);
	free(longer);
	return err;
}

static enum m2_err metaspace(
	const struct cutting *c, size_t step, const char *text, size_t length, bool first)
{
	const struct m2_cut_step *s = &c->steps[step];
	char *spelled = NULL;
	enum m2_err err =
		m2_replace_all(text, length, " ", 1, s->text, s->length, &spelled, &length, c->why);
	if (err != M2_OK)
		return err;
	if (spelled != NULL)
		text = spelled;
	const bool begins = length >= s->length && memcmp(text, s->text, s->length) == 0;
	if (!begins &&
		(s->prepend == M2_PREPEND_ALWAYS || (s->prepend == M2_PREPEND_FIRST && first)))
		err = with_prefix(c, step, s->text, s->length, text, length, s->split, first);
	else
		err = s->split ? split(c, step, text, length, first)
			       : cut_by(c, step + 1, text, length, first);
	free(spelled);
	return err;
}

static enum m2_err cut_by(
	const struct cutting *c, size_t step, const char *text, size_t length, bool first)
{
	if (step == c->count)
		return c->word(c->context, text, length);
	const struct m2_cut_step *s = &c->steps[step];
	if (s->kind == M2_CUT_METASPACE)
		return metaspace(c, step, text, length, first);
	if (s->prefix && text[0] != ' ')
		return with_prefix(c, step, " ", 1, text, length, true, first);
	return split(c, step, text, length, first);
}

enum m2_err m2_cut(const struct m2_cut_step *steps, size_t count, const char *text, size_t length,
	bool first, m2_word_fn *word, void *context, struct m2_why *why)
{
	const struct cutting c = {steps, count, word, context, why};
	return cut_by(&c, 0, text, length, first);
}
