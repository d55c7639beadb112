"""What every system test stands on: a private daemon in a private directory, and TAP.

A Daemon starts the real mamba2d with every path under one temporary directory, listens on a notify socket of its
own (so that "ready" is the daemon's word, not a sleep), and at the end proves that nothing is left: no process, no
socket, no results segment.  Programs are ended by process id.  Nothing here uses the network.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = (ROOT / os.environ.get("M2_BUILD", "build/release")).resolve()
SANITIZER = os.environ.get("M2_SANITIZER", "")
SHARED = pathlib.Path(os.environ.get("M2_SHARED", ROOT.parent / "shared"))
DEMO = ROOT / "configs" / "demo"
SLOW = 6 if SANITIZER == "thread" else 3 if SANITIZER else 1  # how much longer things may take

# The client library is tested from the release build even when the daemon is a sanitizer build: Python itself
# has no sanitizer's runtime.
os.environ.setdefault("MAMBA2_LIBRARY", str(ROOT / "build" / "release" / "libmamba2.so.0"))
sys.path.insert(0, str(ROOT / "client" / "python"))
import mamba2  # noqa: E402  (here, so that a test that changes its uid has everything loaded)

mamba2.version()


class Skip(Exception):
    pass


class Failure(AssertionError):
    pass


def expect(condition, message):
    if not condition:
        raise Failure(message)


def equal(got, want, what):
    if got != want:
        raise Failure(f"{what}: got {got!r}, want {want!r}")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root, to run as two users")


def wait_until(condition, seconds, what):
    """Poll a condition of another process (there is nothing to wait on for /proc and directories)."""
    end = time.monotonic() + seconds * SLOW
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"not within {seconds * SLOW} s: {what}")
        time.sleep(0.01)


def main(*tests):
    """Run test functions in order and print TAP.  Names on the command line choose some of them."""
    chosen = [t for t in tests if len(sys.argv) < 2 or t.__name__ in sys.argv[1:]]
    failed = 0
    for number, test in enumerate(chosen, 1):
        try:
            test()
            print(f"ok {number} - {test.__name__}", flush=True)
        except Skip as skip:
            print(f"ok {number} # SKIP {test.__name__}: {skip}", flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"not ok {number} - {test.__name__}", flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), flush=True)
    print(f"1..{len(chosen)}")
    sys.exit(1 if failed else 0)


def children(pid):
    """Process ids whose parent is pid."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
                if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry))
    return found


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def rss_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")).group(1))


def base_directory():
    """A tmpfs to put the runtime directory on, as in production."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Daemon:
    """The real daemon.  config: text of mamba2d.yaml; variants: {name: yaml text or extra keys for the demo}."""

    def __init__(self, variants=None, config="", args=(), mode=0o755, user=None):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="m2sys.", dir=base_directory()))
        os.chmod(self.directory, mode)
        self.runtime = self.directory / "run"
        self.state = self.directory / "state"
        self.variants = self.directory / "variants"
        self.log_path = self.directory / "log"
        self.config_path = self.directory / "mamba2d.yaml"
        self.variants.mkdir()
        self.config_path.write_text(config)
        for name, keys in (variants if variants is not None else {"demo": {}}).items():
            self.write_variant(name, keys)
        self.args = list(args)
        self.user = user
        self.messages, self.passed = [], 0
        self.heard = threading.Condition()
        self.process = None
        self.notify = None
        self.listener = None
        self.program = BUILD / "mamba2d"
        self.environment = {}  # beside the test's own
        if user is not None:
            for path in [self.directory, *self.directory.rglob("*")]:
                os.chown(path, user, user)

    def write_variant(self, name, keys=None):
        if isinstance(keys, str):
            text = keys
        else:
            all_keys = {"name": name, "checkpoint": str(DEMO), "weights": "f32", "slots": 16, "queue": 4096,
                        "keep_alive": "forever", **(keys or {})}
            text = "".join(f"{k}: {json.dumps(v)}\n" if not isinstance(v, (int, str)) or isinstance(v, bool)
                           else f"{k}: {v}\n" for k, v in all_keys.items())
        (self.variants / f"{name}.yaml").write_text(text)

    # ---- life -----------------------------------------------------------------------------------

    def start(self, wait=True):
        address = str(self.directory / "notify")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(address)
        if self.user is not None:
            os.chown(address, self.user, self.user)
        environment = dict(os.environ, NOTIFY_SOCKET=address, **self.environment)
        command = [str(self.program), "--config", str(self.config_path), "--runtime-dir", str(self.runtime),
                   "--state-dir", str(self.state), "--variant-dir", str(self.variants), *self.args]
        if self.user is not None:
            command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        log.close()
        self.messages, self.passed = [], 0
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()
        if wait:
            self.wait_message("READY=1", 30)
        return self

    def listen(self):
        """Take every notify message as it comes, as systemd does: a full socket would hold the daemon up."""
        while True:
            try:
                message = self.notify.recv(8192).decode()
            except OSError:
                return
            if message == "end of test":
                return
            with self.heard:
                self.messages.append(message)
                self.heard.notify_all()

    def wait_message(self, wanted, seconds):
        """Wait for a notify message that has a line beginning with `wanted` and that no earlier wait has passed."""
        end = time.monotonic() + seconds * SLOW
        with self.heard:
            while True:
                while self.passed < len(self.messages):
                    message = self.messages[self.passed]
                    self.passed += 1
                    if any(line.startswith(wanted) for line in message.splitlines()):
                        return message
                if time.monotonic() > end or self.process.poll() is not None:
                    raise Failure(f"no {wanted} from the daemon\n{self.log()}")
                self.heard.wait(0.2)

    def hush(self):
        """Ends the listener."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"end of test", str(self.directory / "notify"))
        self.listener.join()
        self.notify.close()

    def stop(self, check=True):
        """SIGTERM, and proof that nothing is left."""
        if self.process is None:
            return
        family = [self.process.pid, *children(self.process.pid)]
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(60 * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"the daemon did not stop on SIGTERM\n{self.log()}") from None
        self.process = None
        self.hush()
        if check:
            equal(status, 0, f"exit status of the daemon\n{self.log()}")
            self.check_nothing_left(family)

    def check_nothing_left(self, family):
        wait_until(lambda: not any(alive(pid) for pid in family), 2, f"processes {family} end")
        left = [str(p.relative_to(self.runtime)) for p in self.runtime.rglob("*") if not p.is_dir() and p.name != "lock"]
        equal(left, [], "files left in the runtime directory")
        if SANITIZER:
            expect("ERROR: " not in self.log() and "WARNING: ThreadSanitizer" not in self.log(),
                   f"the sanitizer has something to say:\n{self.log()}")

    def kill(self):
        if self.process is not None:
            for pid in [self.process.pid, *children(self.process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            self.hush()

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.stop()
            else:
                print("".join("# " + line + "\n" for line in self.log().splitlines()[-60:]), end="")
                self.kill()
        finally:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- looking inside -------------------------------------------------------------------------

    def role(self, name):
        """Process id of the gate or the worker, by its command line."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                if f"--role={name}" in line and alive(pid):
                    return pid
        return None

    def segments(self):
        directory = self.runtime / "results"
        return sorted(os.listdir(directory)) if directory.exists() else []

    # ---- clients --------------------------------------------------------------------------------

    def ctl(self, *args, check=True, input=None, timeout=120):
        result = subprocess.run([str(BUILD / "mamba2ctl"), "--runtime-dir", str(self.runtime), *map(str, args)],
                                capture_output=True, text=True, input=input, timeout=timeout * SLOW)
        if check and result.returncode != 0:
            raise Failure(f"mamba2ctl {args}: {result.returncode}: {result.stderr}\n{self.log()}")
        return result

    def ctl_json(self, *args):
        return json.loads(self.ctl(*args, "--json").stdout)

    def connect(self, control=False):
        return mamba2.Client(runtime_dir=str(self.runtime), control=control)


def as_user(uid, function):
    """Run function() in a child process under another uid; returns what it returned (JSON), or raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            answer = {"value": function()}
        except BaseException as error:  # pylint: disable=broad-except
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    data = b""
    while chunk := os.read(reader, 65536):
        data += chunk
    os.close(reader)
    os.waitpid(pid, 0)
    answer = json.loads(data)
    if "error" in answer:
        raise Failure(f"as uid {uid}: {answer['error']}")
    return answer["value"]


