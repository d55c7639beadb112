"""Every published layout of a pure Mamba-2 checkpoint, small and random, and what inspect has to say of it.

A layout is a directory (or one GGUF file) as its publisher made it: names and dtypes of tensors, storage aliasing,
padding of the vocabulary, the text of the config with its oddities, and the files that lie beside it.  Only widths,
layers and vocabularies are smaller, unless a correction depends on the size.  RELATIVES are the hybrids and other
families that must be refused by name.  Sources: the configs and file lists on the hub, mamba_ssm's, transformers',
fla's and llama.cpp's writers.
"""
import dataclasses

import formats
import vocabularies
from formats import write_sharded
from models import (Shape, codestral_config, dressed, fla_config, gguf_keys, gguf_mistral, gguf_neox, gguf_tensors,
                    hf_config, params_json, random_weights, ssm_config, with_tied_head, write_config, write_mistral,
                    write_neox, write_safetensors)

# ---- the published layouts ----------------------------------------------------------------------

LAYOUTS = []


@dataclasses.dataclass
class Layout:
    name: str
    write: object  # (directory) -> None, or the path to name instead of the directory
    says: dict     # dotted key of inspect's JSON -> value; test_layouts.py says how they are compared
    generates: bool


def layout(name, shape, dialect, container, generates=False, **says):
    """Registers a writer.  What the shape says inspect must say; says: what else, a dot in a key written as __."""
    facts = {"accepted": True, "dialect": dialect, "container": container, "shape.hidden_size": shape.d,
             "shape.layers": shape.layers, "shape.heads": shape.heads, "shape.head_dim": shape.head_dim,
             "shape.state_size": shape.state, "shape.groups": shape.groups, "shape.norm_groups": shape.groups,
             "shape.conv_kernel": shape.conv, "shape.vocab_rows": shape.rows, "shape.tied_head": shape.tied,
             "shape.norm_before_gate": False, "shape.gated_norm": True, "shape.d_mlp": 0, "shape.conv_bias": True,
             "shape.proj_bias": False, "shape.norm_eps": 1e-5, "shape.dt_min": 0, "shape.dt_max": None,
             "parameters": shape.parameters,
             "bytes.sequence_ssm": 4 * shape.layers * shape.inner * shape.state,
             "bytes.sequence_conv": 4 * shape.layers * shape.channels * (shape.conv - 1)}
    facts.update({key.replace("__", "."): value for key, value in says.items()})
    facts.setdefault("shape.vocab_size", shape.rows)

    def register(write):
        LAYOUTS.append(Layout(name, lambda directory: write(directory, shape), facts, generates))
        return write

    return register


NEOX_IDS = "GPT-NeoX"     # words of corrections
MISTRAL_IDS = "Mistral's v3"
GATE = "norm_before_gate"
BYTE_LEVEL = "byte-level BPE, tokenizer.json"
FALLBACK = "BPE with byte fallback, tokenizer.json"
SPM = "SentencePiece BPE, .model"
OF_130M = Shape(96, 2, 3, 64, 128, rows=50288)
SMALL_130M = Shape(96, 2, 3, 64, 128)
LIKE_CODESTRAL = Shape(256, 2, 8, 64, 128, groups=8, rows=32768, tied=False)


@layout("state-spaces/mamba2-130m", OF_130M, "mamba_ssm", "pytorch", generates=True, shape__vocab_size=50277,
        elements=["f16", "f32"], tokenizer=None, corrections=[NEOX_IDS])
def write_state_spaces(directory, s):
    # D is created in fp32 whatever type is asked for; the head is a second name of the embedding
    tensors = dressed(random_weights(s), "F16", f32=("mixer.D",))
    (directory / "pytorch_model.bin").write_bytes(formats.torch_save(with_tied_head(tensors), "pytorch_model"))
    write_config(directory, ssm_config(s, 50277))
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


@layout("state-spaces/mamba2-370m, the bot's refs/pr/1", OF_130M, "mamba_ssm", "safetensors", shape__vocab_size=50277,
        elements=["f16", "f32"], tokenizer=None, corrections=[NEOX_IDS])
def write_bot(directory, s):
    write_state_spaces(directory, s)
    write_safetensors(directory, dressed(random_weights(s), "F16", f32=("mixer.D",)))


def antonv(directory, s, kind, pairs):
    config = hf_config(s)
    del config["architectures"]
    write_config(directory, config)
    write_config(directory, {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
                             "transformers_version": "4.45.0.dev0"}, "generation_config.json")
    write_safetensors(directory, dressed(random_weights(s), kind, plural=True))
    write_neox(directory, pairs=pairs)


@layout("AntonV/mamba2-130m-hf", SMALL_130M, "transformers", "safetensors", elements=["f32"], corrections=[],
        tokenizer__kind=BYTE_LEVEL, tokenizer__ids=277, tokenizer__eos=0)
def write_antonv_130m(directory, s):
    antonv(directory, s, "F32", False)


@layout("AntonV/mamba2-780m-hf", Shape(128, 2, 4, 64, 128), "transformers", "safetensors", generates=True,
        elements=["f16"], corrections=[], tokenizer__kind=BYTE_LEVEL, tokenizer__ids=277, tokenizer__eos=0)
def write_antonv_780m(directory, s):
    antonv(directory, s, "F16", True)


@layout("mlx-community/mamba2-2.7b", Shape(64, 3, 2, 64, 128), "transformers", "safetensors, 2 shards",
        elements=["f16"],
        corrections=[], tokenizer__kind=BYTE_LEVEL, generates=True)
def write_mlx(directory, s):
    config = hf_config(s, torch_dtype="float16")
    del config["time_step_limit"]
    write_config(directory, config)
    write_sharded(directory, dressed(random_weights(s), "F16", plural=True, mlx=True), 2, "model", "safetensors",
                  lambda part: formats.safetensors(part, {"format": "mlx"}))
    write_neox(directory, pairs=True)


@layout("rwitz2/mamba2-700m-c1.1", OF_130M, "mamba_ssm", "pytorch", shape__vocab_size=50280, elements=["bf16", "f32"],
        tokenizer=None, corrections=[NEOX_IDS])
def write_rwitz2(directory, s):
    tensors = dressed(random_weights(s), "BF16", f32=("mixer.D",))
    (directory / "pytorch_model.bin").write_bytes(formats.torch_save(with_tied_head(tensors), "archive", recent=True))
    write_config(directory, ssm_config(s, 50280, residual_in_fp32=False))


@layout("lightonai/ArabicWeb24-ablation-model-v1", Shape(96, 3, 3, 64, 128, rows=304, tied=False), "mamba_ssm",
        "pytorch",
        shape__vocab_size=300, elements=["f32"], tokenizer__kind=BYTE_LEVEL, tokenizer__ids=300, corrections=[])
def write_lightonai(directory, s):
    (directory / "pytorch_model.bin").write_bytes(formats.torch_save(dressed(random_weights(s), "F32"),
                                                                     "pytorch_model"))
    write_config(directory, ssm_config(s, 300))
    write_neox(directory, 300)


@layout("bluuluu/Open-R1-Distill", OF_130M, "mamba_ssm", "safetensors", shape__vocab_size=50288, elements=["bf16"],
        tokenizer=None, corrections=[NEOX_IDS])
def write_bluuluu(directory, s):
    # "model_type": "mamba" is said of a Mamba-2 model here
    write_config(directory, ssm_config(s, 50288, model_type="mamba"))
    write_safetensors(directory, dressed(random_weights(s), "BF16"))


@layout("mistralai/Mamba-Codestral-7B-v0.1", LIKE_CODESTRAL, "transformers", "safetensors, 3 shards", generates=True,
        elements=["bf16"], corrections=[GATE, MISTRAL_IDS], tokenizer__kind=SPM, tokenizer__path="tokenizer.model.v3",
        tokenizer__bos=1, tokenizer__eos=2, tokenizer__template="mistral-v3 instruct and fill-in-the-middle",
        files=["config.json", "generation_config.json", "model.safetensors.index.json",
               *(f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3))])
def write_codestral(directory, s):
    weights = random_weights(s)
    write_sharded(directory, dressed(weights, "BF16", plural=True), 3, "model", "safetensors",
                  lambda part: formats.safetensors(part, {"format": "pt"}))
    write_safetensors(directory, dressed(weights, "BF16", prefix="model."), "consolidated.safetensors")
    write_config(directory, codestral_config(s))
    write_config(directory, {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
                             "transformers_version": "4.44.0.dev0"}, "generation_config.json")
    write_config(directory, params_json(s), "params.json")
    write_mistral(directory, "tokenizer.model.v3")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


@layout("mlx-community/Mamba-Codestral-7B-v0.1", Shape(64, 2, 8, 16, 32, groups=8, rows=32768, tied=False),
        "transformers", "safetensors, 3 shards", elements=["bf16"], corrections=[GATE, MISTRAL_IDS],
        tokenizer__kind=SPM, tokenizer__path="tokenizer.model")
def write_mlx_codestral(directory, s):
    write_sharded(directory, dressed(random_weights(s), "BF16", plural=True, mlx=True), 3, "model", "safetensors",
                  lambda part: formats.safetensors(part, {"format": "mlx"}))
    write_config(directory, codestral_config(s))
    write_mistral(directory, "tokenizer.model")


@layout("yujiepan/mamba-codestral-7b-not-hf", Shape(256, 1, 8, 64, 128, groups=8, rows=384, tied=False), "mamba_ssm",
        "pytorch", shape__vocab_size=384, elements=["bf16", "f32"], tokenizer=None, corrections=[])
def write_not_hf(directory, s):
    tensors = dressed(random_weights(s), "BF16", f32=("mixer.D",))
    (directory / "pytorch_model.bin").write_bytes(formats.torch_save(tensors, "pytorch_model"))
    write_config(directory, ssm_config(s, 384, ssm={"ngroups": 8}))


@layout("LDES777/ft_2_codestral_merged", LIKE_CODESTRAL, "mistral", "safetensors", generates=True, elements=["bf16"],
        corrections=[MISTRAL_IDS], tokenizer__kind=SPM, tokenizer__path="tokenizer.model.v3", tokenizer__ids=380,
        files=["params.json", "consolidated.safetensors"])
def write_params(directory, s):
    write_safetensors(directory, dressed(random_weights(s), "BF16", prefix="model."), "consolidated.safetensors")
    write_config(directory, params_json(s), "params.json")
    write_mistral(directory, "tokenizer.model.v3", tokenizer_json=False)


@layout("nvidia/mamba2-8b-3t-4k as Quamba converts it", Shape(256, 1, 8, 64, 128, groups=8, rows=384, tied=False),
        "mamba_ssm", "pytorch", shape__vocab_size=380, elements=["bf16"], corrections=[],
        tokenizer__kind=SPM, tokenizer__path="mt_nlg_plus_multilingual_ja_zh_the_stack_frac_015_256k.model")
def write_nvidia(directory, s):
    (directory / "pytorch_model.bin").write_bytes(formats.torch_save(dressed(random_weights(s), "BF16"),
                                                                     "pytorch_model"))
    write_config(directory, ssm_config(s, 380, 128, ssm={"ngroups": 8, "chunk_size": 128}))
    write_mistral(directory, "mt_nlg_plus_multilingual_ja_zh_the_stack_frac_015_256k.model", tokenizer_json=False)


@layout("limloop/whiff-mamba2-20M-v2", Shape(128, 3, 12, 16, 16, groups=2, rows=512, tied=False), "transformers",
        "safetensors", generates=True, elements=["f32"], corrections=[], tokenizer__kind=BYTE_LEVEL, tokenizer__ids=512)
def write_whiff(directory, s):
    config = hf_config(s, expand=1.5, bos_token_id=6, eos_token_id=6, pad_token_id=7, dtype="float32",
                       time_step_limit=[0.0, {"__float__": "Infinity"}], transformers_version="5.3.0")
    write_config(directory, config)
    write_safetensors(directory, dressed(random_weights(s), "F32", plural=True))
    vocabularies.write_json(directory / "tokenizer.json", vocabularies.neox(512, pairs=True))


@layout("yujiepan/mamba2-tiny-random", Shape(8, 2, 8, 4, 8, groups=2, rows=32768, tied=False), "transformers",
        "safetensors", generates=True, elements=["bf16"], corrections=[GATE, MISTRAL_IDS],
        tokenizer__kind=FALLBACK)
def write_tiny_random(directory, s):
    write_config(directory, hf_config(s, expand=4, intermediate_size=16, norm_before_gate=True, torch_dtype="bfloat16",
                                      transformers_version="4.45.0"))
    write_safetensors(directory, dressed(random_weights(s), "BF16", plural=True))
    write_mistral(directory)


@layout("Molbap/code2", Shape(64, 2, 8, 16, 32, groups=8, rows=400, tied=False), "transformers", "safetensors",
        elements=["bf16", "f32"], corrections=[GATE], tokenizer=None)
def write_molbap(directory, s):
    config = codestral_config(s)
    del config["tie_word_embeddings"]  # absent in one revision
    write_config(directory, config)
    write_safetensors(directory, dressed(random_weights(s), "BF16", other="F32", plural=True))


@layout("fla-trained, fla's own default config", Shape(64, 2, 8, 16, 32, rows=380, tied=False), "fla", "safetensors",
        generates=True, elements=["bf16", "f32"], corrections=[],
        tokenizer__kind=FALLBACK,
        tokenizer__eos=2)
def write_fla(directory, s):
    # block norms and the final norm are made in fp32, a cast of the matrices leaves them so
    write_config(directory, fla_config(s))
    write_safetensors(directory, dressed(random_weights(s), "BF16", plural=True, f32=("norm.weight", "norm_f.weight")))
    write_mistral(directory, legacy=False)


@layout("transformers' Mamba2Model.save_pretrained", Shape(64, 2, 4, 32, 16), "transformers", "safetensors",
        elements=["f32"], corrections=[], tokenizer=None)
def write_bare(directory, s):
    write_config(directory, hf_config(s, architectures=["Mamba2Model"]))
    tensors = dressed(random_weights(s), "F32", plural=True)
    write_safetensors(directory, {name.removeprefix("backbone."): t for name, t in tensors.items()})


@layout("AntonV/mamba2-2.7b-av", Shape(64, 2, 2, 64, 128), "outeai", "safetensors", elements=["f32"], corrections=[],
        tokenizer__kind=BYTE_LEVEL)
def write_vasqu(directory, s):
    config = {"architectures": ["Mamba2ForCausalLM"], "attention_layers_idx": [], "bos_token_id": 0, "eos_token_id": 0,
              "auto_map": {"AutoConfig": "configuration_mamba2.Mamba2Config"}, "expand": 2, "hidden_act": "silu",
              "hidden_size": s.d, "layer_norm_epsilon": 1e-05, "mamba2_conv_kernel": s.conv,
              "mamba2_head_dim": s.head_dim,
              "mamba2_num_heads": s.heads, "mlp_intermediate_size": 0, "model_type": "mamba2",
              "num_hidden_layers": s.layers, "pad_token_id": 0, "residual_in_fp32": True, "state_size": s.state,
              "tie_embedding_weights": True, "time_step_limit": [0.0, float("inf")], "use_conv_bias": True,
              "use_mamba2_bias": False, "vocab_size": s.rows}
    write_config(directory, config)
    (directory / "configuration_mamba2.py").write_text("raise SystemExit\n")
    write_safetensors(directory, dressed(random_weights(s), "F32", plural=True))
    write_neox(directory)


@layout("a sharded pytorch_model.bin of save_pretrained", Shape(64, 3, 4, 32, 16), "transformers", "pytorch, 2 shards",
        elements=["f16"], corrections=[], tokenizer__kind=BYTE_LEVEL)
def write_sharded_bin(directory, s):
    write_config(directory, hf_config(s))
    write_sharded(directory, dressed(random_weights(s), "F16", plural=True), 2, "pytorch_model", "bin",
                  lambda part: formats.torch_save(part, "archive"))
    write_neox(directory)


@layout("a GGUF of a state-spaces model", SMALL_130M, "gguf", "gguf", generates=True, elements=["f16", "f32"],
        shape__vocab_size=277,
        corrections=[], tokenizer__kind="byte-level BPE, GGUF", tokenizer__eos=0)
def write_gguf_neox(directory, s):
    tensors = gguf_tensors(s, random_weights(s), "F16")
    (directory / "mamba2-130m-f16.gguf").write_bytes(formats.gguf(gguf_keys(s) + gguf_neox(s.rows), tensors))
    return directory / "mamba2-130m-f16.gguf"


@layout("a GGUF of Codestral", Shape(64, 2, 8, 16, 32, groups=8, rows=380, tied=False), "gguf", "gguf", generates=True,
        elements=["bf16", "f32"], corrections=[], tokenizer__kind="SentencePiece BPE, GGUF", tokenizer__bos=1,
        tokenizer__eos=2)
def write_gguf_codestral(directory, s):
    keys = gguf_keys(s) + gguf_mistral(vocabularies.mistral_pieces())
    (directory / "codestral.gguf").write_bytes(formats.gguf(keys, gguf_tensors(s, random_weights(s), "BF16")))


# ---- hybrids and other families -----------------------------------------------------------------


@dataclasses.dataclass
class Relative:
    name: str
    config: dict
    family: str  # a word of the refusal
    key: str     # the key that it names
    files: dict = dataclasses.field(default_factory=dict)


_BLOCK = Shape(64, 4, 4, 32, 16)
_HF = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 288, "num_attention_heads": 4,
       "torch_dtype": "bfloat16"}
_ATTENTION = {"causal": True, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": False,
              "qkv_proj_bias": False, "rotary_emb_dim": 64}
RELATIVES = [
    Relative("state-spaces/mamba2attn-2.7b",
             {**ssm_config(_BLOCK, 277), "attn_layer_idx": [1, 3], "attn_cfg": _ATTENTION}, "mamba2attn",
             "attn_layer_idx"),
    Relative("state-spaces/transformerpp-2.7b",
             {**ssm_config(_BLOCK, 277), "d_intermediate": 6912, "attn_layer_idx": [0, 1, 2, 3],
              "attn_cfg": _ATTENTION},
             "transformerpp", "attn_layer_idx"),
    Relative("a mamba_ssm model with MLPs", {**ssm_config(_BLOCK, 277), "d_intermediate": 128}, "MLP",
             "d_intermediate"),
    Relative("OuteAI/Lite-Oute-2-Mamba2Attn-250M-Base",
             {**_HF, "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "mamba2_num_heads": 32,
              "mamba2_head_dim": 64, "mamba2_conv_kernel": 4, "use_mamba2_bias": False, "mlp_intermediate_size": 0,
              "attention_layers_idx": [1, 3], "attention_head_dim": 128, "attention_conv_kernel": 4, "rope_emb_dim": 64,
              "tie_embedding_weights": True, "state_size": 128}, "Mamba2Attn", "attention_layers_idx"),
    Relative("ibm-ai-platform/Bamba-9B", {**_HF, "model_type": "bamba", "architectures": ["BambaForCausalLM"],
                                          "attn_layer_indices": [1], "mamba_n_heads": 128}, "Bamba",
             "attn_layer_indices"),
    Relative("nvidia/Nemotron-H-8B", {**_HF, "model_type": "nemotron_h", "hybrid_override_pattern": "M-M*"},
             "Nemotron-H",
             "hybrid_override_pattern"),
    Relative("Zyphra/Zamba2-1.2B", {**_HF, "model_type": "zamba2", "hybrid_layer_ids": [1, 3], "mamba_d_state": 128},
             "Zamba2", "hybrid_layer_ids"),
    Relative("ibm-granite/granite-4.0-h-micro",
             {**_HF, "model_type": "granitemoehybrid", "layer_types": ["mamba", "attention", "mamba", "mamba"]},
             "Granite",
             "layer_types"),
    Relative("tiiuae/Falcon-H1-0.5B", {**_HF, "model_type": "falcon_h1", "ssm_multipliers": [1, 1, 1, 1, 1]},
             "Falcon-H1",
             "ssm_multipliers"),
    Relative("pfnet/plamo-2-1b", {**_HF, "model_type": "plamo2", "mamba_step": 2}, "PLaMo", "mamba_step"),
    Relative("cartesia-ai/Llamba-1B", {"model_type": "llamba", "d_model": 64, "n_layer": 4, "vocab_size": 288,
                                       "ssm_cfg": {"d_state": 64}, "mlp_cfg": {"intermediate_size": 128}}, "Llamba",
             "mlp_cfg"),
    Relative("JunxiongWang/Mamba2InLlama_1", {**_HF, "model_type": "llama", "architectures": ["LlamaForCausalLM"]},
             "MambaInLlama", "mamba_config.json",
             {"mamba_config.json": {"d_model": 64, "ssm_cfg": {"expand": 1}, "d_xb": 1024, "attn_layers": []}}),
    Relative("nvidia/mamba2-hybrid-8b, converted", {**ssm_config(_BLOCK, 277), "attn_layer_idx": [2],
                                                    "ssm_cfg": {"layer": "Mamba2", "ngroups": 8}}, "attention",
             "attn_layer_idx"),
    Relative("a hybrid that calls itself mamba2", {**hf_config(_BLOCK), "layers_block_type": ["mamba",
                                                                                              "attention"] * 2},
             "hybrid", "layers_block_type"),
    Relative("state-spaces/mamba-130m", {"d_model": 64, "n_layer": 4, "vocab_size": 277, "ssm_cfg": {},
                                         "rms_norm": True,
                                         "residual_in_fp32": True, "fused_add_norm": True}, "Mamba-1", "ssm_cfg.layer"),
    Relative("state-spaces/mamba-130m-hf", {**_HF, "model_type": "mamba", "state_size": 16}, "Mamba-1", "model_type"),
    Relative("tiiuae/falcon-mamba-7b", {**_HF, "model_type": "falcon_mamba"}, "Falcon Mamba", "model_type"),
    Relative("a Mamba-3 model", ssm_config(_BLOCK, 277, ssm={"layer": "Mamba3"}), "Mamba-3", "ssm_cfg.layer"),
    Relative("mlx-community/mamba2-2.7b-4bit", {**hf_config(_BLOCK), "quantization": {"group_size": 64, "bits": 4}},
             "quantised", "quantization"),
    Relative("a checkpoint of bitsandbytes", {**hf_config(_BLOCK),
                                              "quantization_config": {"quant_method": "bitsandbytes"}},
             "quantised", "quantization_config"),
    Relative("mistralai/Mistral-7B", {"dim": 64, "n_layers": 4, "head_dim": 16, "hidden_dim": 256, "n_heads": 4,
                                      "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 288}, "transformer", "n_heads"),
    Relative("BlinkDL/rwkv7", {**_HF, "model_type": "rwkv7"}, "RWKV", "model_type"),
]
