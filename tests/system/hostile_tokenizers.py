"""Files made to hurt, continued: tokenizer.json, SentencePiece models, and the small files beside them."""
import copy
import json
import os
import struct

import hostile
import vocabularies
from hostile import add, as_bytes, write_good
from vocabularies import BYTE, NORMAL, proto, spm, spm_piece, varint

JSON, MODEL = "tokenizer.json", "tokenizer.model"
NEOX = vocabularies.neox(SIZE := 280)
PIECES = vocabularies.mistral_pieces()[:280]
METASPACE = vocabularies.metaspace(PIECES)


def beside(name, data):
    """A writer of a good checkpoint with one more file."""
    def write(directory):
        write_good(directory)
        (directory / name).write_bytes(as_bytes(data))
    return write


def text(title, word, data, named=JSON):
    add("tokenizer.json: " + title, word, named, beside(JSON, data))


def changed(title, word, named, change, of=None):
    """change(tokenizer) bends a copy of a good one."""
    def make():
        bent = copy.deepcopy(of or NEOX)
        change(bent)
        return json.dumps(bent)
    text(title, word, make, named)


def model(title, word, named=JSON, of=None, **keys):
    changed(title, word, named, lambda t: t["model"].update(keys), of)


# ---- tokenizer.json -----------------------------------------------------------------------------

text("empty", "pieces", "")
text("words", "protobuf", "hello")
text("a list", "object", "[]")
text("cut short", "JSON", json.dumps(NEOX)[:5000])
text("not UTF-8", "UTF-8", json.dumps(NEOX).encode()[:-1] + b',"x":"\xff"}')
text("100,000 lists in each other", "nest", "[" * 100000)
text("a decoder in a decoder, 100,000 times", "nest",
     json.dumps(NEOX)[:-1].replace('"decoder"', '"x"') + ',"decoder":' + '{"type":"Sequence","decoders":[' * 100000)
add("tokenizer.json: a hole of 33 MiB", "more than", JSON,
    lambda p: (beside(JSON, "{")(p), os.truncate(p / JSON, 33 << 20)) and None)
add("tokenizer.json: a hole of 8 GiB", "more than", JSON,
    lambda p: (beside(JSON, "{")(p), os.truncate(p / JSON, 8 << 30)) and None)
add("tokenizer.json: is a pipe", "regular file", JSON, lambda p: (write_good(p), os.mkfifo(p / JSON)) and None)
add("tokenizer.json: is a directory", "regular file", JSON, lambda p: (write_good(p), (p / JSON).mkdir()) and None)
changed("no model", "model", JSON, lambda t: t.pop("model"))
changed("a model that is a list", "not an object", "model", lambda t: t.update(model=[]))
model("another kind of model", "WordPiece", type="WordPiece")
model("a Unigram model", "Unigram", type="Unigram")
model("no vocabulary", "vocab", vocab=None)
changed("no tokens at all", "largest id", JSON, lambda t: (t["model"].update(vocab={}, merges=[]),
                                                        t.update(added_tokens=[])))
model("a vocabulary that is a list", "not an object", "vocab", vocab=[["a", 0.0]])
model("one id twice", "id", vocab={**NEOX["model"]["vocab"], "zz": 5})
text("one token twice", "twice", json.dumps(NEOX).replace('"vocab": {', '"vocab": {"Ġt": 9, '))
model("an id of 2^40", "id", vocab={**NEOX["model"]["vocab"], "zz": 1 << 40})
model("an id of 2^24-1 among 280", "largest id", vocab={**NEOX["model"]["vocab"], "zz": (1 << 24) - 1})
model("a negative id", "id", vocab={**NEOX["model"]["vocab"], "zz": -1})
model("an id in words", "id", vocab={**NEOX["model"]["vocab"], "zz": "7"})
model("a broken id", "id", vocab={**NEOX["model"]["vocab"], "zz": 300.5})
model("an empty token", "bytes", vocab={**NEOX["model"]["vocab"], "": 300})
model("a token of 100,000 bytes", "bytes", vocab={**NEOX["model"]["vocab"], "x" * 100000: 300})
model("a token with a NUL", "NUL", vocab={**NEOX["model"]["vocab"], "a\0b": 300})
model("no merges", "merges", merges=None)
model("merges that are an object", "not an array", "merges", merges={"a": "b"})
model("a merge to nowhere", "not in the vocabulary", merges=["q q"])
model("a merge of what is not there", "not in the vocabulary", merges=["zz zz"])
model("a merge of one", "merge", merges=["q"])
model("a merge of three", "merge", merges=["Ġ t h"])
model("a merge of numbers", "merge", merges=[[1, 2]])
model("a merge of three parts", "merge", merges=[["Ġ", "t", "h"]])
model("a merge of 100,000 bytes", "merge", merges=["x" * 100000 + " " + "y" * 100000])
model("dropout", "dropout", dropout=0.5)
model("a prefix of subwords", "continuing_subword_prefix", continuing_subword_prefix="##")
model("an end of words", "end_of_word_suffix", end_of_word_suffix="</w>")
changed("another normaliser", "normalizer", JSON, lambda t: t.update(normalizer={"type": "BertNormalizer"}))
changed("another pre-tokenizer", "pre_tokenizer", JSON, lambda t: t.update(pre_tokenizer={"type": "BertPreTokenizer"}))
changed("another post-processor", "post_processor", JSON, lambda t: t.update(post_processor={"type": "BertProcessing"}))
changed("another decoder", "decoder", JSON, lambda t: t.update(decoder={"type": "WordPiece"}))
changed("a part without a type", "type", JSON, lambda t: t.update(pre_tokenizer={"add_prefix_space": False}))
changed("a part that is a number", "pre_tokenizer", JSON, lambda t: t.update(pre_tokenizer=7))
changed("a type that paints the screen", "normalizer", JSON, lambda t: t.update(normalizer={"type": "\033[2J"}))
for pattern in ("(a+)+$", "(?:(?:a|a)*)*b", "((((x{1,100}){1,100}){1,100}){1,100})", "(?R)", "(?C)", "\\p{L}+("):
    changed(f"splits at {pattern[:20]}", "pre_tokenizer", JSON, lambda t, p=pattern: t.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}))
changed("replaces by (a+)+$", "normalizer", JSON, lambda t: t.update(
    normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}))
changed("a normaliser that doubles 64 times", "normalizer", JSON, lambda t: t.update(
    normalizer={"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"},
                                                     "content": "aa"}] * 64}))
changed("an added token without an id", "id", JSON, lambda t: t["added_tokens"][0].pop("id"))
changed("an added token with another's id", "id", JSON, lambda t: t["added_tokens"][0].update(id=9))
changed("an added token of id 2^40", "outside", "id", lambda t: t["added_tokens"][0].update(id=1 << 40))
changed("an added token of id -1", "outside", "id", lambda t: t["added_tokens"][0].update(id=-1))
changed("an empty added token", "added", JSON, lambda t: t["added_tokens"][0].update(content=""))
changed("an added token of 100,000 bytes", "bytes", "content",
        lambda t: t["added_tokens"][-1].update(content="x" * 100000))
changed("an added token with a NUL", "NUL", "content", lambda t: t["added_tokens"][-1].update(content="a\0"))
changed("added tokens that are words", "added", JSON, lambda t: t.update(added_tokens=["<s>"]))
changed("added tokens in an object", "not an array", "added_tokens", lambda t: t.update(added_tokens={"<s>": 1}))
changed("100,000 added tokens", "more than", "added_tokens", lambda t: t.update(
    added_tokens=[vocabularies.added(i + 280, f"<{i}>", False) for i in range(100000)]))
changed("a template of a token that is not defined", "special_tokens", JSON, lambda t: t["post_processor"].update(
    single=[{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]), METASPACE)
changed("a template without the text", "template", JSON, lambda t: t["post_processor"].update(
    single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}]), METASPACE)
changed("a template of an id beyond the vocabulary", "id", JSON,
        lambda t: t["post_processor"]["special_tokens"]["<s>"].update(ids=[1 << 30]), METASPACE)
changed("a template of a thousand tokens", "template", JSON, lambda t: t["post_processor"].update(
    single=[{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 1000 + [{"Sequence": {"id": "A", "type_id": 0}}]),
        METASPACE)
add("tokenizer_config.json: lists in lists", "nest", "tokenizer_config.json", lambda p: (
    beside(JSON, json.dumps(NEOX))(p), (p / "tokenizer_config.json").write_text("[" * 100000)) and None)
add("tokenizer_config.json: a word where it adds a beginning", "true or false", "add_bos_token", lambda p: (
    beside(JSON, json.dumps(NEOX))(p), (p / "tokenizer_config.json").write_text('{"add_bos_token": "yes"}')) and None)
add("tokenizer_config.json: a list", "not an object", "tokenizer_config.json", lambda p: (
    beside(JSON, json.dumps(NEOX))(p), (p / "tokenizer_config.json").write_text("[]")) and None)
add("tokenizer_config.json: a pipe", "regular file", "tokenizer_config.json", lambda p: (
    beside(JSON, json.dumps(NEOX))(p), os.mkfifo(p / "tokenizer_config.json")) and None)

# ---- SentencePiece ------------------------------------------------------------------------------


def pieces(title, word, some, **keys):
    add("tokenizer.model: " + title, word, MODEL, beside(MODEL, spm(some, **keys)))


def raw(title, word, data):
    add("tokenizer.model: " + title, word, MODEL, beside(MODEL, data))


GOOD_SPM = spm(PIECES)
TAIL = GOOD_SPM[len(b"".join(spm_piece(*p) for p in PIECES)):]


def one(title, word, piece):
    """The last piece is this one."""
    pieces(title, word, PIECES[:-1] + [piece])


raw("empty", "pieces", b"")
raw("no pieces", "pieces", TAIL)
raw("words", "SentencePiece", b"Hello, I am a tokenizer, believe me.")
raw("cut short", "SentencePiece", GOOD_SPM[:3000])
raw("a length beyond the file", "SentencePiece", b"\x0a" + varint(1 << 40) + b"x")
raw("a length of 2^63", "SentencePiece", b"\x0a" + varint(1 << 63) + b"x")
raw("a number without an end", "SentencePiece", b"\x08" + b"\xff" * 1000)
raw("messages in messages, a million deep", "SentencePiece", b"\x0b" * 1000000)
raw("a field of type 7", "SentencePiece", GOOD_SPM + b"\x0f\0")
raw("field number 0", "SentencePiece", GOOD_SPM + b"\0\0")
raw("a million empty pieces", "piece", b"\x0a\0" * 1000000)
add("tokenizer.model: a hole of 33 MiB", "protobuf", MODEL,
    lambda p: (beside(MODEL, GOOD_SPM)(p), os.truncate(p / MODEL, 33 << 20)) and None)
add("tokenizer.model: a hole of 8 GiB", "more than", MODEL,
    lambda p: (beside(MODEL, GOOD_SPM)(p), os.truncate(p / MODEL, 8 << 30)) and None)
raw("sixteen million empty pieces", "protobuf", lambda: b"\x0a\0" * (16 << 20))
one("a piece that is no UTF-8", "UTF-8", (b"\xff\xfe", -1.0, NORMAL))
one("an empty piece", "piece", ("", -1.0, NORMAL))
one("a piece with a NUL", "NUL", ("a\0b", -1.0, NORMAL))
one("a piece of 100,000 bytes", "bytes", ("x" * 100000, -1.0, NORMAL))
one("one piece twice", "as another is", ("<0x00>", 0.0, BYTE))
one("a score that is no number", "score", ("q", float("nan"), NORMAL))
one("an endless score", "score", ("q", float("inf"), NORMAL))
one("a type of 99", "type", ("q", -1.0, 99))
one("a negative type", "type", ("q", -1.0, -1))
one("a byte that is none", "byte", ("<0xZZ>", 0.0, BYTE))
pieces("two unknowns", "unknown", PIECES[:-1] + [("<unk2>", 0.0, 2)])
pieces("a model of words", "3", PIECES, model_type=3)
pieces("a model of type 77", "77", PIECES, model_type=77)


def charsmap(title, word, data):
    """A normaliser with a precompiled map: the bytes of a double array and their number, then the texts."""
    raw(title, word, b"".join(spm_piece(*p) for p in PIECES) + proto(2, proto(3, 2) + proto(35, 1)) +
        proto(3, proto(1, "nmt_nfkc") + proto(2, data)))


charsmap("a map of two bytes", "double array", b"\0\0")
charsmap("a double array beyond its map", "double array", struct.pack("<I", 1 << 31) + bytes(64))
charsmap("a double array of three bytes", "double array", struct.pack("<I", 3) + bytes(64))
charsmap("a map without texts", "double array", struct.pack("<I", 64) + bytes(64))
charsmap("texts without an end", "NUL", struct.pack("<I", 4) + bytes(4) + b"abc")
charsmap("texts that are no UTF-8", "UTF-8", struct.pack("<I", 4) + bytes(4) + b"\xff\xfe\0")

hostile.CONTROLS += [
    hostile.Hostile("a good tokenizer.json", "", "", beside(JSON, json.dumps(NEOX))),
    hostile.Hostile("a good tokenizer.json with bytes", "", "", beside(JSON, json.dumps(METASPACE))),
    hostile.Hostile("a good tokenizer.model", "", "", beside(MODEL, GOOD_SPM)),
    hostile.Hostile("a good unigram model", "", "", beside(MODEL, spm(PIECES, model_type=1)))]
