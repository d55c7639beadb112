/* pytorch_objects.c - what the names in a state dict's pickle stand for.
 *
 * torch.save writes a tensor as torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...), its
 * storage as the persistent id ("storage", torch.FloatStorage, key, device, numel), and the dict around
 * them as a dict or collections.OrderedDict with an attribute _metadata.  Each becomes a record here;
 * whatever else a pickle names is refused with that name.
 */
#include "model/pytorch_machine.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct m2_pickle_machine machine;
typedef struct m2_pickle_value value;

enum { MAX_STORAGES = 65536, MAX_TENSORS = 65536, MAX_KEY = 19, MAX_NAME = 512 };

enum global_role { A_STORAGE, AN_ORDERED_DICT, A_REBUILT_TENSOR, A_PARAMETER };

static const struct global_row {
	const char *module, *name;
	enum global_role role;
	enum m2_dtype dtype;
	uint32_t bytes; /* of one element */
} globals[] = {
	{"collections", "OrderedDict", AN_ORDERED_DICT, M2_DTYPE_NONE, 0},
	{"torch._utils", "_rebuild_tensor_v2", A_REBUILT_TENSOR, M2_DTYPE_NONE, 0},
	{"torch._utils", "_rebuild_parameter", A_PARAMETER, M2_DTYPE_NONE, 0},
	{"torch", "FloatStorage", A_STORAGE, M2_DTYPE_F32, 4},
	{"torch", "HalfStorage", A_STORAGE, M2_DTYPE_F16, 2},
	{"torch", "BFloat16Storage", A_STORAGE, M2_DTYPE_BF16, 2},
	{"torch", "DoubleStorage", A_STORAGE, M2_DTYPE_F64, 8},
	{"torch", "LongStorage", A_STORAGE, M2_DTYPE_NONE, 8},
	{"torch", "IntStorage", A_STORAGE, M2_DTYPE_NONE, 4},
	{"torch", "ShortStorage", A_STORAGE, M2_DTYPE_NONE, 2},
	{"torch", "CharStorage", A_STORAGE, M2_DTYPE_NONE, 1},
	{"torch", "ByteStorage", A_STORAGE, M2_DTYPE_NONE, 1},
	{"torch", "BoolStorage", A_STORAGE, M2_DTYPE_NONE, 1},
};

static bool is(const char *text, size_t length, const char *wanted)
{
	return strlen(wanted) == length && memcmp(text, wanted, length) == 0;
}

enum m2_err m2_pickle_global(machine *m, const char *module, size_t module_length, const char *name,
	size_t name_length, value *out)
{
	for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
		if (is(module, module_length, globals[i].module) &&
			is(name, name_length, globals[i].name)) {
			*out = (value){.kind = M2_PICKLE_GLOBAL, .number = (int64_t)i};
			return M2_OK;
		}
	return m2_pickle_refuse(m, M2_EUNSUPPORTED,
		"the global %.*s.%.*s is none of a state dict, and is not looked up",
		(int)module_length, module, (int)name_length, name);
}

/* ---- arguments ---- */

static const char *text_of(const machine *m, value v)
{
	return (const char *)m->bytes + v.number;
}

/* An empty tuple may be made before there is any pool of items. */
static const value *items_of(const machine *m, value tuple)
{
	return tuple.length > 0 ? m->items + tuple.number : NULL;
}

static enum m2_err want(
	const machine *m, value v, enum m2_pickle_kind kind, const char *of, const char *argument)
{
	if (v.kind == kind)
		return M2_OK;
	return m2_pickle_refuse(m, M2_EFORMAT, "%s of %s is %s, not %s", argument, of,
		m2_pickle_kind_words(v.kind), m2_pickle_kind_words(kind));
}

static enum m2_err want_natural(
	const machine *m, value v, const char *of, const char *argument, uint64_t *out)
{
	const enum m2_err err = want(m, v, M2_PICKLE_INT, of, argument);
	if (err == M2_OK && v.number < 0)
		return m2_pickle_refuse(m, M2_EFORMAT, "%s of %s is %lld, a negative number",
			argument, of, (long long)v.number);
	*out = (uint64_t)v.number;
	return err;
}

static enum m2_err want_dims(
	const machine *m, value tuple, const char *argument, int64_t dims[M2_TENSOR_DIMS])
{
	static const char of[] = "a tensor";
	enum m2_err err = want(m, tuple, M2_PICKLE_TUPLE, of, argument);
	if (err != M2_OK)
		return err;
	if (tuple.length > M2_TENSOR_DIMS)
		return m2_pickle_refuse(m, M2_EFORMAT, "%s of %s has %u numbers, more than %d",
			argument, of, tuple.length, (int)M2_TENSOR_DIMS);
	for (uint32_t i = 0; i < tuple.length && err == M2_OK; i++) {
		uint64_t number = 0;
		err = want_natural(m, items_of(m, tuple)[i], of, argument, &number);
		dims[i] = (int64_t)number;
	}
	return err;
}

/* ---- a storage ---- */

enum m2_err m2_pickle_persistent(machine *m, value id, value *out)
{
	static const char of[] = "a storage";
	struct m2_pickle_tensor s = {.name = NULL};
	enum m2_err err = want(m, id, M2_PICKLE_TUPLE, "a persistent object", "the id");
	if (err != M2_OK)
		return err;
	const value *item = items_of(m, id);
	if (id.length != 5 || item[0].kind != M2_PICKLE_STRING ||
		!is(text_of(m, item[0]), item[0].length, "storage"))
		return m2_pickle_refuse(
			m, M2_EUNSUPPORTED, "a persistent object that is no storage");
	if (item[1].kind != M2_PICKLE_GLOBAL || globals[item[1].number].role != A_STORAGE)
		return m2_pickle_refuse(
			m, M2_EFORMAT, "the class of a storage is no storage class");
	err = want(m, item[2], M2_PICKLE_STRING, of, "the key");
	if (err == M2_OK)
		err = want(m, item[3], M2_PICKLE_STRING, of, "the device");
	if (err == M2_OK)
		err = want_natural(m, item[4], of, "the number of elements", &s.numel);
	if (err != M2_OK)
		return err;
	s.key = text_of(m, item[2]);
	s.key_length = item[2].length;
	for (uint32_t i = 0; i < s.key_length; i++)
		if (s.key[i] < '0' || s.key[i] > '9' || i == MAX_KEY)
			s.key_length = 0;
	if (s.key_length == 0)
		return m2_pickle_refuse(m, M2_EFORMAT, "the key of a storage is no number");
	const struct global_row *row = &globals[item[1].number];
	s.dtype = row->dtype;
	s.bytes = row->bytes;
	s.storage = row->name;
	err = m2_pickle_grow(m, &m->storages, &m->cap_storages, m->n_storages, 1,
		sizeof *m->storages, MAX_STORAGES, "storages");
	if (err != M2_OK)
		return err;
	*out = (value){.kind = M2_PICKLE_STORAGE, .number = (int64_t)m->n_storages};
	m->storages[m->n_storages++] = s;
	return M2_OK;
}

/* ---- what is "called" ---- */

/* (storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static enum m2_err rebuild_tensor(machine *m, const value *item, size_t count, value *out)
{
	static const char of[] = "a tensor";
	int64_t stride[M2_TENSOR_DIMS];
	if (count != 6 && count != 7)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"_rebuild_tensor_v2 with %zu arguments, 6 are wanted", count);
	enum m2_err err = want(m, item[0], M2_PICKLE_STORAGE, of, "the storage");
	if (err != M2_OK)
		return err;
	struct m2_pickle_tensor t = m->storages[item[0].number];
	err = want_natural(m, item[1], of, "the offset", &t.offset);
	if (err == M2_OK)
		err = want_dims(m, item[2], "the size", t.shape);
	if (err == M2_OK)
		err = want_dims(m, item[3], "the stride", stride);
	if (err == M2_OK && item[2].length != item[3].length)
		err = m2_pickle_refuse(m, M2_EFORMAT, "a tensor of %u dimensions with %u strides",
			item[2].length, item[3].length);
	if (err == M2_OK)
		err = want(m, item[4], M2_PICKLE_BOOL, of, "requires_grad");
	if (err == M2_OK)
		err = want(m, item[5], M2_PICKLE_DICT, of, "the dict of hooks");
	if (err == M2_OK && count == 7 && item[6].kind != M2_PICKLE_NONE)
		err = want(m, item[6], M2_PICKLE_DICT, of, "the metadata");
	if (err == M2_OK)
		err = m2_pickle_grow(m, &m->tensors, &m->cap_tensors, m->n_tensors, 1,
			sizeof *m->tensors, MAX_TENSORS, "tensors");
	if (err != M2_OK)
		return err;
	t.n_dims = (int32_t)item[2].length;
	memcpy(t.stride, stride, item[3].length * sizeof *stride);
	*out = (value){.kind = M2_PICKLE_TENSOR, .number = (int64_t)m->n_tensors};
	m->tensors[m->n_tensors++] = t;
	return M2_OK;
}

/* (tensor, requires_grad, hooks): the tensor */
static enum m2_err rebuild_parameter(const machine *m, const value *item, size_t count, value *out)
{
	static const char of[] = "a parameter";
	if (count != 3)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"_rebuild_parameter with %zu arguments, 3 are wanted", count);
	enum m2_err err = want(m, item[0], M2_PICKLE_TENSOR, of, "the tensor");
	if (err == M2_OK)
		err = want(m, item[1], M2_PICKLE_BOOL, of, "requires_grad");
	if (err == M2_OK)
		err = want(m, item[2], M2_PICKLE_DICT, of, "the dict of hooks");
	*out = item[0];
	return err;
}

enum m2_err m2_pickle_reduce(machine *m, value callable, value arguments, value *out)
{
	if (callable.kind != M2_PICKLE_GLOBAL)
		return m2_pickle_refuse(
			m, M2_EFORMAT, "%s is called", m2_pickle_kind_words(callable.kind));
	const struct global_row *row = &globals[callable.number];
	const enum m2_err err = want(m, arguments, M2_PICKLE_TUPLE, row->name, "the argument list");
	if (err != M2_OK)
		return err;
	const value *item = items_of(m, arguments);
	switch (row->role) {
	case A_REBUILT_TENSOR:
		return rebuild_tensor(m, item, arguments.length, out);
	case A_PARAMETER:
		return rebuild_parameter(m, item, arguments.length, out);
	case AN_ORDERED_DICT:
		*out = (value){.kind = M2_PICKLE_DICT, .number = m->n_dicts++};
		if (arguments.length == 0)
			return M2_OK;
		return m2_pickle_refuse(m, M2_EFORMAT, "OrderedDict with %u arguments, none wanted",
			arguments.length);
	default:
		return m2_pickle_refuse(m, M2_EUNSUPPORTED,
			"%s.%s is called, and is only named in "
			"a state dict",
			row->module, row->name);
	}
}

/* Attributes of a dict are _metadata, the versions of torch's modules: nothing that we need. */
enum m2_err m2_pickle_build(const machine *m, value object, value state)
{
	const enum m2_err err = want(m, object, M2_PICKLE_DICT, "BUILD", "the object");
	return err != M2_OK ? err : want(m, state, M2_PICKLE_DICT, "BUILD", "the state");
}

/* ---- the root ---- */

static enum m2_err check_name(const machine *m, value key)
{
	if (key.kind != M2_PICKLE_STRING)
		return m2_pickle_refuse(m, M2_EFORMAT, "a key of the root is %s, not a string",
			m2_pickle_kind_words(key.kind));
	if (key.length == 0 || key.length > MAX_NAME)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"a tensor's name of %u bytes; 1 to %d are "
			"allowed",
			key.length, (int)MAX_NAME);
	const char *name = text_of(m, key);
	for (uint32_t i = 0; i < key.length; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return m2_pickle_refuse(m, M2_EFORMAT,
				"a tensor's name with control "
				"characters");
	return M2_OK;
}

enum m2_err m2_pickle_root(const machine *m, value root, struct m2_pickle *out)
{
	if (root.kind != M2_PICKLE_DICT)
		return m2_pickle_refuse(m, M2_EFORMAT,
			"the pickle holds %s, not the dict of a "
			"state dict",
			m2_pickle_kind_words(root.kind));
	struct m2_pickle_tensor *tensors = NULL;
	size_t capacity = 0;
	size_t count = 0;
	enum m2_err err = M2_OK;
	for (size_t i = 0; i < m->n_pairs && err == M2_OK; i++) {
		const struct m2_pickle_pair *p = &m->pairs[i];
		if (p->dict != root.number)
			continue;
		err = check_name(m, p->key);
		if (err == M2_OK && p->value.kind != M2_PICKLE_TENSOR)
			err = m2_pickle_refuse(m, M2_EUNSUPPORTED,
				"\"%.*s\" is %s, not a tensor: "
				"only a plain state dict is read",
				(int)p->key.length, text_of(m, p->key),
				m2_pickle_kind_words(p->value.kind));
		if (err == M2_OK)
			err = m2_pickle_grow(m, &tensors, &capacity, count, 1, sizeof *tensors,
				MAX_TENSORS, "tensors");
		if (err != M2_OK)
			break;
		tensors[count] = m->tensors[p->value.number];
		tensors[count].name = text_of(m, p->key);
		tensors[count++].name_length = p->key.length;
	}
	if (err != M2_OK) {
		free(tensors);
		return err;
	}
	*out = (struct m2_pickle){.tensors = tensors, .count = count};
	return M2_OK;
}
