#!/usr/bin/env python3
"""How a daemon's work is shared: two, then ten real users with very different demand, ten seconds each.

    make && sudo python3 tests/bench/fairness.py [SECONDS]

Needs root, to run as ten users.  For each of them it prints demand, weight, tokens per second, the share of all
tokens and of all work, and how far the latter is from the weight's share; then, with everybody's queues full, how long
newcomers waited for their first token.  Tokens are those of prompts and completions, work is what they cost
(daemon/fair.h: a generated token counts for the state it moves besides), as the daemon's worker counts both.  The demo
model runs on the cpu; M2_BUILD chooses the build.  Exit status 1: a share of the work is more than 5 % off.
"""
import os
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from harness import Daemon, DEMO, as_user  # noqa: E402

DAEMON, FIRST = 61001, 61010
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0

# What a user keeps under way: (name, requests at once, prompt tokens, n, max_tokens)
FLOOD = ("1000 short requests", 1000, 8, 1, 60)
ONE = ("one at a time", 1, 20, 1, 2000)
READER = ("20 long prompts", 20, 1500, 1, 8)
FAN = ("n = 8 completions", 3, 30, 8, 200)
FEW = ("four streams", 4, 20, 1, 500)


def daemon(weights):
    users = "".join(f"  - {{name: {FIRST + i}, weight: {w}, requests: 4000}}\n" for i, w in enumerate(weights))
    d = Daemon({}, config=f"users:\n{users}", user=DAEMON)
    copy = d.directory / "demo"
    harness.shutil.copytree(DEMO, copy)
    for path in [copy, *copy.rglob("*")]:
        os.chmod(path, 0o755)
    d.write_variant("demo", {"checkpoint": str(copy), "preload": True, "slots": 16, "queue": 8192})
    os.chown(d.variants / "demo.yaml", DAEMON, DAEMON)
    return d


def keep_asking(d, demand, stop):
    """Keeps so many requests under way, by few threads: a new one for each that ends."""
    _, at_once, prompt, n, length = demand
    over = threading.Event()

    def ask(client, share):
        tokens = [(i * 7) % 200 + 1 for i in range(prompt)]
        live = []
        while not over.is_set():
            while len(live) < share and not over.is_set():
                live.append(client.generate("demo", tokens=tokens, n=n, max_tokens=length, temperature=0,
                                            ignore_eos=True))
            live[0].wait_finished(0.2)
            for request in [r for r in live if r.finished]:
                request.close()
                live.remove(request)
        for request in live:
            request.close()

    workers = min(4, at_once)
    with d.connect() as client:
        threads = [threading.Thread(target=ask, args=(client, at_once // workers)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        os.read(stop, 1)
        over.set()
        for thread in threads:
            thread.join()


def start(d, uid, demand):
    stop, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write)
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            keep_asking(d, demand, stop)
        finally:
            os._exit(0)
    os.close(stop)
    return pid, write


def served(d):
    """{uid: (tokens, work)} so far."""
    return {u["uid"]: (u["served_tokens"], u["served_work"]) for u in d.ctl_json("ps")["users"]}


def newcomer(d):
    """Milliseconds from asking to the first token, of somebody who was not there."""
    with d.connect() as client:
        began = time.monotonic()
        with client.generate("demo", tokens=[1, 2, 3], max_tokens=1, temperature=0, ignore_eos=True) as request:
            request.result()
            return (time.monotonic() - began) * 1000


def measure(title, demands, weights):
    print(f"\n{title}, {SECONDS:g} s\n")
    print(f"  {'demand':22} {'weight':>6} {'tokens/s':>9} {'of tokens':>10} {'of work':>8} {'due':>7} {'off':>7}")
    worst = 0.0
    with daemon(weights) as d:
        users = [start(d, FIRST + i, demand) for i, demand in enumerate(demands)]
        harness.wait_until(lambda: len(served(d)) == len(demands) and min(served(d).values())[0] > 0, 60, "all ask")
        time.sleep(1)
        before, began = served(d), time.monotonic()
        time.sleep(SECONDS)
        after, took = served(d), time.monotonic() - began
        had = [[after[FIRST + i][k] - before[FIRST + i][k] for i in range(len(demands))] for k in range(2)]
        for demand, weight, tokens, work in zip(demands, weights, *had):
            due, share = weight / sum(weights), work / sum(had[1])
            worst = max(worst, abs(share / due - 1))
            print(f"  {demand[0]:22} {weight:6} {tokens / took:9.0f} {tokens / sum(had[0]):10.3f} {share:8.3f} {due:7.3f} "
                  f"{share / due - 1:+7.1%}")
        queued = d.ctl_json("ps")["models"][0]["queued"]
        waits = sorted(as_user(62000 + i, lambda: newcomer(d)) for i in range(20))
        print(f"\n  {queued} queued; a newcomer's first token after {waits[10]:.0f} ms (median), {waits[-1]:.0f} ms "
              f"(worst of 20)")
        for pid, write in users:
            os.write(write, b"x")
            os.close(write)
        for pid, write in users:
            os.waitpid(pid, 0)
    return worst


def main():
    if os.geteuid() != 0:
        sys.exit("needs root, to run as ten users")
    worst = [measure("Two users of equal weight", [FLOOD, ONE], [1, 1]),
             measure("Two users, weights 3 and 1", [READER, FEW], [3, 1]),
             measure("Ten users of equal weight", [FLOOD, ONE, READER, FAN, FEW] * 2, [1] * 10),
             measure("Ten users, weights 1 to 4", [FLOOD, ONE, READER, FAN, FEW] * 2, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])]
    print(f"\nfarthest from a share that was due: {max(worst):.1%}")
    sys.exit(1 if max(worst) > 0.05 else 0)


main()
