"""The validation file: what the public shards held back, and fresh synthetic rows of a seed that is not trained on.

python -m recipes.ember.held_out FOLDER [--rows 600] [--seed 90001]
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from recipes.ember.corpus import read_shard, write_lines
from recipes.ember.distinctive import Distinctive
from recipes.ember.synthetic import plain_text, rows
from recipes.ember.worlds import Row


def main() -> None:
    parser = argparse.ArgumentParser(description="Write ember's validation file.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seed", type=int, default=90_001)
    given = parser.parse_args()
    distinctive = Distinctive.load()
    public: list[Row] = [{"text": text} for text in read_shard(given.folder / "corpus", "validation")]
    fresh = (row for row in rows(given.seed) if not distinctive.found(plain_text(row)))
    count = write_lines(given.folder / "validation.jsonl.zst", [*public, *itertools.islice(fresh, given.rows)])
    print(f"validation.jsonl.zst: {count:,} rows, {len(public):,} of them public")


if __name__ == "__main__":
    main()
