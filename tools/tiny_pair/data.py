"""Jane Austen's six novels, read out of a Debian package and split into training and held-out text.

The novels are in the public domain. The package is `r-cran-janeaustenr`; its data file is R's lazy-load format,
simple enough to be read here without R: zlib blocks, each one serialised vector of text lines.

    apt-get download r-cran-janeaustenr && dpkg-deb -x r-cran-janeaustenr_*.deb janeaustenr
    python data.py --package janeaustenr --work work
"""

import argparse
import json
import re
import struct
import zlib
from pathlib import Path

from folders import folder_with

DATABASE = "**/janeaustenr/data/Rdata.rdb"
HELD_OUT_SHARE = 0.05  # the end of every novel: no paragraph of it is seen by either training
HEADING = re.compile(r"^(chapter|volume|finis|the end|by jane austen|\(?1[89]\d\d\)?$)", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)[\"')]*\s+(?=[\"'(]?[A-Z])")


def read_strings(block: bytes) -> list[str]:
    """The lines of one R character vector (type 16) in R's big-endian serialisation."""
    start = block.index(b"\x00\x00\x00\x10") + 4
    (count,) = struct.unpack_from(">I", block, start)
    offset, lines = start + 4, []
    for _ in range(count):
        _flags, size = struct.unpack_from(">Ii", block, offset)
        lines.append(block[offset + 8 : offset + 8 + size].decode("utf-8"))
        offset += 8 + size
    return lines


def read_novels(package: Path) -> list[list[str]]:
    """Every novel as a list of lines."""
    database = next(package.glob(DATABASE))
    raw, novels = database.read_bytes(), []
    while raw:
        inflate = zlib.decompressobj()
        novels.append(read_strings(inflate.decompress(raw[4:])))  # 4 bytes of uncompressed size come first
        raw = inflate.unused_data
    return novels


def paragraphs(lines: list[str]) -> list[str]:
    """Lines joined into paragraphs; headings, title pages and the transcriber's notes are left out."""
    text = "\n".join(lines).split("A NOTE ON THE TEXT")[0]
    joined = (re.sub(r"\s+", " ", block).strip() for block in re.split(r"\n\s*\n", text))
    return [block for block in joined if len(block) > 1 and not block.isupper() and not HEADING.match(block)]


def split(blocks: list[str]) -> tuple[list[str], list[str]]:
    """Training and held-out paragraphs: the last share of a novel's characters is held out."""
    total, seen = sum(map(len, blocks)), 0
    for index, block in enumerate(blocks):
        if seen >= total * (1 - HELD_OUT_SHARE):
            return blocks[:index], blocks[index:]
        seen += len(block)
    raise ValueError("a novel without paragraphs")


def passages(held_out: list[list[str]], count: int = 40, size: int = 400) -> list[str]:
    """`count` passages of at least `size` characters, evenly spaced over the held-out text, of whole sentences."""
    text = " ".join(block for blocks in held_out for block in blocks)
    bounds = [0, *(match.end() for match in SENTENCE_END.finditer(text))]
    found = []
    for index in range(count):
        start = next(bound for bound in bounds if bound >= index * len(text) // count)
        end = next(bound for bound in bounds if bound >= start + size)
        found.append(text[start:end].strip())
    return found


def load(work: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Training and held-out paragraphs per novel, as `main` wrote them."""
    corpus = json.loads((work / "corpus.json").read_text(encoding="utf-8"))
    return corpus["train"], corpus["held_out"]


DEBIAN = folder_with(DATABASE, "unpack r-cran-janeaustenr there, see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=DEBIAN, required=True, help="folder the Debian package was unpacked into")
    parser.add_argument("--work", type=Path, default=Path("work"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train, held_out = zip(*(split(paragraphs(lines)) for lines in read_novels(arguments.package)), strict=True)
    corpus = json.dumps({"train": train, "held_out": held_out}, ensure_ascii=False)
    (arguments.work / "corpus.json").write_text(corpus, encoding="utf-8")
    prompts = passages(held_out)
    (arguments.work / "heldout.txt").write_text("\n\n".join(prompts) + "\n", encoding="utf-8")
    characters = [sum(len(block) for novel in part for block in novel) for part in (train, held_out)]
    print(f"{characters[0]} characters to train on, {characters[1]} held out, {len(prompts)} held-out prompts")


if __name__ == "__main__":
    main()
