#!/usr/bin/env python3
"""Two real users of one daemon: each has half of its work, whatever the other asks for; limits hold and say so."""
import os
import threading
import time

import harness
from harness import Daemon, DEMO, Failure, Skip, as_user, equal, expect, need_root, wait_until

DAEMON, ALICE, BOB = 61001, 61002, 61003
SECONDS = float(os.environ.get("M2_FAIR_SECONDS", "2"))


def daemon(config="", **keys):
    """A daemon that runs as a user of its own, with a demo model copied where that user can read it."""
    need_root()
    if harness.SANITIZER:
        raise Skip("the sanitizers' runtime cannot be traced across users; run by the release build")
    d = Daemon({}, config=config, user=DAEMON)
    copy = d.directory / "demo"
    harness.shutil.copytree(DEMO, copy)
    for path in [copy, *copy.rglob("*")]:
        os.chmod(path, 0o755)
    d.write_variant("demo", {"checkpoint": str(copy), "preload": True, "slots": 8, **keys})
    os.chown(d.variants / "demo.yaml", DAEMON, DAEMON)
    return d


def generate(client, **more):
    return client.generate("demo", tokens=[1, 2, 3], temperature=0, ignore_eos=True, **more)


class User:
    """A process of another user that keeps `at_once` requests of `length` tokens under way until it is told to
    stop, and says when its first token came."""

    def __init__(self, d, uid, at_once, length):
        self.stop_reader, self.stop_writer = os.pipe()
        self.said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.stop_writer)
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                self.work(d, at_once, length, say)
                status = 0
            finally:
                os._exit(status)
        os.close(say)
        os.close(self.stop_reader)

    def work(self, d, at_once, length, say):
        over = threading.Event()
        first = threading.Event()

        def one(client):
            while not over.is_set():
                began = time.monotonic()
                with generate(client, max_tokens=length) as request:
                    for _ in request:
                        if not first.is_set():
                            first.set()
                            os.write(say, f"{time.monotonic() - began}\n".encode())
                        if over.is_set():
                            break

        with d.connect() as client:
            threads = [threading.Thread(target=one, args=(client,)) for _ in range(at_once)]
            for thread in threads:
                thread.start()
            os.read(self.stop_reader, 1)
            over.set()
            for thread in threads:
                thread.join()

    def first_token(self):
        with os.fdopen(self.said) as said:
            line = said.readline()
        if not line:
            raise Failure("a user's process ended before its first token")
        return float(line)

    def end(self):
        os.write(self.stop_writer, b"x")
        os.close(self.stop_writer)
        equal(os.waitpid(self.pid, 0)[1], 0, "a user's process")


def tokens(d):
    """Tokens by uid so far, as the worker counts them."""
    return {u["uid"]: u["served_tokens"] for u in d.ctl_json("ps")["users"]}


def forty_requests_get_no_more_than_one():
    with daemon() as d:
        alice = User(d, ALICE, 40, 400)
        expect(alice.first_token() < 5, "the first user starts")
        wait_until(lambda: sum(u["queued"] for u in d.ctl_json("ps")["users"]) >= 20, 10, "a queue")
        bob = User(d, BOB, 1, 4000)
        waited = bob.first_token()
        expect(waited < 1.0, f"a newcomer's first token after {waited:.3f} s")
        before, start = tokens(d), time.monotonic()
        time.sleep(SECONDS)
        after, took = tokens(d), time.monotonic() - start
        had = {uid: after[uid] - before.get(uid, 0) for uid in (ALICE, BOB)}
        share = had[BOB] / sum(had.values())
        paused = sum(u["paused"] for u in d.ctl_json("ps")["users"])
        print(f"# 40 against 1: {had[ALICE] / took:.0f} and {had[BOB] / took:.0f} tokens/s, share of the one "
              f"{share:.3f}; first token after {waited * 1000:.0f} ms; {paused} paused")
        bob.end()
        alice.end()
        expect(0.42 <= share <= 0.58, f"each has half of the work, the one with one request {share:.3f}")


def limits_hold_and_say_so():
    config = (f"users:\n  - {{name: {ALICE}, slots: 2, requests: 3, tokens_per_minute: 600}}\n"
              f"  - {{name: \"@{BOB}\", slots: 4, weight: 3}}\n"  # the group of that number
              "default_user: {weight: 2}\n")
    with daemon(config) as d:
        def refused(function):
            try:
                function()
            except harness.mamba2.Error as error:
                return [error.code, str(error)]
            return ["ok", ""]

        def alice():
            with d.connect() as client:
                many = refused(lambda: generate(client, n=3, max_tokens=5))
                held = [generate(client, max_tokens=100000) for _ in range(3)]
                fourth = refused(lambda: generate(client, max_tokens=5))
                time.sleep(0.2)
                rows = client.ps()["users"]
                for request in held:
                    request.close()
            return [many, fourth, rows]
        many, fourth, rows = as_user(ALICE, alice)
        equal(many[0], "limit", "three completions at once")
        expect("may run 2 sequences at once" in many[1], many[1])
        equal(fourth[0], "busy", "a fourth request")
        expect("may have 3" in fourth[1], fourth[1])
        equal([row["uid"] for row in rows], [ALICE], "she sees her own figures only")
        equal((rows[0]["running"], rows[0]["queued"], rows[0]["slots"]), (2, 1, 2), "two of three run")
        wait_until(lambda: not d.segments(), 5, "what she had is gone")

        def again():
            with d.connect() as client:
                # the first is taken if the three left anything, and then leaves nothing for the second
                answers = [refused(lambda: generate(client, max_tokens=700).result()),
                           refused(lambda: generate(client, max_tokens=5))]
                return next((a for a in answers if a[0] == "busy"), answers[-1])
        code, text = as_user(ALICE, again)
        equal(code, "busy", "tokens per minute")
        expect("600 tokens per minute" in text and "try again in" in text, text)

        def bob():
            with d.connect() as client:
                code, text = refused(lambda: generate(client, n=5, max_tokens=5))
                expect((code, "may run 4 sequences" in text) == ("limit", True), f"his group's limit: {text}")
                equal(client.ps()["users"][0]["weight"], 3, "his group's weight")
                with generate(client, n=4, max_tokens=700) as request:
                    request.result()
                    return [len(request.tokens(i)) for i in range(4)]
        equal(as_user(BOB, bob), [700] * 4, "her limits are not his")


def a_users_states_are_limited_by_their_bytes():
    with daemon() as d:
        each = d.ctl_json("load", "demo")["footprint"]["per_slot"]
        d.config_path.write_text(f"users: [{{name: {ALICE}, state_bytes: {2 * each}}}]\n")
        d.ctl("reload")

        def alice():
            with d.connect() as client:
                try:
                    generate(client, n=3, max_tokens=5)
                    return ["three at once were taken", {}]
                except harness.mamba2.Error as error:
                    text = f"{error.code}: {error}"
                held = [generate(client, max_tokens=100000) for _ in range(3)]
                time.sleep(0.2)
                rows = client.ps()["users"]
                for request in held:
                    request.close()
                return [text, rows[0]]
        text, row = as_user(ALICE, alice)
        expect(text.startswith("limit: ") and f"{3 * each} bytes" in text and "state_bytes" in text, text)
        equal((row["running"], row["queued"]), (2, 1), "two of three run, with a slot free")
        equal((row["slot_bytes"], row["paused_bytes"], row["state_bytes_limit"]), (2 * each, 0, 2 * each), "her bytes")
        wait_until(lambda: not any(u["slot_bytes"] for u in d.ctl_json("ps")["users"]), 5, "her slots are free")


def a_bad_priority_is_refused_and_a_good_one_taken():
    with daemon() as d:
        d.ctl("generate", "demo", "--tokens", "1,2", "--max-tokens", "3", "--priority", "low")
        with d.connect() as client:
            with generate(client, max_tokens=3, priority="high") as request:
                equal(len(list(request)), 3, "a request of high priority")
                equal(request.paused, (0.0, 0), "that nobody paused")
        result = d.ctl("generate", "demo", "--tokens", "1,2", "--priority", "urgent", check=False)
        equal(result.returncode, 2, "usage")
        expect("low, normal or high" in result.stderr, result.stderr)


harness.main(forty_requests_get_no_more_than_one, limits_hold_and_say_so,
             a_users_states_are_limited_by_their_bytes,
             a_bad_priority_is_refused_and_a_good_one_taken)
