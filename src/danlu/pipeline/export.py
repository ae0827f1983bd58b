"""export: the trained model as artefacts, each written, read back and compared before it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import RecipeError
from danlu.core.files import read_json, sha256_json
from danlu.core.progress import Progress, Silent
from danlu.data.sample import Message
from danlu.exports import EXPORTS
from danlu.exports.export import Facts
from danlu.exports.export import export as write_artifact
from danlu.pipeline.open_engine import check_contract, last_checkpoint, open_engines
from danlu.recipe.exports import ExportSection
from danlu.run.artifact import Manifest
from danlu.run.run import Run

NUM_PROBES = 16


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
    done = []
    with run.acting("export"):
        engines = open_engines(run, device=device, progress=told)
        contract = check_contract(run, engines.source)
        for section in wanted:
            folder = run.path("artifacts", section.kind)
            manifest = write_artifact(
                EXPORTS.load(section.kind)(),
                engines.tuned,
                folder,
                contract=contract,
                facts=_facts(run),
                probes=_probes(run),
                replace=True,
                progress=told,
            )
            run.events.append(
                "exported", artifact=section.kind, digest=manifest.digest, verdict=manifest.parity["verdict"]
            )
            done.append(Exported(folder, manifest))
    return done


def _known(kind: str) -> Any:
    if kind not in EXPORTS.names():
        raise RecipeError("core.unknown_name", where="--kind", given=kind, shelf="exports", nearest="-",
                          known=", ".join(EXPORTS.names()))  # fmt: skip
    return kind


def _facts(run: Run) -> Facts:
    """Name, base, parents, and what the card tells; only what was measured."""
    stages = run.recipe.plan_stages()
    record = read_json(run.path("acts", f"train-{len(stages)}-{stages[-1].method.kind}.json"))
    prepared = read_json(run.path("acts", "prepare.json"))["outcome"]
    base = {
        "name": run.recipe.model.base,
        "revision": run.recipe.model.revision,
        "digest": record["outcome"]["base_digest"],
    }
    dataset = read_json(run.path("dataset", prepared["stages"][-1], "format.json"))["digest"]
    checkpoint = sha256_json(read_json(last_checkpoint(run) / "state.json")["digests"])
    return Facts(
        name=run.recipe.name,
        base=base,
        parents={"recipe": run.recipe.digest, "dataset": dataset, "checkpoint": checkpoint},
        card=_card(run, prepared),
    )


def _card(run: Run, prepared: dict[str, Any]) -> dict[str, Any]:
    card: dict[str, Any] = {
        "data": prepared["rows"],
        "stages": [stage.method.kind for stage in run.recipe.plan_stages()],
    }
    if run.path("report.json").is_file():
        report = read_json(run.path("report.json"))
        card["evaluation"] = {side: report[side].get("accuracy") for side in ("base", "tuned")}
    return card


def _probes(run: Run) -> list[list[Message]]:
    """Questions of the domain, so that parity is proven on what the model is for: prompts it was trained on."""
    probes: list[list[Message]] = []
    for row in read_json(run.path("dataset", "probes.json")):
        probes.append([Message(turn["role"], turn["content"]) for turn in row])
    return probes[:NUM_PROBES]
