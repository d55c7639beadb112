"""Faults of processes, of the device, of memory, of descriptors, of clocks and of clients (see faulty.py)."""
import collections
import contextlib
import errno
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time

import harness
from faulty import HANG, LENGTH, LOST_WORKER, PROMPT, code_of, fault
from harness import mamba2, wait_until

EINVAL, EIO, ENOMEM, EDEVICE = 1, 8, 6, 11  # numbers of enum m2_err, for the device
LONG = 100000  # more tokens than anybody waits for
SHORT_OF_MEMORY = {"no_memory"}


def kill(rig, process, number):
    def strike():
        pid = rig.d.pid(process)
        if pid:
            os.kill(pid, number)
    return strike


def rule(rig, process, name, error, skip=0, times=1):
    return lambda: rig.rules(process).set(name, error, skip, times)


# ---- processes ------------------------------------------------------------------------------------------

@fault("gate: SIGKILL", "restarted; generations go on, clients reconnect by themselves and see nothing", quick=True)
def gate_killed(rig):
    return rig.ask("gpu", kill(rig, "gate", signal.SIGKILL))


@fault("gate: SIGABRT, as libzmq's assertions end it", "the same; no core is written")
def gate_aborts(rig):
    return rig.ask("gpu", kill(rig, "gate", signal.SIGABRT))


def stand_still(pid):
    """All its threads have stopped when this returns: on a busy machine some go on for a while."""
    os.kill(pid, signal.SIGSTOP)

    def stopped():
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:
                if file.read().rsplit(")", 1)[1].split()[0] != "T":
                    return False
        return True
    wait_until(stopped, 5, "it stands still")


@fault("gate: stands still for a moment", "nobody notices")
def gate_pauses(rig):
    gate = rig.d.role("gate")
    stand_still(gate)
    goes_on = threading.Timer(0.3, os.kill, (gate, signal.SIGCONT))
    goes_on.start()
    saw = rig.ask("gpu")
    goes_on.join()  # a stop that comes after this is not undone by it
    return saw


@fault("gate: hangs", "ended after step_timeout and started again; requests asked meanwhile are answered")
def gate_hangs(rig):
    old = rig.d.role("gate")
    stand_still(old)
    saw = rig.ask("gpu")
    wait_until(lambda: rig.d.role("gate") not in (None, old), 10, f"a new gate; they saw {dict(saw)}")
    return saw


@fault("gate: killed ten times in a row", "requests are answered when the gates are done dying")
def gate_killed_again_and_again(rig):
    def strike():
        for _ in range(10):
            kill(rig, "gate", signal.SIGKILL)()
            time.sleep(0.02)
    return rig.ask("gpu", strike)


@fault("worker: SIGKILL while it generates", "its requests end with worker_lost; it comes back with its models",
       LOST_WORKER, {"gpu"}, quick=True)
def worker_killed(rig):
    return rig.ask("gpu", kill(rig, "worker.cuda", signal.SIGKILL), length=LONG)


@fault("worker: SIGSEGV", "the same", LOST_WORKER, {"gpu"})
def worker_crashes(rig):
    return rig.ask("gpu", kill(rig, "worker.cuda", signal.SIGSEGV), length=LONG)


@fault("worker: SIGBUS", "the same", LOST_WORKER, {"gpu"})
def worker_bus_error(rig):
    return rig.ask("gpu", kill(rig, "worker.cuda", signal.SIGBUS), length=LONG)


@fault("worker: the cpu's killed", "the same, and the other device's users see nothing", LOST_WORKER, {"demo"})
def cpu_worker_killed(rig):
    return rig.ask("demo", kill(rig, "worker.cpu", signal.SIGKILL), length=LONG)


@fault("worker: killed while nobody uses it", "the next request waits for the reload and is answered",
       LOST_WORKER, {"gpu"})
def idle_worker_killed(rig):
    kill(rig, "worker.cuda", signal.SIGKILL)()
    return rig.ask("gpu")


@fault("worker: killed while it loads", "loaded again, those who wait are answered", LOST_WORKER, {"gpu"})
def loading_worker_killed(rig):
    rig.d.ctl("unload", "gpu", "--wait", "9", check=False)
    threading.Timer(random.uniform(0, 0.02), kill(rig, "worker.cuda", signal.SIGKILL)).start()
    return rig.ask("gpu")


@fault("worker: stands still beyond step_timeout", "ended and restarted: worker_lost", LOST_WORKER, {"gpu"})
def worker_stands_still(rig):
    return rig.ask("gpu", kill(rig, "worker.cuda", signal.SIGSTOP), length=LONG)


@fault("worker: stands still for a moment", "nobody notices")
def worker_pauses(rig):
    def strike():
        worker = rig.d.worker("cuda")
        os.kill(worker, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (worker, signal.SIGCONT)).start()
    return rig.ask("gpu", strike)


@fault("supervisor: stands still for a moment", "nobody notices")
def supervisor_pauses(rig):
    def strike():
        os.kill(rig.d.process.pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (rig.d.process.pid, signal.SIGCONT)).start()
    return rig.ask("gpu", strike)


@fault("supervisor: no process can be started (fork)", "tried again until it can; requests are answered then")
def fork_fails(rig):
    rig.rules("supervisor").set("fork", errno.EAGAIN, 0, 5)
    return rig.ask("gpu", kill(rig, "gate", signal.SIGKILL))


@fault("supervisor: no descriptor for a child's socket", "the same")
def socketpair_fails(rig):
    rig.rules("supervisor").set("socketpair", errno.EMFILE, 0, 5)
    return rig.ask("gpu", kill(rig, "gate", signal.SIGKILL))


@fault("worker: threads cannot be started", "started again until they can; its requests are answered then",
       LOST_WORKER, {"gpu"})
def pthread_create_fails(rig):
    rig.rules("worker.cuda").set("pthread_create", errno.EAGAIN, 1, 2)
    kill(rig, "worker.cuda", signal.SIGKILL)()
    return rig.ask("gpu")


# ---- the device -----------------------------------------------------------------------------------------

@fault("device: lost in a step", "its requests end with the device's error, the worker is restarted and reloads",
       LOST_WORKER, {"gpu"}, quick=True)
def device_lost(rig):
    return rig.ask("gpu", rule(rig, "device", "step", EDEVICE), length=LONG)


@fault("device: lost in the first step of a prompt", "the same", LOST_WORKER, {"gpu"})
def device_lost_at_first(rig):
    rule(rig, "device", "first_step", EDEVICE)()
    return rig.ask("gpu")


@fault("device: a step fails in another way", "the same: what a step left behind is not trusted",
       LOST_WORKER | {"io"}, {"gpu"})
def step_fails(rig):
    return rig.ask("gpu", rule(rig, "device", "step", EIO), length=LONG)


@fault("device: a step hangs", "the watchdog ends the worker after step_timeout: worker_lost", LOST_WORKER, {"gpu"},
       quick=True)
def step_hangs(rig):
    return rig.ask("gpu", rule(rig, "device", "step", HANG), length=LONG)


@fault("device: a step hangs while another variant loads", "the same, four times as late", LOST_WORKER, {"gpu"})
def step_hangs_during_load(rig):
    def strike():
        rig.rules("device").set("load", HANG)
        loader = threading.Thread(target=rig.tell, args=("load", "second"), daemon=True)
        loader.start()
        wait_until(lambda: rig.rules("device").fired("load"), 10, "the load hangs")
        rig.rules("device").set("step", HANG)
    rig.d.write_variant("second", {"device": "cuda:0", "slots": 2})
    rig.d.ctl("reload")
    saw = rig.ask("gpu", strike, length=LONG)
    rig.rules("device").clear()
    wait_until(lambda: rig.tell("unload", "second", "--wait", "0")["done"] == 1, 20, "unload of the second")
    (rig.d.variants / "second.yaml").unlink()
    rig.d.ctl("reload")
    return saw


def reload_under(rig, strike):
    """The variant leaves, and comes back on a request's demand under the fault."""
    wait_until(lambda: rig.tell("unload", "gpu", "--wait", "9")["done"] == 1, 20, "unload")
    strike()
    return rig.ask("gpu")


@fault("device: somebody else has filled it", "the load is refused: no_memory; a later one succeeds",
       SHORT_OF_MEMORY, {"gpu"}, quick=True)
def device_full(rig):
    return reload_under(rig, rule(rig, "device", "load", ENOMEM, 0, 3))


@fault("device: a load fails", "the load is refused with the device's error; a later one succeeds",
       LOST_WORKER | {"io"}, {"gpu"})
def load_fails(rig):
    return reload_under(rig, rule(rig, "device", "load", EIO, 0, 3))


@fault("device: says that little is free", "never more than it says: refused or answered, and nothing else harmed",
       SHORT_OF_MEMORY, {"gpu"})
def device_lies(rig):
    return reload_under(rig, rule(rig, "device", "memory_free", 1, 0, 1000))


@fault("device: cannot be opened", "started again until it can, requests wait; three deaths in a load refuse it",
       LOST_WORKER, {"gpu"})
def device_does_not_open(rig):
    rule(rig, "device", "open_device", EDEVICE, 0, 3)()
    kill(rig, "worker.cuda", signal.SIGKILL)()
    return rig.ask("gpu")


# ---- memory ---------------------------------------------------------------------------------------------

def without_memory(process, name, most, codes, hurts=(), quick=False):
    behaviour = {"supervisor": "answered, or refused with no_memory; the supervisor lives on",
                 "worker.cuda": "answered, or refused with no_memory, or the worker is restarted"}[process]

    @fault(f"{process}: {name} fails once, anywhere in a request", behaviour, codes, hurts, quick=quick)
    def run(rig):
        rig.rules(process).set(name, errno.ENOMEM, random.randrange(most), 1)
        return rig.ask("gpu", length=40)

    @fault(f"{process}: {name} fails fifty times in a row", behaviour, codes, hurts)
    def run_long(rig):
        rig.rules(process).set(name, errno.ENOMEM, random.randrange(most), 50)
        return rig.ask("gpu", length=40)
    return run, run_long


ALL = {"demo", "gpu"}  # whoever asks in that moment
without_memory("supervisor", "malloc", 150, SHORT_OF_MEMORY, ALL, quick=True)
without_memory("supervisor", "calloc", 40, SHORT_OF_MEMORY, ALL)
without_memory("worker.cuda", "malloc", 30, SHORT_OF_MEMORY | LOST_WORKER, {"gpu"})
without_memory("worker.cuda", "calloc", 20, SHORT_OF_MEMORY | LOST_WORKER, {"gpu"})


def limited(daemon, process, more, during):
    """`during` while the process may have only `more` bytes of addresses beyond those it has."""
    pid = daemon.pid(process)
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        pages = int(file.read().split()[0])
    limits = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * 4096 + more, limits[1]))
    try:
        return during()
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, limits)


@fault("worker: memory ends in a load (RLIMIT_AS)", "the load is refused, no_memory, or tried again; nothing stays",
       SHORT_OF_MEMORY | LOST_WORKER, {"gpu"})
def load_without_memory(rig):
    wait_until(lambda: rig.tell("unload", "gpu", "--wait", "9")["done"] == 1, 20, "unload")
    return limited(rig.d, "worker.cuda", random.randrange(16 << 20), lambda: rig.ask("gpu"))


@fault("worker: memory ends in a request (RLIMIT_AS)", "refused, no_memory, or restarted; well when it is lifted",
       SHORT_OF_MEMORY | LOST_WORKER, {"gpu"})
def worker_limited(rig):
    return limited(rig.d, "worker.cuda", random.randrange(128 << 10), lambda: rig.ask("gpu", length=40000))


@fault("gate: memory ends (RLIMIT_AS)", "answered, or the gate gives way to another and then answered",
       SHORT_OF_MEMORY, ALL)
def gate_limited(rig):
    return limited(rig.d, "gate", random.randrange(256 << 10), lambda: rig.ask("gpu", length=40) + score_long(rig))


@fault("supervisor: memory ends (RLIMIT_AS)", "answered, or refused with no_memory; it lives on", SHORT_OF_MEMORY, ALL)
def supervisor_limited(rig):
    return limited(rig.d, "supervisor", random.randrange(64 << 10), lambda: rig.ask("gpu", length=40) + score_long(rig))


@fault("results memory: the tmpfs is full (posix_fallocate)", "refused with no_memory", SHORT_OF_MEMORY,
       {"gpu"}, quick=True)
def results_full(rig):
    rig.rules("worker.cuda").set("posix_fallocate", errno.ENOSPC, 0, 2)
    return rig.ask("gpu", length=LENGTH)


@fault("results memory: cannot be mapped", "refused with no_memory", SHORT_OF_MEMORY, {"gpu"})
def results_unmapped(rig):
    rig.rules("worker.cuda").set("mmap", errno.ENOMEM, 0, 1)
    return rig.ask("gpu", length=LENGTH)


@fault("results memory: cannot be given to its user", "refused: denied", {"denied", "io"}, {"gpu"})
def results_not_granted(rig):
    rig.rules("worker.cuda").set("acl_set_fd", errno.EINVAL, 0, 2)
    return rig.ask("gpu", length=LENGTH)


@fault("results memory: no file can be made", "refused: io", {"io", "no_memory"}, {"gpu"})
def results_no_file(rig):
    rig.rules("worker.cuda").set("openat", errno.EMFILE, 0, 2)
    return rig.ask("gpu", length=LENGTH)


@fault("results memory: no random name", "refused: io", {"io", "no_memory"}, {"gpu"})
def results_no_name(rig):
    rig.rules("worker.cuda").set("getrandom", errno.ENOSYS, 0, 2)
    return rig.ask("gpu", length=LENGTH)


def score_long(rig):
    """A prompt and an answer that travel in memfds."""
    saw = collections.Counter()
    for client in rig.clients[:3]:
        try:
            count = client.tokenize("gpu", "word " * 20000)
            saw["answered" if len(count) > 1000 else "wrong tokens"] += 1
        except mamba2.errors.Error as error:
            saw[code_of(error)] += 1
    return saw


for process_ in ("gate", "supervisor", "worker.cuda"):
    @fault(f"{process_}: no memfd for a large message", "that one request is refused: no_memory", SHORT_OF_MEMORY,
           ALL)
    def no_memfd(rig, process=process_):
        rig.rules(process).set("memfd_create", errno.EMFILE, 0, 1)
        return score_long(rig)


# ---- descriptors ----------------------------------------------------------------------------------------

def few_descriptors(rig, process, more, during):
    """`during` while the process may have only `more` descriptors beyond those it has."""
    pid = rig.d.pid(process)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + more, limits[1]))
    try:
        return during()
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@fault("gate: descriptors run out while clients connect", "restarted or refused; those connected are answered")
def gate_descriptors(rig):
    def during():
        connections = []
        for _ in range(40):
            s = socket.socket(socket.AF_UNIX)
            connections.append(s)
            with contextlib.suppress(OSError):
                s.connect(str(rig.d.runtime / "client.sock"))
        saw = rig.ask("gpu", length=40)
        for s in connections:
            s.close()
        return saw
    return few_descriptors(rig, "gate", 5, during)


@fault("supervisor: descriptors run out", "answered or refused, nobody's work ends",
       SHORT_OF_MEMORY | {"io", "busy"}, ALL)
def supervisor_descriptors(rig):
    return few_descriptors(rig, "supervisor", 0, lambda: rig.ask("gpu", length=40) + score_long(rig))


@fault("worker: descriptors run out", "refused: io", {"io", "no_memory"} | LOST_WORKER, {"gpu"})
def worker_descriptors(rig):
    return few_descriptors(rig, "worker.cuda", 0, lambda: rig.ask("gpu", length=40))


# ---- clocks ---------------------------------------------------------------------------------------------

def jump(seconds):
    def run(rig):
        def strike():
            for process in ("supervisor", "gate", "worker.cpu", "worker.cuda"):
                rig.rules(process).set("realtime", 0, seconds, 1)
        saw = rig.ask("gpu", strike, length=1000, deadline_ms=60000)
        return saw + rig.ask("gpu", length=40, deadline_ms=60000)
    return run


fault("clock: ten years forward", "nobody notices: every wait is on the monotonic clock", quick=True)(jump(315000000))
fault("clock: thirty years back", "the same")(jump(-946000000))


# ---- clients --------------------------------------------------------------------------------------------

def others_are_answered(rig, act):
    saw = collections.Counter()
    act(saw)
    return saw + rig.ask("gpu", length=40)


def ctl(rig, *arguments):
    return subprocess.Popen([str(harness.BUILD / "mamba2ctl"), "--runtime-dir", str(rig.d.runtime), *arguments],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


@fault("client: dies while it generates", "its slot and memory are back within a second", quick=True)
def client_dies(rig):
    def act(_):
        clients = [ctl(rig, "generate", "gpu", "--tokens", "1,2", "-n", str(LONG), "--ignore-eos") for _ in range(3)]
        time.sleep(0.15)
        for client in clients:
            client.kill()
            client.wait()
    return others_are_answered(rig, act)


@fault("client: dies while it waits for a load", "the load goes on, nobody is owed anything",
       LOST_WORKER, {"gpu"})
def client_dies_waiting(rig):
    rig.d.ctl("unload", "gpu", "--wait", "9", check=False)
    client = ctl(rig, "generate", "gpu", "--tokens", "1,2", "-n", "1000", "--ignore-eos")
    time.sleep(random.uniform(0, 0.03))
    client.kill()
    client.wait()
    return rig.ask("gpu")


@fault("client: stands still with results unread", "nobody else waits for it")
def client_stalls(rig):
    def act(_):
        client = ctl(rig, "generate", "gpu", "--tokens", "1,2", "-n", "3000", "--ignore-eos")
        time.sleep(0.1)
        client.send_signal(signal.SIGSTOP)
        saw = rig.ask("gpu", length=40)
        harness.expect(saw["answered"] == 3, f"others meanwhile: {saw}")
        client.kill()
        client.wait()
    return others_are_answered(rig, act)


@fault("client: floods with hostile messages and handshakes", "refused or dropped; others are answered")
def client_floods(rig):
    def act(_):
        flood = subprocess.Popen([str(harness.BUILD / "tests/system/flood"), str(rig.d.runtime / "client.sock"),
                                  "3000", str(random.randrange(1 << 30))], stdout=subprocess.DEVNULL)
        saw = rig.ask("gpu", length=40)
        harness.expect(saw["answered"] == 3, f"others meanwhile: {saw}")
        flood.wait(120)
    return others_are_answered(rig, act)


@fault("client: opens connections without end", "beyond connections_per_user each is closed as it comes")
def client_connects_without_end(rig):
    connections = []

    def act(_):
        for _ in range(1500):
            s = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(OSError):
                s.settimeout(5)
                s.connect(str(rig.d.runtime / "client.sock"))
            connections.append(s)
        gate = rig.d.role("gate")
        wait_until(lambda: len(os.listdir(f"/proc/{gate}/fd")) < 600, 5, "the gate holds no more than the limit")
    saw = others_are_answered(rig, act)
    for s in connections:
        s.close()
    return saw


@fault("client: connects and says nothing", "its connection is closed after five seconds; others are answered")
def client_is_silent(rig):
    def act(_):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(rig.d.runtime / "client.sock"))
        s.send(b"\xff\0\0\0")
        rig.silent = getattr(rig, "silent", []) + [s]  # kept open
        for old in rig.silent[:-8]:
            old.close()
    return others_are_answered(rig, act)


@fault("client: cancels everything at once", "each ends as cancelled or answered")
def client_cancels(rig):
    def act(saw):
        for _ in range(20):
            with rig.clients[3].generate("gpu", tokens=PROMPT, max_tokens=LENGTH, ignore_eos=True) as request:
                request.cancel()
                request.wait_finished(20)
                saw["answered" if request.finish() in ("cancelled", "length") else f"{request.finish()}"] += 1
    return others_are_answered(rig, act)


@fault("client: deadlines that pass at once", "each ends by its deadline or is answered")
def client_in_a_hurry(rig):
    def act(saw):
        for _ in range(20):
            try:
                with rig.clients[3].generate("gpu", tokens=PROMPT, max_tokens=LONG, ignore_eos=True,
                                             deadline_ms=random.randrange(1, 20)) as request:
                    request.wait_finished(20)
                    saw["answered" if request.finish() == "deadline" else f"{request.finish()}"] += 1
            except mamba2.errors.DeadlinePassed:
                saw["answered"] += 1
    return others_are_answered(rig, act)


@fault("client: never releases its results", "refused (busy) once its share is used up; back when it goes",
       {"busy", "no_memory"})
def client_hoards(rig):
    def act(_):
        client = mamba2.Client(runtime_dir=str(rig.d.runtime), timeout=20)
        held = [client.generate("gpu", tokens=PROMPT, max_tokens=8, temperature=0, ignore_eos=True)
                for _ in range(40)]
        for request in held:
            request.wait_finished(20)
            request.close()
        client.close()
    return others_are_answered(rig, act)


@fault("client: closes the connection with everything under way", "the work goes on, nobody is owed anything")
def client_closes(rig):
    def act(_):
        client = mamba2.Client(runtime_dir=str(rig.d.runtime), timeout=20)
        requests = [client.generate("gpu", tokens=PROMPT, max_tokens=300, ignore_eos=True) for _ in range(8)]
        client.close()
        for request in requests:
            request.wait_finished(20)
            request.close()
        end = time.monotonic() + 5
        while rig.d.segments() and time.monotonic() < end:
            time.sleep(0.02)
    return others_are_answered(rig, act)
