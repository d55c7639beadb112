/* notify.c - see notify.h.
 *
 * WATCHDOG=1 is sent only while every worker's own step loop turns: a device that hangs must look like
 * a hang of the service, although this process is well.
 *
 * sd_notify() itself is not used: it blocks when the receiver does not read, and ten unread messages
 * (net.unix.max_dgram_qlen) would then stop the whole daemon.  Here a message that finds no room waits
 * for the next attempt, or, where only the latest counts, is left out.
 */
#include "daemon/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "daemon/residency.h"
#include "daemon/engines.h"

#define SECOND UINT64_C(1000000000)

#define RETRY (SECOND / 10)

/* ---- sending ------------------------------------------------------------------------------------ */

/* One datagram, never waiting.  false: no room now. */
static bool send_now(struct m2_supervisor *s, const char *text)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	const char *address = s->options->notify_socket;
	const size_t length = strlen(address);
	memcpy(to.sun_path, address, length);
	if (to.sun_path[0] == '@') /* the abstract namespace */
		to.sun_path[0] = '\0';
	const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	const ssize_t n =
		fd < 0 ? -1
		       : sendto(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
				 (const struct sockaddr *)&to,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
	const bool full = n < 0 && (errno == EAGAIN || errno == ENOBUFS);
	if (fd >= 0)
		(void)close(fd);
	return !full;
}

static void on_retry(void *ctx)
{
	struct m2_supervisor *s = ctx;
	while (s->n_notes > 0 && send_now(s, s->notes[0])) {
		s->n_notes--;
		memmove(s->notes[0], s->notes[1], s->n_notes * sizeof s->notes[0]);
	}
	if (s->n_notes > 0) {
		m2_loop_set_timer(&s->loop, &s->renotify, m2_loop_now() + RETRY);
		return;
	}
	char line[M2_NOTE_BYTES];
	(void)snprintf(line, sizeof line, "STATUS=%s", s->status);
	if (s->status_unsaid)
		s->status_unsaid = !send_now(s, line);
	if (s->status_unsaid)
		m2_loop_set_timer(&s->loop, &s->renotify, m2_loop_now() + RETRY);
}

/* A message that must arrive, in its order. */
static void say(struct m2_supervisor *s, const char *text)
{
	if (s->options->notify_socket[0] == '\0' || s->n_notes == M2_NOTES)
		return;
	(void)snprintf(s->notes[s->n_notes++], sizeof s->notes[0], "%s", text);
	on_retry(s);
}

static void say_status(struct m2_supervisor *s)
{
	s->status_unsaid = s->options->notify_socket[0] != '\0';
	if (s->status_unsaid)
		on_retry(s);
}

/* A message that is worthless later. */
static void say_if_room(struct m2_supervisor *s, const char *text)
{
	if (s->options->notify_socket[0] != '\0' && s->n_notes == 0)
		(void)send_now(s, text);
}

/* ---- what is said ------------------------------------------------------------------------------- */

static void on_watchdog(void *ctx)
{
	struct m2_supervisor *s = ctx;
	if (m2_engines_fresh(s))
		say_if_room(s, "WATCHDOG=1");
	m2_loop_set_timer(&s->loop, &s->watchdog, m2_loop_now() + s->watchdog_ns);
}

void m2_notify_init(struct m2_supervisor *s)
{
	uint64_t us = 0;
	s->renotify = (struct m2_timer){.fn = on_retry, .ctx = s};
	if (sd_watchdog_enabled(0, &us) <= 0)
		return;
	s->watchdog = (struct m2_timer){.fn = on_watchdog, .ctx = s};
	s->watchdog_ns = us * 1000 / 2;
	on_watchdog(s);
}

/* "2 resident (demo, tiny), 1 loading" */
static void print_status(struct m2_supervisor *s, char *line, size_t size)
{
	int resident = 0;
	int loading = 0;
	int parked = 0;
	char names[128] = "";
	M2_LIST_EACH(&s->residents, at)
	{
		const struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		const size_t used = strlen(names);
		loading += r->state < M2_TENANT_READY;
		parked += r->state == M2_TENANT_PARKED;
		if (r->state != M2_TENANT_READY)
			continue;
		resident++;
		if (used + strlen(r->variant.name) + 8 < sizeof names)
			(void)snprintf(names + used, sizeof names - used, "%s%s",
				used > 0 ? ", " : "", r->variant.name);
		else if (used > 0 && names[used - 1] != '.')
			(void)snprintf(names + used, sizeof names - used, ", ...");
	}
	const char *phase = s->phase == M2_PHASE_STOPPING ? "stopping; "
			    : s->draining                 ? "draining; "
			    : s->gate.ready               ? ""
							  : "endpoints not up; ";
	const int n = snprintf(line, size, "%s%d resident%s%s%s, %d loading", phase, resident,
		names[0] != '\0' ? " (" : "", names, names[0] != '\0' ? ")" : "", loading);
	if (parked > 0 && n > 0 && (size_t)n < size)
		(void)snprintf(line + n, size - (size_t)n, ", %d parked", parked);
}

void m2_notify_state(struct m2_supervisor *s)
{
	char line[256];
	print_status(s, line, sizeof line);
	if (strcmp(line, s->status) != 0) {
		(void)snprintf(s->status, sizeof s->status, "%s", line);
		say_status(s);
	}
	if (s->phase != M2_PHASE_STARTING || !s->gate.ready || s->preloads > 0)
		return;
	s->phase = M2_PHASE_RUNNING;
	s->said_ready = true;
	say(s, "READY=1");
	m2_info("ready: %s", line);
}

void m2_notify_progress(struct m2_supervisor *s)
{
	const uint64_t now = m2_loop_now();
	if (s->phase != M2_PHASE_STARTING || now - s->extended_ns < SECOND)
		return;
	s->extended_ns = now;
	say_if_room(s, "EXTEND_TIMEOUT_USEC=30000000");
}

void m2_notify_reloading(struct m2_supervisor *s)
{
	char text[M2_NOTE_BYTES];
	(void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
		(unsigned long long)(m2_loop_now() / 1000));
	if (s->said_ready)
		say(s, text);
}

void m2_notify_reloaded(struct m2_supervisor *s)
{
	if (s->said_ready)
		say(s, "READY=1");
}

void m2_notify_stopping(struct m2_supervisor *s)
{
	s->status[0] = '\0';
	say(s, "STOPPING=1");
	m2_notify_state(s);
}
