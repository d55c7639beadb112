#!/usr/bin/env python3
"""Trains the demo model: a small Mamba-2 on two old books, in plain PyTorch.

    python3 corpus.py --austen austen corpus         # the text; see corpus.py
    python3 train.py corpus out                      # writes out/{config.json,model.safetensors,tokenizer.json}

It trains a byte-level BPE tokenizer and the model from scratch, and saves both in the formats of the Hugging
Face ecosystem: config.json and tensor names are those of flash-linear-attention's Mamba2ForCausalLM, matrices are
bfloat16, the small vectors float32. Needs torch, tokenizers and safetensors, and no other CUDA code. The defaults are
the settings of the model beside this file, which took 404 s with --compile on one NVIDIA H100 that two other such
runs shared. On a CPU it is a matter of days; `--steps 4 --layers 1 --batch 4` shows in minutes that it runs.

What it does not do: resume, use several GPUs, carry state across windows, or give the same bits on every machine.
The figure to publish is evaluate.py's, computed from the saved file without PyTorch.

The maths is Dao & Gu 2024, "Transformers are SSMs" (arXiv 2405.21060): section 6 is ssd(), section 7 is Mixer.
"""
import argparse, contextlib, copy, json, math, pathlib, time
import torch, torch.nn as nn, torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOT, EOT_ID = "<|endoftext|>", 0


# ---- model ---------------------------------------------------------------------------------------------------------

def ssd(x, dt, A, B, C, Q):
    """The recurrence  h = exp(dt A) h + dt B x,  y = C h  over a whole sequence, in chunks of Q tokens.

    x [b, t, H, P], dt [b, t, H], A [H], B and C [b, t, N] (one group); y like x; t a multiple of Q. Within a chunk
    it is attention with a decaying mask; between chunks only the state [H, P, N] is carried.
    """
    b, t, H, P = x.shape
    x = (x * dt[..., None]).to(x.dtype).view(b, t // Q, Q, H, P)
    B, C = (m.view(b, t // Q, Q, -1) for m in (B, C))
    cum = (dt * A).float().view(b, t // Q, Q, H).cumsum(2)                    # log decay since the chunk began
    # token j's share in y of token i, both in chunk c: (C_i . B_j) exp(cum_i - cum_j), for j <= i
    gap = cum[:, :, :, None] - cum[:, :, None]                                # [b, c, i, j, H]
    causal = torch.ones(Q, Q, dtype=torch.bool, device=x.device).tril()[..., None]
    mask = gap.masked_fill(~causal, -math.inf).exp()
    scores = torch.einsum("bcin,bcjn->bcij", C, B)
    y = torch.einsum("bcijh,bcjhp->bcihp", (scores[..., None] * mask).to(x.dtype), x)
    # what each chunk adds to the state, then the state at the start of each chunk
    left = (cum[:, :, -1:] - cum).exp()
    added = torch.einsum("bcjn,bcjhp->bchpn", B, x * left[..., None].to(x.dtype))
    state, states = torch.zeros_like(added[:, 0], dtype=torch.float32), []
    for c in range(t // Q):
        states.append(state)
        state = state * cum[:, c, -1].exp()[..., None, None] + added[:, c]
    before = torch.einsum("bcin,bchpn->bcihp", C, torch.stack(states, 1).to(C.dtype))
    return (y + before * cum.exp()[..., None].to(y.dtype)).reshape(b, t, H, P)


class RMSNorm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Mixer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.inner, self.H, self.P = c["hidden_size"], c["expand"] * c["hidden_size"], c["num_heads"], c["head_dim"]
        self.N, self.Q, self.K = c["state_size"], c["chunk_size"], c["conv_kernel"]
        channels = self.inner + 2 * self.N
        self.in_proj = nn.Linear(d, self.inner + channels + self.H, bias=False)   # z, then x B C, then dt
        self.conv1d = nn.Conv1d(channels, channels, self.K, groups=channels)      # holds the weights; see forward
        dt = torch.exp(torch.empty(self.H).uniform_(math.log(c["dt_min"]), math.log(c["dt_max"])))
        dt = dt.clamp(min=c["dt_init_floor"])
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))            # softplus(dt_bias) = dt
        self.A_log = nn.Parameter(torch.empty(self.H).uniform_(*c["A_init_range"]).log())
        self.D = nn.Parameter(torch.ones(self.H))
        self.norm = RMSNorm(self.inner, c["norm_eps"])
        self.out_proj = nn.Linear(self.inner, d, bias=False)
        nn.init.normal_(self.in_proj.weight, std=c["initializer_range"])
        nn.init.normal_(self.out_proj.weight, std=c["initializer_range"] / math.sqrt(c["num_hidden_layers"]))

    def forward(self, u):
        b, t, _ = u.shape
        z, xBC, dt = self.in_proj(u).split([self.inner, self.inner + 2 * self.N, self.H], -1)
        padded = F.pad(xBC, (0, 0, self.K - 1, 0))                                # a causal depthwise convolution
        xBC = F.silu(self.conv1d.bias + sum(padded[:, k:k + t] * self.conv1d.weight[:, 0, k] for k in range(self.K)))
        x, B, C = xBC.to(z.dtype).split([self.inner, self.N, self.N], -1)
        x = x.reshape(b, t, self.H, self.P)
        y = ssd(x, F.softplus(dt.float() + self.dt_bias), -self.A_log.exp(), B, C, self.Q)
        y = (y + self.D[:, None] * x).reshape(b, t, self.inner)
        return self.out_proj(self.norm(y * F.silu(z)))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.mixer = RMSNorm(c["hidden_size"], c["norm_eps"]), Mixer(c)


class Backbone(nn.Module):
    """Modules are named so that state_dict() has the checkpoint's tensor names."""

    def __init__(self, c, dropout=0.0):
        super().__init__()
        self.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embeddings.weight, std=c["initializer_range"])
        self.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm_f = RMSNorm(c["hidden_size"], c["norm_eps"])
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens):
        r = self.dropout(self.embeddings(tokens))
        for layer in self.layers:
            r = r + self.dropout(layer.mixer(layer.norm(r)))                      # the residual stays float32
        return F.linear(self.dropout(self.norm_f(r)), self.embeddings.weight)


# ---- text ----------------------------------------------------------------------------------------------------------

def train_tokenizer(docs, size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())                        # all 256 bytes: any text encodes
    t.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False))
    assert t.token_to_id(EOT) == EOT_ID and t.get_vocab_size() == size
    return t


def read_docs(path):
    return path.read_text(encoding="utf-8").split(EOT)[:-1]


def windows(docs, length, generator):
    """One epoch: the chapters shuffled, laid end to end from a random shift, cut into [n, length + 1]."""
    order = torch.randperm(len(docs), generator=generator).tolist()
    stream = torch.cat([docs[i] for i in order]).roll(-int(torch.randint(length, (1,), generator=generator)))
    n = (len(stream) - 1) // length
    cut = torch.stack([stream[i * length:i * length + length + 1] for i in range(n)])
    return cut[torch.randperm(n, generator=generator)]


@torch.no_grad()
def bits_per_byte(model, docs, texts, chunk, device):
    """Over whole chapters, each begun from a zero state and <|endoftext|>; docs hold one closing <|endoftext|> each."""
    nats = 0.0
    for ids in docs:
        ids = torch.cat([torch.tensor([EOT_ID]), ids[:-1]]).to(device)
        padded = F.pad(ids[:-1], (0, -(len(ids) - 1) % chunk))                    # causal, so the padding is harmless
        logits = model(padded[None])[0, :len(ids) - 1].float()
        nats += F.cross_entropy(logits, ids[1:], reduction="sum").item()
    return nats / math.log(2) / sum(len(t.encode()) for t in texts)


# ---- training ------------------------------------------------------------------------------------------------------

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("corpus", type=pathlib.Path)
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--vocab", type=int, default=2048)
    p.add_argument("--layers", type=int, default=7)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--state", type=int, default=64)
    p.add_argument("--length", type=int, default=1024, help="tokens in a window")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--decay", type=float, default=0.3)
    p.add_argument("--dropout", type=float, default=0.25)
    p.add_argument("--ema", type=float, default=0.998, help="the saved weights are a moving average")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="torch.compile: a minute to start, then faster")
    a = p.parse_args()
    start, device = time.time(), "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    generator = torch.Generator().manual_seed(a.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    a.out.mkdir(parents=True, exist_ok=True)

    texts = {name: read_docs(a.corpus / f"{name}.txt") for name in ("train", "valid")}
    tokenizer = train_tokenizer(texts["train"], a.vocab)
    tokenizer.save(str(a.out / "tokenizer.json"))
    docs = {k: [torch.tensor(e.ids + [EOT_ID]) for e in tokenizer.encode_batch(v)] for k, v in texts.items()}
    tokens = sum(map(len, docs["train"]))
    size = sum(len(t.encode()) for t in texts["train"])
    print(f"{tokens} tokens to train on, {size / tokens:.2f} bytes a token", flush=True)

    config = dict(
        model_type="mamba2", architectures=["Mamba2ForCausalLM"], vocab_size=a.vocab, hidden_size=a.width,
        num_hidden_layers=a.layers, state_size=a.state, expand=2, head_dim=64, num_heads=2 * a.width // 64, n_groups=1,
        conv_kernel=4, chunk_size=64, use_bias=False, use_conv_bias=True, hidden_act="silu", rmsnorm=True,
        norm_before_gate=False, norm_eps=1e-5, D_has_hdim=False, dt_limit=[0.0, math.inf], dt_min=0.001, dt_max=0.1,
        dt_init_floor=1e-4, A_init_range=[1, 16], initializer_range=0.02, rescale_prenorm_residual=True,
        residual_in_fp32=True, tie_word_embeddings=True, bos_token_id=EOT_ID, eos_token_id=EOT_ID, pad_token_id=EOT_ID,
        use_cache=True, torch_dtype="bfloat16")
    (a.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = Backbone(config, a.dropout).to(device)
    average = copy.deepcopy(model).eval()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    forward = torch.compile(model) if a.compile else model

    matrices = [p for n, p in model.named_parameters() if n.endswith(("proj.weight", "embeddings.weight"))]
    vectors = [p for n, p in model.named_parameters() if not n.endswith(("proj.weight", "embeddings.weight"))]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=a.decay), dict(params=vectors, weight_decay=0.0)],
                                  lr=a.lr, betas=(0.9, 0.95), **(dict(fused=True) if device == "cuda" else {}))
    steps, warm = a.steps, min(200, a.steps // 10 + 1)
    cast = (lambda: torch.autocast("cuda", torch.bfloat16)) if device == "cuda" else contextlib.nullcontext
    queue, total = torch.empty(0, a.length + 1, dtype=torch.long), 0.0
    for step in range(steps):
        if len(queue) < a.batch:
            queue = torch.cat([queue, windows(docs["train"], a.length, generator)])
        batch, queue = queue[:a.batch].to(device, non_blocking=True), queue[a.batch:]
        rate = a.lr * min((step + 1) / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with cast():
            logits = forward(batch[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            keep = min(a.ema, (step + 1) / (step + 10))
            for mean, new in zip(average.parameters(), model.parameters()):
                mean.lerp_(new, 1 - keep)
            total += loss.detach()
        if (step + 1) % max(1, steps // 20) == 0:
            valid = bits_per_byte(average, docs["valid"], texts["valid"], config["chunk_size"], device)
            print(f"step {step + 1}/{steps}  loss {float(total) / max(1, steps // 20):.3f}  valid {valid:.4f} bits/byte  "
                  f"{time.time() - start:.0f} s", flush=True)
            total = 0.0

    saved = {}
    for name, w in average.state_dict().items():
        matrix = name.endswith(("proj.weight", "embeddings.weight"))
        w.copy_(w.to(torch.bfloat16) if matrix else w)                            # evaluate what is saved
        saved[f"backbone.{name}"] = w.to("cpu", torch.bfloat16 if matrix else torch.float32).contiguous()
    save_file(saved, a.out / "model.safetensors", metadata={"format": "pt"})
    valid = bits_per_byte(average, docs["valid"], texts["valid"], config["chunk_size"], device)
    print(f"saved weights: valid {valid:.4f} bits/byte, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
