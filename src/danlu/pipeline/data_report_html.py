"""The data report as one self-contained HTML page in Chinese or English. Composes `core.html` blocks; measures nothing.

First the verdict with its traffic lights, then what became of the rows, what they look like, and what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.tag import Content
from danlu.core.messages import Language, current_language
from danlu.data.quality.facts import DataFacts, StageFacts
from danlu.data.quality.lights import LEAKS, THRESHOLDS, Light, Threshold, lights_of
from danlu.pipeline.data_report_charts import columns, shares, without_folder
from danlu.pipeline.data_report_parts import (
    audit_section,
    coverage_section,
    diversity_section,
    named,
    privacy_section,
    quality_section,
    synthesis_section,
    twins_section,
)
from danlu.pipeline.data_report_words import TONES, Words, count, percent

_VIEWS = ("kinds", "labels", "languages", "sources", "made_by")
_PARTS = ("train", "validation", "test")


def render_data_report(facts: DataFacts, *, language: Language | None = None, other: str = "") -> str:
    """The whole document; `other` is the file name of the same report in the other language."""
    chosen = language or current_language()
    words = Words(chosen)
    lights = lights_of(facts)
    return html.page(
        _verdict(facts, lights, words),
        _numbers(facts, words),
        _lights(lights, words),
        _funnel(facts, words),
        _shape(facts, words),
        twins_section(facts, words),
        privacy_section(facts, words),
        quality_section(facts, words),
        synthesis_section(facts, words),
        coverage_section(facts, words),
        diversity_section(facts, words),
        _split(facts, words),
        audit_section(facts, words),
        title=facts.told.name or words("title"),
        language=chosen,
        kicker=words("kicker"),
        lead=_lead(facts, words, other),
        footer=_footer(facts, words),
    )


def _lead(facts: DataFacts, words: Words, other: str) -> Markup:
    told = words("lead", rows=count(facts.num_rows), created=facts.told.created[:10])
    link = Markup(' · <a class="accent" href="{}">{}</a>').format(other, words("other_language")) if other else ""
    return Markup("{}{}").format(told, link)


def _verdict(facts: DataFacts, lights: Sequence[Light], words: Words) -> Markup:
    num = {tone: sum(light.tone == tone for light in lights) for tone in TONES}
    worst = next((tone for tone in ("bad", "warn") if num[tone]), "good")
    told = words("verdict_lead", bad=num["bad"], warn=num["warn"], good=num["good"])
    lines = [(False, *_said(light, words)) for light in lights if light.tone == "bad"][:4]
    return html.banner(words(f"verdict_{worst}"), told, lines, tone=TONES[worst])


def _numbers(facts: DataFacts, words: Words) -> Markup:
    told, lengths = facts.told, facts.told.lengths
    first = told.stages[0].rows_in if told.stages else 0
    kept = words("of_read", rows=count(first)) if first else ""
    blocks = [html.stat(words("train_rows"), count(facts.num_rows), kept, tone="tuned")]
    if lengths and lengths.num_tokens:
        learnt = percent(lengths.num_supervised / lengths.num_tokens)
        blocks.append(html.stat(words("tokens"), _short_number(lengths.num_tokens), words("learnt", share=learnt)))
    if told.twins and told.twins.num_rows:
        copies = told.twins.num_exact + told.twins.num_near
        blocks.append(html.stat(words("copies"), percent(copies / told.twins.num_rows), words("copies_detail")))
    if lengths and lengths.context and lengths.tokens:
        share = lengths.num_over / max(lengths.tokens.num, lengths.num_over, 1)
        blocks.append(html.stat(words("over"), percent(share), words("over_detail", context=count(lengths.context))))
    if facts.parts.get("test") is not None:
        blocks.append(html.stat(words("test_rows"), count(facts.parts["test"]), words("test_detail")))
    return html.stats(*blocks)


def _lights(lights: Sequence[Light], words: Words) -> Markup:
    rows: list[list[Content]] = []
    for light in lights:
        text, fix = _said(light, words)
        advice = html.tag("span", {"class": "cell-note"}, f"→ {fix}") if fix else None
        rows.append(
            [html.badge(words(f"tone_{light.tone}"), tone=TONES[light.tone]), html.tag("div", None, text, advice)]
        )
    table = html.table([words("light"), words("finding")], rows, numeric=False)
    limits: list[list[Content]] = []
    for one in THRESHOLDS:
        reason = html.tag("span", {"class": "cell-note"}, words(f"reason_{one.name}"))
        measure = html.tag("div", None, words(f"measure_{one.name}"), reason)
        limits.append([measure, _limit(one, one.warn), _limit(one, one.bad)])
    heads = [words("measure"), words("yellow_from"), words("red_from")]
    return html.section(
        words("lights"),
        html.card("", table),
        html.details(words("thresholds"), html.table(heads, limits)),
        lead=words("lights_lead"),
    )


def _limit(threshold: Threshold, limit: float | None) -> str:
    if limit is None:
        return "–"
    sign = "<" if threshold.is_least else "≥"
    return f"{sign} {percent(limit) if threshold.unit == 'ratio' else f'{limit:g}'}"


def _said(light: Light, words: Words) -> tuple[str, str]:
    """A light in words, and what to do about it."""
    values = {name: _printed(name, value, words) for name, value in light.values.items()}
    key = f"good_{light.name}" if light.tone == "good" else f"light_{light.name}"
    if light.name == "privacy" and not light.values["found"]:
        key = "light_privacy_off" if light.values.get("is_off") else "good_privacy_none"
    return words.text_and_fix(key, share=percent(light.value), value=f"{light.value:.2f}", **values)


def _printed(name: str, value: Any, words: Words) -> str:
    if name == "reason":
        return words.reason(value)
    if name == "rules":
        return ", ".join(words(f"rule_{rule}") for rule in value) or "–"
    if name == "wanted":
        return percent(value)
    return count(value) if isinstance(value, int) else str(value)


def _funnel(facts: DataFacts, words: Words) -> Markup | None:
    stages = facts.told.stages
    if not stages:
        return None
    steps = [(words("rows_read"), stages[0].rows_in, "")]
    steps += [(words.known("stage", stage.name), stage.rows_out, _difference(stage)) for stage in stages]
    rows: list[list[Content]] = []
    for stage in stages:
        for action in ("dropped", "changed", "flagged"):
            by_reason: Mapping[str, int] = getattr(stage, action)
            for reason, number in sorted(by_reason.items(), key=lambda entry: -entry[1])[:12]:
                sign = html.badge(words(action), tone="bad" if action == "dropped" else "")
                rows.append([count(number), words.known("stage", stage.name), sign, words.reason(reason)])
    heads = [words("num_rows"), words("stage"), words("fate"), words("reason")]
    table = html.table(heads, rows, numeric=False)
    reasons = html.details(words("reasons", num=len(rows)), table, is_open=len(rows) <= 12) if rows else None
    return html.section(words("funnel"), html.card("", html.funnel(steps)), reasons, lead=words("funnel_lead"))


def _difference(stage: StageFacts) -> str:
    difference = stage.rows_out - stage.rows_in
    return f"{'+' if difference > 0 else '−'}{abs(difference):,}" if difference else ""


def _shape(facts: DataFacts, words: Words) -> Markup:
    """Lengths and balance: the picture of lengths beside the short lists, long lists below."""
    beside: list[Markup] = []
    below: list[Markup] = []
    for view in _VIEWS:
        counts = facts.balance.get(view)
        if counts and (len(counts) > 1 or view in ("kinds", "languages")):
            prefix = {"kinds": "kind", "languages": "language", "made_by": "maker"}.get(view, view)
            shown = without_folder(counts) if view == "sources" else named(counts, words, prefix)
            card = html.card(words(view), shares(shown, others=words("others")))
            (below if view == "sources" or len(counts) > 6 else beside).append(card)
    blocks = [html.grid(_lengths(facts, words), html.column(*beside), wide=True)]
    blocks += [html.grid(*below, wide=True)] if below else []
    return html.section(words("shape"), *blocks, lead=words("shape_lead"))


def _lengths(facts: DataFacts, words: Words) -> Markup | None:
    """In tokens where they are known, else in characters."""
    lengths = facts.told.lengths
    if lengths and lengths.tokens and lengths.tokens.num:
        tokens = lengths.tokens
        half, most = (_short_number(tokens.quantile(level)) for level in (0.5, 0.95))
        quantiles = words("quantiles", half=half, most=most, longest=count(tokens.largest))
        mark = (float(lengths.context), words("context", context=count(lengths.context))) if lengths.context else None
        over = words("over_note", over=count(lengths.num_over), cut=count(lengths.num_cut)) if lengths.context else ""
        chart = columns(tokens, title=words("lengths"), x_label=words("lengths_axis"), mark=mark)
        return html.card(words("lengths"), chart, note=f"{quantiles} {over}")
    if facts.chars and facts.chars.num:
        chart = columns(facts.chars, title=words("lengths_chars"), x_label=words("chars_axis"))
        return html.card(words("lengths_chars"), chart)
    return None


def _split(facts: DataFacts, words: Words) -> Markup | None:
    certificate, replay = facts.told.certificate, facts.told.replay
    pairs: list[tuple[str, Content]] = [
        (words.known("part", name), count(facts.parts[name])) for name in _PARTS if name in facts.parts
    ]
    for name in ("groups", "largest_group", "seed"):
        if isinstance(certificate.get(name), int):
            pairs.append(
                (words(f"split_{name}"), count(certificate[name]) if name != "seed" else str(certificate[name]))
            )
    crossings: list[tuple[str, Content]] = []
    for name in LEAKS:
        if (across := certificate.get(name)) is not None:
            badge = html.badge(str(across), tone="bad" if across else "good")
            crossings.append((words(f"split_{name}"), badge))
    nearest = certificate.get("max_similarity")
    if nearest:
        value = nearest["value"] if isinstance(nearest, Mapping) else nearest
        crossings.append((words("split_nearest"), f"{float(value):.2f}"))
    cards: list[Content] = [html.card(words("parts"), html.facts(pairs))]
    if crossings:
        cards.append(html.card(words("crossings"), html.facts(crossings), note=words("crossings_note")))
    if replay is not None:
        told: list[tuple[str, Content]] = [
            (words("replay_share"), percent(replay.share)),
            (words("replay_wanted"), percent(replay.wanted)),
            (words("replay_tokens"), count(replay.num_tokens)),
        ]
        if replay.made_by:
            told.append((words("replay_made_by"), words.known("maker", replay.made_by)))
        cards.append(html.card(words("replay"), html.facts(told), note=words("replay_note")))
    return html.section(words("split"), html.grid(*cards), lead=words("split_lead"))


def _footer(facts: DataFacts, words: Words) -> Markup:
    told = facts.told
    pairs = [(words("dataset_id"), told.dataset), (words("template"), told.template)]
    pairs.append((words("certificate"), str(told.certificate.get("digest", ""))))
    pairs += [(words.known("reproduce", name), value) for name, value in told.reproduce.items()]
    shown = [(name, html.tag("span", {"class": "mono"}, value)) for name, value in pairs if value]
    return Markup("").join([html.tag("h2", None, words("reproduce")), html.facts(shown)])


def _short_number(number: float) -> str:
    """12,345,678 as 12.3 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            return f"{number / (1e3 if unit == ' k' else size):.1f}{unit}"
    return count(number)
