"""What commands print when they are done: for people as text and tables, for scripts as one JSON line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.cli.checking import size_text
from danlu.cli.targets import is_artifact, open_target
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import current_language, say
from danlu.data.dataset import Dataset
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.run.artifact import Manifest
from danlu.run.kept import read_kept
from danlu.run.run import Run, list_runs

if TYPE_CHECKING:  # these stand above torch; here they are only read
    from danlu.pipeline.demo import Story
    from danlu.pipeline.export import Exported
    from danlu.pipeline.prepare import Prepared
    from danlu.pipeline.run_all import Summary
    from danlu.pipeline.train import Trained


def show_prepared(run: Run, prepared: Prepared, voice: Voice) -> None:
    rows = prepared.outcome["rows"]
    voice.say(say("cli.inspect_rows", **rows))
    for stage in prepared.stages:
        _show_parts(stage.name, stage.dataset.card.parts, voice)
    show_previews(run.read("dataset", "preview.json")[:1], voice)
    for entry in prepared.ledger["rejects"][:FIRST_REJECTS]:
        voice.say(f"  {entry['file']}:{entry['line']}: {entry['reason']}", "yellow")
    if rows["rejected"] > FIRST_REJECTS:
        more, place = rows["rejected"] - FIRST_REJECTS, run.path("rejects.jsonl")
        voice.say("  " + say("cli.more_rejects", count=more, path=str(place)), "yellow")
    report = run.path(f"data_report.{current_language()}.html")
    voice.say(say("report_data.wrote", path=str(report)))
    voice.result(
        {"run": str(run.folder), "rows": rows, "counts": prepared.outcome["counts"],
         "dataset_id": prepared.outcome["dataset_id"], "shards": prepared.outcome["shards"],
         "certificate": prepared.certificate, "report": str(report),
         "stages": {stage.name: stage.dataset.card.to_json() for stage in prepared.stages}}
    )  # fmt: skip


def show_dataset(folder: Path, voice: Voice) -> None:
    """A dataset folder: its card, and its digest once every byte has been looked at."""
    dataset = Dataset.open(folder)
    _show_parts(folder.name, dataset.card.parts, voice)
    voice.result(dataset.card.to_json() | {"dataset": str(folder), "digest": dataset.digest})


def _show_parts(name: str, parts: Mapping[str, Any], voice: Voice) -> None:
    voice.table(
        [name, *(say(f"cli.col_{column}") for column in ("items", "tokens_all", "learnt", "median", "p99", "max"))],
        [
            (part_name, f"{part['items']:,}", f"{part['tokens']:,}", f"{part['supervised_ratio']:.0%}",
             part["lengths"].get("p50"), part["lengths"].get("p99"), part["lengths"].get("max"))
            for part_name, part in parts.items()
        ],
    )  # fmt: skip


FIRST_REJECTS = 5
MOST_CHARACTERS, MOST_IDS = 480, 96
"""Of a preview's run of text and of ids: a page of a document says no more than its beginning and its end."""


def show_previews(previews: Sequence[dict[str, Any]], voice: Voice) -> None:
    """Samples as the model sees them: green is learnt, dim is context; control tokens stand as they are."""
    if voice.quiet or not previews:
        return
    voice.say(say("cli.inspect_samples"), "bold")
    for shown in previews:
        voice.say(f"{shown['origin']} · {len(shown['ids'])} tokens", "dim")
        for run in shown["runs"]:
            voice.say(_shortened(run["text"]), "green" if run["learnt"] else "bright_black", end="")
        voice.say("")
        for run_ids, learnt in _runs_of_ids(shown):
            told = [*map(str, run_ids)]
            if len(told) > MOST_IDS:
                told = [*told[: MOST_IDS // 2], "…", *told[-MOST_IDS // 2 :]]
            voice.say(" ".join(told) + " ", "green" if learnt else "bright_black", end="")
        voice.say("\n")


def _shortened(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _runs_of_ids(shown: dict[str, Any]) -> list[tuple[list[int], bool]]:
    runs: list[tuple[list[int], bool]] = []
    for token, weight in zip(shown["ids"], shown["weights"], strict=True):
        if not runs or runs[-1][1] != bool(weight):
            runs.append(([], bool(weight)))
        runs[-1][0].append(token)
    return runs


def show_trained(run: Run, stages: Sequence[Trained], voice: Voice) -> None:
    voice.table(
        [say(f"cli.col_{column}") for column in ("stage", "steps", "loss", "validation", "place")],
        [
            (stage.name, stage.facts["num_steps"], _round(stage.facts["train_loss"]),
             _round(stage.facts["validation_loss"]), stage.folder)
            for stage in stages
        ],
    )  # fmt: skip
    voice.say(say("cli.next", command=f"danlu evaluate {run.folder}"))
    voice.result({"run": str(run.folder), "stages": [{"name": stage.name} | stage.facts for stage in stages]})


def show_report(place: Path, report: Report, voice: Voice) -> None:
    voice.table(["", report.base["name"], report.tuned["name"], "Δ (95 %)"], list(_report_rows(report)))
    if report.verdict is not None:
        style = "bold green" if report.verdict.decision == "ship" else "bold yellow"
        voice.say(say("pipeline.gate", decision=say(f"report.{report.verdict.decision}")), style)
        for reason in report.verdict.reasons:
            voice.say(f"  {'✓' if reason.passed else '✗'} {reason.text()}")
            if reason.remedy():
                voice.say(f"      → {reason.remedy()}", "yellow")
    voice.result(report.to_json() | {"run": str(place)})


def _metric_row(name: str, entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """A further metric in percent; BLEU and chrF are points of 100 already."""
    share = 1 / entry.get("scale", 1)
    value, low, high = (points(share * end) for end in (entry["difference"]["value"], *entry["difference"]["interval"]))
    return name, percent(share * entry["base"]), percent(share * entry["tuned"]), f"{value} ({low} – {high})"


def _report_rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    """One row per measurement: its name, the base, the tuned model, the difference or interval."""
    if report.difference is not None:
        low, high = report.difference["interval"]
        change = f"{points(report.difference['value'])} ({points(low)} – {points(high)})"
        yield say("cli.row_domain"), percent(report.base["accuracy"]), percent(report.tuned["accuracy"]), change
    for name, entry in report.metrics.items():
        if name not in ("exact", "contains"):  # what else was measured; char F1 moves first where answers are long
            yield _metric_row(say("cli.row_char_f1") if name == "char_f1" else name, entry)
    if report.consistency is not None:
        base, tuned = (report.consistency[side]["consistent_right"] for side in ("base", "tuned"))
        yield say("cli.row_consistency"), percent(base), percent(tuned), ""
    if report.edge is not None:
        base, tuned = (report.edge[side]["accuracy"] for side in ("base", "tuned"))
        yield say("cli.row_edge"), percent(base), percent(tuned), ""
    for task in ("probes", "general"):
        if (section := getattr(report, task)) is not None:
            base, tuned = (section[side]["accuracy"] for side in ("base", "tuned"))
            low, high = section["difference"]["interval"]
            change = f"{points(section['difference']['value'])} ({points(low)} – {points(high)})"
            yield say(f"proof.task_{task}"), percent(base), percent(tuned), change
    if report.preference is not None:
        reward = report.preference["implicit_reward"]
        low, high = reward["interval"]
        yield say("cli.row_preference"), "", percent(reward["value"]), f"({percent(low)} – {percent(high)})"
    if report.forgetting is not None and "ratio" in report.forgetting:
        base, tuned = (report.forgetting[side]["perplexity"] for side in ("base", "tuned"))
        yield say("cli.row_forgetting"), f"{base:.2f}", f"{tuned:.2f}", f"× {report.forgetting['ratio']:.3f}"


def show_artifacts(artifacts: Sequence[Exported], voice: Voice) -> bool:
    """True when every artefact was proven."""
    for artifact in artifacts:
        style = "green" if artifact.verdict == "pass" else "bold red"
        voice.say(f"{artifact.manifest.kind}: {artifact.folder} · parity {artifact.verdict}", style)
        for check in artifact.manifest.parity.get("checks", []):
            why = f" · {check['note']}" if check["verdict"] != "pass" and check.get("note") else ""
            voice.say(f"  {'✓' if check['verdict'] == 'pass' else '✗'} {check['name']}: {check['verdict']}{why}", "dim")
    voice.result([{"folder": str(a.folder)} | a.manifest.to_json() for a in artifacts])
    return all(artifact.verdict == "pass" for artifact in artifacts)


def show_summary(run: Run, summary: Summary, voice: Voice) -> None:
    show_report(run.folder, summary.report, Voice(quiet=voice.quiet or voice.as_json))
    show_artifacts(summary.artifacts, Voice(quiet=voice.quiet or voice.as_json))
    voice.say(say("cli.demo_next", run=run.folder, report=run.path("report.html")))
    voice.result(
        {"run": str(run.folder), "base": _side(summary.report, "base"), "tuned": _side(summary.report, "tuned"),
         "consistency": summary.report.consistency_ratio, "gate": summary.report.gate,
         "parity": {"verdict": summary.parity_verdict}, "report": str(run.path("report.html"))}
    )  # fmt: skip


def _side(report: Report, side: str) -> dict[str, Any]:
    part = getattr(report, side)
    return {"accuracy": part.get("accuracy"), "interval": part.get("interval")}


def show_demo(story: Story, voice: Voice) -> None:
    """The demo's last words: a table per stage for --full, the verdict, and the JSON line scripts rely on."""
    report = story.summary.report
    if len(report.stages) > 1:
        voice.table(
            [say("cli.col_stage"), say("cli.col_accuracy"), say("cli.row_preference"), say("cli.row_forgetting")],
            [(rung["name"], _percent(rung["accuracy"]), _percent(rung["pair_accuracy"]), _round(rung["perplexity"]))
             for rung in report.stages],
        )  # fmt: skip
    show_report(story.run.folder, report, Voice(quiet=voice.quiet or voice.as_json))
    low, high = report.tuned["interval"]
    voice.say(
        say("cli.demo_verdict", items=report.tuned["num_items"], base=percent(report.base["accuracy"]),
            tuned=percent(report.tuned["accuracy"]), low=percent(low), high=percent(high)),
        "bold",
    )  # fmt: skip
    temperature = story.run.recipe.evaluation.temperature
    voice.say(say("cli.demo_consistency", temperature=temperature, value=_percent(report.consistency_ratio)))
    voice.say(say("cli.demo_parity", verdict=story.summary.parity_verdict))
    voice.say(say("cli.demo_cost", seconds=round(story.seconds), memory=size_text(story.peak_memory_bytes)))
    voice.say(say("cli.demo_next", run=story.run.folder, report=story.run.path("report.html")), "cyan")
    voice.result(
        {
            "run": str(story.run.folder),
            "base": _side(report, "base"),
            "tuned": _side(report, "tuned"),
            "consistency": report.consistency_ratio,
            "parity": {"verdict": story.summary.parity_verdict},
            "gate": report.gate,
            "stages": report.stages,
            "seconds": round(story.seconds, 1),
            "peak_memory_bytes": story.peak_memory_bytes,
            "report": str(story.run.path("report.html")),
        }
    )


def show(target: str, runs: Path, voice: Voice) -> None:
    if is_artifact(target):
        manifest = Manifest.read(Path(target)).to_json()
        rows = [(key, manifest[key]) for key in ("kind", "name", "digest", "base", "parents", "created")]
        rows.append(("parity", manifest["parity"]["verdict"]))
        voice.table([say("cli.col_key"), say("cli.col_value")], rows)
        voice.result(manifest)
        return
    if (Path(target) / "card.json").is_file():
        show_dataset(Path(target), voice)
        return
    run = open_target(target, (), runs)
    facts = run_facts(run.folder)
    voice.table([say("cli.col_key"), say("cli.col_value")], [(key, _listed(value)) for key, value in facts.items()])
    voice.result(facts | {"recipe": run.read("recipe.json")})


def run_facts(folder: Path) -> dict[str, Any]:
    """What a run is and how far it got, from its files alone."""
    record = read_kept(folder / "run.json")
    acts = sorted(path.stem for path in (folder / "acts").glob("*.json"))
    try:
        report = read_kept(folder / "report.json")
    except RunError:  # not evaluated yet, or damaged: what else is known is told all the same
        report = {}
    return {
        "run": str(folder),
        "name": record["name"],
        "created": record["created"],
        "finished": acts,
        "base": report.get("base", {}).get("accuracy"),
        "tuned": report.get("tuned", {}).get("accuracy"),
        "decision": (report.get("gate") or {}).get("decision"),
        "parity": report.get("parity", {}).get("verdict"),
        "artifacts": sorted(path.parent.name for path in (folder / "artifacts").glob("*/artifact.json")),
        "size_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }


def show_runs(runs: Path, voice: Voice) -> None:
    found = []
    for folder in list_runs(runs):
        try:
            found.append(run_facts(folder))
        except RunError as error:  # one damaged run must not hide the others
            voice.fail(error.text, error.fix)
    if not found:
        voice.say(say("cli.no_runs", folder=runs))
    else:
        voice.table(
            [say(f"cli.col_{name}") for name in ("run", "when", "state", "accuracy", "size")],
            [
                (Path(f["run"]).name, f["created"], f["decision"] or " · ".join(f["finished"][-1:]),
                 f"{_percent(f['base'])} → {_percent(f['tuned'])}", size_text(f["size_bytes"]))
                for f in found
            ],
        )  # fmt: skip
    voice.result(found)


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _listed(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _round(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
