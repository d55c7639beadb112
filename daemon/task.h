/* task.h - one generate or score request as the step loop sees it: everything it will ever need,
 * allocated and checked before it is queued.
 *
 * A task is made by the front of the worker (any thread), handed to the step thread (m2_scheduler_submit),
 * and handed back when it is done.  While the step thread has it, everybody else may touch `cancel` and
 * the published counts of its results, nothing else.
 *
 * One prompt, n sequences.  The prompt runs once, in the slot of the first sequence; the others get a
 * copy of the state at its end.  A score request has no sequences and one slot.
 */
#ifndef M2_DAEMON_TASK_H
#define M2_DAEMON_TASK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "daemon/completion.h"
#include "daemon/request.h"
#include "daemon/sampler.h"
#include "daemon/segment.h"
#include "model/tokenizer.h"

struct m2_lane;

enum { M2_TASK_ENDS_MAX = 2 * M2_LIMIT_STOP_TOKENS };

enum m2_parked {
	M2_PARKED_NONE = -1, /* it needs no slot */
	M2_PARKED_EMPTY = -2 /* it needs a slot, in which nothing is yet */
};

/* Where a task is. */
enum m2_stage {
	M2_STAGE_NONE, /* not with a scheduler */
	M2_STAGE_QUEUED,
	M2_STAGE_RUNNING, /* it has its slots */
	M2_STAGE_PAUSED   /* its states lie in host memory, its slots are someone else's */
};

/* One completion.  The pointers lead into results memory; NULL where it was not asked for. */
struct m2_sequence {
	bool live;
	int32_t slot;   /* -1: none yet, or given back */
	int32_t parked; /* while its task is paused: enum m2_parked, or the place of its state */
	int32_t last;   /* the newest token: the next to be fed */
	uint32_t generated;
	uint32_t ahead; /* tokens that steps under way will give it */
	struct m2_counts counts;
	struct m2_completion text;
	struct m2_results_sequence *out;
	int32_t *tokens;
	float *logprobs;
	uint32_t *text_end;
	int32_t *top_ids;
	float *top_logprobs;
	float *logits;
};

struct m2_task {
	/* fixed from creation on */
	uint64_t id;
	uint32_t op;               /* M2_OP_GENERATE or M2_OP_SCORE */
	uint32_t flags;            /* enum m2_request_flags */
	uint32_t uid;              /* whose turn it takes */
	uint32_t weight;           /* of the user */
	int32_t user_slots;        /* most slots of the user at once; 0: no limit */
	uint64_t user_bytes;       /* most bytes of states, the same */
	enum m2_priority priority; /* among the user's own */
	bool wants_prompt_scores;  /* a row of logits for every token of the prompt */
	bool picks;                /* m2_task_picks */
	uint32_t n_slots;          /* slots it takes: sequences, or 1 for score */
	uint32_t n_sequences;
	uint32_t prompt_tokens;
	uint32_t max_tokens;
	uint32_t top_k;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; UINT64_MAX: none */
	struct m2_sampling sampling;
	struct m2_logit_bias *bias;
	uint32_t n_bias;
	struct m2_stops stops;
	int32_t n_ends; /* tokens that end a sequence */
	int32_t ends[M2_TASK_ENDS_MAX];
	struct m2_segment segment;
	struct m2_results_header *header;
	const int32_t *prompt; /* in results memory, which only this process writes */
	float *prompt_logprobs;
	int32_t *prompt_top_ids;
	float *prompt_top_logprobs;
	float *prompt_logits;
	void *owner; /* whoever made it */
	/* there were no free slots when it came: it counts in the bound of the queue, here; else NULL */
	_Atomic int32_t *waits;

	/* anyone -> step thread: enum m2_finish, 0 while it may run */
	_Atomic uint32_t cancel;

	/* the step thread's */
	struct m2_lane *lane;
	struct m2_task *next; /* in a queue, or among the paused */
	enum m2_stage stage;
	int32_t place;                 /* of its user in m2_fair, and of their party in the lane */
	uint64_t turn_ns;              /* since when it has its slots */
	uint32_t turn_tokens;          /* that it was served since then */
	uint64_t paused_at;            /* while it is paused */
	bool chosen;                   /* to be paused, while that is decided */
	struct m2_sequence *sequences; /* [n_slots]; of a score request only the slot is used */
	uint32_t prompt_done;          /* tokens of the prompt that the slot has seen */
	uint32_t prompt_ahead;         /* those that steps under way show it */
	uint32_t planned;              /* and those that the step being formed will */
	uint32_t n_live;
	uint32_t flying;  /* steps under way that it is in */
	bool rows_flying; /* one of them, and then the only one, has logits for it */
	bool in_step;     /* in the one being formed, or being delivered */
	bool changed;     /* something was published in this step */
	bool failed;      /* a sequence ended by an error: err, why */
	enum m2_err err;
	struct m2_why why;
};

/* What a task is made of; everything is copied. */
struct m2_task_spec {
	const struct m2_request *request; /* generate or score, defaults applied, checked */
	const struct m2_logit_bias *bias; /* [request->n_logit_bias] */
	const char *stop;                 /* request->stop_bytes bytes */
	const int32_t *prompt;            /* [prompt_tokens], >= 1 */
	size_t prompt_tokens;
	const int32_t *ends; /* [n_ends] */
	int32_t n_ends;
	const struct m2_tokenizer *tokenizer; /* NULL: tokens only; outlives the task */
	int32_t vocab_rows;                   /* V, row length of the backend's logits */
	int32_t vocab_size;                   /* ids that exist */
	int32_t slots;                        /* of the variant: n may not be more */
	uint64_t now_ns;
	uint32_t weight;    /* 0: 1 */
	int32_t user_slots; /* 0: no limit */
	uint64_t user_bytes;
};

/* Are its tokens what m2_work.pick gives, so that no logits need come to the host for them?  So it is when
 * nothing but the largest logit decides: temperature 0, no penalty, no bias; and when nothing else is wanted
 * of the row than the token and its log-probability: no top log-probabilities, no logits.  (Scores of the
 * prompt are rows of other tokens.)  It follows from the request alone, so the same request is answered by
 * the same way, with the same bits, whatever runs beside it.  The token is that of m2_sampler_choose, the
 * log-probability that of m2_sampler_logprobs to 1e-6. */
bool m2_task_picks(const struct m2_task *task);

/* Check against the model, make results memory, allocate.  Errors: EINVAL with the field, and those of
 * m2_segment_create.  May take a while for large results. */
enum m2_err m2_task_create(struct m2_segment_pool *pool, const struct m2_task_spec *spec,
	struct m2_task **out, struct m2_why *why);

/* Frees all but the results memory, which the caller has taken out (segment zeroed) or which goes now. */
void m2_task_destroy(struct m2_segment_pool *pool, struct m2_task **task);

#endif
