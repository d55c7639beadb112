"""Faults of parking: two variants on the pretended GPU that has room for one of them (see faulty.py)."""
import collections
import contextlib
import os
import signal
import threading

from faulty import LENGTH, LOST_WORKER, FaultyDaemon, Rig, fault
from harness import equal, mamba2, wait_until

ENOMEM, EDEVICE = 6, 11  # numbers of enum m2_err, for the device


class Pair:
    """"gpu" is resident and "other" is parked; neighbours use "demo" on the cpu."""

    def __init__(self, d):
        self.d, self.wrong = d, []
        self.rig = Rig(d, neighbours=False)
        self.rules = d.rules["device"]
        self.rig.tell("load", "other")
        size = max(m["bytes"] for m in d.ctl_json("ps")["models"] if m["device"] == "cuda:0")
        d.config_path.write_text(f"memory: {{stay: 0s, budgets: [\"cuda:0={size}\"], parked: 1G}}\n")
        d.ctl("reload")
        self.ask("gpu")
        self.wait(gpu="resident", other="parked")

    def states(self):
        return {m["name"]: m["state"] for m in self.d.ctl_json("ps")["models"]}

    def wait(self, **want):
        wait_until(lambda: all(self.states().get(n) == s for n, s in want.items()), 10, f"{want}")

    def ask(self, model, length=40, strike=None):
        return self.rig.ask(model, strike, n=2, length=length)

    def well(self):
        """Both answer again, within the budget, with empty slots."""
        for rules in self.d.rules.values():
            rules.clear()
        for model in ("other", "gpu", "demo"):
            saw = self.ask(model)
            if set(saw) & LOST_WORKER:
                saw = self.ask(model)
            if saw["answered"] != 2:
                self.wrong.append(f"afterwards {model} says {dict(saw)}")
        if sum(s == "resident" for n, s in self.states().items() if n != "demo") != 1:
            self.wrong.append(f"residents: {self.states()}")
        if self.rules.fired("dirty"):
            self.wrong.append("a slot that was not empty")


def parking(name, behaviour, codes=(), quick=False):
    def add(run):
        @fault(name, behaviour, codes, own=True, quick=quick)
        def with_daemon(_):
            variants = {n: {"slots": 4, "device": "cuda:0"} for n in ("gpu", "other")}
            d = FaultyDaemon({"demo": {"slots": 4}, **variants}, config="memory: {stay: 0s}\n", preload=False)
            with d:
                pair = Pair(d)
                try:
                    saw = run(pair)
                    pair.well()
                finally:
                    pair.rig.finish()
            return saw, pair.wrong
        return with_daemon
    return add


@parking("parking: the host has no memory for it", "unloaded instead; who asks is answered")
def no_memory_to_park(p):
    p.rules.set("park", ENOMEM)
    saw = p.ask("other")
    equal("gpu" in p.states(), False, "gpu was unloaded")
    return saw


@parking("parking: the device fails while it parks", "unloaded instead; who asks is answered")
def park_fails(p):
    p.rules.set("park", EDEVICE)
    return p.ask("other")


@parking("parking: no room to come back to", "refused, no_memory; the next request loads it", {"no_memory"}, quick=True)
def no_room_to_return(p):
    p.rules.set("unpark", ENOMEM)
    return p.ask("other")


@parking("parking: the device fails when it comes back", "refused with the device's error; the next request loads it", {"device"})
def return_fails(p):
    p.rules.set("unpark", EDEVICE)
    return p.ask("other")


@parking("parking: its checkpoint is gone meanwhile", "it comes back all the same, with the same answers")
def checkpoint_gone(p):
    text = (p.d.variants / "other.yaml").read_text(encoding="utf-8")
    moved = p.d.directory / "moved"
    os.symlink(text.split("checkpoint: ")[1].splitlines()[0], moved)
    p.d.write_variant("moved", text.replace("name: other", "name: moved").replace(
        text.split("checkpoint: ")[1].splitlines()[0], str(moved)))
    p.d.ctl("reload")
    saw = p.ask("moved")
    saw += p.ask("gpu")
    moved.unlink()
    saw += p.ask("moved")
    p.rig.tell("unload", "moved")
    return saw


@parking("parking: SIGKILL of the worker while one is parked", "worker_lost for who runs; what was parked is loaded again",
         LOST_WORKER)
def worker_killed(p):
    return p.ask("gpu", LENGTH, lambda: os.kill(p.d.worker("cuda"), signal.SIGKILL))


@parking("parking: SIGKILL of the worker while it comes back", "loaded again, and answered", LOST_WORKER)
def worker_killed_returning(p):
    timer = threading.Timer(0.002, lambda: os.kill(p.d.worker("cuda"), signal.SIGKILL))
    timer.start()
    saw = p.ask("other")
    timer.join()
    return saw


@parking("parking: unloaded while it is parked for another", "gone, or back and gone; who waits is told", {"cancelled"})
def unloaded_meanwhile(p):
    saw = collections.Counter()
    thread = threading.Thread(target=lambda: saw.update(p.ask("other")))
    thread.start()
    done = p.rig.tell("unload", "gpu", "--wait", "1") + p.rig.tell("unload", "other", "--wait", "1")
    thread.join()
    saw["done"] = done["done"] + done["not_found"]
    return saw


@parking("parking: asked for by turns without pause", "each answered right, and never over the budget")
def by_turns(p):
    saw = collections.Counter()
    budget = [d["memory_budget"] for d in p.d.ctl_json("ps")["devices"] if d["device"] == "cuda:0"][0]

    def turns(model):
        with mamba2.Client(runtime_dir=str(p.d.runtime), timeout=60) as client:
            for _ in range(12):
                with contextlib.suppress(mamba2.errors.Error):
                    saw["answered" if p.rig.generate(client, model, 20) == p.rig.want[:20] else "wrong tokens"] += 1
    threads = [threading.Thread(target=turns, args=(m,)) for m in ("gpu", "other", "gpu", "other")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        held = [d["memory_models"] for d in p.d.ctl_json("ps")["devices"] if d["device"] == "cuda:0"]
        if held and held[0] > budget:
            p.wrong.append(f"{held} bytes of {budget}")
    for thread in threads:
        thread.join()
    equal(saw["answered"], 48, f"answers: {dict(saw)}")
    return saw
