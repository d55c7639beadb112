#!/usr/bin/env python3
"""The whole daemon on a GPU: what a client sees through sockets and shared memory, and what it costs.

    python3 tests/gpu/serve.py [test names]        M2_BUILD names the folder with mamba2d and libmamba2-cuda.so

Tokens of the demo model are those of the CPU; two variants of published shapes (random weights, made on the spot) are
resident at once and generate for 64 clients; then figures, printed and not judged: latency from the end of a step to
the client awake, time to the first token, load rate from the page cache.  Last, a device fault on order (a build of
the backend with M2_CUDA_FAULTS in ../faulty beside M2_BUILD): errors for its clients, and a working daemon after it.
Without a GPU every test is skipped by name.
"""
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from harness import BUILD, Daemon, Skip, equal, expect, mamba2  # noqa: E402

DEVICE = os.environ.get("M2_DEVICE", "cuda:0")  # cpu: only to try this file out
CUDA = {"device": DEVICE}
PROCESSES = 16
PROMPT = [11, 222, 333, 444, 55, 66, 7]


def need_gpu():
    if DEVICE == "cpu":
        return
    if not os.path.exists("/dev/nvidiactl"):
        raise Skip("there is no NVIDIA GPU here")
    if not (BUILD / "libmamba2-cuda.so").exists():
        raise Skip("the CUDA backend is not built: make cuda")


def program(name):
    """A helper beside this file's build, or in a bundle."""
    for place in (BUILD / "tests" / "bench" / name, harness.ROOT / "tests" / "bin" / name):
        if place.exists():
            return place
    raise Skip(f"{name} is not built")


def ids(client, model, n=48, prompt=PROMPT):
    with client.generate(model, tokens=prompt, max_tokens=n, temperature=0, ignore_eos=True) as request:
        return [token.id for token in request]


class Checkpoints:
    """Random checkpoints of published shapes, bf16, in a temporary directory."""

    def __init__(self, *shapes):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="m2gpu."))
        self.path = {}
        for shape in shapes:
            directory = self.root / shape
            directory.mkdir()
            subprocess.run([program("bench_load"), "--shape", shape, "--dtype", "bf16", "--to", "stored", "--rounds", "1",
                            "--keep", "--dir", directory], check=True, capture_output=True)
            self.path[shape] = next(p for p in directory.iterdir() if p.is_dir())

    def variant(self, shape, **keys):
        return {"checkpoint": str(self.path[shape]), "tokenizer": "none", "weights": "bf16", **CUDA, **keys}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root, ignore_errors=True)


def the_gpu_gives_the_tokens_of_the_cpu():
    need_gpu()
    with Daemon({"demo": {"device": "cpu"}, "fast": CUDA}) as d:
        with d.connect(control=True) as client:
            for name in ("demo", "fast"):
                client.load(name)
            facts = client.show("fast")
            facts = facts.get("variant", facts)["resident"]
            print(f"# {facts.get('device')}: {facts.get('runs')}; {facts.get('measured')} bytes measured")
            for prompt in (PROMPT, list(range(2, 200)), [5]):
                equal(ids(client, "fast", 64, prompt), ids(client, "demo", 64, prompt), "greedy tokens")


def clients_at_once(d, models, clients, tokens):
    """Tokens per second of `clients` connections that generate at once, models in turn; wrong answers."""
    want = {}
    with d.connect() as client:
        for model in models:
            want[model] = ids(client, model, tokens)

    def work(number):
        model = models[number % len(models)]
        with d.connect() as client:
            return sum(ids(client, model, tokens) != want[model] for _ in range(3))

    # processes, each of some clients: one interpreter takes only some thousand tokens a second
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def some(numbers):
        with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
            answers.put(sum(pool.map(work, numbers)))

    processes = [context.Process(target=some, args=(range(i, clients, PROCESSES),)) for i in range(min(clients, PROCESSES))]
    start = time.monotonic()
    for process in processes:
        process.start()
    wrong = sum(answers.get(timeout=120) for _ in processes)
    took = time.monotonic() - start
    for process in processes:
        process.join()
    return clients * 3 * tokens / took, wrong


def two_variants_generate_for_64_clients():
    need_gpu()
    with Checkpoints("130m", "370m") as c:
        with Daemon({"a": c.variant("130m", slots=64), "b": c.variant("370m", slots=64)}) as d:
            with d.connect(control=True) as client:
                for name in ("a", "b"):
                    loaded = client.load(name)
                    print(f"# {name}: loaded in {loaded['load_ms']} ms, {loaded['footprint']['total']} bytes, {loaded['path']}")
            rate, wrong = clients_at_once(d, ["a", "b"], 64, 128)
            equal(wrong, 0, "answers that differ from the same request alone")
            print(f"# 64 clients on two variants: {rate:,.0f} tok/s at the clients")
            rate, wrong = clients_at_once(d, ["a"], 64, 128)
            equal(wrong, 0, "answers that differ from the same request alone")
            print(f"# 64 clients on 130m: {rate:,.0f} tok/s at the clients")


def latency_beside_the_engine():
    need_gpu()
    with Checkpoints("130m") as c:
        with Daemon({"a": c.variant("130m", slots=8)}) as d:
            d.ctl("load", "a")
            result = subprocess.run([program("bench_latency"), d.runtime, "a", "300", "64"], check=True,
                                    capture_output=True, text=True)
            print("".join(f"# {line}\n" for line in result.stdout.splitlines()), end="")


def load_rate_from_the_page_cache():
    need_gpu()
    with Checkpoints("2.7b") as c:
        with Daemon({"big": c.variant("2.7b", slots=1)}) as d:
            with d.connect(control=True) as client:
                for turn in ("first", "again"):
                    start = time.monotonic()
                    loaded = client.load("big")
                    took = time.monotonic() - start
                    print(f"# 2.7b {turn}: {took:.2f} s, {5.405 / took:.2f} GB/s of the file, {loaded['load_ms']} ms")
                    client.unload("big")


def cuda_worker(d):
    """Process id of the worker of the GPU: the cpu has one as well."""
    for pid in harness.children(d.process.pid):
        with contextlib.suppress(OSError):
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            if "--role=worker" in line and "--backend=cuda" in line and harness.alive(pid):
                return pid
    return None


def a_device_fault_ends_with_errors_and_a_working_daemon():
    need_gpu()
    faulty = BUILD.parent / "faulty"
    if not (faulty / "libmamba2-cuda.so").exists():
        raise Skip("no build with faults: make gpu-bundle")
    harness.BUILD = faulty
    try:
        with Daemon({"demo": CUDA}) as d:
            with d.connect(control=True) as client:
                client.load("demo")
                want = ids(client, "demo")
                worker = cuda_worker(d)
                # the last row of the vocabulary as a prompt is the order for a fault
                doomed = [client.generate("demo", tokens=[9, 8], max_tokens=100000, temperature=0, ignore_eos=True)
                          for _ in range(4)]
                try:
                    ids(client, "demo", 4, [2047])
                    raise harness.Failure("the fault was not provoked")
                except mamba2.Error as error:
                    print(f"# the request that provoked it: {error}")
                for request in doomed:
                    try:
                        request.result(30)
                        raise harness.Failure("a request outlived its device")
                    except mamba2.Error as error:
                        print(f"# one beside it: {error}")
                harness.wait_until(lambda: cuda_worker(d) not in (None, worker), 30, "a new worker")
                equal(ids(client, "demo"), want, "tokens after the fault")
                expect(d.process.poll() is None, "the daemon lives")
    finally:
        harness.BUILD = BUILD


harness.main(the_gpu_gives_the_tokens_of_the_cpu, two_variants_generate_for_64_clients, latency_beside_the_engine,
             load_rate_from_the_page_cache, a_device_fault_ends_with_errors_and_a_working_daemon)
