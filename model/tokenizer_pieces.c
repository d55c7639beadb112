/* tokenizer_pieces.c - a tokenizer from lists of pieces: SentencePiece's, or byte-level BPE from a GGUF.
 *
 * What the kinds of pieces mean, and what each decodes to; how scores become merges is
 * tokenizer_scores.c's.
 */
#include "model/tokenizer_pieces.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/tokenizer_load.h"
#include "model/tokenizer_scores.h"

static bool by_merges(const struct m2_pieces *p)
{
	return p->merges != NULL;
}

static enum m2_err refuse_piece(const struct m2_tokenizer_load *l, size_t id, const char *defect)
{
	return m2_fail_field(M2_EFORMAT, l->why, "pieces", "%s: piece %zu %s", l->what, id, defect);
}

/* ---- pieces ---- */

static bool is_byte_piece(const struct m2_piece *p)
{
	static const char digits[] = "0123456789ABCDEF";
	return p->length == 6 && memcmp(p->text, "<0x", 3) == 0 && p->text[5] == '>' &&
	       memchr(digits, p->text[3], 16) != NULL && memchr(digits, p->text[4], 16) != NULL;
}

static enum m2_err check_piece(
	const struct m2_tokenizer_load *l, const struct m2_pieces *p, size_t id)
{
	const struct m2_piece *piece = &p->pieces[id];
	const size_t limit = by_merges(p) ? M2_MAX_TOKEN_BYTES : M2_MAX_PIECE_BYTES;
	if (piece->length == 0)
		return refuse_piece(l, id, "is empty");
	if (piece->length > limit)
		return m2_fail_field(M2_EFORMAT, l->why, "pieces",
			"%s: piece %zu has %zu bytes, more than %zu", l->what, id, piece->length,
			limit);
	if (!m2_utf8_valid(piece->text, piece->length))
		return refuse_piece(l, id, "is not valid UTF-8");
	if (memchr(piece->text, '\0', piece->length) != NULL)
		return refuse_piece(l, id, "has a NUL in it");
	if (!by_merges(p) && !isfinite(piece->score))
		return refuse_piece(l, id, "has a score that is no finite number");
	if (piece->kind < M2_PIECE_NORMAL || piece->kind > M2_PIECE_BYTE)
		return refuse_piece(l, id, "has a type outside 1..6");
	if (piece->kind == M2_PIECE_BYTE && !is_byte_piece(piece))
		return refuse_piece(l, id, "is of type BYTE and not spelled <0x00> to <0xFF>");
	return M2_OK;
}

static enum m2_err put_pieces(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	enum m2_err err = p->count > 0 && p->count <= (size_t)M2_MAX_TOKEN_ID + 1
				  ? m2_load_reserve(l, (int64_t)p->count - 1, p->count)
				  : m2_fail_field(M2_EFORMAT, l->why, "pieces",
					    "%s: %zu pieces, outside 1..%d", l->what, p->count,
					    M2_MAX_TOKEN_ID + 1);
	for (size_t id = 0; id < p->count && err == M2_OK; id++) {
		err = check_piece(l, p, id);
		if (err == M2_OK)
			err = m2_load_put(
				l, (int64_t)id, p->pieces[id].text, p->pieces[id].length, "pieces");
		if (err != M2_OK)
			break;
		struct m2_token *token = &t->tokens[id];
		const enum m2_piece_kind kind = p->pieces[id].kind;
		token->special = kind == M2_PIECE_CONTROL;
		token->byte = kind == M2_PIECE_BYTE && !by_merges(p);
		token->unused = kind == M2_PIECE_UNUSED && !by_merges(p);
		t->has_unused |= token->unused;
		/* only these are ever the result of a merge or a character of a text */
		token->matches = m2_piece_merges(kind);
	}
	return err;
}

static enum m2_err add_token(struct m2_tokenizer_load *l, const struct m2_piece *piece, int32_t id,
	struct m2_added_token *list, size_t *count)
{
	struct m2_added_token *a = &list[*count];
	a->text = malloc(piece->length + 1);
	if (a->text == NULL)
		return m2_load_no_memory(l);
	memcpy(a->text, piece->text, piece->length);
	a->text[piece->length] = '\0';
	a->length = piece->length;
	a->id = id;
	(*count)++;
	return M2_OK;
}

/* Control tokens are found in a text on request only.  What the user defined is found always: by
 * SentencePiece wherever it looks at characters, by the reference library's BPE after normalisation. */
static enum m2_err put_added(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	size_t n[2] = {0, 0};
	enum m2_err err = M2_OK;
	for (size_t id = 0; id < p->count; id++) {
		n[0] += p->pieces[id].kind == M2_PIECE_CONTROL;
		n[1] += p->pieces[id].kind == M2_PIECE_USER_DEFINED;
	}
	if (n[0] + n[1] > M2_MAX_ADDED)
		return m2_fail_field(M2_ELIMIT, l->why, "pieces",
			"%s: %zu control and user-defined pieces, more than %d", l->what,
			n[0] + n[1], M2_MAX_ADDED);
	t->added = calloc(n[0] + n[1] + 1, sizeof *t->added);
	t->pieces = calloc(n[1] + 1, sizeof *t->pieces);
	if (t->added == NULL || t->pieces == NULL)
		return m2_load_no_memory(l);
	for (size_t id = 0; id < p->count && err == M2_OK; id++) {
		const struct m2_piece *piece = &p->pieces[id];
		const bool control = piece->kind == M2_PIECE_CONTROL;
		if (!control && piece->kind != M2_PIECE_USER_DEFINED)
			continue;
		if (piece->length > M2_MAX_ADDED_BYTES)
			return refuse_piece(l, id, "is too long for a control or user-defined one");
		if (!control && !by_merges(p)) {
			err = add_token(l, piece, (int32_t)id, t->pieces, &t->n_pieces);
			continue;
		}
		struct m2_added_token *a = &t->added[t->n_added];
		err = add_token(l, piece, (int32_t)id, t->added, &t->n_added);
		a->special = control;
		a->normalized = !control;
	}
	if (err == M2_OK && by_merges(p))
		err = m2_load_put_added(l);
	if (err == M2_OK && !by_merges(p))
		err = m2_added_set_init(
			&t->spm.defined, t->pieces, t->n_pieces, false, false, l->why);
	return err;
}

/* ---- merges by rank ---- */

static enum m2_err read_merges(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	enum m2_err err = m2_bpe_init(&l->t->bpe, p->n_merges, l->why);
	for (size_t i = 0; i < p->n_merges && err == M2_OK; i++) {
		const struct m2_piece *m = &p->merges[i];
		const char *space = memchr(m->text, ' ', m->length);
		const size_t n = space == NULL ? 0 : (size_t)(space - m->text);
		const size_t rest = space == NULL ? 0 : m->length - n - 1;
		if (n == 0 || rest == 0 || m->length > M2_MAX_TOKEN_BYTES ||
			memchr(space + 1, ' ', rest) != NULL)
			return m2_fail_field(M2_EFORMAT, l->why, "merges",
				"%s: merge %zu is not a pair of tokens", l->what, i);
		err = m2_load_merge(l, m->text, n, space + 1, rest, i);
	}
	return err;
}

static enum m2_err make_byte_level(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	t->cuts = calloc(1, sizeof *t->cuts);
	t->norms = calloc(1, sizeof *t->norms);
	if (t->cuts == NULL || t->norms == NULL)
		return m2_load_no_memory(l);
	t->cuts[t->n_cuts++] = (struct m2_cut_step){.kind = M2_CUT_BYTE_LEVEL,
		.behaviour = M2_CUT_ISOLATED,
		.prefix = p->add_dummy_prefix,
		.scan = m2_gpt2_next};
	if (p->nfc)
		t->norms[t->n_norms++] =
			(struct m2_norm_step){.kind = M2_NORM_FORM, .form = M2_NFC};
	return read_merges(l, p);
}

/* ---- texts ---- */

static enum m2_err replace(
	struct m2_tokenizer_load *l, const char *text, size_t length, struct m2_span *out)
{
	char *spaced;
	size_t n = length;
	enum m2_err err =
		m2_replace_all(text, length, M2_SPACE_MARK, 3, " ", 1, &spaced, &n, l->why);
	if (err == M2_OK)
		err = m2_load_bytes(l, spaced != NULL ? spaced : text, n, out);
	free(spaced);
	return err;
}

static enum m2_err text_of_piece(
	struct m2_tokenizer_load *l, struct m2_token *token, const void *context)
{
	static const char unknown[] = " \xe2\x81\x87 "; /* SentencePiece's default unk_surface */
	const struct m2_pieces *p = context;
	const struct m2_piece *piece = &p->pieces[token - l->t->tokens];
	enum m2_err err;
	if (piece->kind == M2_PIECE_UNKNOWN) {
		err = m2_load_bytes(l, unknown, sizeof unknown - 1, &token->text);
	} else if (token->byte) {
		const unsigned char byte = (unsigned char)strtoul(
			(const char[]){piece->text[3], piece->text[4], 0}, NULL, 16);
		err = m2_load_bytes(l, &byte, 1, &token->text);
	} else if (piece->kind == M2_PIECE_CONTROL) {
		err = m2_load_bytes(l, piece->text, piece->length, &token->text);
	} else {
		err = replace(l, piece->text, piece->length, &token->text);
	}
	token->first = token->text;
	const bool spaced = piece->length >= 3 && memcmp(piece->text, M2_SPACE_MARK, 3) == 0;
	if (spaced && (m2_piece_merges(piece->kind) || piece->kind == M2_PIECE_USER_DEFINED)) {
		token->first.at++;
		token->first.length--;
	}
	return err;
}

static enum m2_err text_of_bytes(
	struct m2_tokenizer_load *l, struct m2_token *token, const void *context)
{
	const struct m2_pieces *p = context;
	const struct m2_piece *piece = &p->pieces[token - l->t->tokens];
	unsigned char *bytes = malloc(piece->length + 1);
	if (bytes == NULL)
		return m2_load_no_memory(l);
	const ptrdiff_t n =
		token->added ? -1 : m2_bytes_of_stand_ins(piece->text, piece->length, bytes);
	const enum m2_err err = n >= 0 ? m2_load_bytes(l, bytes, (size_t)n, &token->text)
				       : m2_load_bytes(l, piece->text, piece->length, &token->text);
	token->first = token->text;
	free(bytes);
	return err;
}

/* ---- all of it ---- */

/* SentencePiece's form: unlike the others it has no list of words for bytes, control pieces and what the
 * user defined, so the table of words is made anew before pieces are cut. */
static enum m2_err make_spm(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	enum m2_err err = M2_OK;
	t->byte_fallback = true;
	for (unsigned byte = 0; byte < 256; byte++) {
		const int32_t id = t->byte_ids[byte];
		t->byte_fallback &= id >= 0 && p->pieces[id].kind == M2_PIECE_BYTE;
	}
	m2_words_clear(t);
	for (size_t id = 0; id < p->count && err == M2_OK; id++)
		if (t->tokens[id].matches ||
			(p->unigram && p->pieces[id].kind == M2_PIECE_USER_DEFINED))
			err = m2_word_add(t, (int32_t)id, l->why);
	t->spm.dummy_prefix = p->add_dummy_prefix;
	t->spm.squeeze = p->remove_extra_whitespaces;
	t->spm.dummy_suffix = p->whitespace_suffix;
	t->spm.keep_spaces = p->keep_spaces;
	t->spm.nfkc = p->nfkc;
	t->beginning = p->remove_extra_whitespaces ? M2_BEGINNING_PIECES
		       : p->add_dummy_prefix       ? M2_BEGINNING_PIECE
						   : M2_BEGINNING_PLAIN;
	if (err == M2_OK)
		err = m2_charsmap_read(&t->spm, p->charsmap, p->charsmap_length, l->what, l->why);
	if (err != M2_OK)
		return err;
	return p->unigram ? m2_load_scores(l, p) : m2_load_merges_by_score(l, p);
}

static enum m2_err set_template(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	const int32_t ids[] = {p->bos, p->eos, p->unk};
	for (size_t i = 0; i < 3; i++)
		if (ids[i] < -1 || ids[i] >= t->size)
			return m2_fail_field(M2_EFORMAT, l->why, "pieces",
				"%s: an id of a special token is %d, outside 0..%d", l->what,
				ids[i], t->size - 1);
	t->bos = p->bos;
	t->eos = p->eos;
	t->unk = p->unk;
	return m2_tokenizer_set_ends(t, p->add_bos, p->add_eos, l->why);
}

static enum m2_err make(struct m2_tokenizer_load *l, const struct m2_pieces *p)
{
	struct m2_tokenizer *t = l->t;
	t->symbols = by_merges(p) ? M2_SYMBOLS_BYTES
		     : p->unigram ? M2_SYMBOLS_UNIGRAM
				  : M2_SYMBOLS_PIECES;
	t->byte_level = by_merges(p);
	t->kind = strdup(p->kind);
	enum m2_err err = t->kind != NULL ? put_pieces(l, p) : m2_load_no_memory(l);
	if (err == M2_OK)
		err = set_template(l, p);
	if (err == M2_OK)
		err = put_added(l, p);
	if (err != M2_OK)
		return err;
	m2_load_byte_ids(l);
	err = by_merges(p) ? make_byte_level(l, p) : make_spm(l, p);
	if (err == M2_OK)
		err = m2_load_texts(l, by_merges(p) ? text_of_bytes : text_of_piece, p);
	return err == M2_OK ? m2_load_finish(l) : err;
}

enum m2_err m2_tokenizer_from_pieces(
	const struct m2_pieces *pieces, struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_tokenizer_load l = {.what = pieces->what, .why = why};
	l.t = calloc(1, sizeof *l.t);
	if (l.t == NULL)
		return m2_load_no_memory(&l);
	const enum m2_err err = make(&l, pieces);
	if (err != M2_OK) {
		m2_tokenizer_close(&l.t);
		return err;
	}
	*out = l.t;
	return M2_OK;
}
