/* worker_messages.c - tokens as packets, for a client that maps no memory.
 *
 * The results lie in the same layout as ever, in memory of our own; what was published since the last
 * packet is told in the next.  Only what is published is looked at: the step thread may be writing
 * behind it.
 */
#include "daemon/worker.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS_PER_PACKET = 1024 };

static enum m2_err send_tokens(struct m2_worker *w, struct m2_call *call, uint32_t sequence,
	uint32_t count, const int32_t *ids, const float *logprobs, const char *text,
	uint32_t text_bytes, struct m2_why *why)
{
	const size_t ids_bytes = count * sizeof *ids;
	const size_t scores_bytes = logprobs != NULL ? count * sizeof *logprobs : 0;
	const size_t bytes = ids_bytes + scores_bytes + text_bytes;
	struct m2_ipc_tokens tokens = {
		.request = call->id,
		.sequence = sequence,
		.first = call->sent_tokens[sequence],
		.count = count,
		.text_bytes = text_bytes,
		.has_logprobs = logprobs != NULL,
	};
	unsigned char *body = malloc(bytes > 0 ? bytes : 1);
	if (body == NULL)
		return m2_fail(M2_ENOMEM, why, "no memory for %zu bytes of tokens", bytes);
	memcpy(body, ids, ids_bytes);
	if (logprobs != NULL)
		memcpy(body + ids_bytes, logprobs, scores_bytes);
	if (text_bytes > 0)
		memcpy(body + ids_bytes + scores_bytes, text, text_bytes);
	const enum m2_err err = m2_ipc_send(w->channel, M2_IPC_TOKENS, &tokens, body, bytes, why);
	free(body);
	return err;
}

/* A score request tells its prompt as sequence 0: ids and their log-probabilities. */
static enum m2_err pump_prompt(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	const struct m2_task *task = call->task;
	const uint32_t there =
		atomic_load_explicit(&task->header->prompt_published, memory_order_acquire);
	enum m2_err err = M2_OK;
	while (err == M2_OK && call->sent_tokens[0] < there) {
		const uint32_t first = call->sent_tokens[0];
		const uint32_t left = there - first;
		const uint32_t count = left < TOKENS_PER_PACKET ? left : TOKENS_PER_PACKET;
		err = send_tokens(w, call, 0, count, task->prompt + first,
			task->prompt_logprobs != NULL ? task->prompt_logprobs + first : NULL, NULL,
			0, why);
		call->sent_tokens[0] += count;
	}
	return err;
}

static enum m2_err pump_sequence(
	struct m2_worker *w, struct m2_call *call, uint32_t index, struct m2_why *why)
{
	char *base = (char *)call->task->header;
	const struct m2_results_sequence *q = m2_results_sequence(base, index);
	const uint32_t there = atomic_load_explicit(&q->published, memory_order_acquire);
	const bool ended =
		atomic_load_explicit(&q->finish, memory_order_acquire) != M2_FINISH_RUNNING;
	enum m2_err err = M2_OK;
	while (err == M2_OK && call->sent_tokens[index] < there) {
		const uint32_t first = call->sent_tokens[index];
		const uint32_t left = there - first;
		const uint32_t count = left < TOKENS_PER_PACKET ? left : TOKENS_PER_PACKET;
		/* the end of the newest token's text may still move, when the sequence ends */
		uint64_t end = call->sent_text[index];
		if (q->text_end != 0)
			end = first + count < there
				      ? ((const uint32_t *)(const void
							*)(base + q->text_end))[first + count - 1]
				      : atomic_load_explicit(
						&q->text_published, memory_order_acquire);
		err = send_tokens(w, call, index, count,
			(const int32_t *)(const void *)(base + q->tokens) + first,
			q->logprobs != 0 ? (const float *)(const void *)(base + q->logprobs) + first
					 : NULL,
			base + q->text + call->sent_text[index],
			(uint32_t)(end - call->sent_text[index]), why);
		call->sent_tokens[index] += count;
		call->sent_text[index] = end;
	}
	const uint64_t text = atomic_load_explicit(&q->text_published, memory_order_acquire);
	/* text that the end of the sequence freed after its last token was told */
	if (err == M2_OK && ended && text > call->sent_text[index]) {
		err = send_tokens(w, call, index, 0, NULL, NULL,
			base + q->text + call->sent_text[index],
			(uint32_t)(text - call->sent_text[index]), why);
		call->sent_text[index] = text;
	}
	return err;
}

enum m2_err m2_worker_pump(struct m2_worker *w, struct m2_call *call, struct m2_why *why)
{
	if ((call->request.flags & M2_REQUEST_MESSAGES) == 0)
		return M2_OK;
	if (call->task->n_sequences == 0)
		return pump_prompt(w, call, why);
	enum m2_err err = M2_OK;
	for (uint32_t i = 0; i < call->task->n_sequences && err == M2_OK; i++)
		err = pump_sequence(w, call, i, why);
	return err;
}
