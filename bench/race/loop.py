"""The hand-written loop of the systems that are a model and not a trainer: batches, autocast, fused AdamW.

Layouts: `rows` [N, S] of equal documents; `padded` [N, longest], sorted by length, right padding, no mask (causal
attention never looks at padding behind, so none is needed: the fastest honest choice); `packed` [1, T] with positions
that begin anew at each document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from race.recorder import Recorder
from race.settings import RATE, Job
from race.tokens import IGNORED, TokenFile, chunks, padded_chunks


@dataclass(frozen=True)
class Micro:
    """One forward: tensors [N, S] on the device, and how many tokens and targets are in them (padding left out)."""

    ids: Tensor
    labels: Tensor
    positions: Tensor | None
    lengths: Tensor | None
    num_tokens: int
    num_supervised: int


def collate(tokens: TokenFile, step: int, job: Job) -> list[Micro]:
    setting, lengths = job.setting, tokens.lengths
    micro_tokens = setting.micro_tokens or job.step_tokens
    cut = padded_chunks if setting.layout == "padded" else chunks
    pieces = cut(tokens.steps[step], lengths, micro_tokens)
    make = _packed if setting.layout == "packed" else _rows
    return [make([tokens.document(index) for index in piece], job) for piece in pieces]


def _rows(documents: list[tuple[Any, Any]], job: Job) -> Micro:
    longest, multiple = max(len(ids) for ids, _ in documents), job.setting.extras.get("pad_multiple", 1)
    longest = -(-longest // multiple) * multiple
    ids = np.zeros((len(documents), longest), dtype=np.int64)
    labels = np.full((len(documents), longest), IGNORED, dtype=np.int64)
    for row, (found, learnt) in enumerate(documents):
        ids[row, : len(found)], labels[row, : len(found)] = found, learnt
    return _placed(ids, labels, None, None, documents, job)


def _packed(documents: list[tuple[Any, Any]], job: Job) -> Micro:
    """With `pad_to` the row is filled up to one fixed size, as one more document that nobody learns from."""
    lengths = [len(ids) for ids, _ in documents]
    rest = job.setting.extras.get("pad_to", 0) - sum(lengths)
    fill = [(np.zeros(rest, dtype=np.int64), np.full(rest, IGNORED, dtype=np.int64))] if rest > 0 else []
    every = [*documents, *fill]
    ids, labels = (np.concatenate([one[side] for one in every]).astype(np.int64)[None] for side in (0, 1))
    sizes = np.array([len(one) for one, _ in every])
    positions = np.concatenate([np.arange(size) for size in sizes])[None]
    return _placed(ids, labels, positions, sizes.astype(np.int32), documents, job)


def _placed(ids: Any, labels: Any, positions: Any, lengths: Any, documents: list[tuple[Any, Any]], job: Job) -> Micro:
    """On the device before the step begins, so that no system waits for a copy that another hides."""
    return Micro(
        ids=torch.from_numpy(ids).to(job.device),
        labels=torch.from_numpy(labels).to(job.device),
        positions=None if positions is None else torch.from_numpy(positions).to(job.device),
        lengths=None if lengths is None else torch.from_numpy(lengths),  # on the host, where Unsloth wants them
        num_tokens=sum(len(found) for found, _ in documents),
        num_supervised=int((labels[..., 1:] != IGNORED).sum()),
    )


def train(
    model: nn.Module, job: Job, recorder: Recorder, forward: Callable[[Micro], Tensor], *, is_autocast: bool = True
) -> None:
    """`forward` gives the mean loss of a piece; pieces are weighed by their targets, so a step is one token mean."""
    tokens = job.tokens()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    steps = [collate(tokens, step, job) for step in range(job.total_steps)]
    recorder.loaded(trainable=sum(weight.numel() for weight in weights))
    for pieces in steps:
        targets = sum(piece.num_supervised for piece in pieces)
        total: Any = 0.0
        for piece in pieces:
            with torch.autocast(job.device, dtype=torch.bfloat16, enabled=is_autocast):
                loss = forward(piece) * (piece.num_supervised / targets)
            loss.backward()
            total = total + loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not recorder.step(total, sum(piece.num_tokens for piece in pieces), targets):
            break
