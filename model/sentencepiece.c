/* sentencepiece.c - see the header.
 *
 * libprotobuf-c reads the wire format.  Two bytes of a file can make it allocate a whole message, so it
 * gets an allocator with a budget.  Whether a piece is sensible is tokenizer_pieces.c's to say: a GGUF
 * carries the same pieces.
 */
#include "model/sentencepiece.h"

#include <stdlib.h>
#include <string.h>

#include "model/sentencepiece.pb-c.h"

enum { MAX_FILE_BYTES = 64 << 20, BUDGET = 256 << 20, MAX_PIECES = 1 << 24 };

enum { MODEL_UNIGRAM = 1, MODEL_BPE, MODEL_WORD, MODEL_CHAR };

/* ---- an allocator that says no ---- */

/* In front of each block: its size, in room that keeps what follows aligned. */
union header {
	size_t size;
	max_align_t align;
};

static void *give(void *data, size_t size)
{
	struct m2_sentencepiece *m = data;
	if (size > m->budget || sizeof(union header) > m->budget - size)
		return NULL;
	union header *h = malloc(sizeof *h + size);
	if (h == NULL)
		return NULL;
	h->size = sizeof *h + size;
	m->budget -= h->size;
	return h + 1;
}

static void take_back(void *data, void *block)
{
	struct m2_sentencepiece *m = data;
	if (block == NULL)
		return;
	union header *h = (union header *)block - 1;
	m->budget += h->size;
	free(h);
}

static ProtobufCAllocator allocator(struct m2_sentencepiece *m)
{
	return (ProtobufCAllocator){.alloc = give, .free = take_back, .allocator_data = m};
}

/* ---- the message ---- */

static enum m2_err check_model(
	const M2__Spm__Trainer *trainer, const char *what, bool *unigram, struct m2_why *why)
{
	const int type = trainer != NULL ? trainer->model_type : MODEL_UNIGRAM;
	*unigram = type == MODEL_UNIGRAM;
	if (type == MODEL_UNIGRAM || type == MODEL_BPE)
		return M2_OK;
	return m2_fail_field(M2_EUNSUPPORTED, why, "model_type",
		"%s: its SentencePiece model is of type %d (%s); BPE and unigram are supported",
		what, type,
		type == MODEL_WORD   ? "word"
		: type == MODEL_CHAR ? "char"
				     : "unknown");
}

static enum m2_err list_pieces(
	struct m2_sentencepiece *m, const M2__Spm__Model *model, struct m2_why *why)
{
	struct m2_pieces *p = &m->pieces;
	if (model->n_pieces == 0 || model->n_pieces > MAX_PIECES)
		return m2_fail_field(M2_EFORMAT, why, "pieces", "%s: %zu pieces, outside 1..%d",
			p->what, model->n_pieces, MAX_PIECES);
	m->list = calloc(model->n_pieces, sizeof *m->list);
	if (m->list == NULL)
		return m2_fail(M2_ENOMEM, why, "%s: out of memory", p->what);
	for (size_t i = 0; i < model->n_pieces; i++) {
		const M2__Spm__Piece *piece = model->pieces[i];
		const char *text = piece->has_piece ? (const char *)piece->piece.data : "";
		m->list[i] = (struct m2_piece){text, piece->has_piece ? piece->piece.len : 0,
			piece->score, (enum m2_piece_kind)piece->type};
		if (piece->type != M2_PIECE_UNKNOWN)
			continue;
		if (p->unk >= 0)
			return m2_fail_field(M2_EFORMAT, why, "pieces",
				"%s: pieces %d and %zu are both the unknown one", p->what, p->unk,
				i);
		p->unk = (int32_t)i;
	}
	if (p->unk < 0)
		return m2_fail_field(
			M2_EFORMAT, why, "pieces", "%s: it has no unknown piece", p->what);
	p->pieces = m->list;
	p->count = model->n_pieces;
	return M2_OK;
}

/* An id of the trainer's that names a control piece, else none: models without one say so anyhow. */
static int32_t control_id(const struct m2_pieces *p, int32_t id)
{
	return id >= 0 && (size_t)id < p->count && p->pieces[id].kind == M2_PIECE_CONTROL ? id : -1;
}

static enum m2_err take_model(
	struct m2_sentencepiece *m, const M2__Spm__Model *model, struct m2_why *why)
{
	struct m2_pieces *p = &m->pieces;
	const M2__Spm__Normalizer *n = model->normalizer;
	enum m2_err err = check_model(model->trainer, p->what, &p->unigram, why);
	if (err == M2_OK)
		err = list_pieces(m, model, why);
	if (err != M2_OK)
		return err;
	p->kind = p->unigram ? "SentencePiece unigram, .model" : "SentencePiece BPE, .model";
	/* the format's defaults where a part is missing */
	p->bos = control_id(p, model->trainer != NULL ? model->trainer->bos_id : 1);
	p->eos = control_id(p, model->trainer != NULL ? model->trainer->eos_id : 2);
	p->whitespace_suffix = model->trainer != NULL && model->trainer->treat_whitespace_as_suffix;
	p->add_dummy_prefix = n == NULL || n->add_dummy_prefix;
	p->remove_extra_whitespaces = n == NULL || n->remove_extra_whitespaces;
	p->keep_spaces = n != NULL && !n->escape_whitespaces;
	if (n != NULL && n->has_precompiled_charsmap) {
		p->charsmap = n->precompiled_charsmap.data;
		p->charsmap_length = n->precompiled_charsmap.len;
	}
	return M2_OK;
}

enum m2_err m2_sentencepiece_read(struct m2_sentencepiece *out, const void *bytes, size_t length,
	const char *what, struct m2_why *why)
{
	*out = (struct m2_sentencepiece){
		.pieces = {.what = what, .bos = -1, .eos = -1, .unk = -1}, .budget = BUDGET};
	if (length > MAX_FILE_BYTES)
		return m2_fail(M2_ELIMIT, why, "%s has %zu bytes, more than %d", what, length,
			MAX_FILE_BYTES);
	ProtobufCAllocator bounded = allocator(out);
	M2__Spm__Model *model = m2__spm__model__unpack(&bounded, length, bytes);
	if (model == NULL)
		return m2_fail(M2_EFORMAT, why,
			"%s: not a SentencePiece model: its protobuf is broken or wants more than "
			"%d "
			"MiB",
			what, BUDGET >> 20);
	out->message = model;
	const enum m2_err err = take_model(out, model, why);
	if (err != M2_OK)
		m2_sentencepiece_finish(out);
	return err;
}

void m2_sentencepiece_finish(struct m2_sentencepiece *m)
{
	ProtobufCAllocator bounded = allocator(m);
	if (m->message != NULL)
		m2__spm__model__free_unpacked(m->message, &bounded);
	free(m->list);
	*m = (struct m2_sentencepiece){.budget = 0};
}

enum m2_err m2_tokenizer_parse_spm(const void *bytes, size_t length, const char *what,
	struct m2_tokenizer **out, struct m2_why *why)
{
	struct m2_sentencepiece model;
	enum m2_err err = m2_sentencepiece_read(&model, bytes, length, what, why);
	if (err != M2_OK)
		return err;
	err = m2_tokenizer_from_pieces(&model.pieces, out, why);
	m2_sentencepiece_finish(&model);
	return err;
}
