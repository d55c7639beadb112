/* pytorch_pickle.c - the opcodes of the pickle machine.
 *
 * One pass over the bytes, one table of opcodes, no recursion, and no opcode that repeats work: time and
 * memory are linear in the pickle.  What the names in a pickle stand for is pytorch_objects.c's.
 */
#include "model/pytorch_pickle.h"

#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"
#include "model/pytorch_machine.h"

enum {
	PROTOCOL = 2,
	MAX_MARKS = 64,
	MAX_MEMO = 1000000,
	MAX_ITEMS = 2000000,
	MAX_PAIRS = 1000000,
	MAX_STRING = 1 << 20,
	MAX_GLOBAL = 256
};

typedef struct m2_pickle_machine machine;
typedef struct m2_pickle_value value;

/* ---- opcodes: constants ---- */

static enum m2_err push_kind(machine *m, enum m2_pickle_kind kind, int64_t number)
{
	return m2_pickle_push(m, (value){.kind = kind, .number = number});
}

static enum m2_err on_proto(machine *m, size_t n)
{
	uint64_t version;
	const enum m2_err err = m2_pickle_take_number(m, n, &version);
	if (err != M2_OK)
		return err;
	if (m->opcode != 0)
		return m2_pickle_refuse(m, M2_EFORMAT, "PROTO is not the first opcode");
	if (version != PROTOCOL)
		return m2_pickle_refuse(m, M2_EUNSUPPORTED,
			"pickle protocol %u; %d is supported, which torch.save writes by itself",
			(unsigned)version, (int)PROTOCOL);
	return M2_OK;
}

static enum m2_err on_mark(machine *m, size_t n)
{
	(void)n;
	if (m->n_marks == MAX_MARKS)
		return m2_pickle_refuse(m, M2_ELIMIT, "more than %d marks nested", (int)MAX_MARKS);
	m->n_marks++;
	return push_kind(m, M2_PICKLE_MARK, 0);
}

static enum m2_err on_none(machine *m, size_t n)
{
	(void)n;
	return push_kind(m, M2_PICKLE_NONE, 0);
}

static enum m2_err on_bool(machine *m, size_t n)
{
	return push_kind(m, M2_PICKLE_BOOL, (int64_t)n);
}

static enum m2_err on_unsigned(machine *m, size_t bytes)
{
	uint64_t number;
	const enum m2_err err = m2_pickle_take_number(m, bytes, &number);
	return err != M2_OK ? err : push_kind(m, M2_PICKLE_INT, (int64_t)number);
}

static enum m2_err on_binint(machine *m, size_t n)
{
	uint64_t number;
	const enum m2_err err = m2_pickle_take_number(m, n, &number);
	return err != M2_OK ? err : push_kind(m, M2_PICKLE_INT, (int32_t)(uint32_t)number);
}

/* Two's complement of as few bytes as it needs. */
static enum m2_err on_long1(machine *m, size_t n)
{
	uint64_t size;
	uint64_t number;
	enum m2_err err = m2_pickle_take_number(m, n, &size);
	if (err == M2_OK && size > 8)
		return m2_pickle_refuse(
			m, M2_EFORMAT, "an integer of %u bytes, more than 8", (unsigned)size);
	if (err == M2_OK)
		err = m2_pickle_take_number(m, (size_t)size, &number);
	if (err != M2_OK)
		return err;
	if (size > 0 && size < 8 && number >> (8 * size - 1) != 0)
		number |= UINT64_MAX << (8 * size);
	return push_kind(m, M2_PICKLE_INT, (int64_t)number);
}

static enum m2_err on_binfloat(machine *m, size_t n)
{
	const unsigned char *p;
	const enum m2_err err = m2_pickle_take(m, n, &p);
	return err != M2_OK ? err : push_kind(m, M2_PICKLE_FLOAT, 0);
}

static enum m2_err on_string(machine *m, size_t n)
{
	uint64_t size;
	const unsigned char *p;
	enum m2_err err = m2_pickle_take_number(m, n, &size);
	if (err == M2_OK && size > MAX_STRING)
		return m2_pickle_refuse(m, M2_ELIMIT, "a string of %llu bytes, more than %d",
			(unsigned long long)size, (int)MAX_STRING);
	if (err == M2_OK)
		err = m2_pickle_take(m, (size_t)size, &p);
	if (err != M2_OK)
		return err;
	if (!m2_utf8_valid((const char *)p, (size_t)size))
		return m2_pickle_refuse(m, M2_EFORMAT, "a string that is no UTF-8");
	return m2_pickle_push(m, (value){.kind = M2_PICKLE_STRING,
					 .length = (uint32_t)size,
					 .number = (int64_t)(p - m->bytes)});
}

/* ---- opcodes: tuples, lists, dicts ---- */

static enum m2_err push_tuple(machine *m, const value *first, size_t count)
{
	const enum m2_err err = m2_pickle_grow(m, &m->items, &m->cap_items, m->n_items, count,
		sizeof *m->items, MAX_ITEMS, "items of tuples");
	if (err != M2_OK)
		return err;
	if (count > 0)
		memcpy(m->items + m->n_items, first, count * sizeof *first);
	m->n_items += count;
	return m2_pickle_push(m, (value){.kind = M2_PICKLE_TUPLE,
					 .length = (uint32_t)count,
					 .number = (int64_t)(m->n_items - count)});
}

static enum m2_err on_tuple(machine *m, size_t n)
{
	(void)n;
	const value *first;
	size_t count;
	const enum m2_err err = m2_pickle_pop_to_mark(m, &first, &count);
	return err != M2_OK ? err : push_tuple(m, first, count);
}

static enum m2_err on_tuple_of(machine *m, size_t count)
{
	value items[3];
	for (size_t i = count; i > 0; i--) {
		const enum m2_err err = m2_pickle_pop(m, &items[i - 1]);
		if (err != M2_OK)
			return err;
	}
	return push_tuple(m, items, count);
}

static enum m2_err on_empty_list(machine *m, size_t n)
{
	(void)n;
	return push_kind(m, M2_PICKLE_LIST, 0);
}

static enum m2_err on_empty_dict(machine *m, size_t n)
{
	(void)n;
	return push_kind(m, M2_PICKLE_DICT, m->n_dicts++);
}

/* The container that items are put into: it stays on the stack. */
static enum m2_err check_container(const machine *m, enum m2_pickle_kind kind)
{
	const enum m2_err err = m2_pickle_check_top(m);
	if (err != M2_OK)
		return err;
	const enum m2_pickle_kind got = m->stack[m->n_stack - 1].kind;
	if (got != kind)
		return m2_pickle_refuse(m, M2_EFORMAT, "%s is put into %s",
			kind == M2_PICKLE_DICT ? "a key" : "an item", m2_pickle_kind_words(got));
	return M2_OK;
}

static enum m2_err on_append(machine *m, size_t n)
{
	(void)n;
	value item;
	const enum m2_err err = m2_pickle_pop(m, &item);
	return err != M2_OK ? err : check_container(m, M2_PICKLE_LIST);
}

static enum m2_err on_appends(machine *m, size_t n)
{
	(void)n;
	const value *first;
	size_t count;
	const enum m2_err err = m2_pickle_pop_to_mark(m, &first, &count);
	return err != M2_OK ? err : check_container(m, M2_PICKLE_LIST);
}

/* first[0..2 * n_pairs): key, value, key, value */
static enum m2_err set_items(machine *m, const value *first, size_t n_pairs)
{
	enum m2_err err = check_container(m, M2_PICKLE_DICT);
	if (err == M2_OK)
		err = m2_pickle_grow(m, &m->pairs, &m->cap_pairs, m->n_pairs, n_pairs,
			sizeof *m->pairs, MAX_PAIRS, "keys of dicts");
	if (err != M2_OK)
		return err;
	for (size_t i = 0; i < n_pairs; i++)
		m->pairs[m->n_pairs++] =
			(struct m2_pickle_pair){.dict = m->stack[m->n_stack - 1].number,
				.key = first[2 * i],
				.value = first[2 * i + 1]};
	return M2_OK;
}

static enum m2_err on_setitem(machine *m, size_t n)
{
	(void)n;
	value both[2];
	enum m2_err err = m2_pickle_pop(m, &both[1]);
	if (err == M2_OK)
		err = m2_pickle_pop(m, &both[0]);
	return err != M2_OK ? err : set_items(m, both, 1);
}

static enum m2_err on_setitems(machine *m, size_t n)
{
	(void)n;
	const value *first;
	size_t count;
	const enum m2_err err = m2_pickle_pop_to_mark(m, &first, &count);
	if (err != M2_OK)
		return err;
	if (count % 2 != 0)
		return m2_pickle_refuse(m, M2_EFORMAT, "a key without a value");
	return set_items(m, first, count / 2);
}

/* ---- opcodes: the memo ---- */

/* Every pickler numbers its memo 0, 1, 2, ...: anything else is somebody's trick. */
static enum m2_err on_put(machine *m, size_t index_bytes)
{
	uint64_t index;
	enum m2_err err = m2_pickle_take_number(m, index_bytes, &index);
	if (err == M2_OK)
		err = m2_pickle_check_top(m);
	if (err != M2_OK)
		return err;
	if (index != m->n_memo)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"memo entry %llu is written, the next free one is %zu",
			(unsigned long long)index, m->n_memo);
	err = m2_pickle_grow(
		m, &m->memo, &m->cap_memo, m->n_memo, 1, sizeof *m->memo, MAX_MEMO, "memo entries");
	if (err == M2_OK)
		m->memo[m->n_memo++] = m->stack[m->n_stack - 1];
	return err;
}

static enum m2_err on_get(machine *m, size_t index_bytes)
{
	uint64_t index;
	const enum m2_err err = m2_pickle_take_number(m, index_bytes, &index);
	if (err != M2_OK)
		return err;
	if (index >= m->n_memo)
		return m2_pickle_refuse(m, M2_EFORMAT, "memo entry %llu is read, there are %zu",
			(unsigned long long)index, m->n_memo);
	return m2_pickle_push(m, m->memo[index]);
}

/* ---- opcodes: what Python would call ---- */

/* A line without its end; of letters, digits and points only, so that it can be said. */
static enum m2_err take_line(machine *m, const char **line, size_t *length)
{
	const unsigned char *start = m->bytes + m->at;
	const size_t left = m->length - m->at;
	const unsigned char *end = memchr(start, '\n', left < MAX_GLOBAL ? left : MAX_GLOBAL);
	if (end == NULL)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"the name of a global does not end within %d bytes", (int)MAX_GLOBAL);
	for (const unsigned char *p = start; p < end; p++)
		if (*p <= ' ' || *p > '~')
			return m2_pickle_refuse(
				m, M2_EFORMAT, "the name of a global holds the byte 0x%02x", *p);
	*line = (const char *)start;
	*length = (size_t)(end - start);
	m->at += *length + 1;
	return M2_OK;
}

static enum m2_err on_global(machine *m, size_t n)
{
	(void)n;
	const char *module;
	const char *name;
	size_t module_length;
	size_t name_length;
	value out;
	enum m2_err err = take_line(m, &module, &module_length);
	if (err == M2_OK)
		err = take_line(m, &name, &name_length);
	if (err == M2_OK)
		err = m2_pickle_global(m, module, module_length, name, name_length, &out);
	return err != M2_OK ? err : m2_pickle_push(m, out);
}

static enum m2_err on_binpersid(machine *m, size_t n)
{
	(void)n;
	value id;
	value out;
	enum m2_err err = m2_pickle_pop(m, &id);
	if (err == M2_OK)
		err = m2_pickle_persistent(m, id, &out);
	return err != M2_OK ? err : m2_pickle_push(m, out);
}

static enum m2_err on_reduce(machine *m, size_t n)
{
	(void)n;
	value arguments;
	value callable;
	value out;
	enum m2_err err = m2_pickle_pop(m, &arguments);
	if (err == M2_OK)
		err = m2_pickle_pop(m, &callable);
	if (err == M2_OK)
		err = m2_pickle_reduce(m, callable, arguments, &out);
	return err != M2_OK ? err : m2_pickle_push(m, out);
}

static enum m2_err on_build(machine *m, size_t n)
{
	(void)n;
	value state;
	enum m2_err err = m2_pickle_pop(m, &state);
	if (err == M2_OK)
		err = m2_pickle_check_top(m);
	return err != M2_OK ? err : m2_pickle_build(m, m->stack[m->n_stack - 1], state);
}

/* ---- running ---- */

/* What torch.save writes.  n: bytes of the operand, items of the tuple, the truth value. */
static const struct opcode_row {
	const char *name;
	enum m2_err (*run)(machine *m, size_t n);
	size_t n;
} opcodes[256] = {
	[0x80] = {"PROTO", on_proto, 1},
	['('] = {"MARK", on_mark, 0},
	['N'] = {"NONE", on_none, 0},
	[0x88] = {"NEWTRUE", on_bool, 1},
	[0x89] = {"NEWFALSE", on_bool, 0},
	['K'] = {"BININT1", on_unsigned, 1},
	['M'] = {"BININT2", on_unsigned, 2},
	['J'] = {"BININT", on_binint, 4},
	[0x8a] = {"LONG1", on_long1, 1},
	['G'] = {"BINFLOAT", on_binfloat, 8},
	['X'] = {"BINUNICODE", on_string, 4},
	['U'] = {"SHORT_BINSTRING", on_string, 1},
	[')'] = {"EMPTY_TUPLE", on_tuple_of, 0},
	[0x85] = {"TUPLE1", on_tuple_of, 1},
	[0x86] = {"TUPLE2", on_tuple_of, 2},
	[0x87] = {"TUPLE3", on_tuple_of, 3},
	['t'] = {"TUPLE", on_tuple, 0},
	[']'] = {"EMPTY_LIST", on_empty_list, 0},
	['a'] = {"APPEND", on_append, 0},
	['e'] = {"APPENDS", on_appends, 0},
	['}'] = {"EMPTY_DICT", on_empty_dict, 0},
	['s'] = {"SETITEM", on_setitem, 0},
	['u'] = {"SETITEMS", on_setitems, 0},
	['q'] = {"BINPUT", on_put, 1},
	['r'] = {"LONG_BINPUT", on_put, 4},
	['h'] = {"BINGET", on_get, 1},
	['j'] = {"LONG_BINGET", on_get, 4},
	['c'] = {"GLOBAL", on_global, 0},
	['Q'] = {"BINPERSID", on_binpersid, 0},
	['R'] = {"REDUCE", on_reduce, 0},
	['b'] = {"BUILD", on_build, 0},
};

/* The others up to protocol 5, to refuse them by name. */
static const char *const foreign[256] = {['0'] = "POP",
	['1'] = "POP_MARK",
	['2'] = "DUP",
	['B'] = "BINBYTES",
	['C'] = "SHORT_BINBYTES",
	['F'] = "FLOAT",
	['I'] = "INT",
	['L'] = "LONG",
	['P'] = "PERSID",
	['S'] = "STRING",
	['T'] = "BINSTRING",
	['V'] = "UNICODE",
	['d'] = "DICT",
	['g'] = "GET",
	['i'] = "INST",
	['l'] = "LIST",
	['o'] = "OBJ",
	['p'] = "PUT",
	[0x81] = "NEWOBJ",
	[0x82] = "EXT1",
	[0x83] = "EXT2",
	[0x84] = "EXT4",
	[0x8b] = "LONG4",
	[0x8c] = "SHORT_BINUNICODE",
	[0x8d] = "BINUNICODE8",
	[0x8e] = "BINBYTES8",
	[0x8f] = "EMPTY_SET",
	[0x90] = "ADDITEMS",
	[0x91] = "FROZENSET",
	[0x92] = "NEWOBJ_EX",
	[0x93] = "STACK_GLOBAL",
	[0x94] = "MEMOIZE",
	[0x95] = "FRAME",
	[0x96] = "BYTEARRAY8",
	[0x97] = "NEXT_BUFFER",
	[0x98] = "READONLY_BUFFER"};

/* Up to STOP, which must be the last byte. */
static enum m2_err run(machine *m)
{
	for (;;) {
		m->opcode = m->at;
		if (m->at == m->length)
			return m2_pickle_refuse(m, M2_EFORMAT, "the pickle ends without STOP");
		const unsigned char code = m->bytes[m->at++];
		if (m->opcode == 0 && code != 0x80)
			return m2_pickle_refuse(m, M2_EFORMAT,
				"the pickle begins with 0x%02x, not with PROTO", code);
		if (code == '.')
			break;
		const struct opcode_row *row = &opcodes[code];
		if (row->name == NULL && foreign[code] == NULL)
			return m2_pickle_refuse(m, M2_EFORMAT, "0x%02x is no opcode", code);
		if (row->name == NULL)
			return m2_pickle_refuse(m, M2_EUNSUPPORTED,
				"the opcode %s (0x%02x) has no place in a state dict",
				foreign[code], code);
		const enum m2_err err = row->run(m, row->n);
		if (err != M2_OK)
			return err;
	}
	if (m->at != m->length)
		return m2_pickle_refuse(m, M2_EFORMAT, "%zu bytes follow STOP", m->length - m->at);
	if (m->n_stack != 1 || m->n_marks != 0)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"%zu values are on the stack at STOP, one is wanted", m->n_stack);
	return M2_OK;
}

enum m2_err m2_pickle_read(const void *bytes, size_t length, const char *what,
	struct m2_pickle *out, struct m2_why *why)
{
	machine m = {.bytes = bytes, .length = length, .what = what, .why = why};
	*out = (struct m2_pickle){.tensors = NULL};
	enum m2_err err = run(&m);
	if (err == M2_OK)
		err = m2_pickle_root(&m, m.stack[0], out);
	free(m.stack);
	free(m.memo);
	free(m.items);
	free(m.pairs);
	free(m.storages);
	free(m.tensors);
	return err;
}

void m2_pickle_finish(struct m2_pickle *pickle)
{
	free(pickle->tensors);
	*pickle = (struct m2_pickle){.tensors = NULL};
}
