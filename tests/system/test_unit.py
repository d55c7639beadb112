#!/usr/bin/env python3
"""systemd/mamba2d.service: its score, and loading and generating under its restrictions as far as they can be had here.

Those are built from what there is everywhere: setpriv (user, no new privileges, no capabilities), unshare (private
mounts, network and IPC), read-only bind mounts of everything but the daemon's directories, prlimit, and, on
x86-64, prctl: memory is never both written and executed, sockets are AF_UNIX, and system calls that the unit's filter
names are refused.  What was really applied is printed, and read back from the daemon's own processes.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import harness
from harness import BUILD, DEMO, ROOT, SANITIZER, Daemon, Skip, equal, expect, need_root

UNIT = ROOT / "systemd" / "mamba2d.service"
MOST = 1.5
USER = 61010


def unit_text():
    return UNIT.read_text(encoding="utf-8").replace("@PREFIX@", "/usr")


def the_units_exposure_is_at_most_one_and_a_half():
    if shutil.which("systemd-analyze") is None:
        raise Skip("systemd-analyze is not installed")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "mamba2d.service"
        path.write_text(unit_text())
        result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
                                capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"exposure level for mamba2d.service: ([0-9.]+)", result.stdout)
    if found is None:
        raise Skip(f"this systemd-analyze cannot judge a file: {result.stderr.strip()[:100]}")
    print(f"# exposure {found.group(1)}")
    expect(float(found.group(1)) <= MOST, f"{found.group(1)} is more than {MOST}")


def the_unit_keeps_what_access_control_stands_on():
    """PrivateUsers= or DynamicUser= would raise the score and break who is who."""
    lines = [line for line in unit_text().splitlines() if line and not line.startswith("#")]
    for never in ("PrivateUsers=", "DynamicUser="):
        equal([line for line in lines if line.startswith(never)], [], never)
    for needed in ("NoNewPrivileges=yes", "CapabilityBoundingSet=", "PrivateNetwork=yes", "ProtectSystem=strict",
                   "LimitCORE=0", "UMask=0077"):
        expect(needed in lines, f"{needed} stands there")


class Confined(Daemon):
    """A daemon behind a command that confines it."""

    def __init__(self, front):
        super().__init__({}, user=None)
        demo = self.directory / "demo"
        shutil.copytree(DEMO, demo)
        self.write_variant("demo", {"checkpoint": str(demo), "preload": True})
        program = self.directory / "bin"
        program.mkdir()
        shutil.copy2(BUILD / "mamba2d", program)
        (self.directory / "last").write_text(LAST)
        for path in (self.runtime, self.state):
            path.mkdir()
        for path in [self.directory, *self.directory.rglob("*")]:
            os.chown(path, USER, USER)
            os.chmod(path, 0o755)
        self.program = self.directory / "front"
        self.program.write_text(front(self.directory, [self.runtime, self.state]))
        self.program.chmod(0o755)

    def start(self, wait=True):
        before = os.umask(0)  # the notify socket is for another user to write to
        try:
            return super().start(wait)
        finally:
            os.umask(before)


def unshared(directory, writable):
    """A script: its own mounts, network and IPC; all read-only but two directories; then no privileges at all."""
    binds = "".join(f"mount --bind {path} {path}\n" for path in writable)
    return f"""#!/bin/sh
# $NOTIFY_SOCKET lies in the test's directory, which stays as it is
if [ -z "$CONFINED" ]; then CONFINED=1 exec unshare --mount --net --ipc --uts --propagation private "$0" "$@"; fi
set -e
{binds}for at in $(awk '{{ print $2 }}' /proc/self/mounts | sort -u); do
	case $at in {'|'.join(str(p) for p in writable)}|/proc|/proc/*|/sys|/sys/*|/dev|/dev/pts|/dev/mqueue) ;;
	*) mount -o remount,bind,ro "$at" 2>/dev/null || true ;;
	esac
done
umask 0077
exec prlimit --core=0 setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs \\
	--bounding-set=-all --inh-caps=-all {sys.executable} {directory}/last {directory}/bin/mamba2d "$@"
"""


#: the last step before the daemon: what only a process itself can do
LAST = """
import ctypes, os, struct, sys
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl(65, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))  # PR_SET_MDWE
if os.uname().machine == "x86_64":
    refused = [101, 139, 155, 161, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 227, 246, 248, 249, 250,
               272, 298, 304, 305, 308, 310, 311, 313, 320, 321, 428, 429, 430, 432, 442]
    load = lambda at: struct.pack("HBBI", 0x20, 0, 0, at)
    jump = lambda to, yes, no: struct.pack("HBBI", 0x15, yes, no, to)
    back = lambda value: struct.pack("HBBI", 0x06, 0, 0, value)
    code = [load(0)]
    for number in refused:
        code += [jump(number, 0, 1), back(0x00050001)]  # EPERM
    code += [jump(41, 0, 3), load(16), jump(1, 1, 0), back(0x00050061), back(0x7fff0000)]  # socket(): AF_UNIX only
    memory = ctypes.create_string_buffer(b"".join(code))
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(memory)))
    if prctl(22, ctypes.c_ulong(2), ctypes.byref(filter)):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


def status_of(pid, key):
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return re.search(rf"^{key}:\s*(\S+)", text, re.M).group(1)


def check_confined(d, pids):
    """What the kernel says of the daemon's processes."""
    applied = []
    for pid in pids:
        equal(status_of(pid, "NoNewPrivs"), "1", "NoNewPrivs")
        for which in ("CapPrm", "CapEff", "CapBnd"):
            equal(int(status_of(pid, which), 16), 0, which)
        equal(status_of(pid, "Uid"), str(USER), "the user")
        expect(os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"), "a network of its own")
        with open(f"/proc/{pid}/mounts", encoding="utf-8") as mounts:
            root = next(line.split()[3].split(",") for line in mounts if line.split()[1] == "/")
        expect("ro" in root, f"a read-only root: {root}")
    applied += ["no new privileges", "no capabilities", "a user of its own", "a private, empty network",
                "a read-only root and home", "its own mounts and IPC", "no core dumps", "umask 0077"]
    if status_of(pids[0], "Seccomp") == "2":
        applied += ["a system call filter", "sockets of AF_UNIX only"]
    print(f"# applied: {', '.join(applied)}; memory never written and executed where the kernel knows PR_SET_MDWE")
    return d


def it_loads_and_generates_under_the_units_restrictions():
    need_root()
    if SANITIZER:
        raise Skip("the sanitizers' runtime wants more than the unit gives; run by the release build")
    for tool in ("unshare", "setpriv", "prlimit"):
        if shutil.which(tool) is None:
            raise Skip(f"{tool} is not installed")
    probe = subprocess.run(["unshare", "--mount", "--net", "--ipc", "true"], capture_output=True, check=False)
    if probe.returncode:
        raise Skip("no mounts or networks of one's own can be had here")
    with Confined(unshared) as d:
        family = [d.process.pid, d.role("gate"), d.role("worker")]
        check_confined(d, family)
        out = d.ctl("generate", "demo", "--tokens", "1,2,3", "-n", 8, "--temperature", "0", "--ignore-eos",
                    "--print-tokens").stdout
        equal(out.count(","), 7, "commas between eight ids")
        d.ctl("unload", "demo")
        d.ctl("load", "demo")
        path = d.directory / "mine.yaml"
        path.write_text(f"name: mine\ncheckpoint: {d.directory}/demo\nslots: 1\n")
        d.ctl("register", path)
        equal(len(d.ctl_json("list")["variants"]), 2, "variants")
    print("# not applied without a system manager: the whole of SystemCallFilter (a list of what it denies is), "
          "DevicePolicy, ProtectKernel*, ProtectProc")


def it_needs_no_memory_that_is_written_and_executed():
    """MemoryDenyWriteExecute, as the kernel would see it: no mapping of any process is both."""
    with Daemon({"demo": {"preload": True}}) as d:
        for role in ("gate", "worker"):
            with open(f"/proc/{d.role(role)}/maps", encoding="utf-8") as maps:
                both = [line for line in maps if "w" in line.split()[1] and "x" in line.split()[1]]
            if not SANITIZER:
                equal(both, [], f"mappings of the {role} that are writable and executable")


harness.main(the_units_exposure_is_at_most_one_and_a_half, the_unit_keeps_what_access_control_stands_on,
             it_loads_and_generates_under_the_units_restrictions, it_needs_no_memory_that_is_written_and_executed)
