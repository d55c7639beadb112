#!/usr/bin/env python3
"""Residency: a budget for three variants and ten that are asked for; who leaves and who stays; a load that is refused
changes nothing; and --dry-run says beforehand exactly what load then does."""
import json
import os
import signal
import threading
import time

import crowd
import harness
import models
from harness import equal, expect, wait_until

REQUESTS = int(os.environ.get("M2_BUDGET_REQUESTS", "80" if harness.SANITIZER else "300"))


def resident(d):
    return sorted(m["name"] for m in d.ctl_json("ps")["models"] if m["state"] == "resident")


def ten_variants_share_a_budget_for_three():
    d = crowd.make(10)
    with d:
        sizes = crowd.footprints(d)
        equal(len(set(sizes.values())), 10, "sizes of the ten")
        want = crowd.answers(d)  # without a budget all ten are resident
        equal(len(resident(d)), 10, "resident without a budget")
        expect(any(want[a] != want["v0"] for a in want), "different models answer differently")
        # the budget is set below all that is resident: the idle ones leave at once
        budget = sum(sorted(sizes.values())[-3:])
        crowd.configure(d, budget)
        d.ctl("reload")
        wait_until(lambda: sum(sizes[n] for n in resident(d)) <= budget, 10, "the smaller budget is kept")
        before = d.ctl_json("status")["counters"]
        watch = crowd.Watch(d, budget)
        mix = crowd.Crowd(d, want, clients=6, requests=REQUESTS)
        seconds = mix.run(watch)
        watch.close()
        after = d.ctl_json("status")["counters"]
        equal(after["finished"] - before["finished"], REQUESTS, "requests that were answered")
        loads = after["loads"] - before["loads"]
        best = crowd.optimum(mix.order, sizes, budget)
        plain = crowd.least_recent(mix.order, sizes, budget)
        print(f"# {REQUESTS} requests in {seconds:.1f} s: {loads} loads; in the order sent Belady's optimum has {best}, "
              f"plain LRU {plain}; most resident {watch.most} of {budget} bytes "
              f"in {watch.looks} looks; slowest {mix.slowest:.2f} s")
        # how many wait for each other depends on the machine; one after another would be as many as plain LRU
        expect(loads <= 1.1 * plain, f"{loads} loads are no thrash beside {plain} and {best}")


def a_dry_run_says_what_load_does():
    d = crowd.make(5)
    with d:
        sizes = crowd.footprints(d)
        budget = sizes["v0"] + sizes["v1"] + sizes["v2"]
        crowd.configure(d, budget)
        d.ctl("reload")
        outcomes = set()
        for name in ("v0", "v1", "v2", "v3", "v4", None):
            before = resident(d)
            name = name or next(n for n in sizes if n not in before)
            dry = d.ctl_json("load", name, "--dry-run")
            equal(resident(d), before, "a dry run changes nothing")
            text = d.ctl("load", name, "--dry-run").stdout
            expect(f"{dry['footprint']['total']}" in text and name in text, f"the text has the figures: {text}")
            loaded = d.ctl_json("load", name)
            equal(loaded["footprint"], dry["footprint"], f"footprint of {name}")
            left = sorted(set(before) - set(resident(d)))
            equal(left, sorted(x["name"] for x in dry["leaves"]), f"who left for {name}")
            equal(dry["outcome"], "evicts" if left else "loads", f"outcome for {name}")
            equal(dry["budget_left"], budget - sum(sizes[n] for n in before), "what the budget leaves")
            outcomes.add(dry["outcome"])
            equal(d.ctl_json("load", name, "--dry-run")["outcome"], "resident", "a second dry run")
        equal(outcomes, {"loads", "evicts"}, "outcomes that were seen")
        bad = d.ctl("load", "nobody", "--dry-run", check=False)
        equal(bad.returncode, 1, "exit status for a name that is not registered")


def the_least_recently_used_leave_and_the_pinned_stay():
    d = crowd.make(5, keys={"v1": "pinned: true\nkeep_alive: 0s\n"})
    with d:
        sizes = crowd.footprints(d)
        crowd.configure(d, sizes["v0"] + sizes["v1"] + sizes["v2"] + max(sizes["v3"], sizes["v4"]))
        d.ctl("reload")
        for name in ("v0", "v1", "v2"):
            d.ctl("load", name)
        d.ctl("load", "v2", "--pin")
        with d.connect() as client:
            for name in ("v1", "v2", "v3", "v0", "v4"):
                crowd.tokens(client, name)
        models = {m["name"]: m for m in d.ctl_json("ps")["models"]}
        equal([models[n]["pinned"] for n in ("v1", "v2")], [True, True], "pinned by its file, and by --pin")
        expect("v3" not in models and "v0" in models, f"v3 was used longer ago than v0: {sorted(models)}")
        expect("pinned" in d.ctl("ps").stdout, "ps says so in text")
        d.ctl("unload", "v2")
        expect("v2" not in resident(d), "unload takes a pinned one down")


def what_cannot_fit_is_refused_and_nothing_has_changed():
    d = crowd.make(4, keys={"v0": "pinned: true\n"})
    with d:
        sizes = crowd.footprints(d)
        big = max(("v1", "v2", "v3"), key=sizes.get)
        small = [n for n in ("v1", "v2", "v3") if n != big]
        crowd.configure(d, sizes["v0"] + sizes[big] - 1)
        d.ctl("reload")
        for name in ("v0", small[0]):
            d.ctl("load", name)
        before, counted = resident(d), d.ctl_json("status")["counters"]
        dry = d.ctl_json("load", big, "--dry-run")
        equal((dry["outcome"], dry["missing"], dry["leaves"]), ("refused", 1, []), "what the dry run says")
        refused = d.ctl("load", big, check=False)
        equal(refused.returncode, 1, "exit status")
        expect(dry["refusal"]["message"] in refused.stderr, f"{dry['refusal']['message']!r} in {refused.stderr!r}")
        for part in (f"{sizes[big]} bytes", "1 are missing", f"v0 ({sizes['v0']} bytes, pinned)"):
            expect(part in refused.stderr, f"{part!r} in {refused.stderr!r}")
        with d.connect() as client:
            try:
                crowd.tokens(client, big)
                raise harness.Failure("a request for it was answered")
            except harness.mamba2.Error as error:
                equal(error.code, "no_memory", "a request for it")
        equal(resident(d), before, "who is resident")
        after = d.ctl_json("status")["counters"]
        equal([after[k] for k in ("loads", "unloads")], [counted[k] for k in ("loads", "unloads")], "loads and unloads")


def what_the_device_has_not_free_is_refused_before_anything_is_taken():
    """4,096 sequences of a model of the size of mamba2-2.7b: 700 GB of state, of a checkpoint that is a hole."""
    d = crowd.make(2)
    crowd.write_hole(d.directory / "huge", models.Shape(d=2560, layers=64, heads=80, head_dim=64, state=128, rows=50288))
    d.write_variant("huge", f"name: huge\ncheckpoint: {d.directory / 'huge'}\ntokenizer: none\nslots: 4096\n")
    with d:
        d.ctl("load", "v0")
        dry = d.ctl_json("load", "huge", "--dry-run")
        if dry["footprint"]["total"] <= dry["memory_free"]:
            raise harness.Skip("this machine has room for it")
        worker = d.role("worker")
        memory = harness.rss_kib(worker)
        refused = d.ctl("load", "huge", check=False)
        expect(dry["outcome"] == "refused" and dry["refusal"]["message"].split(" and ")[0] in refused.stderr, f"{refused.stderr}")
        # what others take changes between the two: only the sentence's shape can be compared
        for part in (f"huge takes {dry['footprint']['total']} bytes", "are missing", f"of {dry['memory_total']}",
                     "v0 ("):
            expect(part in refused.stderr, f"{part!r} in {refused.stderr!r}")
        equal(d.role("worker"), worker, "the worker lives")
        expect(harness.SANITIZER or harness.rss_kib(worker) < memory + 16384, "nothing was taken")
        equal(resident(d), ["v0"], "v0 did not leave for it")


def preloads_keep_to_the_budget_and_come_back_with_their_worker():
    d = crowd.make(4, keys={n: "preload: true\n" for n in ("v0", "v1", "v2")})
    d.start()
    try:
        wait_until(lambda: len(resident(d)) == 3, 20, "the preloads are resident")
        sizes = crowd.footprints_of_residents(d)
        d.stop()
        budget = sizes["v0"] + sizes["v1"]
        crowd.configure(d, budget)
        d.start()
        equal(resident(d), ["v0", "v1"], "READY comes when those are resident that fit; no preload drives another out")
        expect("v2 takes" in d.log() and "are missing" in d.log(), "why v2 is not is in the log")
        d.ctl("load", "v0", "--pin")
        os.kill(d.role("worker"), signal.SIGKILL)
        wait_until(lambda: resident(d) == ["v0", "v1"], 20, "both are back")
        expect(crowd.pinned(d) == ["v0"], "v0 is pinned still")
        d.stop()
    finally:
        d.__exit__(None)


def two_that_never_idle_take_turns():
    d = crowd.make(2)
    with d:
        sizes = crowd.footprints(d)
        crowd.configure(d, max(sizes.values()))
        d.ctl("reload")
        end = time.monotonic() + harness.SLOW
        served, errors = [0] * 4, []

        def work(number):
            try:
                with d.connect() as client:
                    while time.monotonic() < end:
                        crowd.tokens(client, f"v{number % 2}", 16)
                        served[number] += 1
            except Exception as error:  # pylint: disable=broad-except
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(errors, [], "errors")
        loads = d.ctl_json("status")["counters"]["loads"]
        print(f"# served {served}, {loads} loads")
        expect(min(served) >= 3, f"both are served: {served}")


def a_deadline_passes_while_others_keep_the_room():
    d = crowd.make(2)
    with d:
        sizes = crowd.footprints(d)
        crowd.configure(d, max(sizes.values()))
        d.ctl("reload")
        with d.connect() as client, d.connect() as other:
            with client.generate("v0", tokens=[1], max_tokens=200000, ignore_eos=True) as long:
                dry = d.ctl_json("load", "v1", "--dry-run")
                equal((dry["outcome"], dry["leaves"][0]["name"], dry["leaves"][0]["running"]), ("waits", "v0", True),
                      "what the dry run says")
                try:
                    with other.generate("v1", tokens=[1], max_tokens=4, deadline_ms=300) as late:
                        late.result(20)
                    raise harness.Failure("it was answered")
                except harness.mamba2.Error as error:
                    equal(error.code, "deadline", "the one that waits")
                # nobody waits for v1 any more: v0 takes new requests again, beside the one that runs
                equal(len(crowd.tokens(other, "v0")), 4, "a request for v0")
                expect(not long.finished, "what runs was left alone")
                long.cancel()
        equal(resident(d), ["v0"], "resident")
        expect(not json.loads(d.ctl("ps", "--json").stdout)["models"][0]["makes_room"], "v0 is open again")


harness.main(ten_variants_share_a_budget_for_three, a_dry_run_says_what_load_does,
             the_least_recently_used_leave_and_the_pinned_stay, what_cannot_fit_is_refused_and_nothing_has_changed,
             what_the_device_has_not_free_is_refused_before_anything_is_taken,
             preloads_keep_to_the_budget_and_come_back_with_their_worker, two_that_never_idle_take_turns, a_deadline_passes_while_others_keep_the_room)
