"""register: a run's artefact gets a version, if its gate said ship and its proof passed. Nothing else ever does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import RunError
from danlu.core.files import sha256_file
from danlu.core.messages import listed
from danlu.evaluation.gate import GateVerdict
from danlu.pipeline.evaluate import current_report
from danlu.pipeline.open_engine import checkpoint_digest
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry, Version
from danlu.run.run import Run

PREFERRED = ("merged", "adapter")
"""Which export a run's version is, where nobody says."""


def register(run: Run, *, kind: str | None = None, reason: str = "") -> Version:
    """The version of this run's artefact: its own if it has one already. RunError says what is missing."""
    folder = _artifact(run, kind)
    manifest = Manifest.read(folder)
    report = _passed(run, manifest)
    manifest.check_files(folder)
    runs = run.folder.parent
    prepared = run.outcome("prepare") or {}
    parents = dict(manifest.parents) | {
        "recipe": run.recipe.digest, "base": manifest.base["digest"], "report": sha256_file(run.path("report.json")),
    }  # fmt: skip
    if stages := prepared.get("stages"):
        parents["dataset"] = run.read("dataset", stages[-1], "format.json")["digest"]
    return Registry(runs).add(
        Version(
            name=run.recipe.name,
            number=0,
            artifact=str(folder.relative_to(runs)),
            digest=manifest.digest,
            kind=manifest.kind,
            run=run.name,
            created="",
            actor="",
            parents=parents,
            measured=_measured(report, manifest),
            reason=reason,
        )
    )


def why_not(run: Run, *, kind: str | None = None) -> str | None:
    """The error's text where this run may not get a version."""
    try:
        _passed(run, Manifest.read(_artifact(run, kind)))
    except RunError as error:
        return error.text
    return None


def lineage(registry: Registry, version: Version) -> dict[str, Any]:
    """From documents to the version: what can still be looked up, and digests where it cannot."""
    told: dict[str, Any] = {"version": version.to_json(), "aliases": registry.read().aliases_of(version)}
    folder = registry.folder / version.run
    if not (folder / "run.json").is_file():
        return told | {"run": None}
    run = Run.open(folder)
    prepared = run.outcome("prepare") or {}
    ledger = run.read("ledger.json")
    return told | {
        "run": {"name": run.name, "recipe": run.recipe.digest, "sources": [s.path for s in run.recipe.data.sources]},
        "data": {
            "rows": ledger.get("rows"), "dataset": version.parents.get("dataset"),
            "certificate": bool(prepared.get("certificate")), "one_sample": f"danlu why SAMPLE {run.name}",
        },
        "artifact": {"folder": str(registry.folder / version.artifact), "digest": version.digest},
    }  # fmt: skip


def _artifact(run: Run, kind: str | None) -> Path:
    there = sorted(path.parent for path in run.path("artifacts").glob(f"[!.]*/{ARTIFACT_FILE}"))
    by_kind = {Manifest.read(folder).kind: folder for folder in there}
    wanted: Sequence[str] = [kind] if kind else [*PREFERRED, *by_kind]
    found = next((by_kind[name] for name in wanted if name in by_kind), None)
    if found is None:
        raise RunError("registry.no_artifact", where=run.name, given=kind or "-", known=listed(by_kind) or "-")
    return found


def _passed(run: Run, manifest: Manifest) -> dict[str, Any]:
    """The run's report, once it is one of these weights, says ship, and the artefact's proof passed."""
    found = current_report(run)
    if found is None:
        raise RunError("registry.not_evaluated", where=run.name, run=run.name)
    report = found.to_json()
    gate = report.get("gate") or {"decision": "hold", "reasons": []}
    if gate["decision"] != "ship":
        told = [reason.text() for reason in GateVerdict.from_json(gate).reasons if not reason.passed]
        failed = "".join(f"\n  ✗ {reason}" for reason in told) or "-"
        raise RunError("registry.held", where=run.name, run=run.name, reasons=failed)
    verdict = manifest.parity.get("verdict")
    if verdict != "pass":
        raise RunError(
            "registry.unproven", where=f"{run.name}/{manifest.kind}", given=verdict or "-", kind=manifest.kind
        )
    if manifest.parents.get("checkpoint") != checkpoint_digest(run):
        raise RunError("registry.stale", where=f"{run.name}/{manifest.kind}", run=run.name)
    return report


def _measured(report: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    difference = report.get("difference") or {}
    return {
        "accuracy": report.get("tuned", {}).get("accuracy"), "base_accuracy": report.get("base", {}).get("accuracy"),
        "gain": difference.get("value"), "interval": difference.get("interval"),
        "num_items": report.get("tuned", {}).get("num_items"), "parity": manifest.parity.get("verdict"),
    }  # fmt: skip
