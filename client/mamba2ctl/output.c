/* output.c - sentences on stderr, tables and text on stdout, members of JSON answers. */
#include <json-c/json.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/mamba2ctl/ctl.h"
#include "common/json.h"
#include "common/limits.h"

int ctl_say(int status, const char *fmt, ...)
{
	va_list arguments;
	(void)fflush(stdout);
	(void)fputs("mamba2ctl: ", stderr);
	va_start(arguments, fmt);
	(void)vfprintf(stderr, fmt, arguments);
	va_end(arguments);
	(void)fputc('\n', stderr);
	return status;
}

int ctl_fail(const struct ctl *ctl, enum mamba2_error error)
{
	char sentence[512];
	/* one line, whatever is in a file name or a quoted value */
	(void)snprintf(sentence, sizeof sentence, "%s", mamba2_message(ctl->m));
	for (char *c = sentence; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = ' ';
	const char *field = mamba2_message_field(ctl->m);
	const bool named = field[0] == '\0' || strstr(sentence, field) != NULL;
	return ctl_say(error == MAMBA2_EUNREACHABLE ? CTL_UNREACHABLE : CTL_FAILED, "%s%s%s (%s)",
		named ? "" : field, named ? "" : ": ", sentence, mamba2_error_code(error));
}

int ctl_flush(int status)
{
	if (fflush(stdout) != 0 || ferror(stdout))
		return ctl_say(CTL_FAILED, "standard output: not everything could be written (io)");
	return status;
}

void ctl_put(const char *text, size_t bytes)
{
	static int terminal = -1;
	if (terminal < 0)
		terminal = isatty(STDOUT_FILENO);
	if (terminal == 0) {
		(void)fwrite(text, 1, bytes, stdout);
		return;
	}
	for (size_t i = 0; i < bytes; i++) {
		const unsigned char c = (unsigned char)text[i];
		(void)putchar((c < ' ' && c != '\n' && c != '\t') || c == 127 ? '?' : c);
	}
}

/* ---- JSON ---- */

void ctl_print_json(const char *json)
{
	(void)fputs(json, stdout);
	(void)putchar('\n');
}

struct json_object *ctl_read_json(const char *json)
{
	struct json_object *object = NULL;
	struct m2_why why;
	if (m2_json_parse(json, strlen(json), M2_LIMIT_JSON_DEPTH, "the daemon's answer", &object,
		    &why) != M2_OK)
		(void)ctl_say(CTL_FAILED, "%s (protocol)", why.text);
	return object;
}

struct json_object *ctl_get_object(struct json_object *object, const char *path)
{
	while (object != NULL && *path != '\0') {
		char key[64];
		const size_t length = strcspn(path, ".");
		struct json_object *next = NULL;
		if (length >= sizeof key || !json_object_is_type(object, json_type_object))
			return NULL;
		memcpy(key, path, length);
		key[length] = '\0';
		(void)json_object_object_get_ex(object, key, &next);
		object = next;
		path += length + (path[length] == '.');
	}
	return object;
}

const char *ctl_get(struct json_object *object, const char *path)
{
	struct json_object *value = ctl_get_object(object, path);
	const char *text = value == NULL ? NULL : json_object_get_string(value);
	return text == NULL || text[0] == '\0' ? "-" : text;
}

int64_t ctl_get_int(struct json_object *object, const char *path)
{
	return json_object_get_int64(ctl_get_object(object, path));
}

/* ---- tables ---- */

static size_t width_of(const char *text)
{
	size_t width = 0;
	for (; *text != '\0'; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80; /* not a continuation byte */
	return width;
}

void ctl_table_begin(struct ctl_table *t, const char *const *heads)
{
	*t = (struct ctl_table){0};
	while (heads[t->columns] != NULL && t->columns < CTL_COLUMNS) {
		t->right[t->columns] = heads[t->columns][0] == '+';
		t->columns++;
	}
	for (int i = 0; i < t->columns; i++)
		ctl_table_cell(t, "%s", heads[i] + (t->right[i] ? 1 : 0));
}

void ctl_table_cell(struct ctl_table *t, const char *fmt, ...)
{
	va_list arguments;
	char(*more)[CTL_CELL] = realloc(t->cells, (t->rows + 1) * sizeof *more);
	if (more == NULL)
		return;
	t->cells = more;
	va_start(arguments, fmt);
	const int length = vsnprintf(t->cells[t->rows], CTL_CELL, fmt, arguments);
	va_end(arguments);
	if (length >= CTL_CELL) /* say that there is more */
		memcpy(t->cells[t->rows] + CTL_CELL - 4, "...", 4);
	for (char *c = t->cells[t->rows]; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = ' ';
	t->rows++;
}

void ctl_table_end(struct ctl_table *t)
{
	size_t width[CTL_COLUMNS] = {0};
	const size_t columns = (size_t)t->columns;
	for (size_t i = 0; i < t->rows; i++) {
		const size_t w = width_of(t->cells[i]);
		if (w > width[i % columns])
			width[i % columns] = w;
	}
	for (size_t i = 0; i < t->rows; i++) {
		const size_t column = i % columns;
		const bool last = column + 1 == columns;
		const int pad = (int)(width[column] - width_of(t->cells[i]));
		if (t->right[column])
			(void)printf("%*s%s", pad, "", t->cells[i]);
		else
			(void)printf("%s%*s", t->cells[i], last ? 0 : pad, "");
		(void)fputs(last ? "\n" : "  ", stdout);
	}
	free(t->cells);
	t->cells = NULL;
}

/* ---- figures ---- */

static char *next_buffer(void)
{
	static char buffers[4][48];
	static int next;
	next = (next + 1) % 4;
	return buffers[next];
}

const char *ctl_bytes(uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	char *out = next_buffer();
	double value = (double)bytes;
	int unit = 0;
	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	(void)snprintf(out, 48, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return out;
}

const char *ctl_duration(double seconds)
{
	char *out = next_buffer();
	const long whole = (long)seconds;
	if (seconds < 10)
		(void)snprintf(out, 48, "%.1f s", seconds);
	else if (whole < 60)
		(void)snprintf(out, 48, "%ld s", whole);
	else if (whole < 3600)
		(void)snprintf(out, 48, "%ld min %ld s", whole / 60, whole % 60);
	else if (whole < 86400)
		(void)snprintf(out, 48, "%ld h %ld min", whole / 3600, whole / 60 % 60);
	else
		(void)snprintf(out, 48, "%ld d %ld h", whole / 86400, whole / 3600 % 24);
	return out;
}

const char *ctl_time(int64_t unix_seconds)
{
	char *out = next_buffer();
	const time_t when = (time_t)unix_seconds;
	struct tm local;
	if (unix_seconds <= 0 || localtime_r(&when, &local) == NULL ||
		strftime(out, 48, "%Y-%m-%d %H:%M:%S", &local) == 0)
		(void)snprintf(out, 48, "never");
	return out;
}
