"""The page of `danlu compare` in a real browser: on a desk and on a phone, in both languages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from danlu.evaluation.compare import side_by_side
from danlu.evaluation.compare_html import render_comparison
from danlu.evaluation.report import Report

SCREENS = {"desk": (1280, 800), "phone": (390, 844)}
NAMES = ("客服助手@prod", "客服助手-0123abcd")


def changed(report: Report) -> Report:
    """The same questions, every third answer on the other side, and another base."""
    items = copy.deepcopy(report.items)
    for row in items[::3]:
        if "right" in row["tuned"]:
            row["tuned"]["right"] = not row["tuned"]["right"]
            row["tuned"]["answers"] = ["w" * 200 + " <script>alert(1)</script>"]
    return replace(report, items=items, footer={**report.footer, "base": "f" * 64})


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("language", ["zh", "en"])
def test_it_fits_the_screen(
    report: Report, look: Callable[..., Any], tmp_path: Path, language: Any, screen: str
) -> None:
    path = tmp_path / "compare.html"
    found = side_by_side(report, changed(report), names=NAMES)
    path.write_text(render_comparison(found, language=language), encoding="utf-8")
    width, height = SCREENS[screen]
    page = look(path, width, height)
    text = page.inner_text("body")
    assert NAMES[0] in text and NAMES[1] in text, "the sides are told apart"
    assert ("领域问题" if language == "zh" else "Domain questions") in text
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
