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
from danlu.model.quantized import num_params
from danlu.training.batches import Batch
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.flat import FlatParameters
from danlu.training.forms import Filled, Form
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
    cu_N1: Tensor
    scale: Tensor
    loss: Tensor

    def load(self, filled: Filled) -> None:
        """A batch into the standing buffers, without waiting: it lies in pinned memory."""
        here, there = filled.batch, self.batch
        for source, target in (
            (here.ids_T, there.ids_T), (here.positions_T, there.positions_T), (here.rows_S, there.rows_S),
            (here.targets_S, there.targets_S), (filled.cu_N1, self.cu_N1),
        ):  # fmt: skip
            target.copy_(source, non_blocking=True)


class CannotRecordError(Exception):
    """Something in forward or backward cannot be part of a graph."""


class Graphs:
    """Recorded micro-batches of one training, by form; the least recently used goes first."""

    def __init__(self, model: Model, method: Method, flat: FlatParameters) -> None:
        self.model, self.method, self.flat = model, method, flat
        self._recorded: OrderedDict[Form, Recorded] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    @staticmethod
    def suits(model: Model, quick: QuickTrunk | None, method: Method, micro_tokens: int) -> bool:
        """Whether recording can be done, and pays."""
        if quick is None or model.device.type != "cuda" or method.kind not in METHODS:
            return False
        is_fixed = not any(rope.long_factors for rope in model.spec.ropes) and model.spec.attention_softcap is None
        is_here = all(policy.where == "device" for policy in quick.policies)
        return is_fixed and is_here and num_params(model) * micro_tokens < WORTH_IT

    def accumulate(self, filled: Filled, num_units: int) -> Tensor:
        """Add the gradients of Σ loss / num_units of this batch; returns Σ loss. Raises CannotRecordError, with the
        gradients as they were."""
        recorded = self._recorded.get(filled.form)
        if recorded is None:
            recorded = self._recorded[filled.form] = self._record(filled)
            if len(self._recorded) > MOST_GRAPHS:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(filled.form)
        recorded.load(filled)
        recorded.scale.fill_(1 / num_units)
        recorded.graph.replay()
        return recorded.loss.clone()

    def _record(self, filled: Filled) -> Recorded:
        device, form = self.model.device, filled.form
        batch, cu_N1 = filled.batch.to(device), filled.cu_N1.to(device)
        if not form.even_length:
            batch = replace(batch, bounds=filled.batch.bounds.standing(cu_N1, form.longest))
        recorded = Recorded(torch.cuda.CUDAGraph(), batch, cu_N1, torch.ones((), device=device), torch.empty(0))
        before = self.flat.grad.clone()
        try:
            self._warm_up(recorded)
            with torch.cuda.graph(recorded.graph, pool=self._pool, capture_error_mode="thread_local"):
                recorded.loss = self._compute(recorded)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise CannotRecordError(str(error).partition("\n")[0][:200]) from error
        finally:
            self.flat.grad.copy_(before)
        return recorded

    def _warm_up(self, recorded: Recorded) -> None:
        """Kernels are compiled and chosen, workspaces allocated."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._compute(recorded)
        torch.cuda.current_stream().wait_stream(stream)

    def _compute(self, recorded: Recorded) -> Tensor:
        loss = self.method.loss(self.model, recorded.batch).value
        (loss * recorded.scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
