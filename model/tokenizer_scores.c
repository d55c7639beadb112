/* tokenizer_scores.c - from scores of pieces to merges, or to a walk through beginnings.
 *
 * SentencePiece merges any two neighbours that together are a piece, best score first.  Which pairs of
 * symbols are a piece is worked out here, once, by trying every cut of every piece; encoding then is the
 * same merging by rank as everywhere else.  A character that is no piece but part of one becomes a symbol
 * without an id of its own (m2_load_put_nameless).
 */
#include "model/tokenizer_scores.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

enum { MAX_PAIRS = 1 << 22 };

bool m2_piece_merges(enum m2_piece_kind kind)
{
	return kind == M2_PIECE_NORMAL || kind == M2_PIECE_UNUSED;
}

struct scored {
	float score;
	int32_t id;
};

static int by_score(const void *a, const void *b)
{
	const struct scored *x = a;
	const struct scored *y = b;
	return x->score > y->score ? -1 : x->score < y->score;
}

/* Every beginning of a piece (`all`), or every character of it, is a symbol. */
static enum m2_err name_parts(struct m2_tokenizer_load *l, int32_t id, bool all)
{
	const struct m2_tokenizer *t = l->t;
	unsigned char text[M2_MAX_PIECE_BYTES];
	const size_t length = t->tokens[id].spelled.length;
	enum m2_err err = M2_OK;
	/* a copy: what the tokenizer holds moves when more is put there */
	memcpy(text, m2_span_bytes(t, &t->tokens[id].spelled), length);
	for (size_t at = 0; at < length && err == M2_OK;) {
		uint32_t code;
		const size_t n = (size_t)m2_utf8_decode(text + at, length - at, &code);
		const size_t from = all ? 0 : at;
		const int32_t known = m2_word_find(t, text + from, at + n - from);
		if (known < 0)
			err = m2_load_put_nameless(l, text + from, at + n - from);
		at += n;
	}
	return err;
}

static enum m2_err add_pairs(struct m2_tokenizer_load *l, int32_t id, uint32_t rank)
{
	struct m2_tokenizer *t = l->t;
	const unsigned char *text = m2_span_bytes(t, &t->tokens[id].spelled);
	const size_t length = t->tokens[id].spelled.length;
	const uint64_t whole = m2_word_hash(0, text, length);
	uint64_t left_hash = 0;
	uint64_t power[M2_MAX_PIECE_BYTES + 1] = {1};
	for (size_t i = 1; i <= length; i++)
		power[i] = power[i - 1] * M2_WORD_FACTOR;
	for (size_t at = 0; at < length;) {
		uint32_t code;
		const size_t n = (size_t)m2_utf8_decode(text + at, length - at, &code);
		left_hash = m2_word_hash(left_hash, text + at, n);
		at += n;
		const int32_t left = m2_word_find_hashed(t, left_hash, text, at);
		if (at == length || left < 0)
			continue;
		/* the hash is a polynomial: what is behind `at` follows from the whole */
		const int32_t right = m2_word_find_hashed(
			t, whole - left_hash * power[length - at], text + at, length - at);
		if (right < 0)
			continue;
		if (t->bpe.count >= MAX_PAIRS)
			return m2_fail_field(M2_ELIMIT, l->why, "pieces",
				"%s: its pieces have more than %d merges", l->what, MAX_PAIRS);
		const enum m2_err err = m2_bpe_add(&t->bpe, left, right, rank, id, l->why);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

/* Merges of all pieces, ranked by score; equal scores are one rank, so that the leftmost goes first. */
enum m2_err m2_load_merges_by_score(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	struct scored *order = malloc(p->count * sizeof *order);
	size_t n = 0;
	uint32_t rank = 0;
	if (order == NULL)
		return m2_load_no_memory(l);
	enum m2_err err = m2_bpe_init(&t->bpe, p->count, l->why);
	for (size_t id = 0; id < p->count && err == M2_OK; id++) {
		if (!m2_piece_merges(p->pieces[id].kind))
			continue;
		order[n++] = (struct scored){p->pieces[id].score, (int32_t)id};
		err = name_parts(l, (int32_t)id, false);
	}
	qsort(order, n, sizeof *order, by_score);
	for (size_t i = 0; i < n && err == M2_OK; i++) {
		rank += i > 0 && order[i].score < order[i - 1].score;
		err = add_pairs(l, order[i].id, rank);
	}
	free(order);
	return err;
}

/* ---- unigram ---- */

enum m2_err m2_load_scores(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	float least = FLT_MAX;
	float most = FLT_MIN; /* SentencePiece's own beginning: scores are logarithms */
	enum m2_err err = M2_OK;
	for (size_t id = 0; id < p->count && err == M2_OK; id++) {
		const float score = p->pieces[id].score;
		if (p->pieces[id].kind == M2_PIECE_NORMAL) {
			least = score < least ? score : least;
			most = score > most ? score : most;
		}
		/* the walk goes through what was user-defined as well */
		t->tokens[id].matches |= p->pieces[id].kind == M2_PIECE_USER_DEFINED;
		if (t->tokens[id].matches)
			err = name_parts(l, (int32_t)id, true);
	}
	t->scores = calloc(p->count, sizeof *t->scores);
	if (t->scores == NULL)
		return m2_load_no_memory(l);
	/* what the user defined is always taken; float and double as there */
	for (size_t id = 0; id < p->count; id++)
		t->scores[id] = p->pieces[id].kind == M2_PIECE_USER_DEFINED
					? (double)((float)p->pieces[id].length * most) - 0.1
					: (double)p->pieces[id].score;
	t->unk_score = least - 10.0F; /* kUnkPenalty */
	return err;
}
