"""train: dataset in, checkpoints out, stage after stage. A finished stage is reused, an interrupted one goes on.

Where several cards train, a process a card does what stands here (`start_ranks.py`, `rank.py`): the first as if it were
alone, the others what it orders; then the run is found trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.adapters.adapter import Attached
from danlu.adapters.full import Full
from danlu.adapters.lora import AttachedLoRA, LoRA
from danlu.adapters.prefix import AttachedPrefix, PrefixTuning
from danlu.core.files import read_json, sha256_json, write_json
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.data.encode import Encoder
from danlu.model.classifier import Classifier
from danlu.model.model import Model
from danlu.model.quantized import num_params
from danlu.pipeline.base import open_base
from danlu.pipeline.check_exports import refuse_unservable
from danlu.pipeline.device import choose_device, remarks_on, saying_when_memory_ends
from danlu.pipeline.encoders import class_contract_of
from danlu.pipeline.loading import load_base
from danlu.pipeline.plan_training import keep_plan, kept_micro_tokens, plan_training
from danlu.pipeline.prepare import Prepared, StageData, prepare
from danlu.pipeline.rewards import Rewards
from danlu.pipeline.shares import replay_shares
from danlu.pipeline.start_ranks import count_ranks, start_ranks
from danlu.planning.plan import Plan, leaner
from danlu.planning.policy import ORDER, Mix
from danlu.planning.why import reasons
from danlu.recipe.adapter import AdapterSection, FullSection, LoRASection, PrefixSection
from danlu.recipe.later import counted
from danlu.recipe.method import (
    ClassifySection,
    DPOSection,
    GRPOSection,
    MethodSection,
    PretrainSection,
    SFTSection,
)
from danlu.recipe.training import TrainingSection
from danlu.run.run import Run
from danlu.training.blocks.trunk import why_not
from danlu.training.checkpoint import STATE, load_trained
from danlu.training.methods.classify import Classify
from danlu.training.methods.dpo import DPO
from danlu.training.methods.grpo import GRPO, Ask
from danlu.training.methods.method import Method
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.passes import AskForLess
from danlu.training.ranks import ALONE, Alone
from danlu.training.step import Step
from danlu.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished stage: `folder` is the checkpoint to ship (the best by validation loss), `facts` its figures."""

    name: str
    folder: Path
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What the first rank has decided about a stage and the others follow: `index` among the run's stages, the
    checkpoint to start from, the plan."""

    index: int
    start: Path | None
    section: TrainingSection
    policies: tuple[str, ...]
    planned: Plan | None


def train(
    run: Run, prepared: Prepared | None = None, *, device: str = "auto", progress: Progress | None = None
) -> list[Trained]:
    """Train every stage of the run's recipe; returns them in order, the last one being what the run is about."""
    progress = progress or Silent()
    prepared = prepared or prepare(run, progress=progress)
    num_ranks = count_ranks(run.recipe.training.devices, device)
    with run.acting("train"):
        if num_ranks > 1 and any(_finished(run, *one) is None for one in _todo(run, prepared.stages)):
            start_ranks(run, num_ranks, device=device, progress=progress)
        return train_stages(run, prepared.stages, device=device, progress=progress)


def train_stages(
    run: Run, stages: Sequence[StageData], *, device: str, progress: Progress, ranks: Alone = ALONE
) -> list[Trained]:
    """`train` by one process: alone, or as the first of its ranks. The run is held by whoever asks."""
    done: list[Trained] = []
    desk: _Desk | None = None
    for index, (data, (name, inputs)) in enumerate(zip(stages, _todo(run, stages), strict=True)):
        outcome = _finished(run, name, inputs)
        if outcome is None:
            if desk is None:
                desk = _Desk(run, device, progress, ranks)
                refuse_unservable(run.recipe, desk.model.folder, progress)
            _make_room(run, name, inputs, progress)
            with saying_when_memory_ends(f"training ({name})"):
                outcome = desk.train_stage(index, data, done[-1].folder if done else None)
            run.finish(f"train-{name}", inputs, outcome)
        done.append(Trained(name, run.path(outcome["folder"]), outcome))
    nothing_more: Order | None = None
    ranks.from_first(nothing_more)
    return done


def follow_orders(run: Run, stages: Sequence[StageData], *, device: str, ranks: Alone) -> None:
    """`train_stages` by every rank but the first: train what it orders, and write nothing."""
    desk = _Desk(run, device, Silent(), ranks)
    order: Order | None = None
    while (order := ranks.from_first(order)) is not None:
        data = stages[order.index]
        with saying_when_memory_ends(f"training ({data.name}, rank {ranks.index})"):
            desk.follow(order, data)


def _todo(run: Run, stages: Sequence[StageData]) -> Iterator[tuple[str, str]]:
    """(name, digest of all it stands on) of each stage."""
    inputs = ""
    for stage, data in zip(run.recipe.plan_stages(), stages, strict=True):
        inputs = sha256_json([inputs, data.digest, counted(stage.model_dump(mode="json")), _fixed_part(run)])
        yield data.name, inputs


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

    def __init__(self, run: Run, device: str, progress: Progress, ranks: Alone = ALONE) -> None:
        self.run, self.progress, self.ranks = run, progress, ranks
        self.seed = run.recipe.training.seed
        self.device = choose_device(device)
        for remark in remarks_on(self.device):
            progress.note(remark)
        self.model: Model = load_base(
            run.recipe.model, seed=self.seed, device=self.device, progress=progress, classes=class_contract_of(run)
        )
        for remark in _remarks_on_head(self.model) if run.recipe.model.init != "random" else ():
            progress.note(remark)
        self.attached: Attached | None = None

    def train_stage(self, index: int, data: StageData, start: Path | None) -> dict[str, Any]:
        """Train one stage from what the last one left (`start`), and load its best weights back for the next."""
        attached = self.attached = self.attached or self._attach(start)
        order = self.ranks.from_first(Order(index, start, *self._plan(index, data, attached)))
        trainer = self._build_trainer(order, data, attached)
        self._tell_begin(data.name, trainer, attached)
        last = self._run_steps(data.name, trainer)
        best, newest = self._keep_best(trainer)
        record = read_json(newest / STATE)["best"] or {"number": trainer.number, "loss": None}
        return {
            "folder": best.relative_to(self.run.folder).as_posix(),
            "best_step": record["number"],
            "num_steps": trainer.number,
            **_outcome(record["loss"], last, is_rewarded=trainer.rollouts is not None),
            "base_digest": self.model.digest,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "num_trainable": sum(p.numel() for p in attached.parameters().values()),
            "num_params": num_params(self.model),
        }

    def follow(self, order: Order, data: StageData) -> None:
        """Train one stage as ordered, in silence."""
        attached = self.attached = self.attached or self._attach(order.start)
        trainer = self._build_trainer(order, data, attached)
        for _ in trainer.steps():
            pass
        self._keep_best(trainer)

    def _build_trainer(self, order: Order, data: StageData, attached: Attached) -> Trainer:
        stage = self.run.recipe.plan_stages()[order.index]
        method = build_method(stage.method, lambda section: self._build_rewards(section, data, attached))
        return Trainer(
            self.model, attached, method, data.dataset,
            section=order.section, folder=self.run.path("checkpoints", data.name), progress=self.progress,
            policies=order.policies, ask_for_less=_planner_of(order.planned) if order.planned else None,
            ranks=self.ranks,
        )  # fmt: skip

    def _build_rewards(self, section: GRPOSection, data: StageData, attached: Attached) -> Rewards:
        base = open_base(self.run.recipe.model, progress=self.progress)
        encoder = Encoder(base.tokenizer, base.template)
        rewards = Rewards(self.model, attached, encoder, data.dataset, section, seed=self.seed)
        for remark in rewards.remarks():
            self.progress.note(remark)
        return rewards

    def _keep_best(self, trainer: Trainer) -> tuple[Path, Path]:
        """(the best checkpoint, the newest) of a finished stage; its weights are those of the best one now."""
        best, newest = trainer.best, trainer.last
        assert best is not None and newest is not None, "a finished stage has a checkpoint"
        assert self.attached is not None, "attached before it was trained"
        if best != newest:
            self.attached = self._go_back(self.attached, best)
        return best, newest

    def _plan(
        self, index: int, data: StageData, attached: Attached
    ) -> tuple[TrainingSection, tuple[str, ...], Plan | None]:
        """(the stage's numbers with tokens at once filled in, what each layer keeps, the plan that says so), as the
        device's memory allows. A stage that was interrupted goes on with the tokens it began with, whatever the device:
        they decide which items share a piece."""
        section = self.run.recipe.plan_stages()[index].training
        before = kept_micro_tokens(self.run, data.name)
        planned = plan_training(
            self.run.recipe, index, data.dataset, self.model.config, device=self.device, micro_tokens=before,
            has_quick_form=why_not(self.model, attached) is None, num_ranks=self.ranks.size,
        )  # fmt: skip
        if planned is None:
            return section.model_copy(update={"micro_tokens": before or section.micro_tokens}), (), None
        keep_plan(self.run, data.name, planned)
        for sentence in reasons(planned):
            self.progress.note(sentence)
        policies = () if set(planned.policies) == {"all"} else planned.policies  # nothing to ask for
        return section.model_copy(update={"micro_tokens": before or planned.work.micro_tokens}), policies, planned

    def _attach(self, start: Path | None) -> Attached:
        section = self.run.recipe.adapter
        if start is not None:
            if not isinstance(section, FullSection):
                return load_trained(start, self.model)
            return load_trained(start, self.model, full=Full(section.masters, section.offload, section.layers))
        if isinstance(section, LoRASection) and section.start is not None:
            return load_trained(Path(section.start), self.model)
        return build_adapter(section, self.seed).attach(self.model)

    def _go_back(self, attached: Attached, best: Path) -> Attached:
        """The next stage starts from the best weights, not from the last ones."""
        if isinstance(attached, AttachedLoRA | AttachedPrefix):
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
        seen: dict[str, float] = {}
        shares = replay_shares(trainer.dataset, trainer.plan, trainer.number)
        for last in trainer.steps():
            self.run.events.append("step", stage=name, **_step_facts(last), **next(shares, {}))
            if last.validation:
                seen = _measure(last.validation, "validation")
            facts: dict[str, Any] = _measure(last.metrics | {"loss": last.loss}) | seen
            self.progress.advance(**facts, tokens_per_s=last.tokens_per_s, lr=last.lr)
        self.progress.finish()
        return last


def _outcome(best: float | None, last: Step | None, *, is_rewarded: bool) -> dict[str, float | None]:
    """The best validation and the last step, as losses or, where answers are rewarded, as rewards besides."""
    told: dict[str, float | None] = {"validation_loss": best, "train_loss": last.loss if last else None}
    if is_rewarded:
        told["validation_loss"] = None
        told["validation_reward"] = None if best is None else -best
        told["train_reward"] = last.metrics["reward"] if last else None
    return told


def _planner_of(planned: Plan) -> AskForLess:
    """What the planner would have chosen for less memory, asked where memory ends."""

    def ask(policies: Sequence[str]) -> tuple[str, ...] | None:
        found = leaner(planned, Mix.counted({name: list(policies).count(name) for name in ORDER}))
        return found.policies if found else None

    return ask


def _remarks_on_head(model: Model) -> list[str]:
    """What of an encoder is not as its checkpoint has it before anything is trained."""
    if not isinstance(model, Classifier):
        return []
    if model.replaced:
        return [say("pipeline.other_classes", given=listed(model.replaced))]
    return [say("pipeline.begun_anew", parts=listed(model.begun))] if model.begun else []


def _remarks_on_offload(attached: Attached) -> list[str]:
    """What was asked for and brings nothing here."""
    if attached.offload == "none":
        return []
    if attached.model.device.type == "cpu":
        return [say("training.offload_on_cpu", given=attached.offload)]
    if attached.offload == "masters" and not attached.has_masters_apart:
        return [say("training.offload_nothing", dtype=str(attached.compute_dtype).removeprefix("torch."))]
    return []


def _measure(figures: Mapping[str, float], part: str = "") -> dict[str, float]:
    """What tells how it goes, by the name it is shown under: the loss, or what answers earned."""
    if "reward" in figures:
        return {f"{part}_reward".lstrip("_"): round(figures["reward"], 4)}
    return {part or "loss": round(figures["loss"], 4)}


def _step_facts(step: Step) -> dict[str, Any]:
    facts = {name: getattr(step, name) for name in Step.__dataclass_fields__}
    return {name: value for name, value in facts.items() if value not in (None, {})}


def build_adapter(section: AdapterSection, seed: int) -> LoRA | Full | PrefixTuning:
    """A section as an adapter."""
    if isinstance(section, PrefixSection):
        return PrefixTuning(section.num_tokens, seed)
    if isinstance(section, FullSection):
        return Full(section.masters, section.offload, section.layers)
    return LoRA(
        rank=section.rank, alpha=section.alpha, dropout=section.dropout, targets=section.targets,
        layers=section.layers, rslora=section.rslora, dora=section.dora, seed=seed,
    )  # fmt: skip


def build_method(section: MethodSection, rewards: Callable[[GRPOSection], Ask]) -> Method:
    """A section as a method; `rewards` is asked for who answers and judges, where a method wants that."""
    match section:
        case PretrainSection():
            return Pretrain()
        case SFTSection():
            return SFT()
        case DPOSection():
            return DPO(beta=section.beta, label_smoothing=section.label_smoothing)
        case GRPOSection():
            return GRPO(
                rewards(section), section.rewards, group=section.group, max_new_tokens=section.max_new_tokens,
                temperature=section.temperature, beta=section.beta,
            )  # fmt: skip
        case ClassifySection():
            return Classify()
