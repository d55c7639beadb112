/* tokenizer_unigram.c - SentencePiece's other model: of all ways to cut a text into pieces, the one with
 * the greatest sum of scores.
 *
 * Source: Kudo 2018 (arXiv 1804.10959); the order of comparisons and the precision of sums are those of
 * Model::EncodeOptimized in SentencePiece 0.2, because ties and rounding decide ids.  Every beginning of
 * every piece is in the table of words, so a walk stops where no piece goes on.
 */
#include <stdlib.h>

#include "common/utf8.h"
#include "model/tokenizer_encode.h"

struct m2_unigram_step {
	float score;  /* of the best way to here */
	int32_t id;   /* its last piece, -1: a character that is none */
	int32_t from; /* where that begins, -1: no way to here yet */
};

static void offer(struct m2_unigram_step *to, double score, int32_t id, size_t from)
{
	if (to->from < 0 || score > (double)to->score)
		*to = (struct m2_unigram_step){(float)score, id, (int32_t)from};
}

/* Every piece that begins at `at`. */
static void walk(struct m2_encoder *e, const unsigned char *text, size_t length, size_t at)
{
	const struct m2_tokenizer *t = e->t;
	const double here = (double)e->steps[at].score;
	uint64_t hash = 0;
	uint32_t code;
	bool single = false;
	size_t first = 0;
	for (size_t end = at; end < length;) {
		const size_t n = (size_t)m2_utf8_decode(text + end, length - end, &code);
		hash = m2_word_hash(hash, text + end, n);
		end += n;
		first = first == 0 ? end : first;
		const int32_t id = m2_word_find_hashed(t, hash, text + at, end - at);
		if (id < 0)
			break;
		if (id >= t->size || t->tokens[id].unused)
			continue;
		offer(&e->steps[end], t->scores[id] + here, id, at);
		single |= end == first;
	}
	if (!single)
		offer(&e->steps[first], (double)t->unk_score + here, -1, at);
}

enum m2_err m2_encode_unigram(struct m2_encoder *e, const char *text, size_t length)
{
	const unsigned char *p = (const unsigned char *)text;
	if (e->cap_steps < length + 1) {
		free(e->steps);
		e->cap_steps = length + 1;
		e->steps = malloc(e->cap_steps * sizeof *e->steps);
		if (e->steps == NULL) {
			e->cap_steps = 0;
			return m2_fail(
				M2_ENOMEM, e->why, "out of memory for a text of %zu bytes", length);
		}
	}
	for (size_t i = 0; i <= length; i++)
		e->steps[i] = (struct m2_unigram_step){0, -1, -1};
	for (size_t at = 0; at < length;) {
		uint32_t code;
		walk(e, p, length, at);
		at += (size_t)m2_utf8_decode(p + at, length - at, &code);
	}
	/* the way is found backwards: turn it round, `id` and `from` of each step handed to its beginning */
	int32_t next = (int32_t)length;
	for (int32_t at = next; at > 0;) {
		const int32_t from = e->steps[at].from;
		const int32_t id = e->steps[at].id;
		e->steps[at].from =
			next; /* where the piece that begins here ends, once `at` is a beginning */
		next = at;
		at = from;
		e->steps[next].score = (float)id; /* ids are below 2^24: exact */
	}
	enum m2_err err = M2_OK;
	bool in_run = false;
	for (size_t at = 0; at < length && err == M2_OK;) {
		const size_t end = (size_t)next;
		const int32_t id = (int32_t)e->steps[end].score;
		if (id < 0)
			err = m2_encode_unknown(e, p + at, end - at, &in_run);
		else {
			in_run = false;
			err = m2_encoder_push(e, id);
		}
		next = e->steps[end].from;
		at = end;
	}
	return err;
}
