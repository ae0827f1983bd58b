"""The report as one self-contained HTML file in Chinese or English. Composes `core.html` blocks; measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.messages import Language, current_language, load_room, say
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.evaluation.report_answers import answers_section
from danlu.evaluation.report_charts import KINDS, forest_rows, overview_bars, stability_rows
from danlu.evaluation.report_outside import outside_section
from danlu.evaluation.report_parts import (
    endings_card,
    general_section,
    learning_section,
    probes_section,
    ways_card,
)
from danlu.evaluation.report_screen import checks, screen

_PARTS = ("train", "validation", "test")
_FORGOTTEN_FROM = 1.15
"""A rise of perplexity that is shown in red where no gate says otherwise."""


def render_html(report: Report, *, language: Language | None = None) -> str:
    """The whole document."""
    chosen = language or current_language()
    view = _View(report, chosen)
    return html.page(
        screen(report, chosen),
        view.numbers(),
        checks(report, chosen),
        view.comparison(),
        view.stages(),
        general_section(report, chosen),
        probes_section(report, chosen),
        view.edges(),
        view.classes(),
        answers_section(report, chosen),
        outside_section(report, chosen),
        learning_section(report, chosen),
        view.training(),
        endings_card(report, chosen),
        view.data(),
        view.method(),
        title=report.name,
        language=chosen,
        kicker=say("report.kicker", chosen),
        lead=say(
            "report.lead", chosen, base=report.base["name"], tuned=report.tuned["name"], created=report.created[:10]
        ),
        footer=view.footer(),
    )


class _View:
    """One report in one language; each method is a part of the page, or None where nothing was measured."""

    def __init__(self, report: Report, language: Language) -> None:
        self.report, self.language = report, language

    def word(self, key: str, **values: Any) -> str:
        return say(f"report.{key}", self.language, **values)

    def numbers(self) -> Markup:
        found = [
            self._consistency(),
            self._forgetting(),
            self._preference(),
            self._parity(),
        ]
        return html.stats(*found)

    def _consistency(self) -> Markup | None:
        section = self.report.consistency
        if not section:
            return None
        tuned = section["tuned"]
        detail = self.word(
            "consistency_detail",
            repeats=section["repeats"],
            temperature=f"{section['temperature']:g}",
            interval=self._interval(tuned["interval"]),
        )
        return html.stat(self.word("consistency"), percent(tuned["consistent_right"]), detail)

    def _forgetting(self) -> Markup | None:
        section = self.report.forgetting
        if not section or "ratio" not in section:
            return None
        low, high = section["interval"]
        detail = self.word(
            "forgetting_detail",
            base=f"{section['base']['perplexity']:.1f}",
            tuned=f"{section['tuned']['perplexity']:.1f}",
            interval=self.word("interval", low=f"{low:.2f}", high=f"{high:.2f}"),
        )
        return html.stat(
            self.word("forgetting"), f"× {section['ratio']:.2f}", detail, tone="bad" if self._has_forgotten() else ""
        )

    def _has_forgotten(self) -> bool:
        verdict = self.report.verdict
        if verdict is not None and any(reason.code.startswith("forget") for reason in verdict.reasons):
            return any(reason.code == "forget_high" for reason in verdict.reasons)
        return bool(self.report.forgetting and self.report.forgetting.get("ratio", 1.0) > _FORGOTTEN_FROM)

    def _preference(self) -> Markup | None:
        section = self.report.preference
        if not section:
            return None
        reward = section["implicit_reward"]
        detail = self.word("preference_detail", pairs=section["num_pairs"], interval=self._interval(reward["interval"]))
        return html.stat(self.word("preference"), percent(reward["value"]), detail)

    def _parity(self) -> Markup | None:
        verdict = self.report.parity.get("verdict")
        if verdict not in ("pass", "incomplete", "fail"):
            return None
        tones: dict[str, html.Tone] = {"pass": "good", "incomplete": "warn", "fail": "bad"}
        return html.stat(
            self.word("parity"), self.word(f"parity_{verdict}"), self.word("parity_detail"), tone=tones[verdict]
        )

    def comparison(self) -> Markup | None:
        groups = overview_bars(self.report, self.word)
        if not groups:
            alone = self.stability()
            return html.section(self.word("comparison"), alone) if alone else None
        tests = forest_rows(self.report, self.word)
        legend = html.legend([(self.word("base"), "base"), (self.word("tuned"), "tuned")])
        forest = html.card(
            self.word("forest_chart"),
            html.forest(tests, title=self.word("forest_chart")),
            note=self.word("forest_note"),
        )
        overview = html.card(self.word("accuracy_chart"), legend, html.bars(groups, title=self.word("accuracy_chart")))
        return html.section(
            self.word("comparison"),
            html.grid(html.column(overview, forest), html.column(self.stability()), wide=True),
            lead=self.word("comparison_lead"),
        )

    def stability(self) -> Markup | None:
        if not self.report.consistency:
            return None
        if several := ways_card(self.report, self.language):
            return several
        names = [self.word(name) for name in ("consistent_right", "inconsistent", "consistent_wrong")]
        legend = html.legend([(names[0], "good"), (names[1], "warn"), (names[2], "bad")])
        chart = html.stacked(stability_rows(self.report, self.word), title=self.word("stability"))
        repeats, temperature = self.report.consistency["repeats"], self.report.consistency["temperature"]
        note = self.word("stability_note", repeats=repeats, temperature=f"{temperature:g}")
        return html.card(self.word("stability"), legend, chart, note=note)

    def edges(self) -> Markup | None:
        if not self.report.edge:
            return None
        heads = [
            self.word(key) for key in ("edge_kind", "num_items", "base", "tuned", "control_tuned", "pair_tuned", "p")
        ]
        rows = []
        for kind, section in sorted(self.report.edge["kinds"].items()):
            control = section["tuned"].get("control")
            test = self.report.tests.get(f"edge:{kind}", {})
            rows.append(
                [
                    self._kind(kind),
                    str(section["tuned"]["num_items"]),
                    percent(section["base"]["accuracy"]),
                    f"{percent(section['tuned']['accuracy'])} ({self._interval(section['tuned']['interval'])})",
                    percent(control["accuracy"]) if control else "–",
                    percent(section["tuned"]["pair_accuracy"]) if "pair_accuracy" in section["tuned"] else "–",
                    _p(test["p_holm"]) if test else "–",
                ]
            )
        return html.section(self.word("edge"), html.card("", html.table(heads, rows)), lead=self.word("edge_lead"))

    def _kind(self, kind: str) -> str:
        return self.word(f"kind_{kind}") if kind in KINDS else kind

    def classes(self) -> Markup | None:
        if not self.report.classes:
            return None
        cards = []
        for side in ("base", "tuned"):
            confusion, macro_f1 = self.report.classes[side]["confusion"], self.report.classes[side]["macro_f1"]
            named = sorted({name for row in confusion.values() for name in row} | set(confusion))
            heads = [self.word("is_and_named"), *(name or self.word("none_named") for name in named)]
            rows = [[label, *(str(row.get(name, 0)) for name in named)] for label, row in sorted(confusion.items())]
            note = f"{self.word('macro_f1')} {macro_f1:.3f}"
            cards.append(html.card(self.word(side), html.table(heads, rows), note=note))
        return html.section(self.word("classes"), html.grid(*cards, wide=True), lead=self.word("classes_lead"))

    def stages(self) -> Markup | None:
        if not self.report.stages:
            return None
        heads = [self.word(key) for key in ("stage", "accuracy_chart", "consistency", "pair_accuracy", "forgetting")]
        rows = []
        for stage in self.report.stages:
            perplexity = stage["perplexity"]
            rows.append(
                [
                    stage["name"],
                    self._measured(stage["accuracy"], stage["interval"]),
                    self._measured(stage["consistency"], None),
                    self._measured(stage["pair_accuracy"], stage["pair_interval"]),
                    "–" if perplexity is None else f"{perplexity:.1f}",
                ]
            )
        return html.section(self.word("stages"), html.card("", html.table(heads, rows)), lead=self.word("stages_lead"))

    def _measured(self, ratio: float | None, interval: list[float] | None) -> str:
        if ratio is None:
            return "–"
        return f"{percent(ratio)} ({self._interval(interval)})" if interval else percent(ratio)

    def training(self) -> Markup | None:
        told, what = self.report.training, "loss"
        points, checked = told.get("curve", []), told.get("validation", [])
        if rewards := told.get("rewards"):
            what, points, checked = "reward", rewards["training"], rewards["validation"]
        curve = [(float(point["step"]), float(point[what])) for point in points]
        checks = [(float(point["step"]), float(point[what])) for point in checked]
        if not curve and not checks:
            return None
        series = [
            html.Series(self.word(f"training_{what}"), curve, "tuned", smooth_over=max(1, len(curve) // 25)),
            html.Series(self.word(f"validation_{what}"), checks, "accent", dotted=True),
        ]
        legend = html.legend([(one.name, one.tone) for one in series if one.points])
        chart = html.lines(series, title=self.word("training"), x_label=self.word("step"), y_label=self.word(what))
        known = self._pairs(told)
        side = html.card(self.word("training_facts"), html.facts(known, spread=True))
        return html.section(self.word("training"), html.card("", legend, chart), side if known else None)

    def data(self) -> Markup | None:
        told = self.report.data
        rows, lengths, split = self._rows(told.get("ledger")), self._lengths(told), self._split(told.get("split"))
        questions = self._questions(told.get("questions"))
        if not (rows or lengths or split or questions):
            return None
        cards = html.grid(html.column(rows, questions, lengths), split, wide=True)
        return html.section(self.word("data"), cards, lead=self.word("data_lead"))

    def _questions(self, files: Mapping[str, Mapping[str, Any]] | None) -> Markup | None:
        """Per file of questions: how many were asked, left out as seen, and how near the nearest is to training."""
        if not files:
            return None
        heads = [self.word(f"questions_{name}") for name in ("file", "asked", "left_out", "nearest")]
        rows = [
            [PurePath(name).name, f"{told['asked']:,}", f"{told['left_out']:,}", f"{told['nearest']:.2f}"]
            for name, told in files.items()
        ]
        return html.card(self.word("questions"), html.table(heads, rows), note=self.word("questions_note"))

    def _rows(self, ledger: Mapping[str, Any] | None) -> Markup | None:
        if not ledger:
            return None
        rows = ledger["rows"]
        steps = [(self.word(f"rows_{key}"), int(rows[key]), "") for key in ("read", "used", "changed", "rejected")]
        counts = [(key, f"{count:,}") for key, count in sorted(ledger.get("counts", {}).items()) if count]
        return html.card(
            self.word("ledger"),
            html.funnel(steps),
            html.details(self.word("counts"), html.facts(counts)) if counts else None,
        )

    def _split(self, certificate: Mapping[str, Any] | None) -> Markup | None:
        if not certificate:
            return None
        parts = sorted(certificate.get("parts", {}).items(), key=lambda part: _PARTS.index(part[0]))
        pairs = [(self._fact(name), f"{part['samples']:,}") for name, part in parts]
        pairs += self._pairs(certificate)
        if nearest := certificate.get("max_similarity"):
            pairs.append((self._fact("max_similarity"), f"{nearest['value']:.2f}"))
        return html.card(self.word("split"), html.facts(pairs), note=self.word("split_note"))

    def _pairs(self, told: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Plain facts with their names in the reader's language, where danlu knows one."""
        plain = {key: value for key, value in told.items() if not isinstance(value, list | dict)}
        order = {name: place for place, name in enumerate(load_room("report", self.language))}  # JSON keeps no order
        keys = sorted(plain, key=lambda key: (order.get(f"fact_{key}", len(order)), key))
        return [(self._fact(key), _shown(plain[key])) for key in keys if plain[key] not in (None, "")]

    def _fact(self, key: str) -> str:
        return self.word(f"fact_{key}") if f"fact_{key}" in load_room("report", self.language) else key

    def _lengths(self, told: Mapping[str, Any]) -> Markup | None:
        lengths = told.get("lengths")
        if not lengths:
            return None
        context = told.get("context")
        mark = (float(context), self.word("context")) if context else None
        chart = html.histogram(lengths, title=self.word("lengths"), x_label=self.word("tokens"), mark=mark)
        return html.card(self.word("lengths"), chart)

    def method(self) -> Markup:
        difference = self.report.difference
        notes = [self.word("method_accuracy"), self.word("method_interval"), self.word("method_test")]
        if difference:
            notes.append(self.word("method_detectable", points=points(difference["detectable"]).lstrip("+")))
        if self.report.metrics:
            heads = [self.word("metric"), self.word("base"), self.word("tuned"), self.word("change")]
            rows = [_measured(name, entry) for name, entry in sorted(self.report.metrics.items())]
            notes += [
                f"{name}: {m['signature']}" for name, m in sorted(self.report.metrics.items()) if "signature" in m
            ]
            return html.details(self.word("method"), *map(html.paragraph, notes), html.table(heads, rows))
        return html.details(self.word("method"), *map(html.paragraph, notes))

    def footer(self) -> Markup:
        return Markup("").join(
            [
                html.tag("h2", None, self.word("reproduce")),
                html.facts(
                    (name, html.tag("span", {"class": "mono"}, value))
                    for name, value in self._pairs(self.report.footer)
                ),
            ]
        )

    def _interval(self, interval: list[float]) -> str:
        return self.word("interval", low=percent(interval[0]), high=percent(interval[1]))


def _measured(name: str, entry: Mapping[str, Any]) -> list[str]:
    """A further metric's line: both values and what changed, with its interval; in percent, or in points of 100."""
    to_points = 100 / entry.get("scale", 1)
    row = [name, *(f"{to_points * entry[side]:.1f}" for side in ("base", "tuned"))]
    if "difference" not in entry:  # a report from before
        return [*row, ""]
    value, low, high = (
        f"{to_points * number:+.1f}".replace("-", "−")
        for number in (entry["difference"]["value"], *entry["difference"]["interval"])
    )
    return [*row, f"{value} ({low} – {high})"]


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
