#!/usr/bin/env python3
"""Checksums of checkpoint files: recorded after a load without anybody waiting, verified on demand, and what a
change is told as."""
import hashlib
import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import threading

import harness
from harness import BUILD, DEMO, Daemon, equal, expect, wait_until

FILES = ("config.json", "model.safetensors", "tokenizer.json")
BESIDE = "tokenizer_config.json"  # says which tokens begin and end a text


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def with_copy():
    """A daemon with variant "copy" of a copy of the demo checkpoint, which a test may change."""
    d = Daemon({"demo": {}})
    copy = d.directory / "copy"
    copy.mkdir()
    for file in FILES:
        shutil.copy(DEMO / file, copy)
    (copy / BESIDE).write_text("{}")
    d.write_variant("copy", {"checkpoint": str(copy)})
    return d, copy


def sparse_checkpoint(directory, gigabytes):
    """One that takes minutes to read and nothing to open: a header, and a hole for the numbers."""
    directory.mkdir()
    rows = gigabytes * 500000
    tensors = {"backbone.embedding.weight": [rows, 1024], "backbone.norm_f.weight": [1024]}
    layer = {"norm.weight": [1024], "mixer.in_proj.weight": [2048 + 2048 + 256 + 32, 1024],
             "mixer.conv1d.weight": [2304, 1, 4], "mixer.conv1d.bias": [2304], "mixer.dt_bias": [32],
             "mixer.A_log": [32], "mixer.D": [32], "mixer.norm.weight": [2048],
             "mixer.out_proj.weight": [1024, 2048]}
    tensors.update({f"backbone.layers.0.{name}": shape for name, shape in layer.items()})
    at, header = 0, {}
    for name, shape in tensors.items():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    (directory / "config.json").write_text(json.dumps({
        "d_model": 1024, "n_layer": 1, "vocab_size": rows, "tie_embeddings": True, "rms_norm": True,
        "residual_in_fp32": True, "pad_vocab_size_multiple": 16,
        "ssm_cfg": {"layer": "Mamba2", "d_state": 128, "headdim": 64, "ngroups": 1}}))


def recorded(d, name):
    return {pathlib.Path(f["path"]).name: f for f in d.ctl_json("show", name)["variant"]["files"]}


def verify(d, name, *args):
    """Exit status and the answer."""
    result = d.ctl("verify", name, "--json", *args, check=False)
    answer = json.loads(result.stdout) if result.stdout else None
    return result.returncode, answer, result.stderr


def states(answer):
    return {pathlib.Path(f["path"]).name: f["state"] for f in answer["files"]}


def a_load_records_what_it_loaded_and_nobody_waits():
    d, copy = with_copy()
    with d:
        equal(recorded(d, "copy"), {}, "nothing is known before the first load")
        d.ctl("load", "copy")
        wait_until(lambda: {*FILES, BESIDE} <= set(recorded(d, "copy")), 20, "the checksums of all files are recorded")
        for name, file in recorded(d, "copy").items():
            equal(file["sha256"], digest(copy / name), f"SHA-256 of {name}")
            equal(file["state"], "ok", name)
            equal(file["bytes"], (copy / name).stat().st_size, f"size of {name}")
        before = recorded(d, "copy")
        expect(before["model.safetensors"]["sha256"][:12] in d.ctl("show", "copy").stdout, "show lists the short form")
        d.ctl("unload", "copy")
        d.ctl("load", "copy")
        d.ctl("verify", "demo")  # behind what the load started
        equal(recorded(d, "copy"), before, "what has not changed is not read again")


def verify_records_what_has_no_record_and_then_agrees():
    d, copy = with_copy()
    with d:
        status, answer, _ = verify(d, "copy")
        equal((status, answer["state"]), (0, "ok"), "a variant that was never loaded")
        equal(set(states(answer).values()), {"recorded"}, "everything is recorded now")
        expect({*FILES, BESIDE} <= set(states(answer)), f"all files: {states(answer)}")
        status, answer, _ = verify(d, "copy")
        equal((status, set(states(answer).values())), (0, {"ok"}), "and the same the second time")
        equal({pathlib.Path(f["path"]).name: f["sha256"] for f in answer["files"]},
              {name: digest(copy / name) for name in states(answer)}, "checksums")
        seen = []
        with d.connect(control=True) as client:
            by_python = client.verify("copy", progress=lambda done, total, what: seen.append((done, total)))
        equal((by_python["state"], by_python["files"]), ("ok", answer["files"]), "Python's verify says the same")
        expect(all(done <= total for done, total in seen), f"progress: {seen}")
        text = d.ctl("verify", "copy").stdout
        expect("all files are as recorded" in text and "GB/s" in text, text)


def a_change_is_told_until_somebody_says_it_is_right():
    d, copy = with_copy()
    with d:
        d.ctl("verify", "copy")
        with open(copy / "model.safetensors", "r+b") as file:  # one bit of one weight
            file.seek(-5, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-5, os.SEEK_END)
            file.write(bytes([byte ^ 1]))
        for _ in range(2):
            status, answer, _ = verify(d, "copy")
            equal((status, answer["state"]), (1, "failed"), "not as recorded")
            equal(states(answer)["model.safetensors"], "changed", "which one")
            equal(states(answer)["config.json"], "ok", "the others are as they were")
        changed = recorded(d, "copy")["model.safetensors"]
        equal((changed["state"], changed["found"]), ("changed", digest(copy / "model.safetensors")), "show says so")
        expect("CHANGED" in d.ctl("show", "copy").stdout, "and prints it")
        expect("model.safetensors is not what was recorded" in d.log(), "a warning is in the log")
        result = d.ctl("verify", "copy", check=False)
        expect(result.returncode == 1 and "NOT as recorded" in result.stdout, result.stdout)
        equal(verify(d, "copy", "--record")[0], 0, "what is there is right")
        equal(verify(d, "copy")[0], 0, "and is the record from now on")
        equal(recorded(d, "copy")["model.safetensors"]["state"], "ok", "show agrees")


def the_next_load_notices_a_change_by_itself():
    d, copy = with_copy()
    with d:
        d.ctl("verify", "copy")
        path = copy / "tokenizer.json"
        path.write_text(path.read_text() + "\n")
        d.ctl("load", "copy")
        wait_until(lambda: recorded(d, "copy")["tokenizer.json"]["state"] == "changed", 20, "show tells the change")
        expect("tokenizer.json is not what was recorded" in d.log(), "a warning is in the log")


def a_missing_file_is_missing():
    d, copy = with_copy()
    with d:
        d.ctl("verify", "copy")
        (copy / "tokenizer.json").unlink()
        status, answer, _ = verify(d, "copy")
        equal((status, states(answer)["tokenizer.json"]), (1, "missing"), "a file that is gone")
        (copy / "model.safetensors").unlink()
        status, answer, _ = verify(d, "copy")
        equal((status, states(answer)["model.safetensors"]), (1, "missing"), "the weights too")
        expect(answer["error"]["code"] == "not_found", f"and that it cannot be opened: {answer['error']}")
        shutil.rmtree(copy)
        equal(verify(d, "copy")[0], 1, "the whole directory")
        equal(verify(d, "nothing")[0], 1, "no such variant")


def serving_goes_on_while_files_are_read():
    d, _ = with_copy()
    sparse_checkpoint(d.directory / "big", 30)
    d.write_variant("big", {"checkpoint": str(d.directory / "big")})
    with d:
        def tokens():
            with d.connect() as client, client.generate("demo", tokens=[1, 2, 3], max_tokens=48, temperature=0,
                                                        logprobs=0) as request:
                for _ in request:
                    pass
                return list(request.tokens()), [float(x) for x in request.logprobs()]
        alone = tokens()
        with subprocess.Popen([str(BUILD / "mamba2ctl"), "--runtime-dir", str(d.runtime), "verify", "big"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
            def running():
                return [r["op"] for r in d.ctl_json("ps")["requests"]]
            wait_until(lambda: running() == ["verify"], 10, "ps shows the verification")
            equal(tokens(), alone, "the same tokens and log-probabilities")
            equal(running(), ["verify"], "which is still at it")
            # another one waits for its turn, and gets it when the first one's client has gone
            waiting = threading.Thread(target=lambda: results.append(d.ctl("verify", "copy", check=False).returncode))
            results = []
            waiting.start()
            wait_until(lambda: running() == ["verify", "verify"], 10, "a second one waits")
            equal(results, [], "and is not answered yet")
            reader.kill()
            reader.wait()
        waiting.join(60)
        equal(results, [0], "the end of a client ends its verification")
        wait_until(lambda: running() == [], 10, "nothing is left of it")


def a_terminal_sees_how_far_it_is():
    d, _ = with_copy()
    sparse_checkpoint(d.directory / "big", 30)
    d.write_variant("big", {"checkpoint": str(d.directory / "big")})
    with d:
        screen, terminal = pty.openpty()
        with subprocess.Popen([str(BUILD / "mamba2ctl"), "--runtime-dir", str(d.runtime), "verify", "big"],
                              stdout=subprocess.DEVNULL, stderr=terminal) as reader:
            os.close(terminal)
            seen = b""
            while not (b" left" in seen and b"GB/s" in seen and b"reading model.safetensors" in seen):
                seen += os.read(screen, 4096)
                expect(len(seen) < 100000, f"no rate and no time left in {seen[-300:]}")
            expect(b"\n" not in seen, "one line, redrawn in place")
            reader.kill()
        os.close(screen)
        # and where there is no terminal there is no line
        equal(d.ctl("verify", "copy").stderr, "", "standard error of a verification without a terminal")
        equal(d.ctl("load", "copy").stderr, "", "and of a load")


def an_administrator_cancels_it_by_number():
    d, _ = with_copy()
    sparse_checkpoint(d.directory / "big", 30)
    d.write_variant("big", {"checkpoint": str(d.directory / "big")})
    with d:
        results = []
        reader = threading.Thread(target=lambda: results.append(verify(d, "big")))
        reader.start()
        wait_until(lambda: d.ctl_json("ps")["requests"], 10, "it is under way")
        d.ctl("cancel", "--admin", d.ctl_json("ps")["requests"][0]["request"])
        reader.join(60)
        expect(results[0][0] == 1 and "(cancelled)" in results[0][2], f"told to its client: {results}")
        equal(verify(d, "copy")[0], 0, "and the next one runs")


def a_worker_that_dies_ends_it_with_an_error():
    d, _ = with_copy()
    sparse_checkpoint(d.directory / "big", 30)
    d.write_variant("big", {"checkpoint": str(d.directory / "big")})
    with d:
        results = []
        reader = threading.Thread(target=lambda: results.append(verify(d, "big")))
        reader.start()
        wait_until(lambda: d.ctl_json("ps")["requests"], 10, "it is under way")
        os.kill(d.role("worker"), 9)
        reader.join(60)
        expect(results[0][0] == 1 and "(worker_lost)" in results[0][2], f"told to its client: {results}")
        wait_until(lambda: d.role("worker") is not None, 10, "the worker is back")
        equal(verify(d, "copy")[0], 0, "and reads for the next one")


harness.main(a_load_records_what_it_loaded_and_nobody_waits, verify_records_what_has_no_record_and_then_agrees,
             a_change_is_told_until_somebody_says_it_is_right, the_next_load_notices_a_change_by_itself,
             a_missing_file_is_missing, serving_goes_on_while_files_are_read, a_terminal_sees_how_far_it_is,
             an_administrator_cancels_it_by_number, a_worker_that_dies_ends_it_with_an_error)
