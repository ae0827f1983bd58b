"""train: dataset in, checkpoints out, stage after stage. A finished stage is reused, an interrupted one goes on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.adapters.adapter import Attached
from danlu.adapters.full import Full
from danlu.adapters.lora import AttachedLoRA, LoRA
from danlu.core.files import read_json, sha256_json, write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.dataset import Dataset
from danlu.model.model import Model
from danlu.model.quantized import num_params
from danlu.pipeline.check_exports import refuse_unservable
from danlu.pipeline.device import choose_device, remarks_on, saying_when_memory_ends
from danlu.pipeline.loading import load_base
from danlu.pipeline.plan_training import keep_plan, kept_micro_tokens, plan_training
from danlu.pipeline.prepare import Prepared, prepare
from danlu.pipeline.shares import replay_shares
from danlu.planning.plan import Plan, leaner
from danlu.planning.policy import ORDER, Mix
from danlu.planning.why import reasons
from danlu.recipe.adapter import FullSection, LoRASection
from danlu.recipe.later import counted
from danlu.recipe.method import DPOSection, MethodSection, PretrainSection, SFTSection, StageSection
from danlu.recipe.training import TrainingSection
from danlu.run.run import Run
from danlu.training.blocks.trunk import why_not
from danlu.training.checkpoint import STATE, find_best, find_last, load_trained
from danlu.training.methods.dpo import DPO
from danlu.training.methods.method import Method
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.passes import AskForLess
from danlu.training.trainer import Step, Trainer


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished stage: `folder` is the checkpoint to ship (the best by validation loss), `facts` its figures."""

    name: str
    folder: Path
    facts: dict[str, Any]


def train(
    run: Run, prepared: Prepared | None = None, *, device: str = "auto", progress: Progress | None = None
) -> list[Trained]:
    """Train every stage of the run's recipe; returns them in order, the last one being what the run is about."""
    progress = progress or Silent()
    prepared = prepared or prepare(run, progress=progress)
    done: list[Trained] = []
    with run.acting("train"):
        stages = list(zip(run.recipe.plan_stages(), prepared.stages, strict=True))
        inputs = ""
        desk: _Desk | None = None
        for stage, data in stages:
            inputs = sha256_json([inputs, data.digest, counted(stage.model_dump(mode="json")), _fixed_part(run)])
            name = data.name
            outcome = _finished(run, name, inputs)
            if outcome is None:
                if desk is None:
                    desk = _Desk(run, device, progress)
                    refuse_unservable(run.recipe, desk.model.folder, progress)
                _make_room(run, name, inputs, progress)
                with saying_when_memory_ends(f"training ({name})"):
                    outcome = desk.train_stage(name, stage, data.dataset, done[-1].folder if done else None)
                run.finish(f"train-{name}", inputs, outcome)
            done.append(Trained(name, run.path(outcome["folder"]), outcome))
    return done


def _finished(run: Run, name: str, inputs: str) -> dict[str, Any] | None:
    """A finished stage's facts, if its checkpoint is still there."""
    outcome = run.finished(f"train-{name}", inputs)
    return outcome if outcome and run.path(outcome["folder"], STATE).is_file() else None


def _make_room(run: Run, name: str, inputs: str, progress: Progress) -> None:
    """Checkpoints of other data or other knobs are no beginning of this training: they make room for it."""
    folder, mark = run.path("checkpoints", name), run.path("checkpoints", f"{name}.json")
    run.forget(f"train-{name}")
    try:
        is_same = read_json(mark) == {"inputs": inputs}
    except (FileNotFoundError, orjson.JSONDecodeError):
        is_same = not folder.exists()
    if not is_same:
        progress.note(say("pipeline.trained_anew", stage=name))
        shutil.rmtree(folder, ignore_errors=True)
    write_json(mark, {"inputs": inputs})


def _fixed_part(run: Run) -> Any:
    chapters = {"model": run.recipe.model, "adapter": run.recipe.adapter}
    return [counted(section.model_dump(mode="json"), prefix=f"{name}.") for name, section in chapters.items()]


class _Desk:
    """The model and its adapter while stages are trained on them, one after the other."""

    def __init__(self, run: Run, device: str, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.seed = run.recipe.training.seed
        self.device = choose_device(device)
        for remark in remarks_on(self.device):
            progress.note(remark)
        self.model: Model = load_base(run.recipe.model, seed=self.seed, device=self.device, progress=progress)
        self.attached: Attached | None = None

    def train_stage(self, name: str, stage: StageSection, dataset: Dataset, start: Path | None) -> dict[str, Any]:
        """Train one stage from what the last one left (`start`), and load its best weights back for the next."""
        attached = self.attached or self._attach(start)
        folder = self.run.path("checkpoints", name)
        method = build_method(stage.method)
        section, policies, planned = self._plan(name, stage, dataset, attached)
        trainer = Trainer(
            self.model, attached, method, dataset,
            section=section, folder=folder, progress=self.progress, policies=policies,
            ask_for_less=_planner_of(planned) if planned else None,
        )  # fmt: skip
        self._tell_begin(name, trainer, attached)
        last = self._run_steps(name, trainer)
        best, newest = find_best(folder), find_last(folder)
        assert best is not None and newest is not None, "a finished stage has a checkpoint"
        self.attached = attached if best == newest else self._go_back(attached, best)
        record = read_json(newest / STATE)["best"] or {"number": trainer.number, "loss": None}
        return {
            "folder": best.relative_to(self.run.folder).as_posix(),
            "best_step": record["number"],
            "num_steps": trainer.number,
            "validation_loss": record["loss"],
            "train_loss": last.loss if last else None,
            "base_digest": self.model.digest,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "num_trainable": sum(p.numel() for p in attached.parameters().values()),
            "num_params": num_params(self.model),
        }

    def _plan(
        self, name: str, stage: StageSection, dataset: Dataset, attached: Attached
    ) -> tuple[TrainingSection, tuple[str, ...], Plan | None]:
        """(the stage's numbers with tokens at once filled in, what each layer keeps, the plan that says so), as the
        device's memory allows. A stage that was interrupted goes on with the tokens it began with, whatever the device:
        they decide which items share a piece."""
        section = stage.training
        index = self.run.recipe.plan_stages().index(stage)
        before = kept_micro_tokens(self.run, name)
        planned = plan_training(
            self.run.recipe, index, dataset, self.model.config, device=self.device, micro_tokens=before,
            has_quick_form=why_not(self.model, attached) is None,
        )  # fmt: skip
        if planned is None:
            return section.model_copy(update={"micro_tokens": before or section.micro_tokens}), (), None
        keep_plan(self.run, name, planned)
        for sentence in reasons(planned):
            self.progress.note(sentence)
        policies = () if set(planned.policies) == {"all"} else planned.policies  # nothing to ask for
        return section.model_copy(update={"micro_tokens": before or planned.work.micro_tokens}), policies, planned

    def _attach(self, start: Path | None) -> Attached:
        section = self.run.recipe.adapter
        if start is not None:
            if not isinstance(section, FullSection):
                return load_trained(start, self.model)
            return load_trained(start, self.model, masters=section.masters, offload=section.offload)
        if isinstance(section, LoRASection) and section.start is not None:
            return load_trained(Path(section.start), self.model)
        return build_adapter(section, self.seed).attach(self.model)

    def _go_back(self, attached: Attached, best: Path) -> Attached:
        """The next stage starts from the best weights, not from the last ones."""
        if isinstance(attached, AttachedLoRA):
            attached.detach()
        return load_trained(best, self.model)

    def _tell_begin(self, name: str, trainer: Trainer, attached: Attached) -> None:
        trainable = sum(p.numel() for p in attached.parameters().values())
        whole = num_params(self.model)
        self.run.events.append("stage", stage=name, num_steps=trainer.plan.num_steps, num_trainable=trainable)
        self.progress.note(
            say("pipeline.stage", stage=name, steps=trainer.plan.num_steps, trainable=f"{trainable:,}",
                ratio=f"{trainable / whole:.2%}", device=str(self.model.device), dtype=str(self.model.dtype)[6:])
        )  # fmt: skip
        for remark in _remarks_on_offload(attached):
            self.progress.note(remark)
        if trainer.number:
            self.progress.note(say("pipeline.resumed", number=trainer.number))

    def _run_steps(self, name: str, trainer: Trainer) -> Step | None:
        last = None
        self.progress.start(say("pipeline.training", stage=name), trainer.plan.num_steps)
        self.progress.advance(trainer.number)
        seen_validation: float | None = None
        shares = replay_shares(trainer.dataset, trainer.plan, trainer.number)
        for last in trainer.steps():
            self.run.events.append("step", stage=name, **_step_facts(last), **next(shares, {}))
            if last.validation:
                seen_validation = last.validation["loss"]
            self.progress.advance(
                loss=round(last.loss, 4), validation=seen_validation, tokens_per_s=last.tokens_per_s, lr=last.lr
            )
        self.progress.finish()
        return last


def _planner_of(planned: Plan) -> AskForLess:
    """What the planner would have chosen for less memory, asked where memory ends."""

    def ask(policies: Sequence[str]) -> tuple[str, ...] | None:
        found = leaner(planned, Mix.counted({name: list(policies).count(name) for name in ORDER}))
        return found.policies if found else None

    return ask


def _remarks_on_offload(attached: Attached) -> list[str]:
    """What was asked for and brings nothing here."""
    if attached.offload == "none":
        return []
    if attached.model.device.type == "cpu":
        return [say("training.offload_on_cpu", given=attached.offload)]
    if attached.offload == "masters" and not attached.has_masters_apart:
        return [say("training.offload_nothing", dtype=str(attached.compute_dtype).removeprefix("torch."))]
    return []


def _step_facts(step: Step) -> dict[str, Any]:
    facts = {name: getattr(step, name) for name in Step.__dataclass_fields__}
    return {name: value for name, value in facts.items() if value not in (None, {})}


def build_adapter(section: LoRASection | FullSection, seed: int) -> LoRA | Full:
    """A section as an adapter."""
    if isinstance(section, FullSection):
        return Full(section.masters, section.offload)
    return LoRA(
        rank=section.rank, alpha=section.alpha, dropout=section.dropout, targets=section.targets,
        rslora=section.rslora, seed=seed,
    )  # fmt: skip


def build_method(section: MethodSection) -> Method:
    """A section as a method."""
    match section:
        case PretrainSection():
            return Pretrain()
        case SFTSection():
            return SFT()
        case DPOSection():
            return DPO(beta=section.beta, label_smoothing=section.label_smoothing)
