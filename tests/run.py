#!/usr/bin/env python3
"""Runs test programs that print TAP and adds them up: the engine of `make check`.

    tests/run.py [--jobs N] [--env NAME=VALUE] [--log FILE] [--title TEXT] PROGRAM...
    tests/run.py --summary FILE...

Every PROGRAM is an executable, a .sh or a .py; each gets a time limit and is ended with its whole process
group.  A program that prints no plan, or ends with an error that no `not ok` explains (a crash, a sanitizer's
report), counts as one failure.  Results are appended to --log; --summary prints the names of what was
skipped, what failed, and the closing line `N passed, N failed, N skipped`.
"""
import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time

LINE = re.compile(r"^(not ok|ok)\s+\d+\s*(?:-\s*)?(.*)$")
LIMIT_S = 600


def command(program):
    if program.endswith(".py"):
        return [sys.executable, "-B", program]
    if program.endswith(".sh"):
        return ["sh", program]
    return [program]


def run(program, environment):
    """One program -> (results [(state, name, note)], seconds, output)."""
    started = time.monotonic()
    process = subprocess.Popen(command(program), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=LIMIT_S)
        ending = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        ending = "time limit"
    output = out.decode("utf-8", "replace")
    results = []
    for line in output.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        name, note = match.group(2), ""
        skip = re.search(r"#\s*SKIP\b\s*(.*)$", name, re.I)
        if skip:
            before = name[: skip.start()].strip()
            results.append(("skipped", (before + " " + skip.group(1)).strip(), note))
        else:
            results.append(("passed" if match.group(1) == "ok" else "failed", name.strip(), note))
    if not results or (ending != 0 and not any(r[0] == "failed" for r in results)):
        results.append(("failed", f"{os.path.basename(program)} ended with {ending}", ""))
    return results, time.monotonic() - started, output


def summary(files):
    total = {"passed": 0, "failed": 0, "skipped": 0}
    names = {"failed": [], "skipped": []}
    for path in files:
        with open(path, encoding="utf-8") as log:
            for line in log:
                row = json.loads(line)
                total[row["state"]] += 1
                if row["state"] in names:
                    names[row["state"]].append(f'{row["title"]}: {row["name"]}')
    for state in ("skipped", "failed"):
        for name in names[state]:
            print(f"{state}: {name}")
    print(f'{total["passed"]} passed, {total["failed"]} failed, {total["skipped"]} skipped')
    return 1 if total["failed"] or not total["passed"] else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--log")
    parser.add_argument("--title", default="")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("programs", nargs="*")
    a = parser.parse_args()
    if a.summary:
        sys.exit(summary(a.programs))
    environment = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", PYTHONDONTWRITEBYTECODE="1")
    environment.update(item.split("=", 1) for item in a.env)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        futures = [(p, pool.submit(run, p, environment)) for p in a.programs]
        for program, future in futures:
            results, seconds, output = future.result()
            bad = [r for r in results if r[0] == "failed"]
            skipped = sum(r[0] == "skipped" for r in results)
            label = os.path.relpath(program)
            print(f'{"FAIL" if bad else "ok  "} {a.title:9} {label}: {len(results) - len(bad) - skipped} passed'
                  + (f", {len(bad)} failed" if bad else "") + (f", {skipped} skipped" if skipped else "")
                  + f" ({seconds:.1f} s)", flush=True)
            if bad:
                failed += 1
                print("\n".join("    " + line for line in output.splitlines()[-120:]), flush=True)
            if a.log:
                os.makedirs(os.path.dirname(a.log) or ".", exist_ok=True)
                with open(a.log, "a", encoding="utf-8") as log:
                    for state, name, _ in results:
                        log.write(json.dumps({"title": a.title, "state": state,
                                              "name": f"{os.path.basename(program)}: {name}"}) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
