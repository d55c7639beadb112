#!/usr/bin/env python3
"""kill -9 in the middle of generation, 20 times each, under load: the gate, the worker, a client, the supervisor."""
import os
import random
import signal
import subprocess
import threading
import time

import harness
from harness import Daemon, alive, children, equal, expect, wait_until

ROUNDS = 6 if harness.SANITIZER else 20
PROMPT = [1, 2, 3, 4, 5]
LENGTH = 48


def generate(client, n=LENGTH, **options):
    with client.generate("demo", tokens=PROMPT, max_tokens=n, temperature=0, ignore_eos=True, **options) as request:
        return [token.id for token in request]


class Load:
    """Clients that generate without pause; each answer must be the one answer."""

    def __init__(self, daemon, clients, want):
        self.stop = threading.Event()
        self.answers = 0
        self.errors = []
        self.threads = [threading.Thread(target=self.run, args=(daemon, want)) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, daemon, want):
        client = None
        while not self.stop.is_set():
            try:
                client = client or daemon.connect()
                got = generate(client)
                self.answers += 1
                if got != want:
                    self.errors.append((time.monotonic(), f"wrong tokens {got[:8]}..."))
            except Exception as error:  # pylint: disable=broad-except
                self.errors.append((time.monotonic(), f"{type(error).__name__}: {error}"))
        if client is not None:
            client.close()

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60 * harness.SLOW)
        expect(not any(t.is_alive() for t in self.threads), "a client hangs")


def killed_gate_costs_clients_nothing():
    with Daemon({"demo": {"preload": True}}) as d:
        with d.connect() as client:
            want = generate(client)
        load = Load(d, 8, want)
        for _ in range(ROUNDS):
            wait_until(lambda: d.role("gate"), 10, "a gate")
            gate = d.role("gate")
            time.sleep(random.uniform(0.05, 0.4))
            os.kill(gate, signal.SIGKILL)
            wait_until(lambda: d.role("gate") not in (None, gate), 10, "a new gate")
        time.sleep(1)
        load.finish()
        equal([e for _, e in load.errors], [], "errors that clients saw")
        expect(load.answers >= ROUNDS, f"{load.answers} answers under fire")
        print(f"# {load.answers} answers, none lost, over {ROUNDS} gates")


def killed_worker_tells_its_clients_and_comes_back():
    with Daemon({"demo": {"preload": True}}) as d:
        with d.connect() as client:
            want = generate(client)
            for _ in range(ROUNDS):
                worker = d.role("worker")
                requests = [client.generate("demo", tokens=PROMPT, max_tokens=100000, temperature=0, ignore_eos=True)
                            for _ in range(4)]
                for request in requests:
                    next(iter(request))
                os.kill(worker, signal.SIGKILL)
                start = time.monotonic()
                for request in requests:
                    try:
                        for _ in request:
                            pass
                        raise harness.Failure("a request of a dead worker ended without an error")
                    except Exception as error:  # pylint: disable=broad-except
                        if isinstance(error, harness.Failure):
                            raise
                        expect(getattr(error, "code", "") == "worker_lost", f"the error says so: {error!r}")
                    request.close()
                seconds = time.monotonic() - start
                expect(seconds < 1 * harness.SLOW, f"told after {seconds:.2f} s")
                # without help: the next request waits for the reload and is answered
                equal(generate(client), want, "tokens after the worker came back")
        wait_until(lambda: not d.segments(), 5, "no segment is left")


def killed_client_gives_slot_and_memory_back():
    with Daemon({"demo": {"preload": True}}) as d:
        program = [str(harness.BUILD / "mamba2ctl"), "--runtime-dir", str(d.runtime), "generate", "demo", "--tokens",
                   "1,2,3", "-n", "100000", "--ignore-eos"]
        slots = lambda: sum(m["slots_used"] for m in d.ctl_json("ps")["models"])  # noqa: E731
        worst = 0
        for _ in range(ROUNDS):
            clients = [subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
            wait_until(lambda: len(d.segments()) == 3 and slots() == 3, 10, "three requests run")
            time.sleep(random.uniform(0, 0.1))
            for client in clients:
                client.kill()
            start = time.monotonic()
            for client in clients:
                client.wait()
            wait_until(lambda: not d.segments() and slots() == 0, 1, "slots and memory are back")
            worst = max(worst, time.monotonic() - start)
        print(f"# back after at most {worst:.3f} s")


def killed_supervisor_leaves_nothing_behind():
    d = Daemon({"demo": {"preload": True}})
    try:
        for turn in range(ROUNDS):
            d.start()
            client = subprocess.Popen([str(harness.BUILD / "mamba2ctl"), "--runtime-dir", str(d.runtime), "generate",
                                       "demo", "--tokens", "1,2,3", "-n", "100000", "--ignore-eos"],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            client.stdout.read(1)
            family = [d.process.pid, *children(d.process.pid)]
            expect(len(family) >= 3, f"a supervisor, a gate and a worker: {family}")
            os.kill(d.process.pid, signal.SIGKILL)
            d.process.wait()
            d.process = None
            d.hush()
            wait_until(lambda: not any(alive(pid) for pid in family), 2, "its children end")
            if turn > 0:  # it gives the daemon ten seconds to come back: once is enough to wait for
                client.kill()
            _, err = client.communicate(timeout=60)
            expect(turn > 0 or (client.returncode in (1, 3) and err), f"the client is told: {client.returncode} {err}")
        d.start()
        equal([v["name"] for v in d.ctl_json("list")["variants"]], ["demo"], "the registry is whole")
        with d.connect() as client:
            equal(len(generate(client)), LENGTH, "and requests run")
        d.stop()
    finally:
        d.kill()
        harness.shutil.rmtree(d.directory, ignore_errors=True)


harness.main(killed_gate_costs_clients_nothing, killed_worker_tells_its_clients_and_comes_back,
             killed_client_gives_slot_and_memory_back, killed_supervisor_leaves_nothing_behind)
