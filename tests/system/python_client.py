#!/usr/bin/env python3
"""The Python package against a running daemon: tokens, text, arrays without copies, errors, descriptors, threads.

    MAMBA2_RUNTIME_DIR=DIR tests/system/python_client.py MODEL

Prints TAP.  The model needs a tokenizer; the user must be an administrator of the daemon.
"""
import gc
import os
import pathlib
import select
import sys
import threading
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))
import mamba2  # noqa: E402

try:
    import numpy
except ImportError:
    numpy = None

MODEL = sys.argv[1] if len(sys.argv) > 1 else "demo"
PROMPT = [5, 6, 7, 8]
GREEDY = {"temperature": 0, "ignore_eos": True}


class Skip(Exception):
    pass


def equal(got, want, what):
    assert got == want, f"{what}: got {got!r}, want {want!r}"


def raised(kind, function):
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def mapped():
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum("/results/" in line for line in maps)


def iterating_gives_tokens_whose_texts_add_up():
    with mamba2.Client() as client:
        with client.generate(MODEL, "In the beginning", max_tokens=40, logprobs=0, **GREEDY) as request:
            tokens = list(request)
            equal(len(tokens), 40, "tokens")
            equal("".join(t.text for t in tokens), request.text(), "the texts add up")
            equal([t.id for t in tokens], [int(i) for i in request.tokens()], "ids")
            assert all(t.logprob <= 0 for t in tokens), "log-probabilities are not positive"
            equal(request.finish(), "length", "finish")
            equal(request.finished, True, "finished")
            timings = request.timings
            assert 0 < timings.first <= timings.total, timings
        raised(ValueError, request.tokens)


def arrays_are_views_that_keep_the_memory_and_cannot_be_written():
    if numpy is None:
        raise Skip("NumPy is not installed")
    gc.collect()
    before = mapped()
    with mamba2.Client() as client:
        with client.generate(MODEL, tokens=PROMPT, max_tokens=6, logits=True, logprobs=3, **GREEDY) as request:
            request.result()
            logits, top = request.logits(), request.top_ids()
        del request
    gc.collect()
    equal(mapped(), before + 1, "one segment is still mapped, for the views")
    equal(logits.shape[0], 6, "rows")
    equal(top.shape, (6, 3), "alternatives")
    equal(logits.dtype, numpy.float32, "type")
    equal([int(i) for i in logits.argmax(1)], [int(i) for i in top[:, 0]], "the best of each row")
    raised(ValueError, lambda: logits.setflags(write=True))
    raised(ValueError, lambda: logits.__setitem__((0, 0), 1.0))
    del logits, top
    gc.collect()
    equal(mapped(), before, "and nothing is when they are gone")


def scores_agree_with_logits():
    if numpy is None:
        raise Skip("NumPy is not installed")
    with mamba2.Client() as client:
        score = client.score(MODEL, tokens=PROMPT, top=2, logits=True)
        equal([int(i) for i in score.tokens()], PROMPT, "tokens")
        logits = score.logits().astype(numpy.float64)
        shifted = logits - logits.max(1, keepdims=True)
        logprobs = shifted - numpy.log(numpy.exp(shifted).sum(1, keepdims=True))
        want = [logprobs[t - 1, PROMPT[t]] for t in range(1, 4)]
        assert numpy.allclose(score.logprobs()[1:], want, atol=1e-4), (score.logprobs(), want)
        assert numpy.isnan(score.logprobs()[0]), "nothing comes before the first"
        equal(int(score.top_ids()[3, 0]), int(logits[2].argmax()), "the most probable token at position 3")


def text_and_ids_go_both_ways():
    with mamba2.Client() as client:
        ids = client.tokenize(MODEL, "And the king said unto him")
        assert ids and all(isinstance(i, int) for i in ids), ids
        equal(client.detokenize(MODEL, ids), "And the king said unto him", "there and back")
        equal(client.tokenize(MODEL, ""), [], "nothing")
        equal(client.detokenize(MODEL, []), "", "nothing back")


def several_completions_stream_on_their_own():
    with mamba2.Client() as client:
        with client.generate(MODEL, tokens=PROMPT, max_tokens=10, n=3, temperature=1, seed=5, ignore_eos=True) as r:
            streams = [[t.id for t in r.stream(i)] for i in range(3)]
            equal([len(s) for s in streams], [10, 10, 10], "lengths")
            equal(streams, [[int(i) for i in r.tokens(s)] for s in range(3)], "streams and arrays")


def errors_carry_code_number_and_field():
    with mamba2.Client() as client:
        error = raised(mamba2.NotFound, lambda: client.generate("no-such-model", "x"))
        equal((error.code, error.number), ("not_found", 2), "of the daemon")
        error = raised(mamba2.Invalid, lambda: client.generate(MODEL, "x", temperature=-1))
        equal((error.code, error.field), ("invalid", "temperature"), "of the library")
        raised(mamba2.Invalid, lambda: client.generate(MODEL, tokens=[-1]))
        raised(TypeError, lambda: client.generate(MODEL))
        raised(mamba2.NotFound, lambda: client.cancel(1))
        raised(mamba2.Denied, lambda: client.load(MODEL))
    raised(ValueError, client.list)
    error = raised(mamba2.Unreachable, lambda: mamba2.Client("/nonexistent", connect_timeout=0.1))
    assert isinstance(error, ConnectionError), "which is a ConnectionError, too"


def cancelling_keeps_what_came_and_is_no_failure():
    with mamba2.Client() as client:
        with client.generate(MODEL, tokens=PROMPT, max_tokens=100000, **GREEDY) as request:
            count = 0
            for _ in request:
                count += 1
                if count == 5:
                    request.cancel()
            equal(request.finish(), "cancelled", "finish")
            assert count >= 5, count
        with client.generate(MODEL, tokens=PROMPT, max_tokens=100000, **GREEDY) as request:
            number = request.number
            assert any(r["request"] == number for r in client.ps()["requests"]), "ps shows it"
            client.cancel(number)
            equal(request.wait_finished(10), True, "cancelled by its number")
            raised(mamba2.Cancelled, request.check)


def the_descriptor_wakes_a_poll():
    with mamba2.Client() as client:
        with client.generate(MODEL, tokens=PROMPT, max_tokens=30, **GREEDY) as request:
            poll = select.poll()
            poll.register(request.fileno(), select.POLLIN)
            while not request.finished:
                assert poll.poll(10000), "nothing for ten seconds"
                request.wait(0)
            equal(request.count(), 30, "tokens")


def threads_share_a_client():
    with mamba2.Client() as client:
        with client.generate(MODEL, tokens=PROMPT, max_tokens=20, **GREEDY) as request:
            want = [t.id for t in request]
        wrong = []

        def work():
            for _ in range(5):
                with client.generate(MODEL, tokens=PROMPT, max_tokens=20, **GREEDY) as mine:
                    if [t.id for t in mine] != want:
                        wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(wrong, [], "threads with other tokens")


def administrators_load_and_unload():
    with mamba2.Client(control=True) as client:
        equal(client.load(MODEL)["name"], MODEL, "load")
        states = {v["name"]: v["state"] for v in client.list()["variants"]}
        equal(states[MODEL], "resident", "list")
        equal(client.show(MODEL)["variant"]["name"], MODEL, "show")
        assert client.status()["version"], "status"
        equal(client.unload(MODEL, wait_s=5)["name"], MODEL, "unload")
        client.load(MODEL)


def main():
    tests = [iterating_gives_tokens_whose_texts_add_up, arrays_are_views_that_keep_the_memory_and_cannot_be_written,
             scores_agree_with_logits, text_and_ids_go_both_ways, several_completions_stream_on_their_own,
             errors_carry_code_number_and_field, cancelling_keeps_what_came_and_is_no_failure,
             the_descriptor_wakes_a_poll, threads_share_a_client, administrators_load_and_unload]
    failed = 0
    for number, test in enumerate(tests, 1):
        try:
            test()
            print(f"ok {number} - {test.__name__}", flush=True)
        except Skip as skip:
            print(f"ok {number} # SKIP {test.__name__}: {skip}", flush=True)
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f"not ok {number} - {test.__name__}", flush=True)
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), flush=True)
    print(f"1..{len(tests)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if "MAMBA2_RUNTIME_DIR" not in os.environ:
        sys.exit("set MAMBA2_RUNTIME_DIR to the daemon's runtime directory")
    main()
