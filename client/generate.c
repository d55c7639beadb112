/* generate.c - options of generate and score into a request header, and the wait for acceptance. */
#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/errors.h"
#include "client/handle.h"
#include "client/request.h"

/* Sizes of the structs in the versions that had others: what follows is of a later one. */
enum {
	FIRST_GENERATE = offsetof(mamba2_generate_options, form),
	FIRST_SCORE = offsetof(mamba2_score_options, form),
	SECOND_GENERATE = offsetof(mamba2_generate_options, priority),
	SECOND_SCORE = offsetof(mamba2_score_options, priority)
};
_Static_assert(sizeof(mamba2_generate_options) > SECOND_GENERATE, "a new field makes a new size");
_Static_assert(sizeof(mamba2_score_options) > SECOND_SCORE, "a new field makes a new size");
_Static_assert(sizeof(mamba2_generate_options) > FIRST_GENERATE, "a new field makes a new size");
_Static_assert(sizeof(mamba2_score_options) > FIRST_SCORE, "a new field makes a new size");

void mamba2_generate_options_init_size(mamba2_generate_options *options, size_t size)
{
	const mamba2_generate_options all = {.size = size,
		.max_tokens = -1,
		.n = 1,
		.temperature = NAN,
		.top_k = -1,
		.top_p = NAN,
		.min_p = NAN,
		.repetition_penalty = NAN,
		.presence_penalty = NAN,
		.frequency_penalty = NAN,
		.seed = -1,
		.logprobs = -1,
		.form = MAMBA2_FORM_TEXT};
	memcpy(options, &all, size < sizeof all ? size : sizeof all);
}

void mamba2_score_options_init_size(mamba2_score_options *options, size_t size)
{
	const mamba2_score_options all = {.size = size};
	memcpy(options, &all, size < sizeof all ? size : sizeof all);
}

/* What programs of the first version call; the header gives newer ones the functions above. */
#undef mamba2_generate_options_init
void mamba2_generate_options_init(mamba2_generate_options *options)
{
	mamba2_generate_options_init_size(options, FIRST_GENERATE);
}

#undef mamba2_score_options_init
void mamba2_score_options_init(mamba2_score_options *options)
{
	mamba2_score_options_init_size(options, FIRST_SCORE);
}

static void put_number(struct m2_header *h, const char *field, int64_t value)
{
	if (value != -1)
		m2_header_int(h, field, value);
}

static void put_float(struct m2_header *h, const char *field, float value)
{
	if (!isnan(value))
		m2_header_float(h, field, value);
}

static void put_priority(struct m2_header *h, int64_t priority)
{
	if (priority == MAMBA2_PRIORITY_NORMAL) /* what an older daemon has no field for */
		return;
	if (priority == MAMBA2_PRIORITY_LOW || priority == MAMBA2_PRIORITY_HIGH)
		m2_header_text(h, "priority", priority == MAMBA2_PRIORITY_LOW ? "low" : "high");
	else if (h->err == M2_OK)
		h->err = m2_fail_field(
			M2_EINVAL, &h->why, "priority", "%lld is no priority", (long long)priority);
}

static void put_sampling(struct m2_header *h, const mamba2_generate_options *o)
{
	put_number(h, "max_tokens", o->max_tokens);
	if (o->n != 1)
		m2_header_int(h, "n", o->n);
	put_float(h, "temperature", o->temperature);
	put_number(h, "top_k", o->top_k);
	put_float(h, "top_p", o->top_p);
	put_float(h, "min_p", o->min_p);
	put_float(h, "repetition_penalty", o->repetition_penalty);
	put_float(h, "presence_penalty", o->presence_penalty);
	put_float(h, "frequency_penalty", o->frequency_penalty);
	put_number(h, "seed", o->seed);
	if (o->n_logit_bias > 0)
		m2_header_pairs(
			h, "logit_bias", o->logit_bias, o->n_logit_bias, M2_LIMIT_LOGIT_BIAS);
	if (o->stop_tokens != NULL)
		m2_header_ints(
			h, "stop_tokens", o->stop_tokens, o->n_stop_tokens, M2_LIMIT_STOP_TOKENS);
	if (o->n_stop > 0)
		m2_header_texts(h, "stop", o->stop, o->n_stop, M2_LIMIT_STOP_STRINGS);
	m2_header_true(h, "ignore_eos", o->ignore_eos != 0);
	put_number(h, "logprobs", o->logprobs);
	m2_header_true(h, "echo", o->echo != 0);
	m2_header_true(h, "logits", o->logits != 0);
	if (o->deadline_ms != 0)
		m2_header_int(h, "deadline_ms", o->deadline_ms);
}

/* The prompt: text or JSON as it is, or ids in the wire's byte order.  *copy is to be freed. */
struct prompt {
	const void *bytes;
	size_t n;
	int32_t *copy;
};

static void put_prompt(struct m2_header *h, int form, const char *text, size_t bytes,
	const int32_t *tokens, size_t n_tokens, struct prompt *out)
{
	*out = (struct prompt){text == NULL ? "" : text, text == NULL ? 0 : bytes, NULL};
	if (tokens != NULL && form != MAMBA2_FORM_TEXT && h->err == M2_OK)
		h->err = m2_fail_field(M2_EINVAL, &h->why, "form",
			"token ids and a conversation or gap: which of the two?");
	if (tokens != NULL)
		m2_header_text(h, "input", "tokens");
	else
		m2_header_form(h, form);
	if (tokens == NULL || h->err != M2_OK)
		return;
	if (n_tokens > M2_LIMIT_PROMPT_TOKENS) {
		h->err = m2_fail_field(M2_ELIMIT, &h->why, "prompt",
			"the prompt has %zu tokens, the limit is %d", n_tokens,
			M2_LIMIT_PROMPT_TOKENS);
		return;
	}
	out->copy = malloc(n_tokens * sizeof *out->copy + 1);
	if (out->copy == NULL) {
		h->err = m2_fail(M2_ENOMEM, &h->why, "out of memory");
		return;
	}
	for (size_t i = 0; i < n_tokens; i++)
		out->copy[i] = (int32_t)htole32((uint32_t)tokens[i]);
	out->bytes = out->copy;
	out->n = n_tokens * sizeof *out->copy;
}

static enum mamba2_error start(mamba2 *m, enum m2_op op, struct m2_header *header,
	struct prompt *prompt, mamba2_request **out)
{
	struct m2_call *call = NULL;
	struct m2_why why = {"", ""};
	*out = NULL;
	enum m2_err err = m2_call_create(m, op, header, prompt->bytes, prompt->n, &call, &why);
	free(prompt->copy);
	if (err == M2_OK) {
		m2_call_submit(m, call);
		err = m2_call_wait(m, call, m->timeout_ms, NULL, NULL, &why);
		if (err == M2_OK)
			err = m2_request_create(m, call, out, &why);
		else
			m2_call_drop(m, &call, false);
	}
	return m2_client_return(err, &why);
}

static enum mamba2_error wrong_size(void)
{
	struct m2_why why;
	return m2_client_return(m2_fail(M2_EINVAL, &why,
					"the options were not initialised by their _init function"),
		&why);
}

enum mamba2_error mamba2_generate(
	mamba2 *m, const mamba2_generate_options *given, mamba2_request **out)
{
	struct m2_header header;
	struct prompt prompt;
	mamba2_generate_options all;
	const mamba2_generate_options *o = &all;
	*out = NULL;
	if (given->size != sizeof all && given->size != FIRST_GENERATE &&
		given->size != SECOND_GENERATE)
		return wrong_size();
	mamba2_generate_options_init_size(&all, sizeof all);
	memcpy(&all, given, given->size);
	m2_header_begin(&header, M2_OP_GENERATE);
	m2_header_text(&header, "model", o->model);
	put_prompt(&header, o->form, o->prompt, o->prompt_bytes, o->tokens, o->n_tokens, &prompt);
	m2_header_true(&header, "special", o->special != 0);
	put_sampling(&header, o);
	put_priority(&header, o->priority);
	return start(m, M2_OP_GENERATE, &header, &prompt, out);
}

enum mamba2_error mamba2_score(mamba2 *m, const mamba2_score_options *given, mamba2_request **out)
{
	struct m2_header header;
	struct prompt prompt;
	mamba2_score_options all;
	const mamba2_score_options *o = &all;
	*out = NULL;
	if (given->size != sizeof all && given->size != FIRST_SCORE && given->size != SECOND_SCORE)
		return wrong_size();
	mamba2_score_options_init_size(&all, sizeof all);
	memcpy(&all, given, given->size);
	m2_header_begin(&header, M2_OP_SCORE);
	m2_header_text(&header, "model", o->model);
	put_prompt(&header, o->form, o->prompt, o->prompt_bytes, o->tokens, o->n_tokens, &prompt);
	m2_header_true(&header, "special", o->special != 0);
	m2_header_int(&header, "logprobs", o->top);
	m2_header_true(&header, "logits", o->logits != 0);
	if (o->deadline_ms != 0)
		m2_header_int(&header, "deadline_ms", o->deadline_ms);
	put_priority(&header, o->priority);
	return start(m, M2_OP_SCORE, &header, &prompt, out);
}
