# ruff: noqa: N815 - shape suffixes
"""CUDA graphs of a micro-batch: one launch instead of thousands.

Below a few billion parameters a step's kernels are shorter than the time Python takes to launch them. Forward and
backward of one form of batch (`forms.py`) are recorded once and replayed for every batch of that form: the host copies
ids, rows, targets and document ends into standing buffers, nothing else. Gradients are added to the flat buffer as
ever, so accumulation is replaying.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danlu.model.model import Model
from danlu.training.batches import Batch
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.flat import FlatParameters
from danlu.training.forms import Form, fill
from danlu.training.methods.method import Method

METHODS = ("sft", "pretrain")
"""Their loss reads nothing of a batch but what is copied into standing buffers."""
MOST_GRAPHS = 12
WORTH_IT = 2e13  # parameters times tokens of a micro-batch; beyond, kernels are longer than their launches


@dataclass(slots=True)
class Recorded:
    graph: torch.cuda.CUDAGraph
    batch: Batch
    """Whose tensors are the standing buffers."""
    cu_N1: Tensor | None
    scale: Tensor
    loss: Tensor


class Graphs:
    """Recorded micro-batches of one training, by form; the least recently used goes first."""

    def __init__(self, model: Model, method: Method, flat: FlatParameters, micro_tokens: int) -> None:
        self.model, self.method, self.flat, self.micro_tokens = model, method, flat, micro_tokens
        self._recorded: OrderedDict[Form, Recorded] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def suits(model: Model, quick: QuickTrunk | None, method: Method, micro_tokens: int) -> bool:
        """Whether recording can be done, and pays."""
        if quick is None or model.device.type != "cuda" or method.kind not in METHODS:
            return False
        is_fixed = not any(rope.long_factors for rope in model.spec.ropes) and model.spec.attention_softcap is None
        is_here = all(policy.where == "device" for policy in quick.policies)
        num_params = sum(weight.numel() for weight in model.parameters())
        return is_fixed and is_here and num_params * micro_tokens < WORTH_IT

    def accumulate(self, batch: Batch, num_units: int) -> Tensor:
        """Add the gradients of Σ loss / num_units of this batch, which lies on the CPU; returns Σ loss."""
        form = Form.of(batch, self.micro_tokens)
        filled = fill(batch, form)
        recorded = self._recorded.get(form)
        if recorded is None:
            recorded = self._recorded[form] = self._record(form, filled)
            if len(self._recorded) > MOST_GRAPHS:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(form)
        _copy(filled, recorded)
        recorded.scale.fill_(1 / num_units)
        recorded.graph.replay()
        return recorded.loss.clone()

    def _record(self, form: Form, filled: Batch) -> Recorded:
        device = self.model.device
        batch = filled.to(device)
        cu_N1 = None
        if not form.even_length:
            cu_N1 = torch.full((form.num_documents + 1,), form.num_tokens, dtype=torch.int32, device=device)
            batch = replace(batch, bounds=filled.bounds.standing(cu_N1, form.longest))
        recorded = Recorded(torch.cuda.CUDAGraph(), batch, cu_N1, torch.ones((), device=device), torch.empty(0))
        _copy(filled, recorded)
        before = self.flat.grad.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled and chosen, workspaces allocated
                self._compute(recorded)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(recorded.graph, pool=self._pool, capture_error_mode="thread_local"):
            recorded.loss = self._compute(recorded)
        self.flat.grad.copy_(before)
        return recorded

    def _compute(self, recorded: Recorded) -> Tensor:
        loss = self.method.loss(self.model, recorded.batch).value
        (loss * recorded.scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def _copy(filled: Batch, recorded: Recorded) -> None:
    """A batch into the standing buffers."""
    standing = recorded.batch
    for here, there in (
        (filled.ids_T, standing.ids_T), (filled.positions_T, standing.positions_T), (filled.rows_S, standing.rows_S),
        (filled.targets_S, standing.targets_S),
    ):  # fmt: skip
        there.copy_(here.pin_memory(), non_blocking=True)
    if recorded.cu_N1 is not None:
        cu = torch.tensor(filled.bounds.cu_seqlens, dtype=torch.int32)
        recorded.cu_N1[: len(cu)].copy_(cu.pin_memory(), non_blocking=True)
        recorded.cu_N1[len(cu) :] = filled.bounds.num_tokens
