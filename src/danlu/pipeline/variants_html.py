"""The page of `danlu compare RUN`: size against what is right, then all figures of each variant. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.files import size_text
from danlu.core.html.charts import Point
from danlu.core.messages import Language, say
from danlu.evaluation.gate import percent

NOTHING = "–"
COLUMNS = ("variant", "size", "reader", "load", "speed", "memory", "kl", "agreement", "right", "changed")
BUSY = 0.5
"""From so much of each core taken by others, figures of time say little."""
NARROW = ("variant", "size", "load", "speed", "memory", "kl", "right")
"""What fits a terminal of eighty cells."""
_TONES: dict[str, html.Tone] = {"pass": "good", "fail": "bad"}


def render_variants(table: Mapping[str, Any], language: Language) -> str:
    def tell(key: str, **values: Any) -> str:
        return say(f"variants.{key}", language, **values)

    measured = [row for row in table["variants"] if row["measured"]]
    blocks = [
        html.stats(
            html.stat(tell("smallest"), size_text(min(map(total_bytes, table["variants"])))),
            html.stat(tell("fastest"), f"{max((row['measured']['tokens_per_s'] for row in measured), default=0):,.0f}",
                      tell("tokens_per_s")),
            html.stat(tell("questions"), f"{table['num_questions']:,}"),
            html.stat(tell("trained"), percent(table["trained"]["value"]) if table["trained"] else NOTHING,
                      tell("trained_note") if table["trained"] else tell("not_evaluated")),
        ),
        html.section(tell("plot"), _plot(table, language), lead=tell("plot_lead")),
        html.section(tell("table"), _figures(table, language), lead=tell("table_lead", hardware=table["hardware"])),
        *_unmeasured(table, language),
    ]  # fmt: skip
    lead = " ".join(filter(None, (tell("lead"), pruned_text(table, language))))
    return html.page(
        *blocks, title=tell("title", name=table["name"]), language=language, kicker="danlu compare", lead=lead,
        footer=" · ".join((table["run"], str(table["base"]), table["hardware"], f"danlu {table['danlu']}")),
    )  # fmt: skip


def variant_rows(
    table: Mapping[str, Any], language: Language | None = None, columns: Sequence[str] = COLUMNS
) -> tuple[list[str], list[tuple[str, ...]]]:
    """(columns, a row a variant), for page and terminal."""
    heads = [say(f"variants.col_{name}", language) for name in columns]
    return heads, [tuple(_cells(row, table["trained"])[name] for name in columns) for row in table["variants"]]


def _cells(row: Mapping[str, Any], trained: Mapping[str, Any] | None) -> Mapping[str, str]:
    cells = dict.fromkeys(COLUMNS, NOTHING) | {"variant": row["name"], "size": size_text(total_bytes(row))}
    if row["kl"] is not None:
        cells["kl"] = f"{row['kl']:.2g}"
    if row["num_equal"] is not None:
        cells["agreement"] = f"{row['num_equal']}/{row['num_answers']}"
    if not (found := row["measured"]):
        return cells
    memory = found["device_bytes"] or found["peak_bytes"]
    return cells | {
        "reader": row["reader"], "load": f"{found['load_s']:.2f} s", "speed": f"{found['tokens_per_s']:,.0f}",
        "memory": size_text(memory) if memory else NOTHING, "right": right_text(found["accuracy"]),
        "changed": _changed(found, trained),
    }  # fmt: skip


def right_text(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None:
        return NOTHING
    value, low, high = (100 * share for share in (accuracy["value"], *accuracy["interval"]))
    return f"{value:.0f}% ({low:.0f}–{high:.0f})"


def _changed(found: Mapping[str, Any], trained: Mapping[str, Any] | None) -> str:
    """Questions won and lost against the trained model, as it was evaluated."""
    if trained is None:
        return NOTHING
    both = [(trained["right"][name], now) for name, now in found["right"].items() if name in trained["right"]]
    return f"+{sum(now and not was for was, now in both)} −{sum(was and not now for was, now in both)}"


def pruned_text(table: Mapping[str, Any], language: Language | None = None) -> str:
    """Where the base was pruned: of what, and by how much; "" of a whole one."""
    if not (pruned := table["pruned"]):
        return ""
    before, after = pruned["layers"]
    layers, kl = ", ".join(map(str, pruned["left_out"])), f"{pruned['held_out']['kl']:.3f}"
    name = pruned["base"]["name"]
    return say("variants.pruned", language, base=name, before=before, after=after, layers=layers, kl=kl)


def is_busy(table: Mapping[str, Any]) -> bool:
    """Whether others were at work while something in the table was measured."""
    return any(row["measured"] and (row["measured"]["others_load"] or 0) > BUSY for row in table["variants"])


def total_bytes(row: Mapping[str, Any]) -> int:
    """What has to lie on the machine that answers."""
    return int(row["bytes"]) + int(row["base_bytes"])


def _plot(table: Mapping[str, Any], language: Language) -> Markup:
    asked = [row for row in table["variants"] if row["measured"] and row["measured"]["accuracy"]]
    if not asked:
        return html.paragraph(say("variants.no_plot", language))
    name, unit = ("GiB", 2**30) if max(map(total_bytes, asked)) >= 4 * 2**30 else ("MiB", 2**20)
    accuracies = [row["measured"]["accuracy"] for row in asked]
    points = [
        Point(row["name"], total_bytes(row) / unit, accuracy["value"], *accuracy["interval"])
        for row, accuracy in zip(asked, accuracies, strict=True)
    ]
    mark = (table["trained"]["value"], say("variants.trained", language)) if table["trained"] else None
    title, x_label = say("variants.plot", language), say("variants.plot_x", language, unit=name)
    return html.card("", html.scatter(points, title=title, x_label=x_label, mark=mark))


def _figures(table: Mapping[str, Any], language: Language) -> Markup:
    busy = html.paragraph(say("variants.busy", language)) if is_busy(table) else None
    return html.card("", html.table(*variant_rows(table, language)), busy, note=say("variants.columns_note", language))


def _unmeasured(table: Mapping[str, Any], language: Language) -> list[Markup]:
    """Why a variant was not measured, and proofs that did not pass."""

    def proof(verdict: str) -> Markup:
        return html.badge(say(f"variants.proof_{verdict}", language), tone=_TONES.get(verdict, "warn"))

    rows = [
        (row["name"], proof(row["verdict"]), row["why_not"])
        for row in table["variants"]
        if row["why_not"] or row["verdict"] != "pass"
    ]
    heads = [say(f"variants.col_{name}", language) for name in ("variant", "proof", "why")]
    return [html.section(say("variants.unmeasured", language), html.table(heads, rows, numeric=False))] if rows else []
