/* log.h - the program's log: lines on standard error, with levels that journald understands.
 *
 * One line per call; the text is cut at 1024 bytes with "..."; control characters become '?'.
 * Under systemd (m2_log_init with journal = true) each line begins with "<N>", the priority that
 * the journal strips; on a terminal it begins with the time and the role of the process.
 * Calls keep errno.  Thread-safe: one write(2) per line.
 */
#ifndef M2_COMMON_LOG_H
#define M2_COMMON_LOG_H

#include <stdbool.h>

enum m2_log_level { M2_LOG_ERROR = 3, M2_LOG_WARN = 4, M2_LOG_INFO = 6, M2_LOG_DEBUG = 7 };

/* role: "supervisor", "gate", "worker cpu"; a string that lives as long as the process.  Call once,
 * before other threads start. */
void m2_log_init(const char *role, enum m2_log_level level, bool journal);

/* "error", "warn", "info", "debug" to a level; false if it is none of these. */
bool m2_log_level_parse(const char *name, enum m2_log_level *out);

void m2_log(enum m2_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define m2_error(...) m2_log(M2_LOG_ERROR, __VA_ARGS__)
#define m2_warn(...)  m2_log(M2_LOG_WARN, __VA_ARGS__)
#define m2_info(...)  m2_log(M2_LOG_INFO, __VA_ARGS__)
#define m2_debug(...) m2_log(M2_LOG_DEBUG, __VA_ARGS__)

#endif
