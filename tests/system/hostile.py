"""Files made to hurt: configs, safetensors and indexes; those of other formats are in hostile_archives.py and
hostile_tokenizers.py, which add to the same list.

Each entry bends one thing of a small checkpoint that is accepted as it is.  `word` is what the refusal's sentence must
say of the defect, `named` the file or the field that it must name.
"""
import dataclasses
import json
import os
import random

import formats
import models
from formats import safetensors_raw, tensor

SHAPE = models.Shape(16, 1, 2, 16, 8, rows=280)
WEIGHTS = models.dressed(models.random_weights(SHAPE), "F16", plural=True)
GOOD_FILE = formats.safetensors(WEIGHTS, {"format": "pt"})
CONFIG = models.hf_config(SHAPE)


@dataclasses.dataclass
class Hostile:
    name: str
    word: str
    named: str
    write: object  # (directory) -> None, or the path to name instead of the directory


LIST = []


def add(name, word, named, write):
    LIST.append(Hostile(name, word, named, write))


def write_good(directory):
    models.write_config(directory, CONFIG)
    (directory / "model.safetensors").write_bytes(GOOD_FILE)


def as_bytes(data):
    """data: bytes, text, or a function that makes them, where they are large."""
    data = data() if callable(data) else data
    return data.encode() if isinstance(data, str) else data


def put(name, data):
    """A writer of a good checkpoint in which one file is this."""
    def write(directory):
        write_good(directory)
        (directory / name).write_bytes(as_bytes(data))
    return write


CONTROLS = [Hostile("a good checkpoint", "", "", write_good)]

# ---- config.json --------------------------------------------------------------------------------


def config(name, word, text, named="config.json"):
    add("config: " + name, word, named, put("config.json", text))


def keys(name, word, named, **changed):
    """One key of a good config says something else; None: it is not there."""
    text = {k: v for k, v in {**CONFIG, **changed}.items() if v is not None}
    config(name, word, json.dumps(text), named)


def raw_key(name, word, key, text):
    """A value that json.dumps would not write."""
    config(name, word, json.dumps({**CONFIG, key: "@"}).replace('"@"', text), key)


config("empty", "end of data", "")
config("words", "JSON", "This is not the config you are looking for.")
config("random bytes", "not JSON", bytes(random.Random(1).randrange(256) for _ in range(4096)))
config("cut short", "does not end", json.dumps(CONFIG)[:300])
config("two values", "after", json.dumps(CONFIG) + " {}")
config("a list", "not an object", "[1, 2, 3]")
config("a number", "not an object", "7")
config("100,000 lists in each other", "nest", "[" * 100000 + "]" * 100000)
config("100,000 objects in each other", "nest", '{"a":' * 100000 + "1" + "}" * 100000)
config("objects without an end", "nest", '{"a":' * 200000)
config("a NUL byte", "byte at", json.dumps(CONFIG)[:-1] + "\0}")
config("a NUL in a key", "NUL", json.dumps({**CONFIG, "hidden\0size": 1}))
config("invalid UTF-8 in a string", "UTF-8", json.dumps(CONFIG)[:-1].encode() + b', "x": "\xff\xfe"}')
config("UTF-16", "UTF-8", json.dumps(CONFIG).encode("utf-16"))
config("a key twice", "twice", json.dumps(CONFIG)[:-1] + ', "hidden_size": 32}', "hidden_size")
config("a key twice, once escaped", "escapes", json.dumps(CONFIG)[:-1] + ', "hidden\\u005fsize": 32}')
config("a key twice inside an object", "twice", json.dumps(CONFIG)[:-1] + ', "x": {"y": 1, "y": 2}}')
config("more than a megabyte", "1048576", lambda: json.dumps({**CONFIG, "_name_or_path": "x" * (1 << 20)}))
config("150,000 keys", "bytes", lambda: json.dumps({str(i): 0 for i in range(150000)}))
keys("no width", "lacks", "hidden_size", hidden_size=None)
keys("no groups", "lacks", "n_groups", n_groups=None)
keys("a width of zero", "outside", "hidden_size", hidden_size=0)
keys("a negative width", "outside", "hidden_size", hidden_size=-16)
keys("a broken width", "not an integer", "hidden_size", hidden_size=16.5)
keys("a width in words", "not an integer", "hidden_size", hidden_size="16")
keys("a width that is true", "not an integer", "hidden_size", hidden_size=True)
keys("a width in a list", "not an integer", "hidden_size", hidden_size=[16])
keys("a width beyond 64 bits", "not an integer", "hidden_size", hidden_size=1 << 70)
raw_key("a width that is no number", "not an integer", "hidden_size", "NaN")
raw_key("a width of 100,000 digits", "not an integer", "hidden_size", "9" * 100000)
raw_key("an endless expand", "outside", "expand", "Infinity")
keys("an expand beyond every width", "outside", "expand", expand=1e308)
keys("the widest of everything", "65536", "embeddings.weight", hidden_size=65536, expand=64.0, num_heads=4096,
     head_dim=1024, state_size=1024, n_groups=4096, num_hidden_layers=1024)
keys("widths beyond the widest", "outside", "expand", hidden_size=65536, expand=64.1)
keys("heads that do not divide", "but expand", "num_heads", num_heads=3)
keys("groups that do not divide", "groups", "n_groups", n_groups=4096)
keys("a state of a billion", "outside", "state_size", state_size=10 ** 9)
keys("a convolution of a million", "outside", "conv_kernel", conv_kernel=10 ** 6)
keys("a billion layers", "outside", "num_hidden_layers", num_hidden_layers=10 ** 9)
keys("layers that are not there", "missing", "backbone.layers.1.", num_hidden_layers=1024)
keys("a vocabulary of 2^24 rows", "shape", "embeddings.weight", vocab_size=1 << 24)
keys("a vocabulary of 2^40 rows", "outside", "vocab_size", vocab_size=1 << 40)
keys("an epsilon of zero", "outside", "layer_norm_epsilon", layer_norm_epsilon=0)
raw_key("an epsilon that is no number", "outside", "layer_norm_epsilon", "NaN")
keys("limits of dt the wrong way round", "first <= second", "time_step_limit", time_step_limit=[2, 1])
raw_key("limits of dt that are no numbers", "first <= second", "time_step_limit", "[NaN, NaN]")
keys("a hundred limits of dt", "more than 2", "time_step_limit", time_step_limit=[0] * 100)
keys("ends beyond the vocabulary", "280 tokens", "eos_token_id", eos_token_id=[0, 280])
keys("fifty thousand ends", "more than 16", "eos_token_id", eos_token_id=[0] * 50000)
keys("an activation of another model", "silu", "hidden_act", hidden_act="gelu")
keys("an activation that paints the screen", "only silu", "hidden_act", hidden_act="\033[2J\033]0;x\7")
keys("a model_type that paints the screen", "not \"mamba2\"", "model_type", model_type="\033[2J\nmamba2")
keys("a model_type of 500,000 characters", "not \"mamba2\"", "model_type", model_type="mamba2" * 80000)
keys("ssm_cfg that is a word", "not an object", "ssm_cfg", ssm_cfg="Mamba2")
add("config: is a directory", "regular file", "config.json",
    lambda p: (put("model.safetensors", GOOD_FILE)(p), (p / "config.json").unlink(), (p / "config.json").mkdir())[0])
add("config: is a pipe", "regular file", "config.json",
    lambda p: (write_good(p), (p / "config.json").unlink(), os.mkfifo(p / "config.json"))[0])
add("config: is a link to itself", "symbolic links", "config.json",
    lambda p: (write_good(p), (p / "config.json").unlink(), (p / "config.json").symlink_to("config.json"))[0])
add("config: is /dev/zero", "regular file", "config.json",
    lambda p: (write_good(p), (p / "config.json").unlink(), (p / "config.json").symlink_to("/dev/zero"))[0])
add("generation_config: ends in words", "eos_token_id", "generation_config.json",
    put("generation_config.json", '{"eos_token_id": "the end"}'))
add("generation_config: 100,000 lists in each other", "nest", "generation_config.json",
    put("generation_config.json", "[" * 100000))

# ---- safetensors --------------------------------------------------------------------------------


def file(name, word, data, named="model.safetensors"):
    add("safetensors: " + name, word, named, put("model.safetensors", data))


def header(name, word, text, data=b"\0" * 8, named="model.safetensors"):
    file(name, word, safetensors_raw(json.dumps(text) if isinstance(text, dict) else text, data), named)


def entry(begin, end, shape, dtype="F32", **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


A = NORM = "backbone.norm_f.weight"
B = "backbone.layers.0.norm.weight"
ONE = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
file("empty", "too few", b"")
file("four bytes", "too few", b"1234")
file("a header of 2^63 bytes", "header", b"\0" * 7 + b"\x80" + b"{}")
file("a header of 2^64-1 bytes", "header", b"\xff" * 8 + b"{}")
file("a header beyond the file", "cut short", b"\0\0\1\0\0\0\0\0{}")
file("cut in its header", "cut short", GOOD_FILE[:200])
file("cut in its data", "bytes of data", GOOD_FILE[:-100])
file("a byte too many", "bytes of data", GOOD_FILE + b"\0")
file("a pickle", "header", b"\x80\x02}q\0." + b"\0" * 100)
header("no brace", "{", "[" + ONE + "]")
header("a space before the brace", "{", " {}")
header("not UTF-8", "UTF-8", b'{"\xc3\x28":' + ONE.encode() + b"}")
header("100,000 objects in each other", "unknown field", '{"a":' * 100000)
header("100,000 lists as a shape", "expected", '{"a":{"dtype":"F32","shape":' + "[" * 100000)
header("overlap", "begins at", {A: entry(0, 8, [2]), B: entry(4, 12, [2])}, b"\0" * 12, B)
header("a hole", "begins at", {A: entry(0, 8, [2]), B: entry(16, 24, [2])}, b"\0" * 24, B)
header("not from the start", "begins at", {A: entry(8, 16, [2])}, b"\0" * 16, A)
header("the same bytes twice", "begins at", {A: entry(0, 8, [2]), B: entry(0, 8, [2])}, named="data of")
header("an end before its begin", "ends before", {A: entry(8, 0, [2])}, named=A)
header("offsets beyond 64 bits", "2^64",
       '{"%s":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551624]}}' % A)
header("offsets beyond the file", "bytes of data", {A: entry(0, 1 << 40, [1 << 38])})
header("a shape whose product overflows", "overflows", {A: entry(0, 8, [1 << 32, 1 << 32])}, named=A)
header("a shape that overflows back to its bytes", "overflows", {A: entry(0, 8, [1 << 62, 4, 2])}, named=A)
header("a negative shape", "unsigned", {A: entry(0, 8, [-2])})
header("a broken shape", "expected", {A: entry(0, 8, [2.5])})
header("a shape in exponents", "expected", '{"%s":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}' % A)
header("nine dimensions", "8 numbers", {A: entry(0, 8, [1] * 8 + [2])})
header("a shape of a million", "8 numbers", {A: entry(0, 8, [1] * 1000000)})
header("too few bytes for its shape", "bits", {A: entry(0, 8, [3])}, named=A)
header("an unknown dtype", "dtype", {A: entry(0, 8, [2], "F7")}, named=A)
header("a dtype that paints the screen", "control", {A: entry(0, 8, [2], "\033[2J")})
header("half a byte", "bits", {A: entry(0, 1, [3], "F4")}, b"\0", A)
header("one name twice", "twice", '{"%s":%s,"%s":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}' % (A, ONE, A),
       b"\0" * 16, A)
header("one name twice, once escaped", "twice",
       '{"%s":%s,"%s":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}' % (A, ONE, A.replace("norm_f",
                                                                                               "n\\u006frm_f")),
       b"\0" * 16, A)
header("a field twice", "twice", '{"%s":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}' % A, named=A)
header("a field missing", "lacks", '{"%s":{"dtype":"F32","shape":[2]}}' % A, named=A)
header("a field too many", "unknown field", {A: entry(0, 8, [2], eval="os")}, named=A)
header("a name of 100,000 bytes", "longer than", {"x" * 100000: entry(0, 8, [2])})
header("a name with control characters", "control", {"a\033[2Jb": entry(0, 8, [2])})
header("a name with a NUL", "control", {A + "\0x": entry(0, 8, [2])})
header("metadata that is a list", "__metadata__", {"__metadata__": ["pt"]})
header("metadata with a number", "__metadata__", {"__metadata__": {"format": 1}})
header("metadata in metadata", "__metadata__", {"__metadata__": {"a": {"b": "c"}}})
header("metadata twice", "__metadata__", '{"__metadata__":{},"__metadata__":{}}', b"")
header("words behind the header", "padding", '{"%s":%s}    x' % (A, ONE))
header("a tensor of no model", "not of a Mamba-2 model", {"evil.weight": entry(0, 8, [2])}, named="evil.weight")
file("a hundred thousand tensors", "not of a Mamba-2 model",
     lambda: safetensors_raw(json.dumps({f"t{i}": entry(0, 0, [0]) for i in range(100000)}), b""), "t0")
file("a header of 100 MB of spaces", "missing", lambda: safetensors_raw(b"{" + b" " * 99999998 + b"}", b""), NORM)
file("a name of 100 MB", "longer than", lambda: safetensors_raw(b'{"' + b"x" * 99999990, b""))


def changed(name, word, named, **tensors):
    """A good file with tensors changed; x__y stands for x.y."""
    new = {**WEIGHTS, **{k.replace("__", "."): v for k, v in tensors.items()}}
    file(name, word, formats.safetensors({k: v for k, v in new.items() if v is not None}), named)


changed("a tensor missing", "missing", NORM, backbone__norm_f__weight=None)
changed("a tensor of integers", "I64", NORM, backbone__norm_f__weight=formats.Tensor("I64", (16,), b"\0" * 128))
changed("a tensor without elements", "shape", NORM, backbone__norm_f__weight=formats.Tensor("F16", (0,), b""))
changed("a tensor of another shape", "[15]", NORM, backbone__norm_f__weight=formats.Tensor("F16", (15,), b"\0" * 30))
changed("two names of one weight", "same weight", "backbone.embedding.weight",
        backbone__embedding__weight=WEIGHTS["backbone.embeddings.weight"])
changed("a tied head that is another", "differs", "lm_head.weight",
        lm_head__weight=tensor(models.random_weights(SHAPE, 2)["backbone.embedding.weight"], "F16"))
changed("a layer beyond the config", "layer", "backbone.layers.9999.mixer.D",
        backbone__layers__9999__mixer__D=WEIGHTS["backbone.layers.0.mixer.D"])

# ---- indexes ------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"
MAP = {name: "model.safetensors" for name in WEIGHTS}


def index(name, word, where, named=INDEX):
    text = where if isinstance(where, str) else json.dumps({"metadata": {"total_size": 1}, "weight_map": where})
    add("index: " + name, word, named, put(INDEX, text))


for path in ("../model.safetensors", "/etc/passwd", "a/../model.safetensors", "..", ".", "", "a\0b",
             "./model.safetensors"):
    index(f"a file called {path!r}", "plain file name", {**MAP, NORM: path})
index("a file that is a number", "plain file name", {**MAP, NORM: 7})
index("a file that is an object", "plain file name", {**MAP, NORM: {"x": 1}})
index("a missing shard", "does not exist", {**MAP, NORM: "model-00002-of-00002.safetensors"},
      "model-00002-of-00002.safetensors")
index("a tensor twice", "twice", json.dumps({"weight_map": MAP})[:-2] + f', "{NORM}": "x"}}}}')
index("no map", "weight_map", "{}")
index("an empty map", "weight_map", {})
index("a map that is a list", "not an object", '{"weight_map": []}', "weight_map")
index("a tensor that no file holds", "does not hold", {**MAP, "backbone.layers.0.mixer.E": "model.safetensors"})
index("a tensor that is not listed", "does not list", {k: v for k, v in MAP.items() if k != NORM})
index("two thousand files", "1024", {**MAP, **{f"t{i}": f"f{i}" for i in range(2000)}})
index("100,000 objects in each other", "nest", '{"weight_map":' * 100000)
index("a shard that is the index", "header", {**MAP, NORM: INDEX})
