/* tokenizer_charsmap.c - see the header.
 *
 * The map comes with the checkpoint, so every unit is checked when it is used: a walk cannot leave the
 * array, is bounded in length, and takes and gives whole characters only.
 */
#include "model/tokenizer_charsmap.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/unicode.h"

enum {
	MAX_KEY = 256, /* the longest keys of real maps have some twenty bytes */
	GROWTH = 32,
	SLACK = 1 << 20
};

void m2_spm_norm_finish(struct m2_spm_norm *norm)
{
	free(norm->units);
	free(norm->texts);
	m2_added_set_finish(&norm->defined);
	*norm = (struct m2_spm_norm){.n_units = 0};
}

static uint32_t load_u32(const unsigned char *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

enum m2_err m2_charsmap_read(struct m2_spm_norm *norm, const void *bytes, size_t length,
	const char *what, struct m2_why *why)
{
	static const char field[] = "precompiled_charsmap";
	const unsigned char *p = bytes;
	if (length == 0)
		return M2_OK;
	const size_t trie = length >= 4 ? load_u32(p) : 0;
	if (trie < 4 || trie % 4 != 0 || trie >= length - 4)
		return m2_fail_field(M2_EFORMAT, why, field,
			"%s: %s: a double array of %zu bytes in a map of %zu", what, field, trie,
			length);
	norm->n_units = trie / 4;
	norm->n_texts = length - 4 - trie;
	norm->units = malloc(trie);
	norm->texts = malloc(norm->n_texts);
	if (norm->units == NULL || norm->texts == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", what);
	for (size_t i = 0; i < norm->n_units; i++)
		norm->units[i] = load_u32(p + 4 + 4 * i);
	memcpy(norm->texts, p + 4 + trie, norm->n_texts);
	if (norm->texts[norm->n_texts - 1] != '\0' || !m2_utf8_valid(norm->texts, norm->n_texts))
		return m2_fail_field(M2_EFORMAT, why, field,
			"%s: %s: its texts are not valid UTF-8 ended by a NUL", what, field);
	return M2_OK;
}

static bool begins_character(char c)
{
	return ((unsigned char)c & 0xc0) != 0x80;
}

/* The longest key that begins the text: its bytes, 0 for none; *to is its replacement. */
static size_t longest_key(
	const struct m2_spm_norm *norm, const char *text, size_t length, const char **to)
{
	size_t longest = 0;
	size_t node = 0;
	if (norm->units == NULL)
		return 0;
	/* a unit: offset of the children in bits 10.. (shifted by 8 if bit 9 is set), bit 8: the key
	 * may end here, label in the low byte; the value of an end is its first child */
	uint32_t unit = norm->units[0];
	node ^= (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
	for (size_t i = 0; i < length && i < MAX_KEY; i++) {
		const unsigned char c = (unsigned char)text[i];
		node ^= c;
		if (node >= norm->n_units)
			break;
		unit = norm->units[node];
		if ((unit & 0x800000ffu) != c)
			break;
		node ^= (size_t)(unit >> 10) << ((unit & 0x200) >> 6);
		if ((unit & 0x100) == 0)
			continue;
		const uint32_t value =
			node < norm->n_units ? norm->units[node] & 0x7fffffff : UINT32_MAX;
		if (value >= norm->n_texts || !begins_character(norm->texts[value]) ||
			(i + 1 < length && !begins_character(text[i + 1])))
			continue;
		longest = i + 1;
		*to = norm->texts + value;
	}
	return longest;
}

/* What the beginning of the text becomes; returns how many of its bytes that takes. */
static size_t next_part(const struct m2_spm_norm *norm, const char *text, size_t length,
	const char **part, size_t *part_length)
{
	const struct m2_added_token *defined = m2_added_set_prefix(&norm->defined, text, length);
	*part = text;
	if (defined != NULL)
		return *part_length = defined->length;
	const size_t key = longest_key(norm, text, length, part);
	if (key > 0) {
		*part_length = strlen(*part);
		return key;
	}
	uint32_t code;
	return *part_length = (size_t)m2_utf8_decode((const unsigned char *)text, length, &code);
}

struct text {
	char *at;
	size_t n;
	size_t cap;
	size_t limit;
};

static enum m2_err append(struct text *t, const char *bytes, size_t n, struct m2_why *why)
{
	if (n > t->limit - t->n)
		return m2_fail(M2_ELIMIT, why,
			"the text grows beyond %zu bytes when it is normalised", t->limit);
	if (n > t->cap - t->n) {
		const size_t cap = 2 * t->cap + n;
		char *grown = realloc(t->at, cap);
		if (grown == NULL)
			return m2_fail(M2_ENOMEM, why, "out of memory for %zu bytes", cap);
		t->at = grown;
		t->cap = cap;
	}
	memcpy(t->at + t->n, bytes, n);
	t->n += n;
	return M2_OK;
}

/* One part, its spaces spelled as the model spells them. */
static enum m2_err append_part(const struct m2_spm_norm *norm, struct text *t, const char *part,
	size_t n, struct m2_why *why)
{
	enum m2_err err = M2_OK;
	if (norm->keep_spaces || memchr(part, ' ', n) == NULL)
		return append(t, part, n, why);
	for (size_t i = 0; i < n && err == M2_OK; i++)
		err = part[i] == ' ' ? append(t, M2_SPACE_MARK, 3, why)
				     : append(t, part + i, 1, why);
	return err;
}

static enum m2_err append_space(const struct m2_spm_norm *norm, struct text *t, struct m2_why *why)
{
	return append_part(norm, t, " ", 1, why);
}

/* SentencePiece's Normalizer::Normalize, order and all. */
static enum m2_err run(const struct m2_spm_norm *norm, const char *text, size_t length,
	struct text *out, struct m2_why *why)
{
	const char *part;
	size_t n;
	enum m2_err err = M2_OK;
	while (norm->squeeze && length > 0) {
		const size_t used = next_part(norm, text, length, &part, &n);
		if (n != 1 || part[0] != ' ')
			break;
		text += used;
		length -= used;
	}
	if (length == 0)
		return M2_OK;
	if (norm->dummy_prefix && !norm->dummy_suffix)
		err = append_space(norm, out, why);
	for (bool after_space = norm->squeeze; length > 0 && err == M2_OK;) {
		const size_t used = next_part(norm, text, length, &part, &n);
		for (; after_space && n > 0 && part[0] == ' '; n--)
			part++;
		if (n > 0) {
			err = append_part(norm, out, part, n, why);
			after_space = norm->squeeze && part[n - 1] == ' ';
		}
		text += used;
		length -= used;
	}
	const char *mark = norm->keep_spaces ? " " : M2_SPACE_MARK;
	const size_t size = strlen(mark);
	while (norm->squeeze && out->n >= size && memcmp(out->at + out->n - size, mark, size) == 0)
		out->n -= size;
	if (norm->dummy_prefix && norm->dummy_suffix && err == M2_OK)
		err = append_space(norm, out, why);
	return err;
}

enum m2_err m2_spm_normalize(const struct m2_spm_norm *norm, const char *text, size_t length,
	char **out, size_t *out_length, struct m2_why *why)
{
	char *form = NULL;
	size_t form_length = 0;
	struct text t = {.cap = length + length / 2 + 16, .limit = GROWTH * length + SLACK};
	*out = NULL;
	enum m2_err err = M2_OK;
	if (norm->nfkc && norm->units == NULL)
		err = m2_unicode_normalize(M2_NFKC, text, length, &form, &form_length, why);
	t.at = err == M2_OK ? malloc(t.cap) : NULL;
	if (err == M2_OK && t.at == NULL)
		err = m2_fail(M2_ENOMEM, why, "out of memory for %zu bytes", t.cap);
	if (err == M2_OK)
		err = form != NULL ? run(norm, form, form_length, &t, why)
				   : run(norm, text, length, &t, why);
	free(form);
	if (err != M2_OK) {
		free(t.at);
		return err;
	}
	*out = t.at;
	*out_length = t.n;
	return M2_OK;
}
