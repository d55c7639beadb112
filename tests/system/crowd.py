"""Many variants for a budget that holds few of them: small models of different sizes, clients that ask for them at
random, and the fewest loads that any order of leaving could have done with.

What test_budget.py and tests/bench/residency.py share.
"""
import json
import math
import os
import random
import struct
import threading
import time

import models
from harness import Daemon, equal, expect, wait_until  # noqa: F401

PROMPT = [1, 2, 3, 4, 5, 6, 7]


def write_models(directory, count):
    """count checkpoints, no two of one size; returns the text of a variant for each: {name: yaml}."""
    texts = {}
    for n in range(count):
        shape = models.Shape(d=64 + 16 * (n % 4), layers=1 + n % 3, heads=2 * (4 + n % 4), head_dim=16, state=16 + 8 * (n % 2),
                             rows=96)
        place = directory / f"checkpoint-{n}"
        place.mkdir()
        models.write_safetensors(place, models.dressed(models.random_weights(shape, n + 1), "F32", plural=True))
        models.write_config(place, models.hf_config(shape))
        texts[f"v{n}"] = (f"name: v{n}\ncheckpoint: {place}\ntokenizer: none\nweights: f32\nslots: {2 + n % 3}\n"
                          f"queue: 4096\nmax_batch_tokens: 80\n")
    return texts


def write_hole(directory, s):
    """A checkpoint of shape s that is a header and a hole: for plans, not to be read to its end."""
    layer = {"norm.weight": [s.d], "mixer.dt_bias": [s.heads], "mixer.A_log": [s.heads], "mixer.D": [s.heads],
             "mixer.in_proj.weight": [s.inner + s.channels + s.heads, s.d], "mixer.conv1d.weight": [s.channels, 1, s.conv],
             "mixer.conv1d.bias": [s.channels], "mixer.norm.weight": [s.inner], "mixer.out_proj.weight": [s.d, s.inner]}
    shapes = {f"backbone.layers.{n}.{name}": shape for n in range(s.layers) for name, shape in layer.items()}
    shapes.update({"backbone.embeddings.weight": [s.rows, s.d], "backbone.norm_f.weight": [s.d]})
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(directory / "model.safetensors", 8 + len(text) + at)
    models.write_config(directory, models.hf_config(s))


def make(count, config="", keys=None):
    """A daemon, not started, with `count` variants.  keys: {name: more lines of its YAML}."""
    d = Daemon({}, config=config)
    for name, text in write_models(d.directory, count).items():
        d.write_variant(name, text + (keys or {}).get(name, ""))
    return d


def configure(d, budget, stay="0s"):
    d.config_path.write_text(f"memory:\n  budgets: [cpu={budget}]\n  stay: {stay}\n")


def footprints(d):
    """Bytes of every variant, as --dry-run says."""
    with d.connect(control=True) as client:
        return {v["name"]: client.load(v["name"], dry_run=True)["footprint"]["total"] for v in client.list()["variants"]}


def footprints_of_residents(d):
    return {m["name"]: m["bytes"] for m in d.ctl_json("ps")["models"]}


def pinned(d):
    return sorted(m["name"] for m in d.ctl_json("ps")["models"] if m["pinned"])


def tokens(client, name, count=4, salt=0):
    with client.generate(name, tokens=[*PROMPT, salt], max_tokens=count, temperature=0, ignore_eos=True) as request:
        request.result(120)
        return [int(t) for t in request.tokens()]


def optimum(order, sizes, budget):
    """Loads that serve the requests in this order, always letting those leave that are wanted again last (Belady); of
    variants of one size no order of leaving does with fewer."""
    following = [0] * len(order)
    last = {}
    for at in range(len(order) - 1, -1, -1):
        following[at] = last.get(order[at], len(order))
        last[order[at]] = at
    resident, loads = {}, 0  # name -> when it is wanted next
    for at, name in enumerate(order):
        if name not in resident:
            loads += 1
            while sum(sizes[r] for r in resident) + sizes[name] > budget:
                del resident[max(resident, key=resident.get)]
        resident[name] = following[at]
    return loads


def least_recent(order, sizes, budget):
    """Loads of plain LRU that serves them one after another, as each comes."""
    resident, loads = [], 0
    for name in order:
        if name in resident:
            resident.remove(name)
        else:
            loads += 1
            while sum(sizes[r] for r in resident) + sizes[name] > budget:
                resident.pop(0)
        resident.append(name)
    return loads


class Crowd:
    """Clients that each send one request after another, for variants at random, and know the right answers."""

    def __init__(self, d, want, clients, requests, weights=None, seed=1):
        self.d, self.want, self.weights, self.seed = d, want, weights, seed
        self.names = sorted(want)
        self.clients, self.requests = clients, requests
        self.order, self.wrong, self.slowest = [], [], 0.0
        self.lock = threading.Lock()

    def draw(self, random_numbers):
        """The next variant, noted in the order of the requests; None: enough were sent."""
        with self.lock:
            if len(self.order) >= self.requests or self.wrong:
                return None
            name = random_numbers.choices(self.names, self.weights)[0]
            self.order.append(name)
            return name

    def one(self, number):
        random_numbers = random.Random(self.seed * 1000 + number)
        try:
            with self.d.connect() as client:
                while (name := self.draw(random_numbers)) is not None:
                    salt = random_numbers.randrange(len(self.want[name]))
                    began = time.monotonic()
                    got = tokens(client, name, len(self.want[name][salt]), salt)
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    if got != self.want[name][salt]:
                        self.wrong.append(f"{name}: {got}, alone {self.want[name][salt]}")
        except Exception as error:  # pylint: disable=broad-except
            self.wrong.append(f"{type(error).__name__}: {error}")

    def run(self, watch):
        """Run them all; watch() is called over and over meanwhile.  Seconds that it took."""
        began = time.monotonic()
        threads = [threading.Thread(target=self.one, args=(n,)) for n in range(self.clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            watch()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        equal(self.wrong[:3], [], "requests that failed or were answered otherwise than alone")
        return time.monotonic() - began


class Watch:
    """ps, over and over: is what is resident within the budget, and does every figure add up?"""

    def __init__(self, d, budget):
        self.client, self.budget = d.connect(), budget
        self.most = self.looks = 0

    def __call__(self):
        ps = self.client.ps()
        device = next(x for x in ps["devices"] if x["device"] == "cpu")
        held = sum(m["bytes"] for m in ps["models"])
        for m in ps["models"]:
            equal(m["bytes"], m["weights"] + m["state_bytes"] + m["workspace"], f"parts of {m['name']}")
        expect(max(held, device["memory_models"]) <= self.budget,
               f"{held} and {device['memory_models']} bytes, budget {self.budget}: {json.dumps(ps)}")
        equal(device["memory_budget"], self.budget, "the budget ps tells")
        self.most, self.looks = max(self.most, device["memory_models"]), self.looks + 1

    def close(self):
        self.client.close()


def answers(d, salts=3, count=4):
    """What every variant answers alone: {name: [ids by salt]}."""
    want = {}
    with d.connect() as client:
        for v in d.ctl_json("list")["variants"]:
            want[v["name"]] = [tokens(client, v["name"], count, salt) for salt in range(salts)]
    return want
