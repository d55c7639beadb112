#!/usr/bin/env python3
"""The plumbing's latency: starts a private daemon with the demo model and runs bench_latency against it.

    tests/bench/latency.py [requests] [tokens]

Prints the machine, then bench_latency's figures.  Judges nothing.
"""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import harness  # noqa: E402


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                if line.startswith("model name")), "unknown processor")
    return f"{cpu}, {os.cpu_count()} cores, Linux {os.uname().release.split('-')[0]}"


def main():
    arguments = sys.argv[1:] or ["500", "32"]
    print(machine())
    for threads in (1, 2):
        with harness.Daemon({"demo": {"slots": 4}}, args=["--cpu-threads", str(threads)]) as daemon:
            daemon.ctl("load", "demo")
            print(f"demo model, {threads} thread{'s' if threads > 1 else ''} in the engine:", flush=True)
            subprocess.run([harness.BUILD / "tests/bench/bench_latency", daemon.runtime, "demo", *arguments], check=True)


if __name__ == "__main__":
    main()
