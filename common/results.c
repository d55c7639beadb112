/* results.c - sizes, offsets and the futex of a results segment; the layout itself is results.h.
 *
 * One function (place) lays arrays out for the size, for the writer and for the reader's check, so that
 * the three cannot disagree.
 */
#include "common/results.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/num.h"

/* Put an array of rows * row_items * item_bytes at the next aligned place. */
static bool place(
	size_t *at, bool wanted, uint64_t *offset, size_t rows, size_t row_items, size_t item_bytes)
{
	size_t bytes;
	*offset = 0;
	if (!wanted)
		return true;
	if (!m2_round_up_size(*at, M2_RESULTS_ALIGN, at))
		return false;
	*offset = *at;
	return m2_mul_size(rows, row_items, &bytes) && m2_mul_size(bytes, item_bytes, &bytes) &&
	       m2_add_size(*at, bytes, at);
}

static bool place_prompt(
	const struct m2_results_shape *s, struct m2_results_header *header, size_t *at)
{
	const bool scores = (s->flags & M2_RESULTS_PROMPT_LOGPROBS) != 0;
	const bool top = scores && s->top_k > 0;
	const size_t t = s->prompt_tokens;
	return place(at, true, &header->prompt_ids, t, 1, 4) &&
	       place(at, scores, &header->prompt_logprobs, t, 1, 4) &&
	       place(at, top, &header->prompt_top_ids, t, s->top_k, 4) &&
	       place(at, top, &header->prompt_top_logprobs, t, s->top_k, 4) &&
	       place(at, (s->flags & M2_RESULTS_PROMPT_LOGITS) != 0, &header->prompt_logits, t,
		       s->vocab, 4);
}

static bool place_sequence(
	const struct m2_results_shape *s, struct m2_results_sequence *q, size_t *at)
{
	const bool text = (s->flags & M2_RESULTS_TEXT) != 0;
	const bool scores = (s->flags & M2_RESULTS_LOGPROBS) != 0;
	const bool top = scores && s->top_k > 0;
	const size_t n = s->max_tokens;
	size_t capacity = 0;
	/* 16 bytes beyond the tokens' own: what a stream held back and flushes at the end */
	if (text && (!m2_mul_size(n, s->text_per_token, &capacity) ||
			    !m2_add_size(capacity, 16, &capacity)))
		return false;
	q->text_capacity = capacity;
	q->stop_token = -1;
	q->stop_string = -1;
	return place(at, true, &q->tokens, n, 1, 4) && place(at, scores, &q->logprobs, n, 1, 4) &&
	       place(at, text, &q->text_end, n, 1, 4) &&
	       place(at, text, &q->text, capacity, 1, 1) &&
	       place(at, top, &q->top_ids, n, s->top_k, 4) &&
	       place(at, top, &q->top_logprobs, n, s->top_k, 4) &&
	       place(at, (s->flags & M2_RESULTS_LOGITS) != 0, &q->logits, n, s->vocab, 4);
}

/* Lay out everything; table is NULL when only the size is wanted. */
static bool layout(const struct m2_results_shape *s, struct m2_results_header *header,
	struct m2_results_sequence *table, size_t *bytes)
{
	size_t at = sizeof(struct m2_results_header);
	if (!place(&at, true, &header->sequences, s->n_sequences, 1,
		    sizeof(struct m2_results_sequence)))
		return false;
	if (!place_prompt(s, header, &at))
		return false;
	for (uint32_t i = 0; i < s->n_sequences; i++) {
		struct m2_results_sequence scratch;
		if (!place_sequence(s, table != NULL ? &table[i] : &scratch, &at))
			return false;
	}
	return m2_round_up_size(at, M2_RESULTS_ALIGN, bytes);
}

enum m2_err m2_results_size(const struct m2_results_shape *shape, size_t *bytes, struct m2_why *why)
{
	struct m2_results_header scratch;
	if (!layout(shape, &scratch, NULL, bytes) || *bytes > M2_LIMIT_RESULT_BYTES)
		return m2_fail_field(M2_ELIMIT, why, "max_tokens",
			"the results of this request need more than %d bytes of results memory",
			M2_LIMIT_RESULT_BYTES);
	return M2_OK;
}

void m2_results_format(void *segment, size_t bytes, const struct m2_results_shape *shape)
{
	struct m2_results_header *header = segment;
	size_t laid;
	memcpy(header->magic, M2_RESULTS_MAGIC, sizeof header->magic);
	header->version = M2_RESULTS_VERSION;
	header->header_bytes = sizeof *header;
	header->total_bytes = bytes;
	header->request = shape->request;
	header->n_sequences = shape->n_sequences;
	header->prompt_tokens = shape->prompt_tokens;
	header->max_tokens = shape->max_tokens;
	header->vocab = shape->vocab;
	header->top_k = shape->top_k;
	header->flags = shape->flags;
	struct m2_results_sequence *table =
		(struct m2_results_sequence *)((char *)segment + sizeof *header);
	(void)layout(shape, header, table, &laid); /* cannot fail: m2_results_size passed */
}

static bool inside(size_t total, uint64_t offset, uint64_t items, uint64_t item_bytes)
{
	size_t bytes;
	return offset == 0 ||
	       (offset >= sizeof(struct m2_results_header) && offset <= total &&
		       offset % M2_RESULTS_ALIGN == 0 && m2_mul_size(items, item_bytes, &bytes) &&
		       bytes <= total - offset);
}

static bool check_sequence(
	const struct m2_results_header *h, const struct m2_results_sequence *q, size_t total)
{
	const uint64_t n = h->max_tokens;
	return inside(total, q->tokens, n, 4) && q->tokens != 0 &&
	       inside(total, q->logprobs, n, 4) && inside(total, q->text_end, n, 4) &&
	       inside(total, q->text, q->text_capacity, 1) &&
	       inside(total, q->top_ids, n * h->top_k, 4) &&
	       inside(total, q->top_logprobs, n * h->top_k, 4) &&
	       inside(total, q->logits, n * h->vocab, 4);
}

enum m2_err m2_results_check(const void *segment, size_t bytes, struct m2_why *why)
{
	const struct m2_results_header *h = segment;
	if (bytes < sizeof *h || memcmp(h->magic, M2_RESULTS_MAGIC, sizeof h->magic) != 0)
		return m2_fail(M2_EFORMAT, why, "not a results segment");
	if (h->version != M2_RESULTS_VERSION || h->header_bytes != sizeof *h)
		return m2_fail(M2_EFORMAT, why,
			"results segment of version %u, this library reads %d", h->version,
			M2_RESULTS_VERSION);
	const uint64_t t = h->prompt_tokens;
	bool good =
		h->total_bytes == bytes &&
		inside(bytes, h->sequences, h->n_sequences, sizeof(struct m2_results_sequence)) &&
		inside(bytes, h->prompt_ids, t, 4) && inside(bytes, h->prompt_logprobs, t, 4) &&
		inside(bytes, h->prompt_top_ids, t * h->top_k, 4) &&
		inside(bytes, h->prompt_top_logprobs, t * h->top_k, 4) &&
		inside(bytes, h->prompt_logits, t * h->vocab, 4);
	for (uint32_t i = 0; good && i < h->n_sequences; i++) { /* h->sequences is inside, by now */
		const struct m2_results_sequence *table =
			(const struct m2_results_sequence *)((const char *)segment + h->sequences);
		good = check_sequence(h, &table[i], bytes);
	}
	return good ? M2_OK : m2_fail(M2_EFORMAT, why, "results segment with an offset outside it");
}

static long futex(const void *word, int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

void m2_results_ring(struct m2_results_header *header)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	atomic_store_explicit(&header->published_ns,
		(uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, memory_order_relaxed);
	atomic_fetch_add_explicit(&header->doorbell, 1, memory_order_release);
	(void)futex(&header->doorbell, FUTEX_WAKE, INT_MAX, NULL);
}

void m2_results_finish(
	struct m2_results_header *header, enum m2_err error, const char *message, uint64_t now_ns)
{
	if (atomic_load_explicit(&header->state, memory_order_relaxed) == M2_RESULTS_FINISHED)
		return;
	header->error = (uint32_t)error;
	(void)snprintf(header->message, sizeof header->message, "%s", message);
	header->finished_ns = now_ns;
	atomic_store_explicit(&header->state, M2_RESULTS_FINISHED, memory_order_release);
	m2_results_ring(header);
}

bool m2_results_wait(const struct m2_results_header *header, uint32_t seen, int64_t timeout_ns)
{
	const struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000),
		.tv_nsec = (long)(timeout_ns % 1000000000)};
	if (atomic_load_explicit(&header->doorbell, memory_order_acquire) != seen)
		return true;
	return futex(&header->doorbell, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &timeout) == 0 ||
	       errno != ETIMEDOUT;
}
