/* views.c - pointers into results memory, never beyond what has been published.
 *
 * Counts are loaded with acquire order and held to the sizes that were checked when the memory was
 * mapped; an offset of 0 means that the request did not ask for the array.
 */
#include <string.h>

#include "client/request.h"

static size_t least(uint64_t a, uint64_t b)
{
	return (size_t)(a < b ? a : b);
}

static const void *at(const mamba2_request *r, uint64_t offset)
{
	return offset == 0 ? NULL : (const char *)r->segment.header + offset;
}

static const struct m2_results_sequence *sequence_of(const mamba2_request *r, int sequence)
{
	const struct m2_results_header *h = r->segment.header;
	if (sequence < 0 || (uint32_t)sequence >= h->n_sequences)
		return NULL;
	return (const struct m2_results_sequence *)at(r, h->sequences) + sequence;
}

size_t mamba2_request_tokens(mamba2_request *r, int sequence, const int32_t **tokens)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	if (tokens != NULL)
		*tokens = q == NULL ? NULL : at(r, q->tokens);
	if (q == NULL)
		return 0;
	return least(atomic_load_explicit(&q->published, memory_order_acquire),
		r->segment.header->max_tokens);
}

const char *mamba2_request_text(mamba2_request *r, int sequence, size_t *bytes)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	const char *text = q == NULL ? NULL : at(r, q->text);
	if (bytes != NULL)
		*bytes = text == NULL ? 0
				      : least(atomic_load_explicit(
						      &q->text_published, memory_order_acquire),
						q->text_capacity);
	return text;
}

const uint32_t *mamba2_request_text_ends(mamba2_request *r, int sequence)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	return q == NULL ? NULL : at(r, q->text_end);
}

const float *mamba2_request_logprobs(mamba2_request *r, int sequence)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	return q == NULL ? NULL : at(r, q->logprobs);
}

const int32_t *mamba2_request_top_ids(mamba2_request *r, int sequence, size_t *top_k)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	const int32_t *ids = q == NULL ? NULL : at(r, q->top_ids);
	if (top_k != NULL)
		*top_k = ids == NULL ? 0 : r->segment.header->top_k;
	return ids;
}

const float *mamba2_request_top_logprobs(mamba2_request *r, int sequence)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	return q == NULL ? NULL : at(r, q->top_logprobs);
}

const float *mamba2_request_logits(mamba2_request *r, int sequence, size_t *vocab)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	const float *logits = q == NULL ? NULL : at(r, q->logits);
	if (vocab != NULL)
		*vocab = logits == NULL ? 0 : r->segment.header->vocab;
	return logits;
}

enum mamba2_finish mamba2_request_finish(mamba2_request *r, int sequence)
{
	const struct m2_results_sequence *q = sequence_of(r, sequence);
	const uint32_t finish =
		q == NULL ? 0 : atomic_load_explicit(&q->finish, memory_order_acquire);
	if (finish > MAMBA2_ERROR)
		return MAMBA2_ERROR;
	/* a request whose daemon is gone has ended, whatever its memory still says */
	if (q != NULL && finish == MAMBA2_RUNNING && mamba2_request_finished(r))
		return MAMBA2_ERROR;
	return (enum mamba2_finish)finish;
}

size_t mamba2_request_prompt(mamba2_request *r, const int32_t **tokens)
{
	const struct m2_results_header *h = r->segment.header;
	const int32_t *ids = at(r, h->prompt_ids);
	if (tokens != NULL)
		*tokens = ids;
	return ids == NULL ? 0 : h->prompt_tokens;
}

size_t mamba2_request_prompt_scored(mamba2_request *r)
{
	const struct m2_results_header *h = r->segment.header;
	return least(
		atomic_load_explicit(&h->prompt_published, memory_order_acquire), h->prompt_tokens);
}

const float *mamba2_request_prompt_logprobs(mamba2_request *r)
{
	return at(r, r->segment.header->prompt_logprobs);
}

const int32_t *mamba2_request_prompt_top_ids(mamba2_request *r, size_t *top_k)
{
	const int32_t *ids = at(r, r->segment.header->prompt_top_ids);
	if (top_k != NULL)
		*top_k = ids == NULL ? 0 : r->segment.header->top_k;
	return ids;
}

const float *mamba2_request_prompt_top_logprobs(mamba2_request *r)
{
	return at(r, r->segment.header->prompt_top_logprobs);
}

const float *mamba2_request_prompt_logits(mamba2_request *r, size_t *vocab)
{
	const float *logits = at(r, r->segment.header->prompt_logits);
	if (vocab != NULL)
		*vocab = logits == NULL ? 0 : r->segment.header->vocab;
	return logits;
}

/* Times are plain words that the daemon stores while we may look; each is read once, whole. */
static uint64_t word(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static uint64_t since(uint64_t start, uint64_t time)
{
	return start == 0 || time < start ? 0 : time - start;
}

void mamba2_request_timings(mamba2_request *r, mamba2_timings *out)
{
	const struct m2_results_header *h = r->segment.header;
	/* what was stored before the last ring is visible after this */
	(void)atomic_load_explicit(&h->doorbell, memory_order_acquire);
	const uint64_t received = word(&h->received_ns);
	const struct m2_results_sequence *q = sequence_of(r, 0);
	*out = (mamba2_timings){.queue = since(received, word(&h->admitted_ns)),
		.first = since(received, word(&h->first_ns)),
		.total = since(received, word(&h->finished_ns)),
		.engine = word(&h->engine_ns),
		.first_engine = word(&h->first_engine_ns),
		.seed = q == NULL ? 0 : word(&q->seed),
		.received_at = received,
		.published_at = atomic_load_explicit(&h->published_ns, memory_order_relaxed)};
}

uint64_t mamba2_request_paused(mamba2_request *r, uint64_t *count)
{
	const struct m2_results_header *h = r->segment.header;
	(void)atomic_load_explicit(&h->doorbell, memory_order_acquire);
	if (count != NULL)
		*count = word(&h->pauses);
	return word(&h->paused_ns);
}
