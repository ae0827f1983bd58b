"""The page of a selection: what was chosen out of the pool, by which doubt, and why each row. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.tag import Content
from danlu.core.messages import Language, say
from danlu.data.excerpts import veil
from danlu.data.quality.lengths import SCORE_EDGES, histogram_of
from danlu.pipeline.data_report_charts import columns
from danlu.pipeline.data_report_words import count

_SHOWN_CHARS = 220


def render_selection(told: Mapping[str, Any], *, language: Language) -> str:
    """`told` is `selection_json`. One self-contained page."""

    def word(key: str, **values: Any) -> str:
        return say(f"select.{key}", language, **values)

    tasks = told["tasks"]
    lead = word("page_lead", chosen=count(len(tasks)), pool=count(told["pool"]))
    return html.page(
        html.banner(word("page_title"), word(f"by_{told['by']}"), tone="good" if tasks else "warn"),
        _numbers(told, word),
        _pictures(told, word),
        _functions(told, word),
        html.section(word("rows"), _table(told, word), lead=word("rows_lead")),
        title=word("page_name"),
        language=language,
        kicker=word("kicker"),
        lead=lead,
        footer=html.paragraph(word("page_footer")),
    )


def _numbers(told: Mapping[str, Any], word: Any) -> Markup:
    tasks, doubts = told["tasks"], told["pool_doubts"]
    chosen = [task["why"].get("doubt", 0.0) for task in tasks]
    blocks: list[Content] = [
        html.stat(word("chosen"), count(len(tasks)), word("chosen_detail", pool=count(told["pool"])), tone="tuned"),
        html.stat(word("labelled"), count(told["labelled"]), word("labelled_detail"))
        if told["by"] != "errors"
        else None,
    ]
    if chosen and doubts and told["by"] != "spread":
        pool = sum(doubts) / len(doubts)
        blocks.append(
            html.stat(word("doubt"), f"{sum(chosen) / len(chosen):.2f}", word("doubt_detail", pool=f"{pool:.2f}"))
        )
    distances = [task["why"]["distance"] for task in tasks if "distance" in task["why"]]
    if distances:
        mean = f"{sum(distances) / len(distances):.2f}"
        blocks.append(html.stat(word("distance"), mean, word("distance_detail")))
    return html.stats(*blocks)


def _pictures(told: Mapping[str, Any], word: Any) -> Markup | None:
    """Doubt in the pool beside doubt of what was chosen."""
    if told["by"] == "spread" or not told["pool_doubts"] or not told["tasks"]:
        return None
    cards = []
    for name, doubts in (("pool", told["pool_doubts"]), ("chosen", [task["why"]["doubt"] for task in told["tasks"]])):
        title = word(f"doubt_of_{name}")
        cards.append(html.card(title, columns(histogram_of(doubts, SCORE_EDGES), title=title, x_label=word("doubt"))))
    return html.section(
        word("why"), html.grid(*cards, wide=True), lead=word("why_errors" if told["by"] == "errors" else "why_lead")
    )


def _functions(told: Mapping[str, Any], word: Any) -> Markup | None:
    if not told["functions"]:
        return None
    heads = [word(name) for name in ("function", "label", "coverage", "overlap", "conflict", "accuracy")]
    rows: list[list[Content]] = [
        [one["name"], one["label"], *(f"{one[name]:.2f}" for name in ("coverage", "overlap", "conflict", "accuracy"))]
        for one in told["functions"]
    ]
    return html.section(word("functions"), html.card("", html.table(heads, rows)), lead=word("functions_lead"))


def _table(told: Mapping[str, Any], word: Any) -> Markup:
    has_given = any("given" in task["why"] for task in told["tasks"])
    has_suggestion = any(task["suggestion"] is not None for task in told["tasks"])
    heads = [word("number"), word("text")]
    heads += [word("given")] if has_given else []
    heads += [word("suggestion")] if has_suggestion else []
    heads += [word("doubt"), *([] if has_given else [word("distance"), word("density")])]
    rows = []
    for number, task in enumerate(told["tasks"], start=1):
        why = task["why"]
        cells: list[Content] = [str(number), _text(task)]
        keys: list[str | float] = [number, ""]
        if has_given:
            cells.append(str(why.get("given", "")))
            keys.append("")
        if has_suggestion:
            sure = "" if task["sureness"] is None else f"{task['sureness']:.2f}"
            note = html.tag("span", {"class": "cell-note"}, sure)
            cells.append(html.tag("div", None, veil(task["suggestion"] or "–", _SHOWN_CHARS), note))
            keys.append("")
        for name in ("doubt",) if has_given else ("doubt", "distance", "density"):
            cells.append(f"{why.get(name, 0.0):.2f}")
            keys.append(why.get(name, 0.0))
        rows.append(html.Row(tuple(cells), (f"batch-{why.get('batch', 1)}",), tuple(keys)))
    batches = sorted({int(task["why"].get("batch", 1)) for task in told["tasks"]})
    filters = [html.Filter("", word("all"))]
    if 1 < len(batches) <= 12:
        filters += [html.Filter(f"batch-{batch}", word("batch", number=batch)) for batch in batches]
    return html.filter_table(heads, rows, filters=filters, search=word("search"), empty=word("nothing_left"))


def _text(task: Mapping[str, Any]) -> Markup:
    note = html.tag("span", {"class": "cell-note"}, task["origin"])
    return html.tag("div", None, veil(task["text"], _SHOWN_CHARS), note)
