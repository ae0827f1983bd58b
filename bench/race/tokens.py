"""The token file: what every system of a race reads. Ids, labels, document bounds, and which documents make which step.

Written once per case by the parent; each system reports the file's digest and how many tokens and supervised tokens
it really saw in each step. Ids are drawn skewed, so that the loss has something to fall to. No torch here.

Labels are as in transformers: the id where it is learnt, -100 elsewhere, not shifted. A document's first token has
nothing before it and is never learnt, so it is -100 too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.pack import pack

IGNORED = -100
SEED = 3407
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenFile:
    """`steps[k]` are the documents of optimizer step k + 1, in order."""

    ids: Array
    labels: Array
    bounds: Array
    steps: list[Array]
    sha256: str

    @property
    def lengths(self) -> Array:
        return np.diff(self.bounds)

    def document(self, index: int) -> tuple[Array, Array]:
        start, end = self.bounds[index], self.bounds[index + 1]
        return self.ids[start:end], self.labels[start:end]

    def step_lengths(self, step: int) -> list[int]:
        return [int(self.lengths[document]) for document in self.steps[step]]

    def num_supervised(self, documents: Sequence[int] | Array) -> int:
        return sum(int((self.document(int(index))[1] != IGNORED).sum()) for index in documents)


def draw_ids(num_tokens: int, vocab_size: int, seed: int = SEED) -> Array:
    """Skewed ids: half of all tokens come from the first sixteenth of the vocabulary."""
    random = np.random.default_rng(seed)
    return (vocab_size * random.random(num_tokens) ** 4).astype(np.int32)


def rows_of(num_rows: int, row_tokens: int, supervised_share: float) -> tuple[Array, Array]:
    """Lengths and supervised tokens of full rows: the last share of each is learnt."""
    return np.full(num_rows, row_tokens), np.full(num_rows, round(row_tokens * supervised_share))


def mix_of(num_tokens: int, mix: dict[str, Any], seed: int = SEED) -> tuple[Array, Array]:
    """Lengths and supervised tokens of documents drawn from a measured mix (`length_mix.py`), about `num_tokens`."""
    random = np.random.default_rng(seed)
    quantiles, shares = np.array(mix["quantiles"]), np.array(mix["supervised_share_by_tenth"])
    places = random.random(int(num_tokens / mix["mean"]) + 1)
    lengths = np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles).round().astype(np.int64)
    supervised = lengths * shares[np.minimum(9, (places * 10).astype(int))]
    return lengths, np.maximum(1, supervised.round().astype(np.int64))


def write(path: Path, lengths: Array, supervised: Array, *, vocab_size: int, step_tokens: int, num_steps: int) -> None:
    """Draw ids for documents of these lengths and pack them into steps as danlu packs them."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw_ids(int(bounds[-1]), vocab_size)
    labels = ids.copy()
    for start, end, learnt in zip(bounds[:-1], bounds[1:], supervised, strict=True):
        labels[start : max(start + 1, end - learnt)] = IGNORED
    packs = pack(lengths, step_tokens, SEED, 0)
    assert len(packs) >= num_steps, f"{len(packs)} packs are too few for {num_steps} steps"
    items = np.concatenate(packs[:num_steps])
    ends = np.cumsum([len(one) for one in packs[:num_steps]])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, ids=ids, labels=labels, bounds=bounds, items=items, ends=ends)


def read(path: Path) -> TokenFile:
    with np.load(path) as found:
        steps = np.split(found["items"], found["ends"][:-1])
        arrays = {name: found[name] for name in ("ids", "labels", "bounds", "items", "ends")}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return TokenFile(arrays["ids"], arrays["labels"], arrays["bounds"], steps, digest.hexdigest())


def read_mix(path: Path) -> dict[str, Any]:
    mix: dict[str, Any] = json.loads(path.read_text())
    return mix


def chunks(documents: Array, lengths: Array, micro_tokens: int) -> list[Array]:
    """A step's documents in pieces of at most `micro_tokens`, in order."""
    pieces: list[list[int]] = [[]]
    for index in documents:
        if pieces[-1] and int(lengths[pieces[-1]].sum()) + int(lengths[index]) > micro_tokens:
            pieces.append([])
        pieces[-1].append(int(index))
    return [np.array(piece) for piece in pieces]


def padded_chunks(documents: Array, lengths: Array, micro_tokens: int) -> list[Array]:
    """The same for padded batches: sorted by length, `micro_tokens` counts the padding too."""
    pieces: list[list[int]] = [[]]
    for index in sorted(documents.tolist(), key=lambda one: -int(lengths[one])):
        piece = pieces[-1]
        if piece and int(lengths[piece[0]]) * (len(piece) + 1) > micro_tokens:
            pieces.append([])
        pieces[-1].append(index)
    return [np.array(piece) for piece in pieces]
