"""What commands print when they are done: for people as text and tables, for scripts as one JSON line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.cli.preparing import show_dataset
from danlu.cli.targets import is_artifact, open_target
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.files import size_text
from danlu.core.messages import listed, say
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.run.artifact import Manifest
from danlu.run.kept import read_kept
from danlu.run.run import Run, list_runs

if TYPE_CHECKING:  # these stand above torch; here they are only read
    from danlu.pipeline.demo import Story
    from danlu.pipeline.export import Exported
    from danlu.pipeline.run_all import Summary
    from danlu.pipeline.train import Trained


NOTHING = "–"
_SHORT = 48
"""Characters of a base's name, type and digest that a line has room for."""


def show_trained(run: Run, stages: Sequence[Trained], voice: Voice) -> None:
    voice.table(
        [say(f"cli.col_{column}") for column in ("stage", "steps", "loss", "validation", "place")],
        [
            (stage.name, stage.facts["num_steps"], _measured(stage.facts, "train"),
             _measured(stage.facts, "validation"), stage.folder)
            for stage in stages
        ],
    )  # fmt: skip
    voice.say(say("cli.next", command=f"danlu evaluate {run.folder}"))
    voice.result({"run": str(run.folder), "stages": [{"name": stage.name} | stage.facts for stage in stages]})


def _measured(facts: Mapping[str, Any], part: str) -> str:
    """A loss, or where answers are rewarded what they earned."""
    if f"{part}_reward" not in facts:
        return _round(facts[f"{part}_loss"])
    return say("cli.earned", reward=_round(facts[f"{part}_reward"]))


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
        voice.say(f"{artifact.manifest.kind}: {artifact.folder} · {_proof(artifact.verdict)}", style)
        checks = artifact.manifest.parity.get("checks", [])
        missed = [check for check in checks if check["verdict"] != "pass"]
        voice.say("  " + say("cli.checks_passed", num=len(checks) - len(missed), all=len(checks)), "dim")
        for check in missed:
            why = f" · {check['note']}" if check.get("note") else ""
            voice.say(f"  ✗ {check['name']}: {check['verdict']}{why}")
    voice.result([{"folder": str(a.folder)} | a.manifest.to_json() for a in artifacts])
    return all(artifact.verdict == "pass" for artifact in artifacts)


def show_summary(run: Run, summary: Summary, voice: Voice) -> None:
    show_report(run.folder, summary.report, Voice(quiet=voice.quiet or voice.as_json))
    show_artifacts(summary.artifacts, Voice(quiet=voice.quiet or voice.as_json))
    voice.say(say("cli.demo_next", run=run.folder, report=run.path("report.html")))
    voice.result(summary_json(run, summary))


def summary_json(run: Run, summary: Summary) -> dict[str, Any]:
    """What a whole run came to, for scripts."""
    return {
        "run": str(run.folder), "base": _side(summary.report, "base"), "tuned": _side(summary.report, "tuned"),
        "consistency": summary.report.consistency_ratio, "gate": summary.report.gate,
        "parity": {"verdict": summary.parity_verdict}, "report": str(run.path("report.html")),
    }  # fmt: skip


def _side(report: Report, side: str) -> dict[str, Any]:
    part = getattr(report, side)
    return {"accuracy": part.get("accuracy"), "interval": part.get("interval")}


def show_demo(story: Story, voice: Voice) -> None:
    """The demo's last words: a table per stage for --full, the verdict, and the JSON line scripts rely on."""
    report = story.summary.report
    if len(report.stages) > 1:
        voice.table(
            [say("cli.col_stage"), say("cli.col_accuracy"), say("cli.row_preference"), say("cli.row_forgetting")],
            [(rung["name"], percent(rung["accuracy"]), percent(rung["pair_accuracy"]), _round(rung["perplexity"]))
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
    voice.say(say("cli.demo_consistency", temperature=temperature, value=percent(report.consistency_ratio)))
    voice.say(say("cli.demo_parity", verdict=_proof(story.summary.parity_verdict)))
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
        _table_of_facts(_about_artifact(manifest), voice)
        voice.result(manifest)
        return
    if (Path(target) / "card.json").is_file():
        show_dataset(Path(target), voice)
        return
    run = open_target(target, (), runs)
    facts = run_facts(run.folder) | _trained(run) | _rewarded(run)
    rewards = {"rewards": _earned(facts["rewards"])} if "rewards" in facts else {}
    if "trained" in facts:
        rewards["trained"] = "{num_trainable:,} / {num_params:,} ({ratio:.2%})".format(**facts["trained"])
    told = facts | rewards | {
        "created": _when(facts["created"]), "base": percent(facts["base"]), "tuned": percent(facts["tuned"]),
        "decision": _decision(facts) if facts["decision"] else NOTHING,
        "parity": _proof(facts["parity"]) if facts["parity"] else NOTHING,
        "size_bytes": size_text(facts["size_bytes"]),
    }  # fmt: skip
    _table_of_facts(told, voice)
    voice.result(facts | {"recipe": run.read("recipe.json")})


def _about_artifact(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What people ask of exported files; every digest whole is in the JSON."""
    base, parents = manifest["base"], manifest["parents"]
    return {
        "kind": manifest["kind"], "name": manifest["name"], "created": _when(manifest["created"]),
        "parity": _proof(manifest["parity"]["verdict"]), "digest": manifest["digest"],
        "on_base": " · ".join(str(base[key]) for key in ("name", "dtype", "digest") if base.get(key))[:_SHORT],
        "parents": [f"{name} {str(digest)[:12]}" for name, digest in parents.items()],
    }  # fmt: skip


def _table_of_facts(facts: Mapping[str, Any], voice: Voice) -> None:
    voice.table(
        [say("cli.col_fact"), say("cli.col_value")],
        [(say(f"cli.fact_{key}"), _listed(value)) for key, value in facts.items()],
    )


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


def _earned(rewards: Mapping[str, float | None]) -> str:
    return " · ".join(f"{name} {_round(value)}" for name, value in rewards.items())


def _trained(run: Run) -> dict[str, Any]:
    """How many weights the last stage trained, of how many."""
    stages = run.recipe.plan_stages()
    outcome = run.outcome(f"train-{len(stages)}-{stages[-1].method.kind}") or {}
    if not outcome.get("num_params") or "num_trainable" not in outcome:
        return {}
    trained, whole = outcome["num_trainable"], outcome["num_params"]
    return {"trained": {"num_trainable": trained, "num_params": whole, "ratio": trained / whole}}


def _rewarded(run: Run) -> dict[str, Any]:
    """Of a run whose last stage learnt from rewards: what the best validation earned, and the last step with it."""
    steps = list(run.events.read("step"))
    last = steps[-1] if steps else {}
    if "reward" not in last.get("metrics", {}):
        return {}
    checks = [step["validation"]["reward"] for step in steps if "reward" in step.get("validation", {})]
    return {"rewards": {"validation": max(checks, default=None)} | last["metrics"]}


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
                (Path(f["run"]).name, _when(f["created"]), _decision(f),
                 f"{percent(f['base'])} → {percent(f['tuned'])}", size_text(f["size_bytes"]))
                for f in found
            ],
            num_whole=1,
        )  # fmt: skip
    voice.result(found)


def _proof(verdict: str) -> str:
    """A parity verdict in words."""
    return say(f"cli.proof_{verdict}".replace(" ", "_")) if verdict in ("pass", "fail", "not run") else verdict


def _decision(found: Mapping[str, Any]) -> str:
    """What the gate said; before that, how far the run has come."""
    if found["decision"]:
        return say(f"report.{found['decision']}")
    reached = {name.partition("-")[0] for name in found["finished"]}
    last = next((act for act in ("export", "evaluate", "train", "prepare") if act in reached), None)
    return say(f"cli.state_{last}") if last else NOTHING


def _when(moment: str) -> str:
    """A time of the record (UTC) as this machine's clock shows it."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"


def _listed(value: Any) -> Any:
    return listed(map(str, value)) if isinstance(value, list) else value


def _round(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
