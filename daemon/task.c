/* task.c - checks a request against its model and allocates all that its steps will need. */
#include "daemon/task.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/num.h"

/* ---- checks ------------------------------------------------------------------------------------ */

static enum m2_err check_prompt(const struct m2_task_spec *spec, struct m2_why *why)
{
	if (spec->prompt_tokens == 0)
		return m2_fail_field(M2_EINVAL, why, "prompt", "the prompt is empty");
	if (spec->prompt_tokens > M2_LIMIT_PROMPT_TOKENS)
		return m2_fail_field(M2_ELIMIT, why, "prompt",
			"the prompt has %zu tokens, at most %d", spec->prompt_tokens,
			M2_LIMIT_PROMPT_TOKENS);
	for (size_t i = 0; i < spec->prompt_tokens; i++)
		if (spec->prompt[i] < 0 || spec->prompt[i] >= spec->vocab_size)
			return m2_fail_field(M2_EINVAL, why, "prompt",
				"token %d at index %zu of the prompt is not in 0..%d",
				spec->prompt[i], i, spec->vocab_size - 1);
	return M2_OK;
}

static enum m2_err check_lists(const struct m2_task_spec *spec, struct m2_why *why)
{
	const struct m2_request *r = spec->request;
	for (uint32_t i = 0; i < r->n_logit_bias; i++)
		if (spec->bias[i].id < 0 || spec->bias[i].id >= spec->vocab_size ||
			!isfinite(spec->bias[i].bias))
			return m2_fail_field(M2_EINVAL, why, "logit_bias",
				"logit_bias names token %d, which is not in 0..%d",
				spec->bias[i].id, spec->vocab_size - 1);
	for (int32_t i = 0; i < r->sampling.n_stop_tokens && (r->set & M2_SET_STOP_TOKENS) != 0;
		i++)
		if (r->sampling.stop_tokens[i] < 0 ||
			r->sampling.stop_tokens[i] >= spec->vocab_size)
			return m2_fail_field(M2_EINVAL, why, "stop_tokens",
				"stop token %d is not in 0..%d", r->sampling.stop_tokens[i],
				spec->vocab_size - 1);
	if (r->n_stop > 0 && spec->tokenizer == NULL)
		return m2_fail_field(M2_EINVAL, why, "stop",
			"stop strings need a tokenizer, and this variant has none");
	return M2_OK;
}

static enum m2_err check_spec(const struct m2_task_spec *spec, struct m2_why *why)
{
	const struct m2_request *r = spec->request;
	assert(r->op == M2_OP_GENERATE || r->op == M2_OP_SCORE);
	assert(spec->n_ends >= 0 && spec->n_ends <= M2_TASK_ENDS_MAX);
	enum m2_err err = check_prompt(spec, why);
	if (err == M2_OK)
		err = check_lists(spec, why);
	if (err != M2_OK || r->op == M2_OP_SCORE)
		return err;
	if (r->n < 1 || r->n > M2_LIMIT_COMPLETIONS || r->n > spec->slots)
		return m2_fail_field(M2_EINVAL, why, "n",
			"n is %d, and this variant runs %d sequences at once", r->n, spec->slots);
	if (r->sampling.max_tokens < 1 || r->sampling.max_tokens > M2_LIMIT_MAX_TOKENS)
		return m2_fail_field(M2_EINVAL, why, "max_tokens", "max_tokens is not in 1..%d",
			M2_LIMIT_MAX_TOKENS);
	if ((r->flags & M2_REQUEST_MESSAGES) != 0 && (r->flags & M2_REQUEST_ECHO) != 0)
		return m2_fail_field(M2_EINVAL, why, "echo",
			"echo needs results memory; messages carry generated tokens only");
	return M2_OK;
}

/* ---- sizes ------------------------------------------------------------------------------------- */

static struct m2_results_shape shape_of(const struct m2_task_spec *spec)
{
	const struct m2_request *r = spec->request;
	const bool score = r->op == M2_OP_SCORE;
	const bool logits = (r->flags & M2_REQUEST_LOGITS) != 0;
	const bool prompt_logprobs =
		score ? r->logprobs >= 0 || !logits : (r->flags & M2_REQUEST_ECHO) != 0;
	struct m2_results_shape shape = {
		.request = r->id,
		.n_sequences = score ? 0 : (uint32_t)r->n,
		.prompt_tokens = (uint32_t)spec->prompt_tokens,
		.max_tokens = score ? 0 : (uint32_t)r->sampling.max_tokens,
		.vocab = (uint32_t)spec->vocab_rows,
		.top_k = r->logprobs > 0 ? (uint32_t)r->logprobs : 0,
	};
	if (prompt_logprobs)
		shape.flags |= M2_RESULTS_PROMPT_LOGPROBS;
	if (logits)
		shape.flags |= score ? M2_RESULTS_PROMPT_LOGITS : M2_RESULTS_LOGITS;
	if (!score && r->logprobs >= 0)
		shape.flags |= M2_RESULTS_LOGPROBS;
	if (!score && spec->tokenizer != NULL) {
		shape.flags |= M2_RESULTS_TEXT;
		shape.text_per_token = (uint32_t)m2_tokenizer_max_text(spec->tokenizer);
	}
	return shape;
}

/* Distinct ids that one sequence can have to count; 0: no penalty is on. */
static size_t count_capacity(const struct m2_task_spec *spec)
{
	const struct m2_sampling *s = &spec->request->sampling;
	size_t ids = 0;
	if (spec->request->op == M2_OP_SCORE)
		return 0;
	if (s->repetition_penalty != 1.0F)
		ids = spec->prompt_tokens + (size_t)s->max_tokens;
	else if (s->presence_penalty != 0.0F || s->frequency_penalty != 0.0F)
		ids = (size_t)s->max_tokens;
	return ids < (size_t)spec->vocab_rows ? ids : (size_t)spec->vocab_rows;
}

static size_t private_bytes(const struct m2_task_spec *spec, uint32_t n_slots)
{
	const size_t capacity = count_capacity(spec);
	const size_t each =
		sizeof(struct m2_sequence) + (capacity > 0 ? m2_counts_bytes(capacity) : 0);
	size_t bytes = sizeof(struct m2_task) +
		       spec->request->n_logit_bias * sizeof(struct m2_logit_bias) +
		       3 * (size_t)spec->request->stop_bytes;
	return m2_add_mul_size(&bytes, each, n_slots) ? bytes : SIZE_MAX;
}

bool m2_task_picks(const struct m2_task *task)
{
	const struct m2_sampling *s = &task->sampling;
	const bool as_they_are = task->n_bias == 0 && s->repetition_penalty == 1.0F &&
				 s->presence_penalty == 0.0F && s->frequency_penalty == 0.0F;
	const bool no_more = task->top_k == 0 && (task->flags & M2_REQUEST_LOGITS) == 0;
	return task->n_sequences > 0 && s->temperature <= 0.0F && as_they_are && no_more;
}

/* ---- making ------------------------------------------------------------------------------------ */

static void *part(struct m2_task *task, uint64_t offset)
{
	return offset == 0 ? NULL : (char *)task->segment.memory + offset;
}

static void wire_results(struct m2_task *task, const struct m2_task_spec *spec)
{
	struct m2_results_header *h = task->segment.memory;
	int32_t *prompt = part(task, h->prompt_ids);
	memcpy(prompt, spec->prompt, spec->prompt_tokens * sizeof *prompt);
	task->header = h;
	task->prompt = prompt;
	task->prompt_logprobs = part(task, h->prompt_logprobs);
	task->prompt_top_ids = part(task, h->prompt_top_ids);
	task->prompt_top_logprobs = part(task, h->prompt_top_logprobs);
	task->prompt_logits = part(task, h->prompt_logits);
	task->wants_prompt_scores = task->prompt_logprobs != NULL || task->prompt_logits != NULL;
	h->received_ns = spec->now_ns;
	if (task->prompt_logprobs != NULL)
		task->prompt_logprobs[0] = NAN; /* nothing comes before the first token */
	for (uint32_t k = 0; k < h->top_k && task->prompt_top_ids != NULL; k++) {
		task->prompt_top_ids[k] = -1;
		task->prompt_top_logprobs[k] = NAN;
	}
}

static enum m2_err make_sequence(
	struct m2_task *task, uint32_t index, const struct m2_task_spec *spec, struct m2_why *why)
{
	struct m2_sequence *q = &task->sequences[index];
	const size_t capacity = count_capacity(spec);
	q->slot = -1;
	q->parked = M2_PARKED_NONE;
	if (task->n_sequences == 0)
		return M2_OK;
	struct m2_results_sequence *out = m2_results_sequence(task->segment.memory, index);
	q->live = true;
	q->out = out;
	out->seed = task->sampling.seed;
	q->tokens = part(task, out->tokens);
	q->logprobs = part(task, out->logprobs);
	q->text_end = part(task, out->text_end);
	q->top_ids = part(task, out->top_ids);
	q->top_logprobs = part(task, out->top_logprobs);
	q->logits = part(task, out->logits);
	m2_completion_init(&q->text, part(task, out->text), (size_t)out->text_capacity);
	if (spec->tokenizer != NULL && spec->prompt_tokens > 0)
		q->text.stream = m2_text_stream_after(
			spec->tokenizer, spec->prompt[spec->prompt_tokens - 1]);
	if (capacity == 0)
		return M2_OK;
	enum m2_err err = m2_counts_init(&q->counts, capacity, why);
	if (err == M2_OK && task->sampling.repetition_penalty != 1.0F)
		for (size_t i = 0; i < spec->prompt_tokens; i++)
			m2_counts_add(&q->counts, spec->prompt[i], 0);
	return err;
}

static enum m2_err choose_seed(struct m2_task *task, uint32_t set, struct m2_why *why)
{
	if ((set & M2_SET_SEED) != 0)
		return M2_OK;
	uint64_t seed;
	if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
		return m2_fail(M2_EIO, why, "no random seed from the kernel");
	task->sampling.seed = seed >> 11; /* 53 bits: what a JSON number carries exactly */
	return M2_OK;
}

static enum m2_err copy_lists(
	struct m2_task *task, const struct m2_task_spec *spec, struct m2_why *why)
{
	const struct m2_request *r = spec->request;
	task->n_ends = spec->n_ends;
	if (spec->n_ends > 0)
		memcpy(task->ends, spec->ends, (size_t)spec->n_ends * sizeof *spec->ends);
	if (r->n_logit_bias > 0) {
		task->bias = malloc(r->n_logit_bias * sizeof *task->bias);
		if (task->bias == NULL)
			return m2_fail(M2_ENOMEM, why, "no memory for logit_bias");
		memcpy(task->bias, spec->bias, r->n_logit_bias * sizeof *task->bias);
		task->n_bias = r->n_logit_bias;
	}
	return m2_stops_init(&task->stops, spec->stop, r->stop_length, r->n_stop, why);
}

static enum m2_err fill_task(struct m2_task *task, struct m2_segment_pool *pool,
	const struct m2_task_spec *spec, struct m2_why *why)
{
	const struct m2_request *r = spec->request;
	const struct m2_results_shape shape = shape_of(spec);
	const uint64_t received = r->received_ns != 0 ? r->received_ns : spec->now_ns;
	task->id = r->id;
	task->op = r->op;
	task->flags = r->flags;
	task->uid = r->uid;
	task->weight = spec->weight > 0 ? spec->weight : 1;
	task->user_slots = spec->user_slots;
	task->user_bytes = spec->user_bytes;
	task->priority = (enum m2_priority)r->priority;
	task->n_sequences = shape.n_sequences;
	task->n_slots = shape.n_sequences > 0 ? shape.n_sequences : 1;
	task->n_live = shape.n_sequences;
	task->prompt_tokens = shape.prompt_tokens;
	task->max_tokens = shape.max_tokens;
	task->top_k = shape.top_k;
	task->sampling = r->sampling;
	task->deadline_ns =
		r->deadline_ms > 0 ? received + (uint64_t)r->deadline_ms * 1000000U : UINT64_MAX;
	enum m2_err err = choose_seed(task, r->set, why);
	if (err == M2_OK)
		err = copy_lists(task, spec, why);
	if (err == M2_OK)
		err = m2_segment_create(pool,
			(r->flags & M2_REQUEST_MESSAGES) != 0 ? M2_SEGMENT_ANONYMOUS
							      : M2_SEGMENT_FILE,
			r->uid, &shape, private_bytes(spec, task->n_slots), &task->segment, why);
	if (err != M2_OK)
		return err;
	task->picks = m2_task_picks(task);
	wire_results(task, spec);
	task->sequences = calloc(task->n_slots, sizeof *task->sequences);
	if (task->sequences == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %u sequences", task->n_slots);
	for (uint32_t i = 0; i < task->n_slots && err == M2_OK; i++)
		err = make_sequence(task, i, spec, why);
	return err;
}

enum m2_err m2_task_create(struct m2_segment_pool *pool, const struct m2_task_spec *spec,
	struct m2_task **out, struct m2_why *why)
{
	enum m2_err err = check_spec(spec, why);
	if (err != M2_OK)
		return err;
	struct m2_task *task = calloc(1, sizeof *task);
	if (task == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for a request");
	err = fill_task(task, pool, spec, why);
	if (err != M2_OK)
		m2_task_destroy(pool, &task);
	*out = task;
	return err;
}

void m2_task_destroy(struct m2_segment_pool *pool, struct m2_task **task)
{
	struct m2_task *t = *task;
	if (t == NULL)
		return;
	for (uint32_t i = 0; i < t->n_slots && t->sequences != NULL; i++)
		m2_counts_finish(&t->sequences[i].counts);
	m2_segment_destroy(pool, &t->segment);
	m2_stops_finish(&t->stops);
	free(t->sequences);
	free(t->bias);
	free(t);
	*task = NULL;
}
