#!/usr/bin/env python3
"""Five seconds of tests/bench/soak.py: clients that die at random under full load leave nothing behind."""
import pathlib
import sys

import harness
from harness import equal, expect

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import soak  # noqa: E402

SECONDS = 5


def clients_that_die_at_random_leave_nothing_behind():
    with soak.daemon() as d:
        run = soak.Soak(d, 6, 8)
        run.run(SECONDS)
        equal(run.check(), [], "what is not as before")
        expect(run.counters.sum(soak.ANSWERS) > 10 and run.killed > 5, "there was load, and there were deaths")
        print(f"# {run.counters.sum(soak.ANSWERS)} requests, {run.killed} clients killed")


harness.main(clients_that_die_at_random_leave_nothing_behind)
