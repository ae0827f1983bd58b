"""export: the trained model as artefacts, each written, read back and compared before it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import ExportError, RecipeError
from danlu.core.files import sha256_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.sample import Message
from danlu.evaluation.report import Report, with_parity
from danlu.exports import EXPORTS
from danlu.exports.export import Facts, Subject
from danlu.exports.export import export as write_artifact
from danlu.exports.parity import Check
from danlu.exports.quantized import check_quantized
from danlu.pipeline.device import choose_device, free_memory_bytes
from danlu.pipeline.evaluate import gate_of, save_report
from danlu.pipeline.open_engine import (
    Engines,
    check_contract,
    last_checkpoint,
    last_outcome,
    open_engines,
    trained_digest,
)
from danlu.recipe.exports import ExportSection
from danlu.run.artifact import NAME, Manifest
from danlu.run.kept import read_kept
from danlu.run.run import Run
from danlu.training.checkpoint import STATE
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


def export(
    run: Run, *, kinds: Sequence[str] | None = None, device: str = "auto", progress: Progress | None = None
) -> list[Exported]:
    """Every export of the recipe (or only `kinds`); a failed proof is returned with its verdict, not hidden."""
    told = progress or Silent()
    wanted = [ExportSection(kind=_known(kind)) for kind in kinds] if kinds else list(run.recipe.exports)
    is_full = run.recipe.adapter.kind == "full"
    wanted = [section for section in wanted if not (is_full and section.kind == "adapter")]
    if not wanted:
        return []
    with run.acting("export"):
        inputs = {section.kind: _inputs_digest(run, section) for section in wanted}
        desk = _Desk(run, device, told)
        done = []
        for section in wanted:
            folder = run.path("artifacts", section.kind)
            manifest = _standing(run, section.kind, inputs[section.kind], folder)
            if manifest is None:
                manifest = desk.write(section.kind, folder)
                run.finish(f"export-{section.kind}", inputs[section.kind], {"digest": manifest.digest})
            done.append(Exported(folder, manifest))
        _tell_report(run)
    return done


class _Desk:
    """The engines that artefacts are made of, opened when the first one needs them. An adapter leaves with the base it
    was trained on; what is merged goes into the base before it was quantised, and is then held to what was trained."""

    def __init__(self, run: Run, device: str, told: Progress) -> None:
        self.run, self.device, self.told = run, device, told
        self.is_quantized = run.recipe.model.quantize != "none"
        self._engines: dict[bool, Engines] = {}

    def engines(self, *, is_whole: bool) -> Engines:
        if is_whole not in self._engines:
            device = choose_device(self.device)
            if is_whole and device != "cpu" and not self._has_room(device):
                device = "cpu"
                self.told.note(say("pipeline.merging_on_cpu", quantize=self.run.recipe.model.quantize))
            self._engines[is_whole] = open_engines(self.run, device=device, is_whole=is_whole, progress=self.told)
        return self._engines[is_whole]

    def _has_room(self, device: str) -> bool:
        """Whether the unquantised base, and the copies that prove a merge, fit where the quantised one was trained."""
        num_bytes = 2 * int(last_outcome(self.run)["num_params"])
        return free_memory_bytes(device) > COPIES_IN_A_PROOF * num_bytes

    def write(self, kind: str, folder: Path) -> Manifest:
        is_whole = self.is_quantized and kind != "adapter"
        engines = self.engines(is_whole=is_whole)
        manifest = write_artifact(
            EXPORTS.load(kind)(),
            engines.tuned,
            folder,
            contract=check_contract(self.run, engines.source),
            facts=_facts(self.run),
            probes=_probes(self.run),
            replace=True,
            further=self._hold_to_trained if is_whole else None,
            progress=self.told,
        )
        self.run.events.append("exported", artifact=kind, digest=manifest.digest, verdict=manifest.parity["verdict"])
        return manifest

    def _hold_to_trained(self, subject: Subject) -> list[Check]:
        return check_quantized(subject, self.engines(is_whole=False).tuned)


def _inputs_digest(run: Run, section: ExportSection) -> str:
    """What an artefact depends on: trained weights, contract, card and probes."""
    card = _facts(run).card
    return sha256_json([VERSION, section.model_dump(mode="json"), trained_digest(run), run.read("contract.json"), card,
                        run.read("dataset", "probes.json")])  # fmt: skip


def _standing(run: Run, kind: str, inputs: str, folder: Path) -> Manifest | None:
    """The artefact of an earlier export on these very inputs, if it was proven and every byte of it is still there."""
    record = run.finished(f"export-{kind}", inputs)
    if record is None:
        return None
    try:
        manifest = Manifest.read(folder)
        manifest.check_files(folder)
    except (ExportError, ValueError, KeyError, TypeError):  # gone, damaged or torn: it is written again
        return None
    return manifest if manifest.digest == record["digest"] and manifest.parity["verdict"] == "pass" else None


def artifacts_of(run: Run) -> list[Manifest]:
    """The manifests of what is exported from the weights that the run now holds."""
    found = []
    for path in sorted(run.path("artifacts").glob(f"*/{NAME}")):
        manifest = Manifest.read(path.parent)
        if manifest.parents.get("checkpoint") == _checkpoint_digest(run):
            found.append(manifest)
    return found


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


def _known(kind: str) -> Any:
    if kind not in EXPORTS.names():
        raise RecipeError("core.unknown_name", where="--kind", given=kind, shelf="exports", nearest="-",
                          known=", ".join(EXPORTS.names()))  # fmt: skip
    return kind


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
        parents={"recipe": run.recipe.digest, "dataset": dataset, "checkpoint": _checkpoint_digest(run)},
        card=_card(run, prepared),
    )


def _checkpoint_digest(run: Run) -> str:
    return sha256_json(read_kept(last_checkpoint(run) / STATE)["digests"])


def _card(run: Run, prepared: dict[str, Any]) -> dict[str, Any]:
    card: dict[str, Any] = {
        "data": prepared["rows"],
        "stages": [stage.method.kind for stage in run.recipe.plan_stages()],
    }
    if run.path("report.json").is_file():
        report = run.read("report.json")
        card["evaluation"] = {side: report[side].get("accuracy") for side in ("base", "tuned")}
    return card


def _probes(run: Run) -> list[list[Message]]:
    """Questions of the domain, so that parity is proven on what the model is for: prompts it was trained on."""
    probes: list[list[Message]] = []
    for row in run.read("dataset", "probes.json"):
        probes.append([Message(turn["role"], turn["content"]) for turn in row])
    return probes[:NUM_PROBES]
