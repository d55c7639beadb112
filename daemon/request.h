/* request.h - one request after the gate has checked it: a fixed-size struct and a body.
 *
 * It travels gate -> supervisor -> worker as it is.  Everything in it is in range (common/fields.def)
 * or marked unset; whoever receives it checks it once more (m2_request_check), because the sender is
 * a process that strangers talk to.  Variable parts lie in the body, at checked offsets:
 *   prompt | logit bias | stop strings
 * Plain old data: no pointers, no padding read by anyone (zeroed before filling).
 */
#ifndef M2_DAEMON_REQUEST_H
#define M2_DAEMON_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "common/wire.h"
#include "registry/variant.h"

/* Where an answer goes: the gate's routing id of the connection.  A gate that restarts gets a new
 * generation, and answers for an older one are dropped until the client asks again. */
struct m2_route {
	uint32_t generation;
	uint8_t endpoint; /* enum m2_endpoint */
	uint8_t length;
	uint8_t id[32];
	uint8_t pad[2];
};

enum m2_request_set { /* which sampling fields the request gave itself */
	M2_SET_MAX_TOKENS = 1 << 0,
	M2_SET_TEMPERATURE = 1 << 1,
	M2_SET_TOP_K = 1 << 2,
	M2_SET_TOP_P = 1 << 3,
	M2_SET_MIN_P = 1 << 4,
	M2_SET_REPETITION = 1 << 5,
	M2_SET_PRESENCE = 1 << 6,
	M2_SET_FREQUENCY = 1 << 7,
	M2_SET_SEED = 1 << 8,
	M2_SET_STOP_TOKENS = 1 << 9
};

enum m2_request_flags {
	M2_REQUEST_TOKENS =
		1 << 0, /* the payload is int32 ids; else UTF-8 text, or see the last two */
	M2_REQUEST_SPECIAL = 1 << 1,
	M2_REQUEST_IGNORE_EOS = 1 << 2,
	M2_REQUEST_ECHO = 1 << 3,
	M2_REQUEST_LOGITS = 1 << 4,
	M2_REQUEST_MESSAGES = 1 << 5, /* tokens as messages, no segment for the client */
	M2_REQUEST_REPLACE = 1 << 6,
	M2_REQUEST_STOP_DAEMON = 1 << 7,
	M2_REQUEST_RESUME = 1 << 8,
	M2_REQUEST_CHAT = 1 << 9,  /* the payload is JSON: messages (daemon/prompt.h) */
	M2_REQUEST_FILL = 1 << 10, /* the payload is JSON: prefix and suffix */
	M2_REQUEST_DRY_RUN = 1 << 11,
	M2_REQUEST_PIN = 1 << 12
};

/* Among the requests of one user; it moves nobody else's. */
enum m2_priority { M2_PRIORITY_NORMAL, M2_PRIORITY_LOW, M2_PRIORITY_HIGH, M2_PRIORITY_COUNT };

struct m2_sampling {
	float temperature;
	float top_p;
	float min_p;
	float repetition_penalty;
	float presence_penalty;
	float frequency_penalty;
	int32_t top_k;
	int32_t max_tokens;
	uint64_t seed;
	int32_t n_stop_tokens;
	int32_t stop_tokens[M2_LIMIT_STOP_TOKENS];
};

struct m2_logit_bias {
	int32_t id;
	float bias;
};

struct m2_request {
	uint64_t id;        /* the supervisor's number, 1..2^53-1; 0 before it gave one */
	uint64_t client_id; /* the client's "id", echoed */
	uint8_t key[M2_LIMIT_KEY_BYTES];
	uint8_t target[M2_LIMIT_KEY_BYTES]; /* attach, cancel by key */
	struct m2_route route;
	uint32_t uid;
	uint32_t gid;
	uint32_t pid;
	uint32_t op; /* enum m2_op */
	uint32_t flags;
	uint32_t set;
	int32_t n;
	int32_t logprobs; /* -1 none */
	int32_t priority; /* enum m2_priority */
	uint32_t pad_priority;
	int64_t deadline_ms;  /* 0: none; after reception */
	int64_t wait_s;       /* -1: default */
	uint64_t request;     /* cancel, release */
	uint64_t received_ns; /* CLOCK_MONOTONIC, set by the gate */
	struct m2_sampling sampling;
	/* body */
	uint32_t prompt_bytes;
	uint32_t n_logit_bias;
	uint32_t n_stop;
	uint32_t stop_bytes; /* all stop strings together */
	uint16_t stop_length[M2_LIMIT_STOP_STRINGS];
	char model[M2_LIMIT_NAME_BYTES + 1];
	char source[M2_LIMIT_PATH_BYTES + 1];
	char pad[6];
};

/* Where the parts lie: prompt at 0, bias at the next multiple of 8, stop strings behind it. */
size_t m2_request_bias_at(const struct m2_request *r);
size_t m2_request_stop_at(const struct m2_request *r);
size_t m2_request_body_bytes(const struct m2_request *r);

/* All ranges, all lengths, body_bytes exactly m2_request_body_bytes.  M2_EPROTO otherwise: the sending
 * process is broken, not the client. */
enum m2_err m2_request_check(const struct m2_request *r, size_t body_bytes, struct m2_why *why);

/* Defaults of the variant for what the request left unset. */
void m2_request_apply_defaults(struct m2_request *r, const struct m2_variant *v);

#endif
