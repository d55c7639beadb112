/* post.h - a box into which any thread drops nodes and from which one thread takes them all.
 *
 * A lock-free stack whose nodes lie in the members (nothing is allocated) and which is taken whole and
 * turned round, so that there is no ABA problem and the order of one sender's posts is kept.  An eventfd
 * wakes the taker: written only by whoever finds the box empty.
 *
 * A node is in at most one box at a time.  Threads: send from any, take from one.
 */
#ifndef M2_DAEMON_POST_H
#define M2_DAEMON_POST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct m2_post {
	struct m2_post *next;
	int kind; /* the taker's */
	void *object;
};

struct m2_post_box {
	_Atomic(struct m2_post *) newest;
	int event; /* readable when something may be in the box; the taker polls it */
};

static inline bool m2_post_box_init(struct m2_post_box *box)
{
	atomic_init(&box->newest, NULL);
	box->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return box->event >= 0;
}

static inline void m2_post_box_finish(struct m2_post_box *box)
{
	if (box->event >= 0)
		(void)close(box->event);
	box->event = -1;
}

static inline void m2_post_send(struct m2_post_box *box, struct m2_post *post)
{
	struct m2_post *newest = atomic_load_explicit(&box->newest, memory_order_relaxed);
	do
		post->next = newest;
	while (!atomic_compare_exchange_weak_explicit(
		&box->newest, &newest, post, memory_order_acq_rel, memory_order_relaxed));
	/* post may be gone already: only the local copy is looked at */
	const uint64_t one = 1;
	if (newest == NULL)
		(void)!write(box->event, &one, sizeof one);
}

/* All nodes, oldest first; NULL: none.  One load when there are none. */
static inline struct m2_post *m2_post_take(struct m2_post_box *box)
{
	if (atomic_load_explicit(&box->newest, memory_order_relaxed) == NULL)
		return NULL;
	struct m2_post *post = atomic_exchange_explicit(&box->newest, NULL, memory_order_acq_rel);
	struct m2_post *oldest = NULL;
	while (post != NULL) {
		struct m2_post *next = post->next;
		post->next = oldest;
		oldest = post;
		post = next;
	}
	return oldest;
}

/* Before going to sleep on the event: forget past wakes, then take once more. */
static inline void m2_post_rearm(struct m2_post_box *box)
{
	uint64_t count;
	(void)!read(box->event, &count, sizeof count);
}

#endif
