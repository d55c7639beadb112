#!/usr/bin/env python3
"""One model re-saved in every container gives the same bits: logits of a text and the greedy continuation, through the
whole daemon.  Weights are kept in f32, where every type that holds the values must agree, and as stored, where the
files of one type must."""
import contextlib
import json
import pathlib
import struct
import tempfile

import harness
from harness import SANITIZER, SHARED, Daemon, Skip, expect

try:
    import numpy
except ImportError:
    numpy = None
if numpy is not None:
    import formats
    import models
    from formats import Tensor, tensor, values, write_sharded
    from models import dressed

TOKENS = [(17 * i * i + 5) % 271 for i in range(150)]  # two whole chunks of the prompt and a part of one


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(prefix="m2sys.", dir=harness.base_directory()) as path:
        yield pathlib.Path(path)


def logits_of(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    at = json.loads(raw[8:8 + length])["logits"]["data_offsets"]
    return raw[8 + length + at[0]:8 + length + at[1]]


def bits(d, name):
    """What the daemon makes of the model: the bytes of all logits, and the ids that follow."""
    file = d.directory / "logits.safetensors"
    ids = ",".join(map(str, TOKENS))
    d.ctl("score", name, "--tokens", ids, "--logits", file)
    greedy = d.ctl("generate", name, "--tokens", ids, "-n", 8, "--temperature", "0", "--ignore-eos", "--print-tokens")
    return logits_of(file), greedy.stdout


def compare(copies, weights):
    """copies: name -> (path, group); those of one group must agree to the bit."""
    variants = {f"v{i}": {"checkpoint": str(path), "tokenizer": "none", "weights": weights, "slots": 1}
                for i, (path, _) in enumerate(copies.values())}
    first, differ = {}, []
    with Daemon(variants) as d:
        for variant, (name, (_, group)) in zip(variants, copies.items()):
            got = bits(d, variant)
            d.ctl("unload", variant)
            other, want = first.setdefault(group, (name, got))
            floats = numpy.frombuffer(got[0], "<f4")
            expect(len(floats) % len(TOKENS) == 0 and numpy.isfinite(floats).all() and floats.std() > 0.1,
                   f"{name}: these are no logits")
            if got != want:
                most = numpy.abs(floats - numpy.frombuffer(want[0], "<f4")).max()
                differ.append(f"{name} differs from {other}: logits by up to {most:.1e}; {got[1]} and {want[1]}")
    print(f"# {len(copies)} copies, weights {weights}, {len(first)} groups")
    expect(not differ, "\n".join(differ))


def write_gguf(directory, data):
    path = directory / "x.gguf"
    path.write_bytes(data)
    return path


# ---- one random model in every form -------------------------------------------------------------


class Copies:
    """Writes them, each into a directory of its own."""

    def __init__(self, directory, shape):
        self.directory, self.shape = directory, shape
        self.weights = models.random_weights(shape, 7)
        self.made = {}

    def add(self, name, group, config, write, config_name="config.json"):
        path = self.directory / str(len(self.made))
        path.mkdir()
        if config is not None:
            models.write_config(path, config, config_name)
        named = write(path)  # a file to name instead of the directory, or nothing of use
        self.made[name] = (named if isinstance(named, pathlib.Path) else path, group)

    def safetensors(self):
        s, w = self.shape, self.weights
        hf, one = models.hf_config(s), models.write_safetensors
        for kind in ("F32", "F16", "BF16"):
            self.add(f"safetensors {kind}", kind, hf, lambda p, k=kind: one(p, dressed(w, k, plural=True)))
        self.add("safetensors F64", "F32", hf, lambda p: one(p, dressed(w, "F64", plural=True)))
        self.add("safetensors F16 with F32", "F16", hf, lambda p: one(p, dressed(w, "F16", other="F32", plural=True)))
        self.add("safetensors sharded", "F32", hf, lambda p: write_sharded(
            p, dressed(w, "F32", plural=True), 3, "model", "safetensors", formats.safetensors))
        self.add("safetensors of MLX", "F16", hf, lambda p: one(p, dressed(w, "F16", plural=True, mlx=True),
                                                                "model.safetensors",
                                                              "mlx"))
        self.add("safetensors of fla", "BF16", models.fla_config(s),
                 lambda p: one(p, dressed(w, "BF16", plural=True, f32=("norm.weight", "norm_f.weight"))))
        self.add("consolidated of Mistral", "BF16", models.params_json(s),
                 lambda p: one(p, dressed(w, "BF16", prefix="model."), "consolidated.safetensors"), "params.json")

    def pytorch(self):
        s, w = self.shape, self.weights
        config = models.ssm_config(s, s.rows - 11, ssm={"ngroups": s.groups})

        def save(kind, prefix="pytorch_model", recent=False, f32=("mixer.D",)):
            return lambda p: (p / "pytorch_model.bin").write_bytes(
                formats.torch_save(dressed(w, kind, f32=f32), prefix, recent))

        for kind in ("F32", "F16", "BF16"):
            self.add(f".bin {kind}", kind, config, save(kind))
        self.add(".bin of a recent torch", "F16", config, save("F16", "archive", True))
        self.add(".bin without zip64 records", "F16", config, lambda p: (p / "pytorch_model.bin").write_bytes(
            formats.zip_of(formats.torch_entries(*formats.state_dict_pickle(dressed(w, "F16"))), zip64=False)))
        self.add(".bin sharded", "F32", models.hf_config(s), lambda p: write_sharded(
            p, dressed(w, "F32", plural=True), 2, "pytorch_model", "bin", formats.torch_save))

    def gguf(self):
        s, w = self.shape, self.weights

        def save(kind, alignment=32):
            keys = models.gguf_keys(s) + [("general.alignment", "u32", alignment)]
            return formats.gguf(keys, models.gguf_tensors(s, w, kind), alignment)

        for kind in ("F32", "F16", "BF16"):
            self.add(f"GGUF {kind}", kind, None, lambda p, k=kind: write_gguf(p, save(k)))
        self.add("GGUF in a directory, aligned to 256", "F16", None,
                 lambda p: (p / "x.gguf").write_bytes(save("F16", 256)))


def every_container_gives_the_same_bits():
    if numpy is None:
        raise Skip("numpy is not installed")
    with place() as directory:
        copies = Copies(directory, models.Shape(64, 2, 2, 64, 128, groups=2, tied=False))
        copies.safetensors()
        copies.pytorch()
        copies.gguf()
        if SANITIZER != "thread":  # there it would show nothing new, slowly
            compare({name: (path, "all") for name, (path, _) in copies.made.items()}, "f32")
        compare(copies.made, "stored")


def a_tied_head_is_the_embedding_in_every_container():
    if numpy is None:
        raise Skip("numpy is not installed")
    with place() as directory:
        c = Copies(directory, models.Shape(64, 1, 2, 64, 128))
        s, w = c.shape, c.weights
        tied = models.with_tied_head(dressed(w, "F16"))
        hf = dressed(w, "F16", plural=True)
        copied = {**hf, "lm_head.weight": Tensor("F16", (s.rows, s.d), hf["backbone.embeddings.weight"].data)}
        c.add("a head on the embedding's storage", "all", models.ssm_config(s, 277),
              lambda p: (p / "pytorch_model.bin").write_bytes(formats.torch_save(tied)))
        c.add("no head", "all", models.hf_config(s), lambda p: models.write_safetensors(p, hf))
        c.add("a head that repeats the embedding", "all", models.hf_config(s),
              lambda p: models.write_safetensors(p, copied))
        c.add("no output.weight", "all", None, lambda p: (p / "x.gguf").write_bytes(
            formats.gguf(models.gguf_keys(s), models.gguf_tensors(s, w, "F16"))))
        compare(c.made, "stored")


def bits_differ_where_a_weight_does():
    """The comparison itself: one bit of one weight shows."""
    if numpy is None:
        raise Skip("numpy is not installed")
    with place() as directory:
        c = Copies(directory, models.Shape(64, 1, 2, 64, 128))
        c.add("one", "all", models.hf_config(c.shape), lambda p: models.write_safetensors(p, dressed(c.weights,
                                                                                                       "F32")))
        changed = dict(c.weights)
        a = numpy.array(changed["backbone.layers.0.mixer.A_log"])
        a[0] = numpy.nextafter(a[0], numpy.float32(9))
        changed["backbone.layers.0.mixer.A_log"] = a
        c.add("other", "all", models.hf_config(c.shape), lambda p: models.write_safetensors(p,
                                                                                              dressed(changed, "F32")))
        try:
            compare(c.made, "f32")
        except harness.Failure as failure:
            expect("other differs from one" in str(failure), str(failure))
            return
        raise harness.Failure("a changed weight gave the same bits")


# ---- a stored case ------------------------------------------------------------------------------


def a_stored_case_gives_the_same_bits_in_every_container():
    source = SHARED / "cases" / "hf-groups2"
    if numpy is None or not source.exists():
        raise Skip("numpy is not installed" if numpy is None else "../shared/cases is not there")
    stored = formats.read_safetensors(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    singular = {name.replace("embeddings.", "embedding."): t for name, t in stored.items()}
    shape = models.Shape(config["hidden_size"], config["num_hidden_layers"], config["num_heads"], config["head_dim"],
                          config["state_size"], config["n_groups"], config["vocab_size"], config["conv_kernel"],
                          config["tie_word_embeddings"])
    weights = {name: values(t) for name, t in singular.items()}
    assert {t.dtype for t in stored.values()} == {"BF16"}
    with place() as directory:
        c = Copies(directory, shape)
        c.add("as it is stored", "all", None, lambda p: source)
        c.add("sharded", "all", config, lambda p: write_sharded(p, stored, 5, "model", "safetensors",
                                                                formats.safetensors))
        c.add("pytorch_model.bin", "all", config,
              lambda p: (p / "pytorch_model.bin").write_bytes(formats.torch_save(stored)))
        c.add("pytorch_model.bin, sharded", "all", config,
              lambda p: write_sharded(p, stored, 3, "pytorch_model", "bin", formats.torch_save))
        c.add("names of Mistral", "all", config, lambda p: models.write_safetensors(
            p, {"model." + name: t for name, t in singular.items()}, "consolidated.safetensors"))
        c.add("GGUF", "all", None, lambda p: (p / "x.gguf").write_bytes(formats.gguf(
            models.gguf_keys(shape), models.gguf_tensors(shape, weights, "BF16"))))
        compare(c.made, "stored")
        wide = {name: tensor(a) for name, a in weights.items()}
        c.add("f32", "all", config, lambda p: models.write_safetensors(p, wide))
        compare(c.made, "f32")


harness.main(every_container_gives_the_same_bits, a_tied_head_is_the_embedding_in_every_container,
             bits_differ_where_a_weight_does, a_stored_case_gives_the_same_bits_in_every_container)
