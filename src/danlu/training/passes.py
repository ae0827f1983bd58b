"""One step's forward and backward: the gradients of its mean loss, however they have to be computed.

As recorded graphs where that pays; in pieces; and where memory ends, the same batch once more with layers keeping less
(the planner's next choice, or one rung down), then with fewer items at once. The loss is the same each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from danlu.core.errors import TrainingError
from danlu.core.messages import say
from danlu.core.progress import Progress
from danlu.model.model import Model
from danlu.training.batches import Batch
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.trunk import QuickTrunk, describe
from danlu.training.feed import Feed, Loaded
from danlu.training.flat import FlatAdamW
from danlu.training.forms import Filled
from danlu.training.graphs import CannotRecordError, Graphs
from danlu.training.lean import LeanAdamW
from danlu.training.methods.method import Method
from danlu.training.optim import is_torn
from danlu.training.precision import Precision
from danlu.training.thrift import Setting, Thrift, read_thrift, write_thrift

AskForLess = Callable[[Sequence[str]], Sequence[str] | None]
"""From the policies with which memory ended to the next ones worth trying, or None."""


class Passes:
    """`ask_for_less`, where given, knows which layers should keep what once memory has ended."""

    def __init__(
        self, model: Model, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
        precision: Precision, feed: Feed, quick: QuickTrunk | None,
        *, seed: int, micro_tokens: int, folder: Path, progress: Progress, ask_for_less: AskForLess | None,
    ) -> None:  # fmt: skip
        self.model, self.method, self.optimizer, self.scaler = model, method, optimizer, scaler
        self.precision, self.feed, self.quick, self.progress = precision, feed, quick, progress
        self._seed, self._folder, self._ask_for_less = seed, folder, ask_for_less
        self._setting: Setting | None = None
        self.graphs = self._build_graphs(micro_tokens)
        feed.has_forms = self.graphs is not None

    def _build_graphs(self, micro_tokens: int) -> Graphs | None:
        """Recorded micro-batches, where launching them one by one would take longer than they run."""
        if not isinstance(self.optimizer, FlatAdamW) or self.precision.is_scaled:
            return None
        is_worth_it = Graphs.suits(self.model, self.quick, self.method, micro_tokens)
        return Graphs(self.model, self.method, self.optimizer.flat) if is_worth_it else None

    def settle(self, training: str) -> None:
        """Begin, or go on, with what memory has taught this training here."""
        planned = self._policies
        self._setting = Setting.of(training, self.model.device, planned)
        thrift = read_thrift(self._folder, self._setting)
        if thrift is None:
            return
        self.feed.most_items = thrift.most_items
        if thrift.most_items:
            self.progress.note(say("training.kept_small", after=thrift.most_items))
        if thrift.keeps_gradients:
            self._keep_gradients()
        if self.quick and len(thrift.policies) == len(planned) and thrift.policies != planned:
            before = describe(self.quick.policies)
            self.quick.use([Policy.parse(name) for name in thrift.policies])
            self.progress.note(say("training.kept_lean", before=before, after=describe(self.quick.policies)))
        if thrift.most_items or thrift.policies != planned:
            self.graphs, self.feed.has_forms = None, False

    @property
    def _policies(self) -> tuple[str, ...]:
        return tuple(policy.name for policy in self.quick.policies) if self.quick else ()

    # ---- a step

    def run(self, loaded: Loaded, num_units: int) -> dict[str, Tensor]:
        """The step's gradients, and its sums of loss and metrics, still on the device. Where memory ends, blocks keep
        less and the same batch is computed again."""
        batches, filled = self.feed.cut(loaded.batches), loaded.filled
        while True:
            is_short = is_half_done = False
            try:
                if self.graphs is not None and filled:
                    return self._replay(self.graphs, batches, filled, num_units)
                return self.accumulate(batches, num_units, loaded.planned.number)
            except CannotRecordError as error:
                self.progress.note(say("training.not_recorded", reason=str(error)))
            except torch.OutOfMemoryError:
                is_short, is_half_done = True, is_torn(self.optimizer)
            # Outside the clauses: the error's frames hold what did not fit.
            self.graphs, self.feed.has_forms = None, False
            if is_half_done:
                self._refuse_half_a_step(loaded.planned.number, batches)
            if self.quick:
                self.quick.forget()
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if is_short:
                batches = self._leaner(batches)

    def accumulate(self, batches: Sequence[Batch], num_units: int, number: int) -> dict[str, Tensor]:
        """Add up gradients of the mean loss over all units of step `number`, however many pieces they come in."""
        sums: dict[str, Tensor] = {}
        piece = -1
        for batch in batches:
            if batch.piece != piece:  # whoever computes a piece drops the same out of it
                piece = batch.piece
                _set_seed(_seed_of(self._seed, number, piece), self.model.device)
            if not self.method.num_units(batch):
                continue
            with self.precision.forward():
                loss = self.method.loss(self.model, batch.to(self.model.device))
            self.scaler.scale(loss.value / num_units).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.value.detach(), **loss.metrics}.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _replay(self, graphs: Graphs, batches: list[Batch], filled: list[Filled], num_units: int) -> dict[str, Tensor]:
        """`accumulate` by recorded graphs."""
        losses = [
            graphs.accumulate(form, num_units)
            for batch, form in zip(batches, filled, strict=True)
            if self.method.num_units(batch)
        ]
        return {"loss": torch.stack(losses).sum()} if losses else {}

    # ---- where memory ends

    def _leaner(self, batches: list[Batch]) -> list[Batch]:
        """The same batches, once memory has ended: layers keep less, and when they keep nothing more, fewer items are
        computed at once. Says and writes down what it changed."""
        if told := self._keep_less():
            self.progress.note(say("training.stepped_down", before=told[0], after=told[1]))
            self._write_down()
            return batches
        before = max(len(batch.items) for batch in batches)
        halves = self._halves(batches)
        self.progress.note(say("training.smaller_pieces", before=before, after=self.feed.most_items))
        if self._keep_gradients():
            self.progress.note(say("training.gradients_kept"))
        self._write_down()
        return halves

    def _keep_less(self) -> tuple[str, str] | None:
        """(what layers kept, what they keep now); None where nothing is left to give up."""
        if self.quick is None:
            return None
        asked = self._ask_for_less(self._policies) if self._ask_for_less else None
        if asked is None or tuple(asked) == self._policies:
            return self.quick.step_down()
        before = describe(self.quick.policies)
        self.quick.use([Policy.parse(name) for name in asked])
        return before, describe(self.quick.policies)

    def _halves(self, batches: list[Batch]) -> list[Batch]:
        halves = self.feed.halve(batches)
        if halves is None:
            raise TrainingError("training.item_too_big", rows=self.feed.origins_of(batches))
        return halves

    def _keep_gradients(self) -> bool:
        """Gradients that are applied within the backward cannot be added up over pieces: keep them until the step.
        Whether that is a change."""
        if not isinstance(self.optimizer, LeanAdamW) or not self.optimizer.in_backward:
            return False
        self.optimizer.keep_gradients()
        return True

    def _refuse_half_a_step(self, number: int, batches: list[Batch]) -> None:
        """Some weights have taken the step and others not: it cannot be computed again here, but from the last
        checkpoint on, in smaller pieces."""
        self._halves(batches)
        assert self._setting is not None, "settled before the first step"
        write_thrift(self._folder, self._setting, Thrift(self._policies, self.feed.most_items, keeps_gradients=True))
        raise TrainingError("training.half_a_step", number=number, after=self.feed.most_items)

    def _write_down(self) -> None:
        assert self._setting is not None, "settled before the first step"
        keeps = isinstance(self.optimizer, LeanAdamW) and not self.optimizer.in_backward
        write_thrift(self._folder, self._setting, Thrift(self._policies, self.feed.most_items, keeps))


def _set_seed(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the two generators that are used here: for every other kind of device it takes a stack
    trace, a millisecond a step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _seed_of(seed: int, number: int, piece: int) -> int:
    """The seed of the random numbers of one piece of a step, so that dropout needs no saved state."""
    return (seed * 1_000_003 + number + piece * 1_000_000_007) % 2**63
