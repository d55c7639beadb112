#!/usr/bin/env python3
"""Every kind of fault, many times: what clients saw, what was lost, whom it harmed.

    M2_BUILD=build/release python3 tests/bench/faults.py [--times 20] [--only WORD] [--list]

Prints one row per kind.  "saw" counts answers and error codes over all strikes; "lost" is what ended otherwise than
with its one right answer or an error that this kind may show; "harmed" counts neighbours' errors, and processes,
slots, segments or descriptors that did not come back.  The last two must be 0 everywhere; the exit status says so.
About twenty minutes for 20 times on two cores; root, for those faults that mount or limit something.
"""
import argparse
import collections
import os
import pathlib
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import faulty  # noqa: E402
import fault_kinds  # noqa: E402,F401  pylint: disable=unused-import
import fault_parking  # noqa: E402,F401  pylint: disable=unused-import
import fault_places  # noqa: E402,F401  pylint: disable=unused-import


def strike(kind, rig, times):
    saw, wrong, seconds = collections.Counter(), [], time.monotonic()
    for _ in range(times):
        try:
            seen, bad = faulty.strike_once(kind, rig)
            saw += seen
            wrong += bad
        except faulty.harness.Skip as skip:
            return saw, [], f"skipped: {skip}"
        except Exception as error:  # pylint: disable=broad-except
            wrong.append(f"{type(error).__name__}: {error}".splitlines()[0])
            if os.environ.get("M2_TRACE"):
                traceback.print_exc()
    return saw, wrong, f"{(time.monotonic() - seconds) / times:.2f} s each"


def row(kind, times, saw, wrong, note):
    lost = sum(n for c, n in saw.items() if c not in kind.codes | {"answered", "done"})
    harmed = len([w for w in wrong if not w.startswith("clients saw")])
    seen = ", ".join(f"{c} {n}" for c, n in saw.most_common())
    print(f"| {kind.name} | {times} | {seen} | {lost} | {harmed} | {note} |", flush=True)
    for line in wrong[:6]:
        print(f"    WRONG: {line}", flush=True)
    return lost + harmed


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=20)
    options.add_argument("--only", default="", help="kinds with this in their name")
    options.add_argument("--list", action="store_true", help="name the kinds and what is promised of each")
    given = options.parse_args()
    chosen = [k for k in faulty.KINDS if given.only in k.name]
    if given.list:
        for kind in chosen:
            print(f"{kind.name}\n    {kind.behaviour}")
        return
    print("| fault | times | clients saw | lost | harmed | |\n| --- | --- | --- | --- | --- | --- |")
    bad = 0
    shared = [k for k in chosen if not k.own]
    if shared:
        with faulty.rig() as rig:
            for kind in shared:
                bad += row(kind, given.times, *strike(kind, rig, given.times))
            print(f"neighbours meanwhile: {', '.join(f'{n.answers} answers on {m}' for m, n in rig.neighbours.items())}")
    for kind in (k for k in chosen if k.own):
        bad += row(kind, given.times, *strike(kind, None, given.times))
    print(f"{len(chosen)} kinds, {given.times} times each: {bad} faults that did harm")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
