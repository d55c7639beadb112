/* loop.h - the supervisor's event loop: descriptors and points in time, one thread, one epoll.
 *
 * Events are handled one at a time, so that a handler may remove any watch, its own too.
 * Threads: one.  m2_loop_run is the only function that waits.
 */
#ifndef M2_DAEMON_LOOP_H
#define M2_DAEMON_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct m2_watch {
	void (*fn)(void *ctx, uint32_t events); /* events: EPOLL* */
	void *ctx;
	int fd; /* set by m2_loop_add; -1 or 0 with fn NULL: not watched */
};

/* A point in time.  Zeroed memory with fn and ctx set is a timer that is off. */
struct m2_timer {
	void (*fn)(void *ctx);
	void *ctx;
	uint64_t at; /* CLOCK_MONOTONIC ns; 0: off */
	struct m2_timer *next;
	bool listed;
};

struct m2_loop {
	int epoll;
	bool stop;
	struct m2_timer *timers; /* few: a scan finds the next */
};

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t m2_loop_now(void);

enum m2_err m2_loop_init(struct m2_loop *loop, struct m2_why *why);
void m2_loop_finish(struct m2_loop *loop);

/* The watch stays where it is until it is removed. */
enum m2_err m2_loop_add(
	struct m2_loop *loop, struct m2_watch *watch, int fd, uint32_t events, struct m2_why *why);
void m2_loop_change(struct m2_loop *loop, struct m2_watch *watch, uint32_t events);
void m2_loop_remove(struct m2_loop *loop, struct m2_watch *watch); /* a second time: nothing */

/* Fires once, at or after `at`; setting it again moves it.  The timer must be cleared before its memory
 * goes. */
void m2_loop_set_timer(struct m2_loop *loop, struct m2_timer *timer, uint64_t at);
void m2_loop_clear_timer(struct m2_loop *loop, struct m2_timer *timer);

/* Until loop->stop. */
enum m2_err m2_loop_run(struct m2_loop *loop, struct m2_why *why);

#endif
