#!/usr/bin/env python3
"""Our tokenizer against the reference library, on random strings: a differential test, run by hand.

    make tests && python3 tests/conformance/compare_tokenizers.py ../shared/tokenizers/gpt_neox_20b.json

A tokenizer.json is compared with `tokenizers`, a SentencePiece .model with `sentencepiece`:
  - ids of each string, without and with what the file's template adds (a .model has no template);
  - the text that those ids decode to, with and without special tokens, at once and through a stream;
  - the text of random sequences of ids, which no encoder gives.
Strings are made from a seed (printed, and taken back by --seed) out of scripts, combining marks, Hangul, emoji,
control characters, white space, long runs, code, digits, contractions, texts of special tokens, and any scalar value.

Unicode versions.  `tokenizers` normalises by tables of Unicode 9.0, whatever its own version; ours are utf8proc's, told
to treat what came later as those tables do (is_newer in model/unicode.c). `--sweep` looks at every scalar value, in the
surroundings that show a difference of class, order or composition, and prints those that differ: that is how that table
was made, and how it is to be looked at with a newer utf8proc.

Bytes.  In a tokenizer.json with byte fallback a run of byte tokens that is no UTF-8 becomes, for `tokenizers`, one
U+FFFD per byte of the whole run; ours, and `sentencepiece`, keep the characters in it, since a stream cannot take back
what it gave. No encoder gives such a run, random ids do: for those our text is compared with that rule, written down
here once more (kept_characters), and how many they are is printed.

Prints counts and the first differences, each cut down to a small string.  Exit status: 0 no difference, 1 differences,
2 it could not be run.
"""
import argparse
import os
import pathlib
import random
import struct
import subprocess
import sys
import time
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH = 4000
SHOWN = 20

# ---- strings ----------------------------------------------------------------------------------------------

SCRIPTS = [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0x370, 0x3FF), (0x1F00, 0x1FFF),
           (0x400, 0x52F), (0x531, 0x58A), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF),
           (0xE00, 0xE7F), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1200, 0x137F), (0x13A0, 0x13FF),
           (0x1780, 0x17FF), (0x1800, 0x18AF), (0x2C00, 0x2DFF), (0x3040, 0x30FF), (0x3100, 0x312F), (0x3400, 0x4DBF),
           (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF),
           (0x10400, 0x1044F), (0x11000, 0x1107F), (0x12000, 0x123FF), (0x13000, 0x1342F), (0x1D400, 0x1D7FF),
           (0x20000, 0x2A6DF), (0x2F800, 0x2FA1F), (0x1E900, 0x1E95F)]
MARKS = [(0x300, 0x36F), (0x483, 0x489), (0x591, 0x5C7), (0x64B, 0x65F), (0x93C, 0x94D), (0xE31, 0xE3A), (0xF71, 0xF84),
         (0x1AB0, 0x1ABE), (0x1DC0, 0x1DFF), (0x20D0, 0x20F0), (0x3099, 0x309A), (0xFE00, 0xFE0F), (0xFE20, 0xFE2F),
         (0x1D165, 0x1D169), (0x1D16D, 0x1D172), (0xE0100, 0xE01EF)]
BASES = "aeiouAEIOUcnszylgkrtdhASŽǖṩΑαωиИ가각一かがㅏא"
HANGUL = [(0xAC00, 0xD7A3), (0x1100, 0x1112), (0x1161, 0x1175), (0x11A7, 0x11C2), (0x1113, 0x1160), (0x11C3, 0x11FF),
          (0xA960, 0xA97C), (0xD7B0, 0xD7C6), (0xD7CB, 0xD7FB), (0x3131, 0x318E)]
EMOJI = [(0x1F600, 0x1F64F), (0x1F300, 0x1F5FF), (0x1F680, 0x1F6FC), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FA86),
         (0x2600, 0x27BF), (0x2190, 0x21FF), (0x2300, 0x23FF)]
SPACES = ("\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
          "\u2028\u2029\u202f\u205f\u3000\u180e\u200b\u200c\u200d\u2060\ufeff")
CONTROLS = [(0x0, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F),
            (0xFFF0, 0xFFFF), (0xE0001, 0xE007F), (0xE000, 0xE010), (0xFDD0, 0xFDEF)]
DIGITS = [(0x30, 0x39), (0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE), (0x660, 0x669), (0x6F0, 0x6F9), (0x7C0, 0x7C9),
          (0x966, 0x96F), (0x9E6, 0x9EF), (0xBE6, 0xBF2), (0xE50, 0xE59), (0xF20, 0xF33), (0x1040, 0x1049),
          (0x1369, 0x137C), (0x17E0, 0x17E9), (0x2070, 0x2079), (0x2080, 0x2089), (0x2150, 0x218B), (0x2460, 0x249B),
          (0x24EA, 0x24FF),
          (0x2776, 0x2793), (0x3007, 0x3007), (0x3021, 0x3029), (0x3192, 0x3195), (0x3220, 0x3229), (0xA620, 0xA629),
          (0xFF10, 0xFF19), (0x10107, 0x10133), (0x104A0, 0x104A9), (0x1D7CE, 0x1D7FF), (0x1F100, 0x1F10C)]
PUNCTUATION = [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xBF), (0x2010, 0x2027), (0x2030, 0x205E),
               (0x20A0, 0x20BF), (0x2100, 0x214F), (0x2200, 0x22FF), (0x2500, 0x257F), (0x2581, 0x2581),
               (0x3001, 0x3020)]
# Characters whose NFC is something else: singletons, composition exclusions, marks of equal and unequal class.
TRICKY = ["\u212b", "\u2126", "\u212a", "\u1fef", "\u2000", "\u2001", "\u0340", "\u0341", "\u0343", "\u0344",
          "\u0374", "\u037e", "\u0387", "\u0958", "\u095f", "\u0f43", "\ufb1d", "\ufb4e", "\u2adc", "\uf900",
          "\U0001d15e", "\U0002f800", "q\u0307\u0323", "a\u0315\u0300\u05ae", "\u1100\u1161\u11a8", "\uac00\u11a8",
          "\u0b47\u0b3e", "\u09c7\u09be", "\u1025\u102e", "\u0fb2\u0f71\u0f80", "\U00011131\U00011127",
          "\U000114b9\U000114ba"]
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; i++) {\n\t\ta[i] += b[i];\n\t}\n",
        "<div class=\"a\">&nbsp;</div>", "#include <stdio.h>", "SELECT * FROM t WHERE a='b''c';",
        "if err != nil {\n\t\treturn err\n\t}", "0x1F, 1e-9, 3.14159f", "    \t    ", "        x = y[0]['k']",
        "\r\n\r\n", "//----------------\n", "a->b::c<d>()", "{\"k\": [1, 2, null]}",
        "https://example.org/a?b=c&d=%20", "C:\\Users\\x", "$(echo 'it''s')", "\\u00e9\\n", "x^2 + y_1 \\to \\infty",
        "@property\n"]
WORDS = ("the of And Don't HELLO world naïve straße ŒUVRE ĳssel façade coöperate İstanbul ΌΣΟΣ русский שלום مرحبا "
         "नमस्ते ไทย 日本語 中文 한국어").split()
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ll", "’s", "’ll", "'", "''", "'x",
                " 's", "s'", "'ſ"]


class Maker:
    """Random strings, the same ones for the same seed."""

    def __init__(self, seed, specials):
        self.random = random.Random(seed)
        self.specials = specials or ["<s>", "</s>", "<|endoftext|>"]
        self.kinds = [self.word, self.script, self.marks, self.hangul, self.emoji, self.control, self.space, self.run,
                      self.code, self.digits, self.contraction, self.special, self.any, self.punctuation, self.tricky,
                      self.spaced]

    def of(self, ranges, most):
        pick = self.random
        return "".join(chr(pick.randint(*pick.choice(ranges))) for _ in range(pick.randint(1, most)))

    def word(self):
        return self.random.choice(WORDS)

    def script(self):
        return self.of([self.random.choice(SCRIPTS)], 12)

    def marks(self):
        return "".join(self.random.choice(BASES) + self.of(MARKS, 4) for _ in range(self.random.randint(1, 4)))

    def hangul(self):
        return self.of(HANGUL, 8)

    def emoji(self):
        pick, out = self.random, ""
        for _ in range(pick.randint(1, 4)):
            out += chr(pick.randint(*pick.choice(EMOJI)))
            out += pick.choice(["", "", "\ufe0f", "\u200d", chr(pick.randint(0x1F3FB, 0x1F3FF)), "\ufe0f\u20e3",
                                chr(pick.randint(0x1F1E6, 0x1F1FF)) * 2])
        return out

    def control(self):
        return self.of(CONTROLS, 4)

    def space(self):
        return "".join(self.random.choice(SPACES) for _ in range(self.random.randint(1, 6)))

    def spaced(self):
        return self.random.choice("   \n\t") * self.random.randint(1, 30) + self.random.choice(["", "x", "1", "."])

    def run(self):
        one = self.random.choice(["a", "A", " ", "\n", "\t", "=", "-", "0", "é", "e\u0301", "語", "\U0001f600", "\u0301", "'",
                                  "▁", "ab"])
        return one * int(2 ** self.random.uniform(1, 9))

    def code(self):
        return self.random.choice(CODE)

    def digits(self):
        return self.of(DIGITS if self.random.random() < 0.5 else DIGITS[:1], 8)

    def contraction(self):
        return self.random.choice(WORDS) + self.random.choice(CONTRACTIONS)

    def special(self):
        text = self.random.choice(self.specials)
        cut = self.random.random()
        return text if cut < 0.7 else text[:-1] if cut < 0.8 else text[1:] if cut < 0.9 else text + text

    def any(self):
        out = ""
        for _ in range(self.random.randint(1, 4)):
            point = self.random.randrange(0x10F800)
            out += chr(point if point < 0xD800 else point + 0x800)
        return out

    def punctuation(self):
        return self.of(PUNCTUATION, 5)

    def tricky(self):
        return self.random.choice(TRICKY)

    def make(self):
        pick = self.random
        kinds = self.kinds if pick.random() < 0.7 else [pick.choice(self.kinds)]
        text = "".join(pick.choice(kinds)() + pick.choice(["", "", " "]) for _ in range(pick.randint(1, 8)))
        return text


# ---- the two sides ----------------------------------------------------------------------------------------


class Ours:
    """encode_stream, one process per batch."""

    def __init__(self, program, path):
        self.program, self.path = program, path

    def ask(self, mode, records):
        data = b"".join(struct.pack("<I", len(r)) + r for r in records)
        done = subprocess.run([self.program, self.path, mode], input=data, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            sys.exit(2)
        answers, out, at = [], memoryview(done.stdout), 0

        def record():
            nonlocal at
            length = struct.unpack_from("<I", out, at)[0]
            at += 4 + length
            return bytes(out[at - length:at])

        for _ in records:
            failed = struct.unpack_from("<I", out, at)[0]
            at += 4
            parts = 1 if failed else 3 if mode == "decode" else 5
            answers.append(["error: " + record().decode()] if failed else [record() for _ in range(parts)])
        return answers

    def texts(self, mode, strings):
        """[ids, ids with template, text, text without specials], or [error]; and what the stream gave."""
        answers = self.ask(mode, [s.encode() for s in strings])
        return [a if len(a) == 1 else [ids(a[0]), ids(a[1]), text(a[2]), text(a[3]), text(a[4])] for a in answers]

    def decoded(self, sequences):
        answers = self.ask("decode", [struct.pack(f"<{len(s)}i", *s) for s in sequences])
        return [a if len(a) == 1 else [text(part) for part in a] for a in answers]


def ids(raw):
    return list(struct.unpack(f"<{len(raw) // 4}i", raw))


def text(raw):
    return raw.decode("utf-8", "backslashreplace")


def is_utf8(raw):
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def each_byte_or_character(raw):
    """Text of bytes: characters as they are, U+FFFD for every byte that is in none."""
    out, at = "", 0
    while at < len(raw):
        size = next((n for n in (1, 2, 3, 4) if at + n <= len(raw) and is_utf8(raw[at:at + n])), 0)
        out += raw[at:at + size].decode() or "\ufffd"
        at += size or 1
    return out


class Json:
    """A tokenizer.json and the library `tokenizers`.  It always splits special tokens out of a text."""

    mode = "special"

    def __init__(self, path):
        import tokenizers
        self.name = f"tokenizers {tokenizers.__version__}"
        self.t = tokenizers.Tokenizer.from_file(path)
        self.t.no_padding()
        self.t.no_truncation()
        self.size = self.t.get_vocab_size()
        self.specials = [token.content for token in self.t.get_added_tokens_decoder().values()]
        self.special_ids = {i for i, token in self.t.get_added_tokens_decoder().items() if token.special}
        self.broken = 0

    def texts(self, strings):
        plain = [e.ids for e in self.t.encode_batch(strings, add_special_tokens=False)]
        full = [e.ids for e in self.t.encode_batch(strings, add_special_tokens=True)]
        whole = self.t.decode_batch(full, skip_special_tokens=False)
        return list(map(list, zip(plain, full, whole, self.t.decode_batch(full, skip_special_tokens=True))))

    def decoded(self, sequences):
        """Both texts of each, and for runs of bytes that are no UTF-8 what ours must give instead."""
        plain = self.t.decode_batch(sequences, skip_special_tokens=False)
        skipped = self.t.decode_batch(sequences, skip_special_tokens=True)
        if "ByteFallback" in str(self.t.decoder):
            for i, sequence in enumerate(sequences):
                if any(not is_utf8(run) for run in self.runs(sequence)):
                    self.broken += 1
                    plain[i], skipped[i] = self.kept_characters(sequence, False), self.kept_characters(sequence, True)
        return list(map(list, zip(plain, skipped)))

    def byte(self, one):
        """The byte that a token stands for, or None."""
        token = self.t.id_to_token(one) or ""
        return int(token[3:5], 16) if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else None

    def runs(self, sequence):
        """Bytes of the runs of byte tokens; special tokens that are skipped do not part them."""
        for skip in (False, True):
            run = b""
            for one in sequence:
                byte = self.byte(one)
                if byte is not None:
                    run += bytes([byte])
                elif not (skip and one in self.special_ids):
                    yield run
                    run = b""
            yield run

    def kept_characters(self, sequence, skip):
        out, run = "", b""
        for one in sequence:
            byte = self.byte(one)
            if byte is not None:
                run += bytes([byte])
            elif not (skip and one in self.special_ids):
                out += each_byte_or_character(run) + (self.t.id_to_token(one) or "").replace("\u2581", " ")
                run = b""
        out += each_byte_or_character(run)
        return out[1:] if out.startswith(" ") else out


class Spm:
    """A SentencePiece .model and the library `sentencepiece`.  It never takes a control token from a text, has no
    template, and its decoder leaves control tokens out always."""

    mode = "plain"

    def __init__(self, path):
        import sentencepiece
        self.name = f"sentencepiece {sentencepiece.__version__}"
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)
        self.size = self.t.get_piece_size()
        self.specials = [self.t.id_to_piece(i) for i in range(self.size)
                         if self.t.is_control(i) or self.t.is_unknown(i)][:64]
        self.broken = 0
        self.specials += [self.t.id_to_piece(i) for i in range(min(self.size, 1200))
                          if not self.t.is_control(i) and not self.t.is_byte(i)][:64]

    def texts(self, strings):
        plain = self.t.encode(strings)
        return [[one, None, None, back] for one, back in zip(plain, self.t.decode(plain))]

    def decoded(self, sequences):
        return [[None, back] for back in self.t.decode(sequences)]


PARTS = ("ids", "ids with the template's", "text", "text without specials")


def difference(ours, theirs, parts):
    """None, or (what, ours, theirs)."""
    if len(ours) == 1:
        return ("answer", ours[0], theirs[0])
    for part, mine, other in zip(parts, ours, theirs):
        if other is not None and mine != other:
            return (part, mine, other)
    if ours[-1] != ours[-3]:
        return ("streamed text", ours[-1], ours[-3])
    return None


def compare_texts(ours, reference, strings):
    answers = zip(strings, ours.texts(reference.mode, strings), reference.texts(strings))
    return [(s, d) for s, d in ((s, difference(a, b, PARTS)) for s, a, b in answers) if d]


def compare_ids(ours, reference, sequences):
    answers = zip(sequences, ours.decoded(sequences), reference.decoded(sequences))
    return [(s, d) for s, d in ((s, difference(a, b, PARTS[2:])) for s, a, b in answers) if d]


def shrink(compare, value, found):
    """Take parts out as long as some difference remains."""
    piece = max(1, len(value) // 2)
    while piece >= 1:
        candidates = [value[:i] + value[i + piece:] for i in range(0, len(value), piece) if len(value) > piece]
        worse = compare(candidates) if candidates else []
        if worse:
            value, found = worse[0]
            piece = min(piece, max(1, len(value) // 2))
        else:
            piece //= 2
    return value, found


# ---- running ----------------------------------------------------------------------------------------------


def show(value, found):
    what, mine, other = found
    points = " ".join(f"U+{ord(c):04X}" for c in value[:24]) if isinstance(value, str) else ""
    print(f"  {ascii(value)}  {points}\n    {what}: ours {ascii(mine)}\n    {' ' * len(what)}  theirs {ascii(other)}")


def report(title, total, differences, compare):
    print(f"{title}: {total} compared, {len(differences)} differ", flush=True)
    for value, found in differences[:SHOWN]:
        show(*shrink(compare, value, found))
    return len(differences)


def run_strings(ours, reference, options):
    maker = Maker(options.seed, reference.specials)
    differences = []
    for start in range(0, options.count, BATCH):
        strings = [maker.make() for _ in range(min(BATCH, options.count - start))]
        differences += compare_texts(ours, reference, strings)
    return report("random strings", options.count, differences, lambda some: compare_texts(ours, reference, some))


def run_ids(ours, reference, options):
    pick, differences = random.Random(options.seed + 1), []
    count = options.count // 10
    for start in range(0, count, BATCH):
        low = min(reference.size, 1100)  # where bytes and control tokens are
        sequences = [[pick.randrange(reference.size if pick.random() < 0.5 else low) for _ in range(pick.randint(1, 12))]
                     for _ in range(min(BATCH, count - start))]
        differences += compare_ids(ours, reference, sequences)
    broken = f" (of {reference.broken} the bytes are no UTF-8)" if reference.broken else ""
    return report("random ids" + broken, count, differences, lambda some: compare_ids(ours, reference, some))


def ranges_of(points):
    out = []
    for point in points:
        if out and point == out[-1][1] + 1:
            out[-1][1] = point
        else:
            out.append([point, point])
    return out


def run_sweep(ours, reference):
    """Every scalar value: alone, beside a letter, a digit and white space, between marks that it would reorder, where
    it would compose, and decomposed.  Returns how many differ that are not known to."""
    forms = ["{}", "a{}1{} {}\t", "\u0301{}\u0323", "e{}\u0301", "\uac00{}"]
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    differing, examples = [], []
    for start in range(0, len(points), BATCH):
        some = points[start:start + BATCH]
        strings = [form.format(*(chr(p),) * form.count("{}")) for p in some for form in forms]
        strings += [unicodedata.normalize("NFD", chr(p)) for p in some]
        found = dict(compare_texts(ours, reference, strings))
        for i, p in enumerate(some):
            mine = strings[i * len(forms):(i + 1) * len(forms)] + [strings[len(forms) * len(some) + i]]
            hits = [s for s in mine if s in found]
            if hits:
                differing.append(p)
                examples.append((hits[0], found[hits[0]]))
    print(f"sweep: {len(points)} scalar values in {len(forms) + 1} surroundings, {len(differing)} differ", flush=True)
    for first, last in ranges_of(differing):
        print(f"  {first:04X}" + (f"..{last:04X}" if last > first else ""))
    for value, found in examples[:SHOWN]:
        show(value, found)
    return len(differing)


def open_reference(path):
    try:
        return (Json if path.endswith(".json") else Spm)(path)
    except ImportError as error:
        print(f"compare_tokenizers.py: {error}: this test needs the reference libraries, for example in a virtual "
              "environment:\n    python3 -m venv venv && venv/bin/pip install tokenizers sentencepiece", file=sys.stderr)
        sys.exit(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", help="tokenizer.json, or a SentencePiece .model")
    parser.add_argument("--count", type=int, default=100000, help="strings (100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sweep", action="store_true", help="every scalar value instead of random strings")
    parser.add_argument("--build", default=os.environ.get("M2_BUILD", str(ROOT / "build/release")))
    options = parser.parse_args()
    program = pathlib.Path(options.build) / "tests/conformance/encode_stream"
    if not program.exists():
        print(f"compare_tokenizers.py: {program} is not there: make tests", file=sys.stderr)
        sys.exit(2)
    reference, ours, begin = open_reference(options.tokenizer), Ours(str(program), options.tokenizer), time.monotonic()
    print(f"{options.tokenizer} against {reference.name}, seed {options.seed}")
    if options.sweep:
        wrong = run_sweep(ours, reference)
    else:
        wrong = run_strings(ours, reference, options) + run_ids(ours, reference, options)
    print(f"{'differences' if wrong else 'no difference'}, {time.monotonic() - begin:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
