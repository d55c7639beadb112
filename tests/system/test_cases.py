#!/usr/bin/env python3
"""The stored cases through the whole daemon, by the two forms of mamba2ctl that scripts rely on: score --logits writes
the logits of ../shared/cases, generate --print-tokens prints the greedy continuation and nothing else."""
import json
import struct

import harness
from harness import Daemon, SHARED, Skip, equal, expect

try:
    import numpy
except ImportError:
    numpy = None

TOLERANCE = 2e-5  # relative L2, weights f32


def tensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    types = {"F32": "<f4", "I32": "<i4", "I64": "<i8", "F64": "<f8"}
    return {name: numpy.frombuffer(raw[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]],
                                   types[t["dtype"]]).reshape(t["shape"])
            for name, t in json.loads(raw[8:8 + length]).items() if name != "__metadata__"}


def cases():
    if numpy is None:
        raise Skip("numpy is not installed")
    found = sorted(SHARED.glob("cases/*/expected*.safetensors"))
    if not found:
        raise Skip("../shared/cases is not there")
    return {f"case{number}": path for number, path in enumerate(found)}


def every_case_scores_and_continues_as_stored():
    paths = cases()
    stored = {name: tensors(path) for name, path in paths.items()}
    variants = {name: {"checkpoint": str(path.parent), "tokenizer": "none", "slots": 2,
                       "norm_groups": int(stored[name]["norm_groups"][0]) if "norm_groups" in stored[name] else 0}
                for name, path in paths.items()}
    with Daemon(variants) as d:
        for name, want in stored.items():
            ids = ",".join(str(t) for t in want["tokens"])
            file = d.directory / "logits.safetensors"
            d.ctl("score", name, "--tokens", ids, "--logits", file)
            got = tensors(file)["logits"]
            got = got[want["positions"]] if "positions" in want else got
            distance = numpy.linalg.norm(got.astype("f8") - want["logits"]) / numpy.linalg.norm(want["logits"])
            expect(distance < TOLERANCE, f"{paths[name]}: logits are {distance:.1e} off")
            greedy = d.ctl("generate", name, "--tokens", ids, "-n", len(want["greedy"]), "--temperature", "0",
                           "--ignore-eos", "--print-tokens").stdout
            equal(greedy, ",".join(str(t) for t in want["greedy"]) + "\n", f"{paths[name]}: greedy tokens")
        print(f"# {len(stored)} expected files")


harness.main(every_case_scores_and_continues_as_stored)
