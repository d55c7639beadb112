#!/usr/bin/env python3
"""Two variants resident and served at once; load, unload and reload of one while the other generates; load on
demand; keep_alive; the queue's bound; deadlines and cancellation; stop strings; messages instead of memory."""
import json
import threading
import time

import harness
from harness import Daemon, equal, expect, wait_until

PROMPT = [5, 6, 7, 8]


def ids(client, model, n=32, **options):
    with client.generate(model, tokens=PROMPT, max_tokens=n, temperature=0, ignore_eos=True, **options) as request:
        return [token.id for token in request]


def state(d, name):
    return next(v["state"] for v in d.ctl_json("list")["variants"] if v["name"] == name)


def code_of(function):
    try:
        function()
    except Exception as error:  # pylint: disable=broad-except
        return getattr(error, "code", f"{type(error).__name__}: {error}")
    return "ok"


def two_variants_are_served_at_once():
    with Daemon({"a": {"preload": True}, "b": {"preload": True, "weights": "bf16"}}) as d:
        with d.connect() as client:
            alone = {m: ids(client, m, 64) for m in "ab"}
            requests = [(m, client.generate(m, tokens=PROMPT, max_tokens=64, temperature=0, ignore_eos=True))
                        for m in "ababab"]
            for model, request in requests:
                equal([t.id for t in request], alone[model], f"tokens of {model} beside the other")
                request.close()


def load_unload_reload_while_another_generates():
    with Daemon({"a": {"preload": True}, "b": {}}) as d:
        with d.connect() as client:
            want = ids(client, "a", 64)
            stop, errors, count = threading.Event(), [], [0]

            def work():
                with d.connect() as mine:
                    while not stop.is_set():
                        if ids(mine, "a", 64) != want:
                            errors.append("tokens differ")
                        count[0] += 1

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(10):
                d.ctl("load", "b")
                equal(state(d, "b"), "resident", "b after load")
                equal(len(ids(client, "b", 8)), 8, "b answers")
                d.ctl("reload")
                d.ctl("unload", "b")
                equal(state(d, "b"), "registered", "b after unload")
            stop.set()
            for thread in threads:
                thread.join()
            equal(errors, [], "errors of a's clients")
            expect(count[0] > 10, f"a answered {count[0]} times meanwhile")


def a_request_loads_its_variant_and_keep_alive_unloads_it():
    with Daemon({"a": {"keep_alive": "1s"}}) as d:
        with d.connect() as client:
            equal(state(d, "a"), "registered", "not resident before")
            equal(len(ids(client, "a", 4)), 4, "the request is answered all the same")
            equal(state(d, "a"), "resident", "resident after")
            wait_until(lambda: state(d, "a") == "registered", 5, "keep_alive unloads it")


def unload_waits_for_running_requests_or_ends_them():
    with Daemon({"a": {"preload": True}}) as d:
        with d.connect() as client:
            request = client.generate("a", tokens=PROMPT, max_tokens=300, temperature=0, ignore_eos=True)
            d.ctl("unload", "a", "--wait", "30")
            equal(len(list(request)), 300, "it was allowed to finish")
            request.close()
            d.ctl("load", "a")
            request = client.generate("a", tokens=PROMPT, max_tokens=100000, temperature=0, ignore_eos=True)
            next(iter(request))
            start = time.monotonic()
            d.ctl("unload", "a", "--wait", "0")
            expect(time.monotonic() - start < 5 * harness.SLOW, "wait 0 does not wait")
            request.wait_finished()
            equal(request.finish(0), "cancelled", "the rest was cancelled")
            request.close()


def the_queue_is_bounded_and_says_so():
    with Daemon({"a": {"preload": True, "slots": 1, "queue": 2}}) as d:
        with d.connect() as client:
            running = [client.generate("a", tokens=PROMPT, max_tokens=100000, temperature=0, ignore_eos=True)
                       for _ in range(3)]
            equal(code_of(lambda: ids(client, "a", 1)), "busy", "the fourth of slots 1 + queue 2")
            for request in running:
                request.cancel()
            for request in running:
                request.wait_finished()
                request.close()
            equal(len(ids(client, "a", 3)), 3, "and then there is room again")


def deadlines_and_cancellation_take_effect_at_the_next_step():
    with Daemon({"a": {"preload": True}}) as d:
        with d.connect() as client:
            start = time.monotonic()
            with client.generate("a", tokens=PROMPT, max_tokens=1000000, ignore_eos=True, deadline_ms=300) as request:
                request.wait_finished()
                seconds = time.monotonic() - start
                equal(request.finish(0), "deadline", "finish")
                expect(0.25 < seconds < 0.6 * harness.SLOW, f"after {seconds:.3f} s")
                expect(len(request.tokens(0)) > 0, "what was done by then is kept")
            with client.generate("a", tokens=PROMPT, max_tokens=1000000, ignore_eos=True) as request:
                next(iter(request))
                start = time.monotonic()
                request.cancel()
                request.wait_finished()
                equal(request.finish(0), "cancelled", "finish")
                expect(time.monotonic() - start < 0.2 * harness.SLOW, "at once")


def a_long_prompt_does_not_stall_others():
    with Daemon({"a": {"preload": True, "max_batch_tokens": 128}}) as d:
        with d.connect() as client:
            running = client.generate("a", tokens=PROMPT, max_tokens=100000, temperature=0, ignore_eos=True)
            next(iter(running))
            long = client.generate("a", tokens=[9] * (4000 if harness.SANITIZER == "thread" else 20000), max_tokens=1, temperature=0)
            worst, last, seen = 0.0, time.monotonic(), len(running.tokens(0))
            while not long.finished:
                running.wait()
                count = len(running.tokens(0))
                if count > seen:
                    seen, now = count, time.monotonic()
                    worst, last = max(worst, now - last), now
            long.close()
            running.close()
            expect(worst < 0.5 * harness.SLOW, f"the longest pause of the other was {worst:.3f} s")


def stop_strings_end_the_text_before_them():
    with Daemon({"a": {"preload": True}}) as d:
        with d.connect() as client:
            def text(**options):
                with client.generate("a", "In the", max_tokens=60, temperature=0, **options) as request:
                    request.wait_finished()
                    return request.text(0), request.finish(0), len(request.tokens(0))
            whole, _, count = text()
            expect(len(whole) > 20, f"some text: {whole!r}")
            for at, length in ((5, 1), (9, 3), (len(whole) // 2, 6)):
                stop = whole[at:at + length]
                got, finish, fewer = text(stop=[stop])
                equal(got, whole[:whole.index(stop)], f"text up to {stop!r}")
                equal(finish, "stop_string", "finish")
                expect(fewer <= count, "and generation ended")


def ten_kinds_of_nonsense_cost_one_sentence_each():
    with Daemon({"a": {"preload": True, "slots": 2}}) as d:
        with d.connect() as client:
            for want, options in (("invalid", {"temperature": -1}), ("invalid", {"top_p": 2}), ("invalid", {"n": 0}),
                                  ("invalid", {"n": 1000}), ("invalid", {"n": 3}), ("invalid", {"logprobs": 99}),
                                  ("limit", {"stop": ["x"] * 17}), ("invalid", {"stop": [""]}),
                                  ("invalid", {"max_tokens": 0}), ("limit", {"max_tokens": 1000000, "logits": True})):
                def attempt(options=options):
                    with client.generate("a", tokens=PROMPT, **{"max_tokens": 1, **options}) as request:
                        request.wait_finished()
                equal(code_of(attempt), want, json.dumps(options))
            equal(code_of(lambda: client.generate("a", tokens=[1, 10**6], max_tokens=1)), "invalid", "an id beyond")
            equal(code_of(lambda: client.generate("a", tokens=[1, -1], max_tokens=1)), "invalid", "a negative id")
            equal(code_of(lambda: client.generate("a", tokens=[], max_tokens=1)), "invalid", "no prompt")
            equal(code_of(lambda: client.generate("zzz", tokens=[1], max_tokens=1)), "not_found", "no such variant")
            equal(len(ids(client, "a", 3)), 3, "and it still answers")


harness.main(two_variants_are_served_at_once, load_unload_reload_while_another_generates,
             a_request_loads_its_variant_and_keep_alive_unloads_it, unload_waits_for_running_requests_or_ends_them,
             the_queue_is_bounded_and_says_so, deadlines_and_cancellation_take_effect_at_the_next_step,
             a_long_prompt_does_not_stall_others, stop_strings_end_the_text_before_them,
             ten_kinds_of_nonsense_cost_one_sentence_each)
