/* completion.c - text of a completion; one automaton per stop string, one step of each per byte. */
#include "daemon/completion.h"

#include <stdlib.h>
#include <string.h>

static void fill_failure(const unsigned char *s, uint16_t length, uint16_t *failure)
{
	uint16_t border = 0;
	failure[0] = 0;
	for (uint16_t i = 1; i < length; i++) {
		while (border > 0 && s[i] != s[border])
			border = failure[border - 1];
		if (s[i] == s[border])
			border++;
		failure[i] = border;
	}
}

enum m2_err m2_stops_init(struct m2_stops *stops, const void *bytes, const uint16_t *length,
	uint32_t n, struct m2_why *why)
{
	*stops = (struct m2_stops){0};
	uint32_t total = 0;
	for (uint32_t i = 0; i < n; i++) {
		stops->at[i] = total;
		stops->length[i] = length[i];
		total += length[i];
	}
	if (total == 0)
		return M2_OK;
	stops->bytes = malloc(total);
	stops->failure = calloc(total, sizeof *stops->failure);
	if (stops->bytes == NULL || stops->failure == NULL) {
		m2_stops_finish(stops);
		return m2_fail(M2_ENOMEM, why, "no memory for %u stop strings", n);
	}
	memcpy(stops->bytes, bytes, total);
	stops->n = n;
	for (uint32_t i = 0; i < n; i++)
		fill_failure(stops->bytes + stops->at[i], length[i], stops->failure + stops->at[i]);
	return M2_OK;
}

void m2_stops_finish(struct m2_stops *stops)
{
	free(stops->bytes);
	free(stops->failure);
	*stops = (struct m2_stops){0};
}

void m2_completion_init(struct m2_completion *c, char *text, size_t capacity)
{
	*c = (struct m2_completion){.text = text, .capacity = capacity, .stop = -1};
}

/* Advance every automaton by one byte; the index of the longest string that is now complete, or -1. */
static int32_t advance(struct m2_completion *c, const struct m2_stops *stops, unsigned char byte)
{
	int32_t found = -1;
	for (uint32_t i = 0; i < stops->n; i++) {
		const unsigned char *s = stops->bytes + stops->at[i];
		uint16_t m = c->matched[i];
		while (m > 0 && s[m] != byte)
			m = stops->failure[stops->at[i] + m - 1];
		if (s[m] == byte)
			m++;
		c->matched[i] = m;
		if (m == stops->length[i] && (found < 0 || m > stops->length[found]))
			found = (int32_t)i;
	}
	return found;
}

static bool store(struct m2_completion *c, char byte)
{
	if (c->written == c->capacity) {
		c->overflow = true;
		return false;
	}
	c->text[c->written++] = byte;
	return true;
}

bool m2_completion_append(
	struct m2_completion *c, const struct m2_stops *stops, const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (!store(c, bytes[i]))
			return false;
		c->stop = advance(c, stops, (unsigned char)bytes[i]);
		if (c->stop >= 0) {
			/* never before shown: all but the last byte of it was held back */
			const size_t end = c->written - stops->length[c->stop];
			memset(c->text + end, 0, c->written - end);
			c->written = c->shown = end;
			return true;
		}
	}
	size_t held = 0;
	for (uint32_t i = 0; i < stops->n; i++)
		held = c->matched[i] > held ? c->matched[i] : held;
	c->shown = c->written - held;
	return false;
}

bool m2_completion_push(struct m2_completion *c, const struct m2_stops *stops,
	const struct m2_tokenizer *tokenizer, int32_t id, char *scratch)
{
	const size_t length = m2_text_stream_push(&c->stream, tokenizer, id, true, scratch);
	return m2_completion_append(c, stops, scratch, length);
}

void m2_completion_end(struct m2_completion *c)
{
	char flushed[16];
	if (c->stop >= 0)
		return;
	const size_t length = m2_text_stream_flush(&c->stream, flushed);
	for (size_t i = 0; i < length && store(c, flushed[i]); i++)
		continue;
	c->shown = c->written;
}
