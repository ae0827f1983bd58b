"""Long documents in pieces: cut after paragraphs or sentences, Chinese or English, without losing a token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_PARAGRAPH = re.compile(r"\n\s*$")
_SENTENCE = re.compile(r"[。！？；…!?][\"'”’」』）)\]]*\s*$|\.[\"'”’)\]]*\s*$")
_CLAUSE = re.compile(r"[，、,;：:]\s*$|\s$")


def chunk(ids: Sequence[int], limit: int, piece: Callable[[int], str]) -> list[Sequence[int]]:
    """`ids` in runs of at most `limit`, joined again exactly `ids`.

    Each cut falls after the last paragraph's end in the second half of the window, else after the last sentence's,
    else after the last clause's or word's, else at the limit. `piece` gives a token's text.
    """
    assert limit > 0, "a chunk holds at least one token"
    chunks: list[Sequence[int]] = []
    start = 0
    while len(ids) - start > limit:
        end = start + _best_cut(ids[start : start + limit], piece)
        chunks.append(ids[start:end])
        start = end
    if start < len(ids):
        chunks.append(ids[start:])
    return chunks


def _best_cut(window: Sequence[int], piece: Callable[[int], str]) -> int:
    """How many of the window's tokens go into the chunk."""
    texts = [piece(token) for token in window]
    half = len(window) // 2
    for pattern in (_PARAGRAPH, _SENTENCE, _CLAUSE):
        for size in range(len(window), half, -1):
            # A mark may be spread over several tokens (bytes of one character): two tokens' text is looked at.
            if texts[size - 1] and pattern.search(texts[size - 1]):
                return size
    return len(window)
