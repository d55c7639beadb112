/* fair.h - whose work comes next on one device: virtual time per user, as in start-time fair queueing.
 *
 * A user's virtual time grows by the work done for them divided by their weight; who has the least is
 * served first, so that users who always want something get work in proportion to their weights, whatever
 * the number of their requests, connections, models or completions (Goyal, Vin, Cheng 1996; for language
 * models Sheng et al. 2024, arXiv 2401.00588).  One that comes starts at the present of those that are
 * being served: nobody saves up by being idle.  One that comes back is as far ahead as they were, and at
 * most a small lead behind: a client that sends one request after another loses nothing between them.
 *
 * The unit of work is what one token moves and multiplies: m2_fair_cost.  A device does more tokens in a
 * full step, because what it reads of the weights serves all of them.  That is not a user's merit or fault,
 * so shares are of tokens, and a user with one sequence among others makes steps smaller.  Where throughput
 * counts for more, taking part in a step has a price of its own (config.step_cost): who has many sequences
 * in it then gets more tokens for their share.
 *
 * A user may run ahead of the one that is furthest behind, among those that have something running, by
 * M2_FAIR_LEAD tokens of the model in question; that is the error of the shares.  One that only waits for
 * slots holds nobody back.
 *
 * The table has M2_FAIR_USERS places, far more than users that can be busy at once on a host; those that
 * come when every place belongs to somebody with work share one more place, with weight 1.
 *
 * Threads: the step thread's, but for the figures of a user, which anyone may read.  Nothing allocates.
 */
#ifndef M2_DAEMON_FAIR_H
#define M2_DAEMON_FAIR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	M2_FAIR_USERS = 1024,
	M2_FAIR_PLACES = M2_FAIR_USERS + 1, /* the last is shared */
	M2_FAIR_WEIGHT_MAX = 1000,
	M2_FAIR_LEAD = 16,    /* tokens that one user may be ahead of another who is running */
	M2_FAIR_CREDIT = 512, /* and at most behind, when their slots come */
	M2_FAIR_NOBODY = -1
};

struct m2_fair_user {
	/* figures for anyone, relaxed; uid is stored last and cleared first */
	_Atomic uint32_t uid;
	_Atomic uint32_t weight;
	_Atomic int32_t queued; /* tasks in all lanes */
	_Atomic int32_t running;
	_Atomic int32_t paused;
	_Atomic int32_t held;          /* slots */
	_Atomic uint64_t slot_bytes;   /* of the states in them */
	_Atomic uint64_t paused_bytes; /* of those in host memory */
	_Atomic uint64_t prompt_tokens;
	_Atomic uint64_t generated_tokens;
	_Atomic uint64_t work; /* KiB of weights and states that their tokens went through */

	/* the step thread's */
	uint64_t time;    /* virtual */
	uint64_t planned; /* virtual time of what the step being formed does for them */
	uint64_t planned_work;
	int32_t slots_max;  /* 0: no limit */
	uint64_t bytes_max; /* of states, in slots and paused; the same */
};

struct m2_fair {
	uint64_t now;                   /* virtual: of who was furthest behind in the last step */
	uint32_t uids[M2_FAIR_USERS];   /* of the places; what is looked through */
	bool used[M2_FAIR_PLACES];      /* somebody's */
	int32_t tasks[M2_FAIR_PLACES];  /* queued, running and paused */
	int32_t active[M2_FAIR_PLACES]; /* places with tasks, in no order */
	int32_t n_active;
	struct m2_fair_user users[M2_FAIR_PLACES];
};

/* What a token of a model costs, from its resident bytes.  Every token, of a prompt or generated, is
 * multiplied with every weight, so its work is proportional to their bytes; a generated one reads and
 * writes the whole state besides, which a prompt does once in M2_CHUNK tokens.  Never 0. */
struct m2_fair_cost {
	uint64_t prompt;
	uint64_t decode;
};
struct m2_fair_cost m2_fair_cost_of(uint64_t weight_bytes, uint64_t state_bytes);

/* A task of this user comes into a queue: the user's place.  lead: cost of M2_FAIR_LEAD tokens. */
int32_t m2_fair_enter(
	struct m2_fair *f, uint32_t uid, uint32_t weight, int32_t slots_max, uint64_t lead);
/* One of the user's tasks is gone. */
void m2_fair_leave(struct m2_fair *f, int32_t place);

/* The user had nothing running and is given slots: what they are behind counts up to credit. */
void m2_fair_start(struct m2_fair *f, int32_t place, uint64_t credit);

/* Work for a user, in virtual time. */
uint64_t m2_fair_time(const struct m2_fair *f, int32_t place, uint64_t work);

/* The least virtual time, plans included, among users with something running; false: nobody has. */
bool m2_fair_least(const struct m2_fair *f, uint64_t *least);

/* Time goes on: before a step, with `least` of that moment. */
void m2_fair_advance(struct m2_fair *f, uint64_t least);

#endif
