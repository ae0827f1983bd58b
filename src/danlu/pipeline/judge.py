"""judge: a model's opinion of a run's answers, base beside tuned, and the sheet that holds the judge to people's.

Reads the answers that `evaluate` kept in report.json; writes judge.json, judge-sheet.csv and judge-key.json. What was
judged once is remembered, so a stopped judgement goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EvaluationError, RunError
from danlu.core.files import write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.sample import Document, Label, Message, Preference
from danlu.data.samples_file import read_samples
from danlu.engines.cost import Bill, Price
from danlu.engines.engine import Engine
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.self_test import self_test
from danlu.evaluation.cache import CachedEngine
from danlu.evaluation.clusters import clusters
from danlu.evaluation.fold import is_chinese
from danlu.evaluation.items import Item, load_questions
from danlu.evaluation.judge.judge import Judge
from danlu.evaluation.judge.sheet import NUM_ROWS, Judged, read_sheet, write_sheet
from danlu.evaluation.judge.summary import family_of, pair_summary, rating_summary
from danlu.openai.address import Address
from danlu.pipeline.remote_teacher import is_loopback
from danlu.recipe.model import ModelSection
from danlu.run.run import Run

JUDGED = "judge.json"
FREE_LEVELS = ("public", "internal")
"""What may leave this machine unless more is allowed by name."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Who judges: a model behind a URL, or without one a folder, hub id or embedded model on this machine."""

    model: str
    url: str | None = None
    key_file: Path | None = None
    key_variable: str | None = None
    price: Price | None = None
    max_cost: float | None = None
    num_parallel: int = 8
    levels: tuple[str, ...] = FREE_LEVELS

    @property
    def is_external(self) -> bool:
        return self.url is not None and not is_loopback(Address.parse(self.url).host)

    def endpoint(self) -> Endpoint:
        assert self.url is not None, "a local judge has no endpoint"
        return Endpoint(
            self.url, self.model, key_file=self.key_file, key_variable=self.key_variable, num_parallel=self.num_parallel
        )


def judge(
    run: Run,
    seat: Seat,
    *,
    rubric: str = "",
    max_items: int | None = None,
    sheet_rows: int = NUM_ROWS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Both orders of each pair and a score for each answer; the JSON that is kept as judge.json."""
    progress = progress or Silent()
    for warning in (warnings := kin(run, seat.model)):
        progress.note(warning)
    with run.acting("judge"):
        run.forget("judge")  # whoever judged before
        rows = _rows(run)
        num_all = len(rows)
        if seat.is_external:
            rows = _cleared(run, rows, seat.levels)
            if num_all > len(rows):
                progress.note(say("judge.withheld", num=num_all - len(rows)))
            progress.note(say("judge.sent", num=len(rows), host=Address.parse(str(seat.url)).host))
        rows = rows[:max_items]
        if not rows:
            raise EvaluationError("judge.nothing", where=str(run.folder), given=str(run.path("report.json")))
        items = [_item(row) for row in rows]
        base, tuned = ([row[side]["answers"][0] for row in rows] for side in ("base", "tuned"))
        bill = Bill(seat.price, cap=seat.max_cost)
        engine, tested = open_judge(seat, bill, progress)
        progress.start(say("judge.asking", judge=engine.name), 4 * len(items))
        asked = Judge(CachedEngine(engine, run.path("answers")), rubric)
        verdicts = asked.compare(items, base, tuned, watch=progress.advance)
        rated_base, rated_tuned = (asked.rate(items, answers, watch=progress.advance) for answers in (base, tuned))
        progress.finish()
        groups = clusters(items)
        lengths = [(len(one), len(other)) for one, other in zip(base, tuned, strict=True)]
        judged = [
            Judged(item, one, other, verdict, (first, second))
            for item, one, other, verdict, first, second in zip(
                items, base, tuned, verdicts, rated_base, rated_tuned, strict=True
            )
        ]
        num_differing = sum(one.first.strip() != one.second.strip() for one in judged)
        sheet = write_sheet(run.folder, judged, num_rows=sheet_rows)
        found = {
            "judge": engine.name, "family": family_of(seat.model), "warnings": warnings, "self_test": tested,
            "pairs": pair_summary(verdicts, lengths, groups),
            "scores": rating_summary(rated_base, rated_tuned, groups),
            "reading": asked.reading.to_json(), "cost": bill.to_json(), "sheet": str(sheet),
            "sheet_rows": min(sheet_rows, num_differing),
            "withheld": num_all - len(rows),
            "items": [
                verdict.to_json() | {"scores": [first.score, second.score]}
                for verdict, first, second in zip(verdicts, rated_base, rated_tuned, strict=True)
            ],
        }  # fmt: skip
        write_json(run.path(JUDGED), found)
        return found


def read_people(run: Run, sheet: Path) -> dict[str, Any]:
    """What people filled in, beside the judge; kept in judge.json."""
    agreement = read_sheet(sheet)
    if run.path(JUDGED).is_file():
        write_json(run.path(JUDGED), run.read(JUDGED) | {"people": agreement})
    return agreement


def kin(run: Run, judge_model: str) -> list[str]:
    """A judge of the teacher's or the base's family is warned about."""
    family = family_of(judge_model)
    others = (("teacher", run.recipe.data.teacher.model or ""), ("base", run.recipe.model.base))
    return [
        say(
            "judge.same_family",
            judge=judge_model,
            role=say(f"judge.role_{role}"),
            other=Path(other).name,
            family=family,
        )
        for role, other in others
        if other and family_of(other) == family
    ]


def open_judge(seat: Seat, bill: Bill, progress: Progress) -> tuple[Engine, dict[str, Any] | None]:
    """The engine, and what the self-test of its server found."""
    if seat.url is not None:
        endpoint = seat.endpoint()
        tested = self_test(endpoint)
        tested.require()
        for finding in tested.findings:
            if finding.outcome == "fail" and finding.name == "determinism":
                progress.note(finding.said)
        return RemoteEngine(endpoint, bill=bill), tested.to_json()
    from danlu.pipeline.loading import load_engine  # torch: only where the judge is no server

    return load_engine(ModelSection(base=seat.model), seed=0, progress=progress), None


def _rows(run: Run) -> list[dict[str, Any]]:
    try:
        rows = run.read("report.json")["items"]
    except (RunError, KeyError, TypeError) as fault:
        raise EvaluationError("judge.nothing", where=str(run.folder), given=str(run.path("report.json"))) from fault
    return [row for row in rows if row["task"] == "domain" and row["base"]["answers"] and row["tuned"]["answers"]]


def _cleared(run: Run, rows: Sequence[dict[str, Any]], levels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows whose level may leave. Held-out rows carry theirs; a file of the user's own has none and may."""
    path = run.path("dataset", "test.jsonl")
    samples = [s for s in read_samples(path) if not isinstance(s, Document | Preference)] if path.is_file() else []
    closed = [sample for sample in samples if str(sample.tags.get("level") or "internal") not in levels]
    asked = {item.text for item in load_questions(closed).items}
    # A text to be classed stands inside the question that training worded around it.
    inside = [sample.text for sample in closed if isinstance(sample, Label)]
    return [row for row in rows if row["question"] not in asked and not any(text in row["question"] for text in inside)]


def _item(row: dict[str, Any]) -> Item:
    """The report's row as it was asked; one without a reference is judged without."""
    group, language = row.get("group"), row.get("language")
    return Item(
        row["id"], (Message("user", row["question"]),), row["reference"] or "",
        group="" if group is None else str(group), document=row.get("document") or "",
        language=language or ("zh" if is_chinese(row["question"]) else "en"),
    )  # fmt: skip
