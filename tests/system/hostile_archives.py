"""Files made to hurt, continued: zips, the pickles in them, and GGUF."""
import os
import struct
import zlib

import formats
import hostile
import models
import vocabularies
from formats import Entry, gguf_info, gguf_key, gguf_string, zip_of
from hostile import CONFIG, SHAPE, WEIGHTS, add, as_bytes

# ---- zips ---------------------------------------------------------------------------------------

PICKLED, STORED = formats.state_dict_pickle(WEIGHTS)
BIN = "pytorch_model.bin"


def entries():
    return formats.torch_entries(PICKLED, STORED, "archive")


def write_bin(data):
    def write(directory):
        models.write_config(directory, CONFIG)
        (directory / BIN).write_bytes(as_bytes(data))
    return write


def archive(name, word, data, named=BIN):
    add("zip: " + name, word, named, write_bin(data))


def bent(name, word, named=BIN, at=0, **lies):
    """One entry lies; the first is data.pkl, the last but six a storage."""
    some = entries()
    e = some[at]
    some[at] = Entry(e.name, lies.pop("data", e.data), **lies)
    archive(name, word, zip_of(some), named)


def ended(name, word, **lies):
    archive(name, word, zip_of(entries(), **lies))


def with_entry(name, word, entry, named=BIN):
    archive(name, word, zip_of(entries() + [entry]), named)


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


GOOD_ZIP = zip_of(entries())
archive("empty", "no zip", b"")
archive("a web page", "no zip", b"<!DOCTYPE html><html><body>404</body></html>")
archive("a pointer of Git LFS", "Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
archive("a bare pickle of old torch", "before version 1.6", bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + b".")
archive("a tar of older torch", "tar", b"x" * 257 + b"ustar\0" + b"\0" * 300)
archive("cut short", "end record", GOOD_ZIP[:-10])
archive("cut in half", "end record", GOOD_ZIP[:len(GOOD_ZIP) // 2])
archive("only an end record", "PyTorch", formats.end_records(0, 0, 0, zip64=False))
archive("bytes behind the end", "end record", GOOD_ZIP + b"\0")
ended("a comment", "end record", comment=b"hello")
ended("an end record in the comment", "end record",
      comment=formats.end_records(0, 0, 0, zip64=False))
archive("a second archive behind it", "second end record", GOOD_ZIP + GOOD_ZIP)
ended("another disk", "disk", disk=1)
ended("two disks in the locator", "disk", disks=2)
ended("another disk without zip64", "disk", disk=1, zip64=False)
ended("more entries than there are", "entry", count64=40)
ended("2^63 entries", "entries", count64=1 << 63)
ended("fewer entries than there are", "directory", count64=3)
ended("a directory of 2^62 bytes", "directory", size64=1 << 62)
ended("a directory before the file", "directory", begin64=(1 << 64) - 64)
ended("a locator beyond the file", "zip64", locator=1 << 40)
ended("a locator into the data", "zip64", locator=64)
ended("a zip64 record of another size", "zip64", record=1 << 60)
ended("a directory elsewhere, without zip64", "directory", zip64=False, move=32)
bent("encrypted", "encrypted", flags=0x0809)
bent("encrypted in part", "encrypted", flags=0x0808 | 0x2000)
bent("a bomb: a gigabyte of zeros deflated", "compressed", data=deflated(b"\0" * (1 << 20)) * 1024, method=8,
     size=1 << 30)
bent("another method", "method", method=93)
bent("another name in front of the data", "another name", local_name=b"archive/data.pk1")
bent("a longer name in front of the data", "another name", local_name=b"archive/data.pkl.py")
bent("data beyond the file", "beyond", at=2, size=1 << 30)
bent("data of 2^32-2 bytes", "beyond", at=2, size=(1 << 32) - 2)
bent("sizes that differ", "bytes", at=2, packed=7)
bent("sizes for zip64 without the field", "extra", at=2, size=0xFFFFFFFF)
bent("a zip64 field of 2^63 bytes", "beyond", at=2, size=0xFFFFFFFF,
     extra=struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63))
bent("a zip64 field cut short", "extra", at=2, size=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 16, 16)[:10])
bent("a header that is not where it should be", "local header", at=2, move=7)
bent("a header beyond the file", "outside", at=2, move=1 << 30)
bent("a disk of its own", "extra", at=2, disk=3)
bent("a wrong checksum of the pickle", "CRC", crc=0x12345678)
with_entry("one name twice", "same name", Entry("archive/version", b"3\n"))
with_entry("two pickles", "more than one", Entry("archive/a/data.pkl", PICKLED))
with_entry("a second directory", "does not lie in", Entry("other/data/0", b"\0" * 64))
for path in (b"archive/../../etc/passwd", b"/etc/passwd", b"archive//x", b"archive/..", b"archive/./x",
             b"archive\\..\\x", b"archive/a\0b", b"archive/\033[2J", b"archive/\xff"):
    with_entry(f"an entry called {path!r}", "plain", Entry(path, b"x"))
with_entry("a name of 2,000 bytes", "plain", Entry(b"archive/" + b"x" * 2000, b"x"))
some = entries()
some[2] = Entry("archive/data/0", formats.local_header(Entry("archive/data/77", b""), 64) + bytes(4096))
archive("an entry in the data of another", "overlaps",
        zip_of(some + [Entry("archive/data/77", b"\0" * 64, inside=(2, 0))]))
archive("no pickle", "PyTorch", zip_of(entries()[1:]))
archive("entries in no directory", "PyTorch", zip_of([Entry("data.pkl", PICKLED)]))
archive("a pickle of 20 MiB", "more than", lambda: zip_of(formats.torch_entries(PICKLED + bytes(20 << 20), STORED)))
some = entries()
some[1] = Entry("archive/byteorder", b"big")
archive("saved on a big-endian machine", "byte", zip_of(some))
some[1] = Entry("archive/byteorder", b"little" * 100)
archive("a byte order of 600 letters", "byteorder", zip_of(some))
archive("twenty thousand storages that nobody names, and too few of the others", "storage",
        lambda: zip_of(formats.torch_entries(PICKLED, STORED[:3] + [b""] * 20000)))
add("zip: a hole of 8 GiB in front of the end", "end record", BIN,
    lambda p: (write_bin(GOOD_ZIP)(p), os.truncate(p / BIN, 8 << 30))[0])

# ---- pickles ------------------------------------------------------------------------------------


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return b"X" + struct.pack("<I", len(s)) + s


def number(n):
    return b"\x8a\x08" + struct.pack("<q", n) if -(1 << 63) <= n < 1 << 63 else b"\x8a\x09" + n.to_bytes(9, "little")


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def dims(*numbers):
    return b"(" + b"".join(number(n) for n in numbers) + b"t"


ORDERED = name("collections", "OrderedDict") + b")R"


def storage(kind="HalfStorage", key="0", numel=4480, tag="storage"):
    return b"(" + text(tag) + name("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"


def rebuilt(store=None, offset=0, size=(280, 16), stride=(16, 1), grad=b"\x89", hooks=ORDERED, more=b""):
    return (name("torch._utils", "_rebuild_tensor_v2") + b"(" + (storage() if store is None else store) +
            number(offset) + dims(*size) + dims(*stride) + grad + hooks + more + b"tR")


EMBEDDING = "backbone.embeddings.weight"


def pickled(title, word, opcodes, named=BIN, start=b"\x80\x02"):
    add("pickle: " + title, word, named,
        write_bin(lambda: zip_of(formats.torch_entries(start + as_bytes(opcodes), STORED))))


def one(title, word, value, named=BIN):
    """A dict of one name."""
    pickled(title, word, b"}" + text(EMBEDDING) + value + b"s.", named)


for module, attribute in (("os", "system"), ("posix", "system"), ("builtins", "eval"), ("__builtin__", "exec"),
                          ("subprocess", "Popen"), ("torch", "load"), ("torch.storage", "_load_from_bytes"),
                          ("torch._utils", "_rebuild_tensor"), ("numpy.core.multiarray", "_reconstruct"),
                          ("argparse", "Namespace"), ("collections", "OrderedDict.fromkeys"), ("torch", "QInt8Storage"),
                          ("torch.nn.modules.linear", "Linear"), ("megatron.core.enums", "ModelType")):
    pickled(f"{module}.{attribute}", f"{module}.{attribute}", name(module, attribute) + text("id") + b"\x85R.",
            "data.pkl")
pickled("a global with a line break too many", "global", b"cos\n\nsystem\n.", "data.pkl")
pickled("a global that paints the screen", "global", b"c\033[2J\nx\n.", "data.pkl")
pickled("a global of a megabyte", "global", b"c" + b"x" * (1 << 20) + b"\ny\n.", "data.pkl")
for opcode, spelt in ((b"(ios\nsystem\n.", "INST"), (b"(" + ORDERED + b"o.", "OBJ"), (ORDERED + b")\x81.", "NEWOBJ"),
                      (text("os") + text("system") + b"\x93.", "STACK_GLOBAL"), (b"\x82\1.", "EXT1"),
                      (b"\x83\1\0.", "EXT2"),
                      (b"\x84\1\0\0\0.", "EXT4"), (b"N2.", "DUP"), (b"N0.", "POP"), (b"(1.", "POP_MARK"),
                      (b"\x95" + bytes(8) + b".", "FRAME"), (b"\x8c\1a.", "SHORT_BINUNICODE"), (b"}\x94.", "MEMOIZE"),
                      (b"B\xff\xff\xff\x7f.", "BINBYTES"), (b"\x8b\xff\xff\xff\x7f.", "LONG4"), (b"I1\n.", "INT"),
                      (b"Vx\n.", "UNICODE"), (b"Px\n.", "PERSID"), (b"\x8f.", "EMPTY_SET"), (b"(\x92.", "NEWOBJ_EX"),
                      (b"\x96" + bytes(8) + b".", "BYTEARRAY8")):
    pickled("the opcode " + spelt, spelt, opcode, "data.pkl")
pickled("no opcode at all", "0xff", b"\xff.", "data.pkl")
pickled("protocol 4", "protocol 4", b"\x95" + bytes(8) + b"}.", "data.pkl", b"\x80\x04")
pickled("protocol 0", "PROTO", b"(dp0\n.", "data.pkl", b"")
pickled("protocol 255", "protocol 255", b"}.", "data.pkl", b"\x80\xff")
pickled("a second PROTO", "PROTO", b"\x80\x02}.", "data.pkl")
pickled("nothing", "PROTO", b"", "data.pkl", b"\0")
pickled("no end", "STOP", b"}", "data.pkl")
pickled("an end too early", "follow STOP", b"}.}.", "data.pkl")
pickled("nothing on the stack", "values", b".", "data.pkl")
pickled("two values", "values", b"}}.", "data.pkl")
pickled("a mark left over", "values", b"(}.", "data.pkl")
for code, spelt in ((b"R", "REDUCE"), (b"b", "BUILD"), (b"s", "SETITEM"), (b"a", "APPEND"), (b"\x85", "TUPLE1"),
                    (b"\x87", "TUPLE3"), (b"Q", "BINPERSID"), (b"q\0", "BINPUT")):
    pickled(f"{spelt} on an empty stack", "stack", code + b".", "data.pkl")
pickled("SETITEMS without a mark", "mark", b"}u.", "data.pkl")
pickled("TUPLE without a mark", "mark", b"Nt.", "data.pkl")
pickled("a value across a mark", "stack", b"N(\x86.", "data.pkl")
pickled("a million marks", "marks", b"(" * 1000000 + b".", "data.pkl")
pickled("a million values", "stack", b"N" * 1000000 + b".", "data.pkl")
pickled("three million items", "items", lambda: (b"(" + b"N" * 3000 + b"t") * 900 + b".", "data.pkl")
pickled("a list in itself", "a list", b"]q\0h\0a.")
pickled("a dict in itself", "a dict", b"}q\0" + text("a") + b"h\0s.")
pickled("a tuple of tuples, doubled sixty times", "a tuple",
        b"}" + text("a") + b")q\0" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60)) + b"s.",
        "data.pkl")
pickled("a memo read before it is written", "memo", b"h\0.", "data.pkl")
pickled("memo entry 2^32-1 read", "memo", b"j\xff\xff\xff\xff.", "data.pkl")
pickled("memo entry 2^32-1 written", "memo", b"}r\xff\xff\xff\xff.", "data.pkl")
pickled("memo entries out of order", "memo", b"}q\5.", "data.pkl")
pickled("a million memo entries", "memo", lambda: b"}" +
        b"".join(b"r" + struct.pack("<I", i) for i in range(1000001)) + b".",
        "data.pkl")
pickled("a string of 4 GiB", "string", b"X\xff\xff\xff\xff" + b"x" * 100, "data.pkl")
pickled("a string of 2 MiB", "string", text("x" * (2 << 20)) + b".", "data.pkl")
pickled("a string beyond the pickle", "ends inside", b"X\0\1\0\0x", "data.pkl")
pickled("a string that is no UTF-8", "UTF-8", text(b"\xff\xfe") + b".", "data.pkl")
pickled("an integer of 255 bytes", "integer", b"\x8a\xff" + bytes(255) + b".", "data.pkl")
pickled("a list for a root", "list", b"].")
pickled("a tensor for a root", "tensor", rebuilt() + b".")
pickled("integers for names", "a key", b"}" + number(1) + rebuilt() + b"s.", "data.pkl")
pickled("a name with a line break", "control", b"}" + text("a\nb") + rebuilt() + b"s.", "data.pkl")
pickled("a name of 100,000 bytes", "name", b"}" + text("x" * 100000) + rebuilt() + b"s.", "data.pkl")
pickled("an empty name", "name", b"}" + text("") + rebuilt() + b"s.", "data.pkl")
pickled("one name twice", "twice", b"}" + (text(EMBEDDING) + rebuilt() + b"s") * 2 + b".", EMBEDDING)
pickled("an empty dict", "missing", b"}.", EMBEDDING.replace("embeddings", "embedding")[:18])
one("a string for a tensor", "a string", text("x"), EMBEDDING)
one("a dict of tensors in the dict", "a dict", b"}" + text("a") + rebuilt() + b"s", EMBEDDING)
one("a storage class that is called", "HalfStorage", name("torch", "HalfStorage") + b")R", "data.pkl")
one("a tensor that is called", "called", rebuilt() + b")R", "data.pkl")
one("an OrderedDict of arguments", "OrderedDict", name("collections", "OrderedDict") + b"]\x85R", "data.pkl")
one("too few arguments", "arguments", name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"tR", "data.pkl")
one("a storage that is a string", "storage", rebuilt(text("0")), "data.pkl")
one("a storage of no class", "storage", b"(" + text("storage") + text("HalfStorage") + text("0") + text("cpu") +
    number(1) + b"tQ", "data.pkl")
one("a persistent object that is no storage", "persistent", storage(tag="module"), "data.pkl")
one("a persistent string", "persistent", text("storage") + b"Q", "data.pkl")
one("a key that is a path", "key", rebuilt(storage(key="../../../etc/passwd")), "data.pkl")
one("a key of 100 digits", "key", rebuilt(storage(key="0" * 100)), "data.pkl")
one("a storage that is not there", "not there", rebuilt(storage(key="99")), EMBEDDING)
one("a storage longer than its entry", "bytes", rebuilt(storage(numel=4481)), EMBEDDING)
one("a storage of 2^62 elements", "bytes", rebuilt(storage(numel=1 << 62)), EMBEDDING)
one("a negative number of elements", "negative", rebuilt(storage(numel=-1)), "data.pkl")
one("a wider type than its entry", "bytes", rebuilt(storage("DoubleStorage")), EMBEDDING)
one("a tensor beyond its storage", "elements", rebuilt(offset=1), EMBEDDING)
one("an offset of 2^63-1", "elements", rebuilt(offset=(1 << 63) - 1), EMBEDDING)
one("a negative offset", "negative", rebuilt(offset=-8), "data.pkl")
one("a negative size", "negative", rebuilt(size=(-280, -16)), "data.pkl")
one("sizes whose product overflows", "overflows", rebuilt(size=(1 << 40, 1 << 40)), EMBEDDING)
one("a negative stride", "negative", rebuilt(stride=(-16, 1)), "data.pkl")
one("a stride of zero: a terabyte of one element", "row-major", rebuilt(size=(1 << 40, 1), stride=(0, 0)), EMBEDDING)
one("columns first", "row-major", rebuilt(stride=(1, 280)), EMBEDDING)
one("strides that overflow", "row-major", rebuilt(stride=((1 << 63) - 1, 1)), EMBEDDING)
one("more strides than sizes", "dimensions", rebuilt(stride=(16, 1, 1)), "data.pkl")
one("nine dimensions", "more than 8", rebuilt(size=(1,) * 9, stride=(1,) * 9), "data.pkl")
one("a size of words", "size", rebuilt().replace(dims(280, 16), b"(" + text("a") + text("b") + b"t"), "data.pkl")
one("hooks that are a list", "hooks", rebuilt(hooks=b"]"), "data.pkl")
one("requires_grad that is a global", "requires_grad", rebuilt(grad=name("torch", "HalfStorage")), "data.pkl")
pickled("one storage of two types", "described twice", b"}" + text(EMBEDDING) + rebuilt() + b"s" + text("x") +
        rebuilt(storage("ShortStorage")) + b"s.")
pickled("BUILD of a tensor", "BUILD", rebuilt() + b"}b.", "data.pkl")
pickled("a state that is a global", "BUILD", ORDERED + name("torch", "HalfStorage") + b"b.", "data.pkl")

# ---- GGUF ---------------------------------------------------------------------------------------

KEYS = models.gguf_keys(SHAPE)
TENSORS = models.gguf_tensors(SHAPE, models.random_weights(SHAPE), "F16")
TOKENS = models.gguf_neox(SHAPE.rows)
GGUF = "model.gguf"


def write_gguf(data):
    return lambda directory: (directory / GGUF).write_bytes(as_bytes(data)) and None


def gguf(title, word, data, named=GGUF):
    add("GGUF: " + title, word, named, write_gguf(data))


def keyed(title, word, name, form=None, value=None):
    """One key says something else; without a form: it is not there."""
    keys = [k for k in KEYS if k[0] != name] + ([(name, form, value)] if form else [])
    gguf(title, word, formats.gguf(keys, TENSORS), name)


def raw_keys(title, word, raw, named=GGUF):
    gguf(title, word, formats.gguf_raw([gguf_key(*k) for k in KEYS[:1]] + raw, [], b""), named)


def infos(title, word, raw, named=GGUF, data=b"\0" * 4096, **lies):
    gguf(title, word, formats.gguf_raw([gguf_key(*k) for k in KEYS], raw, data, **lies), named)


def vocabulary(title, word, name, form=None, value=None, of=TOKENS, named=None):
    """The same of a key of the tokenizer."""
    name = "tokenizer.ggml." + name
    keys = [k for k in of if k[0] != name] + ([(name, form, value)] if form else [])
    gguf(title, word, formats.gguf(KEYS + keys, TENSORS), named or name)


GOOD_GGUF = formats.gguf(KEYS + TOKENS, TENSORS)
gguf("empty", "cut short", b"")
gguf("another magic", "not a GGUF file", b"GGML" + GOOD_GGUF[4:])
gguf("version 1", "version 1", GOOD_GGUF[:4] + b"\1\0\0\0" + GOOD_GGUF[8:])
gguf("version 4", "version 4", GOOD_GGUF[:4] + b"\4\0\0\0" + GOOD_GGUF[8:])
gguf("big-endian", "big-endian", b"GGUF\0\0\0\3" + bytes(7) + b"\1" + bytes(8))
gguf("cut in its keys", "cut short", GOOD_GGUF[:300])
gguf("cut in its tensors", "cut short", GOOD_GGUF[:-5000])
gguf("2^64-1 tensors", "tensors", GOOD_GGUF[:8] + b"\xff" * 8 + GOOD_GGUF[16:])
gguf("2^64-1 keys", "keys", GOOD_GGUF[:16] + b"\xff" * 8 + GOOD_GGUF[24:])
raw_keys("a key of 2^60 bytes", "bytes", [struct.pack("<Q", 1 << 60) + b"x"])
raw_keys("a string of 2^63 bytes", "bytes", [gguf_string("x") + struct.pack("<IQ", 8, 1 << 63)])
raw_keys("an array of 2^62 numbers", "overflows", [gguf_string("x") + struct.pack("<IIQ", 9, 4, 1 << 62)])
raw_keys("an array of 2^62 strings", "overflows", [gguf_string("x") + struct.pack("<IIQ", 9, 8, 1 << 62)])
raw_keys("arrays in arrays", "array", [gguf_string("x") + struct.pack("<IIQ", 9, 9, 1) +
                                       struct.pack("<IQ", 9, 1) * 10000])
raw_keys("a value of type 13", "type", [gguf_string("x") + struct.pack("<II", 13, 0)])
raw_keys("an array of type 99", "type", [gguf_string("x") + struct.pack("<IIQ", 9, 99, 1) + b"\0" * 8])
raw_keys("one key twice", "twice", [gguf_key("x", "u32", 1), gguf_key("x", "u32", 2)], "x")
raw_keys("an empty key", "key", [gguf_key("", "u32", 1)])
raw_keys("a key that paints the screen", "key", [gguf_key("\033[2J", "u32", 1)])
raw_keys("a truth value of 7", "bool", [gguf_string("x") + struct.pack("<IB", 7, 7)])
keyed("no architecture", "lacks", "general.architecture")
keyed("a number for an architecture", "not a string", "general.architecture", "u32", 2)
keyed("another architecture", "Jamba", "general.architecture", "string", "jamba")
keyed("an architecture that paints the screen", "not \"mamba2\"", "general.architecture", "string", "\033[2J")
keyed("no width", "lacks", "mamba2.embedding_length")
keyed("a width of 2^32-1", "outside", "mamba2.embedding_length", "u32", (1 << 32) - 1)
keyed("a width in words", "not an integer", "mamba2.embedding_length", "string", "16")
keyed("no heads", "outside", "mamba2.ssm.time_step_rank", "u32", 0)
keyed("groups that do not divide", "divide", "mamba2.ssm.group_count", "u32", 3)
keyed("an epsilon that is no number", "finite", "mamba2.attention.layer_norm_rms_epsilon", "f32", float("nan"))
keyed("attention heads", "attention", "mamba2.attention.head_count", "u32", 32)
keyed("attention heads in some layers", "attention", "mamba2.attention.head_count", "u32", [0, 32])
keyed("MLP blocks", "MLP", "mamba2.feed_forward_length", "u32", 64)
keyed("an alignment of zero", "outside", "general.alignment", "u32", 0)
keyed("an alignment of 48", "power of two", "general.alignment", "u32", 48)
keyed("an alignment of 2^31", "outside", "general.alignment", "u32", 1 << 31)
keyed("a part of several", "parts", "split.count", "u16", 2)
HALF = [gguf_info("token_embd.weight", (8, 16), 1, 0)]
infos("five dimensions", "dimensions", [gguf_info("token_embd.weight", (1, 1, 1, 8, 16), 1, 0)], "token_embd.weight")
infos("no dimensions", "dimensions", [gguf_info("token_embd.weight", (), 1, 0)], "token_embd.weight")
infos("2^32-1 dimensions", "dimensions", [gguf_string("token_embd.weight") + b"\xff" * 4], "token_embd.weight")
infos("a dimension of zero", "dimension", [gguf_info("token_embd.weight", (0, 16), 1, 0)], "token_embd.weight")
infos("sizes whose product overflows", "overflows", [gguf_info("token_embd.weight", (1 << 40, 1 << 40), 1, 0)],
      "token_embd.weight")
infos("an unknown type", "type 77", [gguf_info("token_embd.weight", (8, 16), 77, 0)], "token_embd.weight")
infos("a withdrawn type", "withdrawn", [gguf_info("token_embd.weight", (8, 16), 4, 0)], "token_embd.weight")
infos("a quantised type", "Q4_K", [gguf_info("token_embd.weight", (8, 256), 12, 0)])
infos("half a block", "multiple", [gguf_info("token_embd.weight", (8, 100), 12, 0)], "token_embd.weight")
infos("overlap", "begins at", HALF + [gguf_info("output_norm.weight", (16,), 0, 32)], "output_norm.weight")
infos("a hole", "begins at", HALF + [gguf_info("output_norm.weight", (16,), 0, 1024)], "output_norm.weight")
infos("an offset of 2^64-32", "begins at", HALF + [gguf_info("output_norm.weight", (16,), 0, (1 << 64) - 32)],
      "output_norm.weight")
infos("data beyond the file", "cut short", [gguf_info("token_embd.weight", (1 << 20, 1 << 20), 1, 0)])
infos("one tensor twice", "twice", HALF + [gguf_info("token_embd.weight", (8, 16), 1, 256)])
infos("another format's name", "another format", [gguf_info("backbone.embedding.weight", (8, 16), 1, 0)])
infos("a name of 65 bytes", "name", [gguf_info("x" * 65, (8, 16), 1, 0)])
infos("a name of 2^63 bytes", "name", [struct.pack("<Q", 1 << 63)])
infos("a name that paints the screen", "control", [gguf_info("\033[2J", (8, 16), 1, 0)])
infos("a tensor of no model", "Mamba-2", HALF + [gguf_info("blk.0.attn_q.weight", (16, 16), 1, 256)],
      "blk.0.attn_q.weight")
infos("no tensors", "token_embd", [])
vocabulary("an unknown tokenizer", "bert", "model", "string", "bert")
vocabulary("an unknown pre-tokenizer", "llama3", "pre", "string", "llama3")
vocabulary("numbers for tokens", "strings", "tokens", "u32", [1] * 280)
vocabulary("tokens that are no UTF-8", "UTF-8", "tokens", "string", [b"\xff\xfe"] * 280, named=GGUF)
vocabulary("one token 280 times", "as another is", "tokens", "string", ["a"] * 280, named=GGUF)
vocabulary("fewer types than tokens", "7", "token_type", "i32", [1] * 7)
vocabulary("a type of 1000", "1000", "token_type", "i32", [1000] * 280)
vocabulary("no merges", "lacks", "merges")
vocabulary("a merge to nowhere", "merge", "merges", "string", ["a zzz"], named=GGUF)
vocabulary("a merge of one", "merge", "merges", "string", ["a"], named=GGUF)
vocabulary("an end beyond the tokens", "tokens", "eos_token_id", "u32", 1 << 31)
LLAMA = models.gguf_mistral(vocabularies.mistral_pieces()[:280])
vocabulary("scores that are no numbers", "score", "scores", "f32", [float("nan")] * 280, LLAMA, GGUF)
vocabulary("fewer scores than tokens", "1", "scores", "f32", [1.0], LLAMA)
add("GGUF: two in one directory", "more than one GGUF", "a.gguf",
    lambda p: ((p / "a.gguf").write_bytes(GOOD_GGUF), (p / "b.gguf").write_bytes(GOOD_GGUF)) and None)
add("GGUF: a hole of 8 GiB in front of nothing", "GGUF", GGUF,
    lambda p: ((p / GGUF).touch(), os.truncate(p / GGUF, 8 << 30)) and None)

hostile.CONTROLS += [
    hostile.Hostile("a good zip", "", "", write_bin(GOOD_ZIP)),
    hostile.Hostile("a good GGUF", "", "", write_gguf(GOOD_GGUF)),
    hostile.Hostile("a GGUF without a tokenizer", "", "", write_gguf(formats.gguf(KEYS, TENSORS)))]
