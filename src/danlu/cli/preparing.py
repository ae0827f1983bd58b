"""What `danlu prepare` and `danlu inspect` print: rows and their fates, the dataset's parts, samples as the model sees
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.cli.voice import Voice
from danlu.core.messages import current_language, say
from danlu.data.dataset import Dataset
from danlu.run.run import Run

if TYPE_CHECKING:  # stands above torch; here it is only read
    from danlu.pipeline.prepare import Prepared


FIRST_REJECTS = 5
MOST_CHARACTERS, MOST_IDS = 480, 96
"""Of a preview's run of text and of ids: a page of a document says no more than its beginning and its end."""


def show_prepared(run: Run, prepared: Prepared, voice: Voice) -> None:
    rows = prepared.outcome["rows"]
    voice.say(say("cli.inspect_rows", **rows))
    for stage in prepared.stages:
        _show_parts(stage.name, stage.dataset.card.parts, voice)
    show_previews(run.read("dataset", "preview.json")[:1], voice)
    show_changes(prepared.ledger, voice)
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


def show_changes(ledger: Mapping[str, Any], voice: Voice) -> None:
    """What was changed in rows that stay, by kind: nobody has to guess what became of the text."""
    kinds = Counter(entry["code"] for entry in ledger["changes"])
    first = {entry["code"]: entry for entry in reversed(ledger["changes"])}
    for code, count in kinds.most_common(FIRST_REJECTS):
        shown = f"{count:,}+" if ledger["omitted"]["changes"] else f"{count:,}"
        entry = first[code]
        place = f"{entry['file']}:{entry['line']}"
        voice.say("  " + say("cli.changed", count=shown, reason=entry["reason"], place=place), "dim")


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


def show_previews(previews: Sequence[dict[str, Any]], voice: Voice) -> None:
    """Samples as the model sees them: green is learnt, dim is context; control tokens stand as they are."""
    if voice.quiet or not previews:
        return
    voice.say(say("cli.inspect_samples"), "bold")
    for shown in previews:
        voice.say(f"{shown['origin']} · " + say("cli.num_tokens", num=len(shown["ids"])), "dim")
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
