/* log.c - one write(2) per line, nothing buffered, nothing lost when the process dies. */
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *log_role = "mamba2";
static enum m2_log_level log_level = M2_LOG_INFO;
static bool log_journal;

void m2_log_init(const char *role, enum m2_log_level level, bool journal)
{
	log_role = role;
	log_level = level;
	log_journal = journal;
}

bool m2_log_level_parse(const char *name, enum m2_log_level *out)
{
	static const struct {
		const char *name;
		enum m2_log_level level;
	} levels[] = {{"error", M2_LOG_ERROR}, {"warn", M2_LOG_WARN}, {"info", M2_LOG_INFO},
		{"debug", M2_LOG_DEBUG}};
	for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
		if (strcmp(levels[i].name, name) == 0) {
			*out = levels[i].level;
			return true;
		}
	return false;
}

static const char *level_name(enum m2_log_level level)
{
	switch (level) {
	case M2_LOG_ERROR:
		return "error";
	case M2_LOG_WARN:
		return "warning";
	case M2_LOG_INFO:
		return "info";
	case M2_LOG_DEBUG:
		return "debug";
	}
	return "?";
}

static int print_head(char *line, size_t size, enum m2_log_level level)
{
	if (log_journal)
		return snprintf(line, size, "<%d>%s: ", (int)level, log_role);
	struct timespec now;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	return snprintf(line, size, "%02d:%02d:%02d.%03ld %s[%d] %s: ", tm.tm_hour, tm.tm_min,
		tm.tm_sec, now.tv_nsec / 1000000, log_role, (int)getpid(), level_name(level));
}

void m2_log(enum m2_log_level level, const char *fmt, ...)
{
	if (level > log_level)
		return;
	const int saved = errno;
	char line[1024];
	const int head = print_head(line, sizeof line, level);
	va_list args;
	va_start(args, fmt);
	const int n = vsnprintf(line + head, sizeof line - (size_t)head, fmt, args);
	va_end(args);
	size_t length = strlen(line);
	if (n >= (int)sizeof line - head)
		memcpy(line + sizeof line - 4, "...", 4);
	for (size_t i = (size_t)head; i < length; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	length = strlen(line);
	line[length++] = '\n'; /* takes the place of the NUL: write(2) needs none */
	if (write(STDERR_FILENO, line, length) < 0) {
		/* Nobody is left to tell. */
	}
	errno = saved;
}
