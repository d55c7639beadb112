/* progress.c - the one line that says how far something is, redrawn in place on a terminal.
 *
 * The rate is of the last seconds, not of the whole: a disk that becomes slow shows at once.  Where standard
 * error is no terminal nothing is drawn; the command's last line has the figures in any case.
 */
#include <time.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"

static double now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Bytes per second between two marks, the older of which is at most a few seconds old. */
static double rate(struct ctl_progress *p, uint64_t done, double time)
{
	if (p->done[1] == 0 ||
		done < p->done[1]) { /* what came before the first byte does not count */
		p->done[0] = p->done[1] = done;
		p->time[0] = p->time[1] = time;
		return 0;
	}
	if (time - p->time[1] > 2) {
		p->done[0] = p->done[1];
		p->time[0] = p->time[1];
		p->done[1] = done;
		p->time[1] = time;
	}
	const double seconds = time - p->time[0];
	return seconds < 0.2 ? 0 : (double)(done - p->done[0]) / seconds;
}

void ctl_progress(void *ctx, uint64_t done, uint64_t total, const char *what)
{
	struct ctl_progress *p = ctx;
	if (done > p->bytes)
		p->bytes = done;
	if (p->terminal == 0)
		p->terminal = isatty(STDERR_FILENO) ? 1 : -1;
	if (p->terminal < 0)
		return;
	(void)snprintf(p->what, sizeof p->what, "%.60s", what);
	for (char *c = p->what; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = ' ';
	const double speed = rate(p, done, now());
	if (total == 0) {
		(void)fprintf(stderr, "\r\033[K%s: %s", p->name, p->what);
		return;
	}
	(void)fprintf(stderr, "\r\033[K%s: %3.0f%%  %s of %s", p->name,
		100.0 * (double)done / (double)total, ctl_bytes(done), ctl_bytes(total));
	if (speed > 0 && done < total)
		(void)fprintf(stderr, "  %.2f GB/s  %s left", speed / 1e9,
			ctl_duration((double)(total - done) / speed));
	(void)fprintf(stderr, "  %s", p->what);
}

void ctl_progress_end(const struct ctl_progress *p)
{
	if (p->terminal > 0)
		(void)fputs("\r\033[K", stderr);
}

const char *ctl_rate(uint64_t bytes, double seconds)
{
	static char text[64];
	(void)snprintf(text, sizeof text, "%.2f s, %.2f GB/s", seconds,
		(double)bytes / 1e9 / (seconds > 0.001 ? seconds : 0.001));
	return text;
}
