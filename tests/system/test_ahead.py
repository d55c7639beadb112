#!/usr/bin/env python3
"""A device that runs steps by itself, and "device: auto".  The device is a pretended GPU (faults/fake_cuda.c) that gives
what a step computed when it is waited for and not before; the daemon begins the next step before that."""
import random
import threading

import faulty
import harness
from harness import equal, expect

UNSUPPORTED, DEVICE = 10, 11  # of enum m2_err
ALWAYS = 1 << 30


def daemon(variants):
    return faulty.FaultyDaemon(variants, preload=False)


# ---- the same for everyone ----------------------------------------------------------------------

def requests():
    """Greedy and drawn ones, with and without ends, as (prompt, settings)."""
    rng = random.Random(31)
    made = []
    for i in range(12 if harness.SANITIZER else 24):
        prompt = [rng.randrange(3, 900) for _ in range(rng.randrange(1, 200))]
        how = {"max_tokens": rng.randrange(1, 50), "logprobs": 0, "seed": i}
        how.update([{}, {"temperature": 0}, {"temperature": 0, "ignore_eos": True},
                    {"temperature": 0, "stop": ["e"]}, {"temperature": 0, "n": 2},
                    {"temperature": 0, "repetition_penalty": 1.2}][i % 6])
        made.append((prompt, how))
    return made


def answer(client, model, prompt, how):
    with client.generate(model, tokens=prompt, **how) as request:
        request.result(60 * harness.SLOW)
        return [([int(t) for t in request.tokens(k)], bytes(request.logprobs(k)), request.text(k), request.finish(k))
                for k in range(how.get("n", 1))]


def crowd(d, asked, got):
    """All of them, from six clients at once; some of their neighbours are cancelled."""
    def one(number):
        with d.connect() as client:
            for index in range(number, len(asked), 6):
                with client.generate("gpu", tokens=[5, 6, 7], max_tokens=2000, temperature=0, ignore_eos=True) as other:
                    next(iter(other))
                    got[index] = answer(client, "gpu", *asked[index])
                    other.cancel()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def a_crowd_gets_what_the_processor_gives_one_at_a_time():
    with daemon({"demo": {"preload": True, "device": "cpu"},
                 "gpu": {"preload": True, "device": "cuda:0", "slots": 18}}) as d:
        asked = requests()  # six at once, and a neighbour of each: more would wait in the queue
        got = [None] * len(asked)
        with d.connect() as client:
            want = [answer(client, "demo", *one) for one in asked]
        crowd(d, asked, got)
        for index, (a, b) in enumerate(zip(got, want)):
            equal(a, b, f"request {index}, {asked[index][1]}")
        expect({end for one in want for *_, end in one} >= {"length", "stop_string"}, "they end in several ways")
        shown = {m["name"]: m for m in d.ctl_json("ps")["models"]}
        equal(shown["gpu"]["slots_used"], 0, "slots that are still held")
        equal(shown["gpu"]["measured"], shown["gpu"]["bytes"], "bytes measured, and predicted")
        expect("measured" not in shown["demo"], "the host's memory is not measured")
        equal(shown["gpu"]["runs"], "pretended, a step ahead", "which path runs")
        expect("kernels, f32 in panels" in shown["demo"]["runs"], f"the processor's: {shown['demo']['runs']}")
        expect("runs by            pretended, a step ahead\n" in d.ctl("show", "gpu").stdout, "show says it too")
        expect(f"gpu: {shown['gpu']['bytes']} bytes of the device predicted, " in d.log(), "and the log has both")


def an_unload_with_steps_under_way_ends_what_runs():
    with daemon({"gpu": {"preload": True, "device": "cuda:0", "slots": 4}}) as d:
        with d.connect(control=True) as client:
            running = [client.generate("gpu", tokens=[5 + i], max_tokens=100000, temperature=i % 2, ignore_eos=True)
                       for i in range(4)]
            for request in running:
                next(iter(request))
            client.unload("gpu", wait_s=0)
            for request in running:
                request.wait_finished(30)
                equal(request.finish(0), "cancelled", "its end")
                request.close()
            client.load("gpu")
            equal(len(answer(client, "gpu", [5], {"max_tokens": 5, "temperature": 0, "logprobs": 0})[0][0]), 5,
                  "it is loaded again and runs")


# ---- auto ---------------------------------------------------------------------------------------

def device_of(d, name):
    with d.connect(control=True) as client:
        client.load(name)
        shown = client.show(name)["variant"]
        equal(shown["device"], "auto", "what was asked for")
        return shown["resident"]["device"]


def auto_is_the_first_gpu_that_opens():
    d = daemon({"one": {}, "two": {}})
    d.rules["device"].set("present", 1, times=ALWAYS)
    with d:
        equal(device_of(d, "one"), "cuda:0", "with one that opens")
        expect("one: device auto is cuda:0" in d.log(), "the log says which")
    d = daemon({"one": {}, "two": {}})
    d.rules["device"].set("present", 1, times=ALWAYS)
    d.rules["device"].set("open_device", DEVICE, times=1)
    with d:
        equal(device_of(d, "one"), "cuda:1", "where the first does not")
        expect("one goes to cuda:1, since cuda:0 does not open" in d.log(), "the log says why")


def auto_is_the_processor_where_no_gpu_opens():
    d = daemon({"one": {}, "two": {}, "gpu": {"device": "cuda:0"}})
    d.rules["device"].set("present", 1, times=ALWAYS)
    d.rules["device"].set("open_device", UNSUPPORTED, times=3)
    with d:
        plan = d.ctl_json("load", "--dry-run", "one")
        equal(plan["device"], "cpu", "what a load would do")
        equal(device_of(d, "one"), "cpu", "and does")
        refused = d.ctl("load", "gpu", check=False)
        expect(refused.returncode != 0 and "fails at open" in refused.stderr, f"a variant that names it: {refused}")
        refused = d.ctl("load", "--dry-run", "gpu", check=False)
        expect(refused.returncode != 0 and "fails at open" in refused.stderr, f"or asks what would be: {refused}")
        # by now it opens: whoever reads the configuration again may have it
        equal(device_of(d, "two"), "cpu", "until then")
        d.ctl("unload", "two")
        d.ctl("reload")
        equal(device_of(d, "two"), "cuda:0", "then")


def without_a_driver_auto_costs_nothing():
    with daemon({"one": {}}) as d:
        equal(device_of(d, "one"), "cpu", "no driver")
        expect(d.worker("cuda") is None, "no worker was started for it")
        equal(d.rules["device"].fired("open_device"), 0, "and nothing opened")
        expect("error" not in d.log() and "warn" not in d.log(), "nor anything logged but which it is")


harness.main(a_crowd_gets_what_the_processor_gives_one_at_a_time, an_unload_with_steps_under_way_ends_what_runs,
             auto_is_the_first_gpu_that_opens, auto_is_the_processor_where_no_gpu_opens,
             without_a_driver_auto_costs_nothing)
