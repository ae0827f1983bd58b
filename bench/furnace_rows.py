"""Rows for the furnace bench: sentences of real text recombined by a seed, with known shares of twins and planted PII.

    python bench/furnace_rows.py OUT.jsonl --rows 1000000 --seed 7 [--data ../shared/data]

Each row is {"instruction", "output"}, about 750 bytes of UTF-8 text, Chinese or English. Of all rows 10 % are exact
twins of an earlier one (half of them with other spaces and width), 10 % near twins (a few letters changed, Jaccard of
3-grams at least 0.7), and 5 % carry one planted piece of personal data. What was planted where stands in
OUT.truth.jsonl. Rows come in blocks of 10,000 that depend on the seed and their number alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

BLOCK = 10_000
TEXT_BYTES = 750
EXACT, NEAR, PLANTED = 0.10, 0.10, 0.05
SOURCES = (
    "instruct/alpaca_zh_en_12k.jsonl.gz", "instruct/sharegpt_zh_1k.jsonl.gz", "instruct/alpaca_zh_demo.json.gz",
    "instruct/alpaca_en_demo.json.gz",
)  # fmt: skip
_END = re.compile(r"(?<=[。！？；])|(?<=[.!?]) ")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def sentences_of(data: Path) -> dict[str, list[str]]:
    """Distinct sentences of 12 to 160 characters, by script."""
    found: dict[str, dict[str, None]] = {"zh": {}, "en": {}}
    for name in SOURCES:
        for text in _texts(data / name):
            for sentence in _END.split(text):
                sentence = sentence.strip()
                if 12 <= len(sentence) <= 160 and "\n" not in sentence:
                    script = "zh" if sum("一" <= sign <= "鿿" for sign in sentence) > len(sentence) / 2 else "en"
                    found[script][sentence] = None
    return {script: list(kept) for script, kept in found.items()}


def _texts(path: Path) -> Iterator[str]:
    content = gzip.decompress(path.read_bytes()).decode("utf-8")
    rows = json.loads(content) if content.lstrip().startswith("[") else map(json.loads, content.splitlines())
    for row in rows:
        yield from _strings(row)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def block(pool: dict[str, list[str]], seed: int, number: int, size: int) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Lines of one block and what was planted: {row, what, of} with rows counted over all blocks."""
    draw = random.Random(f"{seed}/{number}")
    rows: list[tuple[str, str]] = []
    truth: list[dict[str, Any]] = []
    originals: list[int] = []
    first = number * BLOCK
    for at in range(size):
        lot = draw.random()
        if originals and lot < EXACT:
            of = draw.choice(originals)
            asked, told = rows[of]
            rows.append((asked, told) if lot < EXACT / 2 else (_restyled(asked), told + " "))
            truth.append({"row": first + at, "what": "exact", "of": first + of})
        elif originals and lot < EXACT + NEAR:
            of = draw.choice(originals)
            asked, told = rows[of]
            rows.append((asked, _edited(told, draw)))
            truth.append({"row": first + at, "what": "near", "of": first + of})
        else:
            asked, told = _fresh(pool, draw)
            if draw.random() < PLANTED / (1 - EXACT - NEAR):
                kind, piece = _piece(draw)
                told = f"{told}联系方式：{piece}。"
                truth.append({"row": first + at, "what": kind, "of": first + at})
            else:
                originals.append(at)
            rows.append((asked, told))
    return [orjson.dumps({"instruction": asked, "output": told}) + b"\n" for asked, told in rows], truth


def _fresh(pool: dict[str, list[str]], draw: random.Random) -> tuple[str, str]:
    sentences = pool["zh" if draw.random() < 0.7 else "en"]
    asked, told = draw.choice(sentences), ""
    size = len(asked.encode())
    while size < TEXT_BYTES - 40:
        piece = draw.choice(sentences)
        told += piece if piece[-1] in "。！？；" else piece + " "
        size += len(piece.encode())
    return asked, told


def _restyled(text: str) -> str:
    """Another width and other spaces: the same text to a reader."""
    return text.replace("，", ",").replace("：", ":").replace(". ", ".  ") + "\u3000"


def _edited(text: str, draw: random.Random) -> str:
    """One to four single-character edits: well above a Jaccard similarity of 0.7 at this length."""
    signs = list(text)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(signs))
        signs[at] = (
            draw.choice("的一是了我不人在他有这个上们来到时大地为") if signs[at] > "\u2e80" else draw.choice("aeiou")
        )
    return "".join(signs)


def _piece(draw: random.Random) -> tuple[str, str]:
    lot = draw.randrange(4)
    if lot == 0:
        return "mobile", f"1{draw.choice('3578')}{draw.randrange(10**9):09d}"
    if lot == 1:
        return "email", f"{draw.choice(['wang', 'li', 'chen', 'zhao'])}{draw.randrange(10**5)}@example.com"
    if lot == 2:
        digits = f"6222{draw.randrange(10**11):011d}"
        return "bank_card", digits + str(_luhn(digits))
    body = (
        f"{draw.choice(['110101', '310115', '440106', '510104'])}{draw.randint(1950, 2005)}"
        f"{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}{draw.randrange(1000):03d}"
    )
    total = sum(int(digit) * weight for digit, weight in zip(body, _WEIGHTS, strict=True))
    return "resident_id", body + "10X98765432"[total % 11]


def _luhn(digits: str) -> int:
    doubled = [int(sign) * (2 if at % 2 == 0 else 1) for at, sign in enumerate(reversed(digits))]
    return -sum(value // 10 + value % 10 for value in doubled) % 10


def write(out: Path, num_rows: int, seed: int, data: Path) -> dict[str, Any]:
    """The file and its truth; returns counts."""
    pool = sentences_of(data)
    counts: dict[str, int] = {}
    num_bytes = 0
    with out.open("wb") as rows_file, out.with_suffix(".truth.jsonl").open("wb") as truth_file:
        for number in range(-(-num_rows // BLOCK)):
            lines, truth = block(pool, seed, number, min(BLOCK, num_rows - number * BLOCK))
            rows_file.writelines(lines)
            truth_file.writelines(orjson.dumps(entry) + b"\n" for entry in truth)
            num_bytes += sum(map(len, lines))
            for entry in truth:
                counts[entry["what"]] = counts.get(entry["what"], 0) + 1
    return {"rows": num_rows, "bytes": num_bytes, "sentences": {s: len(p) for s, p in pool.items()}, "planted": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    told = parser.parse_args()
    print(json.dumps(write(told.out, told.rows, told.seed, told.data)))


if __name__ == "__main__":
    main()
