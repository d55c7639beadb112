#!/usr/bin/env python3
"""Full load with clients dying at random, and whether memory, descriptors, segments and slots stay flat.

    M2_BUILD=build/release python3 tests/bench/soak.py [--seconds 1800] [--clients 12] [--deaths 4]

--deaths: how many clients are killed each second, in the middle of whatever they do.  Each client is a process of its
own that generates, scores, cancels, lets deadlines pass, leaves its results unreleased or sends its words in
messages; whoever finishes a greedy generation compares its tokens with the one right answer.  Every few seconds the
three processes of the daemon are measured.  Printed are the samples, and how much each figure grew between the
second tenth of the time and the last, which is what "flat" means here.
"""
import argparse
import mmap
import os
import pathlib
import random
import signal
import statistics
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402
from harness import Daemon, fds, mamba2, wait_until  # noqa: E402

SLOTS = 16
LENGTHS = (4, 16, 40, 120)
PROMPT = [1, 2, 3, 4, 5, 6, 7]
ANSWERS, WRONG, ERRORS, KINDS = 0, 1, 2, 3  # in the shared page


def status_kib(pid, key):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


class Counters:
    """64-bit numbers shared with client processes: each writes its own row."""

    def __init__(self, rows):
        self.page = mmap.mmap(-1, rows * 32)
        self.rows = rows

    def add(self, row, which, n=1):
        at = row * 32 + which * 8
        struct.pack_into("q", self.page, at, struct.unpack_from("q", self.page, at)[0] + n)

    def sum(self, which):
        return sum(struct.unpack_from("q", self.page, row * 32 + which * 8)[0] for row in range(self.rows))


def greedy(client, length):
    with client.generate("demo", tokens=PROMPT, max_tokens=length, temperature=0, ignore_eos=True) as request:
        return [token.id for token in request]


def client_life(directory, row, counters, want, seed):
    """Until it is killed."""
    choose = random.Random(seed)
    client = None
    while True:
        kind = choose.randrange(8)
        length = choose.choice(LENGTHS)
        try:
            client = client or mamba2.Client(runtime_dir=directory)
            if kind < 4:
                counters.add(row, ANSWERS if greedy(client, length) == want[length] else WRONG)
            elif kind == 4:
                client.score("demo", tokens=PROMPT * 20).close()
                counters.add(row, ANSWERS)
            elif kind == 5:  # cancelled at some token
                with client.generate("demo", tokens=PROMPT, max_tokens=5000, ignore_eos=True) as request:
                    for _ in zip(range(length), request):
                        pass
                counters.add(row, ANSWERS)
            elif kind == 6:  # its time is over before it ends
                with client.generate("demo", tokens=PROMPT, max_tokens=100000, ignore_eos=True,
                                     deadline_ms=choose.randrange(1, 60)) as request:
                    request.wait_finished(30)
                counters.add(row, ANSWERS)
            else:  # a connection that ends without a word of its results
                request = client.generate("demo", tokens=PROMPT, max_tokens=length, temperature=0)
                client.close()
                client = None
                del request
                counters.add(row, ANSWERS)
        except mamba2.errors.DeadlinePassed:  # before it was accepted
            counters.add(row, ANSWERS)
        except mamba2.errors.Error as error:
            counters.add(row, ERRORS)
            print(f"seed {seed}, kind {kind}: {error}", flush=True)


class Soak:
    def __init__(self, daemon, clients, deaths, seed=1):
        self.d, self.n, self.deaths = daemon, clients, deaths
        self.choose = random.Random(seed)
        self.counters = Counters(clients)
        self.born = 0
        self.killed = 0
        with daemon.connect() as client:
            self.want = {length: greedy(client, length) for length in LENGTHS}
        self.pids = {"supervisor": daemon.process.pid, "gate": daemon.role("gate"), "worker": daemon.role("worker")}
        self.fds_before = {name: fds(pid) for name, pid in self.pids.items()}
        self.samples = []
        self.living = {}

    def bear(self, row):
        self.born += 1
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                client_life(str(self.d.runtime), row, self.counters, self.want, self.born)
            finally:
                os._exit(1)
        self.living[row] = pid

    def kill(self, row):
        pid = self.living.pop(row)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.killed += 1

    def sample(self, start):
        shown = self.d.ctl_json("ps")
        self.samples.append({"t": time.monotonic() - start, "answers": self.counters.sum(ANSWERS),
                             "segments": len(self.d.segments()),
                             "slots": sum(m["slots_used"] for m in shown["models"]),
                             **{f"{n}_rss": status_kib(p, "VmRSS") for n, p in self.pids.items()},
                             **{f"{n}_hwm": status_kib(p, "VmHWM") for n, p in self.pids.items()},
                             **{f"{n}_fds": fds(p) for n, p in self.pids.items()}})

    def run(self, seconds):
        start = time.monotonic()
        every = max(0.5, seconds / 200)
        next_sample = start + every
        for row in range(self.n):
            self.bear(row)
        while time.monotonic() < start + seconds:
            time.sleep(self.choose.expovariate(self.deaths))
            row = self.choose.randrange(self.n)
            self.kill(row)
            self.bear(row)
            if time.monotonic() >= next_sample:
                self.sample(start)
                next_sample += every
        for row in list(self.living):
            self.kill(row)

    def check(self):
        """What must be true when it is over; a list of what is not."""
        wrong = []
        d = self.d
        for name, pid in self.pids.items():
            if (d.process.pid if name == "supervisor" else d.role(name)) != pid:
                wrong.append(f"the {name} was restarted")
        try:
            wait_until(lambda: not d.segments(), 10, "segments")
            wait_until(lambda: sum(m["slots_used"] for m in d.ctl_json("ps")["models"]) == 0, 10, "slots")
            for name, pid in self.pids.items():
                wait_until(lambda n=name, p=pid: fds(p) <= self.fds_before[n] + 1, 10,
                           f"descriptors of the {name}: {fds(pid)}, at first {self.fds_before[name]}")
        except harness.Failure as failure:
            wrong.append(str(failure))
        if self.counters.sum(WRONG):
            wrong.append(f"{self.counters.sum(WRONG)} answers with wrong tokens")
        if self.counters.sum(ERRORS):
            wrong.append(f"{self.counters.sum(ERRORS)} errors that clients saw")
        return wrong

    def growth(self, key):
        """Median of the last tenth less median of the second."""
        tenth = max(1, len(self.samples) // 10)
        early = [s[key] for s in self.samples[tenth:2 * tenth]]
        late = [s[key] for s in self.samples[-tenth:]]
        return statistics.median(late) - statistics.median(early) if early and late else 0

    def print(self):
        keys = ["answers", "segments", "slots", "supervisor_rss", "gate_rss", "worker_rss", "supervisor_fds",
                "gate_fds", "worker_fds"]
        print("seconds " + " ".join(f"{k:>14}" for k in keys))
        step = max(1, len(self.samples) // 20)
        for s in self.samples[::step]:
            print(f"{s['t']:7.0f} " + " ".join(f"{s[k]:14}" for k in keys))
        for key in keys[3:]:
            print(f"growth of {key}: {self.growth(key):+.0f} {'KiB' if key.endswith('rss') else ''}")
        last = self.samples[-1]
        print("high water: " + ", ".join(f"{n} {last[n + '_hwm']} KiB" for n in self.pids))
        print(f"most segments {max(s['segments'] for s in self.samples)}, most slots "
              f"{max(s['slots'] for s in self.samples)} of {SLOTS}")
        print(f"{self.counters.sum(ANSWERS)} requests finished, {self.killed} clients killed, "
              f"{self.counters.sum(WRONG)} wrong answers, {self.counters.sum(ERRORS)} errors")


def daemon():
    return Daemon({"demo": {"preload": True, "slots": SLOTS}}, config="results: {keep: 10s}\n")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1800)
    options.add_argument("--clients", type=int, default=12)
    options.add_argument("--deaths", type=float, default=4)
    given = options.parse_args()
    with daemon() as d:
        soak = Soak(d, given.clients, given.deaths)
        soak.run(given.seconds)
        wrong = soak.check()
        soak.print()
    for line in wrong:
        print("NOT FLAT:", line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
