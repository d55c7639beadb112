/* pytorch_machine.h - the memory of the pickle machine, shared by its two halves.
 *
 * Internal to the room.  pytorch_pickle.c moves values by opcodes, pytorch_objects.c knows what the few
 * allowed names make of them.  Values are 16 bytes and refer to pools by index, so a value that holds
 * itself is a number and not a loop, and nothing here ever recurses.
 */
#ifndef M2_MODEL_PYTORCH_MACHINE_H
#define M2_MODEL_PYTORCH_MACHINE_H

#include "model/pytorch_pickle.h"

enum m2_pickle_kind {
	M2_PICKLE_MARK, /* of the stack, no value */
	M2_PICKLE_NONE,
	M2_PICKLE_BOOL,
	M2_PICKLE_INT,    /* number */
	M2_PICKLE_FLOAT,  /* without its value: nothing of ours is made of one */
	M2_PICKLE_STRING, /* bytes[number, number + length) of the pickle */
	M2_PICKLE_TUPLE,  /* items[number, number + length) */
	M2_PICKLE_LIST,   /* without its items, likewise */
	M2_PICKLE_DICT,   /* the pairs whose dict is number */
	M2_PICKLE_GLOBAL, /* row `number` of the table of names */
	M2_PICKLE_STORAGE,
	M2_PICKLE_TENSOR,
	M2_PICKLE_KINDS
};

struct m2_pickle_value {
	enum m2_pickle_kind kind;
	uint32_t length;
	int64_t number;
};

struct m2_pickle_pair {
	int64_t dict;
	struct m2_pickle_value key, value;
};

/* storages[] use the fields of a tensor that come from its storage: key, type, numel. */
struct m2_pickle_machine {
	const unsigned char *bytes;
	size_t length;
	size_t at;     /* next byte */
	size_t opcode; /* byte of the opcode that is being run, for sentences */
	const char *what;
	struct m2_why *why;

	struct m2_pickle_value *stack;
	size_t n_stack, cap_stack;
	size_t n_marks;
	struct m2_pickle_value *memo;
	size_t n_memo, cap_memo;
	struct m2_pickle_value *items;
	size_t n_items, cap_items;
	struct m2_pickle_pair *pairs;
	size_t n_pairs, cap_pairs;
	struct m2_pickle_tensor *storages;
	size_t n_storages, cap_storages;
	struct m2_pickle_tensor *tensors;
	size_t n_tensors, cap_tensors;
	int64_t n_dicts;
};

/* A sentence with the file and the byte in front of it. */
enum m2_err m2_pickle_refuse(const struct m2_pickle_machine *m, enum m2_err err, const char *fmt,
	...) __attribute__((format(printf, 3, 4)));

/* "an integer", "a dict" */
const char *m2_pickle_kind_words(enum m2_pickle_kind kind);

/* Room for `more` further elements of `size` bytes in an array that never exceeds `limit`. */
enum m2_err m2_pickle_grow(const struct m2_pickle_machine *m, void *array, size_t *capacity,
	size_t count, size_t more, size_t size, size_t limit, const char *of);

/* The next n bytes, or n bytes as an unsigned number, the first the lowest. */
enum m2_err m2_pickle_take(struct m2_pickle_machine *m, size_t n, const unsigned char **out);
enum m2_err m2_pickle_take_number(struct m2_pickle_machine *m, size_t n, uint64_t *out);

/* A mark is no value: check_top and pop refuse it. */
enum m2_err m2_pickle_push(struct m2_pickle_machine *m, struct m2_pickle_value v);
enum m2_err m2_pickle_check_top(const struct m2_pickle_machine *m);
enum m2_err m2_pickle_pop(struct m2_pickle_machine *m, struct m2_pickle_value *out);
/* The values above the topmost mark, which both go: they stay readable until the next push. */
enum m2_err m2_pickle_pop_to_mark(
	struct m2_pickle_machine *m, const struct m2_pickle_value **first, size_t *count);

/* GLOBAL, BINPERSID, REDUCE, BUILD: *out is what is pushed. */
enum m2_err m2_pickle_global(struct m2_pickle_machine *m, const char *module, size_t module_length,
	const char *name, size_t name_length, struct m2_pickle_value *out);
enum m2_err m2_pickle_persistent(
	struct m2_pickle_machine *m, struct m2_pickle_value id, struct m2_pickle_value *out);
enum m2_err m2_pickle_reduce(struct m2_pickle_machine *m, struct m2_pickle_value callable,
	struct m2_pickle_value arguments, struct m2_pickle_value *out);
enum m2_err m2_pickle_build(const struct m2_pickle_machine *m, struct m2_pickle_value object,
	struct m2_pickle_value state);

/* The pickle's result to the caller's tensors. */
enum m2_err m2_pickle_root(
	const struct m2_pickle_machine *m, struct m2_pickle_value root, struct m2_pickle *out);

#endif
