#!/usr/bin/env python3
"""mamba2ctl inspect, which needs no daemon, and register PATH, which makes a variant of what it finds."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import harness
from harness import BUILD, DEMO, Daemon, equal, expect


def ctl(*args):
    return subprocess.run([str(BUILD / "mamba2ctl"), *map(str, args)], capture_output=True, text=True, timeout=60)


def copy_of_demo(directory, name="copy"):
    to = pathlib.Path(directory) / name
    to.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(DEMO / file, to)
    return to


def inspect_says_what_a_checkpoint_is():
    result = ctl("inspect", DEMO)
    equal(result.returncode, 0, f"accepted: {result.stderr}")
    for words in ("accepted            yes", "fla", "3548712", "model.safetensors", "byte-level BPE"):
        expect(words in result.stdout, f"{words!r} is in\n{result.stdout}")
    found = json.loads(ctl("inspect", DEMO, "--json").stdout)
    equal(found["accepted"], True, "accepted")
    equal(found["bytes"]["sequence_ssm"], 7 * 8 * 64 * 64 * 4, "bytes of a sequence")
    equal(found["tokenizer"]["ids"], 2048, "ids of the tokenizer")
    equal(pathlib.Path(found["tokenizer"]["path"]).name, "tokenizer.json", "where it is")
    equal([w for w in found["warnings"]], [], "nothing to warn of")


def the_figures_are_those_of_a_load():
    with Daemon({"one": {"slots": 16, "weights": "stored"}}) as d:
        d.ctl("load", "one")
        resident = d.ctl_json("show", "one")["variant"]["resident"]
    found = json.loads(ctl("inspect", DEMO, "--json").stdout)
    plan = next(p for p in found["cpu"] if p["slots"] == 16)
    for part in ("weights", "state", "per_slot", "total"):
        equal(plan[part], resident["footprint"][part], part)
    for fact, value in resident["checkpoint"].items():
        if fact in found["shape"]:
            equal(found["shape"][fact], value, fact)


def what_is_refused_is_refused_with_a_reason_and_a_hint():
    with tempfile.TemporaryDirectory() as directory:
        copy = copy_of_demo(directory)
        with open(copy / "model.safetensors", "r+b") as file:
            file.truncate(1000000)
        result = ctl("inspect", copy)
        equal(result.returncode, 1, "a file that was cut short")
        expect("accepted            no (" in result.stdout and "hint" in result.stdout, result.stdout)
        answer = json.loads(ctl("inspect", copy, "--json").stdout)
        equal(answer["accepted"], False, "not accepted")
        expect("model.safetensors" in answer["error"]["message"], f"names the file: {answer}")
        result = ctl("register", copy, "--name", "cut")
        equal(result.returncode, 1, "not registered either, and no daemon was needed to say so")
        expect("model.safetensors" in result.stderr, f"says why: {result.stderr}")
        equal(result.stdout, "", "no YAML is printed")
    equal(ctl("inspect", "/nowhere/at/all").returncode, 1, "nothing there")
    equal(ctl("inspect").returncode, 2, "wrong usage")
    equal(ctl("inspect", DEMO, "--norm-groups", "x").returncode, 2, "wrong usage")


def register_makes_a_variant_of_a_checkpoint():
    with Daemon({}) as d:
        equal(d.ctl("register", DEMO, check=False).returncode, 2, "a checkpoint needs a name")
        result = d.ctl("register", DEMO, "--name", "mine", "--alias", "m", "--alias", "n", "--slots", "3",
                       "--weights", "f32")
        expect("name: mine" in result.stdout and "mine is registered" in result.stdout, result.stdout)
        shown = d.ctl_json("show", "n")["variant"]
        equal((shown["name"], shown["slots"], sorted(shown["aliases"])), ("mine", 3, ["m", "n"]), "as it was asked for")
        again = d.ctl("register", DEMO, "--name", "mine", check=False)
        equal(again.returncode, 1, "the name is taken")
        expect("(exists)" in again.stderr, again.stderr)
        d.ctl("register", DEMO, "--name", "mine", "--replace")
        d.ctl("load", "mine")
        expect(d.ctl("generate", "mine", "In the", "-n", "4").stdout, "and it runs")
        wrong = d.ctl("register", DEMO, "--name", "other", "--device", "tpu", check=False)
        equal(wrong.returncode, 2, "wrong usage")
        expect("device" in wrong.stderr, wrong.stderr)
        equal(d.ctl("register", d.variants / "x.yaml", "--slots", "3", check=False).returncode, 2,
              "a variant file says the rest itself")


def print_keeps_the_yaml_in_a_file():
    with Daemon({}) as d:
        here = os.path.relpath(DEMO)
        result = ctl("register", here, "--name", "kept", "--print")
        equal(result.returncode, 0, result.stderr)
        path = d.variants / "kept.yaml"
        path.write_text(result.stdout)
        d.ctl("reload")
        equal([v["name"] for v in d.ctl_json("list")["variants"]], ["kept"], "it is a variant file")
        expect(str(DEMO) in result.stdout, "with an absolute path, whatever the working directory is")
        d.ctl("load", "kept")


harness.main(inspect_says_what_a_checkpoint_is, the_figures_are_those_of_a_load,
             what_is_refused_is_refused_with_a_reason_and_a_hint, register_makes_a_variant_of_a_checkpoint,
             print_keeps_the_yaml_in_a_file)
