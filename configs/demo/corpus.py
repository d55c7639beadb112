#!/usr/bin/env python3
"""The text the demo model learns from, out of two Debian packages; no network.

    apt-get install bible-kjv bible-kjv-text        # the King James Bible, 1611: 4.2 MB
    apt-get download r-cran-janeaustenr             # six novels of Jane Austen, 1811-1817: 4.2 MB
    dpkg -x r-cran-janeaustenr_*.deb austen         # (unpacked only: R is not needed)
    python3 corpus.py --austen austen corpus        # writes corpus/{train,valid,heldout}.txt

A document is one chapter. The files hold documents one after another, each closed by <|endoftext|>.
Of every 90 chapters of each source, number 50 goes to heldout.txt, which gives the published figure, and
number 20 to valid.txt, by which train.py's settings were chosen; neither is trained on. (50, because the
chapters it picks repeat little of other chapters; Psalm 18, for one, is also 2 Samuel 22.)
"""
import argparse, pathlib, re, struct, subprocess, zlib

EOT = "<|endoftext|>"
RDB = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"


def bible():
    """[chapter]; one verse a line, verse numbers removed."""
    out = subprocess.check_output(["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL)
    chapters = {}
    for line in out.decode("ascii").splitlines():
        m = re.match(r"(\d?[A-Za-z]+\d+):\d+ (\S.*)", line)
        if m:
            chapters.setdefault(m[1], []).append(m[2].strip())
    return ["\n".join(v) + "\n" for v in chapters.values()]


def r_strings(blob):
    """The character vector in one serialised R object (XDR, version 3), as a list of str."""
    assert blob[:2] == b"X\n"
    at = 2 + 12 + 4 + struct.unpack_from(">I", blob, 14)[0]         # versions, then the name of the encoding
    flags, n = struct.unpack_from(">II", blob, at)
    assert flags & 255 == 16, "not a character vector"
    at, out = at + 8, []
    for _ in range(n):
        size, = struct.unpack_from(">I", blob, at + 4)
        out.append(blob[at + 8:at + 8 + size].decode("utf-8"))
        at += 8 + size
    return out


def austen(root):
    """[chapter]; one paragraph a line, a blank line between paragraphs."""
    rdb, chapters = (pathlib.Path(root) / RDB).read_bytes(), []
    while rdb:                                                      # each object: its length, then a zlib stream
        z = zlib.decompressobj()
        lines = r_strings(z.decompress(rdb[4:]))
        rdb = z.unused_data
        book = re.split(r"\n(?:CHAPTER|Chapter) [IVXL\d]+\.?\n", "\n".join(lines))[1:]
        for text in book:
            text = re.split(r"\n(?:VOLUME [IVX]+|Volume [IVX]+|FINIS|THE END|Finis|A NOTE ON THE TEXT)(?:\n|$)", text)[0]
            paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]
            paragraphs = [p for p in paragraphs if p and p[0] != "["]              # "[At this point ... Volume I ends.]"
            paragraphs = [p.replace("_", "").replace("--", " -- ").replace("  ", " ") for p in paragraphs]
            chapters.append("\n\n".join(paragraphs) + "\n")
    return chapters


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--austen", metavar="DIR", required=True, help="the unpacked r-cran-janeaustenr")
    a = p.parse_args()
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    files = {"train": [], "valid": [], "heldout": []}
    for name, chapters in (("bible", bible()), ("austen", austen(a.austen))):
        for i, text in enumerate(chapters):
            files[{50: "heldout", 20: "valid"}.get(i % 90, "train")].append(text)
        print(f"{name}: {len(chapters)} chapters, {sum(map(len, chapters))} characters")
    for name, docs in files.items():
        text = "".join(d + EOT for d in docs)
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt: {len(docs)} chapters, {len(text.encode())} bytes")



if __name__ == "__main__":
    main()
