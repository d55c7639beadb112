#!/usr/bin/env python3
"""Every published layout, small: inspect says of it what is known of the original, models generate, relatives are
refused by the name of their family and the key that shows it."""
import contextlib
import json
import pathlib
import subprocess
import tempfile

import harness
from harness import BUILD, SLOW, Daemon, Skip, equal, expect

try:
    import numpy
except ImportError:
    numpy = None
if numpy is not None:
    import formats
    import layouts
    import models


def need_numpy():
    if numpy is None:
        raise Skip("numpy is not installed")


@contextlib.contextmanager
def place():
    """An empty directory, on a tmpfs where there is one."""
    with tempfile.TemporaryDirectory(prefix="m2sys.", dir=harness.base_directory()) as path:
        yield pathlib.Path(path)


def inspect(path, program="mamba2d"):
    """What inspect prints as JSON; its exit status is 0 or 1 as it accepts or refuses."""
    words = {"mamba2d": ["--inspect"], "mamba2ctl": ["inspect"]}[program]
    result = subprocess.run([str(BUILD / program), *words, str(path), "--json"], capture_output=True, text=True,
                            timeout=30 * SLOW)
    expect(result.returncode in (0, 1) and result.stdout, f"{program}: {result.returncode}: {result.stderr}")
    said = json.loads(result.stdout)
    equal(said["accepted"], result.returncode == 0, f"exit status and verdict on {path}")
    return said


def value_of(said, key):
    for part in key.split("."):
        said = said.get(part) if isinstance(said, dict) else None
    return said


def differences(said, wanted):
    """Sentences.  elements: the dtypes; corrections: a word of each; files: their names; a path: its end; anything
    else: the value.  Config and tokenizer must agree on what ends a text, after corrections."""
    found = [text for text in said.get("warnings", ()) if "ends a text with token" in text]
    for key, value in wanted.items():
        got = value_of(said, key)
        if key == "elements":
            good = got is not None and sorted(got) == value
        elif key == "corrections":
            good = got is not None and len(got) == len(value) and all(any(word in g for g in got) for word in value)
        elif key == "files":
            good = got is not None and [pathlib.PurePath(file["path"]).name for file in got] == value
        elif key.endswith(".path"):
            good = got is not None and got.endswith("/" + value)
        else:
            good = abs(got - value) < 1e-12 if isinstance(value, float) and isinstance(got, float) else got == value
        if not good:
            found.append(f"{key} is {got!r}, not {value!r}")
    return found


def write(layout, directory):
    """The path to name."""
    directory.mkdir()
    return layout.write(directory) or directory


def inspect_says_of_each_layout_what_is_known_of_it():
    need_numpy()
    wrong = []
    with place() as directory:
        for number, layout in enumerate(layouts.LAYOUTS):
            with tempfile.TemporaryDirectory(dir=directory) as own:
                said = inspect(write(layout, pathlib.Path(own) / "model"))
            found = differences(said, layout.says)
            if not said["accepted"]:
                found = [said["error"]["message"]]
            wrong += [f"{layout.name}: {text}" for text in found]
    print(f"# {number + 1} layouts")
    expect(not wrong, "\n".join(wrong))


def inspect_without_a_daemon_is_a_command_of_mamba2ctl():
    need_numpy()
    with place() as directory:
        path = write(next(x for x in layouts.LAYOUTS if "tiny-random" in x.name), directory / "model")
        equal(inspect(path, "mamba2ctl"), inspect(path), "mamba2ctl inspect and mamba2d --inspect")


def layouts_load_and_generate():
    need_numpy()
    chosen = {f"v{i}": layout for i, layout in enumerate(layouts.LAYOUTS) if layout.generates}
    with place() as directory:
        variants = {}
        for name, layout in chosen.items():
            none = layout.says.get("tokenizer", 0) is None
            variants[name] = {"checkpoint": str(write(layout, directory / name)), "weights": "stored", "slots": 2,
                              **({"tokenizer": "none"} if none else {})}
        with Daemon(variants) as d:
            for name, layout in chosen.items():
                rows = layout.says["shape.vocab_rows"]
                prompt = ["--tokens", "3,200,5"] if "tokenizer" in variants[name] else ["the mamba"]
                got = d.ctl("generate", name, *prompt, "-n", 8, "--temperature", "0", "--ignore-eos", "--print-tokens")
                ids = [int(i) for i in got.stdout.split(",")]
                expect(len(ids) == 8 and all(0 <= i < rows for i in ids), f"{layout.name}: {got.stdout}")
                if "tokenizer" not in variants[name]:
                    ids = d.ctl_json("tokenize", name, "the mamba")["tokens"]
                    text = d.ctl("detokenize", name, "--tokens", ",".join(map(str, ids))).stdout
                    expect(text.strip().endswith("the mamba"), f"{layout.name}: {ids} is {text!r}")
                d.ctl("unload", name)
    print(f"# {len(chosen)} models")


def relatives_are_refused_by_family_and_key():
    need_numpy()
    wrong = []
    shape = models.Shape(64, 1, 4, 32, 16)
    with place() as directory:
        models.write_safetensors(directory, models.dressed(models.random_weights(shape), "F16"))
        for relative in layouts.RELATIVES:
            models.write_config(directory, relative.config)
            for name, value in relative.files.items():
                models.write_config(directory, value, name)
            said = inspect(directory)
            for name in relative.files:
                (directory / name).unlink()
            error = said.get("error", {})
            text = error.get("message", "accepted")
            if relative.family not in text or relative.key not in text + " " + error.get("field", ""):
                wrong.append(f"{relative.name}: {text}")
            elif error["code"] != "unsupported":
                wrong.append(f"{relative.name}: {error['code']}, not unsupported: {text}")
    print(f"# {len(layouts.RELATIVES)} families")
    expect(not wrong, "\n".join(wrong))


def refused(directory, word):
    said = inspect(directory)
    expect(not said["accepted"], f"accepted, for want of {word}")
    expect(word in said["error"]["message"], f"{said['error']['message']!r} does not say {word}")


def hybrids_and_quantised_files_show_in_their_tensors():
    """The config of a pure model beside the tensors of another."""
    need_numpy()
    shape = models.Shape(64, 2, 4, 32, 16)
    weights = models.random_weights(shape)
    with place() as directory:
        models.write_config(directory, models.hf_config(shape))

        def tensors(change):
            changed = models.dressed(weights, "F16", plural=True)
            change(changed)
            models.write_safetensors(directory, changed)

        tensors(lambda t: None)
        expect(inspect(directory)["accepted"], "the pure model is accepted")
        attention = "backbone.layers.1.mixer."
        tensors(lambda t: [t.pop(attention + n) for n in ("dt_bias", "A_log", "D", "norm.weight")])
        refused(directory, "backbone.layers.1.mixer.dt_bias")
        tensors(lambda t: t.update({"backbone.layers.1.mlp.fc1.weight": formats.tensor(weights[attention + "D"])}))
        refused(directory, "backbone.layers.1.mlp.fc1.weight")
        packed = {attention + "in_proj.scales": formats.tensor(weights[attention + "D"], "F16")}
        tensors(lambda t: t.update(packed))
        refused(directory, "backbone.layers.1.mixer.in_proj.scales")
        tensors(lambda t: t.update({"backbone.rotary_emb.inv_freq": formats.tensor(weights[attention + "D"])}))
        expect(inspect(directory)["accepted"], "inv_freq has no use and does no harm")


def what_is_no_checkpoint_is_told_what_one_is():
    need_numpy()
    with place() as directory:
        refused(directory, "config.json")
        refused(directory / "nowhere", "nowhere")
        # NVIDIA's original: Megatron's pickle of everything, under a name of its own
        (directory / "release" / "mp_rank_00").mkdir(parents=True)
        (directory / "release" / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"PK\3\4")
        (directory / "latest_checkpointed_iteration.txt").write_text("release")
        refused(directory, "config.json")
        models.write_config(directory, models.hf_config(models.Shape(64, 2, 4, 32, 16)))
        refused(directory, "no weights")


harness.main(inspect_says_of_each_layout_what_is_known_of_it, inspect_without_a_daemon_is_a_command_of_mamba2ctl,
             layouts_load_and_generate, relatives_are_refused_by_family_and_key,
             hybrids_and_quantised_files_show_in_their_tensors, what_is_no_checkpoint_is_told_what_one_is)
