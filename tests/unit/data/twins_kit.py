"""Texts that are nearly alike, and how alike they are by the definition."""

from __future__ import annotations

import random
from collections.abc import Sequence

from danlu.data.sample import Conversation, Document, Message, Origin
from danlu.data.twins.columns import GRAM_BORDER

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


def documents(texts: Sequence[str], name: str = "a.jsonl") -> list[Document]:
    return [Document(text, Origin(name, line)) for line, text in enumerate(texts, 1)]


def chat(question: str, answer: str, line: int = 1, **more: object) -> Conversation:
    turns = (Message("user", question), Message("assistant", answer))
    return Conversation(turns, Origin("c.jsonl", line), **more)  # type: ignore[arg-type]


def grams(text: str, size: int) -> set[str]:
    text += "\0" * (size - len(text))
    return {text[at : at + size] for at in range(len(text) - size + 1)}


def similarity(one: str, other: str) -> float:
    """The definition, in sets of strings."""
    size = 3 if min(len(one), len(other)) < GRAM_BORDER else 5
    left, right = grams(one, size), grams(other, size)
    return len(left & right) / len(left | right)


def varied(draw: random.Random, text: str, ratio: float) -> str:
    chars = list(text)
    for _ in range(int(len(chars) * ratio)):
        chars[draw.randrange(len(chars))] = draw.choice(HAN)
    return "".join(chars)


def family(seed: int, count: int, lengths: Sequence[int]) -> list[str]:
    """Texts of which half are edited copies of earlier ones, edited themselves perhaps."""
    draw = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and draw.random() < 0.5:
            texts.append(varied(draw, draw.choice(texts), draw.random() * 0.12))
        else:
            texts.append("".join(draw.choices(HAN, k=draw.choice(lengths))))
    return texts
