/* children.c - fork, exec, and what follows.
 *
 * A child's end is handled in one place only, m2_child_reaped: a closed or broken channel merely
 * hastens it.  What the child had sent before it died is read first, so that a request that it
 * finished counts as finished.
 */
#include "daemon/children.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"

#define MS          UINT64_C(1000000)
#define PAUSE_FIRST (10 * MS)
#define LIVED_LONG  (30000 * MS)
#define END_GRACE   (2000 * MS) /* from the end of a channel to the end of its process */

enum { BURST = 64 };

void m2_arguments_add(struct m2_arguments *args, const char *fmt, ...)
{
	va_list list;
	assert(args->count < M2_CHILD_ARGUMENTS);
	va_start(list, fmt);
	(void)vsnprintf(args->text[args->count++], sizeof args->text[0], fmt, list);
	va_end(list);
}

/* In the child, between fork and exec: only what is safe there.  Never returns. */
static _Noreturn void become(int fd, pid_t parent, char **argv)
{
	sigset_t none;
	(void)sigemptyset(&none);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it died before we asked */
		_exit(1);
	/* the terminal's and systemd's signals go to the whole group: the supervisor decides */
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE};
	for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
		(void)signal(ignored[i], SIG_IGN);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (fd == M2_CHILD_FD ? fcntl(fd, F_SETFD, 0) != 0 : dup2(fd, M2_CHILD_FD) < 0)
		_exit(1);
	(void)close_range(M2_CHILD_FD + 1, ~0u, 0);
	(void)execv("/proc/self/exe", argv);
	_exit(127);
}

static pid_t spawn(struct m2_child *c, int fd)
{
	struct m2_arguments *args = calloc(1, sizeof *args);
	char *argv[M2_CHILD_ARGUMENTS + 2] = {"mamba2d"};
	if (args == NULL)
		return -1;
	c->arguments(c->ctx, args);
	for (int i = 0; i < args->count; i++)
		argv[i + 1] = args->text[i];
	const pid_t parent = getpid();
	const pid_t pid = fork();
	if (pid == 0)
		become(fd, parent, argv);
	free(args);
	return pid;
}

static void plan_restart(struct m2_child *c)
{
	if (c->unwanted)
		return;
	const uint64_t now = m2_loop_now();
	if (c->pause_ns == 0 || (c->started_ns != 0 && now - c->started_ns > LIVED_LONG))
		c->pause_ns = PAUSE_FIRST;
	m2_loop_set_timer(c->loop, &c->again, now + c->pause_ns);
	c->pause_ns = c->pause_ns * 2 < c->pause_most_ns ? c->pause_ns * 2 : c->pause_most_ns;
}

/* ---- the channel -------------------------------------------------------------------------------- */

static void close_channel(struct m2_child *c)
{
	m2_loop_remove(c->loop, &c->watch);
	m2_ipc_channel_destroy(&c->channel);
}

static void watch_writes(struct m2_child *c)
{
	const uint32_t out = m2_ipc_channel_wants_write(c->channel) ? (uint32_t)EPOLLOUT : 0;
	m2_loop_change(c->loop, &c->watch, (uint32_t)EPOLLIN | out);
}

/* Read up to `most` packets.  false: the channel has failed, why is filled. */
static bool read_packets(struct m2_child *c, int most, struct m2_why *why)
{
	for (int i = 0; i < most && c->channel != NULL; i++) {
		struct m2_ipc_packet packet;
		bool got;
		enum m2_err err = m2_ipc_receive(c->channel, &packet, &got, why);
		if (err == M2_OK && !got)
			return true;
		if (err == M2_OK)
			err = c->packet(c->ctx, &packet, why);
		if (err != M2_OK)
			return false;
	}
	return true;
}

/* A channel that ended on the other side: give the process a moment to end by itself. */
static void channel_failed(struct m2_child *c, const struct m2_why *why)
{
	if (c->channel == NULL || c->watch.fd < 0)
		return;
	if (strcmp(why->text, "peer closed") != 0) {
		m2_child_kill(c, why->text);
		return;
	}
	m2_loop_remove(c->loop, &c->watch);
	c->ready = false;
	m2_loop_set_timer(c->loop, &c->end, m2_loop_now() + END_GRACE);
}

static void on_channel(void *ctx, uint32_t events)
{
	struct m2_child *c = ctx;
	struct m2_why why = {.text = ""};
	if ((events & EPOLLOUT) != 0) {
		if (m2_ipc_flush(c->channel, &why) != M2_OK) {
			channel_failed(c, &why);
			return;
		}
		watch_writes(c);
	}
	if ((events & ~(uint32_t)EPOLLOUT) != 0 && !read_packets(c, BURST, &why))
		channel_failed(c, &why);
}

static void on_again(void *ctx)
{
	struct m2_child *c = ctx;
	if (c->unwanted)
		return;
	c->restarts++;
	m2_child_start(c);
}

static void on_end(void *ctx)
{
	struct m2_child *c = ctx;
	if (c->pid > 0)
		(void)kill(c->pid, SIGKILL);
}

void m2_child_start(struct m2_child *c)
{
	struct m2_why why = {.text = ""};
	int pair[2];
	c->again.fn = on_again;
	c->end.fn = on_end;
	c->watch.fn = on_channel;
	c->again.ctx = c->end.ctx = c->watch.ctx = c;
	c->watch.fd = -1;
	c->ready = false;
	c->started_ns = m2_loop_now();
	c->life++;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
		m2_error("%s: %s", c->name, strerror(errno));
		plan_restart(c);
		return;
	}
	enum m2_err err =
		m2_ipc_channel_create(pair[0], M2_IPC_SUPERVISOR, c->side, &c->channel, &why);
	if (err != M2_OK)
		(void)close(pair[0]);
	else
		err = m2_loop_add(c->loop, &c->watch, pair[0], EPOLLIN, &why);
	const pid_t pid = err == M2_OK ? spawn(c, pair[1]) : -1;
	(void)close(pair[1]);
	if (pid < 0) {
		m2_error("%s: cannot be started: %s", c->name,
			err != M2_OK ? why.text : strerror(errno));
		close_channel(c);
		plan_restart(c);
		return;
	}
	c->pid = pid;
	m2_debug("%s: started as process %d", c->name, (int)pid);
}

bool m2_child_send(struct m2_child *c, enum m2_ipc_type type, const void *fixed, const void *body,
	size_t body_bytes)
{
	struct m2_why why = {.text = ""};
	if (c->channel == NULL || c->watch.fd < 0)
		return false;
	const enum m2_err err = m2_ipc_send(c->channel, type, fixed, body, body_bytes, &why);
	if (err == M2_ENOMEM) { /* our want, not the child's: it and what it runs live on */
		m2_error("%s: a message could not be sent: %s", c->name, why.text);
		return false;
	}
	if (err != M2_OK) {
		channel_failed(c, &why);
		return false;
	}
	if (m2_ipc_channel_wants_write(c->channel))
		watch_writes(c);
	return true;
}

bool m2_child_listens(const struct m2_child *c)
{
	return c->channel != NULL && c->watch.fd >= 0;
}

void m2_child_kill(struct m2_child *c, const char *why)
{
	if (c->pid <= 0)
		return;
	m2_error("%s: ended by force: %s", c->name, why);
	c->ready = false;
	if (c->channel != NULL)
		m2_loop_remove(c->loop, &c->watch);
	(void)kill(c->pid, SIGKILL);
}

void m2_child_stop(struct m2_child *c, enum m2_ipc_type type, uint64_t grace_ns)
{
	const struct m2_ipc_hello hello = {M2_WIRE_VERSION, c->life};
	c->unwanted = true;
	m2_loop_clear_timer(c->loop, &c->again);
	if (c->pid <= 0)
		return;
	if (grace_ns == 0 || !m2_child_send(c, type, &hello, NULL, 0))
		(void)kill(c->pid, SIGKILL);
	else
		m2_loop_set_timer(c->loop, &c->end, m2_loop_now() + grace_ns);
}

void m2_child_reaped(struct m2_child *c, int status)
{
	struct m2_why why = {.text = ""};
	m2_loop_clear_timer(c->loop, &c->end);
	c->ended_pid = c->pid;
	c->pid = 0;
	/* what it said last; a packet's handler finds a dead child and sends nothing */
	m2_loop_remove(c->loop, &c->watch);
	if (c->channel != NULL)
		(void)read_packets(c, INT32_MAX, &why);
	close_channel(c);
	c->ready = false;
	if (WIFSIGNALED(status))
		m2_log(c->unwanted ? M2_LOG_DEBUG : M2_LOG_ERROR, "%s: ended by signal %d (%s)",
			c->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (!c->unwanted || WEXITSTATUS(status) != 0)
		m2_error("%s: ended with status %d", c->name, WEXITSTATUS(status));
	c->ended(c->ctx);
	plan_restart(c);
}
