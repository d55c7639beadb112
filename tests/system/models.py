"""Small random Mamba-2 models, and the ways to write one down: names and types of tensors, configs, files.

The dialects are those of mamba_ssm, transformers, fla, Mistral's params.json and llama.cpp's GGUF; what is published
in which of them is layouts.py's.
"""
import dataclasses
import functools
import json

import numpy

import formats
import vocabularies
from formats import tensor

# ---- models -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shape:
    """Letters as in kernels/backend.h; rows: of embedding and head."""
    d: int
    layers: int
    heads: int
    head_dim: int
    state: int
    groups: int = 1
    rows: int = 288
    conv: int = 4
    tied: bool = True

    @property
    def inner(self):
        return self.heads * self.head_dim

    @property
    def channels(self):
        return self.inner + 2 * self.groups * self.state

    @property
    def parameters(self):
        layer = (self.d + (self.inner + self.channels + self.heads) * self.d + self.channels * (self.conv + 1) +
                 3 * self.heads + self.inner + self.d * self.inner)
        return self.rows * self.d * (1 if self.tied else 2) + self.layers * layer + self.d


@functools.lru_cache(maxsize=4)
def random_weights(s, seed=1):
    """name -> float32 array, named as state-spaces names them; values as a trained model might have them, each exact
    in bfloat16 and in float16, so that a file of any type can hold them.  Not to be changed: it is kept."""
    rng = numpy.random.default_rng(seed)

    def exact(a):
        bits = numpy.asarray(a, "<f4").view("<u4") & numpy.uint32(0xFFFF0000)
        a = bits.view("<f4")
        return numpy.where(numpy.abs(a) < 2.0 ** -14, numpy.float32(0), a)

    def matrix(rows, columns):
        some = exact(rng.normal(0, columns ** -0.5, (min(rows, 509), columns)))
        return numpy.resize(some, (rows, columns))  # large vocabularies repeat themselves

    def around(middle, width, *shape):
        return exact(rng.uniform(middle - width, middle + width, shape))

    w = {"backbone.embedding.weight": matrix(s.rows, s.d) * numpy.float32(s.d ** 0.5 // 1)}
    for layer in range(s.layers):
        w.update({f"backbone.layers.{layer}.{name}": a for name, a in {
            "norm.weight": around(1, .2, s.d),
            "mixer.dt_bias": around(-3, 1, s.heads), "mixer.A_log": around(1.4, 1.3, s.heads),
            "mixer.D": around(1, .3, s.heads),
            "mixer.in_proj.weight": matrix(s.inner + s.channels + s.heads, s.d),
            "mixer.conv1d.weight": around(0, .5, s.channels, 1, s.conv),
            "mixer.conv1d.bias": around(0, .2, s.channels), "mixer.norm.weight": around(1, .2, s.inner),
            "mixer.out_proj.weight": matrix(s.d, s.inner)}.items()})
    w["backbone.norm_f.weight"] = around(1, .2, s.d)
    w["backbone.embedding.weight"] = exact(w["backbone.embedding.weight"])
    if not s.tied:
        w["lm_head.weight"] = matrix(s.rows, s.d)
    return w


def dressed(weights, matrices, other=None, f32=(), plural=False, prefix="", mlx=False):
    """Tensors of given types and names.  other: the type of what is no matrix (the same); f32: endings of names that
    are F32 all the same; plural: Hugging Face's embeddings; mlx: the convolution as MLX keeps it, [C, W, 1]."""
    out = {}
    for name, a in weights.items():
        kind = matrices if a.ndim == 2 else other or matrices
        a = a.transpose(0, 2, 1) if mlx and a.ndim == 3 else a
        new = prefix + (name.replace("embedding.", "embeddings.") if plural else name)
        out[new] = tensor(a, "F32" if name.endswith(tuple(f32)) and f32 else kind)
    return out


GGUF_NAMES = {"norm.weight": "attn_norm.weight", "mixer.in_proj.weight": "ssm_in.weight",
              "mixer.conv1d.weight": "ssm_conv1d.weight", "mixer.conv1d.bias": "ssm_conv1d.bias",
              "mixer.dt_bias": "ssm_dt.bias", "mixer.A_log": "ssm_a", "mixer.D": "ssm_d",
              "mixer.norm.weight": "ssm_norm.weight", "mixer.out_proj.weight": "ssm_out.weight"}


def gguf_tensors(s, weights, matrices):
    """As llama.cpp's converter: all but the matrices F32, A = -exp(A_log), one column for A and D, a row per group."""
    whole = {"backbone.embedding.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    out = {}
    for name, a in weights.items():
        parts = name.split(".", 3)
        new = whole.get(name) or f"blk.{parts[2]}.{GGUF_NAMES[parts[3]]}"
        if new.endswith("ssm_a"):
            a = formats.negative_exp(tensor(a))
        if new.endswith(("ssm_a", "ssm_d")):
            a = a.reshape(-1, 1)
        elif new.endswith("ssm_conv1d.weight"):
            a = a.reshape(s.channels, s.conv)
        elif new.endswith("ssm_norm.weight"):
            a = a.reshape(s.groups, -1)
        matrix = a.ndim == 2 and new.endswith(("embd.weight", "output.weight", "in.weight", "out.weight"))
        out[new] = tensor(a, matrices if matrix else "F32")
    return out


def gguf_keys(s):
    return [("general.architecture", "string", "mamba2"), ("general.name", "string", "small"),
            ("general.file_type", "u32", 1), ("mamba2.context_length", "u32", 1048576),
            ("mamba2.embedding_length", "u32", s.d), ("mamba2.feed_forward_length", "u32", 0),
            ("mamba2.attention.head_count", "u32", 0), ("mamba2.block_count", "u32", s.layers),
            ("mamba2.ssm.conv_kernel", "u32", s.conv), ("mamba2.ssm.inner_size", "u32", s.inner),
            ("mamba2.ssm.state_size", "u32", s.state), ("mamba2.ssm.time_step_rank", "u32", s.heads),
            ("mamba2.ssm.group_count", "u32", s.groups), ("mamba2.attention.layer_norm_rms_epsilon", "f32", 1e-5),
            ("general.quantization_version", "u32", 2)]


def gguf_neox(rows, size=277):
    """GPT-NeoX's tokenizer as keys; rows without a token are named [PADn] as the converter does."""
    vocabulary = vocabularies.neox(size)
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    tokens += [a["content"] for a in vocabulary["added_tokens"][2:]] + [f"[PAD{i}]" for i in range(size, rows)]
    kinds = [3 if i < 2 else 1 if i < size - 7 else 4 if i < size else 5 for i in range(rows)]
    return [("tokenizer.ggml.model", "string", "gpt2"), ("tokenizer.ggml.pre", "string", "olmo"),
            ("tokenizer.ggml.tokens", "string", tokens), ("tokenizer.ggml.token_type", "i32", kinds),
            ("tokenizer.ggml.merges", "string", vocabularies.MERGES), ("tokenizer.ggml.bos_token_id", "u32", 0),
            ("tokenizer.ggml.eos_token_id", "u32", 0), ("tokenizer.ggml.unknown_token_id", "u32", 0),
            ("tokenizer.ggml.add_bos_token", "bool", False)]


def gguf_mistral(pieces):
    return [("tokenizer.ggml.model", "string", "llama"), ("tokenizer.ggml.pre", "string", "default"),
            ("tokenizer.ggml.tokens", "string", [text for text, _, _ in pieces]),
            ("tokenizer.ggml.scores", "f32", [score for _, score, _ in pieces]),
            ("tokenizer.ggml.token_type", "i32", [kind for _, _, kind in pieces]),
            ("tokenizer.ggml.bos_token_id", "u32", 1), ("tokenizer.ggml.eos_token_id", "u32", 2),
            ("tokenizer.ggml.unknown_token_id", "u32", 0), ("tokenizer.ggml.padding_token_id", "u32", 0),
            ("tokenizer.ggml.add_bos_token", "bool", True), ("tokenizer.ggml.add_eos_token", "bool", False)]


# ---- configs ------------------------------------------------------------------------------------


def ssm_config(s, vocab, multiple=16, ssm=None, **more):
    """What MambaLMHeadModel.save_pretrained writes: every field of its dataclass."""
    return {"d_model": s.d, "d_intermediate": 0, "n_layer": s.layers, "vocab_size": vocab,
            "ssm_cfg": {"layer": "Mamba2", **(ssm or {})}, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
            "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": multiple,
            "tie_embeddings": s.tied, **more}


def hf_config(s, **more):
    """transformers' Mamba2Config.  json.dumps writes the bare Infinity that its files contain."""
    return {"architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": 256, "conv_kernel": s.conv,
            "eos_token_id": 0, "expand": 2, "head_dim": s.head_dim, "hidden_act": "silu", "hidden_size": s.d,
            "initializer_range": 0.1, "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": s.groups,
            "num_heads": s.heads, "num_hidden_layers": s.layers, "pad_token_id": 0, "rescale_prenorm_residual": False,
            "residual_in_fp32": True, "rms_norm": True, "state_size": s.state, "tie_word_embeddings": s.tied,
            "time_step_floor": 0.0001, "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1,
            "time_step_min": 0.001, "time_step_rank": 256, "transformers_version": "4.45.0.dev0", "use_bias": False,
            "use_cache": True, "use_conv_bias": True, "vocab_size": s.rows, **more}


def codestral_config(s):
    """With its two falsehoods: norm_before_gate, and the ids of another vocabulary."""
    return hf_config(s, intermediate_size=2 * s.d, norm_before_gate=True, time_step_init_scheme="random",
                     time_step_scale=1.0, torch_dtype="bfloat16", transformers_version="4.44.0.dev0")


def fla_config(s, **more):
    return {"A_init_range": [1, 16], "D_has_hdim": False, "architectures": ["Mamba2ForCausalLM"], "bos_token_id": 1,
            "chunk_size": 256, "conv_init": None, "conv_kernel": s.conv, "dt_init_floor": 0.0001,
            "dt_limit": [0.0, float("inf")], "dt_max": 0.1, "dt_min": 0.001, "eos_token_id": 2, "expand": 2,
            "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False, "fuse_norm": True, "head_dim": s.head_dim,
            "hidden_act": "silu", "hidden_size": s.d, "initializer_range": 0.02, "model_type": "mamba2",
            "n_groups": s.groups, "norm_before_gate": False, "norm_eps": 1e-05, "num_heads": s.heads,
            "num_hidden_layers": s.layers, "pad_token_id": 0, "rescale_prenorm_residual": True,
            "residual_in_fp32": True,
            "rmsnorm": True, "state_size": s.state, "tie_word_embeddings": s.tied, "torch_dtype": "bfloat16",
            "transformers_version": "4.53.3", "use_bias": False, "use_cache": True, "use_conv_bias": True,
            "use_l2warp": False, "vocab_size": s.rows, **more}


def params_json(s):
    return {"dim": s.d, "n_layers": s.layers, "vocab_size": s.rows, "n_groups": s.groups, "rms_norm": True,
            "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 1, "tie_embeddings": s.tied,
            "model_type": "mamba"}


# ---- files --------------------------------------------------------------------------------------


def write_config(directory, config, name="config.json"):
    (directory / name).write_text(json.dumps(config, indent=2) + "\n")


def write_neox(directory, size=277, pairs=False):
    config, special = vocabularies.neox_config(size)
    vocabularies.write_json(directory / "tokenizer.json", vocabularies.neox(size, pairs))
    vocabularies.write_json(directory / "tokenizer_config.json", config)
    vocabularies.write_json(directory / "special_tokens_map.json", special)


def write_mistral(directory, model=None, tokenizer_json=True, legacy=True):
    """model: the name of the SentencePiece file."""
    pieces = vocabularies.mistral_pieces()
    config, special = vocabularies.mistral_config()
    if model:
        (directory / model).write_bytes(vocabularies.spm(pieces))
    if tokenizer_json:
        vocabularies.write_json(directory / "tokenizer.json", vocabularies.metaspace(pieces, legacy))
        vocabularies.write_json(directory / "tokenizer_config.json", config)
        vocabularies.write_json(directory / "special_tokens_map.json", special)


def write_safetensors(directory, tensors, name="model.safetensors", metadata="pt"):
    (directory / name).write_bytes(formats.safetensors(tensors, {"format": metadata}))


def with_tied_head(tensors):
    """A module's state_dict names the tied head too, on the embedding's storage."""
    return {**tensors, "lm_head.weight": tensors["backbone.embedding.weight"]}
