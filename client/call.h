/* call.h - one message under way: what was sent, what came back, and who waits for it.
 *
 * A call is made by an application thread, handed to the IO thread by m2_call_submit, and ended by an
 * answer, by the loss of the daemon, or by m2_call_close.  Everything below `open` is guarded by the
 * handle's lock, except `ended`, which is stored last and may be read at any time.
 *
 * Owner: the application thread that made it, until it calls m2_call_drop; from then on the IO thread
 * (which still cancels, gives results memory back, and frees it).
 */
#ifndef M2_CLIENT_CALL_H
#define M2_CLIENT_CALL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "client/header.h"
#include "client/mamba2.h"
#include "common/err.h"
#include "common/wire.h"

struct m2_call {
	/* fixed when submitted */
	enum m2_op op;
	uint64_t id;
	char key[2 * M2_LIMIT_KEY_BYTES + 1];
	char *header;
	size_t header_bytes;
	void *payload; /* dropped once the daemon has it */
	size_t payload_bytes;
	uint64_t about; /* id of the call that an ATTACH asks for; 0 otherwise */

	TAILQ_ENTRY(m2_call) open;    /* in the handle's list until ended */
	TAILQ_ENTRY(m2_call) pending; /* in the list of what is to be sent */
	bool is_open;
	bool is_pending;
	bool dropped;  /* nobody waits for it any more */
	bool accepted; /* generate, score: results memory is there */
	pthread_cond_t changed;

	/* accepted */
	uint64_t request; /* the daemon's number */
	char *segment;    /* path */
	uint64_t segment_bytes;

	/* progress */
	uint64_t progress; /* events so far */
	uint64_t done;
	uint64_t total;
	char what[64];

	/* the end */
	enum m2_err err;
	struct m2_why why;
	char *json; /* text of the result event */
	void *reply;
	size_t reply_bytes;
	atomic_bool ended;
};

/* A new call with its own id and key.  The builder is used up whatever happens.  payload (NULL: none, not even
 * an empty one) is copied.
 * Errors: those of the builder, ENOMEM, ELIMIT (payload), EIO (no random numbers). */
enum m2_err m2_call_create(mamba2 *m, enum m2_op op, struct m2_header *header, const void *payload,
	size_t payload_bytes, struct m2_call **out, struct m2_why *why);
/* Of a call that is in no list. */
void m2_call_destroy(struct m2_call **call);

/* Hand over to the IO thread.  The lock is not held. */
void m2_call_submit(mamba2 *m, struct m2_call *call);

typedef void (*m2_call_progress)(void *ctx, uint64_t done, uint64_t total, const char *what);

/* Wait until it is accepted or has ended, at most timeout_ms (-1: for ever) without a sign of life.
 * M2_OK when it was accepted or ended well; why it ended; M2_ETIMEOUT.  progress may be NULL; it is
 * called without the lock. */
enum m2_err m2_call_wait(mamba2 *m, struct m2_call *call, int64_t timeout_ms,
	m2_call_progress progress, void *ctx, struct m2_why *why);

/* The caller is done with it: cancels what still runs, gives results memory back, frees.
 * over: its results are known to be complete, even if the closing message has not come yet. */
void m2_call_drop(mamba2 *m, struct m2_call **call, bool over);

/* ---- under the lock ---- */

/* Append to what is to be sent; wakes nobody. */
void m2_call_enqueue(mamba2 *m, struct m2_call *call);

/* The end.  Takes it out of the lists; frees it, and gives back what it held, if it was dropped. */
void m2_call_end(mamba2 *m, struct m2_call *call, enum m2_err err, const struct m2_why *why);

/* Send an op of which nobody waits for the answer (cancel, release, attach) about `call`.  Without
 * memory nothing is sent: the daemon gives everything back when the connection ends. */
void m2_call_notify(mamba2 *m, enum m2_op op, struct m2_call *call);

#endif
