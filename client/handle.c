/* handle.c - clock, waiting and lifetime of a handle. */
#include "client/handle.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int64_t m2_handle_now_ms(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int m2_handle_init_condition(pthread_cond_t *condition)
{
	pthread_condattr_t attributes;
	int failed = pthread_condattr_init(&attributes);
	if (failed != 0)
		return failed;
	failed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	if (failed == 0)
		failed = pthread_cond_init(condition, &attributes);
	(void)pthread_condattr_destroy(&attributes);
	return failed;
}

bool m2_handle_wait(mamba2 *m, pthread_cond_t *condition, int64_t deadline_ms)
{
	if (deadline_ms < 0)
		return pthread_cond_wait(condition, &m->lock) == 0;
	const struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000),
		.tv_nsec = (long)(deadline_ms % 1000) * 1000000};
	return pthread_cond_timedwait(condition, &m->lock, &until) == 0;
}

void m2_handle_wake(mamba2 *m)
{
	(void)eventfd_write(m->wake_fd, 1);
}

void m2_handle_reference(mamba2 *m)
{
	pthread_mutex_lock(&m->lock);
	m->references++;
	pthread_mutex_unlock(&m->lock);
}

void m2_handle_unreference(mamba2 *m)
{
	pthread_mutex_lock(&m->lock);
	const unsigned left = --m->references;
	pthread_mutex_unlock(&m->lock);
	if (left > 0)
		return;
	(void)close(m->wake_fd);
	(void)pthread_cond_destroy(&m->connection);
	(void)pthread_mutex_destroy(&m->lock);
	free(m->runtime_dir);
	free(m->endpoint);
	free(m);
}
