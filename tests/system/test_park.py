#!/usr/bin/env python3
"""Parking: what leaves a device for another keeps its weights in host memory, comes back with the same bits and without
its checkpoint, and leaves host memory by the rules.  The device is a pretended GPU (faults/fake_cuda.c), which unloads
what is parked and makes it anew from a copy of its weights."""
import os
import signal

import crowd
import faulty
import harness
from harness import equal, expect, wait_until

ENOMEM = 6  # of enum m2_err


def make(count, keys=""):
    """A daemon, not started, with `count` variants on the pretended GPU.  Budgets come with budget()."""
    d = faulty.FaultyDaemon({}, config="memory: {stay: 0s}\n", preload=False)
    for name, text in crowd.write_models(d.directory, count).items():
        d.write_variant(name, text + f"device: cuda:0\n{keys}")
    return d


def budget(d, device, parked):
    d.config_path.write_text(f"memory:\n  budgets: [cuda:0={device}]\n  stay: 0s\n  parked: \"{parked}\"\n")
    d.ctl("reload")


def models(d):
    return {m["name"]: m for m in d.ctl_json("ps")["models"]}


def states(d):
    return {name: m["state"] for name, m in models(d).items()}


def wait_states(d, want, what):
    wait_until(lambda: states(d) == want, 5, f"{what}: {want}")


def counted(d):
    return d.ctl_json("status")["counters"]


def ask(d, name):
    with d.connect() as client:
        return crowd.tokens(client, name, 6)


def it_comes_back_with_the_same_bits_and_without_its_checkpoint():
    d = make(3)
    with d:
        want = {name: ask(d, name) for name in ("v0", "v1", "v2")}
        sizes = {name: m["bytes"] for name, m in models(d).items()}
        weights = {name: m["weights"] for name, m in models(d).items()}
        # room for the largest, or for the two others
        budget(d, max(sizes.values()), "1G")
        wait_until(lambda: sorted(states(d).values()) == ["parked", "parked", "resident"], 5, "the two used first are parked")
        for place in d.directory.glob("checkpoint-*"):
            place.rename(d.directory / f"gone-{place.name}")
        before = counted(d)
        for name in ("v0", "v2", "v1", "v0", "v2"):
            equal(ask(d, name), want[name], f"tokens of {name}")
            shown = models(d)
            equal(shown[name]["state"], "resident", f"state of {name}")
            expect(sum(m["bytes"] for m in shown.values()) <= max(sizes.values()), "the device's budget is kept")
            for other in want:
                held = (sizes[other], 0) if shown[other]["state"] == "resident" else (0, weights[other])
                equal((shown[other]["bytes"], shown[other]["parked"]), held, f"{other}, {shown[other]['state']}, after {name}")
        after = counted(d)
        equal(after["loads"], before["loads"], "loads from a checkpoint")
        equal(after["returns"] - before["returns"], 5, "returns from host memory")
        device = d.ctl_json("ps")["devices"][-1]
        equal(device["memory_parked"], weights["v0"] + weights["v1"], "host memory of the device's models")
        equal(d.rules["device"].fired("dirty"), 0, "slots that were not empty at a first step")
        expect("parked" in d.ctl("ps").stdout, "ps says so in text")


def a_dry_run_says_what_comes_back_and_who_is_parked_for_it():
    d = make(2)
    with d:
        ask(d, "v0")
        ask(d, "v1")
        sizes = {name: m["bytes"] for name, m in models(d).items()}
        budget(d, max(sizes.values()), "1G")
        wait_states(d, {"v0": "parked", "v1": "resident"}, "room for one")
        dry = d.ctl_json("load", "v0", "--dry-run")
        equal((dry["state"], dry["outcome"], dry["missing"] > 0), ("parked", "evicts", True), "what it says")
        equal([(x["name"], x["parks"]) for x in dry["leaves"]], [("v1", True)], "who leaves for it")
        equal(dry["footprint"]["total"], sizes["v0"], "bytes")
        text = d.ctl("load", "v0", "--dry-run").stdout
        expect("comes back from host memory" in text and "parked in host memory" in text, text)
        equal(states(d), {"v0": "parked", "v1": "resident"}, "nothing has changed")
        d.ctl("load", "v0")
        equal(states(d), {"v0": "resident", "v1": "parked"}, "what load then does")
        # without room in host memory the same is said of unloading
        budget(d, max(sizes.values()), "0")
        wait_states(d, {"v0": "resident"}, "no host memory for what was parked")
        dry = d.ctl_json("load", "v1", "--dry-run")
        equal((dry["state"], [(x["name"], x["parks"]) for x in dry["leaves"]]), ("registered", [("v0", False)]), "unloading")


def host_memory_is_for_those_used_last_and_never_over_its_budget():
    d = make(4)
    with d:
        for name in ("v0", "v1", "v2", "v3"):
            ask(d, name)
        sizes = {name: m["bytes"] for name, m in models(d).items()}
        weights = {name: m["weights"] for name, m in models(d).items()}
        room = max(weights.values()) + weights["v0"]
        budget(d, max(sizes.values()), room)
        wait_until(lambda: sum(m["bytes"] for m in models(d).values()) <= max(sizes.values()), 5, "the smaller budget")
        expect(sum(m["parked"] for m in models(d).values()) <= room, "what left and has no room is gone")
        for name in ("v0", "v3", "v1", "v2", "v0", "v3"):
            ask(d, name)
            shown = models(d)
            host = sum(m["parked"] for m in shown.values())
            expect(host <= room, f"{host} bytes are parked, {room} may be")
            expect(sum(m["bytes"] for m in shown.values()) <= max(sizes.values()), "the device's budget")
            equal(shown[name]["state"], "resident", f"state of {name}")
            expect(any(m["parked"] for m in shown.values()), f"somebody is parked: {states(d)}")
        expect(counted(d)["parks_dropped"] > 0, "some were let go for others")


def what_cannot_be_parked_is_unloaded_and_what_cannot_come_back_is_loaded():
    d = make(2)
    with d:
        want = {name: ask(d, name) for name in ("v0", "v1")}
        rules = d.rules["device"]
        rules.set("park", ENOMEM)
        budget(d, max(m["bytes"] for m in models(d).values()), "1G")
        wait_states(d, {"v1": "resident"}, "v0 was unloaded")
        equal((rules.fired("park"), counted(d)["parks"]), (1, 0), "tried, and not done")
        equal(ask(d, "v0"), want["v0"], "v0 from its checkpoint")
        equal(states(d), {"v0": "resident", "v1": "parked"}, "v1 is parked now")
        rules.set("unpark", ENOMEM)
        try:
            ask(d, "v1")
            raise harness.Failure("an answer without weights")
        except harness.mamba2.Error as error:
            equal(error.code, "no_memory", "the one that waited")
        equal(ask(d, "v1"), want["v1"], "v1 from its checkpoint")


def a_worker_takes_what_is_parked_along():
    d = make(2)
    with d:
        want = {name: ask(d, name) for name in ("v0", "v1")}
        budget(d, max(m["bytes"] for m in models(d).values()), "1G")
        wait_states(d, {"v0": "parked", "v1": "resident"}, "room for one")
        os.kill(d.worker("cuda"), signal.SIGKILL)
        wait_states(d, {"v1": "resident"}, "what was resident is loaded again")
        equal(ask(d, "v0"), want["v0"], "v0 from its checkpoint")


def it_leaves_by_keep_alive_by_unload_and_when_it_is_another():
    d = make(3)
    with d:
        for name in ("v0", "v1", "v2"):
            ask(d, name)
        budget(d, max(m["bytes"] for m in models(d).values()), "1G")
        wait_states(d, {"v0": "parked", "v1": "parked", "v2": "resident"}, "room for one")
        unloaded = d.ctl_json("unload", "v0")
        equal(unloaded["name"], "v0", "unload of what is parked")
        expect("v0" not in states(d), "v0 is gone")
        text = (d.variants / "v1.yaml").read_text(encoding="utf-8")
        d.write_variant("v1", text.replace("queue: 4096", "queue: 4095"))
        d.ctl("reload")
        wait_states(d, {"v2": "resident"}, "v1 is another now")
        before = counted(d)["loads"]
        ask(d, "v1")
        equal(counted(d)["loads"], before + 1, "loads")
    d = make(2, keys="keep_alive: 1s\n")
    with d:
        ask(d, "v0")
        ask(d, "v1")
        budget(d, max(m["bytes"] for m in models(d).values()), "1G")
        wait_until(lambda: states(d).get("v0") == "parked" or "v0" not in states(d), 5, "v0 is parked")
        wait_states(d, {}, "both leave when keep_alive is over")


harness.main(it_comes_back_with_the_same_bits_and_without_its_checkpoint,
             a_dry_run_says_what_comes_back_and_who_is_parked_for_it,
             host_memory_is_for_those_used_last_and_never_over_its_budget,
             what_cannot_be_parked_is_unloaded_and_what_cannot_come_back_is_loaded,
             a_worker_takes_what_is_parked_along,
             it_leaves_by_keep_alive_by_unload_and_when_it_is_another)
