#!/usr/bin/env python3
"""Ten variants, a budget for three, and a random mix of requests from several clients: how often is something loaded,
against the fewest loads that any order of leaving could have done with?

    tests/bench/residency.py [requests] [clients]

By default 20,000 requests of 16 clients, once over all ten alike and once with a few asked for much more than the rest.
Every answer is compared with what the same variant answers alone, and ps is asked all the time whether what is resident
is within the budget: those two are judged, the figures are not.  Belady's optimum is of the order in which the requests
were sent; a daemon that lets requests for one variant wait for each other may do with fewer loads than that.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import crowd  # noqa: E402
from latency import machine  # noqa: E402

MIXES = {"all alike": [1] * 10, "1/n of the first": [1 / n for n in range(1, 11)]}


def run(mix, requests, clients, stay):
    d = crowd.make(10)
    with d:
        sizes = crowd.footprints(d)
        want = crowd.answers(d, salts=16)
        budget = sum(sorted(sizes.values())[-3:])
        crowd.configure(d, budget, stay)
        d.ctl("reload")
        before = d.ctl_json("status")["counters"]
        crowd.wait_until(lambda: sum(m["bytes"] for m in d.ctl_json("ps")["models"]) <= budget, 10, "the budget is kept")
        watch = crowd.Watch(d, budget)
        mix_ = crowd.Crowd(d, want, clients, requests, MIXES[mix])
        seconds = mix_.run(watch)
        watch.close()
        after = d.ctl_json("status")["counters"]
        loads = after["loads"] - before["loads"]
        best = crowd.optimum(mix_.order, sizes, budget)
        plain = crowd.least_recent(mix_.order, sizes, budget)
        crowd.equal(after["finished"] - before["finished"], requests, "requests that were answered")
        print(f"{mix}, {clients} clients, stay {stay}: {requests} requests in {seconds:.0f} s, all right; {loads} loads, "
              f"{loads / best:.2f} of Belady's {best}, {loads / plain:.2f} of plain LRU's {plain}; most resident "
              f"{watch.most} of {budget} bytes in {watch.looks} looks; slowest request {mix_.slowest:.2f} s", flush=True)


def main():
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    print(machine())
    for mix in MIXES:
        run(mix, requests, clients, "0s")


if __name__ == "__main__":
    main()
