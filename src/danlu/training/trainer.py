"""The training loop, the only one; what is learnt is the Method's business, what trains is the Adapter's.

`steps()` yields a Step after each optimizer update. A trainer whose folder holds a checkpoint goes on from it, to the
bit: a step's data and random numbers follow from (seed, number), everything else lies in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from danlu.adapters.adapter import Attached
from danlu.core.errors import TrainingError
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.data.dataset import Dataset
from danlu.model.decoder import Decoder
from danlu.model.model import Model
from danlu.ops.attention import news
from danlu.recipe.training import TrainingSection
from danlu.training import checkpoint
from danlu.training.batches import Batch, Items, ahead
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.quicken import quicken
from danlu.training.compiled import compile_blocks
from danlu.training.feed import Feed, Loaded
from danlu.training.identity import differing_keys, identify, identity_digest
from danlu.training.methods.method import Method, OnPolicy, Stage
from danlu.training.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norm,
    is_torn,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from danlu.training.passes import AskForLess, Passes
from danlu.training.plan import Plan, PlannedStep
from danlu.training.precision import Precision
from danlu.training.ranks import ALONE, Alone
from danlu.training.rollouts import Rollouts
from danlu.training.schedule import learning_rate
from danlu.training.step import Best, Step, badness


class Trainer:
    """Trains what `adapter` made trainable in `model`. `section` has its `lr` filled in (`recipe.defaults`).
    `policies`, one a layer, say what each keeps for its backward; without them every layer keeps everything, and a CPU
    computes the decoder as it is written. `ask_for_less` is asked for others where memory ends (`passes.py`). `ranks`
    are the processes that train this together (`ranks.py`)."""

    def __init__(
        self, model: Model, adapter: Attached, method: Method, dataset: Dataset,
        *, section: TrainingSection, folder: Path, progress: Progress | None = None,
        policies: Sequence[str] = (), ask_for_less: AskForLess | None = None, ranks: Alone = ALONE,
    ) -> None:  # fmt: skip
        assert section.lr is not None, "the recipe's defaults fill in the learning rate"
        self.model, self.adapter, self.method, self.dataset = model, adapter, method, dataset
        self.section, self.folder, self.progress, self.ranks = section, folder, progress or Silent(), ranks
        self._parts = [name for name in ("train", "validation") if name in dataset.names and len(dataset.part(name))]
        part = dataset.part("train")
        lengths, copies = method.expected_tokens(part) if isinstance(method, OnPolicy) else (part.lengths, 1)
        self.lr, self.micro_tokens = section.lr, self._fitting_micro_tokens(lengths)
        self.plan = Plan(
            lengths * copies, epochs=section.epochs, max_steps=section.max_steps,
            batch_tokens=section.batch_tokens, micro_tokens=self.micro_tokens, seed=section.seed,
        )  # fmt: skip
        self.eval_steps = max(1, round(section.eval_every * self.plan.steps_per_epoch))
        self.parameters = adapter.parameters()
        self.precision = Precision.of(model.device, adapter)
        self.quick = quicken(model, adapter, self.progress, is_asked=bool(policies))
        if self.quick and policies:
            self.quick.use([Policy.parse(name) for name in policies])
        self.optimizer = build_optimizer(
            self.parameters, lr=self.lr, weight_decay=section.weight_decay, betas=method.betas,
            kind=section.optimizer, is_flat=adapter.kind == "lora", in_backward=self._steps_in_backward(),
            has_masters=adapter.has_masters_apart, offload=adapter.offload,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=self.precision.is_scaled)
        self.number, self._saved_number = 0, -1
        self._best: Best | None = None
        self._has_stopped = self._needs_validation = self._is_torn = self._has_told_idle = False
        self.feed = Feed(
            dataset, self.plan, model.device, micro_tokens=self.micro_tokens, pad_to=self._pad_to, ranks=ranks
        )
        self.rollouts = Rollouts(model, method, self.feed, dataset, ranks) if isinstance(method, OnPolicy) else None
        self.passes = Passes(
            model, method, self.optimizer, self.scaler, self.precision, self.feed, self.quick,
            seed=section.seed, micro_tokens=self.micro_tokens, folder=folder, progress=self.progress,
            ask_for_less=ask_for_less,
        )  # fmt: skip
        if section.compile:
            compile_blocks(model)
        with ranks.in_turn():
            self._resume_or_begin()
        ranks.hold_equal(self.number, self.parameters, is_due=True, training=identity_digest(self._identity))

    # ---- the algorithm

    def steps(self) -> Iterator[Step]:
        """Train to the end, one Step after each update. Ctrl-C in here leaves a checkpoint of the last whole step."""
        is_whole = not self._is_torn and not is_torn(self.optimizer)
        assert is_whole, "an update was cut short in this process: build the trainer anew, it resumes"
        self.optimizer.zero_grad(set_to_none=True)  # of a step that was interrupted
        self._take_model()
        try:
            if self._needs_validation:
                self._judge()
            todo = iter(()) if self._has_stopped else self.feed.steps_after(self.number)
            with self.ranks.noticing_interrupts() as stop_if_asked, contextlib.closing(ahead(todo)) as upcoming:
                for loaded in upcoming:
                    stop_if_asked()
                    step = self._train_on(loaded)
                    self._tell_attention()
                    if self._needs_validation:
                        step = replace(step, validation=self._judge())
                    is_kept = bool(self.is_done or step.validation or self.number % self.section.save_every == 0)
                    self.ranks.hold_equal(self.number, self.parameters, is_due=is_kept)
                    if is_kept:
                        self.save()
                    yield step
                    if self.is_done:
                        break
            self.save()
            self.ranks.wait()  # what is saved is there, whoever looks for it
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            self._leave_model()

    def _take_model(self) -> None:
        """The quick form stands in for the model only while it is trained: nobody else refreshes it."""
        if self.quick:
            self.quick.refresh()
            self.quick.use(self.quick.policies)
            self.model.quick = self.quick

    def _leave_model(self) -> None:
        if self.model.quick is self.quick:
            self.model.quick, self.model.logits_bytes = None, None

    def _train_on(self, loaded: Loaded) -> Step:
        started = time.perf_counter()
        loaded, told = self.rollouts.answered(loaded) if self.rollouts else (loaded, {})
        planned, batches = loaded.planned, loaded.batches
        if not self.model.training:  # validation came between; the walk over all modules costs a millisecond
            self.model.train()
        counts = self._count(planned, batches)
        num_units = counts["units"]
        lr = learning_rate(
            self.number, self.plan.num_steps, peak=self.lr, schedule=self.section.schedule,
            warmup_ratio=self.section.warmup_ratio,
        )  # fmt: skip
        set_rate(self.optimizer, lr)  # before the backward, which may step
        sums = self.passes.run(loaded, num_units)
        self.ranks.add_gradients(self.parameters, self.optimizer)
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters, self.optimizer)
        facts = _fetch({"grad_norm": norm, **sums})
        grad_norm, facts = facts.pop("grad_norm"), self.ranks.add(facts)
        self._refuse_non_finite(planned, facts["loss"], grad_norm)
        self._update(norm)
        return Step(
            number=self.number,
            num_steps=self.plan.num_steps,
            epoch=planned.epoch,
            loss=facts.pop("loss") / num_units,
            lr=lr,
            grad_norm=grad_norm,
            num_tokens=counts["tokens"],
            num_supervised_tokens=counts["targets"],
            tokens_per_s=counts["tokens"] / (time.perf_counter() - started),
            metrics={name: value / num_units for name, value in facts.items()} | told,
        )

    def _update(self, norm: Tensor) -> None:
        """Clip, step, and forget the gradients."""
        clip_gradients(self.parameters, norm, self.section.clip, self.optimizer)
        self._is_torn = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.quick:
            self.quick.forget()
            self.quick.refresh()
        self.number += 1
        self._needs_validation = self._is_time_to_validate()
        self._is_torn = False
        self.optimizer.zero_grad(set_to_none=True)

    def _steps_in_backward(self) -> bool:
        """Full fine-tuning frees each gradient at once where nothing has to wait for the last one: no clipping, one
        piece a step, no loss scaling. The result is the same."""
        is_free = not self.section.clip and self.plan.is_whole and not self.precision.is_scaled
        is_free = is_free and self.ranks.size == 1  # others' gradients are added first
        return self.adapter.kind == "full" and self.model.device.type == "cuda" and is_free

    def _tell_attention(self) -> None:
        """Which kernels were chosen, once each is."""
        for sentence in news():
            self.progress.note(sentence)

    # ---- validation and stopping early

    def _is_time_to_validate(self) -> bool:
        is_due = self.number % self.eval_steps == 0 or self.number == self.plan.num_steps
        return is_due and "validation" in self._parts

    def _judge(self) -> dict[str, float]:
        """Validate, remember the best, and stop early after `patience` validations without a better one."""
        validation = self.validate()
        self._needs_validation = False
        if self._best is None or badness(validation) < self._best.loss:
            self._best = Best(self.number, badness(validation))
        else:
            self._best = replace(self._best, num_misses=self._best.num_misses + 1)
        if self.section.patience and self._best.num_misses >= self.section.patience:
            self._has_stopped = True
            self.progress.note(
                say("training.early_stop", patience=self.section.patience, number=self.number, best=self._best.number)
            )
        return validation

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss per unit, and the method's metrics, over the validation part; nothing is dropped out. Of a method that
        answers, what its likeliest answers earn."""
        self.model.eval()
        if self.rollouts:
            return self.rollouts.judged("validation")
        sums: dict[str, Tensor] = {}
        num_units = 0
        for batch in self.feed.one_pass("validation", is_shared=True):
            with self.precision.forward():
                loss = self.method.loss(self.model, batch)
            num_units += loss.num_units
            for name, value in {"loss": loss.value, **loss.metrics}.items():
                sums[name] = sums[name] + value if name in sums else value
        (num_units,) = self.ranks.add({"units": num_units}).values()
        return {name: value / max(1, num_units) for name, value in self.ranks.add(_fetch(sums)).items()}

    # ---- data

    @property
    def _pad_to(self) -> int:
        """Compiled code wants one shape; the quick form is not compiled, and foreign layers round up by themselves."""
        is_compiled = self.section.compile and self.quick is None and isinstance(self.model, Decoder)
        return self.micro_tokens if is_compiled else 0

    # ---- going on

    @property
    def is_done(self) -> bool:
        """All steps are done, or validation has stopped improving."""
        return self._has_stopped or self.number == self.plan.num_steps

    @property
    def last(self) -> Path | None:
        """The newest checkpoint's folder."""
        return checkpoint.find_last(self.folder)

    @property
    def best(self) -> Path | None:
        """The folder of the checkpoint with the lowest validation loss; the newest where nothing was validated."""
        return checkpoint.find_best(self.folder)

    def save(self) -> Path | None:
        """Write a checkpoint of the last whole step, unless it is there already. Interrupted in the middle of an update
        there is no whole step in memory; then the last checkpoint on disk stands."""
        if self._is_torn or is_torn(self.optimizer) or not self.ranks.is_first:
            return self.last
        if self._saved_number == self.number:
            self._prune()  # a kill may have come between the two
            return self.last
        has_moved = not (self.rollouts and self.adapter.is_fresh)  # else no answer was better than its group so far
        if self.number and (has_moved or self.is_done):
            self.adapter.check()
        state = {
            "has_stopped": self._has_stopped,
            "needs_validation": self._needs_validation,
            "best": asdict(self._best) if self._best else None,
            "scaler": self.scaler.state_dict(),
            "identity": self._identity,
            "num_threads": torch.get_num_threads(),
        }
        tensors: dict[str, Tensor] = {f"weight/{name}": weight for name, weight in self.parameters.items()}
        tensors |= optimizer_tensors(self.optimizer, self.parameters)
        place = checkpoint.write_checkpoint(self.folder, self.number, state, tensors, self.adapter.save)
        self._prune()
        self._saved_number = self.number
        return place

    def _prune(self) -> None:
        checkpoint.prune(self.folder, self._best.number if self._best else None)

    def _resume_or_begin(self) -> None:
        self.model.eval()
        self.adapter.settle()
        self._identity = identify(self.model, self.adapter, self.method, self.section, self.dataset.digest)
        found = checkpoint.read_newest(self.folder, self._note_damage)
        if found and (differing := differing_keys(found.state["identity"], self._identity)):
            raise TrainingError("training.other_run", where=str(found.folder), differing=listed(differing))
        self.method.begin(
            Stage(
                self.model, self.adapter, self.folder, identity_digest(self._identity),
                num_items={name: len(self.dataset.part(name)) for name in self._parts},
                batches=self.feed.one_pass, forward=self.precision.forward, progress=self.progress,
                is_resumed=found is not None,
            )
        )  # fmt: skip
        self.passes.settle(identity_digest(self._identity))
        if found:
            self._restore(found)

    @torch.no_grad()
    def _restore(self, found: checkpoint.Checkpoint) -> None:
        for name, weight in self.parameters.items():
            weight.copy_(found.tensors[f"weight/{name}"])
        if self.quick:
            self.quick.refresh()
        restore_optimizer(self.optimizer, self.parameters, found.tensors)
        self.scaler.load_state_dict(found.state["scaler"])
        self._best = Best(**found.state["best"]) if found.state["best"] else None
        self.number = self._saved_number = found.state["number"]
        self._has_stopped, self._needs_validation = found.state["has_stopped"], found.state["needs_validation"]
        if found.state["num_threads"] != torch.get_num_threads():
            self.progress.note(
                say("training.other_threads", then=found.state["num_threads"], now=torch.get_num_threads())
            )

    def _note_damage(self, name: str, reason: str) -> None:
        self.progress.note(say("training.checkpoint_damaged", checkpoint=name, reason=reason))

    # ---- refusals and remarks

    def _fitting_micro_tokens(self, lengths: Items) -> int:
        """What is computed at once: as the section says, or more where one item (a pair is one) needs it."""
        given = self.section.micro_tokens or max(self.section.batch_tokens, self.section.context)
        known = [lengths, *(self.dataset.part(name).lengths for name in self._parts if name != "train")]
        longest = max(int(some.max(initial=0)) for some in known)
        if longest > given:
            self.progress.note(say("training.micro_tokens_raised", given=given, now=longest))
        return max(given, longest)

    def _count(self, planned: PlannedStep, batches: list[Batch]) -> dict[str, int]:
        """Units, tokens and supervised tokens of the whole step, whoever computes them."""
        counts = self.ranks.add(
            {
                "units": sum(self.method.num_units(batch) for batch in batches),
                "tokens": sum(batch.num_tokens for batch in batches),
                "targets": sum(batch.num_targets for batch in batches),
                "ranks": int(bool(batches)),
            }
        )
        if counts["ranks"] < self.ranks.size and not self._has_told_idle:
            self._has_told_idle = True
            self.progress.note(say("ranks.idle", size=self.ranks.size))
        if not counts["units"]:
            raise TrainingError("training.no_targets", number=planned.number, rows=self.feed.origins(planned.pieces))
        return counts

    def _refuse_non_finite(self, planned: PlannedStep, loss: float, norm: float) -> None:
        """fp16 may overflow now and then: its scaler skips the update and scales less."""
        is_overflow = self.precision.is_scaled and math.isfinite(loss) and self.scaler.get_scale() > 1
        if is_overflow or (math.isfinite(loss) and math.isfinite(norm)):
            return
        rows = self.feed.origins(planned.pieces)
        raise TrainingError("training.not_finite", number=planned.number, loss=loss, norm=norm, rows=rows)


def _fetch(sums: dict[str, Tensor]) -> dict[str, float]:
    """Device scalars as numbers, in one copy: the only wait for the device in a step."""
    if not sums:
        return {}
    return dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))
