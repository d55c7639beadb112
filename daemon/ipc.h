/* ipc.h - the packets between supervisor, gate and workers.
 *
 * Each child is joined to the supervisor by one SOCK_SEQPACKET socket pair.  A packet is a head, one
 * fixed-size struct given by its type, and a body of bytes: inline up to M2_IPC_INLINE, beyond that in
 * a sealed memfd that travels with the packet (SCM_RIGHTS).  The table in ipc.c says for every type
 * who may send it and how large its struct and body may be; anything else is M2_EPROTO, upon which
 * the receiver ends the connection (a child then ends; the supervisor restarts it).
 *
 * A channel never blocks: what the socket does not take now is queued and sent on POLLOUT.  A queue
 * over M2_IPC_QUEUE_BYTES is M2_EIO: the peer hangs.
 *
 * Threads: one thread per channel.
 */
#ifndef M2_DAEMON_IPC_H
#define M2_DAEMON_IPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/limits.h"
#include "daemon/request.h"
#include "kernels/backend.h"

enum { M2_IPC_INLINE = 32768, M2_IPC_BODY_MAX = 16777216, M2_IPC_QUEUE_BYTES = 67108864 };

enum m2_ipc_type {
	M2_IPC_NONE = 0,
	/* gate -> supervisor */
	M2_IPC_GATE_READY,   /* m2_ipc_hello */
	M2_IPC_GATE_REQUEST, /* m2_request + body */
	/* supervisor -> gate */
	M2_IPC_GATE_REPLY, /* m2_ipc_reply + body: JSON header, then payload */
	M2_IPC_GATE_STOP,  /* m2_ipc_hello: unbind, flush, end */
	/* supervisor -> worker */
	/* m2_ipc_load + body: struct m2_variant as bytes; none: what was planned or is parked */
	M2_IPC_LOAD,
	M2_IPC_UNLOAD,  /* m2_ipc_unload */
	M2_IPC_REQUEST, /* m2_ipc_request + body: the request's body */
	M2_IPC_CANCEL,  /* m2_ipc_cancel */
	M2_IPC_RELEASE, /* m2_ipc_cancel: unlink the segment */
	M2_IPC_STATS,   /* m2_ipc_hello: answer with STATS_REPLY */
	M2_IPC_STOP,    /* m2_ipc_hello: end now */
	M2_IPC_CHECK, /* m2_ipc_check + body: struct m2_variant, then struct m2_ipc_file [n_known] */
	M2_IPC_CHECK_CANCEL, /* m2_ipc_cancel: its check, wherever it is */
	/* worker -> supervisor */
	M2_IPC_WORKER_READY,   /* m2_ipc_worker_ready */
	M2_IPC_WORKER_UNABLE,  /* m2_ipc_unable: its device does not open, and it ends */
	M2_IPC_PROGRESS,       /* m2_ipc_progress */
	M2_IPC_LOADED,         /* m2_ipc_loaded */
	M2_IPC_UNLOADED,       /* m2_ipc_unloaded */
	M2_IPC_ACCEPTED,       /* m2_ipc_accepted */
	M2_IPC_TOKENS,         /* m2_ipc_tokens + body */
	M2_IPC_FINISHED,       /* m2_ipc_finished */
	M2_IPC_DATA,           /* m2_ipc_data + body: answer of tokenize, detokenize */
	M2_IPC_REFUSED,        /* m2_ipc_refused: the request never ran */
	M2_IPC_HEARTBEAT,      /* m2_ipc_heartbeat: once a second from the step loop itself */
	M2_IPC_STATS_REPLY,    /* m2_ipc_stats + body: struct m2_ipc_model_stats [n] */
	M2_IPC_CHECKED,        /* m2_ipc_checked: one file */
	M2_IPC_CHECK_PROGRESS, /* m2_ipc_check_progress */
	M2_IPC_CHECK_ENDED,    /* m2_ipc_check_ended: the last of a check */
	M2_IPC_PLANNED,        /* m2_ipc_planned: answer to a LOAD with plan_only */
	M2_IPC_USERS, /* m2_ipc_users + body: struct m2_ipc_user_stats [n]; before STATS_REPLY */
	M2_IPC_TYPE_COUNT
};

struct m2_ipc_hello {
	uint32_t version; /* M2_WIRE_VERSION */
	uint32_t generation;
};

/* supervisor -> gate.  body = header_bytes of JSON, then the payload (absent if payload_bytes is 0). */
struct m2_ipc_reply {
	struct m2_route route;
	uint32_t
		uid; /* of the client it is meant for: the gate drops it if the route is another uid's now */
	uint32_t header_bytes;
	uint32_t payload_bytes;
	uint32_t pad;
};

struct m2_ipc_load {
	uint64_t budget;      /* bytes this model may take; 0: no limit */
	int64_t paused_bytes; /* host memory for states of paused sequences: m2_lane_measure */
	int64_t step_cost;    /* tokens that taking part in a step counts for */
	uint32_t
		model; /* the supervisor's handle of this load, never reused within a worker's life */
	uint32_t plan_only; /* 1: open and plan it, answer PLANNED, and wait for LOAD or UNLOAD */
};

/* What a load would take.  Its checkpoint stays open, so that LOAD loads just what was planned. */
struct m2_ipc_planned {
	uint32_t model;
	uint32_t err; /* enum m2_err; not 0: it is forgotten */
	struct m2_why why;
	struct m2_footprint footprint; /* all that counts as memory of the device */
	uint64_t host;                 /* m2_ipc_loaded.host */
	uint64_t memory_total;
	uint64_t memory_free; /* of the device, now */
};

struct m2_ipc_unload {
	uint32_t model;
	uint32_t park;  /* 1: keep its weights in host memory, if the backend can */
	int64_t wait_s; /* running requests may finish that long, then are cancelled */
};

struct m2_ipc_request {
	struct m2_request request;
	uint32_t model;
	uint32_t weight; /* of its user: 1..M2_FAIR_WEIGHT_MAX (daemon/fair.h) */
	int32_t slots;   /* that its user may hold at once on this device; 0: no limit */
	uint32_t pad;
	uint64_t
		state_bytes; /* of states, in slots and paused, that they may have on it; the same */
};

struct m2_ipc_cancel {
	uint64_t request;
	uint32_t reason; /* enum m2_finish */
	uint32_t pad;
};

struct m2_ipc_worker_ready {
	struct m2_device_info device;
	char backend[16];
	uint32_t can_park; /* 1: UNLOAD with park means something */
	uint32_t pad;
};

struct m2_ipc_unable {
	uint32_t err; /* enum m2_err */
	uint32_t pad;
	struct m2_why why;
};

struct m2_ipc_progress {
	uint32_t model;
	uint32_t pad;
	uint64_t done;
	uint64_t total;
	char what[64];
};

/* Facts of a loaded model, for list and show. */
struct m2_ipc_loaded {
	uint32_t model;
	uint32_t err; /* enum m2_err; 0: resident */
	struct m2_why why;
	struct m2_footprint footprint;
	uint64_t
		host; /* buffers of the lane in host memory; a part of workspace where the device is
			  the host */
	uint64_t memory_free; /* of the device, afterwards */
	uint64_t
		measured; /* bytes that the device has less free than before the load; 0: not known, as
			      where its memory is the host's (m2_backend.owns_memory) */
	uint32_t crowded; /* 1: the device has no room now; it is planned still, and may be tried
				 again */
	uint32_t pad;
	struct m2_model_desc desc;
	int32_t vocab_size;
	int32_t tokenizer_size; /* 0: none */
	uint64_t parameters;
	uint64_t load_ms;
	char dialect[16];
	char container[48];
	char weights[8];    /* dtype resident */
	char path[64];      /* which code the device runs: m2_device_info.path */
	char runs[96];      /* which of it runs this model: m2_backend.describe; "": not said */
	char tokenizer[64]; /* its kind, "": none */
	char template[64];  /* of conversations and gaps, "": none */
};

struct m2_ipc_unloaded {
	uint32_t model;
	uint32_t pad;
	uint64_t bytes;       /* of the device, given back */
	uint64_t memory_free; /* of the device, afterwards */
	uint64_t parked;      /* of host memory that hold its weights: LOAD or UNLOAD it again;
				 0: it is forgotten */
};

struct m2_ipc_accepted {
	uint64_t request;
	uint64_t bytes;
	uint64_t prompt_tokens;
	char segment
		[M2_LIMIT_SEGMENT_NAME_BYTES]; /* file name in the results directory; "" with messages */
};

/* body: int32 tokens[count] | float logprobs[count] if has_logprobs | text[text_bytes] */
struct m2_ipc_tokens {
	uint64_t request;
	uint32_t sequence;
	uint32_t first;
	uint32_t count;
	uint32_t text_bytes;
	uint32_t has_logprobs;
	uint32_t pad;
};

struct m2_ipc_sequence_end {
	uint32_t tokens;
	uint32_t finish; /* enum m2_finish */
	int32_t stop_token;
	int32_t stop_string;
};

struct m2_ipc_finished {
	uint64_t request;
	uint32_t err; /* enum m2_err; with why */
	uint32_t n_sequences;
	struct m2_why why;
	uint64_t prompt_tokens;
	uint64_t generated_tokens;
	uint64_t queue_ns; /* received -> admitted */
	uint64_t first_ns; /* received -> first token */
	uint64_t total_ns; /* received -> finished */
	uint64_t engine_ns;
	uint64_t paused_ns; /* of the time between admission and end, without its slots */
	uint64_t pauses;
	uint64_t seed;
	struct m2_ipc_sequence_end ends[M2_LIMIT_COMPLETIONS];
};

struct m2_ipc_data {
	uint64_t request;
	uint64_t bytes;
};

struct m2_ipc_refused {
	uint64_t request;
	uint32_t err;
	uint32_t pad;
	struct m2_why why;
};

struct m2_ipc_heartbeat {
	uint64_t steps;
	uint64_t tokens;
};

struct m2_ipc_model_stats {
	uint32_t model;
	int32_t slots;
	int32_t slots_used;
	int32_t queued;
	int32_t paused; /* requests whose slots others have now */
	uint32_t pad;
	uint64_t steps;
	uint64_t prompt_tokens;
	uint64_t generated_tokens;
	uint64_t requests;
	uint64_t idle_ns; /* since its last request ended; 0 while one runs */
	uint64_t
		rate_millis; /* tokens of prompts and completions per 1000 s, of the last seconds */
};

/* What one user has at a worker now. */
struct m2_ipc_user_stats {
	uint32_t uid;
	uint32_t weight;
	int32_t queued; /* requests */
	int32_t running;
	int32_t paused;
	int32_t slots;          /* held */
	uint64_t prompt_tokens; /* since the worker knows the user */
	uint64_t generated_tokens;
	uint64_t work;         /* m2_fair_user.work */
	uint64_t slot_bytes;   /* of the states in the slots they hold */
	uint64_t paused_bytes; /* of those in host memory */
};

struct m2_ipc_users {
	uint32_t n_users;
	uint32_t pad;
};

struct m2_ipc_stats {
	uint64_t results_bytes; /* results memory in use */
	uint64_t segments;
	uint64_t memory_total; /* of the device */
	uint64_t memory_free;
	uint32_t n_models;
	uint32_t pad;
};

/* Read the files of a variant's checkpoint and tokenizer and tell their checksums.  One check at a time
 * runs in a worker, at the lowest priority. */
enum {
	M2_IPC_FILE_PATH = M2_LIMIT_PATH_BYTES + 258, /* a path, '/', a file's name, NUL */
	M2_IPC_KNOWN_MAX = 4096
};

struct m2_ipc_file {
	uint64_t bytes;
	int64_t mtime_ns;
	char path[M2_IPC_FILE_PATH]; /* absolute */
	char pad[6];
};

struct m2_ipc_check {
	uint64_t check; /* the supervisor's number of it */
	uint32_t model; /* the load it follows: ends with its unload; 0: of none */
	uint32_t
		every; /* 1: read every file, those that are known and no longer used too, and tell progress;
		    0: those that are not known with the same size and time */
	uint32_t n_known;
	uint32_t pad;
};

struct m2_ipc_checked {
	uint64_t check;
	struct m2_ipc_file file;
	uint32_t err; /* enum m2_err; ENOENT: it is missing */
	uint32_t pad;
	struct m2_why why;
	char sha256[72]; /* if err is 0 */
};

struct m2_ipc_check_progress {
	uint64_t check;
	uint64_t done;
	uint64_t total;
	char what[64];
};

struct m2_ipc_check_ended {
	uint64_t check;
	uint32_t
		err; /* enum m2_err: why the checkpoint or tokenizer could not be opened, or ECANCELED */
	uint32_t pad;
	struct m2_why why;
};

/* One received packet.  fixed and body point into the channel's buffer or a mapping and are valid until
 * the next receive on the channel.  fixed is aligned for any struct above. */
struct m2_ipc_packet {
	enum m2_ipc_type type;
	const void *fixed;
	const void *body;
	size_t body_bytes;
	bool body_lost; /* it had one beyond M2_IPC_INLINE, and no descriptor or memory was free here to
			   take it: body is NULL.  Not the sender's fault */
};

struct m2_ipc_channel; /* opaque */

enum m2_ipc_side { M2_IPC_SUPERVISOR, M2_IPC_GATE, M2_IPC_WORKER };

/* The table's rows: bytes of the struct of what `from` may send, 0 if it may not; and the most of a body. */
size_t m2_ipc_fixed_bytes(enum m2_ipc_type type, enum m2_ipc_side from);
size_t m2_ipc_body_most(enum m2_ipc_type type);

/* fd: one end of the pair, made non-blocking, owned by the channel.  side: who we are; peer: who is
 * at the other end: what may be sent and received follows. */
enum m2_err m2_ipc_channel_create(int fd, enum m2_ipc_side side, enum m2_ipc_side peer,
	struct m2_ipc_channel **out, struct m2_why *why);
void m2_ipc_channel_destroy(struct m2_ipc_channel **channel);
int m2_ipc_channel_fd(const struct m2_ipc_channel *channel);
bool m2_ipc_channel_wants_write(const struct m2_ipc_channel *channel);

/* Send or queue.  fixed has the size the type's table row says (asserted).  M2_ENOMEM: a body beyond
 * M2_IPC_INLINE found no memory or no descriptor for its memfd; nothing was sent and the channel is whole.
 * Any other error: the channel is at its end. */
enum m2_err m2_ipc_send(struct m2_ipc_channel *channel, enum m2_ipc_type type, const void *fixed,
	const void *body, size_t body_bytes, struct m2_why *why);
enum m2_err m2_ipc_flush(struct m2_ipc_channel *channel, struct m2_why *why);

/* *got = false: nothing there now.  M2_EIO with "peer closed": the other process ended. */
enum m2_err m2_ipc_receive(
	struct m2_ipc_channel *channel, struct m2_ipc_packet *out, bool *got, struct m2_why *why);

#endif
