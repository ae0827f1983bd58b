"""The page of `danlu compare`: better or not, task by task, and which questions changed sides."""

from __future__ import annotations

from markupsafe import Markup

from danlu.core.html.blocks import badge, banner, card, facts, grid, paragraph, section, stat, stats, table
from danlu.core.html.charts import Interval, forest
from danlu.core.html.filter_table import Filter, Row, filter_table
from danlu.core.html.page import page
from danlu.core.html.tag import Tone
from danlu.core.messages import Language, current_language, say
from danlu.evaluation.compare import ReportComparison, SideBySide
from danlu.evaluation.gate import percent, points

_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "no_evidence": ""}
MOST_ROWS = 2000


_NAMES = {"domain": "report.task_domain", "consistency": "report.task_consistency", "edge": "report.edge",
          "probes": "proof.task_probes", "general": "proof.task_general"}  # fmt: skip


def task_name(task: str, language: Language | None = None) -> str:
    """A task's name in the reader's language, where danlu knows one."""
    return say(_NAMES[task], language) if task in _NAMES else task


def render_comparison(found: SideBySide, language: Language | None = None) -> str:
    """One self-contained page."""
    spoken = language or current_language()
    head, names = found.headline, found.names
    direction = head.comparison.direction
    blocks = [
        banner(say(f"compare.{direction}", spoken, first=names[0], second=names[1]), _sentence(head, spoken),
               tone=_TONES[direction]),
        stats(
            stat(names[0], percent(found.first.tuned.get("accuracy")), say("compare.first", spoken)),
            stat(names[1], percent(found.second.tuned.get("accuracy")), say("compare.second", spoken)),
            stat(say("compare.gained", spoken), str(len(head.gained)), say("compare.newly_right", spoken), tone="good"),
            stat(say("compare.lost", spoken), str(len(head.lost)), say("compare.newly_wrong", spoken), tone="bad"),
        ),
        *_differing(found, spoken),
        section(say("compare.tasks", spoken),
                grid(card("", forest(_intervals(found, spoken), title=say("compare.tasks", spoken))),
                     card("", table(*task_rows(found, spoken))), wide=True), lead=say("compare.tasks_lead", spoken)),
        section(say("compare.questions", spoken), _questions(found, spoken)),
    ]  # fmt: skip
    title = say("compare.title", spoken, first=names[0], second=names[1])
    return page(*blocks, title=title, language=spoken, kicker="danlu compare")


def _sentence(head: ReportComparison, language: Language) -> str:
    told = head.comparison
    return say(
        "compare.sentence", language, value=points(told.value), low=points(told.low), high=points(told.high),
        p=f"{told.p:.3g}", items=head.num_shared, detectable=f"{100 * told.detectable:.1f}",
    )  # fmt: skip


def _differing(found: SideBySide, language: Language) -> list[Markup]:
    if not found.changes and not (found.headline.num_only_first or found.headline.num_only_second):
        return []
    pairs = [
        (say(f"compare.what_{one.what}", language), f"{one.first[:16]} → {one.second[:16]}") for one in found.changes
    ]
    head = found.headline
    only = say("compare.only", language, first=head.num_only_first, second=head.num_only_second)
    parts = ([facts(pairs)] if pairs else []) + [paragraph(only)] * bool(head.num_only_first or head.num_only_second)
    return [section(say("compare.changes", language), grid(*parts, wide=True))]


def _intervals(found: SideBySide, language: Language) -> list[Interval]:
    return [
        Interval(
            task_name(one.task, language),
            one.comparison.value,
            one.comparison.low,
            one.comparison.high,
            points(one.comparison.value),
        )
        for one in found.tasks
    ]


def task_rows(found: SideBySide, language: Language | None = None) -> tuple[list[str], list[tuple[str, ...]]]:
    """(columns, a row a task)"""
    columns = [say(f"compare.col_{name}", language) for name in ("task", "change", "interval", "p", "items", "sides")]
    return columns, [
        (
            task_name(one.task, language), points(one.comparison.value),
            f"{points(one.comparison.low)} … {points(one.comparison.high)}",
            f"{one.p_holm:.3g}", str(one.num_shared), f"+{len(one.gained)} −{len(one.lost)}",
        )
        for one in found.tasks
    ]  # fmt: skip


def _questions(found: SideBySide, language: Language) -> Markup:
    """Those that changed sides, both answers beside each other."""
    before = {(row["task"], row["id"]): row for row in found.first.items}
    after = {(row["task"], row["id"]): row for row in found.second.items}
    rows = []
    for one in found.tasks:
        for side, names in (("lost", one.lost), ("gained", one.gained)):
            for name in names:
                old, new = before[one.task, name], after[one.task, name]
                mark = badge(say(f"compare.{side}", language), tone="good" if side == "gained" else "bad")
                cells = (
                    mark,
                    task_name(one.task, language),
                    old["question"],
                    old["reference"],
                    _answer(old),
                    _answer(new),
                )
                rows.append(Row(cells, (side, one.task)))
    heads = [say(f"compare.col_{name}", language) for name in ("side", "task", "question", "reference", "was", "now")]
    filters = [Filter("", say("compare.all", language)), Filter("lost", say("compare.lost", language)),
               Filter("gained", say("compare.gained", language))]  # fmt: skip
    return filter_table(
        heads, rows[:MOST_ROWS], filters=filters, search=say("compare.search", language),
        empty=say("compare.none_changed", language),
    )  # fmt: skip


def _answer(row: dict[str, object]) -> str:
    tuned = row["tuned"]
    assert isinstance(tuned, dict), "a result"
    answers = tuned.get("answers") or [""]
    return str(answers[0])
