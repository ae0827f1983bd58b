"""The report as one self-contained HTML file in Chinese or English. Composes `core.html` blocks; measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.messages import Language, current_language, say
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.evaluation.report_answers import answers_section
from danlu.evaluation.report_charts import forest_rows, overview_bars, stability_rows

_FORGOTTEN_FROM = 1.15
"""A rise of perplexity that is shown in red where no gate says otherwise."""


def render_html(report: Report, *, language: Language | None = None) -> str:
    """The whole document."""
    chosen = language or current_language()
    view = _View(report, chosen)
    return html.page(
        view.verdict(),
        view.numbers(),
        view.comparison(),
        view.stability(),
        view.edges(),
        answers_section(report, chosen),
        view.training(),
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

    def verdict(self) -> Markup:
        sentence = self._sentence()
        verdict = self.report.verdict
        if verdict is None:
            return html.banner(self.word("no_gate"), sentence)
        lines = [(r.passed, r.text(self.language), r.remedy(self.language)) for r in verdict.reasons]
        tone: html.Tone = "good" if verdict.decision == "ship" else "warn"
        return html.banner(self.word(verdict.decision), sentence, lines, tone=tone)

    def _sentence(self) -> str:
        base, tuned = self.report.base, self.report.tuned
        if "accuracy" not in tuned:
            return ""
        return self.word(
            "sentence", items=tuned["num_items"], base=percent(base["accuracy"]), tuned=percent(tuned["accuracy"])
        )

    def numbers(self) -> Markup:
        found = [
            self._accuracy(),
            self._gain(),
            self._consistency(),
            self._forgetting(),
            self._preference(),
            self._parity(),
        ]
        return html.stats(*found)

    def _accuracy(self) -> Markup | None:
        tuned = self.report.tuned
        if "accuracy" not in tuned:
            return None
        detail = self.word(
            "accuracy_detail", base=percent(self.report.base["accuracy"]), interval=self._interval(tuned["interval"])
        )
        return html.stat(self.word("accuracy"), percent(tuned["accuracy"]), detail, tone="tuned")

    def _gain(self) -> Markup | None:
        difference = self.report.difference
        if not difference:
            return None
        low, high = difference["interval"]
        tones: dict[str, html.Tone] = {"better": "good", "worse": "bad", "no_evidence": "warn"}
        tone = tones[difference["direction"]]
        detail = self.word("gain_detail", interval=f"{points(low)} … {points(high)}", p=_p(difference["p"]))
        return html.stat(self.word("gain"), self.word("points", value=points(difference["value"])), detail, tone=tone)

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
            interval=f"{low:.2f} … {high:.2f}",
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
        if verdict is None:
            return None
        passed = verdict == "pass"
        return html.stat(
            self.word("parity"),
            self.word("parity_pass" if passed else "parity_fail"),
            self.word("parity_detail"),
            tone="good" if passed else "bad",
        )

    def comparison(self) -> Markup | None:
        groups = overview_bars(self.report, self.word)
        if not groups:
            return None
        tests = forest_rows(self.report, self.word)
        legend = html.legend([(self.word("base"), "base"), (self.word("tuned"), "tuned")])
        return html.section(
            self.word("comparison"),
            html.grid(
                html.card(self.word("accuracy_chart"), legend, html.bars(groups, title=self.word("accuracy_chart"))),
                html.card(
                    self.word("forest_chart"),
                    html.forest(tests, title=self.word("forest_chart"), unit=self.word("points_unit")),
                    note=self.word("forest_note"),
                ),
                wide=True,
            ),
            lead=self.word("comparison_lead"),
        )

    def stability(self) -> Markup | None:
        if not self.report.consistency:
            return None
        names = [self.word(name) for name in ("consistent_right", "inconsistent", "consistent_wrong")]
        legend = html.legend(list(zip(names, ("good", "warn", "bad"), strict=True)))
        chart = html.stacked(stability_rows(self.report, self.word), title=self.word("stability"))
        repeats, temperature = self.report.consistency["repeats"], self.report.consistency["temperature"]
        return html.section(
            self.word("stability"),
            html.card("", legend, chart),
            lead=self.word("stability_lead", repeats=repeats, temperature=f"{temperature:g}"),
        )

    def edges(self) -> Markup | None:
        if not self.report.edge:
            return None
        heads = [self.word(key) for key in ("edge_kind", "num_items", "base", "tuned", "control_tuned", "p")]
        rows = []
        for kind, section in self.report.edge["kinds"].items():
            control = section["tuned"].get("control")
            test = self.report.tests.get(f"edge:{kind}", {})
            rows.append(
                [
                    self._kind(kind),
                    str(section["tuned"]["num_items"]),
                    percent(section["base"]["accuracy"]),
                    f"{percent(section['tuned']['accuracy'])} ({self._interval(section['tuned']['interval'])})",
                    percent(control["accuracy"]) if control else "–",
                    _p(test["p_holm"]) if test else "–",
                ]
            )
        return html.section(self.word("edge"), html.card("", html.table(heads, rows)), lead=self.word("edge_lead"))

    def _kind(self, kind: str) -> str:
        known = ("sarcasm", "negation", "unanswerable", "other")
        return self.word(f"kind_{kind}") if kind in known else kind

    def training(self) -> Markup | None:
        told = self.report.training
        curve = [(float(point["step"]), float(point["loss"])) for point in told.get("curve", [])]
        checks = [(float(point["step"]), float(point["loss"])) for point in told.get("validation", [])]
        if not curve and not checks:
            return None
        series = [
            html.Series(self.word("training_loss"), curve, "base", smooth_over=max(1, len(curve) // 25)),
            html.Series(self.word("validation_loss"), checks, "accent", dotted=True),
        ]
        legend = html.legend([(one.name, one.tone) for one in series if one.points])
        chart = html.lines(series, title=self.word("training"), x_label=self.word("step"), y_label=self.word("loss"))
        known = [(key, value) for key, value in told.items() if not isinstance(value, list | dict)]
        side = html.card(self.word("training_facts"), html.facts((key, _shown(value)) for key, value in known))
        return html.section(self.word("training"), html.card("", legend, chart), side if known else None)

    def data(self) -> Markup | None:
        told = self.report.data
        cards = [self._rows(told.get("ledger")), self._split(told.get("split")), self._lengths(told)]
        if not any(cards):
            return None
        return html.section(self.word("data"), html.grid(*cards, wide=True), lead=self.word("data_lead"))

    def _rows(self, ledger: Mapping[str, Any] | None) -> Markup | None:
        if not ledger:
            return None
        rows = ledger["rows"]
        steps = [(self.word(f"rows_{key}"), int(rows[key]), "") for key in ("read", "used", "changed", "rejected")]
        counts = [(key, f"{count:,}") for key, count in ledger.get("counts", {}).items() if count]
        return html.card(
            self.word("ledger"),
            html.funnel(steps),
            html.details(self.word("counts"), html.facts(counts)) if counts else None,
        )

    def _split(self, certificate: Mapping[str, Any] | None) -> Markup | None:
        if not certificate:
            return None
        pairs = [(key, _shown(value)) for key, value in certificate.items() if not isinstance(value, list | dict)]
        return html.card(self.word("split"), html.facts(pairs), note=self.word("split_note"))

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
            heads = [self.word("metric"), self.word("base"), self.word("tuned")]
            rows = [[name, percent(m["base"]), percent(m["tuned"])] for name, m in self.report.metrics.items()]
            return html.details(self.word("method"), *map(html.paragraph, notes), html.table(heads, rows))
        return html.details(self.word("method"), *map(html.paragraph, notes))

    def footer(self) -> Markup:
        known = ("recipe", "dataset", "base", "tuned", "code", "hardware", "command", "seconds")
        pairs = [(self.word(f"footer_{key}") if key in known else key, _shown(value)) for key, value in self._facts()]
        return Markup("").join(
            [
                html.tag("h2", None, self.word("reproduce")),
                html.facts((name, html.tag("span", {"class": "mono"}, value)) for name, value in pairs),
            ]
        )

    def _facts(self) -> list[tuple[str, Any]]:
        return [(key, value) for key, value in self.report.footer.items() if value not in (None, "")]

    def _interval(self, interval: list[float]) -> str:
        return self.word("interval", low=percent(interval[0]), high=percent(interval[1]))


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
