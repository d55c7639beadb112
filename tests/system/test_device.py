#!/usr/bin/env python3
"""A variant that names a GPU on a host that cannot give it: one plain sentence, at once, and nothing else changes."""
import os
import pathlib
import shutil
import tempfile

import harness
from harness import Daemon, Skip, expect, mamba2


def refusal(device):
    """What loading and generating say of a variant on that device; a variant on the CPU goes on."""
    with Daemon({"demo": {}, "fast": {"device": device}}) as d:
        with d.connect(control=True) as client:
            client.load("demo")
            said = []
            for ask in (lambda: client.load("fast"), lambda: client.generate("fast", tokens=[1], max_tokens=1).result()):
                try:
                    ask()
                    raise harness.Failure(f"{device} was accepted")
                except mamba2.Error as error:
                    said.append(str(error))
            expect(said[0] == said[1] or said[0] in said[1], f"load and generate say the same: {said}")
            shown = d.ctl("load", "fast", check=False)
            expect(shown.returncode == 1 and shown.stderr.count("\n") == 1, f"one sentence: {shown.stderr!r}")
            with client.generate("demo", tokens=[1], max_tokens=2, temperature=0, ignore_eos=True) as request:
                expect(len(list(request)) == 2, "the CPU's variant generates")
            return said[0]


def with_programs(copy_object, test):
    """Run a test with programs in a folder of their own, with or without the CUDA backend beside them."""
    kept = harness.BUILD
    folder = pathlib.Path(tempfile.mkdtemp(prefix="m2device."))
    try:
        for name in ("mamba2d", "mamba2ctl", *(("libmamba2-cuda.so",) if copy_object else ())):
            shutil.copy2(kept / name, folder / name)
        harness.BUILD = folder
        return test()
    finally:
        harness.BUILD = kept
        shutil.rmtree(folder)


def without_the_backend_the_refusal_says_so():
    said = with_programs(False, lambda: refusal("cuda:0"))
    expect("the CUDA backend is not installed here" in said, said)


def without_a_driver_the_refusal_says_so():
    if os.path.exists("/dev/nvidiactl"):
        raise Skip("there is an NVIDIA driver here")
    if not (harness.BUILD / "libmamba2-cuda.so").exists():
        raise Skip("the CUDA backend is not built: make cuda, which needs nvcc")
    said = with_programs(True, lambda: refusal("cuda:0"))
    expect("is the NVIDIA driver loaded" in said, said)


harness.main(without_the_backend_the_refusal_says_so, without_a_driver_the_refusal_says_so)
