#!/usr/bin/env python3
"""Bits per byte of the demo model on text it never saw, and of an n-gram model beside it. NumPy and nothing else.

    python3 evaluate.py                              # model.safetensors on heldout.txt, both beside this file
    python3 evaluate.py --ngram corpus/train.txt     # the baseline; corpus.py makes that file
    python3 evaluate.py --sample "It came to pass"   # a continuation

It shares no code with train.py: it reads the safetensors file, encodes with tokenizer.json's merges and runs the
recurrence token by token in float32, each chapter from a zero state after one <|endoftext|>. Counted are the bits of
every byte of every chapter, not those of the <|endoftext|> that closes it. About half a minute each on one core;
the n-gram model takes 1.5 GB of memory.

The baseline is an interpolated modified Kneser-Ney model (Chen & Goodman 1999) of bytes, given the same training
text and the same chapters. The tokenizer here knows ASCII letters only, which is all that heldout.txt has.
"""
import argparse, json, math, pathlib, re, struct
from collections import Counter, defaultdict
import numpy as np

HERE, EOT = pathlib.Path(__file__).resolve().parent, "<|endoftext|>"


# ---- tokenizer: byte-level BPE -------------------------------------------------------------------------------------

class Tokenizer:
    SPLIT = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.A)

    def __init__(self, path):
        j = json.loads(path.read_text(encoding="utf-8"))["model"]
        self.ids = j["vocab"]
        self.rank = {tuple(m.split(" ") if isinstance(m, str) else m): i for i, m in enumerate(j["merges"])}
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]              # bytes that stand for themselves
        hidden = [b for b in range(256) if b not in shown]
        self.char = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
        byte = {c: b for b, c in self.char.items()}
        self.bytes = {i: bytes(byte[c] for c in t) for t, i in self.ids.items() if t != EOT}
        self.known = {}

    def encode(self, text):
        out = []
        for piece in self.SPLIT.findall(text):
            if piece not in self.known:
                parts = [self.char[b] for b in piece.encode()]
                while len(parts) > 1:
                    best = min(range(len(parts) - 1), key=lambda i: self.rank.get((parts[i], parts[i + 1]), math.inf))
                    if (parts[best], parts[best + 1]) not in self.rank:
                        break
                    parts[best:best + 2] = [parts[best] + parts[best + 1]]
                self.known[piece] = [self.ids[p] for p in parts]
            out += self.known[piece]
        return out

    def decode(self, ids):
        return b"".join(self.bytes[i] for i in ids).decode("utf-8", "replace")


# ---- model: one token at a time, for b sequences at once ------------------------------------------------------------

def read_safetensors(path):
    raw = path.read_bytes()
    n, = struct.unpack("<Q", raw[:8])
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            x = np.frombuffer(raw[8 + n + a:8 + n + b], {"F32": np.float32, "BF16": np.uint16}[t["dtype"]])
            x = (x.astype(np.uint32) << 16).view(np.float32) if t["dtype"] == "BF16" else x
            out[name] = x.reshape(t["shape"])
    return out


def silu(x):
    return x / (1 + np.exp(-x))


class Mamba2:
    def __init__(self, directory):
        c = self.c = json.loads((directory / "config.json").read_text())
        self.w = read_safetensors(directory / "model.safetensors")
        self.P, self.N, self.H, self.K = c["head_dim"], c["state_size"], c["num_heads"], c["conv_kernel"]
        self.inner = self.H * self.P
        self.parameters = sum(x.size for x in self.w.values())

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["norm_eps"]) * weight

    def start(self, b):
        shapes = (self.K, b, self.inner + 2 * self.N), (b, self.H, self.P, self.N)    # the convolution's, and the SSM's
        return [tuple(np.zeros(s, np.float32) for s in shapes) for _ in range(self.c["num_hidden_layers"])]

    def step(self, tokens, state):
        """tokens [b] -> logits [b, V]; state is changed in place."""
        r = self.w["backbone.embeddings.weight"][tokens]
        for n, (window, h) in enumerate(state):
            name = f"backbone.layers.{n}."
            w = {k[len(name):]: v for k, v in self.w.items() if k.startswith(name)}
            p = self.norm(r, w["norm.weight"]) @ w["mixer.in_proj.weight"].T
            z, xBC, dt = np.split(p, [self.inner, 2 * self.inner + 2 * self.N], -1)
            window[:-1], window[-1] = window[1:].copy(), xBC
            xBC = np.einsum("kbc,ck->bc", window, w["mixer.conv1d.weight"][:, 0])
            xBC = silu(xBC + w["mixer.conv1d.bias"])
            x, B, C = np.split(xBC, [self.inner, self.inner + self.N], -1)
            x = x.reshape(-1, self.H, self.P)
            dt = np.logaddexp(0, dt + w["mixer.dt_bias"])
            h *= np.exp(-dt * np.exp(w["mixer.A_log"]))[..., None, None]
            h += (dt[..., None] * x)[..., None] * B[:, None, None, :]
            y = np.matmul(h, C[:, None, :, None])[..., 0] + w["mixer.D"][:, None] * x
            y = self.norm(y.reshape(-1, self.inner) * silu(z), w["mixer.norm.weight"])
            r = r + y @ w["mixer.out_proj.weight"].T
        return self.norm(r, self.w["backbone.norm_f.weight"]) @ self.w["backbone.embeddings.weight"].T


def model_bits(model, tokenizer, chapters):
    """[bits of each chapter], all chapters side by side, the longest first so that finished ones drop off the end."""
    ids = [[tokenizer.ids[EOT]] + tokenizer.encode(c) for c in chapters]
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    state, bits = model.start(len(ids)), np.zeros(len(ids))
    for t in range(len(ids[order[0]]) - 1):
        live = [i for i in order if len(ids[i]) > t + 1]
        state = [(w[:, :len(live)], h[:len(live)]) for w, h in state]
        logits = model.step([ids[i][t] for i in live], state).astype(np.float64)
        top = logits.max(-1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        for k, i in enumerate(live):
            bits[i] += (total[k] - logits[k, ids[i][t + 1]]) / math.log(2)
    return bits


def sample(model, tokenizer, prompt, n, temperature, seed):
    rng, state, out = np.random.default_rng(seed), model.start(1), tokenizer.encode(prompt)
    for t in out:
        logits = model.step([t], state)[0]
    for _ in range(n):
        p = np.exp((logits - logits.max()) / max(temperature, 1e-6))
        t = int(rng.choice(len(p), p=p / p.sum()))
        if t == tokenizer.ids[EOT]:
            break
        out.append(t)
        logits = model.step([t], state)[0]
    return tokenizer.decode(out)


# ---- baseline: modified Kneser-Ney over bytes ------------------------------------------------------------------------

class KneserNey:
    def __init__(self, text, order):
        self.levels = []
        for n in range(1, order + 1):
            if n == order:
                counts = Counter(text[i:i + n] for i in range(len(text) - n + 1))
            else:                                                                  # how many bytes it was seen after
                counts = Counter(g[1:] for g in {text[i:i + n + 1] for i in range(len(text) - n)})
            of = Counter(min(c, 4) for c in counts.values())
            y = of[1] / (of[1] + 2 * of[2]) if of[1] else 0.5
            discount = [0] + [max(0.1, k - (k + 1) * y * of[k + 1] / of[k]) if of[k] else 0.5 for k in (1, 2, 3)]
            total, spared = defaultdict(int), defaultdict(float)
            for g, c in counts.items():
                total[g[:-1]] += c
                spared[g[:-1]] += discount[min(c, 3)]
            self.levels.append((counts, discount, dict(total), dict(spared)))

    def bits(self, text):
        """Of every byte but the first, which only gives the context."""
        out = 0.0
        for i in range(1, len(text)):
            p = 1 / 256
            for n, (counts, discount, total, spared) in enumerate(self.levels):
                context = text[max(0, i - n):i]
                if len(context) < n or context not in total:
                    break
                c = counts.get(context + text[i:i + 1], 0)
                p = (max(c - discount[min(c, 3)], 0) + spared[context] * p) / total[context]
            out -= math.log2(p)
        return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, default=HERE)
    p.add_argument("--text", type=pathlib.Path, default=HERE / "heldout.txt")
    p.add_argument("--ngram", type=pathlib.Path, metavar="TRAIN", help="measure the n-gram model made from this text")
    p.add_argument("--order", type=int, default=9)
    p.add_argument("--sample", metavar="PROMPT")
    p.add_argument("-n", type=int, default=120, help="tokens to sample")
    p.add_argument("--temperature", type=float, default=0.7)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    if a.sample is not None:
        print(sample(Mamba2(a.model), Tokenizer(a.model / "tokenizer.json"), a.sample, a.n, a.temperature, a.seed))
        return
    chapters = a.text.read_text(encoding="utf-8").split(EOT)[:-1]
    size = [len(c.encode()) for c in chapters]
    if a.ngram:
        plain = lambda path: path.read_bytes().replace(EOT.encode(), b"\0")        # one byte marks a chapter's end
        model = KneserNey(b"\0" + plain(a.ngram), a.order)
        bits = np.array([model.bits(b"\0" + c.encode()) for c in chapters])
        print(f"Kneser-Ney, order {a.order}: ", end="")
    else:
        model, tokenizer = Mamba2(a.model), Tokenizer(a.model / "tokenizer.json")
        bits = model_bits(model, tokenizer, chapters)
        tokens = sum(len(tokenizer.encode(c)) for c in chapters)
        print(f"Mamba-2, {model.parameters} parameters, {sum(size) / tokens:.2f} bytes a token: ", end="")
    print(f"{bits.sum() / sum(size):.4f} bits per byte over {len(chapters)} chapters, {sum(size)} bytes")
    for name, novel in (("Bible", False), ("Austen", True)):                      # only the novels have blank lines
        k = [i for i, c in enumerate(chapters) if ("\n\n" in c) == novel]
        n = sum(size[i] for i in k)
        if k:
            print(f"  {name}: {bits[k].sum() / n:.4f} over {len(k)} chapters, {n} bytes")


if __name__ == "__main__":
    main()
