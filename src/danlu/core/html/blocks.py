"""Blocks of a report: section, card, stat, banner, facts, table, funnel. Plain text in, Markup out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from danlu.core.html.tag import Content, Tone, tag


def section(title: str, *blocks: Content, lead: Content = "") -> Markup:
    intro = tag("p", {"class": "section-lead"}, lead) if lead else None
    return tag("section", None, tag("h2", None, title), intro, *blocks)


def grid(*blocks: Content, wide: bool = False) -> Markup:
    """Blocks side by side, one below the other where the screen is narrow; `wide` asks for two columns at most."""
    return tag("div", {"class": "grid wide" if wide else "grid"}, *blocks)


def card(title: str, *blocks: Content, note: Content = "") -> Markup:
    head = tag("h3", None, title) if title else None
    return tag("div", {"class": "card"}, head, *blocks, tag("p", {"class": "note"}, note) if note else None)


def column(*blocks: Content) -> Markup:
    """Blocks one below the other inside a grid."""
    return tag("div", {"class": "column"}, *blocks)


def stats(*blocks: Content) -> Markup:
    """Large numbers in even rows; up to five in one."""
    shown = [block for block in blocks if block is not None]
    columns = len(shown) if len(shown) <= 5 else 3 if len(shown) % 3 == 0 else 4
    return tag("div", {"class": "stats", "style": f"--columns:{columns}"}, *shown)


def stat(label: str, value: Content, detail: Content = "", *, tone: Tone = "") -> Markup:
    """One large number."""
    return tag(
        "div",
        {"class": "stat"},
        tag("p", {"class": "stat-label"}, label),
        tag("p", {"class": f"stat-value {tone}".strip()}, value),
        tag("p", {"class": "stat-detail"}, detail) if detail else None,
    )


def banner(title: str, lead: Content = "", lines: Iterable[tuple[bool, str, str]] = (), *, tone: Tone = "") -> Markup:
    """The verdict: a title, a sentence, and lines of (passed, text, remedy)."""
    items = [
        tag(
            "li",
            {"class": "passed" if passed else "failed"},
            tag("span", {"class": "tick", "aria-hidden": "true"}, "✓" if passed else "✗"),
            tag("span", None, text, tag("span", {"class": "remedy"}, remedy) if remedy else None),
        )
        for passed, text, remedy in lines
    ]
    return tag(
        "div",
        {"class": f"banner {tone}".strip()},
        tag("p", {"class": "banner-title"}, title),
        tag("p", {"class": "banner-lead"}, lead) if lead else None,
        tag("ul", {"class": "checks"}, *items) if items else None,
    )


def facts(pairs: Iterable[tuple[str, Content]], *, spread: bool = False) -> Markup:
    """Names and values, one per line; `spread` lays them out in as many columns as fit."""
    entries = [tag("div", None, tag("dt", None, name), tag("dd", None, value)) for name, value in pairs]
    return tag("dl", {"class": "facts spread" if spread else "facts"}, *entries)


def table(heads: Sequence[str], rows: Iterable[Sequence[Content]], *, numeric: bool = True) -> Markup:
    """A small table; `numeric`: all columns but the first are set flush right."""
    kinds = ["" if index == 0 or not numeric else "number" for index in range(len(heads))]
    head = tag(
        "tr", None, *(tag("th", {"class": kind, "scope": "col"}, text) for kind, text in zip(kinds, heads, strict=True))
    )
    body = [
        tag("tr", None, *(tag("td", {"class": kind}, cell) for kind, cell in zip(kinds, row, strict=True)))
        for row in rows
    ]
    return tag(
        "div",
        {"class": "scroll"},
        tag("table", {"class": "plain"}, tag("thead", None, head), tag("tbody", None, *body)),
    )


def details(summary: str, *blocks: Content, is_open: bool = False) -> Markup:
    return tag("details", {"open": is_open}, tag("summary", None, summary), *blocks)


def badge(text: str, *, tone: Tone = "") -> Markup:
    return tag("span", {"class": f"badge {tone}".strip()}, text)


def paragraph(text: Content) -> Markup:
    return tag("p", None, text)


def funnel(steps: Sequence[tuple[str, int, str]]) -> Markup:
    """What was left of the rows after each step: (label, count, note); bar widths are shares of the first count."""
    most = max((count for _, count, _ in steps), default=0) or 1
    rows = [
        tag(
            "li",
            None,
            tag("span", {"class": "funnel-label"}, label),
            tag("span", {"class": "funnel-track"}, tag("span", {"style": f"width:{100 * count / most:.1f}%"}, "")),
            tag("span", {"class": "funnel-count"}, f"{count:,}", tag("small", None, note) if note else None),
        )
        for label, count, note in steps
    ]
    return tag("ol", {"class": "funnel"}, *rows)
