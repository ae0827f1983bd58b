"""Two charts of the data report that `core.html` does not have: bars of counted bins, and shares of a whole by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from markupsafe import Markup

from danlu.core import html
from danlu.core.html import tag
from danlu.data.quality.facts import Histogram
from danlu.pipeline.data_report_words import percent

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 500.0, 12.0, 488.0, 30.0, 190.0
_NUM_TICKS = 6
_SHORT = 14
_DEPTH = 3


def columns(histogram: Histogram, *, title: str, x_label: str, mark: tuple[float, str] | None = None) -> Markup:
    """One column per bin, from the first to the last that holds anything; `mark` (a value and its words) is a line, and
    what lies beyond it is red. Bins are drawn equally wide: the scale is the edges' own (logarithmic for lengths)."""
    edges, counts = histogram.edges, histogram.counts
    filled = [index for index, number in enumerate(counts) if number]
    if not filled:
        return Markup("")
    first, last = filled[0], filled[-1]
    if mark:  # the limit must be on the picture, also where nothing comes near it
        first = min(first, _bin(edges, mark[0]))
        last = max(last, _bin(edges, mark[0]))
    last = max(last, min(first + 5, len(edges) - 1))
    width = (_RIGHT - _LEFT) / (last - first + 1)
    most = max(counts)
    parts: list[html.Tone | Markup] = []
    for index in range(first, last + 1):
        if counts[index]:
            height = max(1.5, (_BOTTOM - _TOP) * counts[index] / most)
            is_beyond = mark is not None and edges[index] > mark[0]
            x = _LEFT + (index - first) * width
            until = f"{edges[index + 1]:g}" if index + 1 < len(edges) else "∞"
            tip = tag("title", None, f"{edges[index]:g} – {until}: {counts[index]:,}")
            shape: dict[str, str | int | float | bool | None] = {
                "x": x + 1,
                "y": _BOTTOM - height,
                "width": max(1.0, width - 2),
                "height": height,
                "rx": 2,
            }
            shape["class"] = f"fill-{'bad' if is_beyond else 'tuned'}"
            parts.append(tag("rect", shape, tip))
    parts.append(tag("line", {"x1": _LEFT, "y1": _BOTTOM, "x2": _RIGHT, "y2": _BOTTOM, "class": "rule"}))
    step = max(1, round((last - first + 1) / _NUM_TICKS))
    for index in range(first, last + 1, step):
        parts.append(_words(_LEFT + (index - first) * width, _BOTTOM + 20, _round(edges[index]), "start"))
    if mark:
        at = _LEFT + (_bin(edges, mark[0]) - first + _within(edges, mark[0])) * width
        is_right = at > (_LEFT + _RIGHT) / 2
        parts.append(tag("line", {"x1": at, "y1": 8, "x2": at, "y2": _BOTTOM, "class": "zero"}))
        parts.append(_words(at + (-7 if is_right else 7), 17, mark[1], "end" if is_right else "start"))
    parts.append(_words(_RIGHT, _BOTTOM + 40, x_label, "end"))
    drawing: dict[str, str | int | float | bool | None] = {
        "viewBox": f"0 0 {_WIDTH:.0f} {_BOTTOM + 46:.0f}",
        "role": "img",
        "aria-label": title,
    }
    return tag("div", {"class": "chart"}, tag("svg", drawing, tag("title", None, title), *parts))


def shares(counts: Mapping[str, int], *, most: int = 8, others: str = "…") -> Markup:
    """Names with their count, their share of the whole and a bar, the first first; the rest in one line. Long names get
    a table without bars: a bar of what is left of a narrow line says nothing."""
    total = sum(counts.values()) or 1
    shown = list(counts.items())
    rest = sum(number for _, number in shown[most:])
    steps = [(name, number, percent(number / total)) for name, number in shown[:most]]
    if rest:
        steps.append((f"{others} ({len(shown) - most})", rest, percent(rest / total)))
    if max((_letters(name) for name, _, _ in steps), default=0) <= _SHORT:
        return html.funnel(steps)
    body = [
        tag(
            "tr",
            None,
            tag("td", None, name),
            tag("td", {"class": "number"}, f"{number:,}"),
            tag("td", {"class": "number"}, share),
        )
        for name, number, share in steps
    ]
    return tag("div", {"class": "scroll"}, tag("table", {"class": "plain"}, tag("tbody", None, *body)))


def without_folder(counts: Mapping[str, int], *, whole: bool = False) -> dict[str, int]:
    """Files named from where their folders part; what is the same for all tells nothing. `whole`: at any depth."""
    names = [PurePosixPath(name).parent.parts for name in counts if "/" in name]
    shared = 0
    if len(names) > 1 or (names and len(counts) == 1):
        shared = next(
            (depth for depth, parts in enumerate(zip(*names, strict=False)) if len(set(parts)) > 1),
            min(map(len, names)),
        )
    shown: dict[str, int] = {}
    for name, number in counts.items():
        parts = PurePosixPath(name).parts[shared:] if "/" in name else (name,)
        short = "/".join(parts if whole or len(parts) <= _DEPTH else ("…", *parts[-_DEPTH:]))
        shown[short] = shown.get(short, 0) + number
    return shown


def _letters(name: str) -> int:
    """Its width in Latin letters; a Chinese character is two wide."""
    return sum(2 if ord(char) > 0x2E7F else 1 for char in name)


def _bin(edges: tuple[float, ...], value: float) -> int:
    return max((index for index, edge in enumerate(edges) if edge <= value), default=0)


def _within(edges: tuple[float, ...], value: float) -> float:
    """How far into its bin a value lies, 0 to 1."""
    index = _bin(edges, value)
    if index + 1 >= len(edges):
        return 0.5
    return min(1.0, max(0.0, (value - edges[index]) / (edges[index + 1] - edges[index])))


def _round(edge: float) -> str:
    """724 as 720, 5793 as 5.8k: an edge is a place on a scale, not a measurement."""
    if edge <= 1:
        return f"{edge:g}"
    return f"{edge / 1000:.1f}k".replace(".0k", "k") if edge >= 1000 else f"{edge:.3g}"


def _words(x: float, y: float, text: str, anchor: str) -> Markup:
    return tag("text", {"x": x, "y": y, "text-anchor": anchor, "class": "dim"}, text)
