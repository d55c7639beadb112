#!/usr/bin/env python3
"""Two real users: nobody reads another's results, nobody writes their own, and access lists hold."""
import os

import harness
from harness import Daemon, DEMO, Skip, as_user, equal, expect, need_root

DAEMON, ALICE, BOB = 61001, 61002, 61003


def daemon(**keys):
    """A daemon that runs as a user of its own, with a demo model copied where that user can read it."""
    need_root()
    if harness.SANITIZER:
        raise Skip("the sanitizers' runtime cannot be traced across users; run by the release build")
    d = Daemon({}, user=DAEMON)
    copy = d.directory / "demo"
    harness.shutil.copytree(DEMO, copy)
    for path in [copy, *copy.rglob("*")]:
        os.chmod(path, 0o755)
    d.write_variant("demo", {"checkpoint": str(copy), "preload": True, **keys})
    os.chown(d.variants / "demo.yaml", DAEMON, DAEMON)
    return d


def generate(d, hold=None):
    with d.connect() as client:
        with client.generate("demo", tokens=[1, 2, 3], max_tokens=4, temperature=0, ignore_eos=True) as request:
            ids = [token.id for token in request]
            return hold(ids) if hold else ids


def attempts(path):
    """Everything a user may try with a segment's path; {what: outcome}."""
    def tried(function):
        try:
            function()
            return "done"
        except OSError as error:
            return os.strerror(error.errno)
    return {"read": tried(lambda: os.close(os.open(path, os.O_RDONLY))),
            "write": tried(lambda: os.close(os.open(path, os.O_RDWR))),
            "truncate": tried(lambda: os.truncate(path, 0)),
            "chmod": tried(lambda: os.chmod(path, 0o666)),
            "unlink": tried(lambda: os.unlink(path)),
            "list": tried(lambda: os.listdir(os.path.dirname(path)))}


def only_its_client_reads_a_segment_and_nobody_writes_it():
    with daemon() as d:
        def inside(_):
            with open("/proc/self/maps", encoding="utf-8") as maps:
                line = next(line.split() for line in maps if "/results/" in line)
            own = attempts(line[-1])
            reader = os.open(line[-1], os.O_RDONLY)
            reopened = attempts(f"/proc/self/fd/{reader}")  # the way around a mode, were there one
            os.close(reader)
            return {"mode": line[1], "own": own, "reopened": reopened}
        result = as_user(ALICE, lambda: generate(d, inside))
        equal(result["mode"], "r--s", "the client's mapping is read-only and shared")
        for who in ("own", "reopened"):
            equal(result[who]["read"], "done", f"{who}: its client may read")
            for what in ("write", "truncate", "chmod"):
                expect(result[who][what] != "done", f"{who}: {what} must fail")
        for what in ("unlink", "list"):
            expect(result["own"][what] != "done", f"own: {what} must fail")


def another_user_reads_nothing():
    """Bob tries while Alice's request is alive; root (the test) hands him the path."""
    with daemon() as d:
        reader, writer = os.pipe()
        done_reader, done_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            def wait_for_bob(ids):
                os.write(writer, b"x")
                os.read(done_reader, 1)
                return ids
            try:
                os.setgroups([])
                os.setresgid(ALICE, ALICE, ALICE)
                os.setresuid(ALICE, ALICE, ALICE)
                generate(d, wait_for_bob)
            finally:
                os._exit(0)
        os.read(reader, 1)
        segments = d.segments()
        equal(len(segments), 1, "one segment is alive")
        outcome = as_user(BOB, lambda: attempts(str(d.runtime / "results" / segments[0])))
        os.write(done_writer, b"x")
        os.waitpid(pid, 0)
        for what, result in outcome.items():
            expect(result != "done", f"bob: {what} must fail")
        for end in (reader, writer, done_reader, done_writer):
            os.close(end)


def access_lists_hold_and_refusals_say_what_is_missing():
    with daemon(access={"users": [str(ALICE)]}) as d:
        equal(len(as_user(ALICE, lambda: generate(d))), 4, "alice may")
        def bob():
            try:
                generate(d)
            except Exception as error:  # pylint: disable=broad-except
                return [getattr(error, "code", "?"), str(error)]
            return ["ok", ""]
        code, text = as_user(BOB, bob)
        equal(code, "denied", "bob may not")
        expect(str(BOB) in text, f"the sentence names him: {text}")
        def listed():
            with d.connect() as client:
                return [v["name"] for v in client.list()["variants"]]
        equal(as_user(BOB, listed), [], "bob does not even see it")
        equal(as_user(ALICE, listed), ["demo"], "alice does")


def only_administrators_reach_the_control_endpoint():
    with daemon() as d:
        def load():
            try:
                with d.connect(control=True) as client:
                    client.load("demo")
            except Exception as error:  # pylint: disable=broad-except
                return getattr(error, "code", type(error).__name__)
            return "ok"
        expect(as_user(ALICE, load) in ("denied", "unreachable"), "alice is no administrator")
        equal(as_user(DAEMON, load), "ok", "the daemon's own user is")
        def cheat():
            try:
                with harness.mamba2.Client(runtime_dir=str(d.runtime)) as client:
                    client.load("demo")
            except Exception as error:  # pylint: disable=broad-except
                return getattr(error, "code", type(error).__name__)
            return "ok"
        equal(as_user(ALICE, cheat), "denied", "a control request on the client endpoint")


def nobody_cancels_another_users_request():
    with daemon() as d:
        with d.connect() as client:  # root's own request
            request = client.generate("demo", tokens=[1, 2], max_tokens=3000, temperature=0, ignore_eos=True)
            number = request.number
            def cancel():
                with d.connect() as other:
                    try:
                        other.cancel(number)
                    except Exception as error:  # pylint: disable=broad-except
                        return getattr(error, "code", "?")
                return "ok"
            equal(as_user(BOB, cancel), "not_found", "to bob it does not exist")
            equal(len(list(request)), 3000, "it ran to its end")
            request.close()


harness.main(only_its_client_reads_a_segment_and_nobody_writes_it, another_user_reads_nothing,
             access_lists_hold_and_refusals_say_what_is_missing, only_administrators_reach_the_control_endpoint,
             nobody_cancels_another_users_request)
