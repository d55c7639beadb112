/* tokenizer_facts.c - what a loaded tokenizer says about itself, and its end. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_parts.h"

const char *m2_tokenizer_kind(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->kind;
}

const char *m2_tokenizer_path(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->path != NULL ? tokenizer->path : "";
}

int32_t m2_tokenizer_bos(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->bos;
}

int32_t m2_tokenizer_eos(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->eos;
}

int32_t m2_tokenizer_special(const struct m2_tokenizer *tokenizer, const char *text, size_t length)
{
	for (size_t i = 0; i < tokenizer->n_added; i++) {
		const struct m2_added_token *a = &tokenizer->added[i];
		if (a->special && a->length == length && memcmp(a->text, text, length) == 0)
			return a->id;
	}
	return -1;
}

int32_t m2_tokenizer_size(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->size;
}

const unsigned char *m2_tokenizer_bytes(
	const struct m2_tokenizer *tokenizer, int32_t id, size_t *length)
{
	if (id < 0 || id >= tokenizer->size) {
		*length = 0;
		return tokenizer->bytes;
	}
	*length = tokenizer->tokens[id].text.length;
	return m2_span_bytes(tokenizer, &tokenizer->tokens[id].text);
}

bool m2_tokenizer_is_special(const struct m2_tokenizer *tokenizer, int32_t id)
{
	return id >= 0 && id < tokenizer->size && tokenizer->tokens[id].special;
}

size_t m2_tokenizer_max_text(const struct m2_tokenizer *tokenizer)
{
	return tokenizer->max_text;
}

enum m2_err m2_tokenizer_set_ends(
	struct m2_tokenizer *t, bool add_bos, bool add_eos, struct m2_why *why)
{
	free(t->before);
	free(t->after);
	t->n_before = t->n_after = 0;
	t->before = malloc(sizeof *t->before);
	t->after = malloc(sizeof *t->after);
	if (t->before == NULL || t->after == NULL)
		return m2_fail(M2_ENOMEM, why, "out of memory");
	if (add_bos && t->bos >= 0)
		t->before[t->n_before++] = t->bos;
	if (add_eos && t->eos >= 0)
		t->after[t->n_after++] = t->eos;
	return M2_OK;
}

static void free_tokens(struct m2_added_token *tokens, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(tokens[i].text);
	free(tokens);
}

void m2_tokenizer_close(struct m2_tokenizer **tokenizer)
{
	struct m2_tokenizer *t = *tokenizer;
	if (t == NULL)
		return;
	for (int i = 0; i < 4; i++)
		m2_added_set_finish(&t->sets[i / 2][i % 2]);
	m2_spm_norm_finish(&t->spm);
	free_tokens(t->added, t->n_added);
	free_tokens(t->pieces, t->n_pieces);
	m2_norm_finish(t->norms, t->n_norms);
	m2_cut_finish(t->cuts, t->n_cuts);
	m2_bpe_finish(&t->bpe);
	free(t->norms);
	free(t->cuts);
	free(t->kind);
	free(t->path);
	free(t->tokens);
	free(t->bytes);
	free(t->words);
	free(t->scores);
	free(t->before);
	free(t->after);
	free(t);
	*tokenizer = NULL;
}
