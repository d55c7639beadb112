"""Writers of the files that checkpoints are published in, for tests that make them small, or wrong.

safetensors, the zips of torch.save and GGUF, each exactly as the program that defines the format writes it; tokenizers
are in vocabularies.py.  A torch.save is made by Python's own pickler with classes of torch's names, so that its opcodes
are those of a real file; no torch is needed.  Writers take Tensors, which are bytes with a dtype and a shape: numpy
knows no bfloat16.  Nothing here reads files, and nothing checks what it is told to write: hostile.py lies on purpose.
"""
import collections
import ctypes
import io
import json
import pickle
import struct
import sys
import types
import zlib

import numpy

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


class Tensor:
    """dtype in safetensors' words, shape slowest first, data little-endian."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, tuple(shape), data


def tensor(array, dtype="F32"):
    """An array, rounded to dtype (to nearest, ties to even)."""
    array = numpy.ascontiguousarray(array)
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4").astype("u8")
        data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    else:
        data = array.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}[dtype])
    return Tensor(dtype, array.shape, data.tobytes())


def values(t):
    """The numbers of a Tensor, as float32 or float64."""
    if t.dtype == "BF16":
        return (numpy.frombuffer(t.data, "<u2").astype("<u4") << 16).view("<f4").reshape(t.shape)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[t.dtype]
    return numpy.frombuffer(t.data, kind).astype("f8" if t.dtype == "F64" else "f4").reshape(t.shape)


# ---- safetensors --------------------------------------------------------------------------------


def safetensors_raw(header, data):
    """header: the JSON, as text or bytes."""
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + data


def safetensors(tensors, metadata=None):
    """As the reference serialiser: widest types first, then by name; the header padded with spaces to 8 bytes."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    order = sorted(tensors, key=lambda name: (-WIDTHS[tensors[name].dtype], name))
    for name in order:
        t = tensors[name]
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + len(t.data)]}
        at += len(t.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    return safetensors_raw(text + b" " * (-len(text) % 8), b"".join(tensors[name].data for name in order))


def read_safetensors(path):
    """name -> Tensor of a well-formed file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    return {name: Tensor(t["dtype"], t["shape"], raw[8 + length:][slice(*t["data_offsets"])])
            for name, t in header.items()}


def write_sharded(directory, tensors, count, stem, end, write):
    """count files <stem>-0000k-of-0000n.<end> and their index; write(tensors) gives the bytes of one."""
    names = list(tensors)
    size = -(-len(names) // count)
    where = {}
    for k in range(count):
        file = f"{stem}-{k + 1:05d}-of-{count:05d}.{end}"
        part = names[k * size:(k + 1) * size]
        (directory / file).write_bytes(write({name: tensors[name] for name in part}))
        where.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": sum(len(t.data) for t in tensors.values())},
             "weight_map": dict(sorted(where.items()))}
    (directory / f"{stem}.{end}.index.json").write_text(json.dumps(index, indent=2) + "\n")


# ---- zips ---------------------------------------------------------------------------------------


class Entry:
    """One entry of a zip.  Keywords bend what local header and directory say of it."""

    def __init__(self, name, data, **lies):
        self.name, self.data = name if isinstance(name, bytes) else name.encode(), data
        self.crc = lies.pop("crc", zlib.crc32(data))
        self.method = lies.pop("method", 0)
        self.flags = lies.pop("flags", 0x0808)  # sizes behind the data, names in UTF-8
        self.size = lies.pop("size", len(data))
        self.packed = lies.pop("packed", self.size)
        self.local_name = lies.pop("local_name", self.name)
        self.local_size = lies.pop("local_size", 0)
        self.extra = lies.pop("extra", b"")  # in the directory
        self.disk = lies.pop("disk", 0)
        self.move = lies.pop("move", 0)  # added to the place that the directory gives
        self.inside = lies.pop("inside", None)  # (index, offset): it lies in the data of an earlier entry
        assert not lies, lies


def local_header(e, at):
    """Data begins at a multiple of 64: an extra field of Zs makes up the difference, as torch does it."""
    padding = -(at + 30 + len(e.local_name) + 4) % 64
    crc = e.crc if e.local_size else 0
    return (struct.pack("<4s5H3I2H", b"PK\3\4", 0, e.flags, e.method, 0, 0, crc, e.local_size, e.local_size,
                        len(e.local_name), padding + 4) + e.local_name + b"FB" + struct.pack("<H", padding) +
            b"Z" * padding)


def directory_entry(e, at):
    return (struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, e.flags, e.method, 0, 0, e.crc, e.packed, e.size, len(e.name),
                        len(e.extra), 0, e.disk, 0, 0, at) + e.name + e.extra)


def end_records(count, begin, size, zip64=True, comment=b"", **lies):
    """torch always writes the zip64 records too, whatever the size."""
    at = begin + size
    records = b""
    if zip64:
        records = struct.pack("<4sQ2H2I4Q", b"PK\6\6", lies.get("record", 44), 0x031E, 0x002D, lies.get("disk", 0), 0,
                              lies.get("count64", count), lies.get("count64", count), lies.get("size64", size),
                              lies.get("begin64", begin))
        records += struct.pack("<4sIQI", b"PK\6\7", 0, lies.get("locator", at), lies.get("disks", 1))
    return records + struct.pack("<4s4H2IH", b"PK\5\6", lies.get("disk", 0), lies.get("disk", 0), count,
                                 lies.get("count", count), size, begin + lies.get("move", 0), len(comment)) + comment


def zip_of(entries, **lies):
    """The bytes of a zip; keywords: those of end_records."""
    out, directory, data = bytearray(), b"", []  # data: where each entry's begins
    for e in entries:
        at = len(out) if e.inside is None else data[e.inside[0]] + e.inside[1]
        header = local_header(e, at)
        data.append(at + len(header))
        directory += directory_entry(e, at + e.move)
        if e.inside is None:
            out += header + e.data
            if e.flags & 8:
                out += struct.pack("<4s3I", b"PK\7\10", e.crc, len(e.data), len(e.data))
    return bytes(out) + directory + end_records(len(entries), len(out), len(directory), **lies)


# ---- torch.save ---------------------------------------------------------------------------------

STORAGES = {"F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
            "I64": "LongStorage"}


class _Rebuilt:
    """Pickles as torch.Tensor does: _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)."""

    def __init__(self, function, storage, t):
        stride = [int(numpy.prod(t.shape[i + 1:], dtype="i8")) for i in range(len(t.shape))]
        self.reduced = (function, (storage, 0, t.shape, tuple(stride), False, collections.OrderedDict()))

    def __reduce_ex__(self, _protocol):
        return self.reduced


class _Storage:
    def __init__(self, kind, key, numel):
        self.facts = (kind, key, "cpu", numel)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", *obj.facts) if isinstance(obj, _Storage) else None


def _torch_modules():
    """Modules that only hold the names that a pickle imports."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise NotImplementedError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return {"torch": torch, "torch._utils": utils}


def state_dict_pickle(tensors):
    """The pickle of a module's state_dict(), and the storages in the order of their keys.  A Tensor under two names is
    one storage, as a tied head is."""
    modules, storages, by_tensor = _torch_modules(), [], {}
    root = collections.OrderedDict()
    for name, t in tensors.items():
        if id(t) not in by_tensor:
            kind = getattr(modules["torch"], STORAGES[t.dtype])
            by_tensor[id(t)] = _Storage(kind, str(len(storages)), len(t.data) // WIDTHS[t.dtype])
            storages.append(t.data)
        root[name] = _Rebuilt(modules["torch._utils"]._rebuild_tensor_v2, by_tensor[id(t)], t)
    parts = dict.fromkeys([""] + [n.rsplit(".", i)[0] for n in tensors for i in range(n.count("."), 0, -1)])
    root._metadata = collections.OrderedDict((part, {"version": 1}) for part in parts)
    out = io.BytesIO()
    hidden = {name: sys.modules.get(name) for name in modules}
    try:
        sys.modules.update(modules)
        _Pickler(out, protocol=2).dump(root)
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return out.getvalue(), storages


def torch_entries(pickled, storages, prefix="archive", recent=False):
    """The entries that torch.save makes; recent: torch 2.6 and later say two things more."""
    entries = [Entry(f"{prefix}/data.pkl", pickled)]
    if recent:
        entries += [Entry(f"{prefix}/.format_version", b"1"), Entry(f"{prefix}/.storage_alignment", b"64")]
    entries += [Entry(f"{prefix}/byteorder", b"little")]
    entries += [Entry(f"{prefix}/data/{key}", data) for key, data in enumerate(storages)]
    return entries + [Entry(f"{prefix}/version", b"3\n"), Entry(f"{prefix}/.data/serialization_id", b"0123456789" * 4)]


def torch_save(tensors, prefix="archive", recent=False):
    return zip_of(torch_entries(*state_dict_pickle(tensors), prefix, recent))


# ---- GGUF ---------------------------------------------------------------------------------------

GGUF_FORMS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
              "f32": (6, "<f"), "bool": (7, "<?"), "string": (8, None), "u64": (10, "<Q"), "i64": (11, "<q"),
              "f64": (12, "<d")}
GGUF_TYPES = {"F32": 0, "F16": 1, "BF16": 30, "F64": 28}


def gguf_string(text):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text


def gguf_value(form, value):
    return gguf_string(value) if form == "string" else struct.pack(GGUF_FORMS[form][1], value)


def gguf_key(name, form, value):
    """One key; a list is an array of `form`."""
    number = GGUF_FORMS[form][0]
    if not isinstance(value, list):
        return gguf_string(name) + struct.pack("<I", number) + gguf_value(form, value)
    return (gguf_string(name) + struct.pack("<IIQ", 9, number, len(value)) +
            b"".join(gguf_value(form, v) for v in value))


def gguf_info(name, shape, kind, offset):
    """A tensor's description; shape slowest first, which the file has the other way round."""
    return (gguf_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) +
            struct.pack("<IQ", kind, offset))


def gguf_raw(keys, infos, data, version=3, magic=b"GGUF", alignment=32, n_keys=None, n_tensors=None):
    """keys, infos: lists of bytes."""
    head = magic + struct.pack("<IQQ", version, len(infos) if n_tensors is None else n_tensors,
                               len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data


def gguf(keys, tensors, alignment=32):
    """keys: [(name, form, value)]; tensors: name -> Tensor."""
    infos, data = [], b""
    for name, t in tensors.items():
        infos.append(gguf_info(name, t.shape, GGUF_TYPES[t.dtype], len(data)))
        data += t.data + b"\0" * (-len(t.data) % alignment)
    return gguf_raw([gguf_key(*key) for key in keys], infos, data, alignment=alignment)


_expf = ctypes.CDLL("libm.so.6").expf
_expf.restype, _expf.argtypes = ctypes.c_float, [ctypes.c_float]


def negative_exp(t):
    """A of A_log in float32, by the C library's own function: what a loader computes, to the bit."""
    return numpy.array([-_expf(float(x)) for x in values(t).ravel()], "<f4")
