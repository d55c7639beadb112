/* mamba2.h - the client library of mamba2d: the one public header.
 *
 * Connect to a daemon on this host, name a model, get tokens, text, log-probabilities and logits from
 * shared memory that the daemon writes and this library only reads.
 *
 *	mamba2 *m;
 *	if (mamba2_connect(NULL, &m) != MAMBA2_OK) ...
 *	mamba2_request *r;
 *	mamba2_generate_options o;
 *	mamba2_generate_options_init(&o);
 *	o.model = "demo"; o.prompt = "Once upon"; o.prompt_bytes = 9;
 *	if (mamba2_generate(m, &o, &r) == MAMBA2_OK)
 *		while (mamba2_request_wait(r, -1) == MAMBA2_OK && ...)
 *			...mamba2_request_text(r, 0, &bytes)...
 *	mamba2_request_free(&r);
 *	mamba2_close(&m);
 *
 * Errors.  Every function that can fail returns enum mamba2_error, 0 being success; the sentence for
 * a person is mamba2_message() of the handle, valid until the next call on the same handle by the same
 * thread.  No function prints, exits or calls abort.
 *
 * Threads.  A `mamba2` handle may be used from any number of threads: one internal thread owns its
 * socket.  A `mamba2_request` belongs to one thread at a time.  Pointers into results stay valid until
 * mamba2_request_free().
 *
 * Reconnection.  If the daemon's gate restarts, the library reconnects, asks again for what was not
 * answered (the same key: nothing runs twice) and carries on; if the daemon itself is gone, requests end
 * with MAMBA2_EWORKER or MAMBA2_EUNREACHABLE.
 */
#ifndef MAMBA2_H
#define MAMBA2_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MAMBA2_API __attribute__((visibility("default")))
#else
#define MAMBA2_API
#endif

enum mamba2_error {
	MAMBA2_OK = 0,
	MAMBA2_EINVAL = 1,
	MAMBA2_ENOENT = 2,
	MAMBA2_EEXIST = 3,
	MAMBA2_EACCES = 4,
	MAMBA2_EBUSY = 5,
	MAMBA2_ENOMEM = 6,
	MAMBA2_ELIMIT = 7,
	MAMBA2_EIO = 8,
	MAMBA2_EFORMAT = 9,
	MAMBA2_EUNSUPPORTED = 10,
	MAMBA2_EDEVICE = 11,
	MAMBA2_ECANCELED = 12,
	MAMBA2_EDEADLINE = 13,
	MAMBA2_EWORKER = 14,
	MAMBA2_EDRAINING = 15,
	MAMBA2_EPROTO = 16,
	MAMBA2_ETIMEOUT = 17,
	MAMBA2_EUNREACHABLE = 18,
	MAMBA2_EINTERNAL = 19
};

typedef struct mamba2 mamba2;
typedef struct mamba2_request mamba2_request;

typedef struct mamba2_options {
	size_t size; /* sizeof(mamba2_options): how later versions tell */
	const char *
		runtime_dir; /* NULL: $MAMBA2_RUNTIME_DIR, else /run/mamba2d if it answers there, else
				      $XDG_RUNTIME_DIR/mamba2d */
	int control;         /* non-zero: the control endpoint (administrators) */
	int64_t timeout_ms;         /* for answers to calls that wait; 0: 30000; -1: for ever */
	int64_t connect_timeout_ms; /* for mamba2_connect; 0: as timeout_ms; -1: for ever */
} mamba2_options;
#define MAMBA2_OPTIONS_INIT                                                                        \
	{                                                                                          \
		sizeof(mamba2_options), NULL, 0, 0, 0                                              \
	}

/* NULL options: defaults.  Waits for the daemon to answer, at most the timeout: EUNREACHABLE. */
MAMBA2_API enum mamba2_error mamba2_connect(const mamba2_options *options, mamba2 **out);
MAMBA2_API void mamba2_close(mamba2 **m);

/* The last failure of this thread on this handle (m may be NULL: of mamba2_connect), and the field
 * of the request it speaks of, "" if none. */
MAMBA2_API const char *mamba2_message(const mamba2 *m);
MAMBA2_API const char *mamba2_message_field(const mamba2 *m);
MAMBA2_API const char *mamba2_error_code(enum mamba2_error error); /* "busy" */
MAMBA2_API const char *mamba2_version(void);

/* ---- generate and score -------------------------------------------------------------------- */

typedef struct mamba2_logit_bias {
	int32_t id;
	float bias;
} mamba2_logit_bias;

/* What prompt and prompt_bytes hold.  Of the JSON forms the daemon makes one list of tokens by the model's
 * own template; EUNSUPPORTED: its tokenizer has none (mamba2_show tells). */
enum mamba2_form {
	MAMBA2_FORM_TEXT = 0, /* UTF-8 */
	MAMBA2_FORM_CHAT =
		1, /* JSON: [{"role": "system", "user" or "assistant", "content": ...} ...] */
	MAMBA2_FORM_FILL = 2 /* JSON: {"prefix": ..., "suffix": ...}: what belongs between them? */
};

/* The JSON of the two forms, from texts; *json is malloc'd: mamba2_free().  One needs no handle for it;
 * mamba2_message(NULL) tells of a failure.
 *
 *	const mamba2_chat_message m[] = {{"user", "Reverse a string in C.", 22}};
 *	mamba2_chat_json(m, 1, &json, &bytes);
 *	o.form = MAMBA2_FORM_CHAT; o.prompt = json; o.prompt_bytes = bytes;
 */
typedef struct mamba2_chat_message {
	const char *role;
	const char *content; /* UTF-8 */
	size_t content_bytes;
} mamba2_chat_message;
MAMBA2_API enum mamba2_error mamba2_chat_json(
	const mamba2_chat_message *messages, size_t count, char **json, size_t *bytes);
MAMBA2_API enum mamba2_error mamba2_fill_json(const char *prefix, size_t prefix_bytes,
	const char *suffix, size_t suffix_bytes, char **json, size_t *bytes);

/* The order among one's own requests that wait for their turn; it moves nobody else's. */
enum mamba2_priority {
	MAMBA2_PRIORITY_NORMAL = 0,
	MAMBA2_PRIORITY_LOW = 1,
	MAMBA2_PRIORITY_HIGH = 2
};

/* Fields left as INIT makes them take the variant's defaults.  NAN and -1 mean "not given". */
typedef struct mamba2_generate_options {
	size_t size;
	const char *model;
	const char *prompt; /* UTF-8; or */
	size_t prompt_bytes;
	const int32_t *tokens; /* ids, if not NULL */
	size_t n_tokens;
	int special;        /* special tokens written in the text count */
	int64_t max_tokens; /* -1 */
	int32_t n;          /* completions */
	float temperature;
	int64_t top_k;
	float top_p;
	float min_p;
	float repetition_penalty;
	float presence_penalty;
	float frequency_penalty;
	const mamba2_logit_bias *logit_bias;
	size_t n_logit_bias;
	int64_t seed;               /* -1: drawn */
	const int32_t *stop_tokens; /* NULL: the variant's */
	size_t n_stop_tokens;
	const char *const *stop; /* NUL-terminated strings */
	size_t n_stop;
	int ignore_eos;
	int32_t logprobs; /* -1 none, 0 chosen, k and k alternatives */
	int echo;
	int logits;
	int64_t deadline_ms; /* 0 none */
	/* second version of this struct */
	int form; /* enum mamba2_form: what the prompt is */
	/* third version */
	int64_t priority; /* enum mamba2_priority */
} mamba2_generate_options;
MAMBA2_API void mamba2_generate_options_init(mamba2_generate_options *options);
MAMBA2_API void mamba2_generate_options_init_size(mamba2_generate_options *options, size_t size);

/* Send; returns when the daemon has accepted (results memory is mapped) or refused. */
MAMBA2_API enum mamba2_error mamba2_generate(
	mamba2 *m, const mamba2_generate_options *options, mamba2_request **out);

typedef struct mamba2_score_options {
	size_t size;
	const char *model;
	const char *prompt;
	size_t prompt_bytes;
	const int32_t *tokens;
	size_t n_tokens;
	int special;
	int32_t top; /* alternatives per position, 0..64 */
	int logits;  /* full logits */
	int64_t deadline_ms;
	/* second version of this struct */
	int form; /* enum mamba2_form */
	/* third version */
	int64_t priority; /* enum mamba2_priority */
} mamba2_score_options;
MAMBA2_API void mamba2_score_options_init(mamba2_score_options *options);
MAMBA2_API void mamba2_score_options_init_size(mamba2_score_options *options, size_t size);

/* Programs built with an older header have smaller structs.  The functions of the first version fill what
 * that version had; a program built with this header fills, and tells, all that it knows. */
#define mamba2_generate_options_init(options)                                                      \
	mamba2_generate_options_init_size((options), sizeof(mamba2_generate_options))
#define mamba2_score_options_init(options)                                                         \
	mamba2_score_options_init_size((options), sizeof(mamba2_score_options))
MAMBA2_API enum mamba2_error mamba2_score(
	mamba2 *m, const mamba2_score_options *options, mamba2_request **out);

/* Wait until something new is published or the request finished, at most timeout_ms (-1: for ever;
 * 0: just look).  OK: there is something new, or it has finished; ETIMEOUT: nothing yet. */
MAMBA2_API enum mamba2_error mamba2_request_wait(mamba2_request *r, int64_t timeout_ms);

/* A descriptor that is readable when something new is there (for poll/epoll); -1 on failure.  It
 * costs one thread per request that asks for it.  mamba2_request_wait(r, 0) clears it. */
MAMBA2_API int mamba2_request_fd(mamba2_request *r);

MAMBA2_API int mamba2_request_finished(mamba2_request *r); /* 1 once all is there */
/* After it finished: OK, or why the request as a whole failed. */
MAMBA2_API enum mamba2_error mamba2_request_result(mamba2_request *r, const char **message);
MAMBA2_API enum mamba2_error mamba2_request_cancel(mamba2_request *r);
/* The daemon's number of the request, as ps shows it and mamba2_cancel takes it. */
MAMBA2_API uint64_t mamba2_request_number(const mamba2_request *r);
/* Cancels if it still runs, gives the results memory back, unmaps. */
MAMBA2_API void mamba2_request_free(mamba2_request **r);

enum mamba2_finish {
	MAMBA2_RUNNING = 0,
	MAMBA2_STOP_TOKEN = 1,
	MAMBA2_STOP_STRING = 2,
	MAMBA2_LENGTH = 3,
	MAMBA2_CANCELLED = 4,
	MAMBA2_DEADLINE = 5,
	MAMBA2_ERROR = 6
};

/* What has been published of completion `sequence`, without copies; counts are of this moment, and a
 * later call may give more.  Pointers are NULL for what the request did not ask for. */
MAMBA2_API size_t mamba2_request_tokens(mamba2_request *r, int sequence, const int32_t **tokens);
MAMBA2_API const char *mamba2_request_text(mamba2_request *r, int sequence, size_t *bytes);
MAMBA2_API const uint32_t *mamba2_request_text_ends(mamba2_request *r, int sequence);
MAMBA2_API const float *mamba2_request_logprobs(mamba2_request *r, int sequence);
MAMBA2_API const int32_t *mamba2_request_top_ids(mamba2_request *r, int sequence, size_t *top_k);
MAMBA2_API const float *mamba2_request_top_logprobs(mamba2_request *r, int sequence);
MAMBA2_API const float *mamba2_request_logits(mamba2_request *r, int sequence, size_t *vocab);
MAMBA2_API enum mamba2_finish mamba2_request_finish(mamba2_request *r, int sequence);

/* Of the prompt (score, echo): how many positions are scored, and the arrays. */
MAMBA2_API size_t mamba2_request_prompt(mamba2_request *r, const int32_t **tokens);
MAMBA2_API size_t mamba2_request_prompt_scored(mamba2_request *r);
MAMBA2_API const float *mamba2_request_prompt_logprobs(mamba2_request *r);
MAMBA2_API const int32_t *mamba2_request_prompt_top_ids(mamba2_request *r, size_t *top_k);
MAMBA2_API const float *mamba2_request_prompt_top_logprobs(mamba2_request *r);
MAMBA2_API const float *mamba2_request_prompt_logits(mamba2_request *r, size_t *vocab);

typedef struct mamba2_timings { /* nanoseconds; 0: not reached */
	uint64_t queue;         /* received by the worker -> admitted to a slot */
	uint64_t first;         /* received -> first token published */
	uint64_t total;         /* received -> finished */
	uint64_t engine;        /* inside the backend */
	uint64_t first_engine;  /* of that, before the first token */
	uint64_t seed;          /* that was used */
	uint64_t received_at;   /* CLOCK_MONOTONIC when the worker received it */
	uint64_t published_at;  /* CLOCK_MONOTONIC of the last publication */
} mamba2_timings;
MAMBA2_API void mamba2_request_timings(mamba2_request *r, mamba2_timings *out);

/* How long it was paused so far, in nanoseconds, so that another user had their turn, and (count, may be NULL)
 * how often: a part of the time between admission and end. */
MAMBA2_API uint64_t mamba2_request_paused(mamba2_request *r, uint64_t *count);

/* ---- the rest: each waits for its answer ------------------------------------------------------ */

/* *ids and *text are malloc'd: mamba2_free(). */
MAMBA2_API enum mamba2_error mamba2_tokenize(mamba2 *m, const char *model, const char *text,
	size_t bytes, int special, int32_t **ids, size_t *count);
/* The same for a prompt of any form: the ids that generate and score would take. */
MAMBA2_API enum mamba2_error mamba2_tokenize_form(mamba2 *m, const char *model, int form,
	const char *prompt, size_t bytes, int32_t **ids, size_t *count);
MAMBA2_API enum mamba2_error mamba2_detokenize(
	mamba2 *m, const char *model, const int32_t *ids, size_t count, char **text, size_t *bytes);

/* Answers as the JSON text the daemon sent (common/PROTOCOL.md says what is in it): mamba2_free(). */
MAMBA2_API enum mamba2_error mamba2_list(mamba2 *m, char **json);
MAMBA2_API enum mamba2_error mamba2_show(mamba2 *m, const char *model, char **json);
MAMBA2_API enum mamba2_error mamba2_status(mamba2 *m, char **json);
MAMBA2_API enum mamba2_error mamba2_ps(mamba2 *m, char **json);

/* Stop a request by its number: one's own, or on the control endpoint anyone's.  ENOENT: no such. */
MAMBA2_API enum mamba2_error mamba2_cancel(mamba2 *m, uint64_t number);

/* Control endpoint.  progress may be NULL; called from this thread while waiting. */
typedef void (*mamba2_progress)(void *ctx, uint64_t done, uint64_t total, const char *what);
MAMBA2_API enum mamba2_error mamba2_load(
	mamba2 *m, const char *model, mamba2_progress progress, void *ctx, char **json);
/* The same with options.  DRY_RUN: nothing is loaded, the answer says to the byte what would be.  PIN: it
 * never leaves by itself until it is unloaded. */
enum mamba2_load_option { MAMBA2_LOAD_DRY_RUN = 1, MAMBA2_LOAD_PIN = 2 };
MAMBA2_API enum mamba2_error mamba2_load_with(mamba2 *m, const char *model, int options,
	mamba2_progress progress, void *ctx, char **json);
MAMBA2_API enum mamba2_error mamba2_unload(
	mamba2 *m, const char *model, int64_t wait_s, char **json);
/* yaml: text of a variant file; source: absolute path it came from (NULL: none). */
MAMBA2_API enum mamba2_error mamba2_register(
	mamba2 *m, const char *yaml, size_t bytes, const char *source, int replace, char **json);
/* Read every file of a variant again; the answer says for each whether it is what was recorded.  record:
 * what is there now becomes the record.  OK says that it was done: "state" of the answer says what came
 * out. */
MAMBA2_API enum mamba2_error mamba2_verify(
	mamba2 *m, const char *model, int record, mamba2_progress progress, void *ctx, char **json);
MAMBA2_API enum mamba2_error mamba2_remove(mamba2 *m, const char *model, char **json);
MAMBA2_API enum mamba2_error mamba2_reload(mamba2 *m, char **json);
MAMBA2_API enum mamba2_error mamba2_drain(
	mamba2 *m, int64_t wait_s, int stop_daemon, int resume, char **json);

MAMBA2_API void mamba2_free(void *p);

#ifdef __cplusplus
}
#endif

#endif
