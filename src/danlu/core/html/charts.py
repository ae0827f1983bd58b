"""Charts as inline SVG, drawn by hand: lines, bars with whiskers, forest plot, stacked bars, histogram, scatter.

Colours come from the page's style sheet (class names by tone), so that one chart serves light, dark and paper. Each
says in words (`<title>`) what it shows. A unit is about a pixel: HALF suits one of two cards side by side, FULL a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from danlu.core.html.tag import Content, Tone, join, tag

HALF = 500
FULL = 1020
_ROW = 34
_LEAST = 1e-9  # finer steps than this are not drawn


@dataclass(frozen=True, slots=True)
class Series:
    """A curve of (x, y) points in order of x. `dotted` marks each point; `smooth_over` > 1 adds a running mean."""

    name: str
    points: Sequence[tuple[float, float]]
    tone: Tone = "tuned"
    dotted: bool = False
    smooth_over: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a share in [0, 1], its interval, the words at its end."""

    value: float
    low: float | None
    high: float | None
    text: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Interval:
    """A row of a forest plot: a difference, its interval and the words at the right."""

    label: str
    value: float
    low: float
    high: float
    text: str
    tone: Tone = "tuned"


@dataclass(frozen=True, slots=True)
class Point:
    """A named place: x in any unit, y a share in [0, 1] with its interval."""

    label: str
    x: float
    y: float
    low: float
    high: float
    tone: Tone = "tuned"


def legend(entries: Sequence[tuple[str, Tone]]) -> Markup:
    return tag(
        "ul", {"class": "legend"}, *(tag("li", None, tag("i", {"class": tone}, ""), name) for name, tone in entries)
    )


def bars(groups: Sequence[tuple[str, Sequence[Bar]]], *, title: str) -> Markup:
    """Horizontal bars on a scale of 0 to 1, grouped under a label; whiskers are the intervals."""
    left, right = 140.0, HALF - 62.0
    thick, gap = 17.0, 18.0
    parts: list[Content] = []
    y = 8.0
    for label, entries in groups:
        height = thick * len(entries) + 3 * (len(entries) - 1)
        parts.append(_text(left - 14, y + height / 2 + 4.5, _short(label, 16), anchor="end", full=label))
        for entry in entries:
            end = _scale(entry.value, 0, 1, left, right)
            parts.append(_rect(left, y, max(1.5, end - left), thick, entry.tone))
            edge = end
            if entry.low is not None and entry.high is not None:
                low, high = _scale(entry.low, 0, 1, left, right), _scale(entry.high, 0, 1, left, right)
                parts.append(_whisker(low, high, y + thick / 2))
                edge = max(end, high)
            parts.append(_text(edge + 9, y + thick / 2 + 4.5, entry.text, style="strong"))
            y += thick + 3
        y += gap
    grid = [
        _line(x, 2, x, y - gap + 6, "rule") for x in (_scale(s, 0, 1, left, right) for s in (0, 0.25, 0.5, 0.75, 1))
    ]
    ticks = [
        _text(_scale(s, 0, 1, left, right), y + 4, f"{100 * s:.0f}%", anchor="middle", style="dim")
        for s in (0, 0.25, 0.5, 0.75, 1)
    ]
    return _svg(title, HALF, y + 12, *grid, *parts, *ticks)


def forest(rows: Sequence[Interval], *, title: str) -> Markup:
    """Differences with intervals around a zero line."""
    left, right = 140.0, HALF - 70.0
    low = min(0.0, *(row.low for row in rows)) if rows else -1.0
    high = max(0.0, *(row.high for row in rows)) if rows else 1.0
    ticks = _ticks(low, high, 5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    bottom = 10 + _ROW * len(rows)
    parts: list[Content] = [_line(x, 4, x, bottom, "rule") for x in (_scale(t, low, high, left, right) for t in ticks)]
    zero = _scale(0, low, high, left, right)
    parts.append(_line(zero, 2, zero, bottom, "zero"))
    for index, row in enumerate(rows):
        y = 10 + _ROW * (index + 0.5)
        start, end = _scale(row.low, low, high, left, right), _scale(row.high, low, high, left, right)
        parts.append(_text(left - 14, y + 4.5, _short(row.label, 22), anchor="end", full=row.label))
        parts.append(_whisker(start, end, y))
        x = _scale(row.value, low, high, left, right)
        parts.append(tag("circle", {"cx": x, "cy": y, "r": 6, "class": f"fill-{row.tone} ring"}))
        parts.append(_text(right + 14, y + 4.5, row.text, style="strong"))
    for tick in ticks:
        x = _scale(tick, low, high, left, right)
        parts.append(
            _text(
                x, bottom + 18, f"{100 * tick:+.0f}".replace("-", "−").replace("+0", "0"), anchor="middle", style="dim"
            )
        )
    return _svg(title, HALF, bottom + 26, *parts)


def stacked(rows: Sequence[tuple[str, Sequence[tuple[float, Tone]]]], *, title: str) -> Markup:
    """Shares that add up to 1, one bar per row; a share wide enough carries its percentage."""
    left, right, thick = 84.0, HALF - 4.0, 30.0
    parts: list[Content] = []
    for index, (label, shares) in enumerate(rows):
        y = 4 + index * (thick + 14)
        parts.append(_text(left - 14, y + thick / 2 + 4.5, _short(label, 10), anchor="end", full=label))
        x = left
        for share, tone in shares:
            width = share * (right - left)
            if width <= 0:
                continue
            parts.append(_rect(x, y, max(0.5, width - 1.5), thick, tone))
            if width > 46:
                parts.append(
                    tag(
                        "text",
                        {
                            "x": x + width / 2,
                            "y": y + thick / 2 + 4.5,
                            "text-anchor": "middle",
                            "class": "strong",
                            "style": f"fill:{'#fff' if tone == 'bad' else '#14110f'}",
                        },
                        f"{100 * share:.0f}%",
                    )
                )
            x += width
    return _svg(title, HALF, 4 + len(rows) * (thick + 14), *parts)


def lines(series: Sequence[Series], *, title: str, x_label: str = "", y_label: str = "") -> Markup:
    """Curves over one axis; a dotted series shows each of its points."""
    shown = [one for one in series if one.points]
    left, right, top, bottom = 44.0, FULL - 12.0, 26.0, 300.0
    points = [point for one in shown for point in one.points if math.isfinite(point[1])]
    if not points:
        return _svg(title, FULL, 40)
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_ticks = _ticks(min(0.0, *(y for _, y in points)) if len(points) > 1 else 0.0, max(y for _, y in points), 5)
    y_low, y_high = y_ticks[0], max(y_ticks[-1], max(y for _, y in points))
    parts: list[Content] = []
    for tick in y_ticks:
        y = _scale(tick, y_low, y_high, bottom, top)
        parts += [_line(left, y, right, y, "rule"), _text(left - 9, y + 4.5, f"{tick:g}", anchor="end", style="dim")]
    for tick in _ticks(x_low, x_high, 9):
        if x_low <= tick <= x_high:
            x = _scale(tick, x_low, x_high, left, right)
            parts.append(_text(x, bottom + 20, f"{tick:g}", anchor="middle", style="dim"))
    for one in shown:
        placed = [
            (_scale(x, x_low, x_high, left, right), _scale(y, y_low, y_high, bottom, top))
            for x, y in one.points
            if math.isfinite(y)
        ]
        parts += _curve(one, placed)
    parts.append(_text(left, 13, y_label, style="dim"))
    parts.append(_text(right, bottom + 38, x_label, anchor="end", style="dim"))
    return _svg(title, FULL, bottom + 44, *parts)


def _curve(one: Series, placed: Sequence[tuple[float, float]]) -> list[Content]:
    parts: list[Content] = []
    width = one.smooth_over
    if width > 1 and len(placed) > 2 * width:
        parts.append(_path(placed, f"line faint line-{one.tone}"))
        smooth = []
        for index, (x, _) in enumerate(placed):
            near = placed[max(0, index - width // 2) : index + width // 2 + 1]
            smooth.append((x, sum(y for _, y in near) / len(near)))
        parts.append(_path(smooth, f"line line-{one.tone}"))
    else:
        parts.append(_path(placed, f"line line-{one.tone}"))
    if one.dotted:
        parts += [tag("circle", {"cx": x, "cy": y, "r": 4.5, "class": f"fill-{one.tone} ring"}) for x, y in placed]
    return parts


def histogram(
    values: Sequence[float], *, title: str, x_label: str = "", mark: tuple[float, str] | None = None, num_bins: int = 30
) -> Markup:
    """How many values fall where; `mark` draws a line with a label (a limit)."""
    left, right, top, bottom = 44.0, HALF - 12.0, 26.0, 200.0
    if not values:
        return _svg(title, HALF, 40)
    low, high = 0.0, max(max(values), mark[0] if mark else 0.0) or 1.0
    step = _nice(high / num_bins) if high > num_bins else max(high / num_bins, _LEAST)
    num = max(1, math.ceil(high / step + 1e-9))
    counts = [0] * num
    for value in values:
        counts[min(num - 1, int(value / step))] += 1
    most = max(counts)
    parts: list[Content] = []
    for tick in _ticks(0, most, 4):
        y = _scale(tick, 0, most, bottom, top)
        if y >= top - 12:
            parts += [
                _line(left, y, right, y, "rule"),
                _text(left - 9, y + 4.5, f"{tick:g}", anchor="end", style="dim"),
            ]
    width = (right - left) / num
    for index, count in enumerate(counts):
        if count:
            y = min(bottom - 1.5, _scale(count, 0, most, bottom, top))
            parts.append(_rect(left + index * width + 1, y, max(1.0, width - 2), bottom - y, "tuned"))
    end = num * step
    for tick in _ticks(low, end, 5):
        if tick <= end:
            x = _scale(tick, 0, end, left, right)
            parts.append(_text(x, bottom + 20, f"{tick:g}", anchor="middle", style="dim"))
    if mark:
        x = _scale(mark[0], 0, end, left, right)
        parts += [_line(x, 8, x, bottom, "zero"), _text(x - 7, 16, mark[1], anchor="end", style="dim")]
    parts.append(_text(right, bottom + 38, x_label, anchor="end", style="dim"))
    return _svg(title, HALF, bottom + 44, *parts)


def scatter(points: Sequence[Point], *, title: str, x_label: str = "", mark: tuple[float, str] | None = None) -> Markup:
    """Named points over a scale of shares from 0 to 1, with their intervals; `mark` draws a level with a label."""
    left, right, top, bottom = 52.0, FULL - 60.0, 16.0, 320.0
    ticks = _ticks(0.0, max((point.x for point in points), default=1.0), 6)
    parts: list[Content] = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _scale(share, 0, 1, bottom, top)
        parts.append(_line(left, y, right, y, "rule"))
        parts.append(_text(left - 9, y + 4.5, f"{100 * share:.0f}%", anchor="end", style="dim"))
    for tick in ticks:
        x = _scale(tick, ticks[0], ticks[-1], left, right)
        parts.append(_text(x, bottom + 20, f"{tick:g}", anchor="middle", style="dim"))
    if mark:
        y = _scale(mark[0], 0, 1, bottom, top)
        parts += [_line(left, y, right, y, "zero"), _text(left + 6, y - 6, mark[1], style="dim")]
    named: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point.x):
        x = _scale(point.x, ticks[0], ticks[-1], left, right)
        low, y, high = (_scale(share, 0, 1, bottom, top) for share in (point.low, point.y, point.high))
        parts.append(_path([(x, low), (x, high)], "whisker"))
        parts.append(tag("circle", {"cx": x, "cy": y, "r": 6, "class": f"fill-{point.tone} ring"}))
        while any(abs(x - beside) < 120 and abs(low - above) < 17 for beside, above in named):
            low += 17  # a name below the one that stands there
        named.append((x, low))
        parts.append(_text(x, low + 17, _short(point.label, 18), anchor="middle", style="strong", full=point.label))
    parts.append(_text(right, bottom + 38, x_label, anchor="end", style="dim"))
    return _svg(title, FULL, bottom + 44, *parts)


def _svg(title: str, width: int, height: float, *parts: Content) -> Markup:
    drawing = tag(
        "svg",
        {"viewBox": f"0 0 {width} {height:.0f}", "role": "img", "aria-label": title},
        tag("title", None, title),
        join(*parts),
    )
    return tag("div", {"class": "chart full" if width == FULL else "chart"}, drawing)


def _text(x: float, y: float, words: str, *, anchor: str = "start", style: str = "", full: str = "") -> Markup:
    tip = tag("title", None, full) if full and full != words else None
    return tag("text", {"x": x, "y": y, "text-anchor": anchor, "class": style or None}, words, tip)


def _rect(x: float, y: float, width: float, height: float, tone: Tone) -> Markup:
    return tag("rect", {"x": x, "y": y, "width": width, "height": height, "rx": 3, "class": f"fill-{tone}"})


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def _whisker(low: float, high: float, y: float) -> Markup:
    return tag(
        "path",
        {"class": "whisker", "d": f"M{low:.1f} {y - 4:.1f}v8M{low:.1f} {y:.1f}H{high:.1f}M{high:.1f} {y - 4:.1f}v8"},
    )


def _path(placed: Sequence[tuple[float, float]], style: str) -> Markup:
    return tag("path", {"class": style, "d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)})


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / ((high - low) or 1.0) * (end - start)


def _ticks(low: float, high: float, num: int) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    step = _nice((high - low or 1.0) / num)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(step, _LEAST)))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= step * 0.999), 10 * power)


def _short(label: str, most: int) -> str:
    """At most so many Latin letters wide; a Chinese character counts as two."""
    width = 0
    for index, char in enumerate(label):
        width += 2 if ord(char) > 0x2E7F else 1
        if width > most:
            return label[: index - 1] + "…"
    return label
