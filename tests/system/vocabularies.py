"""Writers of tokenizer files in the forms that Mamba-2 checkpoints come with, vocabularies of a few hundred tokens.

GPT-NeoX's tokenizer.json (byte-level, NFC, runs of spaces as added tokens), Mistral's SentencePiece model and the two
spellings of it as a tokenizer.json, and the small files beside them.  Same parts and the same order of ids as in the
real ones; only the number of merges is small.
"""
import json
import struct

# ---- GPT-NeoX -----------------------------------------------------------------------------------

MERGES = ["Ġ t", "h e", "Ġt he", "i n", "Ġ a", "r e", "o n", "e r", "a t", "n d", "Ġ m", "a m"]


def stand_ins():
    """The 256 printable characters that stand for bytes, in the order of their code points as vocabularies have it."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(c) for c in own] + [chr(0x100 + i) for i in range(256 - len(own))]


def added(number, content, special, normalized=False):
    return {"id": number, "special": special, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False,
            "normalized": normalized}


def neox(size=277, pairs=False):
    """tokenizer.json of GPT-NeoX's form: two specials, 256 bytes, merges, and runs of spaces as added tokens at the
    end.  pairs: merges as lists of two, as newer versions of the library write them."""
    tokens = ["<|endoftext|>", "<|padding|>", *stand_ins(), *(m.replace(" ", "") for m in MERGES)]
    runs = size - len(tokens)
    specials = [added(i, tokens[i], True) for i in range(2)]
    spaces = [added(len(tokens) + i, " " * (runs + 1 - i), False, True) for i in range(runs)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": specials + spaces,
            "normalizer": {"type": "NFC"}, "pre_tokenizer": {**byte_level, "use_regex": True},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False,
                      "vocab": {text: number for number, text in enumerate(tokens)},
                      "merges": [m.split() for m in MERGES] if pairs else MERGES}}


def neox_config(size=277):
    """tokenizer_config.json and special_tokens_map.json beside it."""
    end = "<|endoftext|>"
    decoder = {str(a.pop("id")): a for a in neox(size)["added_tokens"]}
    return ({"add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
             "bos_token": end, "clean_up_tokenization_spaces": True, "eos_token": end, "model_max_length": 10 ** 30,
             "pad_token": end, "tokenizer_class": "GPTNeoXTokenizer", "unk_token": end},
            {"bos_token": end, "eos_token": end, "pad_token": end, "unk_token": end})


# ---- Mistral ------------------------------------------------------------------------------------

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
CONTROLS = ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[control_11]"]
WORDS = ["▁▁", "▁t", "he", "▁the", "in", "er", "▁a", "an", "▁m", "▁mamb", "amb", "mb"]


def mistral_pieces():
    """[(text, score, type)] in Mistral's order: unknown, controls, user-defined, bytes, then normal pieces by score."""
    normal = WORDS + ["▁"] + [chr(c) for c in range(0x21, 0x7F)]
    return ([("<unk>", 0.0, UNKNOWN)] + [(text, 0.0, CONTROL) for text in CONTROLS] +
            [(f"[REFERENCE_DOC_{i}]", 0.0, USER) for i in (1, 0)] +
            [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] +
            [(text, float(-i), NORMAL) for i, text in enumerate(normal)])


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def proto(number, value):
    """One field of a protobuf message: an int, a float (32 bits), text or bytes."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def spm_piece(text, score, kind):
    """An ordinary piece leaves its type out, as the format's default."""
    return proto(1, proto(1, text) + proto(2, score) + (b"" if kind == NORMAL else proto(3, kind)))


def spm(pieces, model_type=2, dummy_prefix=True):
    """A SentencePiece model as Mistral's tokenizer.model.v3 is: BPE, byte fallback, identity normaliser."""
    trainer = (proto(1, "corpus.txt") + proto(2, "tokenizer") + proto(3, model_type) + proto(4, len(pieces)) +
               proto(10, 0.9999) + proto(35, 1) + proto(40, 0) + proto(41, 1) + proto(42, 2) + proto(43, -1))
    normalizer = (proto(1, "identity") + proto(2, b"") + proto(3, int(dummy_prefix)) + proto(4, 0) + proto(5, 1))
    return b"".join(spm_piece(*p) for p in pieces) + proto(2, trainer) + proto(3, normalizer)


def merges_of(pieces):
    """Every way to make a normal piece of two, the best piece first: how converters write them."""
    number = {text: i for i, (text, _, _) in enumerate(pieces)}
    cuts = [(score, number[text[:i]], [text[:i], text[i:]]) for text, score, kind in pieces if kind == NORMAL
            for i in range(1, len(text)) if text[:i] in number and text[i:] in number]
    return [pair for _, _, pair in sorted(cuts, key=lambda cut: (-cut[0], cut[1]))]


def metaspace(pieces, legacy=False, template=True):
    """tokenizer.json of the same vocabulary.  legacy: a Prepend and a Replace normaliser and merges as strings, as
    older converters wrote; else a Metaspace pre-tokenizer and merges as pairs."""
    merges = merges_of(pieces)
    specials = [added(i, text, kind != USER) for i, (text, _, kind) in enumerate(pieces) if kind in (UNKNOWN, CONTROL,
                                                                                                     USER)]
    before = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    bos = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] if template else []
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": specials,
            "normalizer": {"type": "Sequence", "normalizers": before} if legacy else None,
            "pre_tokenizer": None if legacy else {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                                                  "split": False},
            "post_processor": {"type": "TemplateProcessing", "single": bos + [{"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                                        {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [1],
                                                          "tokens": ["<s>"]}} if template else {}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                         {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": {text: i for i, (text, _, _) in enumerate(pieces)},
                      "merges": [" ".join(pair) for pair in merges] if legacy else merges}}


def mistral_config():
    """tokenizer_config.json and special_tokens_map.json of Codestral on the hub."""
    return ({"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>",
             "unk_token": "<unk>",
             "pad_token": None, "legacy": False, "tokenizer_class": "LlamaTokenizer",
             "use_default_system_prompt": False},
            {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
