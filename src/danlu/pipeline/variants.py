"""variants: every artefact of a run measured here, so that what is deployed is chosen by figures.

Size, KL and agreement stand in the manifests, for the export has proven them. Load time, speed, memory and what is
right are measured now, each variant in a process of its own (`exports/trial.py`), by the program that proved it. What
has been measured is kept in variants.json by the digest of all it depends on, so that a kill costs one variant.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.core.errors import DanluError, EvaluationError, ExportError, RunError
from danlu.core.files import sha256_json, write_json, write_text
from danlu.core.messages import LANGUAGES, current_language, say
from danlu.core.progress import Progress, Silent
from danlu.data.encode import Encoder
from danlu.engines.engine import Answer
from danlu.evaluation.items import Item, choose_items
from danlu.evaluation.stats import proportion
from danlu.evaluation.tasks.task import judge
from danlu.exports.oracle import has
from danlu.exports.readers import READERS
from danlu.exports.trial import Order
from danlu.exports.usage import nature_of
from danlu.model.shards import find_shards
from danlu.pipeline.assignments import Assignments
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.device import choose_device, describe_hardware
from danlu.pipeline.encoders import class_contract_of
from danlu.pipeline.evaluate import current_report
from danlu.pipeline.export import Exported, exported
from danlu.pipeline.open_engine import check_contract
from danlu.pipeline.prune import pruning_of
from danlu.pipeline.variants_html import render_variants, total_bytes
from danlu.run.artifact import Manifest
from danlu.run.run import Run
from danlu.version import VERSION

VARIANTS = "variants.json"
NUM_QUESTIONS = 24
"""Asked of each variant where nobody says how many."""
PROGRAMS = ("llamacpp", "vllm", "autoround", "danlu", "transformers", "peft")
"""Of those that proved an artefact one is measured: a program of its own before libraries, ours before others."""
ROOM = 64
"""Tokens that a program may need beyond prompt and answer."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all variants of a run are measured with."""

    run: Run
    base: Base
    encoder: Encoder
    items: Sequence[Item]
    device: str
    others_load: float | None
    """Of each core, what others were doing when measuring began."""

    @property
    def hardware(self) -> str:
        return describe_hardware(self.device)

    @property
    def max_new_tokens(self) -> int:
        return self.run.recipe.evaluation.max_new_tokens

    def inputs(self, manifest: Manifest, reader: str) -> str:
        """What a measurement depends on."""
        asked = [[item.id, item.text, item.reference] for item in self.items]
        return sha256_json([VERSION, manifest.digest, manifest.base, reader, self.hardware, asked, self.max_new_tokens])


def compare_variants(
    run: Run, *, num_questions: int | None = None, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """The table, as it is kept in variants.json; variants.en.html and variants.zh.html show it. ExportError where the
    run has no artefact of the weights that it holds now, or is an encoder's, which has one kind alone."""
    progress = progress or Silent()
    if class_contract_of(run) is not None:
        raise ExportError("variants.encoder", where=run.name)
    with run.acting("compare"):
        artifacts = exported(run)
        if not artifacts:
            raise ExportError("variants.none", where=str(run.path("artifacts")), run=run.name)
        bench = _bench(run, NUM_QUESTIONS if num_questions is None else num_questions, choose_device(device), progress)
        kept = _kept(run)
        table = _table(bench)
        for artifact in artifacts:
            table["variants"].append(_measured(artifact, bench, kept, progress))
            write_json(run.path(VARIANTS), table | {"kept": kept})  # after each: a kill costs one
        table["variants"].sort(key=total_bytes, reverse=True)
        for language in LANGUAGES:
            write_text(run.path(f"variants.{language}.html"), render_variants(table, language))
    return table


def _bench(run: Run, num_questions: int, device: str, progress: Progress) -> Bench:
    base = open_base(run.recipe.model, progress=progress)
    check_contract(run, base)
    assert base.template is not None, "a contract was made of it"
    encoder = Encoder(base.tokenizer, base.template)
    items: Sequence[Item] = ()
    if num_questions:
        try:
            (assignment,) = Assignments(run, encoder, progress).chosen(["domain"])
            items = choose_items(assignment.items, num_questions, seed=run.recipe.data.split.seed)
        except EvaluationError as error:  # no questions: all else can be measured
            progress.note(error.text)
    return Bench(run, base, encoder, items, device, _others_load())


def _others_load() -> float | None:
    """Processes that want a core, for each of them; None where the system does not say."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None


def _kept(run: Run) -> dict[str, Any]:
    """Measurements by the digest of their inputs; none where the file is missing or damaged."""
    if not run.path(VARIANTS).is_file():
        return {}
    try:
        kept = run.read(VARIANTS).get("kept")
    except (RunError, AttributeError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _table(bench: Bench) -> dict[str, Any]:
    """All but the variants: what they are held against."""
    report, names = current_report(bench.run), {item.id for item in bench.items}
    rows = [row for row in report.items if row["task"] == "domain" and row["id"] in names] if report else []
    right = {row["id"]: bool(row["tuned"]["right"]) for row in rows}
    groups = {item.id: item.cluster for item in bench.items}
    trained = proportion(list(right.values()), [groups[name] for name in right]).to_json() if right else None
    recipe, pruned = bench.run.recipe, pruning_of(bench.base.folder)
    return {
        "name": recipe.name, "run": bench.run.name, "base": recipe.model.base, "hardware": bench.hardware,
        "num_questions": len(bench.items), "max_new_tokens": bench.max_new_tokens, "danlu": VERSION,
        "trained": trained and trained | {"right": right}, "variants": [],
        "pruned": pruned and {name: pruned[name] for name in ("base", "layers", "left_out", "held_out")},
    }  # fmt: skip


def _measured(artifact: Exported, bench: Bench, kept: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """A row: what its manifest says, and what was measured here or why not."""
    folder, manifest = artifact.folder, artifact.manifest
    reader, why_not = reader_of(manifest)
    needs_base = nature_of(manifest.kind).relation == "adapter"
    row: dict[str, Any] = {
        "name": folder.name, "kind": manifest.kind, "digest": manifest.digest, "verdict": artifact.verdict,
        "bytes": _size(artifact), "base_bytes": _weights_size(bench.base.folder) if needs_base else 0,
        "reader": reader, **proven(manifest, reader), "measured": None, "why_not": why_not,
    }  # fmt: skip
    if reader is None:
        return row
    inputs = bench.inputs(manifest, reader)
    try:
        manifest.check_files(folder)
        if inputs not in kept:
            kept[inputs] = _tried(_order(artifact, bench, reader), artifact, bench, progress)
        row["measured"] = kept[inputs]
    except DanluError as error:
        row["why_not"] = error.text
    return row


def reader_of(manifest: Manifest) -> tuple[str | None, str]:
    """The program that is measured; where there is none, why."""
    checks = {check["name"]: check for check in manifest.parity["checks"]}
    asked = [name for name in (*PROGRAMS, *READERS.names()) if f"{name}_logits" in checks]
    proved = [name for name in asked if checks[f"{name}_logits"]["verdict"] == "pass"]
    if not proved:
        notes = [str(checks[f"{name}_logits"]["note"]) for name in asked]
        return None, say("variants.unproven", checks="; ".join(filter(None, notes)) or "-")
    if manifest.kind == "gguf-lora":
        return None, say("variants.no_gguf_base")
    missing = [package for package in READERS.load(proved[0])().packages if not has(package)]
    return (None, say("variants.missing", packages=", ".join(missing))) if missing else (proved[0], "")


def proven(manifest: Manifest, reader: str | None) -> dict[str, Any]:
    """From the proof: how far the variant's words are from what was trained. Of weights that were rounded what that
    costs, of those that were not what the program makes of them."""
    checks = {check["name"]: check["numbers"] for check in manifest.parity["checks"]}
    logits = checks.get("rounding_logits") or checks.get(f"{reader}_logits") or {}
    answers = checks.get("rounding_answers") or checks.get(f"{reader}_answers") or {}
    return {
        "kl": logits.get("mean_kl"), "num_equal": answers.get("num_equal"), "num_answers": answers.get("num_answers"),
    }  # fmt: skip


def _order(artifact: Exported, bench: Bench, reader: str) -> Order:
    manifest, section = artifact.manifest, bench.run.recipe.exports
    asked = [list(bench.encoder.encode_prompt(item.question.messages, item.question.tools)) for item in bench.items]
    timed = [list(canary.prompt_ids) for canary in manifest.canaries]
    files = sorted(artifact.folder.rglob("*.gguf"))
    needs_base = nature_of(manifest.kind).relation == "adapter"
    return Order(
        reader=reader,
        folder=str(files[0].parent if files else artifact.folder),
        beside=str(bench.base.folder) if needs_base else None,
        dtype=str(manifest.parity["living_dtype"]),
        device=bench.device,
        context=max(512, *map(len, (*asked, *timed))) + bench.max_new_tokens + ROOM,
        threads=torch.get_num_threads(),
        python=next((one.vllm for one in section if one.folder == artifact.folder.name), None),
        timed=timed,
        asked=asked,
        max_new_tokens=bench.max_new_tokens,
        language=current_language(),
    )


def _tried(order: Order, artifact: Exported, bench: Bench, progress: Progress) -> dict[str, Any]:
    """What the other process found, its answers judged."""
    what = say("variants.measuring", name=artifact.folder.name, reader=order.reader)
    progress.start(what, len(order.asked) or None)
    found = _run(order, artifact.folder, progress)
    progress.finish()
    answers = [bench.encoder.answer_text(ids) for ids in found.pop("answers")]
    right = [judge(Answer(text, "stop"), item).right for text, item in zip(answers, bench.items, strict=True)]
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    groups = [item.cluster for item in bench.items]
    return found | {
        "dtype": order.dtype, "threads": order.threads, "hardware": bench.hardware, "when": when,
        "others_load": bench.others_load,
        "accuracy": proportion(right, groups).to_json() if right else None,
        "right": {item.id: is_right for item, is_right in zip(bench.items, right, strict=True)},
    }  # fmt: skip


def _run(order: Order, folder: Path, progress: Progress) -> dict[str, Any]:
    """ExportError where the program refuses the files, or ends before it has answered."""
    command = [sys.executable, "-m", "danlu.exports.trial"]
    line: Mapping[str, Any] = {}
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as child:
            try:
                assert child.stdin is not None and child.stdout is not None, "both are pipes"
                with child.stdin as pipe:
                    json.dump(order.to_json(), pipe)
                for text in child.stdout:
                    line = json.loads(text)
                    progress.advance(int(line.get("done", 0)))
            except BrokenPipeError:  # it ended at once; why is in what it said
                pass
            except BaseException:
                child.kill()
                raise
        if "answers" in line:
            return dict(line)
        said.seek(0)
        last = " / ".join(said.read().decode(errors="replace").split("\n")[-4:]).strip(" /")[-400:]
    why = str(line.get("refused") or last or say("variants.died", code=child.returncode))
    raise ExportError("export.reader_failed", where=str(folder), reader=order.reader, said=why)


def _size(artifact: Exported) -> int:
    """All that is shipped."""
    return sum(path.stat().st_size for path in artifact.folder.rglob("*") if path.is_file())


def _weights_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in find_shards(folder))
