"""export: the trained model as artefacts, each written, read back and compared before it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import ExportError
from danlu.core.files import sha256_json
from danlu.core.messages import LANGUAGES, say
from danlu.core.progress import Progress, Silent
from danlu.core.shelf import unknown_name
from danlu.data.sample import Message
from danlu.engines.classes import ClassEngine
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.evaluation.report import Report, with_parity
from danlu.exports import EXPORTS
from danlu.exports.export import Facts, Once, Subject
from danlu.exports.export import export as write_artifact
from danlu.exports.parity import Check
from danlu.exports.push import push
from danlu.exports.quantized import check_quantized
from danlu.pipeline.device import choose_device, free_memory_bytes
from danlu.pipeline.evaluate import gate_of, save_report
from danlu.pipeline.open_engine import (
    Engines,
    check_contract,
    checkpoint_digest,
    last_outcome,
    open_engines,
    trained_digest,
)
from danlu.pipeline.proofs import Chosen, choose_base, quiz_of, training_texts
from danlu.recipe.exports import QUANTIZE, ExportSection, PushSection
from danlu.recipe.privacy import SECTORS
from danlu.run.artifact import NAME, Manifest
from danlu.run.run import Run
from danlu.version import VERSION

NUM_PROBES = 16
COPIES_IN_A_PROOF = 4
"""Of a model in 16 bits: itself, and what is read back, at times in 32 bits."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An artefact on disk and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def verdict(self) -> str:
        return str(self.manifest.parity["verdict"])


NEED_ADAPTER = ("adapter", "gguf-lora", "vllm-lora")
"""Kinds that ship the update apart from the base."""


def export(
    run: Run, *, kinds: Sequence[str] | None = None, device: str = "auto", progress: Progress | None = None
) -> list[Exported]:
    """Every export of the recipe (or only `kinds`, each `kind` or `kind:quantize`, as the recipe describes them where
    it does); a failed proof is returned with its verdict, not hidden. What passed is sent to a hub where the recipe
    says so."""
    progress = progress or Silent()
    wanted = [section for kind in kinds for section in _asked(kind, run)] if kinds else list(run.recipe.exports)
    wanted = list({section.folder: section for section in wanted}.values())
    wanted = [section for section in wanted if _is_possible(run, section.kind, progress, is_asked=bool(kinds))]
    if not wanted:
        return []
    with run.acting("export"):
        inputs = {section.folder: _inputs_digest(run, section) for section in wanted}
        desk = _Desk(run, device, progress)
        done = []
        for section in wanted:
            folder = run.path("artifacts", section.folder)
            manifest = _standing(run, section.folder, inputs[section.folder], folder)
            if manifest is None:
                manifest = desk.write(section, folder)
                run.finish(f"export-{section.folder}", inputs[section.folder], {"digest": manifest.digest})
            done.append(Exported(folder, manifest))
        _tell_report(run)
        for section, exported in zip(wanted, done, strict=True):
            if section.push is not None:
                _send(run, section.push, exported, progress)
    return done


def _is_possible(run: Run, kind: str, progress: Progress, *, is_asked: bool) -> bool:
    """Whether a run like this has such an export. ExportError where somebody asked for one that it has not; what only
    stands in the recipe is left out with a remark."""
    adapter = run.recipe.adapter.kind
    if kind != "merged" and any(stage.method.kind == "classify" for stage in run.recipe.plan_stages()):
        raise ExportError("export.classes", where=f"--kind {kind}")  # no recipe says so
    if adapter == "full" and kind in NEED_ADAPTER:
        error, remark = "export.no_adapter", "serving.no_adapter"
    elif adapter == "prefix" and kind != "adapter":
        error, remark = "export.prefix", "serving.prefix_unmerged"
    else:
        return True
    if is_asked:
        raise ExportError(error, where=f"--kind {kind}", given=adapter)
    progress.note(say(remark, given=kind).split("\n")[0])
    return False


def _send(run: Run, section: PushSection, exported: Exported, progress: Progress) -> None:
    """Once for each content: what lies there already is not sent again."""
    inputs = sha256_json([section.model_dump(mode="json"), exported.manifest.digest])
    key = f"push-{exported.folder.name}"
    if run.finished(key, inputs) is not None:
        return
    pushed = push(exported.folder, section, progress=progress)
    run.finish(key, inputs, pushed.to_json())
    run.events.append("pushed", artifact=exported.manifest.kind, **pushed.to_json())


class _Desk:
    """The engines that artefacts are made of, opened when the first one needs them. An adapter leaves with the base it
    was trained on; where that was quantised, what is merged goes into its codes' values or into the base as it was
    before, whichever proves better, and is then held to what was trained."""

    def __init__(self, run: Run, device: str, progress: Progress) -> None:
        self.run, self.device, self.progress = run, device, progress
        self.is_quantized = run.recipe.model.quantize != "none"
        self._engines: dict[bool, Engines] = {}
        self._once: dict[bool, Once] = {True: Once(), False: Once()}
        self._chosen: Chosen | None = None

    def engines(self, *, is_whole: bool) -> Engines:
        if is_whole not in self._engines:
            device = choose_device(self.device)
            if is_whole and device != "cpu" and not self._has_room(device):
                device = "cpu"
                self.progress.note(say("pipeline.merging_on_cpu", quantize=self.run.recipe.model.quantize))
            self._engines[is_whole] = open_engines(self.run, device=device, is_whole=is_whole, progress=self.progress)
        return self._engines[is_whole]

    def _has_room(self, device: str) -> bool:
        """Whether the unquantised base, and the copies that prove a merge, fit where the quantised one was trained."""
        num_bytes = 2 * int(last_outcome(self.run)["num_params"])
        return free_memory_bytes(device) > COPIES_IN_A_PROOF * num_bytes

    def write(self, section: ExportSection, folder: Path) -> Manifest:
        is_whole = self.is_quantized and section.kind not in NEED_ADAPTER
        engines = self.engines(is_whole=False)
        chosen = self.chosen() if is_whole else None
        merging = chosen.merging if chosen is not None else None
        manifest = write_artifact(
            EXPORTS.load(section.kind)(**section.settings()),
            chosen.engine if chosen is not None else engines.tuned,
            folder,
            contract=check_contract(self.run, engines.source),
            facts=_facts(self.run),
            probes=_readable(_probes(self.run), engines.tuned),
            quiz=quiz_of(self.run, engines.encoder),
            through=self.run.recipe.model.quantize if merging is not None and merging.taken == "codes" else "none",
            merging=merging.to_json() if merging is not None else None,
            replace=True,
            further=self._hold_to_trained if is_whole else None,
            once=self._once[is_whole],
            texts=lambda: training_texts(self.run),
            progress=self.progress,
        )
        self.run.events.append(
            "exported", artifact=section.folder, digest=manifest.digest, verdict=manifest.parity["verdict"]
        )
        return manifest

    def chosen(self) -> Chosen:
        """The engine that is merged, of a run with a quantised base."""
        if self._chosen is None:
            self._chosen = choose_base(
                self.run, self.engines(is_whole=False), lambda: self.engines(is_whole=True),
                device=choose_device(self.device), probes=_probes(self.run), progress=self.progress,
            )  # fmt: skip
        return self._chosen

    def _hold_to_trained(self, subject: Subject) -> list[Check]:
        return check_quantized(subject, self.engines(is_whole=False).tuned)


def _inputs_digest(run: Run, section: ExportSection) -> str:
    """What an artefact depends on: trained weights, contract, card and probes."""
    card = _facts(run).card
    return sha256_json([VERSION, section.model_dump(mode="json"), trained_digest(run), run.read("contract.json"), card,
                        run.read("dataset", "probes.json")])  # fmt: skip


def _standing(run: Run, name: str, inputs: str, folder: Path) -> Manifest | None:
    """The artefact of an earlier export on these very inputs, if it was proven and every byte of it is still there."""
    record = run.finished(f"export-{name}", inputs)
    if record is None:
        return None
    try:
        manifest = Manifest.read(folder)
        manifest.check_files(folder)
    except ExportError:  # gone, damaged or torn: it is written again
        return None
    return manifest if manifest.digest == record["digest"] and manifest.parity["verdict"] == "pass" else None


def exported(run: Run) -> list[Exported]:
    """What is exported from the weights that the run now holds. Folders with a dot are what a killed export left; what
    has no readable manifest is no artefact, and exporting it again replaces it."""
    found = []
    for path in sorted(run.path("artifacts").glob(f"[!.]*/{NAME}")):
        try:
            manifest = Manifest.read(path.parent)
        except ExportError:
            continue
        if manifest.parents.get("checkpoint") == checkpoint_digest(run):
            found.append(Exported(path.parent, manifest))
    return found


def artifacts_of(run: Run) -> list[Manifest]:
    """The manifests of these."""
    return [one.manifest for one in exported(run)]


def parity_of(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """One verdict over several artefacts, the worst of theirs; "not run" when there are none."""
    verdicts = {str(manifest.parity["verdict"]) for manifest in manifests}
    verdict = next((worst for worst in ("fail", "incomplete", "pass") if worst in verdicts), "not run")
    return {"verdict": verdict, "artifacts": [manifest.parity | {"kind": manifest.kind} for manifest in manifests]}


def _tell_report(run: Run) -> None:
    """The run's report is judged once more now that parity is known."""
    if not run.path("report.json").is_file():
        return
    report = Report.from_json(run.read("report.json"))
    parity = parity_of(artifacts_of(run))
    if report.parity != parity:
        save_report(run, with_parity(report, parity, gate_of(run)))


def _asked(word: str, run: Run) -> list[ExportSection]:
    """`gguf` or `gguf:q4_k_m`: the recipe's own sections of that kind, or a new one."""
    kind, _, quantize = word.partition(":")
    if kind not in EXPORTS.names():
        raise unknown_name(kind, EXPORTS.names(), of="exports", where="--kind")
    own = [section for section in run.recipe.exports if section.kind == kind]
    own = [section for section in own if not quantize or section.stored == quantize]
    try:
        return own or [ExportSection.model_validate({"kind": kind} | ({"quantize": quantize} if quantize else {}))]
    except ValueError as error:
        raise unknown_name(quantize, QUANTIZE.get(kind, ()), of=f"exports: {kind}", where="--kind") from error


def _facts(run: Run) -> Facts:
    """Name, base, parents, and what the card tells; only what was measured."""
    prepared = run.outcome("prepare") or {}
    base = {
        "name": run.recipe.model.base,
        "revision": run.recipe.model.revision,
        "hub": run.recipe.model.hub,
        "dtype": last_outcome(run)["dtype"],
        "quantize": run.recipe.model.quantize,
        "digest": last_outcome(run)["base_digest"],
    }
    dataset = run.read("dataset", prepared["stages"][-1], "format.json")["digest"]
    return Facts(
        name=run.recipe.name,
        base=base,
        parents={"recipe": run.recipe.digest, "dataset": dataset, "checkpoint": checkpoint_digest(run)},
        card=_card(run, prepared),
    )


def _card(run: Run, prepared: dict[str, Any]) -> dict[str, Any]:
    card: dict[str, Any] = {
        "data": prepared["rows"],
        "training": {
            "stages": [stage.method.kind for stage in run.recipe.plan_stages()],
            "context": max(stage.training.context for stage in run.recipe.plan_stages()),
        },
    }
    if run.path("report.json").is_file():
        report = run.read("report.json")
        card["evaluation"] = {side: report[side].get("accuracy") for side in ("base", "tuned")}
    if (sector := run.recipe.data.privacy.pack) in SECTORS:
        card["limits"] = {language: say(f"disclaimer.{sector}", language) for language in LANGUAGES}
    return card


def _readable(probes: list[list[Message]], engine: NativeEngine) -> list[list[Message]]:
    """Those that an encoder reads whole: longer rows were refused in training, or lost their beginning."""
    if not isinstance(engine, ClassEngine):
        return probes
    return [turns for turns in probes if len(engine.prompt_ids(Question(tuple(turns)))) <= engine.encoder.reach]


def _probes(run: Run) -> list[list[Message]]:
    """Questions of the domain, so that parity is proven on what the model is for: prompts it was trained on."""
    probes: list[list[Message]] = []
    for row in run.read("dataset", "probes.json"):
        probes.append([Message(turn["role"], turn["content"]) for turn in row])
    return probes[:NUM_PROBES]
