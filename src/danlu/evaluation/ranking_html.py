"""The page of `danlu sweep`: who is best, who cannot be told apart from it, and what was left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from danlu.core.html.blocks import badge, banner, card, section, stat, stats, table
from danlu.core.html.charts import Interval, forest
from danlu.core.html.page import page
from danlu.core.html.tag import Content, tag
from danlu.core.messages import Language, current_language, say
from danlu.evaluation.gate import percent, points


def render_ranking(found: Mapping[str, Any], name: str, language: Language | None = None) -> str:
    """One self-contained page. `found` is the JSON of a sweep."""
    spoken = language or current_language()
    ranking, best = found["ranking"], found["ranking"][0]
    blocks = [
        banner(
            verdict(found, spoken),
            say("sweep.luck", spoken),
            tone="good" if found["num_alike"] == 1 < len(found["ranking"]) else "warn",
        ),
        stats(
            stat(say("sweep.best", spoken), percent(best["accuracy"]), settings_text(best["settings"])),
            stat(say("sweep.base", spoken), percent(found["base"])),
            stat(say("sweep.questions", spoken), str(found["num_items"]), say("sweep.part", spoken)),
        ),
        section(
            say("sweep.ranking", spoken),
            card("", forest(_intervals(ranking, spoken), title=say("sweep.behind", spoken))),
            card("", table(heads(spoken), map(_cells, rows(ranking, spoken), ranking))),
        ),
    ]
    for part in ("dropped", "failed"):
        if found[part]:
            blocks.append(
                section(
                    say(f"sweep.{part}", spoken), card("", table(*_others(found[part], part, spoken), numeric=False))
                )
            )
    return page(*blocks, title=name, language=spoken, kicker="danlu sweep")


def verdict(found: Mapping[str, Any], language: Language | None = None) -> str:
    """The one sentence: who is best, and whether that is more than luck."""
    best, num = found["ranking"][0], found["num_alike"]
    key = "sweep.only_one" if len(found["ranking"]) == 1 else "sweep.one_best" if num == 1 else "sweep.alike"
    return say(key, language, num=num, all=len(found["ranking"]), best=settings_text(best["settings"]))


def heads(language: Language | None = None) -> list[str]:
    names = ("place", "values", "accuracy", "behind", "p", "apart")
    return [say(f"sweep.head_{name}", language) for name in names]


def rows(ranking: Sequence[Mapping[str, Any]], language: Language | None = None) -> list[list[str]]:
    """As a table shows them: place, values, accuracy with interval, how far behind, p, told apart. Each key stands on a
    line of its own and intervals under their numbers: terminals and phones are narrow."""
    found = []
    for place, one in enumerate(ranking, 1):
        (low, high), (least, most) = one["interval"], one["behind_interval"]
        is_first = place == 1
        standing = "best" if is_first else "apart" if one["told_apart"] else "alike"
        found.append([
            str(place), "\n".join([one["trial"], *_each(one["settings"])]),
            f"{percent(one['accuracy'])}\n({percent(low)} … {percent(high)})",
            "–" if is_first else f"{points(one['behind'])}\n({points(least)} … {points(most)})",
            "–" if is_first else f"{one['p_holm']:.3g}", say(f"sweep.is_{standing}", language),
        ])  # fmt: skip
    return found


def _cells(row: Sequence[str], one: Mapping[str, Any]) -> list[Content]:
    lines = [tag("div", None, *(tag("div", None, line) for line in cell.split("\n"))) for cell in row[:-1]]
    return [*lines, badge(row[-1], tone="good" if row[0] == "1" else "bad" if one["told_apart"] else "warn")]


def _accuracy(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return f"{percent(one['accuracy'])} ({percent(low)} … {percent(high)})"


def settings_text(settings: Mapping[str, Any]) -> str:
    """`training.lr=0.0002 adapter.rank=8`"""
    return " ".join(_each(settings))


def _each(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _intervals(ranking: Sequence[Mapping[str, Any]], language: Language) -> list[Interval]:
    return [
        Interval(
            one["trial"], -one["behind"], -one["behind_interval"][1], -one["behind_interval"][0],
            points(0.0 - one["behind"]), "bad" if one["told_apart"] else "tuned",
        )
        for one in ranking
    ]  # fmt: skip


def _others(listed: Sequence[Mapping[str, Any]], part: str, language: Language) -> tuple[list[str], list[list[str]]]:
    names = [say(f"sweep.head_{name}", language) for name in ("values", "accuracy" if part == "dropped" else "why")]
    if part == "failed":
        return names, [[f"{one['trial']} · {settings_text(one['settings'])}", one["error"]] for one in listed]
    share = say("sweep.head_share", language)
    return [*names, share], [
        [f"{one['trial']} · {settings_text(one['settings'])}", _accuracy(one), percent(one["share"])] for one in listed
    ]
