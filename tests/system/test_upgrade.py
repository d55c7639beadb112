#!/usr/bin/env python3
"""From one daemon to the next: drain, stop, start; the registry of an older one; clients of another wire version."""
import json
import socket
import sqlite3
import struct
import threading

import harness
from harness import DEMO, Daemon, equal, expect

GOOD = f"name: mine\ncheckpoint: {DEMO}\nslots: 2\naliases: [m]\n"


def names(d):
    return sorted(v["name"] for v in d.ctl_json("list")["variants"])


def answer(d, model):
    return d.ctl("generate", model, "--tokens", "1,2,3", "-n", 6, "--temperature", "0", "--ignore-eos",
                 "--print-tokens").stdout


LONG = 1500 // harness.SLOW  # tokens: long enough to be under way when the drain begins


def drain_stop_start_loses_no_variant_and_no_request():
    with Daemon({"demo": {"slots": 2}}) as d:
        path = d.directory / "mine.yaml"
        path.write_text(GOOD)
        d.ctl("register", path)
        want = answer(d, "m")
        results = []
        running = [threading.Thread(target=lambda: results.append(d.ctl(
            "generate", "m", "--tokens", "1,2", "-n", LONG, "--ignore-eos", "--print-tokens", "--temperature", "0")))
            for _ in range(3)]
        for thread in running:
            thread.start()
        harness.wait_until(lambda: len(d.segments()) == 3, 10, "they run")
        d.ctl("drain", "--wait", "30")
        refused = d.ctl("generate", "m", "--tokens", "1", check=False)
        expect(refused.returncode == 1 and "(draining)" in refused.stderr, f"no new work: {refused.stderr}")
        for thread in running:
            thread.join(60)
        equal([r.stdout.count(",") for r in results], [LONG - 1] * 3, "what ran was finished")
        d.stop()
        path.unlink()
        d.start()
        equal(names(d), ["demo", "mine"], "registered")
        equal(answer(d, "m"), want, "the same tokens from the next daemon")


def an_older_registry_is_brought_up_to_date_with_all_it_holds():
    with Daemon({}) as d:
        path = d.directory / "mine.yaml"
        path.write_text(GOOD)
        d.ctl("register", path)
        d.stop()
        database = d.state / "registry.sqlite"
        old = sqlite3.connect(database, isolation_level=None)
        version = old.execute("PRAGMA user_version").fetchone()[0]
        expect(version >= 2, "there is an older schema to come from")
        # schema 1 had no table of files
        old.execute("DROP TABLE files")
        old.execute("PRAGMA user_version = 1")
        old.close()
        d.start()
        equal(names(d), ["mine"], "what the older one had registered")
        equal(len(answer(d, "m").split(",")), 6, "and it runs")
        d.stop()
        now = sqlite3.connect(database)
        equal(now.execute("PRAGMA user_version").fetchone()[0], version, "the schema's number")
        now.close()


def a_newer_registry_is_refused_untouched():
    with Daemon({}) as d:
        d.stop()
        database = d.state / "registry.sqlite"
        new = sqlite3.connect(database, isolation_level=None)
        version = new.execute("PRAGMA user_version").fetchone()[0]
        new.execute(f"PRAGMA user_version = {version + 1}")
        new.close()
        before = database.read_bytes()
        d.start(wait=False)
        equal(d.process.wait(30), 1, "exit status")
        d.process = None
        d.hush()
        expect("newer mamba2d" in d.log() and f"schema {version + 1}" in d.log(), f"one sentence: {d.log()}")
        equal(database.read_bytes(), before, "the file")
        back = sqlite3.connect(database, isolation_level=None)
        back.execute(f"PRAGMA user_version = {version}")
        back.close()
        d.start()


class Raw:
    """A ZMTP 3.0 DEALER by hand: what an old or a new client library would send."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(20 * harness.SLOW)
        self.s.connect(str(path))
        self.s.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + b"\0" * 31)
        self.take(64)
        ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER" + b"\x08Identity" + b"\0\0\0\0"
        self.s.sendall(b"\x04" + bytes([len(ready)]) + ready)
        self.frame()

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.s.recv(n - len(data))
            expect(more, "the connection holds")
            data += more
        return data

    def frame(self):
        flags = self.take(1)[0]
        size = struct.unpack(">Q", self.take(8))[0] if flags & 2 else self.take(1)[0]
        return flags, self.take(size)

    def ask(self, header):
        text = json.dumps(header).encode()
        self.s.sendall(b"\x00" + bytes([len(text)]) + text)
        while True:
            flags, data = self.frame()
            if not flags & 4:  # no command such as PING
                return json.loads(data)


def clients_of_another_wire_version_are_told_in_one_sentence():
    with Daemon({"demo": {}}) as d:
        raw = Raw(d.runtime / "client.sock")
        ours = raw.ask({"v": 1, "op": "status", "id": 7})
        equal((ours["event"], ours["id"]), ("result", 7), "this version is served")
        for version in (0, 2, 99):
            said = raw.ask({"v": version, "op": "status", "id": 8})
            equal((said["event"], said["id"], said["error"]["code"]), ("error", 8, "protocol"), f"version {version}")
            text = said["error"]["message"]
            expect("must be 1" in text, f"it names the version that is spoken: {text}")
        equal(raw.ask({"v": 1, "op": "status", "id": 9})["event"], "result", "the connection goes on")
        raw.s.close()


harness.main(drain_stop_start_loses_no_variant_and_no_request,
             an_older_registry_is_brought_up_to_date_with_all_it_holds, a_newer_registry_is_refused_untouched,
             clients_of_another_wire_version_are_told_in_one_sentence)
