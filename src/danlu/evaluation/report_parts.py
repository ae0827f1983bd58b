"""Sections of the report that tell of danlu's own suites: probes, general ability, ways of asking, learning by heart.

Each function returns a section or a card, or None where nothing was measured. Composes `core.html`; measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.tag import Content, Tone, tag
from danlu.core.messages import Language, say
from danlu.evaluation.diagnosis import Finding
from danlu.evaluation.gate import part_name, percent, points
from danlu.evaluation.loss import kept
from danlu.evaluation.report import Report

_STATES: dict[str, Tone] = {"kept": "good", "unproven": "warn", "lost": "bad"}
LITTLE_TO_LOSE = 0.1
"""A base that answers fewer general questions than this has no general ability that could be lost."""
_ENDINGS = ("cut", "looped", "empty", "control")


def probes_section(report: Report, language: Language) -> Markup | None:
    if not report.probes:
        return None
    heads = [_word(f"report.{name}", language) for name in ("edge_kind", "num_items", "base", "tuned")]
    heads.append(_word("proof.change", language))
    rows: list[list[Content]] = []
    for kind, part in sorted(report.probes["kinds"].items()):
        rows.append([
            _kind(kind, _special(part["tuned"], language), language),
            str(part["tuned"]["num_items"]),
            percent(part["base"]["accuracy"]),
            percent(part["tuned"]["accuracy"]),
            _change(part["difference"], language),
        ])  # fmt: skip
    card = html.card("", html.table(heads, rows))
    return html.section(_word("proof.sections_probes", language), card, lead=_word("proof.probes_lead", language))


def _kind(kind: str, special: list[str], language: Language) -> Markup:
    """A suite's name, and below it what its accuracy hides."""
    note = _word("report.list_comma", language).join(special)
    below = tag("span", {"class": "cell-note"}, note) if note else Markup("")
    return Markup("").join([tag("span", None, part_name(kind, language)), below])


def _special(told: Mapping[str, Any], language: Language) -> list[str]:
    """What a bare accuracy of the tuned model hides, in words."""
    found = []
    for key, code in (("pair_accuracy", "pair"), ("macro_f1", "macro_f1"), ("refusal_f1", "refusal"),
                      ("leak_ratio", "leak"), ("loose", "loose")):  # fmt: skip
        if key in told:
            found.append(say(f"proof.special_{code}", language, share=percent(told[key])))
    if "wordings" in told:
        found.append(say("proof.special_wordings", language, share=percent(told["wordings"]["consistent_right"])))
    if "control_gap" in told:
        found.append(say("proof.special_control_gap", language, points=points(-told["control_gap"])))
    return found


def general_section(report: Report, language: Language) -> Markup | None:
    if not report.general:
        return None
    heads = [_word(f"proof.{name}", language) for name in ("category", "change", "bounds", "state")]
    heads[1:1] = [_word(f"report.{name}", language) for name in ("num_items", "base", "tuned")]
    overall, single = _margins(report)
    parts = [(_word("proof.all_general", language), report.general, overall)]
    parts += [(part_name(name, language), part, single) for name, part in sorted(report.general["categories"].items())]
    rows: list[list[Content]] = []
    for name, part, margin in parts:
        state = kept(part["bounds"], margin)
        low, high = part["bounds"]
        rows.append([
            name, str(part["tuned"]["num_items"]), percent(part["base"]["accuracy"]),
            percent(part["tuned"]["accuracy"]), points(part["difference"]["value"]),
            _word("report.interval", language, low=points(low), high=points(high)),
            html.badge(_word(f"proof.state_{state}", language), tone=_STATES[state]),
        ])  # fmt: skip
    base = report.general["base"]["accuracy"]
    weak = _word("proof.general_weak", language, base=percent(base)) if base < LITTLE_TO_LOSE else ""
    card = html.card("", html.table(heads, rows), note=weak)
    return html.section(_word("proof.sections_general", language), card, lead=_word("proof.general_lead", language))


def _margins(report: Report) -> tuple[float, float]:
    """What the gate allowed, overall and per category; danlu's defaults where it did not say."""
    wanted = {reason.code.partition("_")[0]: reason.values.get("wanted") for reason in _reasons(report)}
    return tuple(  # type: ignore[return-value]
        float(wanted[name] or default) / 100 if name in wanted else default / 100
        for name, default in (("general", 2.0), ("category", 5.0))
    )


def _reasons(report: Report) -> list[Any]:
    return list(report.verdict.reasons) if report.verdict else []


def ways_card(report: Report, language: Language) -> Markup | None:
    """Each way of asking again, base above tuned, as stacked bars."""
    ways = (report.consistency or {}).get("ways")
    if not ways:
        return None
    kinds: tuple[tuple[str, Tone], ...] = (
        ("consistent_right", "good"), ("inconsistent", "warn"), ("consistent_wrong", "bad"),
    )  # fmt: skip
    legend = html.legend([(_word(f"report.{name}", language), tone) for name, tone in kinds])
    blocks = []
    for way in ("sampled", "greedy", "wordings"):  # as one reads them; JSON keeps no order
        if way in ways:
            shares = [
                (_word(f"report.{side}", language), [(float(ways[way][side][name]), tone) for name, tone in kinds])
                for side in ("base", "tuned")
            ]
            label = _word(f"proof.way_{way}", language)
            asked = _word("proof.way_items", language, way=label, items=ways[way]["tuned"]["num_items"])
            blocks += [tag("p", {"class": "stat-label"}, asked), html.stacked(shares, title=label)]
    note = _word("proof.ways_note", language)
    return html.card(_word("proof.ways", language), legend, *blocks, note=note)


def learning_section(report: Report, language: Language) -> Markup | None:
    """The diagnosis in words, then what it rests on: rows learnt by heart, the learning curve."""
    findings = [Finding.from_json(told) for told in report.diagnosis]
    cards = [card for card in (_curve_card(report, language), _heart_card(report, language)) if card]
    if not findings and not cards:
        return None
    lines = [
        tag(
            "li",
            {"class": "passed" if finding.is_good else "failed"},
            tag("span", {"class": "tick", "aria-hidden": "true"}, "✓" if finding.is_good else "!"),
            tag("span", None, finding.text(language), _remedy(finding.remedy(language))),
        )
        for finding in findings
    ]
    told = html.card("", tag("ul", {"class": "checks"}, *lines)) if lines else None
    grid = html.grid(*cards, wide=True) if cards else None
    lead = _word("proof.learning_lead", language)
    return html.section(_word("proof.sections_learning", language), told, grid, lead=lead)


def _remedy(text: str) -> Markup | None:
    return tag("span", {"class": "remedy"}, text) if text else None


def _heart_card(report: Report, language: Language) -> Markup | None:
    section = report.memorisation
    if not section or "trained" not in section["tuned"] or "held_out" not in section["tuned"]:
        return None
    heads = ["", _word("proof.heart_trained", language), _word("proof.heart_held_out", language)]
    parts = ("trained", "held_out")
    rows: list[list[Content]] = [
        [_word("proof.heart_gain", language), *(_estimate(section[f"{part}_gain"], language) for part in parts)],
        [_word("proof.heart_loss", language), *(f"{section['tuned'][part]['loss']:.3f}" for part in parts)],
        [_word("proof.heart_longest", language), *(_recited(section["tuned"][part], "longest_copy") for part in parts)],
        [_word("proof.heart_long", language, length=section["long_copy"]),
         *(_recited(section["tuned"][part], "long_copy_ratio") for part in parts)],
    ]  # fmt: skip
    note = _word("proof.heart_note", language)
    if "carried_over" in section:
        carried = _word("proof.heart_carried", language, share=percent(max(0.0, section["carried_over"])))
        note = f"{carried} {note}" if language == "en" else f"{carried}{note}"
    return html.card(_word("proof.heart", language), html.table(heads, rows), note=note)


def _recited(told: Mapping[str, Any], name: str) -> str:
    """Rows too short to be cut in two were not asked to be continued."""
    if not told["num_continued"]:
        return "–"
    return percent(told[name]) if name.endswith("_ratio") else str(told[name])


def _estimate(told: Mapping[str, Any], language: Language) -> str:
    low, high = told["interval"]
    return f"{told['value']:.2f} ({_word('report.interval', language, low=f'{low:.2f}', high=f'{high:.2f}')})"


def _curve_card(report: Report, language: Language) -> Markup | None:
    if not report.curve:
        return None
    told = [(float(point["num_rows"]), 100 * float(point["accuracy"])) for point in report.curve["points"]]
    title = _word("proof.curve", language)
    series = [html.Series(title, told, "tuned", dotted=True)]
    doubling = report.curve["doubling"]
    low, high = doubling["interval"]
    note = _word(
        "proof.curve_note", language,
        share=percent(doubling["from"]), gain=points(doubling["value"]), low=points(low), high=points(high),
    )  # fmt: skip
    chart = html.lines(
        series,
        title=title,
        x_label=_word("proof.curve_rows", language),
        y_label=_word("proof.curve_accuracy", language),
    )
    return html.card(title, chart, note=note)


def endings_card(report: Report, language: Language) -> Markup | None:
    if not report.endings:
        return None
    heads = [_word("proof.endings_task", language), _word("proof.endings_answers", language)]
    heads += [_word(f"proof.endings_{fault}", language) for fault in _ENDINGS]
    rows: list[list[Content]] = [
        [
            _task(task, language), str(sides["tuned"]["num_answers"]),
            *(f"{sides['tuned'][fault]} ({sides['base'][fault]})" for fault in _ENDINGS),
        ]
        for task, sides in sorted(report.endings.items())
    ]  # fmt: skip
    note = _word("proof.endings_note", language)
    return html.section(_word("proof.endings", language), html.card("", html.table(heads, rows), note=note))


def _task(task: str, language: Language) -> str:
    known = {"domain": "report.task_domain", "edge": "report.edge", "probes": "proof.task_probes",
             "general": "proof.task_general"}  # fmt: skip
    return _word(known[task], language) if task in known else task


def _change(changes: Mapping[str, Any], language: Language) -> Markup:
    low, high = changes["interval"]
    tones: dict[str, str] = {"better": "good", "worse": "bad"}
    text = f"{points(changes['value'])} ({_word('report.interval', language, low=points(low), high=points(high))})"
    return tag("span", {"class": tones.get(changes["direction"], "")}, text)


def _word(key: str, language: Language, /, **values: Any) -> str:
    return say(key, language, **values)
