# ruff: noqa: N815 - shape suffixes
"""Few shapes for many batches: what a recorded CUDA graph, or compiled code, is made for.

A batch's tokens, supervised rows, documents and longest document are rounded up to a form; what is added learns
nothing. Padding documents stand behind the real ones; padding rows point at positions nobody else reads and have the
target -1, which counts for nothing in loss and gradient.

Shapes: T tokens, S supervised rows, N documents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.ops.attention import Bounds
from danlu.ops.attention.bounds import round_up_count, round_up_length
from danlu.training.batches import PAD_DOCUMENT, Batch

EIGHTHS = 8  # a form is at most an eighth of the largest batch bigger than what it holds
STEP = 128
IGNORED = -1


@dataclass(frozen=True, slots=True)
class Form:
    """Sizes that many batches share. `even_length` is there where all documents are equally long: such a batch is
    taken as it is, for attention computes it as a dense one."""

    num_tokens: int
    num_rows: int
    num_documents: int
    longest: int
    even_length: int = 0

    @classmethod
    def of(cls, batch: Batch, micro_tokens: int) -> Form:
        """The smallest form that holds a batch of at most `micro_tokens`."""
        step = max(STEP, micro_tokens // EIGHTHS)
        bounds = batch.bounds
        if bounds.is_even:
            num_tokens, num_documents, longest = bounds.num_tokens, bounds.num_documents, bounds.max_length
        else:
            num_tokens = _round_up(bounds.num_tokens, step)
            padding = num_tokens - bounds.num_tokens
            num_documents = round_up_count(bounds.num_documents + -(-padding // PAD_DOCUMENT))
            longest = round_up_length(max(bounds.max_length, min(padding, PAD_DOCUMENT)))
        num_rows = _round_up(batch.num_targets, step)
        if num_rows > num_tokens - step:
            num_rows = num_tokens  # too few unread positions are left for padding rows: compute all
        return cls(num_tokens, num_rows, num_documents, longest, longest if bounds.is_even else 0)


@dataclass(frozen=True, slots=True)
class Filled:
    """A batch in its form, on the CPU. Its bounds have the real documents and the padding, no more; `cu_N1` are their
    ends, repeated up to the form's count."""

    form: Form
    batch: Batch
    cu_N1: Tensor

    def pin(self) -> Filled:
        """The same in memory that a GPU can read by itself."""
        return Filled(self.form, self.batch.pin(), self.cu_N1.pin_memory())


def fill(batch: Batch, form: Form) -> Filled:
    padding = form.num_tokens - batch.bounds.num_tokens
    lengths = [PAD_DOCUMENT] * (padding // PAD_DOCUMENT) + [padding % PAD_DOCUMENT] * (padding % PAD_DOCUMENT > 0)
    bounds = Bounds.of([*batch.bounds.lengths, *lengths])
    rows_S, targets_S = _fill_rows(batch.rows_S, batch.targets_S, form)
    padded = replace(
        batch,
        ids_T=F.pad(batch.ids_T, (0, padding)),
        positions_T=bounds.positions(),
        bounds=bounds,
        rows_S=rows_S,
        targets_S=targets_S,
    )
    cu_N1 = torch.tensor(bounds.cu_seqlens, dtype=torch.int32)
    return Filled(form, padded, F.pad(cu_N1, (0, form.num_documents + 1 - len(cu_N1)), value=form.num_tokens))


def _fill_rows(rows_S: Tensor, targets_S: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Rows stay in order where all are computed, so that row i is token i."""
    if form.num_rows == form.num_tokens:
        targets_T = torch.full((form.num_tokens,), IGNORED, dtype=targets_S.dtype)
        return torch.arange(form.num_tokens), targets_T.index_copy_(0, rows_S, targets_S)
    missing = form.num_rows - len(rows_S)
    is_free_T = torch.ones(form.num_tokens, dtype=torch.bool).index_fill_(0, rows_S, False)
    free = is_free_T.nonzero()[:missing, 0]
    assert len(free) == missing, "a form leaves positions for its padding rows"
    return torch.cat((rows_S, free)), F.pad(targets_S, (0, missing), value=IGNORED)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
