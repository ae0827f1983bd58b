"""The page of `danlu weigh`: which way to take and why, in one screen; then figures, comparisons, questions. Measures
nothing."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from danlu.core import html
from danlu.core.html.charts import Bar
from danlu.core.messages import Language, say
from danlu.evaluation.arms.asking import ARMS
from danlu.evaluation.gate import percent, points

TONES: dict[str, html.Tone] = {"prompt": "base", "rag": "soft", "tuned": "tuned", "both": "accent"}
NUM_SHOWN = 40
_CUT = 160


def render_weighed(weighed: dict[str, Any], name: str, language: Language) -> str:
    words = _Words(language)
    chosen, best = weighed["recommended"]["chosen"], weighed["recommended"]["best"]
    return html.page(
        html.banner(words("take", way=words.way(chosen)), words.why(weighed), _lines(weighed, words), tone="good"),
        html.stats(
            html.stat(words("accuracy"), percent(chosen["accuracy"]),
                      f"{percent(chosen['interval'][0])}–{percent(chosen['interval'][1])}"),
            html.stat(words("cost"), words.cost(1000 * chosen["cost"], weighed["unit"]), words("per_1000")),
            html.stat(words("best"), words.way(best), percent(best["accuracy"])),
            html.stat(words("questions"), f"{weighed['num_items']:,}"),
        ),
        html.section(words("arms"), _table(weighed, words)),
        html.section(words("accuracy"), html.grid(_bars(weighed, words), _retrieval(weighed, words), wide=True)),
        html.section(words("compared"), _pairs(weighed, words), lead=words("compared_lead")),
        html.section(words("ways"), _ways(weighed, words), lead=words("ways_lead")),
        html.section(words("examples"), _examples(weighed, words)),
        title=words("title", name=name), language=language, kicker=words("kicker"), lead=words("lead"),
        footer=" · ".join(str(value) for value in weighed["footer"].values()),
    )  # fmt: skip


class _Words:
    """The page's language."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __call__(self, key: str, **values: Any) -> str:
        return say(f"weigh.{key}", self.language, **values)

    def way(self, way: dict[str, Any]) -> str:
        if way["threshold"] is None:
            return self(way["sure"])
        return self("mixed", sure=self(way["sure"]), unsure=self(way["unsure"]),
                    share=percent(way["shares"].get(way["sure"], 0.0)))  # fmt: skip

    def cost(self, value: float, unit: str) -> str:
        return f"{value:,.1f} s" if unit == "seconds" else f"{value:,.4g}"

    def why(self, weighed: dict[str, Any]) -> str:
        difference = weighed["recommended"]["difference"]
        if difference is None:
            return self("is_best")
        low, high = difference["interval"]
        return self("is_cheapest", best=self.way(weighed["recommended"]["best"]), gain=points(difference["value"]),
                    low=points(low), high=points(high))  # fmt: skip


def _lines(weighed: dict[str, Any], words: _Words) -> list[tuple[bool, str, str]]:
    """What a reader should know before believing it."""
    value = weighed["retrieval"]["value"]
    lines = []
    if value["shown"] is not None:
        lines.append((value["shown"] >= 0.8, words("line_retrieval", share=percent(value["shown"])),
                      "" if value["shown"] >= 0.8 else words("line_retrieval_fix")))  # fmt: skip
    upkeep = weighed["upkeep"]
    lines.append((True, words("line_upkeep", index=f"{upkeep['index_s']:.1f}", train=f"{upkeep['train_s']:,.0f}"), ""))
    if weighed["recommended"]["is_small"]:
        lines.append((False, words("line_small", num=weighed["num_items"]), words("line_small_fix")))
    return lines


def _table(weighed: dict[str, Any], words: _Words) -> Markup:
    heads = [words(name) for name in ("arm", "accuracy", "p50", "p95", "prompt_tokens", "answer_tokens", "cost_1000")]
    rows = [
        (words(name), f"{percent(arm['accuracy'])} ({percent(arm['interval'][0])}–{percent(arm['interval'][1])})",
         _seconds(arm, "p50"), _seconds(arm, "p95"), f"{arm['prompt_tokens']:,.0f}", f"{arm['answer_tokens']:,.0f}",
         words.cost(arm["cost_per_1000"], weighed["unit"]))
        for name, arm in _ordered(weighed)
    ]  # fmt: skip
    return html.card("", html.table(heads, rows), note=words("cost_note"))


def _ordered(weighed: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The arms in their own order, also when they were read back from a file."""
    return [(name, weighed["arms"][name]) for name in ARMS if name in weighed["arms"]]


def _seconds(arm: dict[str, Any], name: str) -> str:
    value = arm["latency_s"].get(name)
    return "–" if value is None else f"{value:.2f} s"


def _bars(weighed: dict[str, Any], words: _Words) -> Markup:
    groups = [
        (words(name), [Bar(arm["accuracy"], low, high, percent(arm["accuracy"]), TONES[name])])
        for name, arm in _ordered(weighed)
        for low, high in (arm["interval"],)
    ]
    return html.card(words("accuracy"), html.bars(groups, title=words("accuracy")))


def _pairs(weighed: dict[str, Any], words: _Words) -> Markup:
    heads = [words(name) for name in ("than", "this", "difference", "interval", "p", "reads")]
    rows = []
    for pair in weighed["comparisons"]:
        difference = pair["difference"]
        sign = "better" if difference["value"] > 0 else "worse"
        reads = sign if pair["p_adjusted"] < 0.05 else "no_evidence"
        low, high = difference["interval"]
        rows.append((words(pair["base"]), words(pair["tuned"]), points(difference["value"]),
                     f"{points(low)} … {points(high)}", f"{pair['p_adjusted']:.3g}", words(reads)))  # fmt: skip
    return html.card("", html.table(heads, rows))


def _ways(weighed: dict[str, Any], words: _Words) -> Markup:
    heads = [words(name) for name in ("way", "accuracy", "cost_1000", "shares")]
    rows = [
        (words.way(way), percent(way["accuracy"]), words.cost(1000 * way["cost"], weighed["unit"]),
         " · ".join(f"{words(name)} {percent(share)}" for name, share in way["shares"].items()))
        for way in weighed["recommended"]["ways"]
    ]  # fmt: skip
    return html.card("", html.table(heads, rows))


def _retrieval(weighed: dict[str, Any], words: _Words) -> Markup:
    found = weighed["retrieval"]
    pairs = [(words("passages"), f"{found['passages']:,}"), (words("shown"), f"{found['num_shown']:.1f}")]
    pairs += [
        (words(f"value_{name}"), "–" if share is None else percent(share)) for name, share in found["value"].items()
    ]
    pairs.append((words("search_time"), f"{1000 * found['seconds'].get('p50', 0):.1f} ms"))
    pairs.append((words("search_by"), " + ".join(n for n in ("BM25", found["embedder"], found["reranker"]) if n)))
    return html.card(words("retrieval"), html.facts(pairs))


def _examples(weighed: dict[str, Any], words: _Words) -> Markup:
    """Questions on which the arms differ."""
    differing = [row for row in weighed["items"] if len({arm["right"] for arm in row["arms"].values()}) > 1]
    blocks = []
    for row in differing[:NUM_SHOWN]:
        answers = [
            (f"{'✓' if arm['right'] else '✗'} {words(name)}", _short((arm["answers"] or [""])[0]))
            for name, arm in row["arms"].items()
        ]
        blocks.append(html.details(row["question"], html.facts([(words("reference"), row["reference"]), *answers])))
    return html.card(words("differ", num=len(differing), all=len(weighed["items"])), *blocks)


def _short(text: str) -> str:
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"
