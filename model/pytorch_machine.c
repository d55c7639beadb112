/* pytorch_machine.c - bytes, pools and the stack of the pickle machine.
 *
 * Whatever a pickle asks for goes through here, so this is where its limits are.  All are far above
 * what a checkpoint needs and far below what memory could mind.
 */
#include "model/pytorch_machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct m2_pickle_machine machine;
typedef struct m2_pickle_value value;

enum { MAX_STACK = 4096 };

enum m2_err m2_pickle_refuse(const machine *m, enum m2_err err, const char *fmt, ...)
{
	char text[320];
	va_list arguments;
	va_start(arguments, fmt);
	(void)vsnprintf(text, sizeof text, fmt, arguments);
	va_end(arguments);
	return m2_fail(err, m->why, "%s: data.pkl, byte %zu: %s", m->what, m->opcode, text);
}

const char *m2_pickle_kind_words(enum m2_pickle_kind kind)
{
	static const char *const words[M2_PICKLE_KINDS] = {[M2_PICKLE_MARK] = "a mark",
		[M2_PICKLE_NONE] = "None",
		[M2_PICKLE_BOOL] = "a truth value",
		[M2_PICKLE_INT] = "an integer",
		[M2_PICKLE_FLOAT] = "a number",
		[M2_PICKLE_STRING] = "a string",
		[M2_PICKLE_TUPLE] = "a tuple",
		[M2_PICKLE_LIST] = "a list",
		[M2_PICKLE_DICT] = "a dict",
		[M2_PICKLE_GLOBAL] = "a class or function",
		[M2_PICKLE_STORAGE] = "a storage",
		[M2_PICKLE_TENSOR] = "a tensor"};
	return words[kind];
}

enum m2_err m2_pickle_grow(const machine *m, void *array, size_t *capacity, size_t count,
	size_t more, size_t size, size_t limit, const char *of)
{
	void *old;
	if (count > limit || more > limit - count)
		return m2_pickle_refuse(m, M2_ELIMIT, "more than %zu %s", limit, of);
	if (count + more <= *capacity)
		return M2_OK;
	size_t wanted = *capacity < 64 ? 64 : *capacity * 2;
	while (wanted < count + more)
		wanted *= 2;
	memcpy(&old, array,
		sizeof old); /* the arrays have different types, the pointers one size */
	void *grown = realloc(old, wanted * size);
	if (grown == NULL)
		return m2_pickle_refuse(m, M2_ENOMEM, "out of memory for %zu %s", wanted, of);
	memcpy(array, &grown, sizeof grown);
	*capacity = wanted;
	return M2_OK;
}

/* ---- bytes and the stack ---- */

enum m2_err m2_pickle_take(machine *m, size_t n, const unsigned char **out)
{
	if (n > m->length - m->at)
		return m2_pickle_refuse(m, M2_EFORMAT, "the pickle ends inside an opcode");
	*out = m->bytes + m->at;
	m->at += n;
	return M2_OK;
}

/* n bytes as an unsigned number, the first the lowest. */
enum m2_err m2_pickle_take_number(machine *m, size_t n, uint64_t *out)
{
	const unsigned char *p = m->bytes;
	const enum m2_err err = m2_pickle_take(m, n, &p);
	*out = 0;
	if (err != M2_OK)
		return err;
	for (size_t i = n; i > 0; i--)
		*out = *out << 8 | p[i - 1];
	return M2_OK;
}

enum m2_err m2_pickle_push(machine *m, value v)
{
	const enum m2_err err = m2_pickle_grow(m, &m->stack, &m->cap_stack, m->n_stack, 1,
		sizeof *m->stack, MAX_STACK, "values on the stack");
	if (err == M2_OK)
		m->stack[m->n_stack++] = v;
	return err;
}

/* The top of the stack must be a value; a mark is none. */
enum m2_err m2_pickle_check_top(const machine *m)
{
	if (m->n_stack == 0 || m->stack[m->n_stack - 1].kind == M2_PICKLE_MARK)
		return m2_pickle_refuse(m, M2_EFORMAT, "there is no value on the stack");
	return M2_OK;
}

enum m2_err m2_pickle_pop(machine *m, value *out)
{
	const enum m2_err err = m2_pickle_check_top(m);
	if (err == M2_OK)
		*out = m->stack[--m->n_stack];
	return err;
}

/* The values above the topmost mark, which both go: they stay readable until the next push. */
enum m2_err m2_pickle_pop_to_mark(machine *m, const value **first, size_t *count)
{
	size_t i = m->n_stack;
	while (i > 0 && m->stack[i - 1].kind != M2_PICKLE_MARK)
		i--;
	if (i == 0)
		return m2_pickle_refuse(m, M2_EFORMAT, "there is no mark on the stack");
	*first = m->stack + i;
	*count = m->n_stack - i;
	m->n_stack = i - 1;
	m->n_marks--;
	return M2_OK;
}
