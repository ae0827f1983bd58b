"""Engines for what a run trained, or for an artefact: template contract checked first, then weights loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.adapters.adapter import Attached
from danlu.adapters.load import load_trained
from danlu.core.errors import ExportError, RunError, TemplateError
from danlu.core.files import sha256_json
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.data.classes import LabelEncoder, contract_again, label_encoder
from danlu.data.contract import Contract, make_contract
from danlu.data.encode import Encoder
from danlu.engines.classes import ClassEngine
from danlu.engines.native import NativeEngine
from danlu.exports.export import Facts, check_base
from danlu.exports.replay import replay
from danlu.exports.usage import nature_of
from danlu.exports.verify import unproven, verify
from danlu.model.classifier import Classifier
from danlu.model.model import Model
from danlu.model.quantized import keep_dequantized_if_room
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.device import choose_device, free_memory_bytes
from danlu.pipeline.loading import load_base
from danlu.recipe.adapter import FullSection
from danlu.recipe.model import ModelSection
from danlu.run.kept import read_kept
from danlu.run.run import Run
from danlu.training.checkpoint import STATE


@dataclass(frozen=True, slots=True)
class Engines:
    """The untouched base and the tuned model, answering through the same template. Beside an adapter they share
    one set of weights."""

    base: NativeEngine
    tuned: NativeEngine
    encoder: Encoder
    source: Base


def open_engines(
    run: Run,
    *,
    checkpoint: Path | None = None,
    device: str = "auto",
    is_whole: bool = False,
    progress: Progress | None = None,
) -> Engines:
    """Both engines of a trained run; `checkpoint` is the last stage's unless another is named. `is_whole` leaves the
    base unquantised, whatever it was trained on: what merging needs.

    TemplateError when today's template is not the one that was trained.
    """
    progress = progress or Silent()
    section = run.recipe.model.model_copy(update={"quantize": "none"}) if is_whole else run.recipe.model
    base = open_base(section, progress=progress)
    contract = check_contract(run, base)
    encoder = _encoder(base, contract)
    classes = contract if base.reach is not None else None
    checkpoint = checkpoint or last_checkpoint(run)
    progress.note(say("pipeline.loading", name=section.base))
    chosen = choose_device(device)
    seed = run.recipe.training.seed
    model = load_base(section, seed=seed, device=chosen, progress=progress, classes=classes)
    keep_dequantized_if_room(model, free_memory_bytes(chosen) // 4)  # answering reads every weight for each token
    if not isinstance(run.recipe.adapter, FullSection):
        tuned = NativeEngine(model, encoder, name=run.recipe.name, adapter=load_trained(checkpoint, model))
        return Engines(tuned.base(base_name(run)), tuned, encoder, base)
    trained = load_base(section, seed=seed, device=chosen, progress=progress, classes=classes)
    attached = load_trained(checkpoint, trained, to_train=False)
    return Engines(
        _engine(model, encoder, base_name(run)), _engine(trained, encoder, run.recipe.name, attached), encoder, base
    )


def _engine(model: Model, encoder: Encoder, name: str, adapter: Attached | None = None) -> NativeEngine:
    if isinstance(model, Classifier):
        assert isinstance(encoder, LabelEncoder), "an encoder's contract speaks of classes"
        return ClassEngine(model, encoder, name=name, adapter=adapter)
    return NativeEngine(model, encoder, name=name, adapter=adapter)


def base_name(run: Run) -> str:
    """What reports call the base: the last part of its path or hub id."""
    return Path(run.recipe.model.base).name


def check_contract(run: Run, base: Base) -> Contract:
    """Hold the template (or an encoder's marks) as it stands now to the one the run was trained with; a difference
    refuses, readably."""
    if base.template is None and base.reach is None:
        raise TemplateError("pipeline.no_template", where="model.template")
    try:
        stored = Contract.from_json(run.read("contract.json"))
    except (AttributeError, KeyError, TypeError) as error:  # JSON, and no contract
        raise RunError("run.file_damaged", where=str(run.path("contract.json")), why=str(error)) from error
    if base.template is None:
        stored.check(contract_again(stored, base.tokenizer), where="model.base")
    else:
        stored.check(make_contract(base.template, base.tokenizer, stored.value["sampling"]), where="model.template")
    return stored


def last_checkpoint(run: Run) -> Path:
    """The checkpoint of the last stage, the one the run ships."""
    folder = run.path(str(last_outcome(run)["folder"]))
    if not (folder / STATE).is_file():
        raise RunError("pipeline.checkpoint_gone", where=str(folder), run=str(run.folder))
    return folder


def last_outcome(run: Run) -> dict[str, Any]:
    """What the last stage's training came to; RunError when it has not come to an end."""
    stages = run.recipe.plan_stages()
    outcome = run.outcome(f"train-{len(stages)}-{stages[-1].method.kind}")
    if outcome is None or run.outcome("prepare") is None:
        raise RunError("pipeline.not_trained", where=str(run.folder), run=str(run.folder))
    return outcome


def checkpoint_digest(run: Run) -> str:
    """Names the last stage's weights, as manifests do."""
    return sha256_json(read_kept(last_checkpoint(run) / STATE)["digests"])


def trained_digest(run: Run) -> str:
    """Names what was trained: weights, and the base below them."""
    digests = read_kept(last_checkpoint(run) / STATE)["digests"]
    return sha256_json([digests, last_outcome(run)["base_digest"]])


def open_artifact(
    folder: Path, *, device: str = "auto", allow_unproven: bool = False, progress: Progress | None = None
) -> NativeEngine:
    """The engine of an artefact: files, contract and verdict verified, then its canaries asked again. What failed its
    proof is refused; `allow_unproven` opens it all the same, for looking into it, and says so."""
    progress = progress or Silent()
    manifest = verify(folder, allow_unproven=allow_unproven)
    if missing := unproven(manifest):
        progress.note(say(f"pipeline.proof_{manifest.parity['verdict']}", checks=listed(missing)))
    contract, facts = manifest.contract, manifest.base
    # tokenizer and template are the artefact's own; only weights come from the base
    spoken = open_base(
        ModelSection(base=str(folder), init="random", system=contract["system"], thinking=contract["thinking"])
    )
    if nature_of(manifest.kind).library == "gguf":
        raise ExportError("gguf.no_engine", where=str(folder), kind=manifest.kind)
    is_adapter = nature_of(manifest.kind).relation == "adapter"
    section = ModelSection(
        base=str(facts["name"]) if is_adapter else str(folder),
        revision=facts.get("revision") if is_adapter else None,
        hub=facts.get("hub", "huggingface"),
        # in the precision that was proven: in another one even the right weights say other things
        dtype=facts.get("dtype", "auto"),
        quantize=facts.get("quantize", "none") if is_adapter else "none",
    )
    chosen = choose_device(device)
    agreed = Contract.from_json(contract)
    classes = agreed if spoken.reach is not None else None
    model = load_base(section, seed=0, device=chosen, progress=progress, classes=classes)
    keep_dequantized_if_room(model, free_memory_bytes(chosen) // 4)
    adapter = load_trained(folder, model) if is_adapter else None
    engine = _engine(model, _encoder(spoken, agreed), manifest.name, adapter)
    if is_adapter:
        check_base(engine, Facts(manifest.name, facts))
    try:
        replay(manifest, engine)
    except ExportError as error:
        if not allow_unproven:
            raise
        progress.note(error.text)
    return engine


def _encoder(base: Base, contract: Contract) -> Encoder:
    if base.reach is not None:
        return label_encoder(contract, base.tokenizer)
    if base.template is None:
        raise TemplateError("pipeline.no_template", where="model.template")
    return Encoder(base.tokenizer, base.template)


def open_engine(target: Run | Path, *, device: str = "auto") -> NativeEngine:
    """The tuned engine of a run, or the engine of an artefact folder."""
    return (
        open_engines(target, device=device).tuned if isinstance(target, Run) else open_artifact(target, device=device)
    )
