#!/usr/bin/env python3
"""A few of the faults of fault_kinds.py, fault_parking.py and fault_places.py, once each, and what must not depend on any of them.

Every kind, many times, with a table of what clients saw: tests/bench/faults.py.
"""
import collections
import os
import signal
import socket

import harness
import fault_kinds  # noqa: F401  pylint: disable=unused-import
import fault_parking  # noqa: F401  pylint: disable=unused-import
import fault_places  # noqa: F401  pylint: disable=unused-import
from faulty import KINDS, PROMPT, FaultyDaemon, Neighbour, Rig, strike_once
from harness import SANITIZER, Skip, as_user, equal, expect, mamba2, need_root, wait_until

#: what a sanitizer's build runs: those that preload nothing
BARE = {"gate: SIGKILL", "worker: SIGKILL while it generates", "device: lost in a step", "device: a step hangs",
        "device: somebody else has filled it", "registry: random bytes at the start", "supervisor: SIGKILL"}
shared = {}  # the rig of all that need none of their own


def of_kind(kind):
    def test():
        if SANITIZER and kind.name not in BARE:
            raise Skip("the sanitizer's runtime wants to be preloaded first; run by the release build")
        saw, wrong = strike_once(kind, None if kind.own else shared["rig"])
        expect(not wrong, f"{kind.behaviour}: {wrong}")
        expect(sum(saw.values()) > 0, "somebody saw something")
    test.__name__ = kind.name.translate(str.maketrans(" -", "__", ",:().'")) + "_harms_nobody"
    return test


def at_least_forty_kinds_are_known_each_with_its_promise():
    expect(len(KINDS) >= 40, f"{len(KINDS)} kinds")
    equal([n for n, count in collections.Counter(k.name for k in KINDS).items() if count > 1], [], "names taken twice")
    equal([k.name for k in KINDS if len(k.behaviour) < 8], [], "without a promise")


def a_slot_is_empty_when_its_next_user_begins():
    """The pretended device looks into the slot at the first step of every sequence."""
    rules = shared["rig"].rules("device")
    rules.set("clean", 0, 0, 0)
    rules.set("dirty", 0, 0, 0)
    saw = shared["rig"].ask("gpu", n=3, length=30)
    with shared["rig"].clients[0].generate("gpu", tokens=PROMPT * 40, max_tokens=1000, ignore_eos=True) as request:
        next(iter(request))
        request.cancel()  # left in the middle
        request.wait_finished(20)
    saw += shared["rig"].ask("gpu", n=4, length=30)
    equal(saw["answered"], 7, f"answers: {saw}")
    expect(rules.fired("clean") >= 8, f"{rules.fired('clean')} first steps were looked at")
    equal(rules.fired("dirty"), 0, "slots that held something")


def no_wait_depends_on_the_wall_clock():
    """Once it runs, nothing asks for the wall clock but what writes down when something happened."""
    if SANITIZER:
        raise Skip("needs the preloaded library; run by the release build")
    r = shared["rig"]
    for process in ("worker.cuda", "gate"):
        r.rules(process).set("realtime", 0, 0, 1)
    equal(r.ask("gpu", n=3, length=40)["answered"], 3, "answers")
    for process in ("worker.cuda", "gate"):
        equal(r.rules(process).fired("realtime"), 0, f"looks of the {process} at the wall clock")


def one_user_opens_so_many_connections_and_no_more_and_others_open_theirs():
    need_root()
    config = "connections_per_user: 8\n"
    with harness.Daemon({"demo": {"preload": True}}, config=config) as d:
        gate = d.role("gate")
        before = harness.fds(gate)
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(60)]
        for s in crowd:
            s.connect(str(d.runtime / "client.sock"))
        wait_until(lambda: harness.fds(gate) <= before + 8, 10, f"8 are left of {harness.fds(gate) - before}")
        wait_until(lambda: "connections_per_user" in d.log(), 5, "the log says so")

        def generate():
            with mamba2.Client(runtime_dir=str(d.runtime), timeout=20, connect_timeout=5) as client:
                with client.generate("demo", tokens=[1, 2], max_tokens=4, ignore_eos=True) as request:
                    return len(list(request))
        if not SANITIZER:
            equal(as_user(61004, generate), 4, "another user's tokens")
        equal(d.ctl_json("status")["version"][:1], "0", "the control endpoint counts apart")
        for s in crowd:
            s.close()
        wait_until(lambda: harness.fds(gate) <= before, 10, "descriptors are back")
        equal(generate(), 4, "tokens once they have gone")
        equal(d.role("gate"), gate, "the gate's process")


def a_gate_that_stops_beating_is_ended_and_what_runs_goes_on():
    with harness.Daemon({"demo": {"preload": True}}, config=f"step_timeout: {2 * harness.SLOW}s\n") as d:
        gate = d.role("gate")
        with d.connect() as client:
            with client.generate("demo", tokens=PROMPT, max_tokens=20000, temperature=0, ignore_eos=True) as request:
                next(iter(request))
                os.kill(gate, signal.SIGSTOP)
                had = request.count()
                wait_until(lambda: request.count() > had + 50, 5, "tokens while the gate stands still")
                wait_until(lambda: d.role("gate") not in (None, gate), 10, "another gate")
                expect(not harness.alive(gate), "the one that hung is gone")
                client.ps()  # through the new one
                request.cancel()
        equal(len(d.ctl_json("generate", "demo", "--tokens", "1,2", "--max-tokens", "3", "--ignore-eos")["completions"]), 1,
              "answers of the new gate")
        expect("it has been silent" in d.log(), "the log says why")


def a_load_without_memory_is_one_sentence_and_nobody_else_is_harmed():
    """The worker's addresses are limited (RLIMIT_AS) to little more than it has."""
    if SANITIZER:
        raise Skip("a sanitizer's runtime needs its addresses")
    with FaultyDaemon({"demo": {"preload": True}, "gpu": {"device": "cuda:0"}}, preload=False) as d:
        d.ctl("load", "gpu", "--dry-run")  # its worker is there
        neighbour, worker, others = None, d.worker("cuda"), d.worker("cpu")
        with d.connect() as client:
            want = [t.id for t in client.generate("demo", tokens=PROMPT, max_tokens=200, temperature=0, ignore_eos=True)]
            neighbour = Neighbour(d, "demo", want)
            refused = fault_kinds.limited(d, "worker.cuda", 2 << 20, lambda: d.ctl("load", "gpu", check=False))
            equal(refused.returncode, 1, "exit status")
            expect("memory" in refused.stderr and refused.stderr.count("\n") == 1, f"one sentence: {refused.stderr!r}")
            equal(d.worker("cuda"), worker, "the worker lives")
            d.ctl("load", "gpu")
            equal([t.id for t in client.generate("gpu", tokens=PROMPT, max_tokens=200, temperature=0, ignore_eos=True)], want,
                  "what it says once there is memory")
        neighbour.finish()
        equal((dict(neighbour.errors), d.worker("cpu")), ({}, others), "the neighbour's errors, and its worker")
        expect(neighbour.answers > 0, "the neighbour was answered")


def start():
    d = FaultyDaemon(config=f"step_timeout: {4 * harness.SLOW}s\nresults: {{keep: 2s}}\n")
    d.start()
    shared["rig"], shared["daemon"] = Rig(d), d


def a_daemon_that_can_be_made_to_fail_is_up():
    start()


def nothing_is_left_of_all_this():
    shared["rig"].finish()
    shared["daemon"].stop()
    harness.shutil.rmtree(shared["daemon"].directory)


try:
    harness.main(at_least_forty_kinds_are_known_each_with_its_promise, a_daemon_that_can_be_made_to_fail_is_up,
                 *[of_kind(k) for k in KINDS if k.quick and not k.own], a_slot_is_empty_when_its_next_user_begins,
                 no_wait_depends_on_the_wall_clock, nothing_is_left_of_all_this,
                 *[of_kind(k) for k in KINDS if k.quick and k.own],
                 a_gate_that_stops_beating_is_ended_and_what_runs_goes_on,
                 a_load_without_memory_is_one_sentence_and_nobody_else_is_harmed,
                 one_user_opens_so_many_connections_and_no_more_and_others_open_theirs)
finally:
    if "daemon" in shared:
        shared["daemon"].kill()
        harness.shutil.rmtree(shared["daemon"].directory, ignore_errors=True)
