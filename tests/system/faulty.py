"""A daemon that can be made to fail, and the bookkeeping of a fault: what clients saw, what was lost.

The daemon is the program that is installed, copied beside a pretended device (faults/fake_cuda.c, found as
libmamba2-cuda.so) and started with a library preloaded (faults/shim.c) that makes calls of the C library fail on this
side's word.  Two models are resident, "demo" on the cpu and "gpu" on the pretended device, each in a worker of its
own; both are used without pause by neighbours, who may be hurt by nothing but the end of their own worker.

A request that was answered by anything other than its one right continuation or an error with a code that its fault
may show counts as lost.  After each fault everything must be back: processes, slots, segments, descriptors.
"""
import collections
import contextlib
import mmap
import os
import re
import shutil
import struct
import threading
import time

import harness
from harness import Daemon, Failure, alive, expect, fds, mamba2, wait_until

FAULTS = harness.ROOT / "tests/system/faults"
RULES = re.findall(r"^M2_(?:FAULT|DEVICE)\((\w+)\)", (FAULTS / "rules.def").read_text(encoding="utf-8"), re.M)
PROCESSES = ("supervisor", "gate", "worker.cpu", "worker.cuda", "device")
HANG = -1
PROMPT = [1, 2, 3, 4, 5]
LENGTH = 400
PATIENCE = 30 * harness.SLOW  # seconds that a client waits for an answer
#: errors of a request whose worker has ended: its own, or those that it was ended with
LOST_WORKER = {"worker_lost", "device"}


class Rules:
    """One process's page of rules (faults/page.h)."""

    def __init__(self, path):
        path.write_bytes(b"\0" * 16 * len(RULES))
        os.chmod(path, 0o666)
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 0)

    def set(self, name, error, skip=0, times=1):
        """The call after the next `skip` ones, and `times` in all, fail with `error`."""
        at = 16 * RULES.index(name)
        struct.pack_into("i", self.page, at + 4, 0)  # disarmed while it changes
        struct.pack_into("i", self.page, at, skip)
        struct.pack_into("ii", self.page, at + 8, error, 0)
        struct.pack_into("i", self.page, at + 4, times)

    def fired(self, name):
        return struct.unpack_from("i", self.page, 16 * RULES.index(name) + 12)[0]

    def clear(self):
        for name in RULES:
            self.set(name, 0, 0, 0)


class FaultyDaemon(Daemon):
    def __init__(self, variants=None, config="", preload=True, **more):
        models = {"demo": {"preload": True, "slots": 8}, "gpu": {"preload": True, "slots": 8, "device": "cuda:0"}}
        super().__init__(models if variants is None else variants, config=config, **more)
        bin_directory = self.directory / "bin"
        bin_directory.mkdir()
        self.program = bin_directory / "mamba2d"
        shutil.copy2(harness.BUILD / "mamba2d", self.program)
        shutil.copy2(harness.BUILD / "tests/system/faults/libmamba2-cuda.so", bin_directory)
        pages = self.directory / "faults"
        pages.mkdir()
        self.rules = {name: Rules(pages / name) for name in PROCESSES}
        self.environment = {"M2_FAULTS": str(pages)}
        # a sanitizer's runtime must come first: its builds run what needs only the pretended device
        if preload and not harness.SANITIZER:
            self.environment["LD_PRELOAD"] = str(harness.BUILD / "tests/system/faults/libfaults.so")

    def worker(self, backend):
        for pid in harness.children(self.process.pid):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    line = file.read()
                if "--role=worker" in line and f"--backend={backend}" in line and alive(pid):
                    return pid
        return None

    def pid(self, name):
        return (self.process.pid if name == "supervisor" else self.role("gate") if name == "gate"
                else self.worker(name.split(".")[1]))

    def slots_used(self):
        return sum(m["slots_used"] for m in self.ctl_json("ps")["models"])


def code_of(error):
    return getattr(error, "code", "") or type(error).__name__


class Neighbour:
    """Somebody who uses a model all the time, and writes down every error."""

    def __init__(self, daemon, model, want):
        self.errors = collections.Counter()
        self.answers = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(daemon, model, want), daemon=True)
        self.thread.start()

    def run(self, daemon, model, want):
        client = None
        while not self.stop.wait(0.01):
            try:
                client = client or mamba2.Client(runtime_dir=str(daemon.runtime), timeout=60)
                with client.generate(model, tokens=PROMPT, max_tokens=24, temperature=0, ignore_eos=True) as request:
                    good = [token.id for token in request] == want[:24]
                self.answers += 1
                if not good:
                    self.errors["wrong tokens"] += 1
            except mamba2.errors.Error as error:
                self.errors[code_of(error)] += 1
        if client:
            client.close()

    def finish(self):
        self.stop.set()
        self.thread.join(90)
        expect(not self.thread.is_alive(), "a neighbour hangs")


KEEP = 10  # seconds that results are kept: longer than the longest hang


class Rig:
    """A faulty daemon with neighbours.  All requests of a fault are asked through it."""

    def __init__(self, daemon, neighbours=True):
        self.d = daemon
        with daemon.connect() as client:
            self.want = self.generate(client, "demo", LENGTH)
            expect(self.generate(client, "gpu", LENGTH) == self.want, "both devices are the same arithmetic")
        self.models = ("demo", "gpu") if neighbours else ()
        self.neighbours = {model: Neighbour(daemon, model, self.want) for model in self.models}
        self.clients = [mamba2.Client(runtime_dir=str(daemon.runtime), timeout=PATIENCE) for _ in range(4)]
        self.settle()
        self.fds = {name: fds(daemon.pid(name)) for name in PROCESSES[:4]}

    def rules(self, process):
        return self.d.rules[process]

    def generate(self, client, model, length):
        with client.generate(model, tokens=PROMPT, max_tokens=length, temperature=0, ignore_eos=True) as request:
            return [token.id for token in request]

    # ---- asking -----------------------------------------------------------------------------------------

    def one(self, number, model, length, saw, ready, options):
        try:
            with self.clients[number].generate(model, tokens=PROMPT, max_tokens=length, temperature=0,
                                               ignore_eos=True, **options) as request:
                ids = []
                for token in request:
                    ids.append(token.id)
                    ready[number].set()
                whole = ids == self.want[:length] or (length > LENGTH and ids[:LENGTH] == self.want)
            saw["answered" if whole else "wrong tokens"] += 1
        except mamba2.errors.Error as error:
            saw[code_of(error)] += 1
        finally:
            ready[number].set()

    def ask(self, model, strike=None, n=3, length=LENGTH, **options):
        """n requests at once; strike() when each has its first token.  What they saw."""
        saw = collections.Counter()
        ready = [threading.Event() for _ in range(n)]
        threads = [threading.Thread(target=self.one, args=(i, model, length, saw, ready, options), daemon=True)
                   for i in range(n)]
        for thread in threads:
            thread.start()
        if strike is not None:
            for event in ready:
                event.wait(PATIENCE)
            strike()
        for thread in threads:
            thread.join(3 * PATIENCE)
        if any(thread.is_alive() for thread in threads):
            saw["hangs"] += sum(thread.is_alive() for thread in threads)
        return saw

    def tell(self, *arguments, timeout=60):
        """A mamba2ctl command; the code of its refusal, or "done"."""
        result = self.d.ctl(*arguments, check=False, timeout=timeout)
        if result.returncode == 0:
            return collections.Counter(["done"])
        found = re.search(r"\((\w+)\)\s*$", result.stderr.strip())
        return collections.Counter([found.group(1) if found else f"exit {result.returncode}: {result.stderr[:200]}"])

    # ---- afterwards -------------------------------------------------------------------------------------

    def settle(self):
        """Everything is back: a list of what is not."""
        d, wrong = self.d, []
        for rules in d.rules.values():
            rules.clear()
        if d.process.poll() is not None:
            return ["the supervisor ended"]
        with contextlib.suppress(mamba2.errors.Error):
            self.clients[0].cancel(1)  # a word through the gate: it is there again
        for model in ("demo", "gpu"):
            saw = self.ask(model, n=1, length=8)
            if set(saw) & LOST_WORKER:  # it came between the fault and the worker's end
                saw = self.ask(model, n=1, length=8)
            if saw["answered"] != 1:
                wrong.append(f"afterwards {model} says {dict(saw)}")
        try:
            for name in PROCESSES[:4]:
                wait_until(lambda n=name: d.pid(n), 10, f"a {name}")
            # the neighbours' own are there most of the time
            wait_until(lambda: len(d.segments()) <= len(self.models), KEEP + 5, f"segments: {d.segments()}")
            wait_until(lambda: d.slots_used() <= len(self.models), 5, "slots")
            for name, before in getattr(self, "fds", {}).items():
                wait_until(lambda n=name, b=before: fds(d.pid(n)) <= b + 3, 5,
                           f"descriptors of the {name}: {fds(d.pid(name))}, were {before}")
        except (Failure, mamba2.errors.Error, OSError) as failure:
            wrong.append(str(failure))
        return wrong

    def harmed(self, hurts, codes):
        """What neighbours saw that was none of their business, since the last look."""
        wrong = []
        for model, neighbour in self.neighbours.items():
            seen, neighbour.errors = neighbour.errors, collections.Counter()
            bad = {c: n for c, n in seen.items() if model not in hurts or c not in LOST_WORKER | codes}
            if bad:
                wrong.append(f"the neighbour on {model} saw {bad}")
        return wrong

    def finish(self):
        for neighbour in self.neighbours.values():
            neighbour.finish()
        for client in self.clients:
            client.close()


# ---- faults ---------------------------------------------------------------------------------------------

Kind = collections.namedtuple("Kind", "name behaviour run codes hurts own quick")
KINDS = []


def fault(name, behaviour, codes=(), hurts=(), own=False, quick=False):
    """A kind of fault.  behaviour: what is promised.  codes: what its requests may see beside an answer.  hurts: the
    models whose worker it ends.  own: run(None) starts a daemon of its own and returns (Counter, list of wrongs);
    else run(rig) returns the Counter.  quick: one of the few of every check."""
    def add(run):
        KINDS.append(Kind(name, behaviour, run, set(codes), set(hurts), own, quick))
        return run
    return add


def strike_once(kind, rig):
    """(Counter of what clients saw, list of what went wrong)"""
    if kind.own:
        saw, wrong = kind.run(None)
    else:
        saw = kind.run(rig)
        wrong = rig.settle() + rig.harmed(kind.hurts, kind.codes)
    lost = {c: n for c, n in saw.items() if n and c not in kind.codes | {"answered", "done"}}
    if lost:
        wrong.append(f"clients saw {lost}")
    return saw, wrong


@contextlib.contextmanager
def rig(config="", neighbours=True):
    d = FaultyDaemon(config=f"step_timeout: {4 * harness.SLOW}s\nresults: {{keep: {KEEP}s}}\n" + config)
    with d:
        made = Rig(d, neighbours)
        try:
            yield made
        finally:
            made.finish()
