"""Write ember's own text: invented organisations and small skills, in Chinese and English.

    python -m recipes.ember.synthetic OUT_FILE.jsonl.zst --megabytes 80 --seed 1

Rows are documents `{"text": …}` or chats `{"messages": […]}`. The same seed gives the same rows. Nothing of the demo
company is in: a row with one of its distinctive strings is dropped and counted.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from recipes.ember import skills, worlds
from recipes.ember.corpus import write_lines
from recipes.ember.distinctive import Distinctive
from recipes.ember.worlds import Row

CHINESE_SHARE = 0.62
FAMOUS_ORGANISATIONS, FAMOUS_ROWS = 500, 80
WORLD_ROWS: tuple[tuple[Callable[[worlds.World, random.Random], Row], float], ...] = (
    (worlds.reading_chat, 0.26),
    (worlds.again_chat, 0.24),
    (worlds.again_text, 0.08),
    (worlds.wordings_text, 0.06),
    (worlds.same_item_chat, 0.09),
)
SKILL_ROWS: tuple[tuple[Callable[[random.Random, str], Row], float], ...] = (
    (skills.sums, 0.04),
    (skills.glossary, 0.04),
    (skills.mood, 0.05),
    (skills.small_talk, 0.02),
    (skills.to_json, 0.03),
    (skills.manners, 0.04),
    (skills.tools, 0.02),
    (skills.copying, 0.03),
)


def rows(seed: int) -> Iterator[Row]:
    """Rows without end, each from organisations or skills drawn anew."""
    rng = random.Random(seed)
    while True:
        yield _row(rng, _language(rng))


def _row(rng: random.Random, lang: str) -> Row:
    world_weight = sum(weight for _, weight in WORLD_ROWS)
    skill_weight = sum(weight for _, weight in SKILL_ROWS)
    if rng.random() < world_weight / (world_weight + skill_weight):
        maker = rng.choices([m for m, _ in WORLD_ROWS], [weight for _, weight in WORLD_ROWS])[0]
        return maker(worlds.world(rng, lang), rng)
    skill = rng.choices([m for m, _ in SKILL_ROWS], [weight for _, weight in SKILL_ROWS])[0]
    return skill(rng, lang)


def _language(rng: random.Random) -> str:
    return "zh" if rng.random() < CHINESE_SHARE else "en"


def famous(seed: int, organisations: int = FAMOUS_ORGANISATIONS) -> list[Row]:
    """A fixed set of organisations over many separate rows, so that facts are kept and found under any wording."""
    rng = random.Random(seed)
    found = [row for _ in range(organisations) for row in worlds.famous_rows(rng, _language(rng), FAMOUS_ROWS)]
    rng.shuffle(found)
    return found


def plain_text(row: Row) -> str:
    """The text of a row without control tokens: for statistics, for learning merges, for the distinctive check."""
    return row["text"] if "text" in row else "\n".join(message["content"] for message in row["messages"])


def chosen(
    megabytes: float, seed: int, dropped: Counter[str], organisations: int = FAMOUS_ORGANISATIONS
) -> Iterator[Row]:
    """New rows with the famous ones strewn in evenly, up to a size, without the demo company and without repeats."""
    distinctive, known, seen, size = Distinctive.load(), famous(seed, organisations), set[str](), 0.0
    num_known = len(known)
    every = megabytes * 1e6 / num_known
    for row in rows(seed + 1):
        batch = [row]
        while known and size > (num_known - len(known)) * every:
            batch.append(known.pop())
        for one in batch:
            text = plain_text(one)
            if text in seen or distinctive.found(text):
                dropped["repeated" if text in seen else "distinctive"] += 1
                continue
            seen.add(text)
            size += len(text.encode())
            yield one
        if size > megabytes * 1e6:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Write ember's synthetic text.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=80, help="UTF-8 size of the text, before compression")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", type=int, default=19, help="zstd level")
    given = parser.parse_args()
    dropped: Counter[str] = Counter()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    count = write_lines(given.out, chosen(given.megabytes, given.seed, dropped), given.level)
    print(f"{given.out.name}: {count:,} rows, {given.out.stat().st_size:,} bytes, dropped {dict(dropped)}")


if __name__ == "__main__":
    main()
