"""Faults of disks, of the registry, of checkpoints and of what surrounds the daemon: each starts its own (faulty.py)."""
import collections
import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading

import harness
from faulty import PROMPT, FaultyDaemon, fault, mamba2
from harness import DEMO, Daemon, Skip, equal, expect, wait_until

GOOD = f"name: mine\ncheckpoint: {DEMO}\nslots: 2\n"


def names(d):
    return sorted(v["name"] for v in d.ctl_json("list")["variants"])


def told(result):
    """What a command's refusal says in brackets."""
    text = result.stderr.strip()
    return "done" if result.returncode == 0 else text[text.rfind("(") + 1:-1] if text.endswith(")") else text[-80:]


def answers(d, model="demo", saw=None):
    result = d.ctl("generate", model, "--tokens", "1,2,3", "-n", 8, "--temperature", "0", "--ignore-eos",
                   "--print-tokens", check=False)
    saw = collections.Counter() if saw is None else saw
    saw["answered" if result.returncode == 0 and result.stdout.count(",") == 7 else told(result)] += 1
    return saw


def register(d, name, *more):
    path = d.directory / f"{name}.yaml"
    path.write_text(GOOD.replace("mine", name))
    return d.ctl("register", path, *more, check=False)


def alone(name, behaviour, codes=(), quick=False, **make):
    """run(d, saw) with a small daemon of its own; it returns a list of wrongs or None."""
    def add(run):
        @fault(name, behaviour, codes, own=True, quick=quick)
        def with_daemon(_):
            saw, wrong = collections.Counter(), []
            with FaultyDaemon({"demo": {"slots": 4}}, **make) as d:
                try:
                    wrong = run(d, saw) or []
                except harness.Failure as failure:
                    wrong = [str(failure).splitlines()[0]]
            return saw, wrong
        return run
    return add


@contextlib.contextmanager
def small_disk(path, size):
    """A tmpfs of so many KiB at path."""
    harness.need_root()
    path.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", path], capture_output=True,
                      check=False).returncode:
        raise Skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)
        # whoever removed the folder above before could not remove what was mounted in it
        for place in (path, path.parent):
            with contextlib.suppress(OSError):
                place.rmdir()


def fill(directory):
    file = os.open(directory / "fill", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, b"x" * 4096)
    os.close(file)


# ---- disks ----------------------------------------------------------------------------------------------

@fault("disk: results memory on a tmpfs that is full", "refused, no_memory; no SIGBUS; answered when there is room",
       {"no_memory"}, own=True, quick=True)
def results_disk_full(_):
    saw = collections.Counter()
    d = FaultyDaemon({"demo": {"slots": 4}})
    with small_disk(d.runtime, 4096), d:
        answers(d, saw=saw)
        fill(d.runtime)
        worker = d.worker("cpu")
        answers(d, saw=saw)
        equal(saw["no_memory"], 1, f"the full disk is told: {saw}")
        (d.runtime / "fill").unlink()
        answers(d, saw=saw)
        equal(saw["answered"], 2, f"before and after: {saw}")
        equal(d.worker("cpu"), worker, "the worker's process")
        d.stop()
    return saw, []


@fault("disk: the registry's is full", "register is refused, io; what was registered stays; requests are answered",
       {"io", "no_memory"}, own=True, quick=True)
def state_disk_full(_):
    saw = collections.Counter()
    d = FaultyDaemon({"demo": {"slots": 4}})
    with small_disk(d.state, 1024), d:
        saw[told(register(d, "first"))] += 1
        fill(d.state)
        results = [told(register(d, f"v{i}")) for i in range(30)]
        saw.update(results)
        expect("io" in results, f"the full disk is told: {results}")
        answers(d, saw=saw)
        kept = [f"v{i}" for i, result in enumerate(results) if result == "done"]
        (d.state / "fill").unlink()
        saw[told(register(d, "last"))] += 1
        d.stop()
        d.start()
        equal(names(d), sorted(["demo", "first", "last", *kept]), "what was acknowledged, and nothing else")
        d.stop()
    return saw, []


def storage_fails(call, error):
    @alone(f"registry: {call} fails ({errno.errorcode[error]})",
           "register is refused, io, and nothing of it stays; requests are answered", {"io", "no_memory"})
    def run(d, saw):
        d.ctl("load", "demo")
        d.rules["supervisor"].set(call, error, random.randrange(3), 1000)
        result = told(register(d, "mine"))
        saw[result] += 1
        answers(d, saw=saw)
        d.rules["supervisor"].clear()
        saw[told(register(d, "after"))] += 1
        d.stop()
        d.start()
        equal(names(d), sorted(["after", "demo"] + (["mine"] if result == "done" else [])), "what was acknowledged")
        return []
    return run


storage_fails("pwrite", errno.ENOSPC)
storage_fails("fsync", errno.EIO)
storage_fails("fdatasync", errno.EIO)


@alone("log: it cannot be written", "nobody notices", {"draining"})
def log_full(d, saw):
    for process in ("supervisor", "gate", "worker.cpu"):
        d.rules[process].set("write", errno.ENOSPC, 0, 0)
    d.stop()
    d.log_path.unlink()
    d.log_path.symlink_to("/dev/full")
    d.start()
    answers(d, saw=saw)
    saw[told(register(d, "mine"))] += 1
    d.stop(check=False)
    d.log_path.unlink()
    return []


# ---- the registry ---------------------------------------------------------------------------------------

@alone("registry: locked by another process while serving",
       "register is refused, io, within a second; requests of what is resident are answered", {"io"}, quick=True)
def registry_locked(d, saw):
    d.ctl("load", "demo")
    other = sqlite3.connect(d.state / "registry.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = harness.time.monotonic()
    saw[told(register(d, "mine"))] += 1
    seconds = harness.time.monotonic() - start
    answers(d, saw=saw)
    other.execute("ROLLBACK")
    other.close()
    saw[told(register(d, "mine"))] += 1
    equal((saw["io"], saw["done"]), (1, 1), "refused while locked, done after")
    return [] if seconds < 2 else [f"it took {seconds:.1f} s"]


def does_not_start(d, saw, *words):
    """One sentence with these words and exit status 1; the file is as it was."""
    before = (d.state / "registry.sqlite").read_bytes()
    log = len(d.log())
    d.start(wait=False)
    status = d.process.wait(30)
    d.process = None
    d.hush()
    said = d.log()[log:]
    equal(status, 1, "exit status")
    for word in words:
        expect(word in said, f"the log says {word!r}: {said}")
    equal((d.state / "registry.sqlite").read_bytes(), before, "the file")
    saw["done"] += 1


LOCK = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("PRAGMA locking_mode = EXCLUSIVE")
other.execute("BEGIN EXCLUSIVE")
other.execute("CREATE TABLE theirs (x)")
print("x", flush=True)
sys.stdin.read(1)
other.execute("ROLLBACK")
"""


@alone("registry: locked by another process at the start", "the start is refused by one sentence")
def registry_locked_at_start(d, saw):
    d.stop()
    # a process of its own: whoever closes a file gives up all its process's locks of it, and this test reads it
    other = subprocess.Popen([sys.executable, "-c", LOCK, str(d.state / "registry.sqlite")], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    equal(other.stdout.read(1), b"x", "it is locked")
    does_not_start(d, saw, "registry.sqlite", "locked")
    other.communicate(b"x")
    d.start()
    return []


def damaged(name, change, *words):
    @alone(f"registry: {name} at the start", "the start is refused by one sentence; the file is left as it is",
           quick=name == "random bytes")
    def run(d, saw):
        path = d.state / "registry.sqlite"
        d.stop()
        good = path.read_bytes()
        for extra in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{extra}")
        path.write_bytes(change(good))
        does_not_start(d, saw, "registry.sqlite", *words)
        path.write_bytes(good)
        d.start()
        answers(d, saw=saw)
        return []
    return run


damaged("random bytes", lambda good: random.Random(5).randbytes(8192), "no registry")
damaged("cut in the middle", lambda good: good[:len(good) // 2 // 4096 * 4096 + 100], "damaged")
damaged("pages overwritten", lambda good: good[:4096] + b"\xff" * (len(good) - 4096), "damaged")


def other_schema(name, sql, *words):
    @alone(f"registry: {name}", "the start is refused by one sentence")
    def run(d, saw):
        d.stop()
        other = sqlite3.connect(d.state / "registry.sqlite")
        version = other.execute("PRAGMA user_version").fetchone()[0]
        other.execute(sql.format(newer=version + 1))
        other.commit()
        other.close()
        does_not_start(d, saw, *words)
        other = sqlite3.connect(d.state / "registry.sqlite")
        other.execute("PRAGMA application_id = 1832019042")
        other.execute(f"PRAGMA user_version = {version}")
        other.commit()
        other.close()
        d.start()
        return []
    return run


other_schema("of a newer daemon", "PRAGMA user_version = {newer}", "newer mamba2d", "registry.sqlite")
other_schema("of another program", "PRAGMA application_id = 7", "another program")


# ---- checkpoints ----------------------------------------------------------------------------------------

def copy_of_demo(d):
    copy = d.directory / "copy"
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(DEMO, copy)
    d.write_variant("copied", {"checkpoint": str(copy), "slots": 2})
    d.ctl("reload")
    return copy


def weights_of(copy):
    return max((p for p in copy.iterdir()), key=lambda p: p.stat().st_size)


FILE_CODES = {"io", "format", "not_found", "invalid"}


@alone("checkpoint: truncated while it is read", "the load is refused, io or format, or done; no SIGBUS", FILE_CODES,
       quick=True)
def truncated_while_read(d, saw):
    copy = copy_of_demo(d)
    path = weights_of(copy)
    whole = path.read_bytes()
    worker = d.role("worker")
    for _ in range(8):
        path.write_bytes(whole)
        timer = threading.Timer(random.uniform(0, 0.02), os.truncate, (path, random.randrange(len(whole))))
        timer.start()
        saw[told(d.ctl("load", "copied", check=False))] += 1
        timer.join()
        d.ctl("unload", "copied", check=False)
    equal(d.role("worker"), worker, "the worker's process")
    path.write_bytes(whole)
    answers(d, "copied", saw)
    return []


@alone("checkpoint: truncated while it is resident", "nobody notices: nothing of it is mapped", FILE_CODES, quick=True)
def truncated_while_resident(d, saw):
    copy = copy_of_demo(d)
    answers(d, "copied", saw)
    for path in copy.iterdir():
        os.truncate(path, 0)
    with open(f"/proc/{d.role('worker')}/maps", encoding="utf-8") as maps:
        expect(str(copy) not in maps.read(), "nothing of it is mapped")
    answers(d, "copied", saw)
    equal(saw["answered"], 2, f"answers: {saw}")
    return []


@alone("checkpoint: changed while it is resident", "what is resident stays as it was; verify tells", FILE_CODES)
def changed_while_resident(d, saw):
    copy = copy_of_demo(d)
    answers(d, "copied", saw)
    d.ctl("verify", "copied")
    path = weights_of(copy)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    answers(d, "copied", saw)
    expect(d.ctl("verify", "copied", check=False).returncode != 0, "verify tells")
    return []


@alone("checkpoint: reading it fails (EIO)", "the load is refused, io; a later one succeeds", FILE_CODES)
def read_fails(d, saw):
    d.rules["worker.cpu"].set("pread", errno.EIO, random.randrange(6), 1)
    saw[told(d.ctl("load", "demo", check=False))] += 1
    d.rules["worker.cpu"].clear()
    answers(d, saw=saw)
    return []


@alone("checkpoint: gone", "the load is refused by the file's name; requests of others are answered", FILE_CODES)
def checkpoint_gone(d, saw):
    shutil.rmtree(copy_of_demo(d))
    result = d.ctl("load", "copied", check=False)
    saw[told(result)] += 1
    expect(str(d.directory / "copy") in result.stderr, result.stderr)
    answers(d, saw=saw)
    return []


# ---- configuration and surroundings ---------------------------------------------------------------------

@alone("configuration: broken at SIGHUP", "the old one stays; the log names file and line", quick=True)
def config_broken(d, saw):
    d.config_path.write_text("drain_timeout: never\n")
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration unchanged" in d.log() and "mamba2d.yaml:1" in d.log(), 5, "the log says so")
    answers(d, saw=saw)
    return []


@alone("configuration: a variant's file broken at SIGHUP", "its former registration stays")
def variant_broken(d, saw):
    (d.variants / "demo.yaml").write_text("name: demo\ncheckpoint: [")
    d.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "demo.yaml" in d.log(), 5, "the log names it")
    answers(d, saw=saw)
    return []


@alone("systemd: its notify socket is gone", "nobody notices")
def notify_gone(d, saw):
    os.unlink(d.directory / "notify")
    d.process.send_signal(signal.SIGHUP)
    answers(d, saw=saw)
    d.process.terminate()
    saw["done" if d.process.wait(30) == 0 else "exit status"] += 1
    d.process = None
    d.notify.close()
    return []


@alone("systemd: its notify socket is full", "nobody waits for it")
def notify_full(d, saw):
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    os.unlink(d.directory / "notify")
    full.bind(str(d.directory / "notify"))  # never read
    for _ in range(30):
        d.process.send_signal(signal.SIGHUP)
        harness.time.sleep(0.01)
    answers(d, saw=saw)
    d.process.terminate()
    saw["done" if d.process.wait(30) == 0 else "exit status"] += 1
    d.process = None
    d.notify.close()
    full.close()
    return []


@fault("supervisor: SIGKILL", "all three end; the next start finds everything that was acknowledged",
       {"worker_lost", "unreachable"}, own=True, quick=True)
def supervisor_killed(_):
    saw, wrong = collections.Counter(), []
    d = Daemon({"demo": {"slots": 4}})
    try:
        d.start()
        saw[told(register(d, "mine"))] += 1
        client = mamba2.Client(runtime_dir=str(d.runtime), timeout=10, connect_timeout=1)
        request = client.generate("demo", tokens=PROMPT, max_tokens=100000, ignore_eos=True)
        next(iter(request))
        family = [d.process.pid, *harness.children(d.process.pid)]
        os.kill(d.process.pid, signal.SIGKILL)
        d.process.wait()
        d.process = None
        d.hush()
        wait_until(lambda: not any(harness.alive(pid) for pid in family), 2, "its children end")
        d.start()
        try:
            request.wait_finished(15)
            request.check()
            saw["hangs" if not request.finished else "finished"] += 1
        except mamba2.errors.Error as error:
            saw[error.code] += 1
        request.close()
        client.close()
        equal(names(d), ["demo", "mine"], "registered")
        answers(d, saw=saw)
        d.stop()
    finally:
        d.kill()
        shutil.rmtree(d.directory, ignore_errors=True)
    return saw, wrong
