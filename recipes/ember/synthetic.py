"""Write ember's own text: invented organisations and small skills, in Chinese and English.

    python -m recipes.ember.synthetic OUT_FILE.jsonl.zst --megabytes 80 --seed 1

Rows are documents `{"text": …}` or chats `{"messages": […]}`. The same seed gives the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from recipes.ember import worlds
from recipes.ember.worlds import Row

WORLD_KINDS = (
    (worlds.reading_chat, 0.36),
    (worlds.again_chat, 0.28),
    (worlds.again_text, 0.16),
    (worlds.wordings_text, 0.10),
    (worlds.same_item_chat, 0.10),
)


def rows(seed: int) -> Iterator[Row]:
    """Rows without end."""
    rng = random.Random(seed)
    makers, weights = zip(*WORLD_KINDS, strict=True)
    while True:
        lang = "zh" if rng.random() < 0.6 else "en"
        maker = rng.choices(makers, weights)[0]
        yield maker(worlds.world(rng, lang), rng)


def plain_text(row: Row) -> str:
    """The text of a row without control tokens, for statistics and for learning merges."""
    return row["text"] if "text" in row else "\n".join(message["content"] for message in row["messages"])
