#!/usr/bin/env python3
"""Same request, same bits: alone or among others that come and go, with one thread or two, however the prompt is
cut, on whatever instruction set is forced against itself."""
import random
import threading

import harness
from harness import Daemon, equal, expect

random.seed(2405)
PROMPTS = [[random.randrange(3, 900) for _ in range(n)] for n in (1, 5, 63, 64, 65, 130, 300, 517)]
if harness.SANITIZER:  # which look for races and wild pointers, not for bits
    del PROMPTS[6:]


def ask(client, prompt, seed):
    """Everything a request can give, as bytes that can be compared."""
    with client.generate("demo", tokens=prompt, max_tokens=24, temperature=0.9, top_p=0.9, seed=seed, logprobs=3,
                         echo=True, logits=True, ignore_eos=True) as request:
        ids = [token.id for token in request]
        return (ids, bytes(request.logprobs(0)), bytes(request.logits(0)), bytes(request.prompt_logprobs()))


def references(daemon):
    with daemon.connect() as client:
        return [ask(client, prompt, 7 + i) for i, prompt in enumerate(PROMPTS)]


def compare(got, want, what):
    for index, (a, b) in enumerate(zip(got, want)):
        for part, x, y in zip(("tokens", "log-probabilities", "logits", "prompt log-probabilities"), a, b):
            expect(x == y, f"{what}: prompt {index} ({len(PROMPTS[index])} tokens): {part} differ")
            expect(len(x) > 0, f"{part} are there")


def run(keys, args, noise):
    """The references' requests on a daemon set up in some way, with or without fifteen others."""
    with Daemon({"demo": {"preload": True, "slots": 16, **keys}}, args=args) as d:
        if not noise:
            return references(d)
        stop = threading.Event()
        asked = []

        def other(number):
            rng = random.Random(number)
            with d.connect() as client:
                while not stop.is_set():
                    prompt = [rng.randrange(3, 900) for _ in range(rng.randrange(1, 400))]
                    with client.generate("demo", tokens=prompt, max_tokens=rng.randrange(1, 60), ignore_eos=True,
                                         seed=number) as request:
                        for index, _ in enumerate(request):
                            if rng.random() < 0.02:
                                request.cancel()
                    asked.append(number)

        threads = [threading.Thread(target=other, args=(n,)) for n in range(15)]
        for thread in threads:
            thread.start()
        try:
            got = references(d)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        expect(len(asked) > 15, f"the others were busy: {len(asked)} requests")
        return got


WANT = []


def want():
    if not WANT:
        WANT.append(run({}, ["--cpu-threads", "1"], False))
    return WANT[0]


def alone_twice_is_the_same():
    compare(run({}, ["--cpu-threads", "1"], False), want(), "again")


def two_threads_change_nothing():
    compare(run({}, ["--cpu-threads", "2"], False), want(), "two threads")


def cuts_of_the_prompt_change_nothing():
    for budget in (64, 1024) if harness.SANITIZER else (64, 128, 1024):
        compare(run({"max_batch_tokens": budget}, ["--cpu-threads", "2"], False), want(), f"budget {budget}")


def fifteen_others_change_nothing():
    compare(run({"max_batch_tokens": 128}, ["--cpu-threads", "2"], True), want(), "among fifteen others")


def completions_of_one_request_are_those_of_n_requests_order_free():
    """n completions draw streams 0..n-1 of the seed; more of them do not change the first ones."""
    with Daemon({"demo": {"preload": True, "slots": 8}}) as d, d.connect() as client:
        def several(n):
            with client.generate("demo", tokens=PROMPTS[4], max_tokens=12, temperature=1, seed=3, n=n,
                                 ignore_eos=True) as request:
                request.wait_finished()
                return [request.tokens(i) for i in range(n)]
        four = [list(map(int, t)) for t in several(4)]
        two = [list(map(int, t)) for t in several(2)]
        equal(two, four[:2], "the first two of four")
        expect(len({tuple(t) for t in four}) > 1, "and they are not all the same")


harness.main(alone_twice_is_the_same, two_threads_change_nothing, cuts_of_the_prompt_change_nothing,
             fifteen_others_change_nothing, completions_of_one_request_are_those_of_n_requests_order_free)
