"""One look for all reports: building blocks that make a single self-contained HTML file (no network, fonts or cookies).

Every block takes plain text and escapes it; only another block's `Markup` passes as it is.
"""

from __future__ import annotations

from danlu.core.html.blocks import (
    badge,
    banner,
    card,
    column,
    details,
    facts,
    funnel,
    grid,
    paragraph,
    section,
    stat,
    stats,
    table,
)
from danlu.core.html.charts import (
    Bar,
    Interval,
    Point,
    Series,
    bars,
    forest,
    histogram,
    legend,
    lines,
    scatter,
    stacked,
)
from danlu.core.html.filter_table import Filter, Row, filter_table
from danlu.core.html.page import page
from danlu.core.html.tag import Tone, tag

__all__ = [
    "Bar",
    "Filter",
    "Interval",
    "Point",
    "Row",
    "Series",
    "Tone",
    "badge",
    "banner",
    "bars",
    "card",
    "column",
    "details",
    "facts",
    "filter_table",
    "forest",
    "funnel",
    "grid",
    "histogram",
    "legend",
    "lines",
    "page",
    "paragraph",
    "scatter",
    "section",
    "stacked",
    "stat",
    "stats",
    "table",
    "tag",
]
