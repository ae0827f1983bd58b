"""A conversation as a template wrote it: pieces of text and control tokens, each learnt or only read. No Jinja here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from danlu.data.marks import ESCAPE
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Tokens

Thinking = Literal["keep", "drop", "mask"]
"""What becomes of `<think>` traces: learnt, removed from the text, or read but not learnt."""
TrainOn = Literal["assistant", "last", "all"]


@dataclass(frozen=True, slots=True)
class Piece:
    """`token` is the id of a control token, None for text. `begins_answer`: a prompt ends just before."""

    text: str
    token: int | None
    train: bool
    begins_answer: bool = False

    @property
    def is_control(self) -> bool:
        return self.token is not None


@dataclass(frozen=True, slots=True)
class Rendered:
    """Pieces in order; joined they are the template's text, byte for byte.

    `alone` names the turns (places in the messages given) whose words stand here otherwise than the model would have
    produced them, for instance without the thinking that came first: they are never learnt from this text but, by
    `Template.render_turn`, from one of their own.
    """

    pieces: tuple[Piece, ...]
    alone: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def is_learnt(self) -> bool:
        return any(piece.train for piece in self.pieces)

    def tokens(self, tokenizer: Tokenizer) -> Tokens:
        """Read as one text; a prompt's ids are exactly the first ids of its answered conversation."""
        parts = [piece.text if piece.token is None else piece.token for piece in self.pieces]
        borders = [index for index, piece in enumerate(self.pieces) if piece.begins_answer]
        ids, owners = tokenizer.encode_parts(parts, borders=borders)
        learnt = np.array([piece.train for piece in self.pieces] or [False], dtype=np.uint8)
        weights = learnt[np.array(owners, dtype=np.int64)]
        return Tokens(np.array(ids, dtype=np.int32), weights)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start:end` of a marked text; `is_answer` spans begin where a prompt ends."""

    start: int
    end: int
    train: bool
    is_answer: bool = True


def cut(
    text: str, spans: Iterable[Span], controls: Sequence[tuple[int, int, int]], *, default: bool
) -> tuple[Piece, ...]:
    """Pieces of a marked text. `controls` are (start, end, id); later spans overrule earlier ones; escapes vanish."""
    learnt = np.full(len(text) + 1, default, dtype=bool)
    edges = {0, len(text)}
    answers = set()
    for span in spans:
        learnt[span.start : span.end] = span.train
        edges |= {span.start, span.end}
        if span.is_answer:
            answers.add(span.start)
    ids = {start: (end, token) for start, end, token in controls}
    inside = [(start, end) for start, end, _ in controls]
    edges -= {edge for start, end in inside for edge in range(start + 1, end) if edge in edges}
    edges |= {edge for pair in inside for edge in pair}
    pieces = []
    order = sorted(edges)
    for start, end in itertools.pairwise(order):
        token = ids[start][1] if start in ids else None
        clean = text[start:end].replace(ESCAPE, "")
        if clean:
            pieces.append(Piece(clean, token, bool(learnt[start]), start in answers))
    return tuple(pieces)
