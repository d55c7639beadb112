#!/usr/bin/env python3
"""The registry through the daemon: register, replace, remove, directories, reload, refusals with file, line and
column, and what a restart finds."""
import json

import harness
from harness import Daemon, DEMO, equal, expect

GOOD = f"name: mine\ncheckpoint: {DEMO}\nslots: 2\n"


def names(d):
    return sorted(v["name"] for v in d.ctl_json("list")["variants"])


def register_show_remove_by_hand():
    with Daemon({}) as d:
        path = d.directory / "mine.yaml"
        path.write_text(GOOD + "aliases: [m]\ndescription: a test\n")
        d.ctl("register", path)
        equal(names(d), ["mine"], "listed")
        expect("a test" in d.ctl("show", "m").stdout, "show by alias prints the description")
        again = d.ctl("register", path, check=False)
        equal(again.returncode, 1, "registering the same name again is refused")
        expect("mine" in again.stderr and "(exists)" in again.stderr, f"one sentence with its code: {again.stderr}")
        d.ctl("register", path, "--replace")
        d.ctl("remove", "mine")
        equal(names(d), [], "gone")
        equal(d.ctl("show", "mine", check=False).returncode, 1, "show of what is gone")


def what_was_registered_survives_a_restart():
    with Daemon({"demo": {}}) as d:
        path = d.directory / "mine.yaml"
        path.write_text(GOOD)
        d.ctl("register", path)
        d.kill()
        d.start()
        equal(names(d), ["demo", "mine"], "both are there after kill -9")
        path.unlink()
        d.stop()
        d.start()
        equal(names(d), ["demo", "mine"], "a manual registration does not depend on its file")


def directories_are_scanned_at_start_and_on_reload():
    with Daemon({"a": {}, "b": {}}) as d:
        equal(names(d), ["a", "b"], "at start")
        d.write_variant("c")
        (d.variants / "a.yaml").unlink()
        d.write_variant("b", {"description": "changed"})
        d.ctl("reload")
        equal(names(d), ["b", "c"], "after reload")
        expect("changed" in d.ctl("show", "b").stdout, "b was read again")


def a_bad_file_is_named_with_line_and_column_and_harms_no_other():
    with Daemon({"good": {}, "bad": "name: bad\ncheckpoint: /x\nslotz: 3\n"}) as d:
        equal(names(d), ["good"], "the good one is there")
        expect("bad.yaml:3:1" in d.log() and "slotz" in d.log(), f"the log names file, line and column:\n{d.log()}")


def refusals_name_the_place():
    with Daemon({}) as d:
        for text, words in ((GOOD + "slots: 3\n", ["slots", ":4:"]), (GOOD.replace("2", "0"), ["slots", "1"]),
                            (GOOD.replace("2", '"2"'), ["slots"]), ("name: ../etc\ncheckpoint: /x\n", ["name"]),
                            (GOOD + "device: tpu\n", ["device"]), (GOOD + "colour: red\n", ["colour"]),
                            ("name: x\n", ["checkpoint"]), (GOOD + "defaults: {temperature: -1}\n", ["temperature"])):
            path = d.directory / "v.yaml"
            path.write_text(text)
            result = d.ctl("register", path, check=False)
            equal(result.returncode, 1, f"refused: {text!r}")
            for word in [*words, "v.yaml"]:
                expect(word in result.stderr, f"{text!r}: {word!r} is in {result.stderr!r}")
            equal(len(result.stderr.strip().splitlines()), 1, f"one sentence: {result.stderr}")


def a_name_is_never_a_path():
    with Daemon({"demo": {}}) as d:
        for name in ("../demo", "/etc/passwd", "demo/", "DEMO", "", ".", "a" * 65, "demo\n", "d\x00"):
            if "\x00" in name:
                continue
            result = d.ctl("load", name, check=False)
            expect(result.returncode in (1, 2), f"{name!r} is refused")


def a_failed_load_is_remembered_and_told():
    with Daemon({"broken": f"name: broken\ncheckpoint: {DEMO}/nothing\n"}) as d:
        result = d.ctl("load", "broken", check=False)
        equal(result.returncode, 1, "refused")
        expect("nothing" in result.stderr, f"names the directory: {result.stderr}")
        shown = json.dumps(d.ctl_json("show", "broken"))
        expect("nothing" in shown, f"show tells the last error: {shown}")
        result = d.ctl("generate", "broken", "x", check=False)
        equal(result.returncode, 1, "a request for it is refused too")


def a_gpu_variant_is_never_run_on_the_cpu():
    with Daemon({"gpu": {"device": "cuda:0"}}) as d:
        result = d.ctl("load", "gpu", check=False)
        equal(result.returncode, 1, "refused")
        expect("cuda" in result.stderr.lower(), f"says why: {result.stderr}")


harness.main(register_show_remove_by_hand, what_was_registered_survives_a_restart,
             directories_are_scanned_at_start_and_on_reload,
             a_bad_file_is_named_with_line_and_column_and_harms_no_other, refusals_name_the_place,
             a_name_is_never_a_path, a_failed_load_is_remembered_and_told, a_gpu_variant_is_never_run_on_the_cpu)
