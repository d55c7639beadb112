/* test_model_pickle.c - state dicts are read, and nothing else that a pickle can say. */
#include "tests/unit/pytorch_maker.h"

#include <stdio.h>

#include "model/pytorch_pickle.h"

/* Pieces of pickles, by hand. */
#define PROTO "\x80\x02"
#define STORAGE                                                                                    \
	"(U\x07"                                                                                   \
	"storagectorch\nFloatStorage\nU\x01"                                                       \
	"0U\x03"                                                                                   \
	"cpuK\x04tQ"
#define HOOKS          "ccollections\nOrderedDict\n)R"
#define REBUILD        "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR         REBUILD "(" STORAGE "K\x00K\x04\x85K\x01\x85\x89" HOOKS "tR"
#define ROOT(value)    PROTO "}(U\x01w" value "u."
#define BYTES(literal) (literal), sizeof(literal) - 1

static enum m2_err read_pickle(
	const void *bytes, size_t length, struct m2_pickle *out, struct m2_why *why)
{
	*why = (struct m2_why){.text = ""};
	/* a copy of exactly these bytes, so that a sanitizer sees a read behind them */
	void *copy = malloc(length > 0 ? length : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, length);
	const enum m2_err err = m2_pickle_read(copy, length, "x.bin", out, why);
	free(copy);
	return err;
}

static void refuse(const void *bytes, size_t length, enum m2_err wanted, const char *word)
{
	struct m2_pickle p;
	struct m2_why why;
	const enum m2_err err = read_pickle(bytes, length, &p, &why);
	if (err != wanted || strstr(why.text, word) == NULL)
		print_error("gave %s: %s\n", m2_err_code(err), why.text);
	assert_int_equal(err, wanted);
	assert_non_null(strstr(why.text, word));
	assert_non_null(strstr(why.text, "x.bin: data.pkl, byte "));
	assert_null(p.tensors);
}

static void accept(const void *bytes, size_t length, struct m2_pickle *p)
{
	struct m2_why why = {.text = ""};
	if (m2_pickle_read(bytes, length, "x.bin", p, &why) != M2_OK)
		fail_msg("%s", why.text);
}

static void accept_and_forget(const void *bytes, size_t length, size_t count)
{
	struct m2_pickle p;
	accept(bytes, length, &p);
	assert_int_equal(p.count, count);
	m2_pickle_finish(&p);
	assert_null(p.tensors);
}

static void a_state_dict_is_described(void **state)
{
	static const char plain[] = ROOT(TENSOR);
	struct m2_pickle p;
	(void)state;
	accept(BYTES(plain), &p);
	assert_int_equal(p.count, 1);
	const struct m2_pickle_tensor *t = p.tensors;
	assert_int_equal(t->name_length, 1);
	assert_memory_equal(t->name, "w", 1);
	assert_int_equal(t->key_length, 1);
	assert_memory_equal(t->key, "0", 1);
	assert_int_equal(t->dtype, M2_DTYPE_F32);
	assert_int_equal(t->bytes, 4);
	assert_string_equal(t->storage, "FloatStorage");
	assert_int_equal(t->numel, 4);
	assert_int_equal(t->offset, 0);
	assert_int_equal(t->n_dims, 1);
	assert_int_equal(t->shape[0], 4);
	assert_int_equal(t->stride[0], 1);
	m2_pickle_finish(&p);
}

static void the_forms_that_torch_writes_are_read(void **state)
{
	(void)state;
	accept_and_forget(BYTES(PROTO "}."), 0);
	accept_and_forget(BYTES(PROTO HOOKS "(U\x01w" TENSOR "u."), 1);
	accept_and_forget(BYTES(PROTO "}U\x01w" TENSOR "s."), 1);
	/* attributes of the dict, a memo, a parameter, metadata of a tensor */
	accept_and_forget(BYTES(PROTO HOOKS "q\0(U\x01w" TENSOR "u}U\x09_metadata" HOOKS
					    "(U\0}U\7versionK\1su"
					    "sb."),
		1);
	accept_and_forget(BYTES(PROTO "}(U\1wq\0" TENSOR "q\1U\1vr\2\0\0\0h\1u."), 2);
	accept_and_forget(BYTES(PROTO "}(U\1w" TENSOR "q\0U\1vj\0\0\0\0u."), 2);
	accept_and_forget(
		BYTES(ROOT("ctorch._utils\n_rebuild_parameter\n" TENSOR "\x88" HOOKS "\x87R")), 1);
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "K\0K\4\x85K\1\x85\x89" HOOKS "NtR")), 1);
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "K\0K\4\x85K\1\x85\x89" HOOKS "}tR")), 1);
	/* no dimensions at all, and every way of writing a number */
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "M\1\0))\x89" HOOKS "tR")), 1);
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "J\1\0\0\0))\x89" HOOKS "tR")), 1);
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "\x8a\0))\x89" HOOKS "tR")), 1);
	accept_and_forget(BYTES(ROOT(REBUILD "(" STORAGE "\x8a\2\xff\0))\x89" HOOKS "tR")), 1);
	/* what a module's extra state may hold, beside the tensors */
	accept_and_forget(BYTES(PROTO HOOKS "}U\1kG\x3f\xf0\0\0\0\0\0\0sb."), 0);
	accept_and_forget(BYTES(PROTO HOOKS "}U\1k](K\1K\2eNasb."), 0);
}

static void integer_storages_have_no_type_that_a_weight_can_have(void **state)
{
	static const struct {
		const char *storage;
		enum m2_dtype dtype;
		unsigned bytes;
	} types[] = {{"FloatStorage", M2_DTYPE_F32, 4}, {"HalfStorage", M2_DTYPE_F16, 2},
		{"BFloat16Storage", M2_DTYPE_BF16, 2}, {"DoubleStorage", M2_DTYPE_F64, 8},
		{"LongStorage", M2_DTYPE_NONE, 8}, {"IntStorage", M2_DTYPE_NONE, 4},
		{"ShortStorage", M2_DTYPE_NONE, 2}, {"CharStorage", M2_DTYPE_NONE, 1},
		{"ByteStorage", M2_DTYPE_NONE, 1}, {"BoolStorage", M2_DTYPE_NONE, 1}};
	(void)state;
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		struct bytes b = {.n = 0};
		struct m2_pickle p;
		begin_dict(&b);
		put_tensor(&b, "w",
			&(struct tensor_of){types[i].storage, "12", 4, 2, {2, -1}, {1, -1}});
		end_dict(&b);
		accept(b.at, b.n, &p);
		assert_int_equal(p.tensors[0].dtype, types[i].dtype);
		assert_int_equal(p.tensors[0].bytes, types[i].bytes);
		assert_string_equal(p.tensors[0].storage, types[i].storage);
		assert_int_equal(p.tensors[0].offset, 2);
		m2_pickle_finish(&p);
		free(b.at);
	}
}

static void every_other_opcode_is_refused_by_name_and_place(void **state)
{
	static const struct {
		unsigned char code;
		const char *name;
	} others[] = {{'0', "POP"}, {'1', "POP_MARK"}, {'2', "DUP"}, {'B', "BINBYTES"},
		{'C', "SHORT_BINBYTES"}, {'F', "FLOAT"}, {'I', "INT"}, {'L', "LONG"},
		{'P', "PERSID"}, {'S', "STRING"}, {'T', "BINSTRING"}, {'V', "UNICODE"},
		{'d', "DICT"}, {'g', "GET"}, {'i', "INST"}, {'l', "LIST"}, {'o', "OBJ"},
		{'p', "PUT"}, {0x81, "NEWOBJ"}, {0x82, "EXT1"}, {0x83, "EXT2"}, {0x84, "EXT4"},
		{0x8b, "LONG4"}, {0x8c, "SHORT_BINUNICODE"}, {0x8d, "BINUNICODE8"},
		{0x8e, "BINBYTES8"}, {0x8f, "EMPTY_SET"}, {0x90, "ADDITEMS"}, {0x91, "FROZENSET"},
		{0x92, "NEWOBJ_EX"}, {0x93, "STACK_GLOBAL"}, {0x94, "MEMOIZE"}, {0x95, "FRAME"},
		{0x96, "BYTEARRAY8"}, {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};
	char pickle[] = PROTO "}X)R.";
	char word[64];
	(void)state;
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		pickle[3] = (char)others[i].code;
		(void)snprintf(word, sizeof word, "byte 3: the opcode %s (0x%02x)", others[i].name,
			others[i].code);
		refuse(BYTES(pickle), M2_EUNSUPPORTED, word);
	}
	pickle[3] = (char)0xff;
	refuse(BYTES(pickle), M2_EFORMAT, "byte 3: 0xff is no opcode");
	pickle[3] = '\0';
	refuse(BYTES(pickle), M2_EFORMAT, "byte 3: 0x00 is no opcode");
}

static void every_other_global_is_refused_by_name(void **state)
{
	(void)state;
	refuse(BYTES(PROTO "cos\nsystem\n(U\2lstR."), M2_EUNSUPPORTED,
		"byte 2: the global os.system");
	refuse(BYTES(PROTO "cposix\nsystem\n."), M2_EUNSUPPORTED, "posix.system");
	refuse(BYTES(PROTO "cbuiltins\neval\n."), M2_EUNSUPPORTED, "builtins.eval");
	refuse(BYTES(PROTO "c__builtin__\nexec\n."), M2_EUNSUPPORTED, "__builtin__.exec");
	refuse(BYTES(PROTO "csubprocess\nPopen\n."), M2_EUNSUPPORTED, "subprocess.Popen");
	refuse(BYTES(PROTO "ctorch\nload\n."), M2_EUNSUPPORTED, "torch.load");
	refuse(BYTES(PROTO "ctorch._utils\n_rebuild_tensor\n."), M2_EUNSUPPORTED,
		"_utils._rebuild_tensor is none");
	refuse(BYTES(PROTO "ctorch._utils\n_rebuild_tensor_v3\n."), M2_EUNSUPPORTED, "_v3");
	refuse(BYTES(PROTO "ctorch\nComplexFloatStorage\n."), M2_EUNSUPPORTED, "ComplexFloat");
	refuse(BYTES(PROTO "ctorch.storage\nUntypedStorage\n."), M2_EUNSUPPORTED, "UntypedStorage");
	refuse(BYTES(PROTO "ccollections\nCounter\n."), M2_EUNSUPPORTED, "collections.Counter");
	refuse(BYTES(PROTO "cargparse\nNamespace\n."), M2_EUNSUPPORTED, "argparse.Namespace");
	refuse(BYTES(PROTO "ccollection\nsOrderedDict\n."), M2_EUNSUPPORTED, "collection.sOrd");
	refuse(BYTES(PROTO "c\n\n."), M2_EUNSUPPORTED, "the global .");
	refuse(BYTES(PROTO "cos\nsys\x1b[2Jtem\n."), M2_EFORMAT, "holds the byte 0x1b");
	refuse(BYTES(PROTO "cos\r\nsystem\n."), M2_EFORMAT, "holds the byte 0x0d");
	refuse(BYTES(PROTO "ccollections\nOrderedDict"), M2_EFORMAT, "does not end");
	char endless[400];
	memset(endless, 'a', sizeof endless);
	memcpy(endless, PROTO "c", 3);
	endless[300] = '\n';
	refuse(endless, sizeof endless, M2_EFORMAT, "does not end within 256 bytes");
}

static void only_what_is_meant_to_be_called_is_called(void **state)
{
	(void)state;
	refuse(BYTES(PROTO "ctorch\nFloatStorage\n)R."), M2_EUNSUPPORTED, "FloatStorage is called");
	refuse(BYTES(PROTO "U\1x)R."), M2_EFORMAT, "a string is called");
	refuse(BYTES(PROTO TENSOR ")R."), M2_EFORMAT, "a tensor is called");
	refuse(BYTES(PROTO "ccollections\nOrderedDict\n]R."), M2_EFORMAT, "is a list, not a tuple");
	refuse(BYTES(PROTO "ccollections\nOrderedDict\n}\x85R."), M2_EFORMAT, "with 1 arguments");
	refuse(BYTES(PROTO REBUILD ")R."), M2_EFORMAT, "_rebuild_tensor_v2 with 0 arguments");
	refuse(BYTES(PROTO "ctorch._utils\n_rebuild_parameter\n" TENSOR "\x85R."), M2_EFORMAT,
		"_rebuild_parameter with 1 arguments");
	refuse(BYTES(PROTO "ctorch._utils\n_rebuild_parameter\n}\x88}\x87R."), M2_EFORMAT,
		"the tensor of a parameter is a dict");
	refuse(BYTES(PROTO TENSOR "}b."), M2_EFORMAT, "the object of BUILD is a tensor");
	refuse(BYTES(PROTO HOOKS "K\1b."), M2_EFORMAT, "the state of BUILD is an integer");
}

static void a_tensor_is_made_of_the_right_things(void **state)
{
	(void)state;
#define MADE(storage, offset, size, stride, rest)                                                  \
	BYTES(ROOT(REBUILD "(" storage offset size stride rest "tR"))
#define REST "\x89" HOOKS
	refuse(MADE("N", "K\0", ")", ")", REST), M2_EFORMAT, "the storage of a tensor is None");
	refuse(MADE(STORAGE, "N", ")", ")", REST), M2_EFORMAT, "the offset of a tensor is None");
	refuse(MADE(STORAGE, "J\xff\xff\xff\xff", ")", ")", REST), M2_EFORMAT, "is -1, a negative");
	refuse(MADE(STORAGE, "\x8a\1\x80", ")", ")", REST), M2_EFORMAT, "is -128, a negative");
	refuse(MADE(STORAGE, "K\0", "]", ")", REST), M2_EFORMAT, "the size of a tensor is a list");
	refuse(MADE(STORAGE, "K\0", "N\x85", ")", REST), M2_EFORMAT,
		"the size of a tensor is None");
	refuse(MADE(STORAGE, "K\0", "G\0\0\0\0\0\0\0\0\x85", ")", REST), M2_EFORMAT,
		"the size of a tensor is a number");
	refuse(MADE(STORAGE, "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85", REST), M2_EFORMAT,
		"the size of a tensor is -1");
	refuse(MADE(STORAGE, "K\0", "K\1\x85", "J\xff\xff\xff\xff\x85", REST), M2_EFORMAT,
		"the stride of a tensor is -1");
	refuse(MADE(STORAGE, "K\0", "K\1\x85", ")", REST), M2_EFORMAT, "1 dimensions with 0");
	refuse(MADE(STORAGE, "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", ")", REST), M2_EFORMAT,
		"has 9 numbers, more than 8");
	refuse(MADE(STORAGE, "K\0", ")", ")", "N" HOOKS), M2_EFORMAT, "requires_grad of a tensor");
	refuse(MADE(STORAGE, "K\0", ")", ")", "\x89N"), M2_EFORMAT, "hooks of a tensor is None");
	refuse(MADE(STORAGE, "K\0", ")", ")", REST "K\1"), M2_EFORMAT, "the metadata of a tensor");
	refuse(MADE(STORAGE, "\x8a\x09\1\1\1\1\1\1\1\1\1", ")", ")", REST), M2_EFORMAT,
		"an integer of 9 bytes");
}

static void a_storage_is_made_of_the_right_things(void **state)
{
	(void)state;
#define CLASS "ctorch\nFloatStorage\n"
	refuse(BYTES(PROTO "NQ."), M2_EFORMAT, "the id of a persistent object is None");
	refuse(BYTES(PROTO ")Q."), M2_EUNSUPPORTED, "a persistent object that is no storage");
	refuse(BYTES(PROTO "(U\6moduleNNNNtQ."), M2_EUNSUPPORTED, "no storage");
	refuse(BYTES(PROTO "(U\7storageNU\1"
			   "0U\3cpuK\1tQ."),
		M2_EFORMAT, "no storage class");
	refuse(BYTES(PROTO "(U\7storageccollections\nOrderedDict\nU\1"
			   "0U\3cpuK\1tQ."),
		M2_EFORMAT, "no storage class");
	refuse(BYTES(PROTO "(U\7storage" CLASS "K\0U\3cpuK\1tQ."), M2_EFORMAT, "the key of a stor");
	refuse(BYTES(PROTO "(U\7storage" CLASS "U\0U\3cpuK\1tQ."), M2_EFORMAT, "is no number");
	refuse(BYTES(PROTO "(U\7storage" CLASS "U\4../0U\3cpuK\1tQ."), M2_EFORMAT, "is no number");
	refuse(BYTES(PROTO "(U\7storage" CLASS "U\x14"
			   "01234567890123456789U\3cpuK\1tQ."),
		M2_EFORMAT, "is no number");
	refuse(BYTES(PROTO "(U\7storage" CLASS "U\1"
			   "0NK\1tQ."),
		M2_EFORMAT, "the device of a");
	refuse(BYTES(PROTO "(U\7storage" CLASS "U\1"
			   "0U\3cpuJ\xff\xff\xff\xfftQ."),
		M2_EFORMAT, "the number of elements of a storage is -1");
}

static void the_root_is_a_dict_of_tensors(void **state)
{
	(void)state;
	refuse(BYTES(PROTO "]."), M2_EFORMAT, "the pickle holds a list");
	refuse(BYTES(PROTO TENSOR "."), M2_EFORMAT, "the pickle holds a tensor");
	refuse(BYTES(PROTO "ccollections\nOrderedDict\n."), M2_EFORMAT, "a class or function");
	refuse(BYTES(ROOT("N")), M2_EUNSUPPORTED, "\"w\" is None, not a tensor");
	refuse(BYTES(ROOT("K\1")), M2_EUNSUPPORTED, "\"w\" is an integer, not a tensor");
	refuse(BYTES(ROOT(STORAGE)), M2_EUNSUPPORTED, "\"w\" is a storage, not a tensor");
	refuse(BYTES(PROTO "}(U\nstate_dict}u."), M2_EUNSUPPORTED, "\"state_dict\" is a dict");
	refuse(BYTES(PROTO "}(K\1" TENSOR "u."), M2_EFORMAT, "a key of the root is an integer");
	refuse(BYTES(PROTO "}(U\0" TENSOR "u."), M2_EFORMAT, "a tensor's name of 0 bytes");
	refuse(BYTES(PROTO "}(U\2a\n" TENSOR "u."), M2_EFORMAT, "control characters");
	refuse(BYTES(PROTO "}(U\2a\0" TENSOR "u."), M2_EFORMAT, "control characters");
	refuse(BYTES(PROTO "}(U\2\xc3(" TENSOR "u."), M2_EFORMAT, "no UTF-8");
	struct bytes b = {.n = 0};
	char name[514];
	memset(name, 'n', 513);
	name[513] = '\0';
	begin_dict(&b);
	put_string(&b, name);
	put(&b, BYTES(TENSOR));
	end_dict(&b);
	refuse(b.at, b.n, M2_EFORMAT, "a tensor's name of 513 bytes");
	free(b.at);
}

static void the_stack_and_the_memo_have_an_order(void **state)
{
	(void)state;
	refuse(BYTES(""), M2_EFORMAT, "byte 0: the pickle ends without STOP");
	refuse(BYTES("}."), M2_EFORMAT, "byte 0: the pickle begins with 0x7d");
	refuse(BYTES("\x80\x04}."), M2_EUNSUPPORTED, "pickle protocol 4");
	refuse(BYTES("\x80\x00}."), M2_EUNSUPPORTED, "pickle protocol 0");
	refuse(BYTES(PROTO PROTO "}."), M2_EFORMAT, "byte 2: PROTO is not the first");
	refuse(BYTES(PROTO "}.}"), M2_EFORMAT, "1 bytes follow STOP");
	refuse(BYTES(PROTO "."), M2_EFORMAT, "0 values are on the stack at STOP");
	refuse(BYTES(PROTO "}}."), M2_EFORMAT, "2 values are on the stack at STOP");
	refuse(BYTES(PROTO "(."), M2_EFORMAT, "on the stack at STOP");
	refuse(BYTES(PROTO "}u."), M2_EFORMAT, "byte 3: there is no mark");
	refuse(BYTES(PROTO "t."), M2_EFORMAT, "there is no mark");
	refuse(BYTES(PROTO "s."), M2_EFORMAT, "there is no value");
	refuse(BYTES(PROTO "N(\x86."), M2_EFORMAT, "there is no value");
	refuse(BYTES(PROTO "(}R."), M2_EFORMAT, "there is no value");
	refuse(BYTES(PROTO "(u."), M2_EFORMAT, "there is no value");
	refuse(BYTES(PROTO "}(Nu."), M2_EFORMAT, "a key without a value");
	refuse(BYTES(PROTO "](NNu."), M2_EFORMAT, "a key is put into a list");
	refuse(BYTES(PROTO "}Na."), M2_EFORMAT, "an item is put into a dict");
	refuse(BYTES(PROTO "}h\0."), M2_EFORMAT, "memo entry 0 is read, there are 0");
	refuse(BYTES(PROTO "}j\xff\xff\xff\xff."), M2_EFORMAT, "memo entry 4294967295 is read");
	refuse(BYTES(PROTO "}q\1."), M2_EFORMAT, "memo entry 1 is written, the next free one is 0");
	refuse(BYTES(PROTO "}q\0q\0."), M2_EFORMAT, "memo entry 0 is written");
	refuse(BYTES(PROTO "}r\xff\xff\xff\x7f."), M2_EFORMAT, "memo entry 2147483647 is written");
	refuse(BYTES(PROTO "q\0."), M2_EFORMAT, "there is no value");
	refuse(BYTES(PROTO "(q\0."), M2_EFORMAT, "there is no value");
}

static void a_pickle_that_is_cut_anywhere_is_refused(void **state)
{
	static const char whole[] =
		PROTO HOOKS "q\0(X\1\0\0\0w" TENSOR "U\1v" TENSOR "u}U\1mG\0\0\0\0\0\0\0\0sb.";
	struct m2_pickle p;
	struct m2_why why;
	(void)state;
	accept_and_forget(BYTES(whole), 2);
	for (size_t n = 0; n < sizeof whole - 1; n++) {
		assert_int_equal(read_pickle(whole, n, &p, &why), M2_EFORMAT);
		assert_null(p.tensors);
	}
}

/* count times the same bytes behind the beginning of a pickle */
static void refuse_repeated(
	const char *piece, size_t length, size_t count, enum m2_err wanted, const char *word)
{
	struct bytes b = {.n = 0};
	put(&b, BYTES(PROTO "}"));
	for (size_t i = 0; i < count; i++)
		put(&b, piece, length);
	refuse(b.at, b.n, wanted, word);
	free(b.at);
}

static void what_a_pickle_can_pile_up_is_bounded(void **state)
{
	(void)state;
	refuse_repeated(
		BYTES("N"), 5000, M2_ELIMIT, "byte 4098: more than 4096 values on the stack");
	refuse_repeated(BYTES("("), 100, M2_ELIMIT, "byte 67: more than 64 marks");
	refuse(BYTES(PROTO "X\0\0\x20\0"), M2_ELIMIT, "a string of 2097152 bytes");
	refuse(BYTES(PROTO "X\xff\xff\xff\xff"), M2_ELIMIT, "a string of 4294967295 bytes");
	struct bytes b = {.n = 0};
	put(&b, BYTES(PROTO "}"));
	for (size_t i = 0; i <= 1000000; i++) {
		put(&b, "r", 1);
		put_number(&b, 4, i);
	}
	refuse(b.at, b.n, M2_ELIMIT, "more than 1000000 memo entries");
	free(b.at);
}

/* Python would follow these for ever, or build a structure of 2^60 parts. */
static void values_in_values_cost_nothing(void **state)
{
	struct bytes b = {.n = 0};
	(void)state;
	refuse(BYTES(PROTO "}q\0U\1xh\0s."), M2_EUNSUPPORTED, "\"x\" is a dict, not a tensor");
	put(&b, BYTES(PROTO "}U\1x)"));
	for (size_t i = 0; i < 100000; i++)
		put(&b, "\x85", 1);
	put(&b, "s.", 2);
	refuse(b.at, b.n, M2_EUNSUPPORTED, "\"x\" is a tuple");
	b.n = 0;
	put(&b, BYTES(PROTO "}U\1x)q\0"));
	for (unsigned char i = 0; i < 60; i++) {
		put(&b, "h", 1);
		put_number(&b, 1, i);
		put(&b, "\x86q", 2);
		put_number(&b, 1, i + 1u);
	}
	put(&b, "s.", 2);
	refuse(b.at, b.n, M2_EUNSUPPORTED, "\"x\" is a tuple");
	free(b.at);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_state_dict_is_described),
		cmocka_unit_test(the_forms_that_torch_writes_are_read),
		cmocka_unit_test(integer_storages_have_no_type_that_a_weight_can_have),
		cmocka_unit_test(every_other_opcode_is_refused_by_name_and_place),
		cmocka_unit_test(every_other_global_is_refused_by_name),
		cmocka_unit_test(only_what_is_meant_to_be_called_is_called),
		cmocka_unit_test(a_tensor_is_made_of_the_right_things),
		cmocka_unit_test(a_storage_is_made_of_the_right_things),
		cmocka_unit_test(the_root_is_a_dict_of_tensors),
		cmocka_unit_test(the_stack_and_the_memo_have_an_order),
		cmocka_unit_test(a_pickle_that_is_cut_anywhere_is_refused),
		cmocka_unit_test(what_a_pickle_can_pile_up_is_bounded),
		cmocka_unit_test(values_in_values_cost_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
