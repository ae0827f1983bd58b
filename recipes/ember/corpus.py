"""Choose the public text that ember learns from, beside its own synthetic text.

    python -m recipes.ember.corpus PRETRAIN_FOLDER OUT_FOLDER

Reads the zstd shards (JSON lines with `text`), caps the old registers, and writes one `{"text": …}` file a shard and
a validation slice, zstd again. Every shard can be left out by deleting its line in `CAPS`. Rights: `CREDITS.md`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard
from recipes.ember.distinctive import Distinctive

WINDOW_LOG = 27
# Characters kept of each shard. Modern register whole; novels, poems and classics only for breadth.
CAPS = {
    "zh_law": 30_000_000,
    "zh_tech_docs": 30_000_000,
    "zh_qa_permissive": 30_000_000,
    "en_factbook": 30_000_000,
    "en_misc": 30_000_000,
    "en_novels": 22_000_000,
    "zh_vernacular_novels": 6_000_000,
    "zh_poetry": 1_000_000,
    "zh_tcm_classics": 1_500_000,
}
VALIDATION_SHARE = 0.005


def read_shard(folder: Path, name: str) -> Iterator[str]:
    """The texts of one shard, streamed."""
    with (folder / f"{name}.jsonl.zst").open("rb") as raw:
        reader = zstandard.ZstdDecompressor(max_window_size=2**WINDOW_LOG).stream_reader(raw)
        for line in io.TextIOWrapper(reader, encoding="utf-8"):
            yield json.loads(line)["text"]


def held_out(text: str, share: float = VALIDATION_SHARE) -> bool:
    """Validation or not, by the text's own digest: the same answer in every build."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return number < share * 2**64


def spread(texts: Iterable[str], cap: int, total: int) -> Iterator[str]:
    """Up to `cap` characters out of `total`, taken evenly over the shard rather than from its head."""
    step, due, taken = min(1.0, cap / max(total, 1)), 0.0, 0
    for text in texts:
        due += step * len(text)
        if due - taken >= len(text) / 2:
            taken += len(text)
            yield text


def write_lines(path: Path, rows: Iterable[object], level: int = 19) -> int:
    """JSON lines, zstd with a long window (repeats far apart are cheap). Returns the rows written."""
    shape = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG, enable_ldm=True)
    count = 0
    with path.open("wb") as raw, zstandard.ZstdCompressor(compression_params=shape).stream_writer(raw) as writer:
        for row in rows:
            writer.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def main(pretrain: str, out: str, level: str = "19") -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    distinctive = Distinctive.load()
    validation: list[dict[str, str]] = []
    for shard, cap in CAPS.items():
        texts = [text for text in read_shard(Path(pretrain), shard) if text.strip()]
        kept, dropped = [], 0
        for text in spread(texts, cap, sum(map(len, texts))):
            if distinctive.found(text):
                dropped += 1
            elif held_out(text):
                validation.append({"text": text[:4_000]})
            else:
                kept.append({"text": text})
        count = write_lines(folder / f"{shard}.jsonl.zst", kept, int(level))
        size = (folder / f"{shard}.jsonl.zst").stat().st_size
        characters = sum(len(row["text"]) for row in kept)
        print(f"{shard}: {count:,} documents, {characters:,} characters, {size:,} bytes, {dropped} dropped", flush=True)
    write_lines(folder / "validation.jsonl.zst", validation, int(level))
    print(f"validation: {len(validation):,} documents")


if __name__ == "__main__":
    main(*sys.argv[1:])
