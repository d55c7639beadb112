#!/usr/bin/env python3
"""Files made to hurt (hostile.py and its neighbours) are each refused: by one sentence that says what is wrong and
where, with exit status 1, in bounded memory and time.  The files that they are bent from are accepted."""
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

import harness
from harness import BUILD, SANITIZER, SLOW, Daemon, Skip, equal, expect

try:
    import numpy
except ImportError:
    numpy = None
if numpy is not None:
    import hostile
    import hostile_archives  # these two add to its list
    import hostile_tokenizers

MEMORY = 512 << 20  # of addresses, libraries and stacks included; a sanitizer's shadow takes terabytes
CPU_SECONDS, WALL_SECONDS = 3, 10
EVERY = 4 if SANITIZER == "thread" else 1  # an inspection has one thread: there, a sample is enough


def limited():
    """The command in front of the program: what a hostile file may cost."""
    memory = [] if SANITIZER else [f"--as={MEMORY}"]
    return ["prlimit", "--core=0", f"--cpu={CPU_SECONDS * SLOW}", *memory]


def inspect(path):
    """(what it printed as JSON, what is wrong with how it ended)"""
    try:
        result = subprocess.run([*limited(), str(BUILD / "mamba2d"), "--inspect", str(path), "--json"],
                                capture_output=True, timeout=WALL_SECONDS * SLOW, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None, f"not within {WALL_SECONDS * SLOW} s"
    if result.returncode not in (0, 1) or result.stderr:
        return None, f"ended with {result.returncode}: {result.stderr.decode(errors='replace')[-2000:]}"
    try:
        said = json.loads(result.stdout.decode())
    except ValueError as error:
        return None, f"its JSON is none: {error}: {result.stdout[:300]}"
    if said["accepted"] != (result.returncode == 0):
        return None, f"accepted is {said['accepted']}, exit status {result.returncode}"
    return said, None


def fault(entry, path, said):
    """What is wrong with an answer; None: nothing.  The word must stand beside the name, not in it."""
    if said["accepted"]:
        return "accepted"
    text, field = said["error"]["message"], said["error"]["field"]
    if not 10 <= len(text) <= 500 or "\n" in text or not text.isprintable():
        return f"no sentence: {text!r}"
    without = re.sub(rf"\b{re.escape(entry.named)}\b", "", text.replace(str(path), ""))
    if entry.word.lower() not in without.lower():
        return f"does not say {entry.word!r}: {text}"
    if entry.named not in text and entry.named not in field:
        return f"does not name {entry.named!r}: {text} (field {field!r})"
    return None


def judge(entry, directory):
    own = pathlib.Path(tempfile.mkdtemp(dir=directory))
    try:
        said, wrong = inspect(entry.write(own) or own)
        return wrong or fault(entry, own, said), said
    finally:
        shutil.rmtree(own)


def need_numpy():
    if numpy is None:
        raise Skip("numpy is not installed")


def each(entries, verdict):
    """Lists those for which verdict(entry, wrong, said) is a sentence."""
    with tempfile.TemporaryDirectory(prefix="m2sys.", dir=harness.base_directory()) as directory:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda e: (e, *judge(e, directory)), entries))
    wrong = [f"{e.name}: {text}" for e, w, said in answers if (text := verdict(e, w, said))]
    expect(not wrong, f"{len(wrong)} of {len(entries)}:\n" + "\n".join(wrong))


def what_they_are_bent_from_is_accepted():
    """The control: without it, a program that refuses everything would pass."""
    need_numpy()
    each(hostile.CONTROLS, lambda e, w, said: None if said and said["accepted"] else
         said["error"]["message"] if said else w)


def refuse_each(*kinds):
    need_numpy()
    chosen = [e for e in hostile.LIST if e.name.startswith(kinds)][::EVERY]
    each(chosen, lambda e, wrong, said: wrong)
    print(f"# {len(chosen)} files")


def hostile_configs_are_refused_in_words():
    refuse_each("config", "generation_config")


def hostile_safetensors_are_refused_in_words():
    refuse_each("safetensors", "index")


def hostile_zips_are_refused_in_words():
    refuse_each("zip")


def hostile_pickles_are_refused_in_words():
    refuse_each("pickle")


def hostile_ggufs_are_refused_in_words():
    refuse_each("GGUF")


def hostile_tokenizers_are_refused_in_words():
    refuse_each("tokenizer")


def a_daemon_says_the_same_and_serves_on():
    """One of each kind as a variant: its load fails by that sentence, another model's generation is as before."""
    need_numpy()
    chosen = {}
    for entry in hostile.LIST:
        chosen.setdefault(entry.name.split(":")[0], entry)
    with tempfile.TemporaryDirectory(prefix="m2sys.", dir=harness.base_directory()) as directory:
        paths = {}
        for number, entry in enumerate(chosen.values()):
            own = pathlib.Path(directory) / f"h{number}"
            own.mkdir()
            paths[own.name] = (entry, entry.write(own) or own)
        variants = {name: {"checkpoint": str(path), "slots": 1} for name, (_, path) in paths.items()}
        with Daemon({"demo": {}, **variants}) as d:
            def continued():
                return d.ctl("generate", "demo", "--tokens", "1,2,3", "-n", 8, "--temperature", "0",
                             "--print-tokens").stdout
            before, worker = continued(), d.role("worker")
            for name, (entry, _) in paths.items():
                result = d.ctl("load", name, check=False)
                expect(result.returncode == 1 and entry.word.lower() in result.stderr.lower(),
                       f"{entry.name}: {result.returncode}: {result.stderr}")
            equal(continued(), before, "the demo's continuation")
            equal(d.role("worker"), worker, "the worker's process")


def the_list_is_long_and_each_of_it_is_tried():
    need_numpy()
    names = [e.name for e in hostile.LIST]
    kinds = {name.split(":")[0] for name in names}
    expect(len(set(names)) == len(names) >= 60, "sixty or more, each with a name of its own")
    expect(kinds == {"config", "generation_config", "safetensors", "index", "zip", "pickle", "GGUF", "tokenizer.json",
                     "tokenizer.model", "tokenizer_config.json"}, f"kinds without a test: {kinds}")


harness.main(what_they_are_bent_from_is_accepted, hostile_configs_are_refused_in_words,
             hostile_safetensors_are_refused_in_words, hostile_zips_are_refused_in_words,
             hostile_pickles_are_refused_in_words, hostile_ggufs_are_refused_in_words,
             hostile_tokenizers_are_refused_in_words, a_daemon_says_the_same_and_serves_on,
             the_list_is_long_and_each_of_it_is_tried)
