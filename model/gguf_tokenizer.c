/* gguf_tokenizer.c - the tokenizer that a GGUF file carries, handed on as lists of pieces.
 *
 * llama.cpp's converters write the vocabulary of a tokenizer.json or of a SentencePiece model, and say
 * the rest of the pipeline by two names: tokenizer.ggml.model and, for byte-level BPE, the pre-tokenizer
 * tokenizer.ggml.pre.  Here the pieces are put into the form that both have in their own files, so that
 * ids come out as from those: converters write the text of added tokens plainly, older ones do not mark
 * them, and NFC, which GPT-NeoX's file asks for, is nowhere in the keys.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/byte_alphabet.h"
#include "model/gguf_keys.h"
#include "model/gguf_tokens.h"

struct making {
	const struct m2_gguf *g;
	struct m2_why *why;
	struct m2_pieces p;
	struct m2_piece *pieces; /* [p.count], owned */
	struct m2_piece *merges; /* owned */
	char *spelled;           /* texts that had to be spelled otherwise; owned */
};

/* Names of pre-tokenizers that cut as GPT-2 does.  mpt and olmo are GPT-NeoX's tokenizer: converters tell
 * tokenizers apart by how they encode one text, which these three encode alike.  dbrx, which is in the
 * neighbourhood, is not here: its pattern is Llama 3's. */
static const struct pre_row {
	const char *name;
	bool neox;
} pres[] = {
	{"default", false},
	{"gpt-2", false},
	{"gpt2", false},
	{"gpt-neox", true},
	{"mpt", true},
	{"olmo", true},
};

static bool text_is(const char *text, size_t length, const char *wanted)
{
	return length == strlen(wanted) && memcmp(text, wanted, length) == 0;
}

/* ---- texts ---- */

/* Texts that a piece cannot have, put right: an empty one, which some converters write for a hole, gets a
 * name; in SentencePiece's form a space is spelled U+2581, where converters write user-defined pieces with
 * plain ones. */
static enum m2_err spell(struct making *m, bool spm)
{
	enum { EMPTY_BYTES = 32 };
	static const char space[] = "\xe2\x96\x81";
	size_t bytes = 0;
	for (size_t i = 0; i < m->p.count; i++) {
		const struct m2_piece *p = &m->pieces[i];
		if (p->length == 0)
			bytes += EMPTY_BYTES;
		else if (spm && p->kind == M2_PIECE_USER_DEFINED)
			bytes += 3 * p->length;
	}
	if (bytes == 0)
		return M2_OK;
	m->spelled = malloc(bytes);
	if (m->spelled == NULL)
		return m2_fail(M2_ENOMEM, m->why, "%s: out of memory", m->g->what);
	char *out = m->spelled;
	for (size_t i = 0; i < m->p.count; i++) {
		struct m2_piece *p = &m->pieces[i];
		const char *begin = out;
		if (p->length == 0)
			out += snprintf(out, EMPTY_BYTES, "[EMPTY_%zu]", i);
		else if (!spm || p->kind != M2_PIECE_USER_DEFINED)
			continue;
		for (size_t k = 0; k < p->length; k++) {
			const bool is_space = p->text[k] == ' ';
			memcpy(out, is_space ? space : &p->text[k], is_space ? 3 : 1);
			out += is_space ? 3 : 1;
		}
		p->text = begin;
		p->length = (size_t)(out - begin);
	}
	return M2_OK;
}

/* ---- byte-level BPE ---- */

/* Ids 0 and 1 of GPT-NeoX's vocabulary, which files older than tokenizer.ggml.pre carry as well. */
static bool looks_like_neox(const struct making *m)
{
	return m->p.count > 2 && text_is(m->pieces[0].text, m->pieces[0].length, "<|endoftext|>") &&
	       text_is(m->pieces[1].text, m->pieces[1].length, "<|padding|>");
}

static enum m2_err read_pre(struct making *m)
{
	static const char key[] = "tokenizer.ggml.pre";
	const char *text = "default";
	size_t length = strlen(text);
	const enum m2_err err = m2_gguf_get_string(m->g, key, &text, &length, NULL, m->why);
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < sizeof pres / sizeof *pres; i++)
		if (text_is(text, length, pres[i].name)) {
			m->p.nfc = pres[i].neox || looks_like_neox(m);
			return M2_OK;
		}
	return m2_fail_field(M2_EUNSUPPORTED, m->why, key,
		"%s: %s is \"%.*s\"; only names of GPT-2's pattern are supported (default, gpt-2, "
		"mpt, olmo)",
		m->g->what, key, length < 64 ? (int)length : 64, text);
}

/* A piece that no stand-ins spell is text: an added token that was not marked. */
static enum m2_err mark_added(struct making *m)
{
	size_t longest = 1;
	for (size_t i = 0; i < m->p.count; i++)
		longest = m->pieces[i].length > longest ? m->pieces[i].length : longest;
	unsigned char *bytes = malloc(longest);
	if (bytes == NULL)
		return m2_fail(M2_ENOMEM, m->why, "%s: out of memory", m->g->what);
	for (size_t i = 0; i < m->p.count; i++) {
		struct m2_piece *p = &m->pieces[i];
		if (p->kind == M2_PIECE_NORMAL &&
			m2_bytes_of_stand_ins(p->text, p->length, bytes) < 0)
			p->kind = M2_PIECE_USER_DEFINED;
		/* nothing is unknown to bytes: it is a token that only its name gives */
		if (p->kind == M2_PIECE_UNKNOWN)
			p->kind = M2_PIECE_CONTROL;
	}
	free(bytes);
	return M2_OK;
}

/* The token that a key names, where it is written as such tokens are and not marked as one. */
static void mark_control(struct making *m, int32_t id)
{
	if (id < 0)
		return;
	struct m2_piece *p = &m->pieces[id];
	if (p->kind == M2_PIECE_NORMAL && p->length > 2 && (p->text[0] == '<' || p->text[0] == '['))
		p->kind = M2_PIECE_CONTROL;
}

static enum m2_err make_byte_level(struct making *m)
{
	m->p.kind = "byte-level BPE, GGUF";
	enum m2_err err = read_pre(m);
	if (err == M2_OK)
		err = m2_gguf_read_merges(m->g, &m->merges, &m->p.n_merges, m->why);
	if (err == M2_OK && m->merges == NULL)
		err = m2_fail_field(M2_EFORMAT, m->why, "tokenizer.ggml.merges",
			"%s lacks tokenizer.ggml.merges", m->g->what);
	if (err == M2_OK)
		err = mark_added(m);
	if (err != M2_OK)
		return err;
	if (looks_like_neox(m)) {
		mark_control(m, 0);
		mark_control(m, 1);
	}
	mark_control(m, m->p.bos);
	mark_control(m, m->p.eos);
	mark_control(m, m->p.unk);
	m->p.merges = m->merges;
	return M2_OK;
}

/* ---- SentencePiece ---- */

/* The id where the key is missing, if it is a control token: 1 and 2 are what llama.cpp then takes. */
static void assume_id(const struct making *m, int32_t *id, int32_t usual)
{
	if (*id < 0 && (size_t)usual < m->p.count && m->pieces[usual].kind == M2_PIECE_CONTROL)
		*id = usual;
}

/* The normaliser's table, if the file has one. */
static enum m2_err read_charsmap(struct making *m)
{
	static const char name[] = "tokenizer.ggml.precompiled_charsmap";
	const struct m2_gguf_key *key;
	const enum m2_err err = m2_gguf_get_array(m->g, name, &key, m->why);
	if (err != M2_OK || key == NULL || key->count == 0)
		return err;
	if (key->element != M2_GGUF_U8 && key->element != M2_GGUF_I8)
		return m2_fail_field(
			M2_EINVAL, m->why, name, "%s: %s is no array of bytes", m->g->what, name);
	m->p.charsmap = m->g->data + key->value;
	m->p.charsmap_length = (size_t)key->count;
	return M2_OK;
}

static enum m2_err make_spm(struct making *m)
{
	m->p.kind = "SentencePiece BPE, GGUF";
	if (m2_gguf_find(m->g, "tokenizer.ggml.scores") == NULL)
		return m2_fail_field(M2_EFORMAT, m->why, "tokenizer.ggml.scores",
			"%s lacks tokenizer.ggml.scores", m->g->what);
	for (size_t i = 0; i < m->p.count && m->p.unk < 0; i++)
		if (m->pieces[i].kind == M2_PIECE_UNKNOWN)
			m->p.unk = (int32_t)i;
	assume_id(m, &m->p.bos, 1);
	assume_id(m, &m->p.eos, 2);
	return read_charsmap(m);
}

/* ---- both ---- */

static enum m2_err read_id(struct making *m, const char *key, int32_t *out)
{
	int64_t id = -1;
	const enum m2_err err = m2_gguf_get_int(m->g, key, -1, INT64_MAX, &id, NULL, m->why);
	if (err == M2_OK && id >= (int64_t)m->p.count)
		return m2_fail_field(M2_EINVAL, m->why, key,
			"%s: %s is %lld, but there are %zu tokens", m->g->what, key, (long long)id,
			m->p.count);
	*out = (int32_t)id;
	return err;
}

static enum m2_err read_flags(struct making *m, bool spm)
{
	const struct {
		const char *key;
		bool *at;
		bool otherwise;
	} flags[] = {
		{"tokenizer.ggml.add_bos_token", &m->p.add_bos, spm},
		{"tokenizer.ggml.add_eos_token", &m->p.add_eos, false},
		{"tokenizer.ggml.add_space_prefix", &m->p.add_dummy_prefix, spm},
		{"tokenizer.ggml.remove_extra_whitespaces", &m->p.remove_extra_whitespaces, false},
	};
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
		*flags[i].at = flags[i].otherwise;
		const enum m2_err err =
			m2_gguf_get_bool(m->g, flags[i].key, flags[i].at, NULL, m->why);
		if (err != M2_OK)
			return err;
	}
	return M2_OK;
}

static enum m2_err make(struct making *m, bool spm)
{
	enum m2_err err = m2_gguf_read_tokens(m->g, m->p.count, &m->pieces, m->why);
	if (err == M2_OK)
		err = read_id(m, "tokenizer.ggml.bos_token_id", &m->p.bos);
	if (err == M2_OK)
		err = read_id(m, "tokenizer.ggml.eos_token_id", &m->p.eos);
	if (err == M2_OK)
		err = read_id(m, "tokenizer.ggml.unknown_token_id", &m->p.unk);
	if (err == M2_OK)
		err = read_flags(m, spm);
	if (err == M2_OK)
		err = spm ? make_spm(m) : make_byte_level(m);
	if (err == M2_OK)
		err = spell(m, spm);
	if (err != M2_OK)
		return err;
	/* a file that adds what it does not have adds nothing */
	m->p.add_bos &= m->p.bos >= 0;
	m->p.add_eos &= m->p.eos >= 0;
	m->p.pieces = m->pieces;
	return M2_OK;
}

enum m2_err m2_gguf_tokenizer(
	const struct m2_gguf *gguf, struct m2_tokenizer **out, struct m2_why *why)
{
	static const char key[] = "tokenizer.ggml.model";
	struct making m = {.g = gguf, .why = why, .p = {.what = gguf->what}};
	const char *model = NULL;
	size_t length = 0;
	enum m2_err err = m2_gguf_get_string(gguf, key, &model, &length, NULL, why);
	if (err == M2_OK)
		err = m2_gguf_count_tokens(gguf, &m.p.count, why);
	if (err != M2_OK)
		return err;
	if (model == NULL || m.p.count == 0)
		return m2_fail_field(M2_ENOENT, why, key, "%s has no tokenizer: %s is missing",
			gguf->what, model == NULL ? key : "tokenizer.ggml.tokens");
	const bool spm = text_is(model, length, "llama");
	if (!spm && !text_is(model, length, "gpt2"))
		return m2_fail_field(M2_EUNSUPPORTED, why, key,
			"%s: %s is \"%.*s\"; gpt2 (byte-level BPE) and llama (SentencePiece BPE) "
			"are supported",
			gguf->what, key, length < 64 ? (int)length : 64, model);
	err = make(&m, spm);
	if (err == M2_OK)
		err = m2_tokenizer_from_pieces(&m.p, out, why);
	free(m.pieces);
	free(m.merges);
	free(m.spelled);
	return err;
}
