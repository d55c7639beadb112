/* gguf_tokens.c - tokens, their kinds and scores, and merges, as the file holds them. */
#include "model/gguf_tokens.h"

#include <math.h>
#include <stdlib.h>

#include "common/utf8.h"

enum { MAX_ENTRIES = 1 << 21, MAX_TEXT = 1 << 16 };

static const char tokens_key[] = "tokenizer.ggml.tokens";
static const char merges_key[] = "tokenizer.ggml.merges";
static const char types_key[] = "tokenizer.ggml.token_type";
static const char scores_key[] = "tokenizer.ggml.scores";

/* "[PAD" digits "]" */
static bool is_filler(const char *text, size_t length)
{
	if (length < 6 || text[0] != '[' || text[1] != 'P' || text[2] != 'A' || text[3] != 'D' ||
		text[length - 1] != ']')
		return false;
	for (size_t i = 4; i + 1 < length; i++)
		if (text[i] < '0' || text[i] > '9')
			return false;
	return true;
}

/* An array of strings; *out NULL where there is none. */
static enum m2_err find_strings(const struct m2_gguf *g, const char *name,
	const struct m2_gguf_key **out, struct m2_why *why)
{
	const enum m2_err err = m2_gguf_get_array(g, name, out, why);
	if (err != M2_OK || *out == NULL)
		return err;
	if ((*out)->element != M2_GGUF_STRING)
		return m2_fail_field(
			M2_EINVAL, why, name, "%s: %s is no array of strings", g->what, name);
	if ((*out)->count > MAX_ENTRIES)
		return m2_fail_field(M2_ELIMIT, why, name, "%s: %s has %llu entries, more than %d",
			g->what, name, (unsigned long long)(*out)->count, MAX_ENTRIES);
	return M2_OK;
}

enum m2_err m2_gguf_count_tokens(const struct m2_gguf *g, size_t *count, struct m2_why *why)
{
	const struct m2_gguf_key *key;
	const enum m2_err err = find_strings(g, tokens_key, &key, why);
	*count = 0;
	if (err != M2_OK || key == NULL)
		return err;
	size_t at = key->value;
	for (size_t i = 0; i < key->count; i++) {
		const char *text;
		size_t length;
		m2_gguf_next_string(g, &at, &text, &length);
		if (!is_filler(text, length))
			*count = i + 1;
	}
	if (*count == 0)
		return m2_fail_field(
			M2_EINVAL, why, tokens_key, "%s: %s has no token", g->what, tokens_key);
	return M2_OK;
}

/* The first count strings of a key, as normal pieces. */
static enum m2_err read_strings(const struct m2_gguf *g, const struct m2_gguf_key *key,
	const char *name, size_t count, struct m2_piece **out, struct m2_why *why)
{
	struct m2_piece *pieces = calloc(count + 1, sizeof *pieces);
	if (pieces == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: no memory for %s", g->what, name);
	size_t at = key->value;
	for (size_t i = 0; i < count; i++) {
		struct m2_piece *p = &pieces[i];
		p->kind = M2_PIECE_NORMAL;
		m2_gguf_next_string(g, &at, &p->text, &p->length);
		if (p->length <= MAX_TEXT && m2_utf8_valid(p->text, p->length))
			continue;
		free(pieces);
		return m2_fail_field(M2_EFORMAT, why, name,
			"%s: entry %zu of %s is not valid UTF-8 or has more than %d bytes", g->what,
			i, name, MAX_TEXT);
	}
	*out = pieces;
	return M2_OK;
}

/* An array beside the tokens, with as many entries; *out NULL where there is none. */
static enum m2_err find_beside(const struct m2_gguf *g, const char *name,
	const struct m2_gguf_key **out, struct m2_why *why)
{
	const struct m2_gguf_key *tokens = m2_gguf_find(g, tokens_key);
	const enum m2_err err = m2_gguf_get_array(g, name, out, why);
	if (err == M2_OK && *out != NULL && (*out)->count != tokens->count)
		return m2_fail_field(M2_EINVAL, why, name,
			"%s: %s has %llu entries, there are %llu tokens", g->what, name,
			(unsigned long long)(*out)->count, (unsigned long long)tokens->count);
	return err;
}

static enum m2_err put_kinds(
	const struct m2_gguf *g, struct m2_piece *pieces, size_t count, struct m2_why *why)
{
	const struct m2_gguf_key *key;
	const enum m2_err err = find_beside(g, types_key, &key, why);
	if (err != M2_OK)
		return err;
	if (key != NULL && !m2_gguf_is_integer(key->element))
		return m2_fail_field(M2_EINVAL, why, types_key, "%s: %s is no array of integers",
			g->what, types_key);
	for (size_t i = 0; i < count; i++) {
		struct m2_piece *p = &pieces[i];
		const int64_t kind = key != NULL ? m2_gguf_element_int(g, key, i) : M2_PIECE_NORMAL;
		if (kind < 0 || kind > M2_PIECE_BYTE)
			return m2_fail_field(M2_EINVAL, why, types_key,
				"%s: %s of token %zu is %lld, outside 0..%d", g->what, types_key, i,
				(long long)kind, (int)M2_PIECE_BYTE);
		/* 0 is "undefined", which older writers leave where nothing is special */
		p->kind = kind == 0 ? M2_PIECE_NORMAL : (enum m2_piece_kind)kind;
		/* a hole among the ids; older converters call it user-defined */
		if (p->length == 0 || (is_filler(p->text, p->length) && p->kind != M2_PIECE_NORMAL))
			p->kind = M2_PIECE_UNUSED;
	}
	return M2_OK;
}

static enum m2_err put_scores(
	const struct m2_gguf *g, struct m2_piece *pieces, size_t count, struct m2_why *why)
{
	const struct m2_gguf_key *key;
	const enum m2_err err = find_beside(g, scores_key, &key, why);
	if (err != M2_OK || key == NULL)
		return err;
	if (key->element != M2_GGUF_F32)
		return m2_fail_field(M2_EINVAL, why, scores_key, "%s: %s is no array of f32",
			g->what, scores_key);
	for (size_t i = 0; i < count; i++) {
		pieces[i].score = m2_gguf_element_f32(g, key, i);
		if (!isfinite(pieces[i].score))
			return m2_fail_field(M2_EINVAL, why, scores_key,
				"%s: the score of token %zu is not finite", g->what, i);
	}
	return M2_OK;
}

enum m2_err m2_gguf_read_tokens(
	const struct m2_gguf *g, size_t count, struct m2_piece **pieces, struct m2_why *why)
{
	const struct m2_gguf_key *key;
	enum m2_err err = find_strings(g, tokens_key, &key, why);
	if (err == M2_OK)
		err = read_strings(g, key, tokens_key, count, pieces, why);
	if (err != M2_OK)
		return err;
	err = put_kinds(g, *pieces, count, why);
	if (err == M2_OK)
		err = put_scores(g, *pieces, count, why);
	if (err != M2_OK) {
		free(*pieces);
		*pieces = NULL;
	}
	return err;
}

enum m2_err m2_gguf_read_merges(
	const struct m2_gguf *g, struct m2_piece **merges, size_t *count, struct m2_why *why)
{
	const struct m2_gguf_key *key;
	const enum m2_err err = find_strings(g, merges_key, &key, why);
	*count = 0;
	if (err != M2_OK || key == NULL)
		return err;
	*count = (size_t)key->count;
	return read_strings(g, key, merges_key, *count, merges, why);
}
