/* err.c - the error table's accessors and the one sentence maker.
 *
 * Text is cut with a visible "..." rather than silently; bytes of a sentence that are not printable
 * (a file name or a tensor name may hold anything) become '?', so that a log line or a terminal
 * cannot be driven by a hostile checkpoint.
 */
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct row {
	int number;
	const char *code;
	const char *advice;
};

static const struct row rows[] = {
#define M2_ERROR(name, number, code, advice) {number, code, advice},
#include "common/errors.def"
#undef M2_ERROR
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static const struct row *find(long number)
{
	for (int i = 0; i < ROWS; i++)
		if (rows[i].number == number)
			return &rows[i];
	return NULL;
}

const char *m2_err_code(enum m2_err err)
{
	const struct row *row = find((long)err);
	return row != NULL ? row->code : "internal";
}

const char *m2_err_advice(enum m2_err err)
{
	const struct row *row = find((long)err);
	return row != NULL ? row->advice : "unknown error number";
}

enum m2_err m2_err_from_number(long number)
{
	return find(number) != NULL ? (enum m2_err)number : M2_EINTERNAL;
}

enum m2_err m2_err_from_code(const char *code)
{
	for (int i = 0; i < ROWS; i++)
		if (strcmp(rows[i].code, code) == 0)
			return (enum m2_err)rows[i].number;
	return M2_EINTERNAL;
}

static void fill(struct m2_why *why, const char *field, const char *fmt, va_list args)
{
	if (why == NULL)
		return;
	(void)snprintf(why->field, sizeof why->field, "%s", field);
	int n = vsnprintf(why->text, sizeof why->text, fmt, args);
	if (n >= (int)sizeof why->text)
		memcpy(why->text + sizeof why->text - 4, "...", 4);
	for (unsigned char *p = (unsigned char *)why->text; *p != '\0'; p++)
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
}

enum m2_err m2_fail(enum m2_err err, struct m2_why *why, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(why, "", fmt, args);
	va_end(args);
	return err;
}

enum m2_err m2_fail_field(
	enum m2_err err, struct m2_why *why, const char *field, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(why, field, fmt, args);
	va_end(args);
	return err;
}

enum m2_err m2_fail_within(enum m2_err err, struct m2_why *why, const char *what)
{
	if (err == M2_OK || why == NULL || strstr(why->text, what) != NULL)
		return err;
	char field[sizeof why->field];
	char text[sizeof why->text];
	memcpy(field, why->field, sizeof field);
	memcpy(text, why->text, sizeof text);
	return m2_fail_field(err, why, field, "%s: %s", what, text);
}
