/* loop.c - see loop.h.  The timeout of epoll_wait is the timer: nothing wakes that has nothing to do. */
#include "daemon/loop.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

uint64_t m2_loop_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

enum m2_err m2_loop_init(struct m2_loop *loop, struct m2_why *why)
{
	*loop = (struct m2_loop){.epoll = epoll_create1(EPOLL_CLOEXEC)};
	return loop->epoll >= 0 ? M2_OK : m2_fail(M2_EIO, why, "epoll: %s", strerror(errno));
}

void m2_loop_finish(struct m2_loop *loop)
{
	if (loop->epoll > 0)
		(void)close(loop->epoll);
	loop->epoll = 0;
}

enum m2_err m2_loop_add(
	struct m2_loop *loop, struct m2_watch *watch, int fd, uint32_t events, struct m2_why *why)
{
	struct epoll_event e = {.events = events, .data = {.ptr = watch}};
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
		return m2_fail(M2_EIO, why, "epoll: %s", strerror(errno));
	watch->fd = fd;
	return M2_OK;
}

void m2_loop_change(struct m2_loop *loop, struct m2_watch *watch, uint32_t events)
{
	struct epoll_event e = {.events = events, .data = {.ptr = watch}};
	(void)epoll_ctl(loop->epoll, EPOLL_CTL_MOD, watch->fd, &e);
}

void m2_loop_remove(struct m2_loop *loop, struct m2_watch *watch)
{
	if (watch->fd > 0)
		(void)epoll_ctl(loop->epoll, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
}

void m2_loop_set_timer(struct m2_loop *loop, struct m2_timer *timer, uint64_t at)
{
	timer->at = at;
	if (!timer->listed) {
		timer->next = loop->timers;
		loop->timers = timer;
		timer->listed = true;
	}
}

void m2_loop_clear_timer(struct m2_loop *loop, struct m2_timer *timer)
{
	timer->at = 0;
	for (struct m2_timer **t = &loop->timers; timer->listed && *t != NULL; t = &(*t)->next)
		if (*t == timer) {
			*t = timer->next;
			timer->listed = false;
			break;
		}
}

/* Run the timers whose time has come and tell how many ms until the next; -1: none. */
static int run_timers(struct m2_loop *loop)
{
	for (;;) {
		struct m2_timer *first = NULL;
		for (struct m2_timer *t = loop->timers; t != NULL; t = t->next)
			if (first == NULL || t->at < first->at)
				first = t;
		if (first == NULL)
			return -1;
		const uint64_t now = m2_loop_now();
		if (first->at > now) {
			/* rounded up: waking early would turn the rest into a busy loop */
			const uint64_t ms = (first->at - now + 999999) / 1000000;
			return ms < INT_MAX ? (int)ms : INT_MAX;
		}
		m2_loop_clear_timer(loop, first);
		first->fn(first->ctx);
		if (loop->stop)
			return 0;
	}
}

enum m2_err m2_loop_run(struct m2_loop *loop, struct m2_why *why)
{
	while (!loop->stop) {
		struct epoll_event e;
		const int timeout = run_timers(loop);
		if (loop->stop)
			break;
		const int n = epoll_wait(loop->epoll, &e, 1, timeout);
		if (n < 0 && errno != EINTR)
			return m2_fail(M2_EIO, why, "epoll: %s", strerror(errno));
		if (n == 1) {
			struct m2_watch *watch = e.data.ptr;
			watch->fn(watch->ctx, e.events);
		}
	}
	return M2_OK;
}
