/* results.h - the layout of a results segment: what the daemon writes and one client reads.
 *
 * A segment is a file in tmpfs that the daemon creates (mode 0600 and an ACL u:<uid>:r for the one
 * client user), sizes in full when the request is admitted, and alone writes.  The client maps it
 * PROT_READ.  All numbers are little-endian; all offsets are from the start of the segment, 0 meaning
 * "not there"; all arrays are 64-byte aligned.  The daemon never reads back what a client could
 * have written, because a client can write nothing.
 *
 *   header (1024 bytes) | sequence table (128 bytes each) | arrays
 *
 * Publication.  The one writer stores data first, then the counts (`published`, `text_published`,
 * `prompt_published`, `state`) with release order, then adds 1 to `doorbell` with release order and
 * wakes the futex on it.  A reader loads a count with acquire order and may then read that much.
 * To sleep: load doorbell; look at the counts; if nothing is new FUTEX_WAIT on doorbell with the
 * loaded value (works on a read-only shared mapping; not FUTEX_PRIVATE).  Counts never fall.
 * `state` becomes M2_RESULTS_FINISHED exactly once, after everything else is in place.
 *
 * `error` and `message` are valid when state is FINISHED: error is enum m2_err, 0 when every sequence
 * ended by itself.  If the worker dies, the supervisor fills them in and finishes the segment.
 *
 * Threads: the helpers below are for one writer; reading is for anyone.
 */
#ifndef M2_COMMON_RESULTS_H
#define M2_COMMON_RESULTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define M2_RESULTS_MAGIC "M2RESULT"
enum { M2_RESULTS_VERSION = 1, M2_RESULTS_ALIGN = 64 };

enum m2_results_state { M2_RESULTS_QUEUED = 0, M2_RESULTS_RUNNING = 1, M2_RESULTS_FINISHED = 2 };

enum m2_finish {
	M2_FINISH_RUNNING = 0,
	M2_FINISH_STOP_TOKEN = 1,  /* an end token or one of stop_tokens; it is the last token */
	M2_FINISH_STOP_STRING = 2, /* the text ends before the string */
	M2_FINISH_LENGTH = 3,      /* max_tokens reached */
	M2_FINISH_CANCELLED = 4,
	M2_FINISH_DEADLINE = 5,
	M2_FINISH_ERROR = 6
};

enum m2_results_flags {
	M2_RESULTS_LOGITS = 1,          /* logits of generated tokens */
	M2_RESULTS_PROMPT_LOGPROBS = 2, /* prompt_logprobs (and top, if top_k > 0) */
	M2_RESULTS_PROMPT_LOGITS = 4,   /* prompt_logits */
	M2_RESULTS_TEXT = 8,            /* the variant has a tokenizer: text arrays are there */
	M2_RESULTS_LOGPROBS = 16        /* log-probabilities of generated tokens */
};

struct m2_results_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes; /* 1024 */
	uint64_t total_bytes;
	uint64_t request;
	_Atomic uint32_t doorbell; /* the futex word */
	_Atomic uint32_t state;    /* enum m2_results_state */
	uint32_t error;            /* enum m2_err */
	uint32_t n_sequences;      /* 0 for score */
	uint32_t prompt_tokens;    /* T */
	uint32_t max_tokens;
	uint32_t vocab; /* V, row length of logits */
	uint32_t top_k; /* alternatives per token */
	uint32_t flags;
	_Atomic uint32_t prompt_published; /* prompt positions whose scores are there */
	uint64_t sequences;                /* struct m2_results_sequence [n_sequences] */
	uint64_t prompt_ids;               /* i32 [T] */
	uint64_t prompt_logprobs;     /* f32 [T]; of each token given those before it; [0] is NaN */
	uint64_t prompt_top_ids;      /* i32 [T][top_k], most probable first; row 0 is -1 */
	uint64_t prompt_top_logprobs; /* f32 [T][top_k] */
	uint64_t prompt_logits;       /* f32 [T][V]; row t is the prediction after token t */
	uint64_t received_ns;         /* CLOCK_MONOTONIC: the worker had the request */
	uint64_t admitted_ns;         /* it got its slots */
	uint64_t first_ns;            /* first token published */
	uint64_t finished_ns;
	uint64_t engine_ns;            /* time inside the backend, of the steps it took part in */
	uint64_t first_engine_ns;      /* the part of engine_ns before the first token */
	_Atomic uint64_t published_ns; /* CLOCK_MONOTONIC: the last ring of the doorbell */
	uint64_t paused_ns; /* between admission and end, while its slots were someone else's */
	uint64_t pauses;    /* how often */
	unsigned char reserved[320];
	char message[512]; /* sentence for error, NUL-terminated */
};

struct m2_results_sequence {
	_Atomic uint32_t published;      /* tokens that are there */
	_Atomic uint32_t finish;         /* enum m2_finish, stored before the last `published` */
	int32_t stop_token;              /* for STOP_TOKEN, else -1 */
	int32_t stop_string;             /* index in the request's list for STOP_STRING, else -1 */
	_Atomic uint64_t text_published; /* bytes of text that are final */
	uint64_t text_capacity;
	uint64_t tokens; /* i32 [max_tokens] */
	uint64_t
		logprobs; /* f32 [max_tokens]: of the chosen token, from the model's own logits before
				  temperature, penalties, bias and truncation */
	uint64_t
		text_end; /* u32 [max_tokens]: bytes of text after token i; what a possible stop string or
				  an incomplete character holds back counts for the token that frees it */
	uint64_t text;         /* char [text_capacity], UTF-8 */
	uint64_t top_ids;      /* i32 [max_tokens][top_k] */
	uint64_t top_logprobs; /* f32 [max_tokens][top_k] */
	uint64_t logits;       /* f32 [max_tokens][V]: what token i was chosen from */
	uint64_t seed;         /* the seed that was used; sequence s of a request draws stream s */
	unsigned char reserved[32];
};

_Static_assert(sizeof(struct m2_results_header) == 1024, "results header is 1024 bytes");
_Static_assert(sizeof(struct m2_results_sequence) == 128, "a sequence entry is 128 bytes");

struct m2_results_shape {
	uint64_t request;
	uint32_t n_sequences;
	uint32_t prompt_tokens;
	uint32_t max_tokens;
	uint32_t vocab;
	uint32_t top_k;
	uint32_t flags;
	uint32_t text_per_token; /* most bytes of text one token can free */
};

/* Bytes of a segment of this shape; M2_ELIMIT over M2_LIMIT_RESULT_BYTES, no overflow. */
enum m2_err m2_results_size(
	const struct m2_results_shape *shape, size_t *bytes, struct m2_why *why);

/* Fill header and sequence table in zeroed memory of exactly m2_results_size() bytes. */
void m2_results_format(void *segment, size_t bytes, const struct m2_results_shape *shape);

/* Reader's check of a mapped segment of `bytes` bytes: magic, version, every offset and length inside.
 * M2_EFORMAT otherwise.  After M2_OK every array named in the table can be read in full. */
enum m2_err m2_results_check(const void *segment, size_t bytes, struct m2_why *why);

static inline struct m2_results_sequence *m2_results_sequence(void *segment, uint32_t index)
{
	struct m2_results_header *header = segment;
	return (struct m2_results_sequence *)((char *)segment + header->sequences) + index;
}

/* Writer: ring after a publication: notes the time, adds to the doorbell, wakes. */
void m2_results_ring(struct m2_results_header *header);

/* Writer: error, message and state FINISHED, then ring.  Only the first call has an effect. */
void m2_results_finish(
	struct m2_results_header *header, enum m2_err error, const char *message, uint64_t now_ns);

/* Reader: sleep until doorbell differs from `seen` or the time is over (timeout_ns < 0: for ever).
 * Returns false on timeout.  May wake early. */
bool m2_results_wait(const struct m2_results_header *header, uint32_t seen, int64_t timeout_ns);

#endif
