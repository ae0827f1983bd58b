"""Blocks and charts: escaped, well-formed, finite."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from danlu.core import html


class Balance(HTMLParser):
    """Every opened element is closed in order."""

    VOID = frozenset({"meta", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"


def check_balance(text: str) -> None:
    parser = Balance()
    parser.feed(text)
    assert parser.open == []


@given(st.text(max_size=40))
def test_plain_text_is_escaped_in_every_block(text: str) -> None:
    evil = f"<script>{text}</script>"
    blocks = [
        html.section(evil, lead=evil),
        html.card(evil, html.paragraph(evil), note=evil),
        html.stat(evil, evil, evil),
        html.banner(evil, evil, [(True, evil, evil)]),
        html.facts([(evil, evil)]),
        html.table([evil], [[evil]]),
        html.details(evil, html.badge(evil)),
        html.funnel([(evil, 3, evil)]),
        html.legend([(evil, "good")]),
        html.bars([(evil, [html.Bar(0.5, 0.1, 0.9, evil, "tuned")])], title=evil),
        html.forest([html.Interval(evil, 0.1, -0.1, 0.2, evil)], title=evil),
        html.stacked([(evil, [(1.0, "good")])], title=evil),
        html.lines([html.Series(evil, [(0, 1), (1, 0.5)])], title=evil, x_label=evil, y_label=evil),
        html.histogram([1, 2, 3], title=evil, x_label=evil, mark=(5, evil)),
        html.filter_table([evil], [html.Row((evil,), (evil,))], filters=[html.Filter(evil, evil)], search=evil, empty=evil),
    ]  # fmt: skip
    for block in blocks:
        assert isinstance(block, Markup) and "<script" not in block


def test_a_page_is_balanced_and_has_one_script() -> None:
    page = html.page(html.section("a", html.grid(html.card("b"), None)), title="t & <t>", language="en")
    check_balance(page)
    assert page.count("<script>") == 1 and "<title>t &amp; &lt;t&gt;</title>" in page


@pytest.mark.parametrize(
    "chart",
    [
        html.lines([html.Series("a", [])], title="t"),
        html.lines([html.Series("a", [(1, 2)])], title="t"),
        html.lines([html.Series("a", [(1, 2), (2, math.nan), (3, math.inf), (4, 1)], dotted=True)], title="t"),
        html.lines([html.Series("a", [(i, 0.0) for i in range(200)], smooth_over=5)], title="t"),
        html.forest([], title="t"),
        html.forest([html.Interval("a", 0.0, 0.0, 0.0, "0")], title="t"),
        html.bars([], title="t"),
        html.bars([("a", [html.Bar(0.0, None, None, "0", "base")])], title="t"),
        html.histogram([], title="t"),
        html.histogram([0, 0], title="t"),
        html.histogram([0.2, 0.3], title="t"),
        html.histogram([1, 1_000_000], title="t", mark=(5, "limit")),
        html.stacked([("a", [(0.0, "good"), (1.0, "bad")])], title="t"),
    ],
)
def test_charts_of_little_or_odd_data_are_well_formed(chart: Markup) -> None:
    assert ElementTree.fromstring(str(chart)).tag == "div"
    assert "nan" not in chart and "inf" not in chart


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
)
def test_charts_take_any_numbers(differences: list[float], values: list[float]) -> None:
    rows = [html.Interval("r", value, max(-1, value - 0.1), min(1, value + 0.1), "x") for value in differences]
    points = list(enumerate(values))
    for chart in (
        html.forest(rows, title="t"),
        html.lines([html.Series("a", points)], title="t"),
        html.histogram(values, title="t"),
    ):
        ElementTree.fromstring(str(chart))
        assert "nan" not in chart and "inf" not in chart


def test_the_filter_table_counts_its_filters() -> None:
    rows = [html.Row(("a",), ("won",)), html.Row(("b",), ("lost",)), html.Row(("c",), ("won",))]
    table = html.filter_table(["h"], rows, filters=[html.Filter("", "All"), html.Filter("won", "Won")])
    check_balance(str(table))
    assert "All <b>3</b>" in table and "Won <b>2</b>" in table


@pytest.mark.parametrize("value", [5e-324, 1e-12, 1e-6, 0.001, 1e12])
def test_axes_of_tiny_and_huge_values_end(value: float) -> None:
    for chart in (html.lines([html.Series("a", [(0, value), (1, 0)])], title="t"), html.histogram([value], title="t")):
        ElementTree.fromstring(str(chart))
        assert len(chart) < 20_000
