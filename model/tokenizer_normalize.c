/* tokenizer_normalize.c - text made uniform, step by step, before it is cut.
 *
 * Each step makes a new text: a file has few, and each is linear.  SentencePiece's own normaliser is
 * tokenizer_charsmap.c's.
 */
#include "model/tokenizer_normalize.h"

#include <stdlib.h>
#include <string.h>

#include "common/num.h"
#include "common/utf8.h"

enum { MAX_TEXT = 1 << 30 };

void m2_norm_finish(struct m2_norm_step *steps, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(steps[i].from);
		free(steps[i].to);
		steps[i].from = NULL;
		steps[i].to = NULL;
	}
}

static enum m2_err make_room(size_t n, char **out, struct m2_why *why)
{
	if (n > MAX_TEXT)
		return m2_fail(M2_ELIMIT, why,
			"the text grows to %zu bytes when it is normalised, more than %d", n,
			MAX_TEXT);
	*out = malloc(n + 1);
	return *out != NULL ? M2_OK : m2_fail(M2_ENOMEM, why, "out of memory for %zu bytes", n);
}

/* memmem(3) does as much, but sanitizers then look at all the rest of the text at every place found. */
const char *m2_find_text(const char *text, size_t length, const char *what, size_t what_length)
{
	while (length >= what_length) {
		const char *p = memchr(text, what[0], length - what_length + 1);
		if (p == NULL)
			return NULL;
		if (memcmp(p, what, what_length) == 0)
			return p;
		length -= (size_t)(p + 1 - text);
		text = p + 1;
	}
	return NULL;
}

enum m2_err m2_replace_all(const char *text, size_t length, const char *from, size_t from_length,
	const char *to, size_t to_length, char **out, size_t *out_length, struct m2_why *why)
{
	size_t found = 0;
	*out = NULL;
	for (const char *p = text;
		(p = m2_find_text(p, (size_t)(text + length - p), from, from_length)) != NULL;
		p += from_length)
		found++;
	if (found == 0)
		return M2_OK;
	size_t n = length - found * from_length;
	if (!m2_add_mul_size(&n, found, to_length))
		n = SIZE_MAX;
	const enum m2_err err = make_room(n, out, why);
	if (err != M2_OK)
		return err;
	char *w = *out;
	const char *end = text + length;
	while (found-- > 0) {
		const char *p = m2_find_text(text, (size_t)(end - text), from, from_length);
		memcpy(w, text, (size_t)(p - text));
		w += p - text;
		memcpy(w, to, to_length);
		w += to_length;
		text = p + from_length;
	}
	memcpy(w, text, (size_t)(end - text));
	*out_length = n;
	return M2_OK;
}

static enum m2_err prepend(const struct m2_norm_step *step, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why)
{
	*out = NULL;
	if (length == 0)
		return M2_OK;
	const enum m2_err err = make_room(length + step->to_length, out, why);
	if (err != M2_OK)
		return err;
	memcpy(*out, step->to, step->to_length);
	memcpy(*out + step->to_length, text, length);
	*out_length = length + step->to_length;
	return M2_OK;
}

static enum m2_err strip(const struct m2_norm_step *step, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why)
{
	size_t from = 0;
	size_t to = length;
	size_t size;
	while (step->left && from < to) {
		uint32_t code = 0;
		size = (size_t)m2_utf8_decode((const unsigned char *)text + from, to - from, &code);
		if (m2_char_class_of(code) != M2_CHAR_SPACE)
			break;
		from += size;
	}
	while (step->right && from < to &&
		m2_char_class_of(m2_utf8_last(text, to, &size)) == M2_CHAR_SPACE)
		to -= size;
	*out = NULL;
	if (from == 0 && to == length)
		return M2_OK;
	const enum m2_err err = make_room(to - from, out, why);
	if (err != M2_OK)
		return err;
	memcpy(*out, text + from, to - from);
	*out_length = to - from;
	return M2_OK;
}

static bool begins_with_space(const char *text, size_t length)
{
	uint32_t code = 0;
	return length > 0 && m2_utf8_decode((const unsigned char *)text, length, &code) > 0 &&
	       m2_char_class_of(code) == M2_CHAR_SPACE;
}

static enum m2_err take_step(const struct m2_norm_step *step, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why)
{
	switch (step->kind) {
	case M2_NORM_FORM:
		return m2_unicode_normalize(step->form, text, length, out, out_length, why);
	case M2_NORM_LOWER:
		return m2_unicode_lower(text, length, out, out_length, why);
	case M2_NORM_PREPEND:
		return prepend(step, text, length, out, out_length, why);
	case M2_NORM_REPLACE:
		return m2_replace_all(text, length, step->from, step->from_length, step->to,
			step->to_length, out, out_length, why);
	case M2_NORM_STRIP:
		return strip(step, text, length, out, out_length, why);
	}
	return M2_OK;
}

enum m2_err m2_normalize(const struct m2_norm_step *steps, size_t count, const char *text,
	size_t length, char **out, size_t *out_length, bool *moved, struct m2_why *why)
{
	*out = NULL;
	if (moved != NULL)
		*moved = false;
	for (size_t i = 0; i < count; i++) {
		char *next = NULL;
		size_t next_length = 0;
		const enum m2_err err = take_step(&steps[i], *out != NULL ? *out : text,
			*out != NULL ? *out_length : length, &next, &next_length, why);
		if (err != M2_OK) {
			free(*out);
			*out = NULL;
			return err;
		}
		if (next == NULL)
			continue;
		if (moved != NULL && steps[i].kind == M2_NORM_STRIP && steps[i].left)
			*moved |= begins_with_space(
				*out != NULL ? *out : text, *out != NULL ? *out_length : length);
		free(*out);
		*out = next;
		*out_length = next_length;
	}
	return M2_OK;
}
