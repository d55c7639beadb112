/* notify.c - see notify.h.
 *
 * WATCHDOG=1 is sent only while every worker's own step loop turns: a device that hangs must look like
 * a hang of the service, although this process is well.
 */
#include "daemon/notify.h"

#include <stdio.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "daemon/residency.h"
#include "daemon/engines.h"

#define SECOND UINT64_C(1000000000)

enum { EXTEND_US = 30000000 };

static void on_watchdog(void *ctx)
{
	struct m2_supervisor *s = ctx;
	if (m2_engines_fresh(s))
		(void)sd_notify(0, "WATCHDOG=1");
	m2_loop_set_timer(&s->loop, &s->watchdog, m2_loop_now() + s->watchdog_ns);
}

void m2_notify_init(struct m2_supervisor *s)
{
	uint64_t us = 0;
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
	char names[128] = "";
	M2_LIST_EACH(&s->residents, at)
	{
		const struct m2_tenant *r = M2_LIST_OF(at, struct m2_tenant, link);
		const size_t used = strlen(names);
		if (r->state == M2_TENANT_WAITING || r->state == M2_TENANT_LOADING)
			loading++;
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
	(void)snprintf(line, size, "%s%d resident%s%s%s, %d loading", phase, resident,
		names[0] != '\0' ? " (" : "", names, names[0] != '\0' ? ")" : "", loading);
}

void m2_notify_state(struct m2_supervisor *s)
{
	char line[256];
	print_status(s, line, sizeof line);
	if (strcmp(line, s->status) != 0) {
		(void)snprintf(s->status, sizeof s->status, "%s", line);
		(void)sd_notifyf(0, "STATUS=%s", line);
	}
	if (s->phase != M2_PHASE_STARTING || !s->gate.ready || s->preloads > 0)
		return;
	s->phase = M2_PHASE_RUNNING;
	s->said_ready = true;
	(void)sd_notify(0, "READY=1");
	m2_info("ready: %s", line);
}

void m2_notify_progress(struct m2_supervisor *s)
{
	const uint64_t now = m2_loop_now();
	if (s->phase != M2_PHASE_STARTING || now - s->extended_ns < SECOND)
		return;
	s->extended_ns = now;
	(void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%d", EXTEND_US);
}

void m2_notify_reloading(struct m2_supervisor *s)
{
	if (s->said_ready)
		(void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
			(unsigned long long)(m2_loop_now() / 1000));
}

void m2_notify_reloaded(struct m2_supervisor *s)
{
	if (s->said_ready)
		(void)sd_notify(0, "READY=1");
}

void m2_notify_stopping(struct m2_supervisor *s)
{
	s->status[0] = '\0';
	(void)sd_notify(0, "STOPPING=1");
	m2_notify_state(s);
}
