/* Fuzz target: a client's message, from its bytes to the checked struct, as the gate does it.
 *
 * Input: one byte (bit 0: control endpoint, bit 1: there is a payload), the header up to the first NUL, and
 * after it the payload.  Whatever the parser lets through must pass the check of the next process, and
 * every part of the body must be where the struct says.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/gate_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const struct m2_request *r, const uint8_t *body, size_t body_bytes,
	const uint8_t *payload, size_t payload_bytes)
{
	struct m2_why why = {"", ""};
	if (m2_request_check(r, body_bytes, &why) != M2_OK)
		__builtin_trap();
	if (r->prompt_bytes != payload_bytes ||
		(payload_bytes > 0 && memcmp(body, payload, payload_bytes) != 0))
		__builtin_trap();
	if (m2_request_stop_at(r) + r->stop_bytes != body_bytes)
		__builtin_trap();
	/* touch every byte: the sanitizer knows how long the body really is */
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < body_bytes; i++)
		sum = (uint8_t)(sum + body[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct m2_request r;
	struct m2_why why = {"", ""};
	void *body = NULL;
	size_t body_bytes = 0;
	uint32_t id[3];
	if (size < 1)
		return 0;
	const enum m2_endpoint endpoint =
		(data[0] & 1) != 0 ? M2_ENDPOINT_CONTROL : M2_ENDPOINT_CLIENT;
	const bool has_payload = (data[0] & 2) != 0;
	const uint8_t *header = data + 1;
	const uint8_t *end = memchr(header, '\0', size - 1);
	const size_t header_bytes = end != NULL ? (size_t)(end - header) : size - 1;
	const uint8_t *payload = end != NULL ? end + 1 : header + header_bytes;
	const size_t payload_bytes = has_payload ? (size_t)(data + size - payload) : 0;

	/* copies of the exact size, so that reading beyond either end is seen */
	char *h = malloc(header_bytes > 0 ? header_bytes : 1);
	uint8_t *p = malloc(payload_bytes > 0 ? payload_bytes : 1);
	if (h == NULL || p == NULL)
		abort();
	memcpy(h, header, header_bytes);
	memcpy(p, payload, payload_bytes);
	const enum m2_err err = m2_gate_parse(h, header_bytes, has_payload ? p : NULL,
		payload_bytes, endpoint, &r, &body, &body_bytes, &why);
	if (err == M2_OK)
		check_accepted(&r, body, body_bytes, p, payload_bytes);
	else if (body != NULL || why.text[0] == '\0')
		__builtin_trap();
	free(body);
	free(h);
	free(p);

	char *address = malloc(size);
	if (address == NULL)
		abort();
	memcpy(address, data + 1, size - 1);
	address[size - 1] = '\0';
	(void)m2_gate_peer(address, &id[0], &id[1], &id[2]);
	free(address);
	return 0;
}
